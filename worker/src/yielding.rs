//! Makes every operator of a plan give its thread back every few milliseconds, so that a cancel takes effect.
//!
//! ```text
//! operator ── YieldExec ── operator ── YieldExec ── leaf
//!                 └ polled after the task's poll has taken long: Pending, and a wake-up
//! ```
//!
//! Operators run until a leaf makes them wait, and DataFusion's leaves count batches (128 of them), not time: a join
//! that makes a million rows of each batch goes on for minutes. [`YieldExec`] stands between any two operators and ends
//! a poll that has taken a quantum; a cancelled task then ends, and other tasks get the thread.
//!
//! A join whose filter rejects most pairs looks at all pairs of a probe batch without polling an input. Its probe side
//! is cut to slices: few rows first, then as many as the join works on for a quantum.
//!
//! Every operator's rows and polls pass here, so they are counted here too, for `EXPLAIN ANALYZE` ([`Meter`]).
//!
//! Work inside one operator on rows that it has collected is not interrupted: see ARCHITECTURE.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties};
use futures::{Stream, StreamExt};

use crate::meter::Meter;
use crate::scan_errors::with_file_names;
use crate::usage::{Stopwatch, poll_start};

/// How long a poll may take before the next request for rows ends it. Long against the cost of a switch, short against
/// what a person notices.
const QUANTUM: Duration = Duration::from_millis(10);

/// Slices grow by this factor while the join takes less than a quantum divided by it for each.
const GROWTH: usize = 4;

/// `plan` with a [`YieldExec`] below each of its operators.
pub(crate) fn with_yields(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let children = plan.children();
    if children.is_empty() {
        return Ok(plan);
    }
    let cut_child = cut_child(plan.as_ref());
    let children = children.into_iter().cloned().enumerate();
    let children = children.map(|(index, child)| {
        let input = with_yields(child)?;
        let is_cut = cut_child == Some(index);
        Ok(Arc::new(YieldExec::new(input, is_cut)) as Arc<dyn ExecutionPlan>)
    });
    let children = children.collect::<Result<Vec<_>>>()?;
    // A node's properties are those of its input, so nothing has to be derived anew.
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
    plan.replace_children(children, options)
}

/// Ends the task's poll if it has taken a quantum: for loops that wait for nothing.
pub(crate) async fn give_way() {
    if poll_start().is_some_and(|started| started.elapsed() >= QUANTUM) {
        tokio::task::yield_now().await;
    }
}

/// The child on whose batches an operator may work for long without polling an input: the probe side of a join with a
/// filter. Such a join makes new arrays of the rows that pass, so no operator counts a whole batch for a slice.
fn cut_child(plan: &dyn ExecutionPlan) -> Option<usize> {
    let is_filtered_join = plan.is::<NestedLoopJoinExec>()
        || plan
            .downcast_ref::<HashJoinExec>()
            .is_some_and(|join| join.filter().is_some());
    is_filtered_join.then_some(1)
}

/// Passes the rows of its input on, but ends a poll that has taken too long.
#[derive(Debug)]
pub(crate) struct YieldExec {
    input: Arc<dyn ExecutionPlan>,
    /// Whether batches are cut to slices.
    is_cut: bool,
    meter: Arc<Meter>,
}

impl YieldExec {
    /// Passes the rows of `input` on, in slices if `is_cut`.
    pub(crate) fn new(input: Arc<dyn ExecutionPlan>, is_cut: bool) -> Self {
        let partitions = input.output_partitioning().partition_count();
        Self {
            input,
            is_cut,
            meter: Arc::new(Meter::new(partitions)),
        }
    }

    /// What has passed.
    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// The operator whose rows it passes on.
    pub(crate) fn input(&self) -> &Arc<dyn ExecutionPlan> {
        &self.input
    }
}

impl DisplayAs for YieldExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "YieldExec")
    }
}

impl ExecutionPlan for YieldExec {
    fn name(&self) -> &'static str {
        "YieldExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
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

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (Some(input), true) = (children.pop(), children.is_empty()) else {
            return internal_err!("{} has one child", self.name());
        };
        // A recursive query makes its plan anew for each step: the steps count together.
        let (is_cut, meter) = (self.is_cut, Arc::clone(&self.meter));
        Ok(Arc::new(Self { input, is_cut, meter }))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        Ok(Box::pin(YieldStream {
            rows: with_file_names(&self.input, partition, self.input.execute(partition, context)?),
            slices: self.is_cut.then(Slices::default),
            ended_poll: None,
            meter: Arc::clone(&self.meter),
            partition,
        }))
    }
}

struct YieldStream {
    rows: SendableRecordBatchStream,
    slices: Option<Slices>,
    /// The start of the last poll that this stream ended.
    ended_poll: Option<Instant>,
    meter: Arc<Meter>,
    partition: usize,
}

impl YieldStream {
    /// Whether to end the current poll. Never twice: a caller that polls again within it waits for nothing else.
    fn ends_poll(&mut self) -> bool {
        let overlong = poll_start().filter(|started| started.elapsed() >= QUANTUM);
        let ends = overlong.is_some() && overlong != self.ended_poll;
        if ends {
            self.ended_poll = overlong;
        }
        ends
    }

    fn poll_rows(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<RecordBatch>>> {
        // Before the poll ends: the cost of the last slice is measured within it.
        if let Some(slices) = &mut self.slices {
            slices.adapt();
        }
        if self.ends_poll() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Self { rows, slices, .. } = self;
        match slices {
            None => rows.poll_next_unpin(context),
            Some(slices) => slices.poll_next(rows, context),
        }
    }
}

impl Stream for YieldStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = Instant::now();
        let outcome = self.poll_rows(context);
        self.meter.record(self.partition, polled.elapsed(), &outcome);
        outcome
    }
}

impl RecordBatchStream for YieldStream {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }
}

/// Cuts batches to so many rows that the consumer works on each slice for about a quantum.
#[derive(Debug)]
struct Slices {
    limit: usize,
    /// The rows of the current batch that have not been handed out.
    rest: Option<RecordBatch>,
    /// How many rows the last slice had, and the time since it was handed out.
    handed_out: Option<(usize, Stopwatch)>,
}

impl Default for Slices {
    /// One row first: it may have to be compared with millions.
    fn default() -> Self {
        Self {
            limit: 1,
            rest: None,
            handed_out: None,
        }
    }
}

impl Slices {
    fn poll_next(
        &mut self,
        rows: &mut SendableRecordBatchStream,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<RecordBatch>>> {
        let batch = match self.rest.take() {
            Some(rest) => rest,
            None => match rows.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(batch))) => batch,
                other => return other,
            },
        };
        let count = batch.num_rows().min(self.limit);
        if count < batch.num_rows() {
            self.rest = Some(batch.slice(count, batch.num_rows() - count));
        }
        if count > 0 {
            self.handed_out = Stopwatch::start().map(|watch| (count, watch));
        }
        Poll::Ready(Some(Ok(batch.slice(0, count))))
    }

    /// Chooses the size of the next slice by what the last one cost its consumer.
    fn adapt(&mut self) {
        let Some((rows, watch)) = self.handed_out.take() else {
            return;
        };
        let cost = watch.elapsed();
        if cost > QUANTUM {
            let fitting = rows as f64 * QUANTUM.as_secs_f64() / cost.as_secs_f64();
            self.limit = (fitting as usize).max(1);
        } else if cost < QUANTUM / GROWTH as u32 && rows >= self.limit {
            self.limit = self.limit.saturating_mul(GROWTH);
        }
    }
}

#[cfg(test)]
mod tests;
