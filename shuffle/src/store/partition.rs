//! One partition of one output: its batches, whether more will come, and the readers that wait for them.
//!
//! | phase | readers see | ends by |
//! |---|---|---|
//! | `Writing` | the batches so far, then wait | `finish` or `fail` |
//! | `Finished` | all batches, then the end | `fail`, when it is released |
//! | `Failed` | the failure, at once; its rows are freed | |

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use arrow::array::RecordBatch;
use squadron_proto::control::OutputMode;
use squadron_proto::{Failure, FailureKind};

use super::batch_store::StoredBatch;

#[derive(Debug)]
pub(super) struct Partition {
    mode: OutputMode,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    entries: VecDeque<Entry>,
    /// How many batches were before the first of `entries`: a streamed batch that was read is removed.
    removed: usize,
    rows: u64,
    bytes: u64,
    reader: Reader,
    wakers: Vec<Waker>,
}

#[derive(Debug)]
enum Phase {
    Writing,
    Finished,
    Failed(Failure),
}

/// The one reader of a streamed partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Expected,
    Attached,
    Gone,
}

/// One batch of a partition.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) stored: StoredBatch,
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

impl Partition {
    pub(super) fn new(mode: OutputMode) -> Self {
        Self {
            mode,
            state: Mutex::new(State {
                phase: Phase::Writing,
                entries: VecDeque::new(),
                removed: 0,
                rows: 0,
                bytes: 0,
                reader: Reader::Expected,
                wakers: Vec::new(),
            }),
        }
    }

    /// Registers a reader.
    ///
    /// # Errors
    /// NotFound when a streamed partition has had its reader.
    pub(super) fn attach(&self) -> Result<(), Failure> {
        let mut state = self.lock();
        if self.mode == OutputMode::Streamed && state.reader != Reader::Expected {
            return Err(Failure::new(
                FailureKind::NotFound,
                "these rows were handed out before and are not kept; run the statement again",
            ));
        }
        state.reader = Reader::Attached;
        Ok(())
    }

    /// Ends a reader, at the end of the partition or before. Returns the bytes that this frees: the unread rows of a
    /// streamed partition.
    pub(super) fn detach(&self) -> u64 {
        if self.mode == OutputMode::Retained {
            return 0;
        }
        let mut state = self.lock();
        state.reader = Reader::Gone;
        let unread = state.take_entries();
        unread.iter().map(|entry| entry.bytes).sum()
    }

    /// Appends a batch.
    ///
    /// # Errors
    /// Cancelled when no reader will read it.
    pub(super) fn append(&self, entry: Entry) -> Result<(), Failure> {
        let mut state = self.lock();
        state.check_wanted()?;
        state.rows += entry.rows;
        state.bytes += entry.bytes;
        state.entries.push_back(entry);
        state.wake();
        Ok(())
    }

    /// Whether the partition holds no batch now.
    ///
    /// # Errors
    /// Cancelled when no reader will read another batch.
    pub(super) fn is_empty(&self) -> Result<bool, Failure> {
        let state = self.lock();
        state.check_wanted()?;
        Ok(state.entries.is_empty())
    }

    /// Completes the partition. Returns whether it was being written.
    pub(super) fn finish(&self) -> bool {
        let mut state = self.lock();
        let was_writing = matches!(state.phase, Phase::Writing);
        if was_writing {
            state.phase = Phase::Finished;
            state.wake();
        }
        was_writing
    }

    /// Takes all batches out; from now on readers get `failure`, and writers Cancelled.
    #[must_use = "the batches are freed when they are dropped, which may wait for the disk"]
    pub(super) fn fail(&self, failure: &Failure) -> VecDeque<Entry> {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Failed(_)) {
            return VecDeque::new();
        }
        state.phase = Phase::Failed(failure.clone());
        state.wake();
        state.take_entries()
    }

    /// Rows and bytes written.
    ///
    /// # Errors
    /// When the partition failed.
    pub(super) fn size(&self) -> Result<(u64, u64), Failure> {
        let state = self.lock();
        match &state.phase {
            Phase::Failed(failure) => Err(failure.clone()),
            Phase::Writing | Phase::Finished => Ok((state.rows, state.bytes)),
        }
    }

    /// Replaces the last batch in memory before position `end` by what `write` makes of it. Readers come to the last
    /// batches last. Returns its position; none when no batch before `end` is in memory.
    pub(super) fn move_last(
        &self,
        end: usize,
        write: impl FnOnce(RecordBatch) -> Result<StoredBatch, Failure>,
    ) -> Result<Option<usize>, Failure> {
        let in_memory = |entry: &Entry| match &entry.stored {
            StoredBatch::Memory { batch, .. } => Some(batch.clone()),
            StoredBatch::Disk(_) => None,
        };
        let last = {
            let state = self.lock();
            let after = end.min(state.removed + state.entries.len());
            let mut positions = (state.removed..after).rev();
            positions.find_map(|position| Some((position, in_memory(&state.entries[position - state.removed])?)))
        };
        let Some((position, batch)) = last else {
            return Ok(None);
        };
        // Readers go on meanwhile.
        let moved = write(batch)?;
        let mut state = self.lock();
        let index = position.checked_sub(state.removed);
        if let Some(entry) = index.and_then(|index| state.entries.get_mut(index)) {
            entry.stored = moved;
        }
        Ok(Some(position))
    }

    /// The batch at `position`, or `None` after the last; a streamed batch is removed.
    pub(super) fn poll_entry(&self, position: usize, cx: &mut Context<'_>) -> Poll<Option<Result<Entry, Failure>>> {
        let mut state = self.lock();
        if let Phase::Failed(failure) = &state.phase {
            return Poll::Ready(Some(Err(failure.clone())));
        }
        let next = match self.mode {
            OutputMode::Retained => state.entries.get(position).cloned(),
            OutputMode::Streamed => state.pop_entry(),
        };
        match (next, &state.phase) {
            (Some(entry), _) => Poll::Ready(Some(Ok(entry))),
            (None, Phase::Writing) => {
                if !state.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                    state.wakers.push(cx.waker().clone());
                }
                Poll::Pending
            }
            (None, Phase::Finished | Phase::Failed(_)) => Poll::Ready(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn check_wanted(&self) -> Result<(), Failure> {
        match self.phase {
            Phase::Writing if self.reader != Reader::Gone => Ok(()),
            Phase::Writing | Phase::Failed(_) => {
                Err(Failure::new(FailureKind::Cancelled, "nobody reads these rows any more"))
            }
            Phase::Finished => Err(Failure::internal("rows for a finished partition")),
        }
    }

    fn pop_entry(&mut self) -> Option<Entry> {
        let first = self.entries.pop_front();
        self.removed += usize::from(first.is_some());
        first
    }

    fn take_entries(&mut self) -> VecDeque<Entry> {
        self.removed += self.entries.len();
        std::mem::take(&mut self.entries)
    }

    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }
}
