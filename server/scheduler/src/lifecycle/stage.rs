//! One stage: its tasks, and what it waits for.
//!
//! | state | leads to | when |
//! |---|---|---|
//! | Waiting | Running | all input stages are finished |
//! | Running | Finished | all its tasks are finished |
//! | Finished | Released | all its consumers are finished |
//! | Released | | |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use squadron_proto::control::{Lane, Launch, OutputMode, Producer, Stage as StageMessage, StageInput};
use squadron_proto::{AttemptKey, QueryId, TaskId, WorkerId};

use crate::graph::StageSpec;
use crate::info::{StagePhase, StageSummary, TaskSummary};
use crate::lifecycle::task::{Hold, Spent, Task};
use crate::queue::policy;
use crate::workers::placement::Want;

#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) spec: StageSpec,
    pub(crate) tasks: Vec<Task>,
    /// The stages it reads, and those that read it, as places in the query's list.
    pub(crate) inputs: Vec<usize>,
    pub(crate) consumers: Vec<usize>,
    /// How much work lies between its start and the end of the query.
    pub(crate) way_to_root: u64,
    /// Tasks that want a place; the last comes first.
    pending: Vec<usize>,
    /// Workers that know what its attempts share.
    sent_to: BTreeSet<WorkerId>,
    sources: Sources,
    /// When all its inputs were there.
    started: Option<Duration>,
    state: StageState,
}

#[derive(Debug)]
enum StageState {
    /// For its inputs.
    Waiting { unfinished_inputs: usize },
    /// Its tasks run, or wait for places.
    Running {
        since: Duration,
        unstarted_tasks: usize,
        unfinished_tasks: usize,
    },
    /// Its output is there.
    Finished {
        elapsed: Duration,
        unfinished_consumers: usize,
    },
    /// Its output has been dropped.
    Released { elapsed: Duration },
}

/// Where the input of a stage is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    pub(crate) inputs: Arc<[StageInput]>,
    /// Who holds it, the most bytes first.
    pub(crate) holders: Vec<WorkerId>,
}

