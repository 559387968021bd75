//! Runs one attempt: decode, slice, execute all partitions together, summarize.
//!
//! ```text
//! commit ─> prepare (decode, slice, create output) ─> Running ─> partitions end ─> finish output ─> Finished
//!              │ error or panic                          │ one fails: the others are aborted
//!              └──────────────────> Failed <─────────────┘ told to stop: all are aborted ─> Cancelled
//! ```
//!
//! The end is reported once nothing of the attempt runs any more, so its slots are free when the server counts them as
//! free.

use std::any::Any;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::execution_plan::EmissionType;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::{FutureExt, StreamExt};
use squadron_proto::control::{AttemptStatus, Launch, OutputMode, TaskMetrics, TaskOutput};
use squadron_proto::failure::panic_message;
use squadron_proto::{AttemptKey, Failure, FailureKind};
use squadron_shuffle::{
    AttemptContext, OutputWriter, ShuffleWriteExec, WritePartitioning, Written, arrow_files, failure, fragment,
};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::attempts::Phase;
use crate::engine::Engine;
use crate::filters::with_fast_conditions;
use crate::memory::{AttemptPool, START_TIME, Start};
use crate::metrics;
use crate::ranges::with_small_ranges;
use crate::spilling::{with_bounded_memory, with_external_sorts};
use crate::stage::StagePlan;
use crate::usage::{Usage, measure};
use crate::yielding::with_yields;

/// Progress of a running attempt.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) attempt: AttemptKey,
    pub(crate) progress: Progress,
}

/// How far a running attempt has come.
#[derive(Debug)]
pub(crate) enum Progress {
    Entered(Phase),
    Ended(AttemptStatus),
}

/// Everything one attempt needs.
pub(crate) struct Attempt {
    pub(crate) engine: Arc<Engine>,
    pub(crate) stage: Arc<StagePlan>,
    pub(crate) launch: Launch,
    /// When the server's commit was read.
    pub(crate) committed: Instant,
    /// Counts the CPU time and memory of the attempt.
    pub(crate) usage: Arc<Usage>,
    /// Tells the attempt to stop.
    pub(crate) stop: CancellationToken,
    /// Where the attempt reports its progress.
    pub(crate) changes: mpsc::Sender<Change>,
}

/// How many partitions sort all their rows, summed over all operators of a plan.
fn count_sorts(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let own = match plan.downcast_ref::<SortExec>() {
        Some(sort) if sort.fetch().is_none() => plan.output_partitioning().partition_count(),
        _ => 0,
    };
    own + plan.children().into_iter().map(count_sorts).sum::<usize>()
}

/// A plan instance with its own output.
struct Prepared {
    usage: Arc<Usage>,
    memory: Arc<AttemptPool>,
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    writer: OutputWriter,
    is_streamed: bool,
    waits_for_room: watch::Sender<bool>,
}

impl Attempt {
    /// Runs the attempt to its end and reports how it ended, also after a panic. Must be spawned on the threads of the
    /// attempt's lane: tasks that its plan spawns run there too.
    pub(crate) fn run(self) -> impl Future<Output = ()> {
        measure(Arc::clone(&self.usage), self.run_unmeasured())
    }

    async fn run_unmeasured(self) {
        let attempt = self.launch.attempt;
        let changes = self.changes.clone();
        let outcome = AssertUnwindSafe(self.execute())
            .catch_unwind()
            .await
            .unwrap_or_else(|panic| Err(panic_failure(attempt, panic.as_ref())));
        let status = match outcome {
            Ok(output) => AttemptStatus::Finished(output),
            Err(failure) => AttemptStatus::Failed(failure),
        };
        let progress = Progress::Ended(status);
        // Without a listener the worker is gone, and the server with it.
        let _ = changes.send(Change { attempt, progress }).await;
    }

    async fn execute(self) -> Result<TaskOutput, Failure> {
        let prepared = self.prepare()?;
        self.enter(Phase::Running).await;
        let outcome = tokio::select! {
            biased;
            never = self.report_parking(&prepared) => match never {},
            outcome = prepared.drive(self.launch.attempt, &self.stop) => outcome,
        };
        match outcome.and_then(|()| prepared.writer.finish()) {
            Ok(written) => Ok(prepared.summarize(written, self.committed)),
            Err(failure) => {
                prepared.writer.fail(failure.clone());
                Err(failure)
            }
        }
    }

