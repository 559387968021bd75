//! The reader's side of one partition.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arrow::array::RecordBatch;
use datafusion::common::runtime::SpawnedTask;
use futures::{FutureExt, Stream};
use squadron_proto::Failure;

use super::batch_store::StoredBatch;
use super::output::Output;
use super::partition::Partition;

/// The rows of one partition, in the order they were written; waits for more while the writer writes. Ends only after
/// the writer completed the partition: any other end is an error, after which the stream is over.
///
/// Must be polled inside a tokio runtime, whose blocking threads read batches from disk. Dropping the reader of a
/// streamed partition before its end makes its writer's pushes fail as Cancelled.
#[derive(Debug)]
pub struct PartitionReader {
    output: Arc<Output>,
    partition: Arc<Partition>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Next is the batch at this position.
    At(usize),
    /// The batch before this position is being read from disk.
    Loading(SpawnedTask<Result<RecordBatch, Failure>>, usize),
    Ended,
}

impl PartitionReader {
    pub(super) fn new(output: Arc<Output>, partition: Arc<Partition>) -> Self {
        Self {
            output,
            partition,
            state: State::At(0),
        }
    }
}

impl Stream for PartitionReader {
    type Item = Result<RecordBatch, Failure>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::At(position) => {
                    let next = *position + 1;
                    let entry = match ready!(this.partition.poll_entry(*position, cx)) {
                        Some(Ok(entry)) => entry,
                        Some(Err(failure)) => {
                            this.state = State::Ended;
                            return Poll::Ready(Some(Err(failure)));
                        }
                        None => {
                            this.state = State::Ended;
                            return Poll::Ready(None);
                        }
                    };
                    this.output.count_read(&entry);
                    match entry.stored {
                        StoredBatch::Memory { batch, .. } => {
                            this.state = State::At(next);
                            return Poll::Ready(Some(Ok(batch)));
                        }
                        StoredBatch::Disk(batch) => {
                            let load = SpawnedTask::spawn_blocking(move || batch.read());
                            this.state = State::Loading(load, next);
                        }
                    }
                }
                State::Loading(load, next) => {
                    let loaded = match ready!(load.poll_unpin(cx)) {
                        Ok(loaded) => loaded,
                        Err(error) => Err(Failure::internal(format!("reading a spilled batch stopped: {error}"))),
                    };
                    this.state = match loaded {
                        Ok(_) => State::At(*next),
                        Err(_) => State::Ended,
                    };
                    return Poll::Ready(Some(loaded));
                }
                State::Ended => return Poll::Ready(None),
            }
        }
    }
}

impl Drop for PartitionReader {
    fn drop(&mut self) {
        self.output.detach(&self.partition);
    }
}
