//! Small queries for tests, also for crates that use this one.

use squadron_proto::control::{PartitionOutput, PlanRef, TaskOutput};
use squadron_proto::{QueryId, StageId, WorkerId};

use crate::graph::{OutputPartitions, Placement, QueryOptions, StageGraph, StageSpec, TaskSpec};

/// A stage of `tasks` tasks, each with one slot and one partition.
pub fn stage(id: u32, inputs: &[u32], tasks: u32) -> StageSpec {
    let task = |partition| TaskSpec {
        partitions: vec![partition],
        slots: 1,
        ..TaskSpec::default()
    };
    StageSpec {
        id: StageId(id),
        inputs: inputs.iter().copied().map(StageId).collect(),
        tasks: (0..tasks).map(task).collect(),
        plan: PlanRef::Encoded(Default::default()),
        settings: Vec::new(),
        stores: Vec::new(),
        placement: Placement::Any,
        streamed: false,
        output_partitions: OutputPartitions::Identity(tasks),
        is_determinate: true,
    }
}

/// A query of these stages; the last is the root, and streamed.
///
/// # Panics
/// When there is no stage.
pub fn graph(query: u128, mut stages: Vec<StageSpec>) -> StageGraph {
    let root = stages.last_mut().expect("a query has a stage");
    root.streamed = true;
    let root = root.id;
    StageGraph {
        query: QueryId::from_u128(query),
        stages,
        root,
        options: QueryOptions::default(),
    }
}

/// The id of a worker.
pub fn worker(number: u128) -> WorkerId {
    WorkerId::from_u128(number)
}

/// Three partitions with rows, so that consumers have something to read.
pub fn some_output() -> TaskOutput {
    let partitions = (0..3)
        .map(|partition| PartitionOutput {
            partition,
            rows: 1,
            bytes: 8,
        })
        .collect();
    TaskOutput {
        partitions,
        ..TaskOutput::default()
    }
}
