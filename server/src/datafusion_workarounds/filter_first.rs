//! What may fail is computed of the rows that a filter keeps.
//!
//! DataFusion 55.2 moves projections below filters and into scans. `SELECT 10 / n FROM t WHERE n <> 0` would then divide by
//! zero for rows that are not part of the result. Here a fence stands above such filters while projections are moved.

use std::fmt;
use std::sync::Arc;

use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};

use super::Rule;

/// DataFusion's rule, kept from moving what is computed below filters.
#[derive(Debug)]
pub(super) struct ComputeAboveFilters {
    pub(super) inner: Rule,
}

impl PhysicalOptimizerRule for ComputeAboveFilters {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let fenced = with_fences(plan, false)?;
        let moved = self.inner.optimize(fenced, config)?;
        moved
            .transform_up(|node| {
                Ok(match node.downcast_ref::<Fence>() {
                    Some(fence) => Transformed::yes(Arc::clone(&fence.input)),
                    None => Transformed::no(node),
                })
            })
            .data()
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn schema_check(&self) -> bool {
        self.inner.schema_check()
    }
}

/// Puts fences above the filters that something computed could be moved below.
fn with_fences(plan: Arc<dyn ExecutionPlan>, is_computed: bool) -> Result<Arc<dyn ExecutionPlan>> {
    let is_computed = match plan.downcast_ref::<ProjectionExec>() {
        Some(projection) => is_computed || projection.expr().iter().any(|column| is_more_than_column(&column.expr)),
        None => is_computed && lets_projections_pass(plan.as_ref()),
    };
    let mut changed = false;
    let mut children = Vec::new();
    for child in plan.children() {
        let fenced = with_fences(Arc::clone(child), is_computed)?;
        changed |= !Arc::ptr_eq(child, &fenced);
        children.push(fenced);
    }
    let needs_fence = is_computed && plan.is::<FilterExec>();
    let plan = match changed {
        true => plan.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))?,
        false => plan,
    };
    Ok(match needs_fence {
        true => Arc::new(Fence { input: plan }),
        false => plan,
    })
}

fn is_more_than_column(expression: &Arc<dyn PhysicalExpr>) -> bool {
    !expression.is::<Column>() && !expression.is::<Literal>()
}

fn lets_projections_pass(plan: &dyn ExecutionPlan) -> bool {
    plan.is::<FilterExec>()
        || plan.is::<RepartitionExec>()
        || plan.is::<CoalescePartitionsExec>()
        || plan.is::<SortExec>()
        || plan.is::<SortPreservingMergeExec>()
        || plan.is::<UnionExec>()
        || plan.is::<GlobalLimitExec>()
        || plan.is::<LocalLimitExec>()
}

/// Its input, through which no projection is moved. It is never run.
#[derive(Debug)]
struct Fence {
    input: Arc<dyn ExecutionPlan>,
}

impl DisplayAs for Fence {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ExecutionPlan for Fence {
    fn name(&self) -> &'static str {
        "Fence"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match children.pop() {
            Some(input) if children.is_empty() => Ok(Arc::new(Self { input })),
            _ => internal_err!("a fence has one input"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.input.execute(partition, context)
    }
}
