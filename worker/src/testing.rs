//! Keys, messages and plans for the tests of this crate.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, exec_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{StreamExt, stream};
use squadron_proto::control::{Lane, Launch, OutputMode, PlanRef, Stage};
use squadron_proto::ticket::ClusterKey;
use squadron_proto::{AttemptKey, AttemptNumber, QueryId, StageId, TaskId};
use squadron_shuffle::fragment::InProcessPlan;
use squadron_shuffle::{ShuffleWriteExec, WritePartitioning};
use tempfile::TempDir;

use crate::engine::{Engine, WorkerOptions};

pub(crate) const QUERY: QueryId = QueryId::from_u128(7);

/// A task of stage 0.
pub(crate) fn key(task: u32) -> AttemptKey {
    AttemptKey {
        query: QUERY,
        stage: StageId(0),
        task: TaskId(task),
        attempt: AttemptNumber(0),
    }
}

/// A launch of an attempt whose output is retained.
pub(crate) fn launch(task: u32, slots: u32) -> Launch {
    Launch {
        attempt: key(task),
        slots,
        lane: Lane::Short,
        partitions: vec![],
        scans: vec![],
        inputs: vec![].into(),
        output: OutputMode::Retained,
    }
}

/// A launch of an attempt whose output is read once.
pub(crate) fn streamed_launch(task: u32, slots: u32) -> Launch {
    Launch {
        output: OutputMode::Streamed,
        ..launch(task, slots)
    }
}

/// Stage 0 with a plan that one attempt can run.
pub(crate) fn stage(behaviours: Vec<Behaviour>) -> Stage {
    in_process_stage(Arc::new(TestExec::new(behaviours)))
}

/// Stage 0 with a plan that writes the rows of `input`; one attempt can run it.
pub(crate) fn in_process_stage(input: Arc<dyn ExecutionPlan>) -> Stage {
    let schema = input.schema();
    let plan = ShuffleWriteExec::new(input, WritePartitioning::Identity, schema);
    let plan: Arc<dyn Any + Send + Sync> = Arc::new(InProcessPlan(Arc::new(plan)));
    stage_of(PlanRef::InProcess(plan))
}

/// Stage 0 with `plan`.
pub(crate) fn stage_of(plan: PlanRef) -> Stage {
    Stage {
        query: QUERY,
        stage: StageId(0),
        plan,
        settings: vec![],
        stores: vec![],
        reserved_bytes: 0,
    }
}

/// Small limits, and a spill folder that is removed when the first of the pair is dropped.
pub(crate) fn options() -> (TempDir, WorkerOptions) {
    let folder = tempfile::tempdir().unwrap();
    let options = WorkerOptions {
        slots: 2,
        memory_bytes: 64 * 1024 * 1024,
        spill_dir: Some(folder.path().to_owned()),
        streamed_bytes: 16 * 1024,
        watches_memory: false,
        ..WorkerOptions::default()
    };
    (folder, options)
}

pub(crate) fn engine() -> (TempDir, Arc<Engine>) {
    let (folder, options) = options();
    let engine = Engine::new(&options, ClusterKey::random(), None).unwrap();
    (folder, engine)
}

/// What a partition of a [`TestExec`] does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Behaviour {
    /// Yields so many batches of [`ROWS_PER_BATCH`] rows.
    Batches(usize),
    /// Never yields and never ends.
    Hang,
    /// Yields a batch a millisecond, without end.
    Trickle,
    /// Returns an error.
    Fail,
    /// Panics when it is polled.
    Panic,
    /// Keeps its thread busy until the flag is set, then ends.
    Spin(&'static AtomicBool),
}

pub(crate) const ROWS_PER_BATCH: usize = 1_000;

/// A leaf operator with a chosen behaviour for each partition.
#[derive(Debug)]
pub(crate) struct TestExec {
    behaviours: Vec<Behaviour>,
    properties: Arc<PlanProperties>,
}

impl TestExec {
    pub(crate) fn new(behaviours: Vec<Behaviour>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema()),
            Partitioning::UnknownPartitioning(behaviours.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            behaviours,
            properties: Arc::new(properties),
        }
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
}

pub(crate) fn batch() -> RecordBatch {
    let numbers = Int64Array::from_iter_values(0..ROWS_PER_BATCH as i64);
    RecordBatch::try_new(schema(), vec![Arc::new(numbers)]).unwrap()
}

impl DisplayAs for TestExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TestExec: {:?}", self.behaviours)
    }
}

impl ExecutionPlan for TestExec {
    fn name(&self) -> &str {
        "TestExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = match self.behaviours[partition] {
            Behaviour::Batches(count) => stream::iter(0..count).map(|_| Ok(batch())).boxed(),
            Behaviour::Hang => stream::pending().boxed(),
            Behaviour::Trickle => stream::repeat(())
                .then(|()| tokio::time::sleep(Duration::from_millis(1)))
                .map(|()| Ok(batch()))
                .boxed(),
            Behaviour::Fail => stream::once(async { exec_err!("told to fail") }).boxed(),
            Behaviour::Spin(stop) => stream::poll_fn(|_| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
                Poll::Ready(None)
            })
            .boxed(),
            Behaviour::Panic => stream::once(async { panic!("told to panic") }).boxed(),
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema(), rows)))
    }
}
