//! The scheduler's state as the server and its clients may see it: see [`crate::info`].

use std::sync::Arc;
use std::time::Duration;

use squadron_proto::{QueryId, TaskId};

use crate::graph::Placement;
use crate::info::{
    Capacity, GroupLoad, QueryInfo, QueryPhase, QueryProgress, StageInfo, StoppingAttempt, TaskInfo, WorkerLoad,
};
use crate::lifecycle::attempt::Attempt;
use crate::lifecycle::query::{Phase, Query};
use crate::lifecycle::stage::{Stage, task_id};
use crate::lifecycle::task::Task;
use crate::scheduler::Scheduler;

impl Query {
    /// The query's present state; `group` is the name of its resource group.
    pub(crate) fn info(&self, group: Arc<str>) -> QueryInfo {
        QueryInfo {
            id: self.id,
            user: self.options.user.clone(),
            session: Arc::clone(&self.options.session),
            tag: self.options.tag.clone(),
            priority: self.options.priority,
            group,
            phase: match self.phase {
                Phase::Queued => QueryPhase::Queued,
                Phase::Streaming { .. } if self.delivering_since.is_some() => QueryPhase::Delivering,
                Phase::Running | Phase::Streaming { .. } => QueryPhase::Running,
            },
            submitted: self.submitted,
            started: self.started,
            delivering_since: self.delivering_since,
            spent: Duration::from_micros(self.usage.spent_us),
            held_slots: self.held_slots(),
            memory_bytes: self.options.memory_bytes,
            progress: (self.fraction_done() * 1000.0) as u32,
            recoveries: self.recoveries,
            stages: self.stages.iter().map(Stage::info).collect(),
        }
    }
}

impl Stage {
    fn info(&self) -> StageInfo {
        let (started, finished) = self.times();
        let tasks = self.tasks.iter().zip(&self.spec.tasks).enumerate();
        StageInfo {
            id: self.spec.id,
            phase: self.phase(),
            started,
            finished,
            tasks: tasks
                .map(|(number, (task, spec))| task.info(task_id(number), spec.slots))
                .collect(),
        }
    }
}

impl Task {
    fn info(&self, id: TaskId, slots: u32) -> TaskInfo {
        TaskInfo {
            id,
            phase: self.phase(),
            slots,
            attempts: self.past().cloned().chain(self.attempts().map(Attempt::info)).collect(),
        }
    }
}

impl Scheduler {
    /// All workers, in the order of their ids.
    pub fn workers(&self) -> Vec<WorkerLoad> {
        self.workers.loads(self.now)
    }

    /// The progress of a query; none when it has ended.
    pub fn progress(&self, query: QueryId) -> Option<QueryProgress> {
        let workers = &self.workers;
        let query = self.queries.get(&query)?;
        Some(query.progress(|worker| workers.address(worker)))
    }

    /// What the workers that accept tasks offer together; the server's local worker does not count.
    pub fn capacity(&self) -> Capacity {
        let pool = self.workers.slots(Placement::Any);
        Capacity {
            workers: pool.open_workers(),
            slots: pool.total_slots(),
            memory_bytes: pool.memory_bytes(),
        }
    }

    /// All queries that have not ended, in the order of their submission.
    pub fn queries(&self) -> Vec<QueryInfo> {
        let mut queries: Vec<_> = self.queries.values().collect();
        queries.sort_by_key(|query| query.number);
        queries
            .into_iter()
            .map(|query| query.info(self.group_name(query.group)))
            .collect()
    }

    /// The attempts that were told to stop and may still run.
    pub fn stopping(&self) -> Vec<StoppingAttempt> {
        self.workers.stopping()
    }

    /// The resource groups, the server as a whole first.
    pub fn group_loads(&self) -> Vec<(Arc<str>, GroupLoad)> {
        let groups = 0..self.admission.groups().count();
        groups
            .map(|group| (self.group_name(group), self.admission.load(group)))
            .collect()
    }

    pub(crate) fn group_name(&self, group: usize) -> Arc<str> {
        self.admission.groups().spec(group).name.as_str().into()
    }
}
