//! The plan node.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{JoinType, Result, internal_err};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::limit::LimitStream;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::{EmptyRecordBatchStream, RecordBatchStreamAdapter};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties};
use futures::future::{BoxFuture, Shared, join_all};
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt, stream};

use super::build::{self, Build};
use super::input::{LateInputExec, planned_inputs};
use super::joining::Joining;
use super::pieces::{Piece, Pieces};
use super::probe::{self, Gathering, Probe};
use super::scatter::SpilledRows;

/// A build side that every partition of the join may wait for, and drive.
type SharedBuild = Shared<BoxFuture<'static, std::result::Result<Arc<Build>, Arc<DataFusionError>>>>;

/// Runs a hash join, in pieces where its build side does not fit into memory.
pub(crate) struct SpillingJoinExec {
    state: Arc<State>,
}

/// What the partitions of one join share.
struct State {
    join: Arc<HashJoinExec>,
    build: Arc<LateInputExec>,
    probe: Arc<LateInputExec>,
    joining: OnceLock<Arc<Joining>>,
    /// One per partition of the build side, from its execution to the end of its partition of the join.
    builds: Vec<Mutex<Option<SharedBuild>>>,
    /// Whether a build side went to disk, also after it was forgotten.
    has_spilled: Arc<AtomicBool>,
    gathering: Gathering,
    metrics: ExecutionPlanMetricsSet,
}

impl fmt::Debug for SpillingJoinExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpillingJoinExec")
            .field("join", &self.state.join)
            .finish_non_exhaustive()
    }
}

impl SpillingJoinExec {
    /// Runs `join`.
    ///
    /// # Errors
    /// When the join cannot be built again, which is a bug.
    pub(crate) fn new(join: &HashJoinExec) -> Result<Self> {
        let build = Arc::new(LateInputExec::planned(Arc::clone(join.left())));
        let probe = Arc::new(LateInputExec::planned(Arc::clone(join.right())));
        let children: Vec<Arc<dyn ExecutionPlan>> = vec![Arc::clone(&build) as _, Arc::clone(&probe) as _];
        let join = join.builder().with_new_children(children)?.build()?;
        Ok(Self {
            state: Arc::new(State {
                joining: OnceLock::new(),
                builds: build.rows().iter().map(|_| Mutex::default()).collect(),
                has_spilled: Arc::default(),
                gathering: Gathering::new(probe.rows().len()),
                metrics: ExecutionPlanMetricsSet::new(),
                join: Arc::new(join),
                build,
                probe,
            }),
        })
    }

    /// The planned join.
    pub(crate) fn join(&self) -> &HashJoinExec {
        &self.state.join
    }
}

impl DisplayAs for SpillingJoinExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpillingJoinExec")
    }
}

impl ExecutionPlan for SpillingJoinExec {
    fn name(&self) -> &'static str {
        "SpillingJoinExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.state.join.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.state.join.children()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        self.state.join.maintains_input_order()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.state.join.apply_expressions(f)
    }

    fn dynamic_expressions_produced(&self) -> Vec<Arc<dyn PhysicalExpr>> {
        self.state.join.dynamic_expressions_produced()
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let builder = self.state.join.builder().with_new_children(planned_inputs(children))?;
        Ok(Arc::new(Self::new(&builder.build()?)?))
    }

    /// A recursive query executes its plan once for each step.
    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        let children = self.state.join.children().into_iter().cloned().collect();
        let builder = self.state.join.builder().with_new_children(planned_inputs(children))?;
        Ok(Arc::new(Self::new(&builder.reset_state().build()?)?))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let state = Arc::clone(&self.state);
        let joining = state.joining(&context)?;
        state.build.set_context(Arc::clone(&context));
        state.probe.set_context(context);
        let planned = state.join.execute(partition, joining.uncharged())?;
        state.start_build(partition, &joining);
        let schema = self.schema();
        let rows = stream::once(state.run(partition, joining, planned)).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.state.metrics.clone_inner())
    }
}

impl State {
    fn joining(&self, context: &Arc<TaskContext>) -> Result<Arc<Joining>> {
        if let Some(joining) = self.joining.get() {
            return Ok(Arc::clone(joining));
        }
        let joining = Joining::new(Arc::clone(&self.join), Arc::clone(context), &self.metrics)?;
        Ok(Arc::clone(self.joining.get_or_init(|| Arc::new(joining))))
    }

    /// The number of the build side of a partition.
    fn build_of(&self, partition: usize) -> usize {
        match self.join.partition_mode() {
            PartitionMode::CollectLeft => 0,
            PartitionMode::Partitioned | PartitionMode::Auto => partition,
        }
    }

    /// Prepares to collect the build side, which starts when it is first waited for.
    fn start_build(self: &Arc<Self>, partition: usize, joining: &Arc<Joining>) {
        let number = self.build_of(partition);
        let rows = self.build.rows()[number].clone();
        let joining = Arc::clone(joining);
        let has_spilled = Arc::clone(&self.has_spilled);
        let build = async move {
            let (build, batches) = build::collect(rows.take()?, &joining).await?;
            match batches {
                Some(batches) => rows.put(batches),
                None => has_spilled.store(true, Ordering::Relaxed),
            }
            Ok(Arc::new(build))
        };
        let mut slot = self.builds[number].lock().unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert_with(|| build.map_err(Arc::new).boxed().shared());
    }

