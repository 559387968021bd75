//! A query as the planner submits it: stages, their tasks, and which stage reads which. Plans stay opaque.
//!
//! ```text
//! StageGraph ── StageSpec ── TaskSpec
//!                   └ inputs: stages with smaller numbers; the rows of the root stage go to the client
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use squadron_proto::control::{ObjectStoreSpec, PlanRef, ScanSplits};
use squadron_proto::{Failure, QueryId, StageId};

/// All stages of one query.
#[derive(Clone, Debug)]
pub struct StageGraph {
    /// Which query.
    pub query: QueryId,
    /// In ascending order of their numbers, producers before consumers.
    pub stages: Vec<StageSpec>,
    /// The stage whose rows go to the client; no other stage reads it.
    pub root: StageId,
    /// Its owner and what its session set for it.
    pub options: QueryOptions,
}

/// The owner of a query, and what its session set for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryOptions {
    /// The user, where authentication is required.
    pub user: Option<Arc<str>>,
    /// The session's id.
    pub session: Arc<str>,
    /// `squadron.tag`.
    pub tag: Option<Arc<str>>,
    /// `squadron.priority`; 10 more double the share.
    pub priority: i32,
    /// When it ends at the latest.
    pub time_limit: Option<TimeLimit>,
    /// How much of the workers' memory it reserves, in bytes.
    pub memory_bytes: u64,
    /// It reads only the schema `system`, so it never waits for other queries: admission does not count it.
    pub is_exempt: bool,
    /// Whether its slow tasks get a second attempt.
    pub speculation: bool,
    /// Equal for equal plans over the same tables.
    pub fingerprint: Option<u64>,
}

/// When a query ends at the latest, and with which failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeLimit {
    /// The time that is left from its submission.
    pub left: Duration,
    /// The failure for the client.
    pub failure: Failure,
}

/// One stage.
#[derive(Clone, Debug)]
pub struct StageSpec {
    /// Its number; greater than those of its inputs.
    pub id: StageId,
    /// The stages it reads.
    pub inputs: Vec<StageId>,
    /// Its tasks; at least one.
    pub tasks: Vec<TaskSpec>,
    /// What to run.
    pub plan: PlanRef,
    /// DataFusion settings of the query's session.
    pub settings: Vec<(String, String)>,
    /// The object stores that the plan reads.
    pub stores: Vec<ObjectStoreSpec>,
    /// Where its tasks may run.
    pub placement: Placement,
    /// Whether the output is read once, while it is written; only for the root. All tasks of a streamed stage start
    /// together.
    pub streamed: bool,
    /// How the output is partitioned.
    pub output_partitions: OutputPartitions,
    /// Whether each attempt at a task gives the same rows in each partition, in any order, when its inputs do.
    pub is_determinate: bool,
}

/// One task: some partitions of a stage that run together on one worker.
#[derive(Clone, Debug, Default)]
pub struct TaskSpec {
    /// Their numbers within the stage; empty: the whole plan.
    pub partitions: Vec<u32>,
    /// The files of each scan, if they were taken out of the plan.
    pub scans: Vec<ScanSplits>,
    /// How many slots it asks for: at least one, capped by the slots of its worker.
    pub slots: u32,
    /// Estimated bytes to read, to spread tasks evenly; 0 when unknown.
    pub bytes: u64,
}

/// Where the tasks of a stage may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Placement {
    /// Any embedded or remote worker.
    Any,
    /// The server's local worker only: the plan cannot be sent.
    Local,
}

/// How the output of a stage is partitioned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputPartitions {
    /// Each attempt writes rows of any of this many partitions.
    Hash(u32),
    /// Each attempt writes the partitions it runs; this many in all.
    Identity(u32),
}

impl StageSpec {
    fn bytes(&self) -> u64 {
        let plan = match &self.plan {
            PlanRef::Encoded(bytes) => bytes.len(),
            PlanRef::InProcess(_) => 0,
        };
        let splits = self.tasks.iter().flat_map(|task| &task.scans);
        let groups = splits.flat_map(|splits| &splits.file_groups);
        let tasks = self.tasks.len() * size_of::<TaskSpec>();
        (plan + tasks + groups.map(|group| group.len()).sum::<usize>()) as u64
    }

    /// The partitions that `task` writes, in order.
    pub fn written_partitions(&self, task: &TaskSpec) -> Vec<u32> {
        match self.output_partitions {
            OutputPartitions::Identity(_) if !task.partitions.is_empty() => task.partitions.clone(),
            OutputPartitions::Identity(count) | OutputPartitions::Hash(count) => (0..count).collect(),
        }
    }
}

impl StageGraph {
    /// Whether the result is retained until it is released, for any number of readers, instead of streamed once.
    pub fn retains_result(&self) -> bool {
        let mut stages = self.stages.iter();
        stages.any(|stage| stage.id == self.root && !stage.streamed)
    }

    /// About how much of the server's memory the graph takes while the query has not ended.
    pub fn bytes(&self) -> u64 {
        self.stages.iter().map(StageSpec::bytes).sum()
    }

    /// Places all stages on the server's local worker.
    pub fn pin_to_local_worker(&mut self) {
        for stage in &mut self.stages {
            stage.placement = Placement::Local;
        }
    }

    /// How many tasks write the result, and into how many partitions.
    pub fn result_shape(&self) -> (usize, usize) {
        let root = self.stages.iter().find(|stage| stage.id == self.root);
        root.map_or((0, 0), |root| {
            let partitions = match root.output_partitions {
                OutputPartitions::Hash(count) | OutputPartitions::Identity(count) => count,
            };
            (root.tasks.len(), partitions as usize)
        })
    }

    /// Checks what the state machines assume of a graph.
    ///
    /// # Errors
    /// An internal failure: the planner made a graph that could never finish.
    pub fn validate(&self) -> Result<(), Failure> {
        let wrong = |what: String| {
            Err(Failure::internal(format!(
                "stage graph of query {}: {what}",
                self.query
            )))
        };
        let mut known = BTreeSet::new();
        let mut unread = BTreeSet::new();
        for stage in &self.stages {
            if known.last().is_some_and(|last| *last >= stage.id) {
                return wrong(format!("stage {} is out of order", stage.id));
            }
            if stage.tasks.is_empty() {
                return wrong(format!("stage {} has no task", stage.id));
            }
            if matches!(stage.plan, PlanRef::InProcess(_)) && stage.tasks.len() > 1 {
                return wrong(format!(
                    "the plan of stage {} is good for one attempt and has several tasks",
                    stage.id
                ));
            }
            for input in &stage.inputs {
                if !known.contains(input) {
                    return wrong(format!(
                        "stage {} reads stage {input}, which does not come before it",
                        stage.id
                    ));
                }
                unread.remove(input);
            }
            known.insert(stage.id);
            unread.insert(stage.id);
        }
        if unread.iter().ne([&self.root]) {
            return wrong(format!(
                "exactly the root, stage {}, must have no reader, but these have none: {unread:?}",
                self.root
            ));
        }
        Ok(())
    }
}
