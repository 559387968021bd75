//! One stage: its tasks, its inputs and its consumers.
//!
//! | state | means |
//! |---|---|
//! | Waiting | it is needed, and an input is not complete |
//! | Running | it is needed, all inputs are complete, and a task is not finished |
//! | Finished | it is needed, and its output is complete |
//! | Released | nobody needs its output |
//!
//! A stage is needed while it is the root, or while a consumer of it is needed and not complete. So the states follow
//! from which tasks have output ([`crate::lifecycle::flow`]), and go back when output is lost: from Released too, if what
//! is lost was made of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use squadron_proto::control::{Lane, Launch, OutputMode, PlanRef, Producer, Stage as StageMessage, StageInput};
use squadron_proto::{AttemptKey, AttemptNumber, QueryId, TaskId, WorkerId};

use crate::graph::StageSpec;
use crate::info::{StagePhase, StageSummary, TaskSummary};
use crate::lifecycle::account::Spent;
use crate::lifecycle::attempt::{Attempt, Lost};
use crate::lifecycle::task::Task;
use crate::queue::policy;
use crate::workers::placement::Demand;

#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) spec: StageSpec,
    pub(crate) tasks: Vec<Task>,
    /// The stages it reads, as positions in the query's list.
    pub(crate) inputs: Vec<usize>,
    /// The stages that read it, as positions in the query's list.
    pub(crate) consumers: Vec<usize>,
    /// How much work lies on the longest path from its start to the end of the query; see [`policy::critical_paths`].
    pub(crate) critical_path: u64,
    /// Tasks to place; the last comes first.
    pending: Vec<usize>,
    /// Workers that got what its attempts share.
    sent_to: BTreeSet<WorkerId>,
    sources: Sources,
    /// When all its inputs were complete for the first time.
    started: Option<Duration>,
    /// When its last task finished.
    finished: Option<Duration>,
    pub(crate) state: StageState,
    /// How many tasks have no output that can be read.
    without_output: usize,
    /// Whether output that a consumer may have read is gone, and another attempt would give other rows.
    has_lost_rows: bool,
    /// Whether the one attempt that its plan was good for has come to nothing.
    is_spent: bool,
    /// How many tasks got a second attempt beside a slow one.
    second_attempts: u32,
    /// Whether its slow tasks are looked for from time to time.
    pub(crate) is_watched: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StageState {
    Waiting,
    Running,
    Finished,
    Released,
}

/// Where the inputs of a stage are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    pub(crate) inputs: Arc<[StageInput]>,
    /// The workers that hold input, the most bytes first.
    pub(crate) holders: Vec<WorkerId>,
}

impl Stage {
    pub(crate) fn new(mut spec: StageSpec, inputs: Vec<usize>, consumers: Vec<usize>, critical_path: u64) -> Self {
        for task in &mut spec.tasks {
            task.slots = task.slots.max(1);
        }
        Self {
            tasks: spec.tasks.iter().map(|_| Task::new()).collect(),
            state: StageState::Waiting,
            without_output: spec.tasks.len(),
            has_lost_rows: false,
            is_spent: false,
            second_attempts: 0,
            is_watched: false,
            spec,
            inputs,
            consumers,
            critical_path,
            pending: Vec::new(),
            sent_to: BTreeSet::new(),
            sources: Sources::default(),
            started: None,
            finished: None,
        }
    }

    /// Whether the output of all its tasks can be read.
    pub(crate) fn is_complete(&self) -> bool {
        self.without_output == 0
    }

    /// How many tasks have no output that can be read.
    pub(crate) fn unfinished_tasks(&self) -> usize {
        self.without_output
    }

    /// Whether the output of all its tasks can be read, if only while it is written.
    pub(crate) fn is_readable(&self) -> bool {
        let is_readable = |task: &Task| task.attempt().is_some_and(Attempt::is_readable);
        self.tasks.iter().all(is_readable)
    }

    /// Whether its plan is good for one attempt: its output is kept until its query has ended.
    pub(crate) fn has_one_time_plan(&self) -> bool {
        matches!(self.spec.plan, PlanRef::InProcess(_))
    }

    /// Whether its plan is good for no attempt any more.
    pub(crate) fn is_spent(&self) -> bool {
        self.is_spent
    }

