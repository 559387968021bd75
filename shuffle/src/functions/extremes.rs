//! `min` and `max` of floats in groups, for which NaN is the greatest.
//!
//! DataFusion 55.2 begins with the greatest finite number instead of infinity, and what it says of NaN depends on the
//! order of rows (apache/datafusion#24432). Without groups, and for other types, it is right.

use std::sync::Arc;

use datafusion::arrow::datatypes::FieldRef;
use datafusion::arrow::datatypes::{DataType, Float32Type, Float64Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, GroupsAccumulator, ReversedUDAF, SetMonotonicity,
    Signature, StatisticsArgs,
};
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::prim_op::PrimitiveGroupsAccumulator;

/// The functions in place of DataFusion's of the same names.
pub(super) fn extremes() -> [AggregateUDF; 2] {
    [min_udaf(), max_udaf()].map(|inner| AggregateUDF::new_from_impl(Extreme { inner }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Extreme {
    inner: Arc<AggregateUDF>,
}

impl Extreme {
    fn is_max(&self) -> bool {
        self.inner.name() == "max"
    }
}

/// Whether one number is below another, of which NaN is the greatest.
fn is_below<T: PartialOrd + Copy>(left: T, right: T, is_nan: fn(T) -> bool) -> bool {
    !is_nan(left) && (is_nan(right) || left < right)
}

impl AggregateUDFImpl for Extreme {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.inner.inner().state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.inner.inner().groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        macro_rules! extreme {
            ($type:ty, $native:ty) => {{
                let data_type = args.return_field.data_type();
                let is_nan: fn($native) -> bool = <$native>::is_nan;
                Ok(match self.is_max() {
                    true => Box::new(
                        PrimitiveGroupsAccumulator::<$type, _>::new(data_type, move |known, value| {
                            if is_below(*known, value, is_nan) {
                                *known = value;
                            }
                        })
                        .with_starting_value(<$native>::NEG_INFINITY),
                    ),
                    false => Box::new(
                        PrimitiveGroupsAccumulator::<$type, _>::new(data_type, move |known, value| {
                            if is_below(value, *known, is_nan) {
                                *known = value;
                            }
                        })
                        .with_starting_value(<$native>::NAN),
                    ),
                })
            }};
        }
        match args.return_field.data_type() {
            DataType::Float64 => extreme!(Float64Type, f64),
            DataType::Float32 => extreme!(Float32Type, f32),
            _ => self.inner.inner().create_groups_accumulator(args),
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.inner().create_sliding_accumulator(args)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn is_descending(&self) -> Option<bool> {
        self.inner.is_descending()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn value_from_stats(&self, statistics: &StatisticsArgs) -> Option<ScalarValue> {
        self.inner.value_from_stats(statistics)
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.inner().set_monotonicity(data_type)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_is_the_greatest_number() {
        let is_below = |left: f64, right| is_below(left, right, f64::is_nan);
        assert!(is_below(f64::INFINITY, f64::NAN));
        assert!(!is_below(f64::NAN, f64::INFINITY));
        assert!(!is_below(f64::NAN, -f64::NAN));
        assert!(is_below(f64::NEG_INFINITY, f64::MIN));
        assert!(!is_below(-0.0, 0.0));
    }
}
