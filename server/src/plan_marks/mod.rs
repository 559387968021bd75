//! Nodes of plans that do nothing, by which one step of planning tells a later one what it knows.
//!
//! | mark | says | removed |
//! |---|---|---|
//! | [`Mark::Shared`] | several places read this part | when the plan is cut into stages |
//! | [`Mark::Estimated`] | how many rows a side of a join has | by [`ForgetEstimates`], once the sides of joins are chosen |
//!
//! The optimizer marks a logical plan, and [`create_physical_plan`] gives the physical plan the same marks.

mod exec;
mod node;

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};

pub(crate) use self::exec::MarkedExec;
use self::node::Marked;
pub(crate) use self::node::{Mark, mark};

/// The physical plan of `logical`, with its marks.
///
/// # Errors
/// DataFusion's errors of planning.
pub(crate) async fn create_physical_plan(
    state: &SessionState,
    logical: &LogicalPlan,
) -> Result<Arc<dyn ExecutionPlan>> {
    DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(MarkPlanner)])
        .create_physical_plan(logical, state)
        .await
}

/// Turns the marks of a logical plan into those of a physical one.
struct MarkPlanner;

#[async_trait]
impl ExtensionPlanner for MarkPlanner {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let marked = node.as_any().downcast_ref::<Marked>().zip(inputs.first());
        Ok(marked.map(|(marked, input)| {
            let plan: Arc<dyn ExecutionPlan> = Arc::new(MarkedExec::new(marked.mark(), Arc::clone(input)));
            plan
        }))
    }
}

/// Removes the estimates, after the rule that chooses the sides of joins.
///
/// DataFusion chooses which side of a join becomes the table, and whether it is collected or exchanged, when it has the
/// physical plan, from its own statistics. Those take a join for as large as its largest input, and would undo the order
/// that the optimizer has chosen.
#[derive(Debug)]
pub(crate) struct ForgetEstimates;

impl PhysicalOptimizerRule for ForgetEstimates {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let without = plan.transform_up(|node| {
            Ok(match node.downcast_ref::<MarkedExec>() {
                Some(marked) if marked.is_estimate() => Transformed::yes(Arc::clone(marked.input())),
                _ => Transformed::no(node),
            })
        });
        without.data()
    }

    fn name(&self) -> &'static str {
        "forget_estimates"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
