//! Casts that were made parts of names lose the call that did so, once the names are fixed.
//!
//! Other rules look for casts, and find none within [`WRITTEN`].

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;
use squadron_shuffle::functions::WRITTEN;

use crate::plan_limits::expressions::{any_expression, rewrite_named};

/// Takes such calls away.
#[derive(Debug)]
pub(crate) struct KeepNamesOfCasts;

impl AnalyzerRule for KeepNamesOfCasts {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_down_with_subqueries(|node| {
            if !any_expression(&node, has_call)? {
                return Ok(Transformed::no(node));
            }
            rewrite_named(node, |expression| expression.transform_up(|part| Ok(plain(part))))
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "keep_names_of_casts"
    }
}

fn has_call(expression: &Expr) -> Result<bool> {
    expression.exists(|part| Ok(matches!(part, Expr::ScalarFunction(call) if call.name() == WRITTEN)))
}

fn plain(part: Expr) -> Transformed<Expr> {
    match part {
        Expr::ScalarFunction(ScalarFunction { func, mut args }) if func.name() == WRITTEN && args.len() == 1 => {
            Transformed::yes(args.remove(0))
        }
        other => Transformed::no(other),
    }
}
