//! The rows of one partition of a read node: those of this process, then those of other processes.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::execution::RecordBatchStream;
use datafusion::physical_plan::metrics::{BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder};
use futures::{Stream, StreamExt};
use squadron_proto::Failure;

use super::demux::RemotePartition;
use crate::failure::into_datafusion;
use crate::store::PartitionReader;

/// The metric of [`crate::ShuffleReadExec`] that counts the bytes from other processes.
pub const FETCHED_BYTES: &str = "fetched_bytes";

/// Frees its batches and stops its fetch on drop.
pub(super) struct PartitionStream {
    schema: SchemaRef,
    local: VecDeque<PartitionReader>,
    remote: Option<RemotePartition>,
    failed: bool,
    metrics: BaselineMetrics,
    fetched_bytes: Count,
}

impl PartitionStream {
    pub(super) fn new(
        schema: SchemaRef,
        local: VecDeque<PartitionReader>,
        remote: Option<RemotePartition>,
        metrics: &ExecutionPlanMetricsSet,
        partition: usize,
    ) -> Self {
        Self {
            schema,
            local,
            remote,
            failed: false,
            metrics: BaselineMetrics::new(metrics, partition),
            fetched_bytes: MetricBuilder::new(metrics).counter(FETCHED_BYTES, partition),
        }
    }

    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<RecordBatch, Failure>>> {
        if let Some(remote) = &self.remote {
            // Other processes send while this process's rows are read.
            remote.start();
        }
        while let Some(reader) = self.local.front_mut() {
            match reader.poll_next_unpin(cx) {
                Poll::Ready(None) => drop(self.local.pop_front()),
                next => return next,
            }
        }
        match &mut self.remote {
            Some(remote) => remote.poll_batch(&self.fetched_bytes, cx),
            None => Poll::Ready(None),
        }
    }
}

impl Stream for PartitionStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.failed {
            return Poll::Ready(None);
        }
        let elapsed = self.metrics.elapsed_compute().clone();
        let timer = elapsed.timer();
        let next = self.poll_batch(cx);
        drop(timer);
        if matches!(next, Poll::Ready(Some(Err(_)))) {
            self.failed = true;
            self.local.clear();
            self.remote = None;
        }
        let next = next.map(|next| next.map(|batch| batch.map_err(into_datafusion)));
        self.metrics.record_poll(next)
    }
}

impl RecordBatchStream for PartitionStream {
    fn schema(&self) -> SchemaRef {
        SchemaRef::clone(&self.schema)
    }
}
