//! Chains of `||` become one call of a function that is bounded and charged.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, ScalarUDF};
use datafusion::optimizer::AnalyzerRule;

use super::expressions::rewrite_plan;

/// Runs after the coercion of types, which makes those of a chain equal.
#[derive(Debug)]
pub(crate) struct BoundConcatenation {
    /// [`squadron_shuffle::functions::JOIN_TEXTS`].
    pub(crate) function: Arc<ScalarUDF>,
}

impl AnalyzerRule for BoundConcatenation {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        rewrite_plan(plan, |expression, schema| {
            expression.transform_down(|part| self.replace(part, schema))
        })
    }

    fn name(&self) -> &'static str {
        "bound_concatenation"
    }
}

impl BoundConcatenation {
    /// Replaces the chain that begins with this expression, if all its parts are texts of one type.
    fn replace(&self, expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
        if !is_concatenation(&expression) {
            return Ok(Transformed::no(expression));
        }
        let mut parts = Vec::new();
        let mut open = vec![&expression];
        while let Some(next) = open.pop() {
            match next {
                Expr::BinaryExpr(BinaryExpr {
                    left,
                    op: Operator::StringConcat,
                    right,
                }) => open.extend([right.as_ref(), left.as_ref()]),
                part => parts.push(part),
            }
        }
        let types = parts
            .iter()
            .map(|part| part.get_type(schema))
            .collect::<Result<Vec<_>>>();
        // A part without a type belongs to a query around this one; the operator does what it always did.
        let are_texts = types.is_ok_and(|types| types[0].is_string() && types.iter().all(|other| *other == types[0]));
        if !are_texts {
            return Ok(Transformed::no(expression));
        }
        let parts = parts.into_iter().cloned().collect();
        let call = ScalarFunction::new_udf(Arc::clone(&self.function), parts);
        Ok(Transformed::yes(Expr::ScalarFunction(call)))
    }
}

fn is_concatenation(expression: &Expr) -> bool {
    matches!(
        expression,
        Expr::BinaryExpr(BinaryExpr {
            op: Operator::StringConcat,
            ..
        })
    )
}
