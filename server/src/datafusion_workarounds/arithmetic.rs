//! Arithmetic that can overflow becomes calls of [`squadron_shuffle::functions::arithmetic`].
//!
//! It runs after the coercion of types, whose result says which operators compute with integers. Decimals whose result has a
//! digit to spare cannot overflow, and stay as they are.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::config::ConfigOptions;
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, ScalarUDF, lit};
use datafusion::optimizer::AnalyzerRule;
use squadron_shuffle::functions::arithmetic::{CALCULATE, NEGATE, checked_name, is_checked, is_negation_checked};

use crate::plan_limits::expressions::rewrite_plan;

/// Longer chains are one call.
const MAX_NESTED_STEPS: usize = 8;

/// Replaces the operators of a plan.
#[derive(Debug)]
pub(crate) struct CheckArithmetic {
    add: Arc<ScalarUDF>,
    subtract: Arc<ScalarUDF>,
    multiply: Arc<ScalarUDF>,
    calculate: Arc<ScalarUDF>,
    negate: Arc<ScalarUDF>,
}

impl CheckArithmetic {
    /// The rule with the functions of `state`.
    ///
    /// # Errors
    /// When they are not registered.
    pub(crate) fn new(state: &SessionState) -> Result<Self> {
        let function = |operator| state.udf(checked_name(operator).unwrap_or_default());
        Ok(Self {
            add: function(Operator::Plus)?,
            subtract: function(Operator::Minus)?,
            multiply: function(Operator::Multiply)?,
            calculate: state.udf(CALCULATE)?,
            negate: state.udf(NEGATE)?,
        })
    }

    fn replace(&self, expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
        match expression {
            Expr::BinaryExpr(BinaryExpr { op, .. }) if checked_name(op).is_some() => {
                self.replace_chain(expression, schema)
            }
            Expr::Negative(inner) => match inner.get_type(schema) {
                Ok(data_type) if is_negation_checked(&data_type) => {
                    Ok(Transformed::yes(call(&self.negate, vec![*inner])))
                }
                _ => Ok(Transformed::no(Expr::Negative(inner))),
            },
            other => Ok(Transformed::no(other)),
        }
    }

    /// Makes calls of a chain such as `a + b - c`: where it is long one for all operators in a row that are checked, so that
    /// the expression is not deeper than it needs to be.
    fn replace_chain(&self, expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
        let (first, steps) = steps_of(expression);
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
            let left = self.checked(done, std::mem::take(&mut checked));
            done = Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)));
        }
        Ok(Transformed::new_transformed(self.checked(done, checked), is_new))
    }

    /// Calls that take `steps` from `first`. Of short chains the beginnings stay expressions of their own, which several
    /// chains may have in common.
    fn checked(&self, first: Expr, steps: Vec<(Operator, Expr)>) -> Expr {
        match steps.len() {
            0..=MAX_NESTED_STEPS => steps
                .into_iter()
                .fold(first, |done, step| self.one_call(done, vec![step])),
            _ => self.one_call(first, steps),
        }
    }

    /// One call for all of `steps`.
    fn one_call(&self, first: Expr, steps: Vec<(Operator, Expr)>) -> Expr {
        let Some((op, _)) = steps.first() else {
            return first;
        };
        let function = match op {
            _ if steps.iter().any(|(other, _)| other != op) => {
                let operators: String = steps.iter().map(|(op, _)| op.to_string()).collect();
                let operands = steps.into_iter().map(|(_, operand)| operand);
                let args = [lit(operators), first].into_iter().chain(operands);
                return call(&self.calculate, args.collect());
            }
            Operator::Plus => &self.add,
            Operator::Minus => &self.subtract,
            _ => &self.multiply,
        };
        let operands = steps.into_iter().map(|(_, operand)| operand);
        call(function, [first].into_iter().chain(operands).collect())
    }
}

/// Whether every result of decimal arithmetic has the digits of its type.
fn has_room(result: &DataType) -> bool {
    match result {
        DataType::Decimal128(precision, _) => *precision < DECIMAL128_MAX_PRECISION,
        DataType::Decimal256(precision, _) => *precision < DECIMAL256_MAX_PRECISION,
        _ => false,
    }
}

/// The first operand of a chain, and what is done with each of the others.
fn steps_of(expression: Expr) -> (Expr, Vec<(Operator, Expr)>) {
    let mut next = expression;
    let mut steps = Vec::new();
    let first = loop {
        match next {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if checked_name(op).is_some() => {
                steps.push((op, *right));
                next = *left;
            }
            first => break first,
        }
    };
    steps.reverse();
    (first, steps)
}

fn call(function: &Arc<ScalarUDF>, args: Vec<Expr>) -> Expr {
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(function), args))
}

impl AnalyzerRule for CheckArithmetic {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        rewrite_plan(plan, |expression, schema| {
            expression.transform_down(|part| self.replace(part, schema))
        })
    }

    fn name(&self) -> &'static str {
        "check_arithmetic"
    }
}