    /// Makes the attempt's own plan instance and its output, which can be read from here on.
    fn prepare(&self) -> Result<Prepared, Failure> {
        let key = self.launch.attempt;
        let partitions = &self.launch.partitions;
        let stage = self.stage.context(&self.engine)?;
        let plan = self.stage.instance(&stage)?;
        let plan = fragment::slice(plan, partitions, &self.launch.scans)
            .and_then(|plan| {
                let batch_size = stage.session_config().batch_size();
                with_external_sorts(plan, self.engine.memory_limit_bytes(), batch_size)
            })
            .map_err(|error| failure::of(&error))?;
        let local = plan.output_partitioning().partition_count();
        if !partitions.is_empty() && partitions.len() != local {
            let wanted = partitions.len();
            return Err(Failure::internal(format!(
                "attempt {key} was cut to {local} partitions instead of {wanted}"
            )));
        }
        let writer = self.engine.store.create(
            key,
            plan.schema(),
            output_partitions(plan.as_ref(), partitions)?,
            self.launch.output,
        )?;
        let attempt = AttemptContext {
            key,
            partitions: partitions.clone(),
            inputs: self
                .launch
                .inputs
                .iter()
                .map(|input| (input.stage, input.clone()))
                .collect(),
            store: self.engine.store.clone(),
            fetcher: self.engine.fetcher.clone(),
            writer: writer.clone(),
        };
        let config = stage.session_config().clone();
        let config = self.engine.with_merge_reservation(config, count_sorts(&plan));
        let config = config.with_extension(Arc::new(attempt));
        let reserved = self.stage.reserved_bytes();
        let memory = self.engine.attempt_memory(key.query, reserved, Arc::clone(&self.usage));
        let context = self.engine.attempt_context(config, Arc::clone(&memory));
        Ok(Prepared {
            usage: Arc::clone(&self.usage),
            memory,
            plan: arrow_files::with_checked_scans(plan)
                .and_then(|plan| with_small_ranges(plan, self.engine.slots(), context.session_config().options()))
                .and_then(with_fast_conditions)
                .and_then(with_yields)
                .and_then(with_bounded_memory)
                .map_err(|error| failure::of(&error))?,
            context,
            writer,
            is_streamed: self.launch.output == OutputMode::Streamed,
            waits_for_room: watch::Sender::new(false),
        })
    }

