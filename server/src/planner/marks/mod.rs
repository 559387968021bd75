//! What the optimizer knows of a part of a plan, as nodes that do nothing.
//!
//! | mark | says | removed |
//! |---|---|---|
//! | [`Shared`] | several places read this part | when the plan is cut |
//! | [`Estimated`] | how many rows a side of a join has | by [`ForgetEstimates`](crate::datafusion_workarounds::join_sides::ForgetEstimates) |

mod shared;

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};

pub(super) use self::shared::{Shared, SharedExec};
pub(super) use crate::datafusion_workarounds::join_sides::Estimated;
use crate::datafusion_workarounds::join_sides::EstimatedExec;

/// The physical plan of `logical`, in which the marks are.
///
/// # Errors
/// DataFusion's errors of planning.
pub(super) async fn create_physical_plan(
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
        let Some(input) = inputs.first() else {
            return Ok(None);
        };
        let shared = node.as_any().downcast_ref().map(|shared| SharedExec::of(shared, input));
        let estimated = || node.as_any().downcast_ref().map(|rows| EstimatedExec::of(rows, input));
        Ok(shared.or_else(estimated))
    }
}