    /// All inputs are complete: its tasks can be placed.
    pub(crate) fn start(&mut self, now: Duration, sources: Sources) {
        self.sources = sources;
        self.started.get_or_insert(now);
        self.place_waiting_tasks();
    }

    /// Whether a task has no attempt, and is not going to have one.
    pub(crate) fn has_waiting_tasks(&self) -> bool {
        self.tasks.iter().any(Task::is_waiting)
    }

    fn place_waiting_tasks(&mut self) {
        let mut order = policy::order_tasks_reversed(&self.spec.tasks);
        for task in &mut self.tasks {
            task.make_pending();
        }
        order.retain(|&task| self.tasks[task].is_pending());
        self.pending = order;
    }

    /// An input is not complete any more: none of its tasks can be placed.
    pub(crate) fn withdraw(&mut self) {
        for task in self.pending.drain(..) {
            self.tasks[task].withdraw();
        }
    }

    /// The output of all tasks is complete.
    pub(crate) fn record_finish(&mut self, now: Duration) {
        self.finished = Some(now);
    }

    /// The workers that hold output, and which.
    pub(crate) fn output_holders(&self) -> BTreeSet<WorkerId> {
        let holders = self.tasks.iter().filter(|task| task.has_output());
        holders.filter_map(|task| Some(task.finished()?.worker)).collect()
    }

    /// The output of all its tasks is gone.
    pub(crate) fn drop_all_output(&mut self) {
        for task in 0..self.tasks.len() {
            self.drop_output(task_id(task));
        }
    }

    /// The output of a task is gone.
    pub(crate) fn drop_output(&mut self, task: TaskId) {
        if self.task_mut(task).is_some_and(Task::drop_output) {
            self.without_output += 1;
            self.has_lost_rows |= !self.spec.is_determinate;
        }
    }

    /// An attempt at a task comes to nothing, for this `reason`; see [`Task::lose`].
    pub(crate) fn lose(
        &mut self,
        task: TaskId,
        attempt: AttemptNumber,
        now: Duration,
        reason: &str,
        pauses: bool,
    ) -> Option<Lost> {
        let lost = self.task_mut(task)?.lose(now, attempt, reason, pauses)?;
        self.is_spent |= matches!(self.spec.plan, PlanRef::InProcess(_));
        if matches!(lost, Lost::Finished { .. }) {
            self.without_output += 1;
            self.has_lost_rows |= !self.spec.is_determinate;
        }
        Some(lost)
    }

    /// It is needed, perhaps again: tasks whose output is gone are to be done anew.
    pub(crate) fn reopen(&mut self, now: Duration) {
        for task in 0..self.tasks.len() {
            let state = &self.tasks[task];
            if let Some(finished) = state.finished()
                && !state.has_output()
            {
                let attempt = finished.attempt;
                let reason = "its output was released, and is needed again";
                self.lose(task_id(task), attempt, now, reason, false);
            }
        }
    }

    /// Whether consumers may have read rows that another attempt at the lost task would not give again.
    pub(crate) fn has_lost_rows(&self) -> bool {
        self.has_lost_rows
    }

    /// Its consumers have read nothing, or have forgotten it.
    pub(crate) fn forget_lost_rows(&mut self) {
        self.has_lost_rows = false;
    }

    pub(crate) fn is_waiting_for_places(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(crate) fn holders(&self) -> &[WorkerId] {
        &self.sources.holders
    }

    /// The demands of the tasks to be placed next in a lane, in their order: of one task, or of all if the stage's
    /// tasks start together.
    pub(crate) fn next_demands(&self, lane: Lane) -> Vec<Demand> {
        let count = if self.spec.streamed { self.pending.len() } else { 1 };
        let next = self.pending.iter().rev().take(count);
        next.map(|&task| self.demand(task, lane)).collect()
    }

    /// The workers on which the tasks of [`Stage::next_demands`] were tried.
    pub(crate) fn tried_next(&self) -> impl Iterator<Item = WorkerId> + '_ {
        let count = if self.spec.streamed { self.pending.len() } else { 1 };
        let next = self.pending.iter().rev().take(count);
        next.flat_map(|&task| self.tasks[task].avoided().iter().copied())
    }

