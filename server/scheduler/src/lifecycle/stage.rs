//! One stage: its tasks, its inputs and its consumers.
//!
//! | state | leads to | when |
//! |---|---|---|
//! | Waiting | Running | all input stages are finished |
//! | Running | Finished | all its tasks are finished |
//! | Finished | Released | all its consumers are finished |
//! | any | Waiting | its query starts again |
//! | Released | | |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use squadron_proto::control::{Lane, Launch, OutputMode, Producer, Stage as StageMessage, StageInput};
use squadron_proto::{AttemptKey, QueryId, TaskId, WorkerId};

use crate::graph::StageSpec;
use crate::info::{StagePhase, StageSummary, TaskSummary};
use crate::lifecycle::task::{PlacedAttempt, Spent, Task};
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
    /// When all its inputs were finished.
    started: Option<Duration>,
    state: StageState,
}

#[derive(Debug)]
enum StageState {
    /// It waits for its inputs.
    Waiting { unfinished_inputs: usize },
    /// Its tasks run, or wait for free slots.
    Running {
        since: Duration,
        unstarted_tasks: usize,
        unfinished_tasks: usize,
    },
    /// Its output is complete.
    Finished {
        elapsed: Duration,
        unfinished_consumers: usize,
    },
    /// Its output has been released.
    Released { elapsed: Duration },
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
            state: StageState::Waiting {
                unfinished_inputs: inputs.len(),
            },
            spec,
            inputs,
            consumers,
            critical_path,
            pending: Vec::new(),
            sent_to: BTreeSet::new(),
            sources: Sources::default(),
            started: None,
        }
    }

    /// Back to where it was before it started.
    pub(crate) fn reset(&mut self) {
        for task in &mut self.tasks {
            task.reset();
        }
        self.pending.clear();
        self.sent_to.clear();
        self.sources = Sources::default();
        self.started = None;
        self.state = StageState::Waiting {
            unfinished_inputs: self.inputs.len(),
        };
    }

    /// One of its inputs is finished. Returns whether that was the last.
    pub(crate) fn record_input_finish(&mut self) -> bool {
        match &mut self.state {
            StageState::Waiting { unfinished_inputs } => {
                *unfinished_inputs -= 1;
                *unfinished_inputs == 0
            }
            StageState::Running { .. } | StageState::Finished { .. } | StageState::Released { .. } => false,
        }
    }

    /// All inputs are finished: its tasks can be placed.
    pub(crate) fn start(&mut self, now: Duration, sources: Sources) {
        self.sources = sources;
        self.started = Some(now);
        self.pending = policy::order_tasks_reversed(&self.spec.tasks);
        for task in &mut self.tasks {
            task.make_pending();
        }
        self.state = StageState::Running {
            since: now,
            unstarted_tasks: self.tasks.len(),
            unfinished_tasks: self.tasks.len(),
        };
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

    fn demand(&self, task: usize, lane: Lane) -> Demand {
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
        let spec = &self.spec.tasks[task];
        Some(Launch {
            attempt: AttemptKey {
                query,
                stage: self.spec.id,
                task: task_id(task),
                attempt,
            },
            slots,
            lane,
            partitions: spec.partitions.clone(),
            scans: spec.scans.clone(),
            inputs: Arc::clone(&self.sources.inputs),
            output: if self.spec.streamed {
                OutputMode::Streamed
            } else {
                OutputMode::Retained
            },
        })
    }

    /// See [`Task::start_clock`].
    pub(crate) fn start_clock(&mut self, task: TaskId, now: Duration, charged_us: u64, weight: u64, lane: Lane) {
        if let Some(task) = self.task_mut(task) {
            task.start_clock(now, charged_us, weight, lane);
        }
    }

    /// See [`Task::stop_clock`].
    pub(crate) fn stop_clock(&mut self, task: TaskId, until: Option<Duration>, slots: u32) -> Option<Spent> {
        self.task_mut(task)?.stop_clock(until, slots)
    }

    fn task_mut(&mut self, task: TaskId) -> Option<&mut Task> {
        self.tasks.get_mut(usize::try_from(task.0).ok()?)
    }

    /// The message with what all attempts share, if the worker has not got it yet.
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

    /// A task's pause after a refusal is over. Returns whether the task is to be placed again.
    pub(crate) fn retry(&mut self, task: usize) -> bool {
        // The pause may be one from before a restart.
        let is_running = matches!(self.state, StageState::Running { .. });
        let is_pending = is_running && self.tasks.get_mut(task).is_some_and(Task::make_pending);
        if is_pending {
            self.pending.push(task);
        }
        is_pending
    }

    /// One of its tasks runs for the first time. Returns whether that was the last.
    pub(crate) fn record_task_start(&mut self) -> bool {
        match &mut self.state {
            StageState::Running { unstarted_tasks, .. } => {
                *unstarted_tasks -= 1;
                *unstarted_tasks == 0
            }
            StageState::Waiting { .. } | StageState::Finished { .. } | StageState::Released { .. } => false,
        }
    }

    /// One of its tasks is finished. Returns whether that was the last.
    pub(crate) fn record_task_finish(&mut self, now: Duration) -> bool {
        match &mut self.state {
            StageState::Running {
                since,
                unfinished_tasks,
                ..
            } => {
                *unfinished_tasks -= 1;
                let is_last = *unfinished_tasks == 0;
                if is_last {
                    self.state = StageState::Finished {
                        elapsed: now.saturating_sub(*since),
                        unfinished_consumers: self.consumers.len(),
                    };
                }
                is_last
            }
            StageState::Waiting { .. } | StageState::Finished { .. } | StageState::Released { .. } => false,
        }
    }

    /// One of its consumers is finished. If that was the last, returns the workers that must release the stage's
    /// output, and of how many tasks each holds output.
    pub(crate) fn record_consumer_finish(&mut self) -> Option<BTreeMap<WorkerId, u32>> {
        match &mut self.state {
            StageState::Finished {
                elapsed,
                unfinished_consumers,
            } => {
                *unfinished_consumers -= 1;
                if *unfinished_consumers > 0 {
                    return None;
                }
                self.state = StageState::Released { elapsed: *elapsed };
                let mut holders = BTreeMap::new();
                for finished in self.tasks.iter().filter_map(Task::finished) {
                    *holders.entry(finished.worker).or_default() += 1;
                }
                Some(holders)
            }
            StageState::Waiting { .. } | StageState::Running { .. } | StageState::Released { .. } => None,
        }
    }

    /// When it started, and when its last task finished.
    pub(crate) fn times(&self) -> (Option<Duration>, Option<Duration>) {
        let elapsed = match self.state {
            StageState::Finished { elapsed, .. } | StageState::Released { elapsed } => Some(elapsed),
            StageState::Waiting { .. } | StageState::Running { .. } => None,
        };
        (
            self.started,
            self.started.zip(elapsed).map(|(started, elapsed)| started + elapsed),
        )
    }

    pub(crate) fn phase(&self) -> StagePhase {
        match self.state {
            StageState::Waiting { .. } => StagePhase::Waiting,
            StageState::Running { .. } => StagePhase::Running,
            StageState::Finished { .. } => StagePhase::Finished,
            StageState::Released { .. } => StagePhase::Released,
        }
    }

    pub(crate) fn is_finished(&self) -> bool {
        match self.state {
            StageState::Finished { .. } | StageState::Released { .. } => true,
            StageState::Waiting { .. } | StageState::Running { .. } => false,
        }
    }

    /// Where its output is, as an input of its consumers.
    pub(crate) fn to_input(&self, address_of: impl Fn(WorkerId) -> String) -> StageInput {
        let producer = |(task, state): (usize, &Task)| {
            let finished = state.finished()?;
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
        for finished in self.tasks.iter().filter_map(Task::finished) {
            let bytes: u64 = finished.output.partitions.iter().map(|output| output.bytes).sum();
            *held.entry(finished.worker).or_default() += bytes;
        }
    }

    /// Its tasks that had an attempt, each with the key of the last one.
    pub(crate) fn keyed_tasks(&self, query: QueryId) -> impl Iterator<Item = (AttemptKey, &Task)> + '_ {
        self.tasks.iter().enumerate().filter_map(move |(number, task)| {
            let key = AttemptKey {
                query,
                stage: self.spec.id,
                task: task_id(number),
                attempt: task.last_attempt()?,
            };
            Some((key, task))
        })
    }

    /// Whether nobody reads its output any more.
    pub(crate) fn is_released(&self) -> bool {
        matches!(self.state, StageState::Released { .. })
    }

    /// Its attempts that have not ended, and whether each holds slots.
    pub(crate) fn live_attempts(&self) -> impl Iterator<Item = (TaskId, PlacedAttempt, bool)> + '_ {
        self.tasks.iter().enumerate().filter_map(|(task, state)| {
            let (placed, holds_slots) = state.live_attempt()?;
            Some((task_id(task), placed, holds_slots))
        })
    }

    pub(crate) fn summary(&self, now: Duration) -> StageSummary {
        let elapsed = match self.state {
            StageState::Waiting { .. } => Duration::ZERO,
            StageState::Running { since, .. } => now.saturating_sub(since),
            StageState::Finished { elapsed, .. } | StageState::Released { elapsed } => elapsed,
        };
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
            elapsed,
            tasks: self.tasks.iter().enumerate().filter_map(task).collect(),
        }
    }
}

