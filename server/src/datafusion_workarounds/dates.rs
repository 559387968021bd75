//! `DATE ± INTERVAL` that has hours.
//!
//! DataFusion 55.2 gives a date, and drops the time (apache/datafusion#19527). PostgreSQL and DuckDB give a timestamp; here
//! the result is one where the interval is not known to be of whole days, so that `DATE '1998-12-01' - INTERVAL '90' DAY`
//! stays a date, which files are pruned by.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, cast};
use datafusion::optimizer::AnalyzerRule;

use crate::plan_limits::expressions::{rewrite_node, rewrite_types};

/// Makes timestamps of dates that intervals with hours are added to.
#[derive(Debug)]
pub(crate) struct TimesOfDates;

impl AnalyzerRule for TimesOfDates {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        rewrite_types(plan, |node| {
            rewrite_node(node, |expression, schema| {
                expression.transform_up(|part| Ok(with_time(part, schema)))
            })
        })
    }

    fn name(&self) -> &'static str {
        "times_of_dates"
    }
}

fn with_time(part: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = part else {
        return Transformed::no(part);
    };
    let is = |side: &Expr, is: fn(&DataType) -> bool| side.get_type(schema).is_ok_and(|data_type| is(&data_type));
    let is_date = |data_type: &DataType| matches!(data_type, DataType::Date32 | DataType::Date64);
    let is_interval = |data_type: &DataType| matches!(data_type, DataType::Interval(_) | DataType::Duration(_));
    let is_sum = matches!(op, Operator::Plus | Operator::Minus);
    let to_time = |date: Box<Expr>| Box::new(cast(*date, DataType::Timestamp(TimeUnit::Microsecond, None)));
    let (left, right, is_new) = match is_sum {
        true if is(&left, is_date) && is(&right, is_interval) && !is_of_days(&right) => (to_time(left), right, true),
        true if is(&right, is_date) && is(&left, is_interval) && !is_of_days(&left) => (left, to_time(right), true),
        _ => (left, right, false),
    };
    Transformed::new_transformed(Expr::BinaryExpr(BinaryExpr::new(left, op, right)), is_new)
}

/// Whether the interval is written down and has no hours.
fn is_of_days(interval: &Expr) -> bool {
    match interval {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) => interval.nanoseconds == 0,
        Expr::Literal(ScalarValue::IntervalYearMonth(_), _) => true,
        Expr::Literal(ScalarValue::IntervalDayTime(Some(interval)), _) => interval.milliseconds == 0,
        Expr::Literal(value, _) => value.is_null(),
        Expr::Negative(inner) => is_of_days(inner),
        _ => false,
    }
}
