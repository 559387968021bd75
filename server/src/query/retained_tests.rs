//! Kept results without workers: their endpoints and their time.

use std::collections::HashSet;

use datafusion::arrow::datatypes::Schema;
use squadron_proto::{AttemptNumber, StageId, WorkerId};

use super::*;
use crate::driver::Driver;
use crate::driver::workers::{Registry, RegistryOptions};
use crate::query::history::{History, HistoryLimits};
use squadron_scheduler::{Limits, QueryOptions, StageGraph};

const TTL: Duration = Duration::from_secs(60);

fn ann() -> Principal {
    Principal::user("ann")
}

/// A scheduler that nobody runs: what is submitted waits.
fn results(time_to_live: Duration) -> (KeptResults, Driver) {
    let (registry, events) = Registry::new(RegistryOptions::default());
    let (driver, scheduler) = Driver::new(
        Limits::default(),
        History::open(HistoryLimits::default()).unwrap(),
        registry,
        events,
    );
    (KeptResults::new(time_to_live, scheduler), driver)
}

async fn put(results: &KeptResults, tasks: usize) -> Arc<KeptResult> {
    let query = QueryId::new();
    let graph = StageGraph {
        query,
        stages: Vec::new(),
        root: StageId(0),
        options: QueryOptions::default(),
    };
    results.put(KeptAs {
        query,
        owner: ann(),
        schema: Arc::new(Schema::empty()),
        is_ordered: false,
        tasks,
        events: results.scheduler.submit(graph).await.unwrap(),
        key: ClusterKey::random(),
        ticket_lifetime: TTL,
    })
}

fn part(query: QueryId, task: u32, partitions: u32) -> ResultPart {
    ResultPart {
        attempt: AttemptKey {
            query,
            stage: StageId(0),
            task: TaskId(task),
            attempt: AttemptNumber(0),
        },
        worker: WorkerId::from_u128(u128::from(task)),
        address: format!("http://w{task}:1"),
        partitions: (task * partitions..(task + 1) * partitions).collect(),
    }
}

#[tokio::test]
async fn endpoints_hold_every_partition_once_and_are_not_too_many() {
    let (results, _driver) = results(TTL);
    for (tasks, partitions) in [(1, 1), (1, 64), (1, 1000), (3, 7), (8, 100), (64, 3), (100, 2)] {
        let kept = put(&results, tasks as usize).await;
        let endpoints: Vec<_> = (0..tasks)
            .flat_map(|task| kept.endpoints_of(part(kept.query, task, partitions)))
            .collect();
        assert!(
            endpoints.len() <= MAX_ENDPOINTS.max(tasks as usize),
            "{tasks} x {partitions}"
        );
        assert!(endpoints.len() >= MAX_ENDPOINTS.min((tasks * partitions) as usize) / 3);
        let mut seen = HashSet::new();
        for endpoint in &endpoints {
            for output in &endpoint.rows.outputs {
                for partition in &output.partitions {
                    assert!(seen.insert((output.task, *partition)));
                    assert_eq!(endpoint.address, format!("http://w{}:1", output.task));
                }
            }
        }
        assert_eq!(seen.len(), (tasks * partitions) as usize);
    }
}

#[tokio::test]
async fn a_result_is_there_for_its_principal_alone_until_its_time_is_over() {
    let (results, _driver) = results(Duration::ZERO);
    let kept = put(&results, 1).await;
    assert!(results.get(kept.query, &Principal::user("bob")).is_none());
    // As long as its maker holds it there is no time.
    results.drop_expired();
    assert!(results.get(kept.query, &ann()).is_some());
    assert_eq!(results.in_use(), 1, "its query runs");
    results.unannounced(kept.query).announce(&kept);
    results.drop_expired();
    assert!(results.get(kept.query, &ann()).is_none());
    assert_eq!(results.in_use(), 0);
}

#[tokio::test]
async fn what_could_not_be_announced_is_dropped() {
    let (results, _driver) = results(TTL);
    let kept = put(&results, 1).await;
    drop(results.unannounced(kept.query));
    assert!(results.get(kept.query, &ann()).is_none());
    let kept = put(&results, 1).await;
    results.unannounced(kept.query).announce(&kept);
    results.drop_expired();
    assert!(results.get(kept.query, &ann()).is_some());
    results.discard(kept.query);
    results.discard(kept.query);
    assert!(results.get(kept.query, &ann()).is_none());
}
