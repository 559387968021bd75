//! The sides of joins, with the rows that the optimizer expects of them.
//!
//! DataFusion chooses which side of a join becomes the table, and whether it is collected or exchanged, when it has the
//! physical plan, from its own statistics. Those take a join for as large as its largest input, and so would undo the order
//! that the optimizer has chosen.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchemaRef, Result, Statistics, internal_err};
use datafusion::config::ConfigOptions;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};

/// The mark in a logical plan.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Estimated {
    rows: usize,
    /// Of all rows.
    bytes: usize,
    input: LogicalPlan,
}

impl Estimated {
    /// Marks `input` as so many rows of so many bytes each.
    pub(crate) fn mark(rows: f64, row_bytes: usize, input: LogicalPlan) -> LogicalPlan {
        // Rounds up: what may have a row is not empty. Casting stops at the largest number.
        let rows = rows.ceil() as usize;
        let bytes = rows.saturating_mul(row_bytes);
        LogicalPlan::Extension(Extension {
            node: Arc::new(Self { rows, bytes, input }),
        })
    }
}

impl PartialOrd for Estimated {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.rows.partial_cmp(&other.rows).filter(|_| self == other)
    }
}

impl UserDefinedLogicalNodeCore for Estimated {
    fn name(&self) -> &str {
        "Estimated"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Estimated: {} rows", self.rows)
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        match (inputs.pop(), inputs.is_empty()) {
            (Some(input), true) => Ok(Self { input, ..self.clone() }),
            _ => internal_err!("an estimate is that of one input"),
        }
    }
}

/// The mark in a physical plan. It is never run: [`ForgetEstimates`] removes it.
#[derive(Debug)]
pub(crate) struct EstimatedExec {
    rows: usize,
    bytes: usize,
    input: Arc<dyn ExecutionPlan>,
}

impl EstimatedExec {
    /// The mark of `estimated` on its physical `input`.
    pub(crate) fn of(estimated: &Estimated, input: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self {
            rows: estimated.rows,
            bytes: estimated.bytes,
            input: Arc::clone(input),
        })
    }
}

impl DisplayAs for EstimatedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EstimatedExec: {} rows", self.rows)
    }
}

impl ExecutionPlan for EstimatedExec {
    fn name(&self) -> &str {
        "EstimatedExec"
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

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        if matches!(inputs[0].num_rows, Precision::Exact(_)) {
            return Ok(Arc::clone(&inputs[0]));
        }
        Ok(Arc::new(Statistics {
            num_rows: Precision::Inexact(self.rows),
            total_byte_size: Precision::Inexact(self.bytes),
            column_statistics: inputs[0].column_statistics.clone(),
        }))
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self {
                rows: self.rows,
                bytes: self.bytes,
                input,
            })),
            _ => internal_err!("an estimate is that of one input"),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        internal_err!("an estimate was not removed")
    }
}

/// Removes the estimates, after the rule that chooses the sides of joins.
#[derive(Debug)]
pub(crate) struct ForgetEstimates;

impl PhysicalOptimizerRule for ForgetEstimates {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let without = plan.transform_up(|node| {
            Ok(match node.downcast_ref::<EstimatedExec>() {
                Some(estimated) => Transformed::yes(Arc::clone(&estimated.input)),
                None => Transformed::no(node),
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
