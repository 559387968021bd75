//! Long chains of AND and OR become balanced trees.
//!
//! The parser, and every rule that puts conditions together, makes a chain as deep as it is long. Rules that look at an
//! expression's type or parts at each level then take a time that grows with the square of the length: minutes for
//! 5,000 conditions. AND and OR are associative, also for NULL, and the order in which conditions are evaluated stays.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator};
use datafusion::optimizer::{AnalyzerRule, OptimizerConfig, OptimizerRule};

use crate::plan_limits::expressions::rewrite_named;

/// Shorter chains stay as they are.
const MIN_CONDITIONS: usize = 16;

/// Balances the chains of a plan.
#[derive(Debug)]
pub(crate) struct BalanceChains;

const NAME: &str = "balance_chains";

impl AnalyzerRule for BalanceChains {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        balance_plan(plan).data()
    }

    fn name(&self) -> &str {
        NAME
    }
}

impl OptimizerRule for BalanceChains {
    fn name(&self) -> &str {
        NAME
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        balance_plan(plan)
    }
}

/// `rules` with balanced chains before each that works on expressions level by level.
pub(crate) fn balanced(rules: Vec<Arc<dyn OptimizerRule + Send + Sync>>) -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    const LEVEL_BY_LEVEL: [&str; 3] = [
        "simplify_expressions",
        "common_sub_expression_eliminate",
        "push_down_filter",
    ];
    let rules = rules.into_iter().flat_map(|rule| {
        let is_affected = LEVEL_BY_LEVEL.contains(&rule.name());
        let before = is_affected.then(|| Arc::new(BalanceChains) as Arc<dyn OptimizerRule + Send + Sync>);
        before.into_iter().chain([rule])
    });
    rules.collect()
}

fn balance_plan(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    plan.transform_down_with_subqueries(|node| {
        rewrite_named(node, |expression| expression.transform_down(|part| Ok(balance(part))))
    })
}

/// Balances the chain that begins with this expression.
fn balance(expression: Expr) -> Transformed<Expr> {
    let Expr::BinaryExpr(BinaryExpr { op, .. }) = &expression else {
        return Transformed::no(expression);
    };
    let op = *op;
    if !matches!(op, Operator::And | Operator::Or) {
        return Transformed::no(expression);
    }
    let (conditions, depth) = measure(&expression, op);
    let is_balanced = depth <= 2 * conditions.ilog2() as usize + 1;
    if conditions < MIN_CONDITIONS || is_balanced {
        return Transformed::no(expression);
    }
    Transformed::yes(tree(conditions_of(expression, op), op))
}

/// How many conditions the chain has, and how deep it is.
fn measure(chain: &Expr, op: Operator) -> (usize, usize) {
    let (mut conditions, mut deepest) = (0, 0);
    let mut open = vec![(chain, 0)];
    while let Some((expression, depth)) = open.pop() {
        match expression {
            Expr::BinaryExpr(binary) if binary.op == op => {
                open.extend([(binary.right.as_ref(), depth + 1), (binary.left.as_ref(), depth + 1)]);
            }
            _ => {
                conditions += 1;
                deepest = deepest.max(depth);
            }
        }
    }
    (conditions, deepest)
}

/// The conditions of the chain, from left to right.
pub(super) fn conditions_of(chain: Expr, op: Operator) -> Vec<Expr> {
    let mut conditions = Vec::new();
    let mut open = vec![chain];
    while let Some(expression) = open.pop() {
        match expression {
            Expr::BinaryExpr(binary) if binary.op == op => open.extend([*binary.right, *binary.left]),
            condition => conditions.push(condition),
        }
    }
    conditions
}

/// Joins neighbours until one expression is left. There must be one.
pub(super) fn tree(mut expressions: Vec<Expr>, op: Operator) -> Expr {
    while expressions.len() > 1 {
        let mut rest = expressions.into_iter();
        let mut joined = Vec::with_capacity(rest.len().div_ceil(2));
        while let Some(left) = rest.next() {
            joined.push(match rest.next() {
                Some(right) => Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))),
                None => left,
            });
        }
        expressions = joined;
    }
    expressions.pop().expect("a chain has conditions")
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{LogicalPlanBuilder, col, lit};

    use super::*;

    fn chain(length: i64, op: Operator) -> Expr {
        let conditions = (0..length).map(|number| col("x").not_eq(lit(number)));
        let joined = conditions.reduce(|left, right| Expr::BinaryExpr(BinaryExpr::new(left.into(), op, right.into())));
        joined.unwrap()
    }

    #[test]
    fn long_chain_is_balanced_once_and_in_order() {
        for op in [Operator::And, Operator::Or] {
            let long = chain(1000, op);
            let balanced = balance(long.clone());
            assert!(balanced.transformed);
            assert_eq!(measure(&balanced.data, op), (1000, 10));
            assert_eq!(conditions_of(balanced.data.clone(), op), conditions_of(long, op));
            assert!(!balance(balanced.data).transformed);
            assert!(!balance(chain(MIN_CONDITIONS as i64 - 1, op)).transformed);
        }
    }

    #[test]
    fn chains_inside_of_chains_are_balanced() {
        let both = chain(100, Operator::And).and(chain(100, Operator::Or));
        let input = LogicalPlanBuilder::values(vec![vec![lit(1_i64)]]).unwrap();
        let input = input.project(vec![col("column1").alias("x")]).unwrap();
        let named = input.clone().project(vec![both.clone()]).unwrap().build().unwrap();
        let balanced = balance_plan(named.clone()).unwrap();
        assert!(balanced.transformed);
        assert_eq!(balanced.data.schema(), named.schema());
        assert!(!balance_plan(balanced.data).unwrap().transformed);
        let filter = input.filter(both).unwrap().build().unwrap();
        let LogicalPlan::Filter(filter) = balance_plan(filter).unwrap().data else {
            panic!("a filter stays one");
        };
        let conditions = conditions_of(filter.predicate, Operator::And);
        let or = conditions.last().unwrap();
        assert_eq!(measure(or, Operator::Or), (100, 7));
    }
}
