//! Aggregates and sorts that have no choice get the memory that they ask for.
//!
//! ```text
//! AdaptedExec (AggregateExec or SortExec) ── LateInputExec ── input
//!      `─ runs it with a pool that grants       `─ tells the pool about each batch and the end
//! ```
//!
//! Both charge what they have taken already. Where that is refused while they read, they write what they hold to disk or
//! hand it on. DataFusion 55.2 fails where it is refused at another time, though such a refusal frees nothing:
//!
//! | who | for what |
//! |---|---|
//! | an aggregate | the table that it has emptied, before it reads on |
//! | | the result that it makes of a table of which nothing went to disk |
//! | | the few groups that it holds while it merges what went to disk |
//! | a sort | the sorted rows on their way to disk, before it reads on, and at the end of its input |
//!
//! The sorted rows of a sort are not charged then: it has charged each row twice when it came, and the sizes that it asks for
//! count bytes of texts as often as there are batches of sorted rows.
//!
//! That the merge of what went to disk is refused is right: it then reads fewer files at a time.
//!
//! The table of a partial aggregate is refused more than a cap too, if it then hands on fewer rows than it reads ([`cap`](super::cap)).

use std::fmt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::common::Result;
use datafusion::error::DataFusionError;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, SpillFile, SpillWriter, TaskContext, TempFileFactory};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{Stream, StreamExt, stream};
use squadron_shuffle::AttemptContext;

use super::adapted::{Adaptation, AdaptedExec};
use super::cap::Cap;
use crate::engine::running_context;
use crate::memory::consumers::{is_partial_table, is_sort, is_table};

const GRANTED: Adaptation = Adaptation {
    name: "GrantedExec",
    execute: execute_granted,
};

/// `plan`, if it is an aggregate with groups or a sort of all rows, with memory for what it has taken already.
pub(super) fn granted(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let aggregate = plan.downcast_ref::<AggregateExec>();
    let sort = plan.downcast_ref::<SortExec>();
    let is_affected = aggregate.is_some_and(|aggregate| !aggregate.group_expr().is_true_no_grouping())
        || sort.is_some_and(|sort| sort.fetch().is_none());
    is_affected.then(|| AdaptedExec::adapt(plan, GRANTED)).transpose()
}

/// Runs the operator in a context whose pool knows how far it has come.
fn execute_granted(
    operator: &AdaptedExec,
    partition: usize,
    context: Arc<TaskContext>,
) -> Result<SendableRecordBatchStream> {
    let phase = Arc::new(Phase::default());
    let granting = granting(&context, &phase)?;
    let reading = Arc::clone(&phase);
    let output = operator.run(partition, granting, context, |rows| observed(rows, reading))?;
    let schema = output.schema();
    let output = output.inspect(move |batch| phase.cap.hands_on(batch.as_ref().map_or(0, RecordBatch::num_rows)));
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, output)))
}

/// `rows`, of which `phase` hears.
fn observed(rows: SendableRecordBatchStream, phase: Arc<Phase>) -> SendableRecordBatchStream {
    let schema = rows.schema();
    let reading = Arc::clone(&phase);
    let rows = rows.inspect(move |batch| reading.reads_on(batch.as_ref().map_or(0, RecordBatch::num_rows)));
    let end = stream::poll_fn(move |_| {
        phase.input_ended.store(true, Ordering::Relaxed);
        Poll::Ready(None)
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, rows.chain(end)))
}

/// `context` with a memory pool and spill files that know how far the operator has come.
///
/// # Errors
/// Outside of an attempt.
fn granting(context: &TaskContext, phase: &Arc<Phase>) -> Result<Arc<TaskContext>> {
    let pool = GrantingPool {
        inner: Arc::clone(context.memory_pool()),
        phase: Arc::clone(phase),
    };
    let files = ObservedFiles {
        inner: AttemptContext::of(context)?.store.operator_files(),
        phase: Arc::clone(phase),
    };
    let disk = DiskManagerBuilder::default()
        .with_mode(DiskManagerMode::Custom(Arc::new(files)))
        .with_max_spill_merge_fan_in(context.runtime_env().disk_manager.max_spill_merge_fan_in());
    let runtime = RuntimeEnv {
        memory_pool: Arc::new(pool),
        disk_manager: Arc::new(disk.build()?),
        ..RuntimeEnv::clone(&context.runtime_env())
    };
    Ok(running_context(context.session_config().clone(), runtime))
}

/// How far one partition of an operator has come.
#[derive(Debug, Default)]
struct Phase {
    input_ended: AtomicBool,
    /// It was refused, so that some of its rows went to disk or were handed on.
    was_refused: AtomicBool,
    /// It was refused and has not read on since.
    gives_way: AtomicBool,
    /// What a sort was granted and not charged for, in bytes.
    uncharged: AtomicUsize,
    /// It reads what went to disk, and writes no file meanwhile: the last step of a merge, which asks for nothing more.
    merges: AtomicBool,
    /// Of a partial aggregate.
    cap: Cap,
}

impl Phase {
    /// Whether `consumer`, which was refused, would fail.
    fn has_no_choice(&self, consumer: &MemoryConsumer) -> bool {
        let (is_sort, is_table) = (is_sort(consumer), is_table(consumer));
        if !self.input_ended.load(Ordering::Relaxed) {
            return (is_sort || is_table) && self.gives_way.load(Ordering::Relaxed);
        }
        let never_merges = is_partial_table(consumer) || !self.was_refused.load(Ordering::Relaxed);
        is_sort || is_table && (never_merges || self.merges.load(Ordering::Relaxed))
    }

