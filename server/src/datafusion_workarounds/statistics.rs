//! Aggregates with FILTER are not answered from statistics of what is below them.
//!
//! DataFusion 55.2 looks below an aggregate of all rows for the one that begins it, and passes one with FILTER on its way to
//! an aggregate of a subquery: `SELECT count(*) FILTER (WHERE n > 5) FROM (SELECT count(*) AS n FROM t)` takes the inner
//! count for the outer one, and then fails for its name.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;

use super::Rule;

/// DataFusion's rule, kept to plans in which no aggregate has a FILTER.
#[derive(Debug)]
pub(super) struct AnswerFromStatistics {
    pub(super) inner: Rule,
}

impl PhysicalOptimizerRule for AnswerFromStatistics {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let has_filter = plan.exists(|node| {
            let aggregate = node.downcast_ref::<AggregateExec>();
            Ok(aggregate.is_some_and(|aggregate| aggregate.filter_expr().iter().any(Option::is_some)))
        })?;
        if !has_filter {
            return self.inner.optimize(plan, config);
        }
        plan.map_children(|child| self.optimize(child, config).map(Transformed::yes))
            .data()
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn schema_check(&self) -> bool {
        self.inner.schema_check()
    }
}
