//! Inputs of operators whose rows are decided after their execution.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_datafusion_err, internal_err};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties};
use futures::StreamExt;

/// The rows of one partition, until the operator or the code that replaces it takes them.
#[derive(Clone)]
pub(super) struct Rows(Arc<Mutex<Option<SendableRecordBatchStream>>>);

impl Rows {
    fn none() -> Self {
        Self(Arc::default())
    }

    fn new(rows: SendableRecordBatchStream) -> Self {
        Self(Arc::new(Mutex::new(Some(rows))))
    }

    /// The rows.
    ///
    /// # Errors
    /// When they were taken before, or the partition was not executed: a bug.
    pub(super) fn take(&self) -> Result<SendableRecordBatchStream> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        rows.ok_or_else(|| internal_datafusion_err!("an input was read twice, or before it was executed"))
    }

    pub(super) fn put(&self, rows: SendableRecordBatchStream) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(rows);
    }
}

/// Stands for an input of an operator: what it yields is decided when the operator first asks, after its execution.
pub(crate) struct LateInputExec {
    /// The planned input; none for the rows of a piece.
    input: Option<Arc<dyn ExecutionPlan>>,
    properties: Arc<PlanProperties>,
    rows: Vec<Rows>,
    /// The context in which the input is executed.
    context: Mutex<Option<Arc<TaskContext>>>,
}

impl fmt::Debug for LateInputExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LateInputExec")
            .field("input", &self.input)
            .finish_non_exhaustive()
    }
}

impl LateInputExec {
    /// Stands for a planned input.
    pub(super) fn planned(input: Arc<dyn ExecutionPlan>) -> Self {
        let partitions = input.output_partitioning().partition_count();
        Self {
            properties: Arc::clone(input.properties()),
            rows: std::iter::repeat_with(Rows::none).take(partitions).collect(),
            input: Some(input),
            context: Mutex::default(),
        }
    }

    /// One partition with these rows.
    pub(super) fn piece(rows: SendableRecordBatchStream) -> Self {
        let properties = EquivalenceProperties::new(rows.schema());
        Self::piece_with(rows, properties)
    }

    /// One partition with these rows, which have these properties.
    pub(super) fn piece_with(rows: SendableRecordBatchStream, properties: EquivalenceProperties) -> Self {
        let properties = PlanProperties::new(
            properties,
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            input: None,
            properties: Arc::new(properties),
            rows: vec![Rows::new(rows)],
            context: Mutex::default(),
        }
    }

    /// The planned input.
    pub(crate) fn input(&self) -> Option<&Arc<dyn ExecutionPlan>> {
        self.input.as_ref()
    }

    /// The rows of each partition: of the planned input once it is executed, unless others are put in their place.
    pub(super) fn rows(&self) -> &[Rows] {
        &self.rows
    }

    /// Executes the planned input in `context`, whatever the operator is executed in.
    pub(super) fn set_context(&self, context: Arc<TaskContext>) {
        *self.context.lock().unwrap_or_else(PoisonError::into_inner) = Some(context);
    }

    fn context(&self) -> Result<Arc<TaskContext>> {
        let context = self.context.lock().unwrap_or_else(PoisonError::into_inner).clone();
        context.ok_or_else(|| internal_datafusion_err!("an input was executed before its operator"))
    }
}

/// What stands behind `inputs`, for an operator that makes inputs of its own again.
pub(super) fn planned_inputs(inputs: Vec<Arc<dyn ExecutionPlan>>) -> Vec<Arc<dyn ExecutionPlan>> {
    let planned = inputs.into_iter().map(|input| {
        let late = input.downcast_ref::<LateInputExec>();
        late.and_then(LateInputExec::input).cloned().unwrap_or(input)
    });
    planned.collect()
}

impl DisplayAs for LateInputExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LateInputExec")
    }
}

impl ExecutionPlan for LateInputExec {
    fn name(&self) -> &'static str {
        "LateInputExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true; self.input.iter().count()]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.input.iter().collect()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self::planned(input))),
            (None, _) => Ok(self),
            _ => internal_err!("{} has one child", self.name()),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = &self.rows[partition];
        if let Some(input) = &self.input {
            rows.put(input.execute(partition, self.context()?)?);
        }
        Ok(Box::pin(LateStream {
            schema: self.schema(),
            rows: rows.clone(),
            taken: None,
        }))
    }
}

/// Takes its rows when it is first polled.
struct LateStream {
    schema: SchemaRef,
    rows: Rows,
    taken: Option<SendableRecordBatchStream>,
}

impl futures::Stream for LateStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.taken.is_none() {
            match self.rows.take() {
                Ok(rows) => self.taken = Some(rows),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        match &mut self.taken {
            Some(rows) => rows.poll_next_unpin(context),
            None => Poll::Ready(None),
        }
    }
}

impl RecordBatchStream for LateStream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}