    fn refused(&self) {
        self.was_refused.store(true, Ordering::Relaxed);
        self.gives_way.store(true, Ordering::Relaxed);
    }

    /// Of `bytes` that a sort gives back, how many were never charged.
    fn give_back_uncharged(&self, bytes: usize) -> usize {
        let rest = |uncharged: usize| Some(uncharged - uncharged.min(bytes));
        let before = self
            .uncharged
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest)
            .unwrap_or_default();
        before.min(bytes)
    }

    fn reads_on(&self, rows: usize) {
        self.cap.reads(rows);
        self.gives_way.store(false, Ordering::Relaxed);
    }
}

/// The pool of an attempt as one partition of an operator sees it.
#[derive(Debug)]
struct GrantingPool {
    inner: Arc<dyn MemoryPool>,
    phase: Arc<Phase>,
}

impl fmt::Display for GrantingPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl MemoryPool for GrantingPool {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.inner.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.inner.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.inner.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        let uncharged = match is_sort(reservation.consumer()) {
            true => self.phase.give_back_uncharged(shrink),
            false => 0,
        };
        self.inner.shrink(reservation, shrink - uncharged);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let consumer = reservation.consumer();
        if is_partial_table(consumer)
            && !self.phase.has_no_choice(consumer)
            && self.phase.cap.refuses(reservation.size() + additional)
        {
            self.phase.refused();
            return Err(DataFusionError::ResourcesExhausted(
                "the table hands its groups on".to_owned(),
            ));
        }
        let Err(refused) = self.inner.try_grow(reservation, additional) else {
            return Ok(());
        };
        if self.phase.has_no_choice(reservation.consumer()) {
            match is_sort(reservation.consumer()) {
                true => _ = self.phase.uncharged.fetch_add(additional, Ordering::Relaxed),
                false => self.inner.grow(reservation, additional),
            }
            return Ok(());
        }
        self.phase.refused();
        Err(refused)
    }

    fn reserved(&self) -> usize {
        self.inner.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.inner.memory_limit()
    }
}

/// The spill files of one partition of an operator.
struct ObservedFiles {
    inner: Arc<dyn TempFileFactory>,
    phase: Arc<Phase>,
}

impl TempFileFactory for ObservedFiles {
    fn create_temp_file(&self, description: &str) -> Result<Arc<dyn SpillFile>> {
        self.phase.merges.store(false, Ordering::Relaxed);
        Ok(Arc::new(ObservedFile {
            inner: self.inner.create_temp_file(description)?,
            phase: Arc::clone(&self.phase),
        }))
    }
}

struct ObservedFile {
    inner: Arc<dyn SpillFile>,
    phase: Arc<Phase>,
}

impl SpillFile for ObservedFile {
    fn path(&self) -> Option<&Path> {
        self.inner.path()
    }

    fn size(&self) -> Option<u64> {
        self.inner.size()
    }

    fn read_stream(&self) -> Result<Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>> {
        self.phase.merges.store(true, Ordering::Relaxed);
        self.inner.read_stream()
    }

    fn open_writer(&self) -> Result<Box<dyn SpillWriter>> {
        self.inner.open_writer()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::GreedyMemoryPool;

    use super::*;

    fn pool() -> (Arc<Phase>, Arc<dyn MemoryPool>) {
        let phase = Arc::new(Phase::default());
        let pool = GrantingPool {
            inner: Arc::new(GreedyMemoryPool::new(100)),
            phase: Arc::clone(&phase),
        };
        (phase, Arc::new(pool))
    }

    #[test]
    fn table_that_was_emptied_is_granted_until_it_reads_on() {
        let (phase, pool) = pool();
        let table = MemoryConsumer::new("FinalHashAggregateStream[0]").register(&pool);
        table.try_grow(90).unwrap();
        table.try_grow(20).expect_err("it can give way");
        table.try_grow(20).expect("it has given way");
        phase.reads_on(1);
        table.try_grow(20).expect_err("it can give way again");
        phase.reads_on(1);
        phase.input_ended.store(true, Ordering::Relaxed);
        table.try_grow(50).expect_err("the merge can do with less");
        phase.merges.store(true, Ordering::Relaxed);
        table.try_grow(50).expect("the merged groups are held already");
    }

    #[test]
    fn result_of_table_in_memory_is_granted() {
        let (phase, pool) = pool();
        let table = MemoryConsumer::new("FinalHashAggregateStream[0]").register(&pool);
        let other = MemoryConsumer::new("TopK[0]").register(&pool);
        table.try_grow(100).unwrap();
        phase.input_ended.store(true, Ordering::Relaxed);
        table.try_grow(50).unwrap();
        other.try_grow(1).expect_err("it is no table");
    }

    #[test]
    fn sort_is_granted_what_it_sorts() {
        let (phase, pool) = pool();
        let sort = MemoryConsumer::new("ExternalSorter[0]").register(&pool);
        let merge = MemoryConsumer::new("ExternalSorterMerge[0]").register(&pool);
        sort.try_grow(90).unwrap();
        sort.try_grow(20).expect_err("it can go to disk");
        let sorted = sort.split(40);
        sorted.try_grow(20).expect("its rows are on their way to disk");
        merge.try_grow(20).expect_err("it can merge fewer files");
        phase.reads_on(1);
        sort.try_grow(20).expect_err("it can go to disk again");
        phase.reads_on(1);
        phase.input_ended.store(true, Ordering::Relaxed);
        sort.try_grow(20).expect("it has all its rows");
        assert_eq!(pool.reserved(), 90, "what it was granted was charged before");
        drop((sort, sorted));
        assert_eq!(pool.reserved(), 0);
    }
}