impl Stage {
    pub(crate) fn new(mut spec: StageSpec, inputs: Vec<usize>, consumers: Vec<usize>, way_to_root: u64) -> Self {
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
            way_to_root,
            pending: Vec::new(),
            sent_to: BTreeSet::new(),
            sources: Sources::default(),
            started: None,
        }
    }

    /// One of its inputs is finished. Answers whether that was the last.
    pub(crate) fn input_finished(&mut self) -> bool {
        match &mut self.state {
            StageState::Waiting { unfinished_inputs } => {
                *unfinished_inputs -= 1;
                *unfinished_inputs == 0
            }
            StageState::Running { .. } | StageState::Finished { .. } | StageState::Released { .. } => false,
        }
    }

    /// All inputs are there: its tasks want places.
    pub(crate) fn start(&mut self, now: Duration, sources: Sources) {
        self.sources = sources;
        self.started = Some(now);
        self.pending = policy::last_to_first(&self.spec.tasks);
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

    /// What the tasks to be placed next want in a lane: one task, or all of a stage whose tasks start together. The first comes
    /// first.
    pub(crate) fn next_wants(&self, lane: Lane) -> Vec<Want> {
        let count = if self.spec.streamed { self.pending.len() } else { 1 };
        let next = self.pending.iter().rev().take(count);
        next.map(|&task| self.want(task, lane)).collect()
    }

    fn want(&self, task: usize, lane: Lane) -> Want {
        let spec = &self.spec.tasks[task];
        Want {
            slots: spec.slots,
            bytes: spec.bytes,
            lane,
        }
    }

    /// The first of [`Stage::next_wants`] got a place: what to tell its worker.
    pub(crate) fn launch_next(&mut self, query: QueryId, worker: WorkerId, slots: u32, lane: Lane) -> Option<Launch> {
        let task = self.pending.pop()?;
        let share = Want {
            slots,
            ..self.want(task, lane)
        };
        let attempt = self.tasks[task].launch(worker, share);
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

    /// An attempt of the task holds slots from now on.
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

    /// What all attempts share, where the worker does not know it yet.
    pub(crate) fn introduce(&mut self, query: QueryId, worker: WorkerId) -> Option<StageMessage> {
        self.sent_to.insert(worker).then(|| StageMessage {
            query,
            stage: self.spec.id,
            plan: self.spec.plan.clone(),
            settings: self.spec.settings.clone(),
            stores: self.spec.stores.clone(),
        })
    }

    /// The worker has forgotten everything.
    pub(crate) fn forgotten_by(&mut self, worker: WorkerId) {
        self.sent_to.remove(&worker);
    }

    /// A pause after a refusal is over. Answers whether the task wants a place now.
    pub(crate) fn retry(&mut self, task: usize) -> bool {
        let wants = self.tasks.get_mut(task).is_some_and(Task::make_pending);
        if wants {
            self.pending.push(task);
        }
        wants
    }

    /// One of its tasks runs for the first time. Answers whether that was the last.
    pub(crate) fn task_started(&mut self) -> bool {
        match &mut self.state {
            StageState::Running { unstarted_tasks, .. } => {
                *unstarted_tasks -= 1;
                *unstarted_tasks == 0
            }
            StageState::Waiting { .. } | StageState::Finished { .. } | StageState::Released { .. } => false,
        }
    }

    /// One of its tasks is finished. Answers whether that was the last.
    pub(crate) fn task_finished(&mut self, now: Duration) -> bool {
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

    /// One of its consumers is finished. When that was the last: who holds the output that is to be dropped now, and how
    /// many tasks' output that is.
    pub(crate) fn consumer_finished(&mut self) -> Option<BTreeMap<WorkerId, u32>> {
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

    /// Where its output is, for those that read it.
    pub(crate) fn as_input(&self, address_of: impl Fn(WorkerId) -> String) -> StageInput {
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

    /// How many bytes of its output each worker holds.
    pub(crate) fn add_bytes_held(&self, held: &mut BTreeMap<WorkerId, u64>) {
        for finished in self.tasks.iter().filter_map(Task::finished) {
            let bytes: u64 = finished.output.partitions.iter().map(|output| output.bytes).sum();
            *held.entry(finished.worker).or_default() += bytes;
        }
    }

    /// Its attempts that have not ended, and whether they hold slots.
    pub(crate) fn live(&self) -> impl Iterator<Item = (TaskId, Hold, bool)> + '_ {
        self.tasks.iter().enumerate().filter_map(|(task, state)| {
            let (hold, holds_slots) = state.live()?;
            Some((task_id(task), hold, holds_slots))
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
        stage.tasks[attempt.task.0 as usize].report(worker, attempt.attempt, AttemptStatus::Finished(output));
        stage.task_finished(Duration::from_millis(5))
    }

    #[test]
    fn it_starts_with_its_last_input_and_its_largest_task() {
        let mut stage = stage(&[1, 9], vec![0, 1], vec![]);
        assert!(!stage.input_finished());
        assert!(stage.input_finished());
        stage.start(Duration::ZERO, Sources::default());
        let launch = stage.launch_next(QUERY, A, 3, Lane::Short).unwrap();
        assert_eq!((launch.attempt.task, launch.slots), (TaskId(1), 3));
        assert!(stage.introduce(QUERY, A).is_some());
        assert!(stage.introduce(QUERY, A).is_none(), "a worker is told once");
    }

    #[test]
    fn its_output_is_dropped_with_its_last_consumer() {
        let mut stage = stage(&[0, 0, 0], vec![], vec![7, 8]);
        stage.start(Duration::ZERO, Sources::default());
        assert!(!finish_next(&mut stage, A, &[0, 1]));
        assert!(!finish_next(&mut stage, B, &[]));
        assert!(finish_next(&mut stage, A, &[1]));
        let input = stage.as_input(|worker| worker.to_string());
        let producers: Vec<_> = input
            .producers
            .iter()
            .map(|p| (p.task.0, p.partitions.clone()))
            .collect();
        assert_eq!(
            producers,
            [(0, vec![0, 1]), (2, vec![1])],
            "who has no rows is not read"
        );
        assert_eq!(stage.consumer_finished(), None);
        assert_eq!(stage.consumer_finished(), Some(BTreeMap::from([(A, 2), (B, 1)])));
        assert_eq!(stage.consumer_finished(), None, "only once");
        assert_eq!(stage.summary(Duration::MAX).elapsed, Duration::from_millis(5));
    }
}