    fn shared_build(&self, number: usize) -> Option<SharedBuild> {
        let build = self.builds[number].lock().unwrap_or_else(PoisonError::into_inner);
        build.clone()
    }

    /// The rows of one partition; `planned` is the join as planned, which has not started yet.
    async fn run(
        self: Arc<Self>,
        partition: usize,
        joining: Arc<Joining>,
        planned: SendableRecordBatchStream,
    ) -> Result<SendableRecordBatchStream> {
        let number = self.build_of(partition);
        let Some(build) = self.shared_build(number) else {
            return internal_err!("a join was polled before it was executed");
        };
        let build = build.await.map_err(DataFusionError::Shared)?;
        let probe = &self.probe.rows()[partition];
        let rows = match build.as_ref() {
            Build::Fits(_) if !self.is_filter_abandoned().await? => {
                let rows = probe.take()?;
                let building = Arc::clone(&build);
                probe.put(on_first_poll(rows, move || building.free_batches()));
                planned
            }
            Build::Fits(_) => {
                drop(planned);
                joining.join_collected(self.build.rows()[number].take()?, probe.take()?)?
            }
            Build::Spilled(pieces) => {
                drop(planned);
                let pieces = pieces.clone();
                self.join_pieces(partition, &joining, pieces, probe.take()?).await?
            }
        };
        let held = Held {
            state: self,
            partition,
            _build: build,
        };
        let schema = rows.schema();
        let rows = rows.inspect(move |_| {
            let _held = &held;
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    /// Whether the dynamic filter of the join is never filled: the filter waits for the build sides of all partitions,
    /// and one of them is on disk.
    async fn is_filter_abandoned(&self) -> Result<bool> {
        if self.join.dynamic_expressions_produced().is_empty() || self.builds.len() == 1 {
            return Ok(false);
        }
        let builds = (0..self.builds.len()).filter_map(|number| self.shared_build(number));
        for build in join_all(builds).await {
            build.map_err(DataFusionError::Shared)?;
        }
        Ok(self.has_spilled.load(Ordering::Relaxed))
    }

    async fn join_pieces(
        &self,
        partition: usize,
        joining: &Arc<Joining>,
        build: Vec<SpilledRows>,
        probe: SendableRecordBatchStream,
    ) -> Result<SendableRecordBatchStream> {
        let probe = probe::scatter(probe, joining).await?;
        let probe = match self.must_gather() {
            true => self.gathering.add(probe),
            false => Some(probe),
        };
        let Some(probe) = probe.filter(|probe| !self.is_refuted(probe)) else {
            return Ok(Box::pin(EmptyRecordBatchStream::new(self.join.schema())));
        };
        if probe.has_rows() {
            joining.drop_null_keys();
        }
        let pieces = build.into_iter().zip(probe.pieces);
        let pieces = pieces.map(|(build, probe)| Piece::new(build, probe)).collect();
        let mut rows = Pieces::new(Arc::clone(joining), pieces).into_rows();
        if let Some(order) = self.join.properties().output_ordering() {
            let sort = SortExec::new(order.clone(), Arc::new(LateInputExec::piece(rows)));
            rows = sort.execute(0, joining.context())?;
        }
        if self.join.fetch().is_some() {
            let metrics = BaselineMetrics::new(&ExecutionPlanMetricsSet::new(), partition);
            rows = Box::pin(LimitStream::new(rows, 0, self.join.fetch(), metrics));
        }
        Ok(rows)
    }

    /// Whether the rows of a build side meet the probe rows of several partitions, and must be known to have met none.
    fn must_gather(&self) -> bool {
        let yields_build_rows = matches!(
            self.join.join_type(),
            JoinType::Left | JoinType::Full | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark
        );
        let is_shared = *self.join.partition_mode() == PartitionMode::CollectLeft;
        yields_build_rows && is_shared && self.join.right().output_partitioning().partition_count() > 1
    }

    /// Whether `NOT IN` holds for no row at all, since there is a null among the rows to compare with.
    fn is_refuted(&self, probe: &Probe) -> bool {
        self.join.null_aware && probe.has_null
    }

    /// Forgets the build side of a partition that has ended.
    fn forget(&self, partition: usize) {
        if *self.join.partition_mode() == PartitionMode::Partitioned {
            let mut build = self.builds[partition].lock().unwrap_or_else(PoisonError::into_inner);
            *build = None;
        }
    }
}

/// The build side of a partition that runs.
struct Held {
    state: Arc<State>,
    partition: usize,
    _build: Arc<Build>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.state.forget(self.partition);
    }
}

/// `rows`, with `action` before they are first asked for.
fn on_first_poll(rows: SendableRecordBatchStream, action: impl FnOnce() + Send + 'static) -> SendableRecordBatchStream {
    let schema = rows.schema();
    let first = stream::once(async move {
        action();
        Ok::<_, DataFusionError>(rows)
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, first.try_flatten()))
}
