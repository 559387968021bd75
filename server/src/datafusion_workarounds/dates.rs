//! `DATE ± INTERVAL` that has hours, and comparisons with years that no number of nanoseconds reaches.
//!
//! DataFusion 55.2 gives a date, and drops the time (apache/datafusion#19527). PostgreSQL and DuckDB give a timestamp; here
//! the result is one where the interval is not known to be of whole days, so that `DATE '1998-12-01' - INTERVAL '90' DAY`
//! stays a date, which files are pruned by.
//!
//! It compares timestamps and dates with times that are written down as numbers of nanoseconds, which end in the year 2262:
//! `t < '9999-12-31'` is an error, and so is a date of that year in a file. Here those are compared in microseconds.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, cast, lit};
use datafusion::optimizer::AnalyzerRule;
use squadron_shuffle::functions::held;

use super::floats::is_comparison;
use crate::plan_limits::expressions::{rewrite_node, rewrite_types};

/// Makes timestamps of dates that intervals with hours are added to.
#[derive(Debug)]
pub(crate) struct TimesOfDates;

impl AnalyzerRule for TimesOfDates {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        rewrite_types(plan, |node| {
            rewrite_node(node, |expression, schema| {
                expression.transform_up(|part| {
                    let part = with_time(part, schema);
                    part.transform_data(|part| Ok(in_microseconds(part, schema)))
                })
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

/// Comparisons of what is no number of nanoseconds with times that are written down.
fn in_microseconds(part: Expr, schema: &DFSchema) -> Transformed<Expr> {
    match part {
        Expr::BinaryExpr(BinaryExpr {
            mut left,
            op,
            mut right,
        }) if is_comparison(op) => {
            let is_new = compare_in_microseconds(&mut left, &mut [right.as_mut()], schema)
                || compare_in_microseconds(&mut right, &mut [left.as_mut()], schema);
            Transformed::new_transformed(Expr::BinaryExpr(BinaryExpr { left, op, right }), is_new)
        }
        Expr::Between(mut between) => {
            let bounds = &mut [between.low.as_mut(), between.high.as_mut()];
            let is_new = compare_in_microseconds(&mut between.expr, bounds, schema);
            Transformed::new_transformed(Expr::Between(between), is_new)
        }
        Expr::InList(mut list) => {
            let mut items: Vec<_> = list.list.iter_mut().collect();
            let is_new = compare_in_microseconds(&mut list.expr, &mut items, schema);
            Transformed::new_transformed(Expr::InList(list), is_new)
        }
        other => Transformed::no(other),
    }
}

/// Casts `value` and the times it is compared with to microseconds; to nanoseconds where such a time needs them.
fn compare_in_microseconds(value: &mut Expr, times: &mut [&mut Expr], schema: &DFSchema) -> bool {
    let Ok(data_type) = value.get_type(schema) else {
        return false;
    };
    let zone = match &data_type {
        DataType::Timestamp(TimeUnit::Nanosecond, _) => return false,
        DataType::Timestamp(_, zone) => zone.clone(),
        DataType::Date32 | DataType::Date64 => None,
        _ => return false,
    };
    let written: Option<Vec<_>> = times.iter().map(|time| written(time, &data_type)).collect();
    let Some(written) = written else {
        return false;
    };
    let unit = match written.iter().any(|text| fraction_digits(text) > 6) {
        true => TimeUnit::Nanosecond,
        false => TimeUnit::Microsecond,
    };
    let common = DataType::Timestamp(unit, zone);
    let is_finer = written.iter().any(|text| is_finer(text, &data_type));
    for (time, text) in times.iter_mut().zip(written) {
        **time = cast(lit(text), common.clone());
    }
    if data_type != common {
        let wide = cast(std::mem::take(value), common);
        // DataFusion takes the cast off, and what the value cannot have off the time with it.
        *value = match is_finer {
            true => held(vec![wide]),
            false => wide,
        };
    }
    true
}

/// The digits of a second's fraction.
fn fraction_digits(time: &str) -> usize {
    let fraction = time.rsplit_once('.').map_or("", |(_, fraction)| fraction);
    fraction.bytes().take_while(u8::is_ascii_digit).count()
}

/// Whether the time has parts that no value of the type has.
fn is_finer(time: &str, data_type: &DataType) -> bool {
    match data_type {
        DataType::Date32 | DataType::Date64 => time.contains(':'),
        DataType::Timestamp(TimeUnit::Second, _) => fraction_digits(time) > 0,
        DataType::Timestamp(TimeUnit::Millisecond, _) => fraction_digits(time) > 3,
        _ => fraction_digits(time) > 6,
    }
}

/// The text of a time that is written down, which DataFusion compares with values of a type in nanoseconds.
fn written(time: &Expr, compared: &DataType) -> Option<String> {
    let text = |time: &Expr| match time {
        Expr::Literal(value, _) => value.try_as_str().flatten().map(str::to_owned),
        _ => None,
    };
    let is_local = matches!(compared, DataType::Timestamp(_, None));
    let is_date = matches!(compared, DataType::Date32 | DataType::Date64);
    match time {
        Expr::Cast(Cast { expr, field }) => match field.data_type() {
            DataType::Timestamp(TimeUnit::Nanosecond, None) if is_local || is_date => text(expr),
            DataType::Date32 if is_local => text(expr),
            _ => None,
        },
        _ if is_date => None,
        plain => text(plain),
    }
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