    /// Reports each time that a streamed output starts or stops waiting, for its reader or for memory.
    async fn report_parking(&self, prepared: &Prepared) -> Infallible {
        let mut for_reader = prepared.writer.waiting();
        let mut for_room = prepared.waits_for_room.subscribe();
        let mut reported = false;
        loop {
            let waits_for_reader = *for_reader.borrow_and_update();
            let waits = waits_for_reader || *for_room.borrow_and_update();
            if waits != reported && prepared.is_streamed {
                reported = waits;
                prepared.memory.set_parked(waits_for_reader);
                self.enter(if waits { Phase::Parked } else { Phase::Running }).await;
            }
            let changed = tokio::select! {
                changed = for_reader.changed() => changed,
                changed = for_room.changed() => changed,
            };
            if changed.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn enter(&self, phase: Phase) {
        let change = Change {
            attempt: self.launch.attempt,
            progress: Progress::Entered(phase),
        };
        // Without a listener the worker is gone, and the server with it.
        let _ = self.changes.send(change).await;
    }
}

impl Prepared {
    /// Executes all partitions until the last has ended, the first has failed or `stop` is cancelled. None of them runs
    /// any more when this returns.
    async fn drive(&self, key: AttemptKey, stop: &CancellationToken) -> Result<(), Failure> {
        let start = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(stop_failure()),
            failure = self.memory.ended() => return Err(failure),
            start = self.wait_for_room() => start,
        };
        let mut partitions = JoinSet::new();
        // All are executed before any is polled: operators with shared state expect to see all their partitions first.
        for partition in 0..self.plan.output_partitioning().partition_count() {
            let rows = self.plan.execute(partition, Arc::clone(&self.context));
            let rows = rows.map_err(|error| failure::of(&error))?;
            let rows = measure(Arc::clone(&self.usage), drain(rows));
            partitions.spawn(rows.in_current_span());
        }
        let outcome = tokio::select! {
            biased;
            () = stop.cancelled() => Err(stop_failure()),
            failure = self.memory.ended() => Err(failure),
            never = self.end_start(start) => match never {},
            outcome = join_all(key, &mut partitions) => outcome,
        };
        partitions.shutdown().await;
        outcome
    }

    /// Waits until the plan may start, if it holds what it has decoded while nobody reads its rows. Its slots are free
    /// meanwhile.
    async fn wait_for_room(&self) -> Option<Start> {
        // The plan ends in a shuffle write, which yields nothing.
        let mut sources = self.plan.children().into_iter();
        let reads_all_first = sources.all(|source| source.pipeline_behavior() == EmissionType::Final);
        if !self.is_streamed || reads_all_first {
            return None;
        }
        let waits = || {
            self.waits_for_room.send_replace(true);
        };
        let start = self.memory.wait_for_room(waits).await;
        self.waits_for_room.send_replace(false);
        start
    }

    /// Lets the next plan start when this one has filled its output, or has a client that reads.
    async fn end_start(&self, start: Option<Start>) -> Infallible {
        let mut waiting = self.writer.waiting();
        // Either way it has started.
        let _ = timeout(START_TIME, waiting.wait_for(|waits| *waits)).await;
        drop(start);
        std::future::pending().await
    }

    fn summarize(&self, written: Written, committed: Instant) -> TaskOutput {
        let plan = metrics::collect(self.plan.as_ref());
        let elapsed = committed.elapsed().as_micros();
        TaskOutput {
            metrics: TaskMetrics {
                elapsed_us: u64::try_from(elapsed).unwrap_or(u64::MAX),
                rows: written.partitions.iter().map(|partition| partition.rows).sum(),
                bytes: written.partitions.iter().map(|partition| partition.bytes).sum(),
                spilled_bytes: written.spilled_bytes + plan.spilled_bytes,
                scanned_bytes: plan.scanned_bytes,
                fetched_bytes: plan.fetched_bytes,
                cpu_ns: self.usage.cpu_ns(),
                peak_memory_bytes: self.usage.peak_memory_bytes(),
                operators: plan.operators,
            },
            partitions: written.partitions,
        }
    }
}

/// Drives one partition to its end. The plan itself writes the rows to the attempt's output; none arrives here.
async fn drain(mut rows: SendableRecordBatchStream) -> Result<(), Failure> {
    while let Some(batch) = rows.next().await {
        batch.map_err(|error| failure::of(&error))?;
    }
    Ok(())
}

/// Waits for all partitions, or for the first that fails.
async fn join_all(key: AttemptKey, partitions: &mut JoinSet<Result<(), Failure>>) -> Result<(), Failure> {
    while let Some(ended) = partitions.join_next().await {
        ended.unwrap_or_else(|error| Err(join_failure(key, error)))?;
    }
    Ok(())
}

/// The numbers of all partitions that the plan may write.
fn output_partitions(plan: &dyn ExecutionPlan, launched: &[u32]) -> Result<Vec<u32>, Failure> {
    let write = plan
        .downcast_ref::<ShuffleWriteExec>()
        .ok_or_else(|| Failure::internal("a stage plan does not end in a shuffle write"))?;
    let count = match write.partitioning() {
        WritePartitioning::Hash { partitions, .. } => *partitions,
        WritePartitioning::Identity if !launched.is_empty() => return Ok(launched.to_vec()),
        WritePartitioning::Identity => plan.output_partitioning().partition_count(),
    };
    let count = u32::try_from(count).map_err(|_| Failure::internal(format!("a stage plan has {count} partitions")))?;
    Ok((0..count).collect())
}

fn stop_failure() -> Failure {
    Failure::new(FailureKind::Cancelled, "the attempt was told to stop")
}

fn join_failure(key: AttemptKey, error: JoinError) -> Failure {
    match error.try_into_panic() {
        Ok(panic) => panic_failure(key, panic.as_ref()),
        Err(_) => stop_failure(),
    }
}

/// A panic in a plan is a bug, of Squadron or of DataFusion, that must not fail other queries.
fn panic_failure(key: AttemptKey, panic: &(dyn Any + Send)) -> Failure {
    let said = panic_message(panic).unwrap_or("no message");
    Failure::internal(format!("attempt {key} panicked: {said}"))
}
