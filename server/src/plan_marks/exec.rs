//! Marks in physical plans.

use std::fmt;
use std::sync::Arc;

use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning,
    PlanProperties, ReplaceChildrenOptions,
};

use super::node::Mark;

/// A part of a plan with a mark. It is never run.
///
/// Nothing moves through it: neither a filter that one place of a shared part has at run time, nor an order that another asks
/// for. So all places keep the same input, and each exchanges the rows as it needs them.
#[derive(Debug)]
pub(crate) struct MarkedExec {
    mark: Mark,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl MarkedExec {
    pub(super) fn new(mark: Mark, input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = match mark {
            Mark::Shared(_) => Arc::new(PlanProperties::new(
                EquivalenceProperties::new(input.schema()),
                Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
                input.pipeline_behavior(),
                input.boundedness(),
            )),
            Mark::Estimated { .. } => Arc::clone(input.properties()),
        };
        Self {
            mark,
            input,
            properties,
        }
    }

    pub(crate) fn input(&self) -> &Arc<dyn ExecutionPlan> {
        &self.input
    }

    /// The number of a shared part, and the part.
    pub(crate) fn shared(node: &dyn ExecutionPlan) -> Option<(usize, &Arc<dyn ExecutionPlan>)> {
        let marked = node.downcast_ref::<Self>()?;
        match marked.mark {
            Mark::Shared(number) => Some((number, &marked.input)),
            Mark::Estimated { .. } => None,
        }
    }

    pub(super) fn is_estimate(&self) -> bool {
        matches!(self.mark, Mark::Estimated { .. })
    }
}

impl DisplayAs for MarkedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MarkedExec: {}", self.mark)
    }
}

impl ExecutionPlan for MarkedExec {
    fn name(&self) -> &str {
        "MarkedExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        match self.mark {
            Mark::Estimated { rows, bytes } if !matches!(inputs[0].num_rows, Precision::Exact(_)) => {
                Ok(Arc::new(Statistics {
                    num_rows: Precision::Inexact(rows),
                    total_byte_size: Precision::Inexact(bytes),
                    column_statistics: inputs[0].column_statistics.clone(),
                }))
            }
            _ => Ok(Arc::clone(&inputs[0])),
        }
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self::new(self.mark, input))),
            _ => internal_err!("a mark is that of one input"),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        internal_err!("{} was not removed from the plan", self.mark)
    }
}