pub(crate) fn task_id(task: usize) -> TaskId {
    TaskId(u32::try_from(task).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use squadron_proto::StageId;
    use squadron_proto::control::{AttemptStatus, PartitionOutput, PlanRef, TaskOutput};

    use super::*;
    use crate::graph::{OutputPartitions, Placement, TaskSpec};

    const QUERY: QueryId = QueryId::from_u128(1);
    const A: WorkerId = WorkerId::from_u128(1);
    const B: WorkerId = WorkerId::from_u128(2);

    fn stage(tasks: &[u64], inputs: Vec<usize>, consumers: Vec<usize>) -> Stage {
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
        };
        Stage::new(spec, inputs, consumers, 1)
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
        stage.record_task_finish(Duration::from_millis(5))
    }

    #[test]
    fn stage_starts_when_inputs_finish() {
        let mut stage = stage(&[1, 9], vec![0, 1], vec![]);
        assert!(!stage.record_input_finish());
        assert!(stage.record_input_finish());
        stage.start(Duration::ZERO, Sources::default());
        let launch = stage.launch_next(QUERY, A, 3, Lane::Short).unwrap();
        assert_eq!((launch.attempt.task, launch.slots), (TaskId(1), 3));
        assert!(stage.introduce(QUERY, A, 0).is_some());
        assert!(stage.introduce(QUERY, A, 0).is_none(), "a worker gets it once");
    }

    #[test]
    fn output_is_released_after_last_consumer() {
        let mut stage = stage(&[0, 0, 0], vec![], vec![7, 8]);
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
        assert_eq!(
            producers,
            [(0, vec![0, 1]), (2, vec![1])],
            "a task without output is not read"
        );
        assert_eq!(stage.record_consumer_finish(), None);
        assert_eq!(stage.record_consumer_finish(), Some(BTreeMap::from([(A, 2), (B, 1)])));
        assert_eq!(stage.record_consumer_finish(), None, "only once");
        assert_eq!(stage.summary(Duration::MAX).elapsed, Duration::from_millis(5));
    }
}
