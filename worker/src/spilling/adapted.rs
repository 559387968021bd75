//! Operators that run as planned, but in another context or over other rows than their input's.
//!
//! ```text
//! AdaptedExec (operator) ── LateInputExec ── input
//! ```

use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};

use super::input::{LateInputExec, planned_inputs};

/// How an operator is executed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Adaptation {
    /// The name of the node.
    pub(super) name: &'static str,
    /// Executes one partition, by [`AdaptedExec::run`].
    pub(super) execute: fn(&AdaptedExec, usize, Arc<TaskContext>) -> Result<SendableRecordBatchStream>,
}

/// Stands for an operator with one input, and executes it in its own way.
#[derive(Debug)]
pub(super) struct AdaptedExec {
    operator: Arc<dyn ExecutionPlan>,
    input: Arc<LateInputExec>,
    adaptation: Adaptation,
}

impl AdaptedExec {
    /// A node that stands for `operator`.
    ///
    /// # Errors
    /// When the operator has not one input, which is a bug.
    pub(super) fn adapt(operator: &Arc<dyn ExecutionPlan>, adaptation: Adaptation) -> Result<Arc<dyn ExecutionPlan>> {
        let inputs = planned_inputs(operator.children().into_iter().cloned().collect());
        let [input] = &inputs[..] else {
            return internal_err!("{} has one input", operator.name());
        };
        let input = Arc::new(LateInputExec::planned(Arc::clone(input)));
        // The input's properties are those of what it stands for.
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
        let operator = Arc::clone(operator).replace_children(vec![Arc::clone(&input) as _], options)?;
        Ok(Arc::new(Self {
            operator,
            input,
            adaptation,
        }))
    }

    pub(super) fn operator(&self) -> &dyn ExecutionPlan {
        self.operator.as_ref()
    }

    /// Executes one partition of the operator in `context` and of its input in `input_context`; the operator gets what
    /// `adapt` makes of the rows.
    pub(super) fn run(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
        input_context: Arc<TaskContext>,
        adapt: impl FnOnce(SendableRecordBatchStream) -> SendableRecordBatchStream,
    ) -> Result<SendableRecordBatchStream> {
        self.input.set_context(input_context);
        let output = self.operator.execute(partition, context)?;
        let late = &self.input.rows()[partition];
        late.put(adapt(late.take()?));
        Ok(output)
    }
}

impl DisplayAs for AdaptedExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.operator.fmt_as(format, f)
    }
}

impl ExecutionPlan for AdaptedExec {
    fn name(&self) -> &'static str {
        self.adaptation.name
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.operator.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        self.operator.maintains_input_order()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.operator.children()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.operator.apply_expressions(f)
    }

    fn dynamic_expressions_produced(&self) -> Vec<Arc<dyn PhysicalExpr>> {
        self.operator.dynamic_expressions_produced()
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let operator = Arc::clone(&self.operator).replace_children(planned_inputs(children), options)?;
        Self::adapt(&operator, self.adaptation)
    }

    /// A recursive query executes its plan once for each step.
    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        Self::adapt(&Arc::clone(&self.operator).reset_state()?, self.adaptation)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        (self.adaptation.execute)(self, partition, context)
    }

    fn metrics(&self) -> Option<MetricsSet> {
        self.operator.metrics()
    }
}
