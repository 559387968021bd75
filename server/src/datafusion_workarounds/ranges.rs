//! Times and decimals that are out of range are errors. DataFusion 55.2 makes another time, or NULL, of those that its
//! functions cannot tell, and another number of a text with too many digits for a decimal of 256 bits.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, lit};
use datafusion::optimizer::AnalyzerRule;
use squadron_shuffle::functions::{fit, in_range};

use crate::plan_limits::expressions::rewrite_plan;

/// Checks the arguments of such functions.
#[derive(Debug)]
pub(crate) struct CheckRanges;

impl AnalyzerRule for CheckRanges {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        rewrite_plan(plan, |expression, schema| {
            expression.transform_up(|part| Ok(checked(part, schema)))
        })
    }

    fn name(&self) -> &'static str {
        "check_ranges"
    }
}

fn checked(part: Expr, schema: &DFSchema) -> Transformed<Expr> {
    if let Some(decimal) = wide_decimal(&part, schema) {
        return Transformed::yes(decimal);
    }
    let Expr::ScalarFunction(mut call) = part else {
        return Transformed::no(part);
    };
    // Which argument is the time.
    let index = match (call.name(), call.args.len()) {
        ("to_timestamp", 1) => 0,
        ("date_bin", _) => 1,
        _ => return Transformed::no(Expr::ScalarFunction(call)),
    };
    let may_be_far = call.args.get(index).is_some_and(|time| match time.get_type(schema) {
        Ok(DataType::Timestamp(unit, _)) => unit != TimeUnit::Nanosecond,
        Ok(number) => number.is_floating(),
        Err(_) => false,
    });
    if may_be_far {
        let time = call.args.remove(index);
        let time = Expr::ScalarFunction(ScalarFunction::new_udf(in_range(), vec![time]));
        call.args.insert(index, time);
    }
    Transformed::new_transformed(Expr::ScalarFunction(call), may_be_far)
}

/// A cast of a text to a decimal of 256 bits, as a call that checks its digits.
fn wide_decimal(part: &Expr, schema: &DFSchema) -> Option<Expr> {
    let text = match part {
        Expr::Cast(cast) => cast.expr.as_ref(),
        Expr::ScalarFunction(call) if call.name() == "arrow_cast" => call.args.first()?,
        _ => return None,
    };
    let to = part.get_type(schema).ok()?;
    if !matches!(to, DataType::Decimal256(..)) || !text.get_type(schema).ok()?.is_string() {
        return None;
    }
    let to = lit(ScalarValue::try_from(&to).ok()?);
    let call = ScalarFunction::new_udf(fit(), vec![text.clone(), to]);
    Some(Expr::ScalarFunction(call))
}
