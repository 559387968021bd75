//! Functions in place of DataFusion's: checked arithmetic and sums, and bounds for values that can be much larger than
//! their arguments.
//!
//! ```text
//! repeat(x, n) ── Bounded ── size of the values, from the arguments ──> too large: an error, before anything is made
//!                                                                 `───> the memory pool is asked for all of them
//! ```
//!
//! DataFusion makes what it is asked for: `repeat('x', 2000000000)` takes 2 GB of a process whose pool knows nothing of
//! it, in the server too, where constants are folded. A value larger than the limit is an error, and the values of a
//! batch are charged to the memory pool while they are made.

mod arguments;
pub mod arithmetic;
mod canonical;
mod clean;
mod decimals;
mod extremes;
mod fit;
mod growth;
mod hold;
mod in_range;
mod join_texts;
pub mod like;
mod nearest;
mod regexp;
mod row_key;
mod same;
mod single_value;
mod sliding;
mod sum;
#[cfg(test)]
mod tests;
mod written;
mod zones;

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, resources_datafusion_err};
use datafusion::config::ConfigOptions;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool};
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ExpressionPlacement, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature,
};

use self::arithmetic::{Checked, Negate};
pub use self::canonical::{canonical, has_floats};
pub use self::clean::{clean, hides_required, may_hide};
use self::extremes::extremes;
pub use self::fit::{fit, wide};
use self::growth::{GROWING, Growth};
use self::hold::hold;
pub use self::hold::{held, value_held};
pub use self::in_range::{in_range, within_day};
pub use self::join_texts::JOIN_TEXTS;
use self::join_texts::JoinTexts;
pub use self::nearest::nearest;
pub use self::row_key::row_key;
pub use self::single_value::single_value;
use self::sliding::{SLIDING, sliding};
use self::sum::checked_sum;
pub use self::written::{WRITTEN, written};
pub use self::zones::{AT_TIME_ZONE, at_time_zone, in_zone, start_of_minute};

/// Replaces functions of `registry` by checked and bounded ones of the same names, and adds [`JOIN_TEXTS`] and
/// [`arithmetic`].
///
/// # Errors
/// None unless the registry takes no functions.
pub fn register(registry: &mut dyn FunctionRegistry, max_value_bytes: u64, pool: &Arc<dyn MemoryPool>) -> Result<()> {
    let bounded = |inner: &Arc<dyn ScalarUDFImpl>, growth| Bounded {
        inner: Arc::clone(inner),
        growth,
        max_value_bytes,
        pool: Arc::clone(pool),
    };
    for (name, growth) in GROWING {
        if let Ok(function) = registry.udf(name) {
            let function = bounded(function.inner(), growth);
            registry.register_udf(Arc::new(ScalarUDF::new_from_impl(function)))?;
        }
    }
    let join: Arc<dyn ScalarUDFImpl> = Arc::new(JoinTexts::default());
    registry.register_udf(Arc::new(ScalarUDF::new_from_impl(bounded(&join, Growth::Concat))))?;
    for checked in Checked::all() {
        registry.register_udf(Arc::new(ScalarUDF::new_from_impl(checked)))?;
    }
    registry.register_udf(Arc::new(ScalarUDF::new_from_impl(Negate::default())))?;
    registry.register_udaf(Arc::new(checked_sum()))?;
    registry.register_udf(hold())?;
    registry.register_udf(canonical())?;
    registry.register_udf(clean())?;
    registry.register_udf(fit())?;
    registry.register_udf(in_range())?;
    registry.register_udf(like::like())?;
    registry.register_udf(within_day())?;
    registry.register_udf(at_time_zone())?;
    registry.register_udf(in_zone())?;
    registry.register_udf(nearest())?;
    registry.register_udf(row_key())?;
    registry.register_udf(start_of_minute())?;
    registry.register_udf(written())?;
    for extreme in extremes() {
        registry.register_udaf(Arc::new(extreme))?;
    }
    registry.register_udaf(single_value())?;
    for name in SLIDING {
        if let Ok(function) = registry.udaf(name) {
            registry.register_udaf(Arc::new(sliding(function)))?;
        }
    }
    Ok(())
}

/// The field of a function that is NULL only where an argument is.
fn strict_field(
    name: &str,
    args: &ReturnFieldArgs,
    return_type: impl FnOnce(&[DataType]) -> Result<DataType>,
) -> Result<FieldRef> {
    let types: Vec<_> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
    let is_nullable = args.arg_fields.iter().any(|field| field.is_nullable());
    Ok(Arc::new(Field::new(name, return_type(&types)?, is_nullable)))
}

/// A function that makes no larger values than it may.
#[derive(Debug)]
struct Bounded {
    inner: Arc<dyn ScalarUDFImpl>,
    growth: Growth,
    max_value_bytes: u64,
    pool: Arc<dyn MemoryPool>,
}

impl Bounded {
    fn refuse_large_value(&self, bytes: u64) -> Result<()> {
        if bytes <= self.max_value_bytes {
            return Ok(());
        }
        Err(resources_datafusion_err!(
            "{} would make a value of {bytes} bytes, more than --max-value-bytes ({} bytes)",
            self.inner.name(),
            self.max_value_bytes
        ))
    }
}

impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        self.inner.dyn_eq(other.inner.as_ref() as &dyn std::any::Any) && self.max_value_bytes == other.max_value_bytes
    }
}

impl Eq for Bounded {}

impl Hash for Bounded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.dyn_hash(state);
    }
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let updated = self.inner.with_updated_config(config)?;
        Some(ScalarUDF::new_from_impl(Self {
            inner: Arc::clone(updated.inner()),
            growth: self.growth,
            max_value_bytes: self.max_value_bytes,
            pool: Arc::clone(&self.pool),
        }))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn is_strict(&self) -> bool {
        self.inner.is_strict()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let sizes = self.growth.sizes(&args)?;
        self.refuse_large_value(sizes.largest)?;
        let consumer = MemoryConsumer::new(format!("values of {}", self.inner.name()));
        let charged = consumer.register(&self.pool);
        charged.try_grow(usize::try_from(sizes.total).unwrap_or(usize::MAX))?;
        self.inner.invoke_with_args(args)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.inner.simplify(args, info)
    }

    fn short_circuits(&self) -> bool {
        self.inner.short_circuits()
    }

    fn conditional_arguments<'a>(&self, args: &'a [Expr]) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.inner.conditional_arguments(args)
    }

    fn evaluate_bounds(&self, input: &[&Interval]) -> Result<Interval> {
        self.inner.evaluate_bounds(input)
    }

    fn propagate_constraints(&self, interval: &Interval, inputs: &[&Interval]) -> Result<Option<Vec<Interval>>> {
        self.inner.propagate_constraints(interval, inputs)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.inner.output_ordering(inputs)
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.inner.preserves_lex_ordering(inputs)
    }

    fn strictly_order_preserving(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.inner.strictly_order_preserving(inputs)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arg_types)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        self.inner.placement(args)
    }
}
