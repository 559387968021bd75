//! What DataFusion 55.2's rules would change is hidden from them.
//!
//! They take a cast off a column that is compared with a literal, and look only whether the literal fits the column's type:
//! `CAST(1.01 AS DECIMAL(8, 1)) = 1.0` is then false, and `TRY_CAST(big AS INT) > 1` true for a number that is no INT
//! (apache/datafusion#24702, #14303, #23095). And they take the difference of two dates, a number of days, for a duration,
//! and fail where it is compared.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::{Cast, InList, TryCast};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};
use datafusion::optimizer::AnalyzerRule;
use squadron_shuffle::functions::held;

use crate::plan_limits::expressions::rewrite_plan;

/// Hides such casts and differences.
#[derive(Debug)]
pub(crate) struct HideFromRules;

impl AnalyzerRule for HideFromRules {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        rewrite_plan(plan, |expression, schema| {
            expression.transform_up(|part| Ok(hide(part, schema)))
        })
    }

    fn name(&self) -> &'static str {
        "hide_from_rules"
    }
}

/// What is hidden of an expression, whose parts were looked at before.
fn hide(part: Expr, schema: &DFSchema) -> Transformed<Expr> {
    match part {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if op.supports_propagation() => {
            let left = hidden(*left, schema);
            let right = hidden(*right, schema);
            let is_new = left.transformed || right.transformed;
            let comparison = BinaryExpr::new(Box::new(left.data), op, Box::new(right.data));
            Transformed::new_transformed(Expr::BinaryExpr(comparison), is_new)
        }
        Expr::BinaryExpr(BinaryExpr {
            ref left,
            op: Operator::Minus,
            ref right,
        }) if is_date(left, schema) && is_date(right, schema) => Transformed::yes(held(vec![part])),
        Expr::InList(list) => {
            let operand = hidden(*list.expr, schema);
            let expr = Box::new(operand.data);
            Transformed::new_transformed(Expr::InList(InList { expr, ..list }), operand.transformed)
        }
        other => Transformed::no(other),
    }
}

/// The side of a comparison with its narrow cast hidden, also one below casts that are safe.
fn hidden(side: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let (from, to) = match &side {
        Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field }) => {
            (expr.get_type(schema), field.data_type())
        }
        _ => return Transformed::no(side),
    };
    if from.is_ok_and(|from| is_narrower(&from, to)) {
        return Transformed::yes(held(vec![side]));
    }
    match side {
        Expr::Cast(Cast { expr, field }) => hidden(*expr, schema).update_data(|expr| {
            let expr = Box::new(expr);
            Expr::Cast(Cast { expr, field })
        }),
        Expr::TryCast(TryCast { expr, field }) => hidden(*expr, schema).update_data(|expr| {
            let expr = Box::new(expr);
            Expr::TryCast(TryCast { expr, field })
        }),
        other => Transformed::no(other),
    }
}

fn is_date(expression: &Expr, schema: &DFSchema) -> bool {
    let data_type = expression.get_type(schema);
    data_type.is_ok_and(|data_type| matches!(data_type, DataType::Date32 | DataType::Date64))
}

/// Whether a value of one numeric type may be no value of the other.
pub(super) fn is_narrower(from: &DataType, to: &DataType) -> bool {
    if !from.is_numeric() || !to.is_numeric() {
        return false;
    }
    match (digits(from), digits(to)) {
        (Some((whole, fraction, is_signed)), Some((to_whole, to_fraction, to_is_signed))) => {
            to_whole < whole || to_fraction < fraction || (is_signed && !to_is_signed)
        }
        // A float has values that no other number has.
        (None, _) => !to.is_floating() || to.primitive_width() < from.primitive_width(),
        (Some(_), None) => false,
    }
}

/// How many digits a number may have before and behind the point, and whether it has a sign. None for floats.
fn digits(data_type: &DataType) -> Option<(i16, i16, bool)> {
    Some(match data_type {
        DataType::Int8 => (3, 0, true),
        DataType::Int16 => (5, 0, true),
        DataType::Int32 => (10, 0, true),
        DataType::Int64 => (19, 0, true),
        DataType::UInt8 => (3, 0, false),
        DataType::UInt16 => (5, 0, false),
        DataType::UInt32 => (10, 0, false),
        DataType::UInt64 => (20, 0, false),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => {
            (i16::from(*precision) - i16::from(*scale), i16::from(*scale), true)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_casts_that_lose_values_are_narrow() {
        for (from, to, expected) in [
            (DataType::Int32, DataType::Int64, false),
            (DataType::Int64, DataType::Int32, true),
            (DataType::Int32, DataType::UInt64, true),
            (DataType::UInt32, DataType::Int64, false),
            (DataType::UInt64, DataType::Int64, true),
            (DataType::Decimal128(10, 2), DataType::Decimal128(12, 2), false),
            (DataType::Decimal128(10, 2), DataType::Decimal128(12, 1), true),
            (DataType::Int64, DataType::Decimal128(20, 0), false),
            (DataType::Float64, DataType::Int64, true),
            (DataType::Float64, DataType::Float32, true),
            (DataType::Float32, DataType::Float64, false),
            (DataType::Int32, DataType::Float64, false),
            (DataType::Utf8, DataType::Int32, false),
        ] {
            assert_eq!(is_narrower(&from, &to), expected, "{from} to {to}");
        }
    }
}
