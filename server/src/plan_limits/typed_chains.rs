//! Long chains of operators such as `a + b + c` get their types written down.
//!
//! The type of an operator is worked out from those of its operands, down to the columns, and the rules of DataFusion 55.2
//! ask for it at each level: a time that grows with the square of the length, 12 s for 3,000 additions. A cast tells its
//! type without looking further. One to the type that its operand has anyway, every few operators, costs nothing later: the
//! physical planner leaves it out. Where the operators are additions and the like of plain numbers, [`super::flat_chains`]
//! does more.

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{BinaryExpr, Cast, Expr, ExprSchemable, LogicalPlan, Operator};
use datafusion::optimizer::AnalyzerRule;

use super::expressions::{any_expression, rewrite_node};

/// How many operators there are between two casts. Shorter chains stay as they are.
pub(super) const INTERVAL: usize = 32;

/// Writes the types of a plan's long chains down.
#[derive(Debug)]
pub(crate) struct TypeChains;

impl AnalyzerRule for TypeChains {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_down_with_subqueries(|node| {
            let has_long = any_expression(&node, |expression| {
                expression.exists(|part| Ok(is_long(part, is_typed)))
            })?;
            if !has_long {
                return Ok(Transformed::no(node));
            }
            rewrite_node(node, |expression, schema| {
                expression.transform_down(|part| Ok(type_chain(part, schema)))
            })
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "type_chains"
    }
}

/// Whether more than [`INTERVAL`] operators that `is_link` takes follow each other.
pub(super) fn is_long(expression: &Expr, is_link: impl Fn(Operator) -> bool) -> bool {
    let mut next = expression;
    for _ in 0..=INTERVAL {
        match next {
            Expr::BinaryExpr(BinaryExpr { left, op, .. }) if is_link(*op) => next = left,
            _ => return false,
        }
    }
    true
}

/// Chains of AND and OR are balanced, those of `||` become one call.
fn is_typed(op: Operator) -> bool {
    !matches!(op, Operator::And | Operator::Or | Operator::StringConcat)
}

/// Puts casts into the chain that begins with this expression, if it is long.
fn type_chain(expression: Expr, schema: &DFSchema) -> Transformed<Expr> {
    if !is_long(&expression, is_typed) {
        return Transformed::no(expression);
    }
    let (mut chain, steps) = steps_of(expression, is_typed);
    for (number, (op, right)) in steps.into_iter().enumerate() {
        if number % INTERVAL == INTERVAL - 1 {
            chain = typed(chain, schema);
        }
        chain = Expr::BinaryExpr(BinaryExpr::new(Box::new(chain), op, Box::new(right)));
    }
    Transformed::yes(chain)
}

/// The first operand of a chain of operators, and what is done with each of the others.
pub(crate) fn steps_of(expression: Expr, is_link: impl Fn(Operator) -> bool) -> (Expr, Vec<(Operator, Expr)>) {
    let mut next = expression;
    let mut steps = Vec::new();
    let first = loop {
        match next {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_link(op) => {
                steps.push((op, *right));
                next = *left;
            }
            first => break first,
        }
    };
    steps.reverse();
    (first, steps)
}

/// Without a type it stays as it is: what it refers to belongs to a query around this one.
fn typed(expression: Expr, schema: &DFSchema) -> Expr {
    match expression.get_type(schema) {
        Ok(data_type) => Expr::Cast(Cast::new(Box::new(expression), data_type)),
        Err(_) => expression,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::common::tree_node::TreeNodeRecursion;
    use datafusion::logical_expr::{LogicalPlanBuilder, col, lit};

    use super::*;

    fn typed_plan(operators: usize) -> (LogicalPlan, LogicalPlan) {
        let input = LogicalPlanBuilder::values(vec![vec![lit(1_i32)]]).unwrap();
        let chain = (0..operators).fold(col("column1"), |chain, number| chain + lit(number as i64));
        let plan = input.project(vec![chain]).unwrap().build().unwrap();
        let typed = TypeChains.analyze(plan.clone(), &ConfigOptions::default()).unwrap();
        (plan, typed)
    }

    fn casts(plan: &LogicalPlan) -> usize {
        let mut casts = 0;
        for expression in plan.expressions() {
            let counted = expression.apply(|part| {
                casts += usize::from(matches!(part, Expr::Cast(_)));
                Ok(TreeNodeRecursion::Continue)
            });
            counted.unwrap();
        }
        casts
    }

    #[test]
    fn long_chains_are_typed_and_keep_their_schema() {
        let (plan, typed) = typed_plan(3 * INTERVAL);
        assert_eq!(casts(&typed), 3);
        assert_eq!(plan.schema(), typed.schema());
        let (plan, typed) = typed_plan(INTERVAL);
        assert_eq!(plan, typed);
    }
}
