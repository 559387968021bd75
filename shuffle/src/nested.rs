//! Parts of a deep plan that are encoded as messages of their own.
//!
//! Messages may nest a hundred deep (the limit of `prost`, which protects the stack from bytes of strangers), and each node of a
//! plan takes two or three levels: a query of twenty joins could not be sent. Every few nodes a [`NestedExec`] stands for the
//! part below it, whose message is bytes within the message of the part above. It is there while a plan is encoded, and never in
//! one that runs.

use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::ReplaceChildrenOptions;
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};

use crate::plan_nodes::map_inputs;

/// Nodes from the root of a part to the next: with the deepest expressions of most plans, half of what may nest.
pub(crate) const DEPTH: usize = 12;

/// Nodes from the root to the deepest leaf of plans that are sent: who decodes one needs some tens of kilobytes of stack for each.
pub(crate) const MOST_DEPTH: usize = 256;

/// `plan` in parts of at most [`DEPTH`] nodes from top to bottom. What is below a scalar subquery's node stays one part: its
/// expressions are decoded in the context of that node. A plan that is too deep stays one part, too, and cannot be decoded.
///
/// # Errors
/// When a node does not take its new inputs.
pub(crate) fn in_parts(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    match is_deeper(plan.as_ref(), MOST_DEPTH) {
        true => Ok(plan),
        false => below(plan, DEPTH),
    }
}

fn is_deeper(plan: &dyn ExecutionPlan, most: usize) -> bool {
    most == 0
        || plan
            .children()
            .into_iter()
            .any(|input| is_deeper(input.as_ref(), most - 1))
}

fn below(plan: Arc<dyn ExecutionPlan>, left: usize) -> Result<Arc<dyn ExecutionPlan>> {
    if plan.children().is_empty() || plan.is::<ScalarSubqueryExec>() {
        return Ok(plan);
    }
    if left == 0 {
        let plan = below(plan, DEPTH)?;
        return Ok(Arc::new(NestedExec { plan }));
    }
    map_inputs(plan, |input| below(input, left - 1))
}

/// Stands for a part of a plan in the one above it.
#[derive(Debug)]
pub(crate) struct NestedExec {
    plan: Arc<dyn ExecutionPlan>,
}

impl NestedExec {
    pub(crate) fn plan(&self) -> &Arc<dyn ExecutionPlan> {
        &self.plan
    }
}

impl DisplayAs for NestedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NestedExec")
    }
}

impl ExecutionPlan for NestedExec {
    fn name(&self) -> &'static str {
        "NestedExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.plan.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        internal_err!("a plan is decoded before it runs")
    }
}
