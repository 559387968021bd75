//! When yields end polls, how they cut slices, and that results stay the same.

use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlanProperties, collect};
use datafusion::prelude::SessionContext;
use futures::stream;

use super::*;
use crate::meter::Meter;
use crate::testing::{ROWS_PER_BATCH, batch};
use crate::usage::{Usage, measure, thread_cpu_time};

/// Keeps the processor busy for `time` of this thread's CPU time.
fn work(time: Duration) {
    let until = thread_cpu_time() + time;
    while thread_cpu_time() < until {
        std::hint::spin_loop();
    }
}

/// A stream whose batches are always ready.
fn rows(batches: usize) -> SendableRecordBatchStream {
    let rows = stream::iter(0..batches).map(|_| Ok(batch()));
    Box::pin(RecordBatchStreamAdapter::new(batch().schema(), rows))
}

fn yield_stream(batches: usize, slices: Option<Slices>) -> YieldStream {
    YieldStream {
        rows: rows(batches),
        slices,
        ended_poll: None,
        meter: Arc::new(Meter::new(1)),
        partition: 0,
    }
}

/// Polls `future` to its end in a task of an attempt. Returns its output and the number of polls.
async fn count_polls<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> (T, usize) {
    let count = Arc::new(AtomicUsize::new(0));
    let mut future = Box::pin(future);
    let counted = {
        let count = Arc::clone(&count);
        std::future::poll_fn(move |context| {
            count.fetch_add(1, Ordering::Relaxed);
            future.as_mut().poll(context)
        })
    };
    let output = measure(Arc::new(Usage::default()), counted).await;
    (output, count.load(Ordering::Relaxed))
}

#[tokio::test]
async fn poll_ends_after_one_quantum() {
    let mut slow = yield_stream(10, None);
    let slow = async move {
        let mut count = 0;
        while slow.next().await.is_some() {
            count += 1;
            work(QUANTUM);
        }
        count
    };
    assert_eq!(count_polls(slow).await, (10, 11));
    let mut fast = yield_stream(10, None);
    let fast = async move {
        let mut count = 0;
        while fast.next().await.is_some() {
            count += 1;
        }
        count
    };
    let (count, polls) = count_polls(fast).await;
    assert_eq!(count, 10);
    assert!(polls < 10, "{polls}");
}

#[tokio::test]
async fn blocking_consumer_finishes_in_one_poll() {
    let mut stream = yield_stream(3, None);
    let blocking = async move {
        work(QUANTUM);
        futures::executor::block_on(async { while stream.next().await.is_some() {} });
    };
    assert_eq!(count_polls(blocking).await.1, 1);
}

#[tokio::test]
async fn slices_adapt_to_their_cost() {
    let mut stream = yield_stream(20, Some(Slices::default()));
    let taken = async move {
        let mut sizes = Vec::new();
        while let Some(slice) = stream.next().await {
            let rows = slice.unwrap().num_rows();
            sizes.push(rows);
            let is_late = sizes.iter().sum::<usize>() > 10 * ROWS_PER_BATCH;
            if is_late && !sizes[1..].contains(&1) {
                work(4 * QUANTUM);
            }
        }
        sizes
    };
    let (sizes, _) = count_polls(taken).await;
    assert_eq!(sizes[..3], [1, GROWTH, GROWTH * GROWTH], "{sizes:?}");
    assert!(sizes.contains(&ROWS_PER_BATCH), "{sizes:?}");
    let full = sizes.iter().position(|rows| *rows == ROWS_PER_BATCH);
    assert!(sizes[full.unwrap()..].contains(&1), "{sizes:?}");
    assert_eq!(sizes.iter().sum::<usize>(), 20 * ROWS_PER_BATCH);
}

#[tokio::test]
async fn yields_slice_only_filtered_probe_sides() {
    let context = SessionContext::new();
    let mut counts = Vec::new();
    for condition in [
        "a.value = b.value",
        "a.value = b.value AND a.value + b.value > 7",
        "a.value < b.value",
    ] {
        let sql =
            format!("SELECT a.value, b.value FROM generate_series(1, 9) a JOIN generate_series(1, 9) b ON {condition}");
        let query = context.sql(&sql).await.unwrap();
        let plan = with_yields(query.create_physical_plan().await.unwrap()).unwrap();
        counts.push(count(&plan));
    }
    let cut: Vec<_> = counts.iter().map(|(_, _, cut)| *cut).collect();
    assert_eq!(cut, [0, 1, 1]);
    for (operators, yields, _) in counts {
        assert_eq!(operators, yields + 1, "all but the root stand on a yield");
    }
}

/// How many operators, yields between them, and yields that cut slices `plan` has.
fn count(plan: &Arc<dyn ExecutionPlan>) -> (usize, usize, usize) {
    let children = plan.children().into_iter().map(count);
    let below = children.fold((0, 0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1, sum.2 + of.2));
    match plan.downcast_ref::<YieldExec>() {
        Some(yields) => (below.0, below.1 + 1, below.2 + usize::from(yields.is_cut)),
        None => (below.0 + 1, below.1, below.2),
    }
}

/// The same rows, in the same order where there is one, with as many partitions.
#[tokio::test]
async fn yields_preserve_rows_and_order() {
    let context = SessionContext::new();
    for sql in [
        "SELECT value % 7 AS k, count(*) FROM generate_series(1, 100000) GROUP BY k ORDER BY k",
        "SELECT a.value, b.value FROM generate_series(1, 300) a JOIN generate_series(1, 300) b ON a.value < b.value
         ORDER BY 1, 2",
        "SELECT a.value, b.value FROM generate_series(1, 3000) a LEFT JOIN generate_series(1, 3000) b
         ON a.value % 100 = b.value % 100 AND a.value + b.value > 5500 ORDER BY 1, 2",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 100) SELECT sum(n) FROM t",
        "SELECT value, (SELECT max(value) FROM generate_series(1, 10)) FROM generate_series(1, 10) ORDER BY value DESC LIMIT 3",
        "SELECT value FROM generate_series(1, 10) UNION ALL SELECT value FROM generate_series(5, 20) ORDER BY 1",
        "SELECT value, sum(value) OVER (ORDER BY value ROWS 3 PRECEDING) FROM generate_series(1, 1000) ORDER BY 1",
    ] {
        let plan = || async {
            let query = context.sql(sql).await.unwrap();
            query.create_physical_plan().await.unwrap()
        };
        let expected = collect(plan().await, context.task_ctx()).await.unwrap();
        let plan = plan().await;
        let partitions = plan.output_partitioning().partition_count();
        let plan = with_yields(plan).unwrap();
        assert_eq!(plan.output_partitioning().partition_count(), partitions);
        let rows = collect(plan, context.task_ctx());
        let rows = measure(Arc::new(Usage::default()), rows).await.unwrap();
        let text = |batches: &[RecordBatch]| {
            let text = datafusion::arrow::util::pretty::pretty_format_batches(batches);
            text.unwrap().to_string()
        };
        assert_eq!(text(&rows), text(&expected), "{sql}");
    }
}
