//! Values that DataFusion 55.2 computes otherwise than PostgreSQL and DuckDB do.
//!
//! | expression | in DataFusion | here |
//! |---|---|---|
//! | `2.7::int` | 2: the fraction is cut off | 3: the nearest; of two the even one for floats, and the one further from zero for decimals |
//! | `'23:59:60'::time` | a time that cannot be shown | an error, and NULL for TRY_CAST |
//! | `date_trunc('minute', t)` in a zone whose offset has seconds | no full local minute | the local minute |
//! | `make_array(n)` of a column that is only NULL | an internal error (apache/datafusion#21841) | a NULL in each row's list |

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, new_null_array};
use datafusion::arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::{Cast, ScalarFunction, TryCast};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, ScalarUDF, cast, lit};
use datafusion::optimizer::AnalyzerRule;
use squadron_shuffle::functions::{in_range, nearest, start_of_minute, within_day};

use super::zones::has_changes;
use crate::plan_limits::expressions::rewrite_plan;

/// Rewrites such expressions.
#[derive(Debug)]
pub(crate) struct ComputeValues;

impl AnalyzerRule for ComputeValues {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        rewrite_plan(plan, |expression, schema| {
            expression.transform_up(|part| computed(part, schema))
        })
    }

    fn name(&self) -> &'static str {
        "compute_values"
    }
}

fn computed(part: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match part {
        Expr::Cast(Cast { expr, field }) => {
            let again = |expr, field| Expr::Cast(Cast { expr, field });
            cast_of(*expr, field, again, in_range, schema)
        }
        Expr::TryCast(TryCast { expr, field }) => {
            let again = |expr, field| Expr::TryCast(TryCast { expr, field });
            cast_of(*expr, field, again, within_day, schema)
        }
        Expr::ScalarFunction(function) => match (function.name(), function.args.as_slice()) {
            ("date_trunc", [unit, time]) if is_minute(unit) && is_in_zone_with_changes(time, schema)? => {
                Ok(Transformed::yes(call(start_of_minute(), time.clone())))
            }
            ("make_array", items) if has_null_column(items, schema)? => {
                let nulls: ArrayRef = new_null_array(&DataType::Null, items.len());
                let list = SingleRowListArrayBuilder::new(nulls).build_list_scalar();
                Ok(Transformed::yes(lit(list)))
            }
            _ => Ok(Transformed::no(Expr::ScalarFunction(function))),
        },
        other => Ok(Transformed::no(other)),
    }
}

/// The cast of a value that is rounded where that matters; of a text to a time with `check` around it.
fn cast_of(
    value: Expr,
    field: FieldRef,
    again: impl FnOnce(Box<Expr>, FieldRef) -> Expr,
    check: fn() -> Arc<ScalarUDF>,
    schema: &DFSchema,
) -> Result<Transformed<Expr>> {
    let from = value.get_type(schema)?;
    let is_time = is_text_as_time(&from, field.data_type());
    let rounded = rounded(value, &from, field.data_type());
    let cast = rounded.update_data(|value| again(Box::new(value), field));
    Ok(match is_time {
        true => Transformed::yes(call(check(), cast.data)),
        false => cast,
    })
}

fn call(function: Arc<ScalarUDF>, argument: Expr) -> Expr {
    Expr::ScalarFunction(ScalarFunction::new_udf(function, vec![argument]))
}

/// The number without a fraction, if it may have one and an integer is made of it.
fn rounded(number: Expr, from: &DataType, to: &DataType) -> Transformed<Expr> {
    if !to.is_integer() {
        return Transformed::no(number);
    }
    match from {
        DataType::Float32 | DataType::Float64 => Transformed::yes(match decimal_literal(&number) {
            Some(rounded) => lit(rounded),
            None => call(nearest(), number),
        }),
        DataType::Decimal32(precision, scale @ 1..)
        | DataType::Decimal64(precision, scale @ 1..)
        | DataType::Decimal128(precision, scale @ 1..) => {
            let digits = whole_digits(*precision, *scale).min(DECIMAL128_MAX_PRECISION);
            Transformed::yes(cast(number, DataType::Decimal128(digits, 0)))
        }
        DataType::Decimal256(precision, scale @ 1..) => {
            let digits = whole_digits(*precision, *scale);
            Transformed::yes(cast(number, DataType::Decimal256(digits, 0)))
        }
        _ => Transformed::no(number),
    }
}

/// A number that is written down is a decimal, of whose halves the one further from zero is the nearest.
fn decimal_literal(number: &Expr) -> Option<f64> {
    match number {
        Expr::Literal(ScalarValue::Float64(Some(number)), _) => Some(number.round()),
        Expr::Negative(number) => decimal_literal(number).map(|number| -number),
        _ => None,
    }
}

/// The digits before the point, with the one that 9.9 gains.
fn whole_digits(precision: u8, scale: i8) -> u8 {
    precision.saturating_sub(scale.unsigned_abs()) + 1
}

fn is_text_as_time(from: &DataType, to: &DataType) -> bool {
    from.is_string() && matches!(to, DataType::Time32(_) | DataType::Time64(_))
}

fn is_minute(unit: &Expr) -> bool {
    let text = match unit {
        Expr::Literal(value, _) => value.try_as_str().flatten(),
        _ => None,
    };
    text.is_some_and(|text| text.eq_ignore_ascii_case("minute"))
}

fn is_in_zone_with_changes(time: &Expr, schema: &DFSchema) -> Result<bool> {
    Ok(matches!(time.get_type(schema)?, DataType::Timestamp(_, Some(zone)) if has_changes(&zone)))
}

/// Whether all items are NULL by their type, and some of them differ in their number between batches.
fn has_null_column(items: &[Expr], schema: &DFSchema) -> Result<bool> {
    let mut has_column = false;
    for item in items {
        if item.get_type(schema)? != DataType::Null {
            return Ok(false);
        }
        has_column |= !matches!(item, Expr::Literal(..));
    }
    Ok(has_column)
}