    pub(crate) fn demand(&self, task: usize, lane: Lane) -> Demand {
        let spec = &self.spec.tasks[task];
        Demand {
            slots: spec.slots,
            bytes: spec.bytes,
            lane,
        }
    }

    /// Launches the first task of [`Stage::next_demands`] on a worker. Returns the message to that worker.
    pub(crate) fn launch_next(&mut self, query: QueryId, worker: WorkerId, slots: u32, lane: Lane) -> Option<Launch> {
        let task = self.pending.pop()?;
        let demand = Demand {
            slots,
            ..self.demand(task, lane)
        };
        let attempt = self.tasks[task].launch(worker, demand);
        Some(self.to_launch(query, task, attempt, demand))
    }

    /// Launches a second attempt at a task that has one. Returns the message to its worker.
    pub(crate) fn launch_second(&mut self, query: QueryId, task: usize, worker: WorkerId, demand: Demand) -> Launch {
        let attempt = self.tasks[task].launch_second(worker, demand);
        self.second_attempts += 1;
        self.to_launch(query, task, attempt, demand)
    }

    fn to_launch(&self, query: QueryId, task: usize, attempt: AttemptNumber, demand: Demand) -> Launch {
        let spec = &self.spec.tasks[task];
        Launch {
            attempt: AttemptKey {
                query,
                stage: self.spec.id,
                task: task_id(task),
                attempt,
            },
            slots: demand.slots,
            lane: demand.lane,
            partitions: spec.partitions.clone(),
            scans: spec.scans.clone(),
            inputs: Arc::clone(&self.sources.inputs),
            output: if self.spec.streamed {
                OutputMode::Streamed
            } else {
                OutputMode::Retained
            },
        }
    }

    /// See [`Task::start_clock`].
    pub(crate) fn start_clock(&mut self, key: AttemptKey, now: Duration, charged_us: u64, weight: u64, lane: Lane) {
        if let Some(task) = self.task_mut(key.task) {
            task.start_clock(key.attempt, now, charged_us, weight, lane);
        }
    }

    /// See [`Task::stop_clock`].
    pub(crate) fn stop_clock(&mut self, key: AttemptKey, until: Option<Duration>, slots: u32) -> Option<Spent> {
        self.task_mut(key.task)?.stop_clock(key.attempt, until, slots)
    }

    /// The task to be placed next pauses.
    pub(crate) fn pause_next(&mut self) -> Option<TaskId> {
        let task = self.pending.pop()?;
        self.tasks[task].pause();
        Some(task_id(task))
    }

    fn task_mut(&mut self, task: TaskId) -> Option<&mut Task> {
        self.tasks.get_mut(usize::try_from(task.0).ok()?)
    }

    /// The message with what all attempts share, if the worker has not got it yet. It keeps it until the query ends.
    pub(crate) fn introduce(&mut self, query: QueryId, worker: WorkerId, reserved_bytes: u64) -> Option<StageMessage> {
        self.sent_to.insert(worker).then(|| StageMessage {
            query,
            stage: self.spec.id,
            plan: self.spec.plan.clone(),
            settings: self.spec.settings.clone(),
            stores: self.spec.stores.clone(),
            reserved_bytes,
        })
    }

    /// What the worker was sent may be lost.
    pub(crate) fn forget_worker(&mut self, worker: WorkerId) {
        self.sent_to.remove(&worker);
    }

    /// A task's pause is over. Returns whether the task is to be placed again.
    pub(crate) fn end_pause(&mut self, task: usize) -> bool {
        let Some(state) = self.tasks.get_mut(task) else {
            return false;
        };
        let is_pending = state.end_pause() && self.state == StageState::Running && state.make_pending();
        if is_pending {
            self.pending.push(task);
        }
        is_pending
    }

    /// One of its tasks is finished. Returns whether that was the last.
    pub(crate) fn record_task_finish(&mut self) -> bool {
        self.without_output = self.without_output.saturating_sub(1);
        self.is_complete()
    }

    /// When it started, and when its last task finished.
    pub(crate) fn times(&self) -> (Option<Duration>, Option<Duration>) {
        let is_over = matches!(self.state, StageState::Finished | StageState::Released);
        (self.started, self.finished.filter(|_| is_over))
    }

