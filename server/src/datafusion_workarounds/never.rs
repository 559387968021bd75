//! A filter that lets no row pass is no rows.
//!
//! DataFusion 55.2 moves a condition that is constantly NULL or false below an aggregate of all rows, which makes a row of
//! no input (apache/datafusion#25415). Here it becomes an empty relation before filters are moved.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::Transformed;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{EmptyRelation, Expr, LogicalPlan};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// Replaces such filters.
#[derive(Debug)]
struct NeverTrue;

impl OptimizerRule for NeverTrue {
    fn name(&self) -> &'static str {
        "never_true"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Filter(filter) = &plan else {
            return Ok(Transformed::no(plan));
        };
        if !split_conjunction(&filter.predicate).into_iter().any(is_never_true) {
            return Ok(Transformed::no(plan));
        }
        Ok(Transformed::yes(LogicalPlan::EmptyRelation(EmptyRelation {
            produce_one_row: false,
            schema: Arc::clone(filter.input.schema()),
        })))
    }
}

fn is_never_true(condition: &Expr) -> bool {
    matches!(
        condition,
        Expr::Literal(ScalarValue::Boolean(None | Some(false)) | ScalarValue::Null, _)
    )
}

/// `rules` with this one before filters are moved.
pub(crate) fn with_empty_filters(
    rules: Vec<Arc<dyn OptimizerRule + Send + Sync>>,
) -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let rules = rules.into_iter().flat_map(|rule| {
        let before = (rule.name() == "push_down_filter").then(|| Arc::new(NeverTrue) as Arc<_>);
        before.into_iter().chain([rule])
    });
    rules.collect()
}
