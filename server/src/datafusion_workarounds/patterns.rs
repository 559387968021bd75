//! Patterns of several texts, `x LIKE '%a%b%'`, become calls of [`squadron_shuffle::functions::like`].
//!
//! Only conditions of rows change: columns keep the operator in their names, and scans keep it to prune files by.

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::logical_expr::expr::Like;
use datafusion::logical_expr::{Expr, LogicalPlan};
use squadron_shuffle::functions::like::{is_faster, like};

/// The plan with calls in its filters.
///
/// # Errors
/// Those of rewriting plans.
pub(crate) fn call_like(plan: LogicalPlan) -> Result<LogicalPlan> {
    let called = plan.transform_down_with_subqueries(|node| match node {
        LogicalPlan::Filter(_) => node.map_expressions(|condition| condition.transform_up(|part| Ok(call(part)))),
        other => Ok(Transformed::no(other)),
    });
    called.data()
}

fn call(expression: Expr) -> Transformed<Expr> {
    match expression {
        Expr::Like(Like {
            negated,
            expr,
            pattern,
            escape_char: None,
            case_insensitive: false,
        }) if is_faster_pattern(&pattern) => {
            let call = like().call(vec![*expr, *pattern]);
            Transformed::yes(if negated { Expr::Not(Box::new(call)) } else { call })
        }
        other => Transformed::no(other),
    }
}

fn is_faster_pattern(pattern: &Expr) -> bool {
    match pattern {
        Expr::Literal(value, _) => value.try_as_str().flatten().is_some_and(is_faster),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{col, lit};

    use super::*;

    #[test]
    fn patterns_of_several_texts_are_called() {
        let pattern = || lit("%a%b%");
        for (condition, called) in [
            (col("x").like(pattern()), true),
            (col("x").not_like(pattern()), true),
            (col("x").ilike(pattern()), false),
            (col("x").like(lit("%a%")), false),
            (col("x").like(col("y")), false),
        ] {
            assert_eq!(call(condition.clone()).transformed, called, "{condition}");
        }
        assert_eq!(
            call(col("x").not_like(pattern())).data.to_string(),
            "NOT like_in_order(x, Utf8(\"%a%b%\"))"
        );
    }
}