    pub(crate) fn phase(&self) -> StagePhase {
        match self.state {
            StageState::Waiting => StagePhase::Waiting,
            StageState::Running => StagePhase::Running,
            StageState::Finished => StagePhase::Finished,
            StageState::Released => StagePhase::Released,
        }
    }

    /// Where its output is, as an input of its consumers.
    pub(crate) fn to_input(&self, address_of: impl Fn(WorkerId) -> String) -> StageInput {
        let producer = |(task, state): (usize, &Task)| {
            let finished = state.finished().filter(|_| state.has_output())?;
            let partitions: Vec<_> = finished
                .output
                .partitions
                .iter()
                .map(|output| output.partition)
                .collect();
            (!partitions.is_empty()).then(|| Producer {
                task: task_id(task),
                attempt: finished.attempt,
                address: address_of(finished.worker),
                partitions,
            })
        };
        StageInput {
            stage: self.spec.id,
            producers: self.tasks.iter().enumerate().filter_map(producer).collect(),
        }
    }

    /// Adds to `held` how many bytes of its output each worker holds.
    pub(crate) fn add_held_bytes(&self, held: &mut BTreeMap<WorkerId, u64>) {
        let with_output = self.tasks.iter().filter(|task| task.has_output());
        for finished in with_output.filter_map(Task::finished) {
            let bytes: u64 = finished.output.partitions.iter().map(|output| output.bytes).sum();
            *held.entry(finished.worker).or_default() += bytes;
        }
    }

    /// The attempts that its tasks have, each with its key.
    pub(crate) fn attempts(&self, query: QueryId) -> impl Iterator<Item = (AttemptKey, &Attempt)> + '_ {
        let tasks = 0..self.tasks.len();
        tasks.flat_map(move |task| self.attempts_of(query, task))
    }

    /// The attempts of one task, each with its key.
    pub(crate) fn attempts_of(&self, query: QueryId, task: usize) -> impl Iterator<Item = (AttemptKey, &Attempt)> + '_ {
        let key = move |attempt| AttemptKey {
            query,
            stage: self.spec.id,
            task: task_id(task),
            attempt,
        };
        let attempts = self.tasks[task].attempts();
        attempts.map(move |attempt| (key(attempt.number()), attempt))
    }

    pub(crate) fn summary(&self, now: Duration) -> StageSummary {
        let (started, finished) = self.times();
        let elapsed = started.map(|started| finished.unwrap_or(now).saturating_sub(started));
        let task = |(task, state): (usize, &Task)| {
            let finished = state.finished()?;
            Some(TaskSummary {
                task: task_id(task),
                attempt: finished.attempt,
                worker: finished.worker,
                output: finished.output.clone(),
            })
        };
        StageSummary {
            stage: self.spec.id,
            elapsed: elapsed.unwrap_or_default(),
            second_attempts: self.second_attempts,
            tasks: self.tasks.iter().enumerate().filter_map(task).collect(),
        }
    }
}

