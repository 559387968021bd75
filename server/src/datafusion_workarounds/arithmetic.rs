//! Arithmetic that can overflow becomes calls of [`squadron_shuffle::functions::arithmetic`].
//!
//! It runs after the coercion of types, whose result says which operators compute with integers. Decimals of 128 bits are
//! called where they cannot overflow too, for their functions are faster than DataFusion's operators; those of 256 bits whose
//! result has a digit to spare stay as they are.

use datafusion::arrow::datatypes::{DECIMAL256_MAX_PRECISION, DataType};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};
use datafusion::optimizer::AnalyzerRule;
use squadron_shuffle::functions::arithmetic::{
    calculation, is_checked, is_negation_checked, is_operator_checked, negation,
};

use crate::plan_limits::expressions::rewrite_plan;
use crate::plan_limits::typed_chains::steps_of;

/// Longer chains are one call.
const MAX_NESTED_STEPS: usize = 8;

/// Replaces the operators of a plan.
#[derive(Debug)]
pub(crate) struct CheckArithmetic;

impl CheckArithmetic {
    fn replace(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
        match expression {
            Expr::BinaryExpr(BinaryExpr { op, .. }) if is_operator_checked(op) => {
                Self::replace_chain(expression, schema)
            }
            Expr::Negative(inner) => match inner.get_type(schema) {
                Ok(data_type) if is_negation_checked(&data_type) => Ok(Transformed::yes(negation(*inner))),
                _ => Ok(Transformed::no(Expr::Negative(inner))),
            },
            other => Ok(Transformed::no(other)),
        }
    }

    /// Makes calls of a chain such as `a + b - c`: where it is long one for all operators in a row that are checked, so that
    /// the expression is not deeper than it needs to be.
    fn replace_chain(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
        let (first, steps) = steps_of(expression, is_operator_checked);
        // A part without a type belongs to a query around this one, whose own plan is rewritten too.
        let mut known = first.get_type(schema).ok();
        let mut done = first;
        let mut checked = Vec::new();
        let mut is_new = false;
        for (op, right) in steps {
            let types = known.zip(right.get_type(schema).ok());
            known = types
                .as_ref()
                .and_then(|(left, right)| BinaryTypeCoercer::new(left, &op, right).get_result_type().ok());
            let may_overflow = !known.as_ref().is_some_and(has_room);
            if may_overflow && types.is_some_and(|(left, right)| is_checked(&left, &right)) {
                checked.push((op, right));
                is_new = true;
                continue;
            }
            let left = calls(done, std::mem::take(&mut checked));
            done = Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)));
        }
        Ok(Transformed::new_transformed(calls(done, checked), is_new))
    }
}

/// Calls that take `steps` from `first`. Of short chains the beginnings stay expressions of their own, which several
/// chains may have in common.
fn calls(first: Expr, steps: Vec<(Operator, Expr)>) -> Expr {
    match steps.len() {
        0..=MAX_NESTED_STEPS => steps
            .into_iter()
            .fold(first, |done, step| calculation(done, vec![step])),
        _ => calculation(first, steps),
    }
}

/// Whether every result of decimal arithmetic has the digits of its type.
fn has_room(result: &DataType) -> bool {
    matches!(result, DataType::Decimal256(precision, _) if *precision < DECIMAL256_MAX_PRECISION)
}

impl AnalyzerRule for CheckArithmetic {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        rewrite_plan(plan, |expression, schema| {
            expression.transform_down(|part| Self::replace(part, schema))
        })
    }

    fn name(&self) -> &'static str {
        "check_arithmetic"
    }
}
