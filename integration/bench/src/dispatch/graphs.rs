//! Queries of empty tasks: plans of empty partitions, encoded as the planner encodes its plans.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::physical_plan::empty::EmptyExec;
use squadron_proto::control::PlanRef;
use squadron_proto::{QueryId, StageId};
use squadron_scheduler::{OutputPartitions, Placement, QueryOptions, StageGraph, StageSpec, TaskSpec};
use squadron_shuffle::{ShuffleWriteExec, WritePartitioning, fragment};

use crate::Result;

/// The stages of all queries.
pub(super) struct Plans {
    /// The empty tasks of a large query.
    many: StageSpec,
    /// One empty task whose rows would go to the client.
    root: StageSpec,
}

impl Plans {
    /// `tasks`: tasks of a large query, besides its root.
    pub(super) fn new(tasks: u32) -> Result<Self> {
        Ok(Self {
            many: stage(0, tasks, false)?,
            root: stage(1, 1, true)?,
        })
    }

    pub(super) fn one_task(&self, query: QueryId) -> StageGraph {
        graph(query, vec![self.root.clone()])
    }

    /// A query whose root waits for all other tasks, which have no rows to read.
    pub(super) fn many_tasks(&self, query: QueryId) -> StageGraph {
        let root = StageSpec {
            inputs: vec![self.many.id],
            ..self.root.clone()
        };
        graph(query, vec![self.many.clone(), root])
    }

    /// How many tasks a query of [`Self::many_tasks`] has.
    pub(super) fn tasks_of_many(&self) -> u64 {
        (self.many.tasks.len() + self.root.tasks.len()) as u64
    }
}

fn graph(query: QueryId, stages: Vec<StageSpec>) -> StageGraph {
    StageGraph {
        query,
        stages,
        root: StageId(1),
        options: QueryOptions::default(),
    }
}

fn stage(id: u32, tasks: u32, streamed: bool) -> Result<StageSpec> {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
    let empty = EmptyExec::new(Arc::clone(&schema)).with_partitions(tasks as usize);
    let plan = ShuffleWriteExec::new(Arc::new(empty), WritePartitioning::Identity, schema);
    let task = |partition| TaskSpec {
        partitions: vec![partition],
        slots: 1,
        ..TaskSpec::default()
    };
    Ok(StageSpec {
        id: StageId(id),
        inputs: Vec::new(),
        tasks: (0..tasks).map(task).collect(),
        plan: PlanRef::Encoded(fragment::encode(Arc::new(plan))?),
        settings: Vec::new(),
        stores: Vec::new(),
        placement: Placement::Any,
        streamed,
        output_partitions: OutputPartitions::Identity(tasks),
        is_determinate: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_graphs_pass_scheduler_validation() {
        let plans = Plans::new(100).unwrap();
        let query = QueryId::new();
        for graph in [plans.one_task(query), plans.many_tasks(query)] {
            graph.validate().unwrap();
        }
        assert_eq!(plans.tasks_of_many(), 101);
    }
}