pub(crate) fn task_id(task: usize) -> TaskId {
    TaskId(u32::try_from(task).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use squadron_proto::control::{AttemptStatus, PartitionOutput, PlanRef, TaskOutput};
    use squadron_proto::{AttemptNumber, StageId};

    use super::*;
    use crate::graph::{OutputPartitions, Placement, TaskSpec};

    const QUERY: QueryId = QueryId::from_u128(1);
    const A: WorkerId = WorkerId::from_u128(1);
    const B: WorkerId = WorkerId::from_u128(2);

    fn stage(tasks: &[u64]) -> Stage {
        let spec = StageSpec {
            id: StageId(4),
            inputs: Vec::new(),
            tasks: tasks
                .iter()
                .map(|&bytes| TaskSpec {
                    bytes,
                    ..TaskSpec::default()
                })
                .collect(),
            plan: PlanRef::Encoded(Default::default()),
            settings: Vec::new(),
            stores: Vec::new(),
            placement: Placement::Any,
            streamed: false,
            output_partitions: OutputPartitions::Hash(2),
            is_determinate: true,
        };
        Stage::new(spec, Vec::new(), Vec::new(), 1)
    }

    fn finish_next(stage: &mut Stage, worker: WorkerId, partitions: &[u32]) -> bool {
        let attempt = stage.launch_next(QUERY, worker, 1, Lane::Short).unwrap().attempt;
        let partitions = partitions
            .iter()
            .map(|&partition| PartitionOutput {
                partition,
                rows: 1,
                bytes: 10,
            })
            .collect();
        let output = TaskOutput {
            partitions,
            ..TaskOutput::default()
        };
        stage.tasks[attempt.task.0 as usize].apply_report(worker, attempt.attempt, AttemptStatus::Finished(output));
        stage.record_task_finish()
    }

    #[test]
    fn plan_is_sent_once_to_each_worker() {
        let mut stage = stage(&[1, 9]);
        stage.start(Duration::ZERO, Sources::default());
        let launch = stage.launch_next(QUERY, A, 3, Lane::Short).unwrap();
        assert_eq!((launch.attempt.task, launch.slots), (TaskId(1), 3));
        assert!(stage.introduce(QUERY, A, 0).is_some());
        assert!(stage.introduce(QUERY, A, 0).is_none());
    }

    #[test]
    fn consumers_read_what_has_rows() {
        let mut stage = stage(&[0, 0, 0]);
        stage.start(Duration::ZERO, Sources::default());
        assert!(!finish_next(&mut stage, A, &[0, 1]));
        assert!(!finish_next(&mut stage, B, &[]));
        assert!(finish_next(&mut stage, A, &[1]));
        let input = stage.to_input(|worker| worker.to_string());
        let producers: Vec<_> = input
            .producers
            .iter()
            .map(|p| (p.task.0, p.partitions.clone()))
            .collect();
        assert_eq!(producers, [(0, vec![0, 1]), (2, vec![1])]);
    }

    #[test]
    fn lost_output_makes_the_stage_incomplete_until_it_is_there_again() {
        let mut stage = stage(&[0, 0]);
        stage.start(Duration::ZERO, Sources::default());
        finish_next(&mut stage, A, &[0]);
        finish_next(&mut stage, B, &[0]);
        assert!(stage.is_complete() && stage.is_readable());
        let lost = stage.lose(TaskId(0), AttemptNumber(0), Duration::ZERO, "gone", false);
        let attempt = AttemptNumber(0);
        assert_eq!(lost, Some(Lost::Finished { worker: A, attempt }));
        assert_eq!(
            stage.lose(TaskId(0), AttemptNumber(0), Duration::ZERO, "gone", false),
            None,
            "only once"
        );
        assert!(!stage.is_complete() && !stage.is_readable());
        stage.drop_output(TaskId(1));
        assert_eq!(
            stage.lose(TaskId(1), AttemptNumber(0), Duration::ZERO, "gone", false),
            Some(Lost::Gone)
        );
        stage.start(Duration::ZERO, Sources::default());
        assert!(!finish_next(&mut stage, B, &[0]));
        assert!(finish_next(&mut stage, B, &[0]));
        assert!(!stage.has_lost_rows(), "the new ones are the same");
    }

    #[test]
    fn task_that_pauses_is_placed_when_the_stage_runs_and_the_pause_is_over() {
        let mut stage = stage(&[0, 0]);
        stage.state = StageState::Running;
        stage.start(Duration::ZERO, Sources::default());
        for _ in 0..2 {
            stage.launch_next(QUERY, A, 1, Lane::Short).unwrap();
        }
        for task in 0..2 {
            let lost = stage.lose(TaskId(task), AttemptNumber(0), Duration::ZERO, "no luck", true);
            assert!(lost.is_some());
        }
        stage.start(Duration::ZERO, Sources::default());
        assert!(!stage.is_waiting_for_places());
        assert!(stage.end_pause(0) && stage.is_waiting_for_places());
        stage.withdraw();
        stage.state = StageState::Waiting;
        assert!(!stage.end_pause(1) && !stage.is_waiting_for_places());
        stage.start(Duration::ZERO, Sources::default());
        assert_eq!(stage.next_demands(Lane::Short).len(), 1);
        let launched = [(); 2].map(|()| stage.launch_next(QUERY, A, 1, Lane::Short).unwrap().attempt);
        assert_eq!(launched.map(|key| (key.task.0, key.attempt.0)), [(0, 1), (1, 1)]);
    }
}
