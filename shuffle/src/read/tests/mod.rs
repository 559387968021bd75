//! Tests of the whole path of rows: written by one node, served, fetched and read by another, over real sockets.

mod cluster;
mod loss;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use datafusion::common::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::expressions::col;
use datafusion::physical_expr::{LexOrdering, Partitioning, PhysicalSortExpr};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use futures::StreamExt;
use squadron_proto::control::Release;
use squadron_proto::{FailureKind, StageId};

use crate::testing::{key, number_rows, numbers, samples, without_columns};
use crate::{ShuffleReadExec, ShuffleWriteExec, WritePartitioning};
use cluster::{Node, by_number, collect, collect_all, kind, read, rows, scan, sort, wait_until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hash_partitions_merge_two_processes() {
    let (here, there) = (Node::new(None, 1 << 20), Node::new(None, 1 << 20));
    let inputs = [
        [rows(0, 20_000), rows(20_000, 20_000)],
        [rows(40_000, 20_000), rows(60_000, 20_000)],
    ];
    let mut total = 0;
    for (node, task) in [(&here, 0), (&there, 1)] {
        let input = &inputs[task as usize];
        let written = node.write(key(1, task), vec![0, 1], input, by_number(5)).await.unwrap();
        assert_eq!(written.partitions.len(), 5);
        total += written.partitions.iter().map(|partition| partition.rows).sum::<u64>();
    }
    assert_eq!(total, 80_000);
    let context = here.consumer(vec![here.producer(0, 0..5), there.producer(1, 0..5)]);
    let plan = read(number_rows(0, 1).schema(), 5);
    let read = collect_all(&plan, &context).await;

    // DataFusion itself would send the rows to the same partitions.
    let all = scan(&inputs.concat());
    let WritePartitioning::Hash { exprs, partitions } = by_number(5) else {
        unreachable!()
    };
    let reference = RepartitionExec::try_new(all, Partitioning::Hash(exprs, partitions)).unwrap();
    let reference = collect_all(&reference, &Arc::new(TaskContext::default())).await;
    for (read, reference) in read.iter().zip(&reference) {
        assert_eq!(sort(numbers(read)), sort(numbers(reference)));
        let few = read.iter().filter(|batch| batch.num_rows() < 4000).count();
        assert!(few <= 8, "{few} of {} batches are small", read.len());
    }
    let metrics = plan.metrics().unwrap();
    assert_eq!(metrics.output_rows(), Some(80_000));
    assert!(metrics.sum_by_name("fetched_bytes").unwrap().as_usize() > 1_000_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identity_keeps_partitions_and_order() {
    let (here, there) = (Node::new(None, 1 << 20), Node::new(None, 1 << 20));
    let near = [rows(0, 5_000), rows(5_000, 5_000)];
    let far = [rows(10_000, 5_000)];
    here.write(key(1, 0), vec![0, 2], &near, WritePartitioning::Identity)
        .await
        .unwrap();
    there
        .write(key(1, 1), vec![1], &far, WritePartitioning::Identity)
        .await
        .unwrap();
    let context = here.consumer(vec![here.producer(0, [0, 2]), there.producer(1, [1])]);
    let schema = number_rows(0, 1).schema();
    let order = PhysicalSortExpr::new_default(col("number", &schema).unwrap());
    let plan = ShuffleReadExec::new(
        StageId(1),
        Arc::clone(&schema),
        Partitioning::UnknownPartitioning(3),
        LexOrdering::new([order]),
    );
    let read = collect_all(&plan, &context).await;
    for (partition, start) in [(0, 0), (1, 10_000), (2, 5_000)] {
        assert_eq!(numbers(&read[partition]), (start..start + 5_000).collect::<Vec<_>>());
    }
    assert!(
        Arc::ptr_eq(read[0][0].column(0), near[0][0].column(0)),
        "batches are not copied"
    );

    let part = plan.with_partitions(vec![2, 1]).unwrap();
    assert!(part.properties().output_ordering().is_some());
    let read = collect_all(&part, &context).await;
    assert_eq!(numbers(&read[0])[0], 5_000);
    assert_eq!(numbers(&read[1])[0], 10_000);
    assert!(part.with_partitions(vec![0]).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ordered_read_refuses_several_producers() {
    let here = Node::new(None, 1 << 20);
    for task in 0..2 {
        here.write(key(1, task), vec![0], &[rows(0, 1000)], WritePartitioning::Identity)
            .await
            .unwrap();
    }
    let context = here.consumer(vec![here.producer(0, [0]), here.producer(1, [0])]);
    let schema = number_rows(0, 1).schema();
    let order = PhysicalSortExpr::new_default(col("number", &schema).unwrap());
    let one = Partitioning::UnknownPartitioning(1);
    let plan = ShuffleReadExec::new(StageId(1), schema, one, LexOrdering::new([order]));
    let error = plan.execute(0, context).err().unwrap();
    assert_eq!(kind(&error), FailureKind::Internal);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequential_skewed_reads_stay_bounded() {
    let budget = 256 * 1024;
    let (here, there) = (Node::new(None, budget), Node::new(None, budget));
    // One partition has most of the rows, and one stream mixes two outputs.
    for (task, start) in [(0, 0), (1, 100_000)] {
        let input = [
            rows(start, 60_000),
            rows(start + 60_000, 10_000),
            rows(start + 70_000, 30_000),
        ];
        there
            .write(key(1, task), vec![0, 1, 2], &input, WritePartitioning::Identity)
            .await
            .unwrap();
    }
    for first in [2, 0, 1] {
        let producers = vec![there.producer(0, 0..3), there.producer(1, 0..3)];
        let context = here.consumer(producers);
        let plan = read(number_rows(0, 1).schema(), 3);
        let streams = (0..3).map(|partition| plan.execute(partition, Arc::clone(&context)));
        let mut streams: Vec<_> = streams.map(Result::unwrap).map(Some).collect();
        let mut total = Vec::new();
        for partition in [first, (first + 1) % 3, (first + 2) % 3] {
            let mut stream = streams[partition].take().unwrap();
            while let Some(batch) = stream.next().await {
                total.extend(numbers(&[batch.unwrap()]));
                let held = here.test.store.usage().memory_bytes;
                assert!(held <= 3 * budget as u64, "{held} bytes in memory");
            }
        }
        assert_eq!(sort(total), (0..200_000).collect::<Vec<_>>());
        drop(plan);
        wait_until("everything is freed", || {
            let usage = here.test.store.usage();
            (usage.memory_bytes, usage.disk_bytes) == (0, 0)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fetched_rows_spill_without_memory() {
    let (here, there) = (Node::new(Some(1000), 1 << 20), Node::new(Some(1000), 1 << 20));
    let input = [rows(0, 30_000), rows(30_000, 30_000)];
    let written = there.write(key(1, 0), vec![0, 1], &input, by_number(4)).await.unwrap();
    assert!(written.spilled_bytes > 100_000);
    let context = here.consumer(vec![there.producer(0, 0..4)]);
    let plan = read(number_rows(0, 1).schema(), 4);
    let read = collect_all(&plan, &context).await.concat();
    assert_eq!(sort(numbers(&read)), (0..60_000).collect::<Vec<_>>());
    assert_eq!(here.test.pool.reserved(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_arrives_unchanged() {
    // With a budget of zero, every batch for a partition that is not hungry goes to disk.
    for budget in [1 << 20, 0] {
        let (here, there) = (Node::new(None, budget), Node::new(None, budget));
        for (name, batch) in samples() {
            let input = [vec![batch.clone(), batch.slice(0, 1)], vec![batch.clone()]];
            there
                .write(key(1, 0), vec![0, 1], &input, WritePartitioning::Identity)
                .await
                .unwrap();
            let context = here.consumer(vec![there.producer(0, 0..2)]);
            let plan = read(batch.schema(), 2);
            let (first, second) = (plan.execute(0, Arc::clone(&context)), plan.execute(1, context));
            let second = collect(second.unwrap()).await;
            for (read, sent) in [(collect(first.unwrap()).await, &input[0]), (second, &input[1])] {
                let schema = batch.schema();
                let together = |batches| concat_batches(&schema, batches).unwrap();
                assert_eq!(together(&read), together(sent), "{name}");
                assert!(read.iter().all(|batch| batch.schema() == schema), "{name}");
            }
            drop(there.test.store.take(&release()));
        }
    }
}

fn release() -> Release {
    Release {
        query: key(1, 0).query,
        stages: vec![],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columnless_rows_keep_their_count() {
    let (here, there) = (Node::new(None, 1 << 20), Node::new(None, 1 << 20));
    let input = [vec![without_columns(10), without_columns(20)]];
    there
        .write(key(1, 0), vec![0], &input, WritePartitioning::Identity)
        .await
        .unwrap();
    let context = here.consumer(vec![there.producer(0, [0])]);
    let read = collect_all(&read(without_columns(0).schema(), 1), &context)
        .await
        .concat();
    assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_execution_reads_again() {
    let (here, there) = (Node::new(None, 1 << 20), Node::new(None, 1 << 20));
    there
        .write(key(1, 0), vec![0, 1], &[rows(0, 3000), rows(3000, 3000)], by_number(2))
        .await
        .unwrap();
    let context = here.consumer(vec![there.producer(0, 0..2)]);
    let plan = read(number_rows(0, 1).schema(), 2);
    let first = collect(plan.execute(0, Arc::clone(&context)).unwrap()).await;
    let other = collect(plan.execute(1, Arc::clone(&context)).unwrap()).await;
    let again = collect(plan.execute(0, Arc::clone(&context)).unwrap()).await;
    assert_eq!(sort(numbers(&first)), sort(numbers(&again)));
    assert_eq!(numbers(&first).len() + numbers(&other).len(), 6000);
}

#[test]
fn nodes_display_in_one_line() {
    let schema = number_rows(0, 1).schema();
    let read: Arc<dyn ExecutionPlan> = Arc::new(read(Arc::clone(&schema), 3));
    let write = ShuffleWriteExec::new(read, by_number(8), schema);
    assert_eq!(
        displayable(&write).indent(false).to_string(),
        "ShuffleWrite: hash([number@0], 8)\n  ShuffleRead: stage=1, partitions=3\n"
    );
}
