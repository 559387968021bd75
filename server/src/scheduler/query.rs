//! One query: its stages, and how far its result is.
//!
//! | phase | leads to | when |
//! |---|---|---|
//! | Running | Streaming | all tasks of the streamed root run, or all tasks of another root are finished |
//! | Streaming | end, with its summary | the root is finished and the client has read everything |
//! | Running, Streaming | Failing | an attempt stopped although nobody asked it to; the cause may follow |
//! | Failing | end | a better cause comes, or none does in time |
//! | any | end | cancel, a failed attempt, a lost worker |
//!
//! A query that has ended is no longer there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use squadron_proto::control::{AttemptStatus, StageInput};
use squadron_proto::{AttemptKey, AttemptNumber, Failure, QueryId, StageId, WorkerId};

use super::event::{QueryProgress, QuerySummary, ResultPart};
use super::graph::{Placement, StageGraph};
use super::policy::Rank;
use super::stage::{Sources, Stage, task_id};
use super::task::{Change, Hold, Task};

/// What a task counts for in a query's progress beside the bytes it reads.
const TASK_BYTES: u64 = 1024 * 1024;

#[derive(Debug)]
pub(super) struct Query {
    pub(super) id: QueryId,
    pub(super) rank: Rank,
    submitted: Duration,
    pub(super) stages: Vec<Stage>,
    pub(super) root: usize,
    pub(super) phase: Phase,
    any: Ready,
    local: Ready,
    /// Workers that were told of it and must be told of its end.
    pub(super) touched: BTreeSet<WorkerId>,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// Its result cannot be read yet.
    Running,
    /// Its result is being read.
    Streaming { read: bool },
    /// It has failed, but the cause may still come.
    Failing { failure: Failure },
}

/// The stages with tasks to place.
#[derive(Debug, Default)]
pub(super) struct Ready {
    pub(super) stages: BTreeSet<usize>,
    /// Since when there are any.
    pub(super) since: Duration,
}

impl Query {
    /// `graph` must be valid.
    pub(super) fn new(graph: StageGraph, rank: Rank, now: Duration) -> Self {
        let ids: Vec<_> = graph.stages.iter().map(|stage| stage.id).collect();
        let position = |id: &StageId| ids.binary_search(id).ok();
        let mut consumers = vec![Vec::new(); ids.len()];
        let mut inputs = Vec::with_capacity(ids.len());
        for (number, stage) in graph.stages.iter().enumerate() {
            let distinct: BTreeSet<_> = stage.inputs.iter().filter_map(position).collect();
            for &input in &distinct {
                consumers[input].push(number);
            }
            inputs.push(distinct.into_iter().collect());
        }
        let stages = graph.stages.into_iter().zip(inputs).zip(consumers);
        Self {
            id: graph.query,
            rank,
            submitted: now,
            root: position(&graph.root).unwrap_or_default(),
            stages: stages
                .map(|((spec, inputs), consumers)| Stage::new(spec, inputs, consumers))
                .collect(),
            phase: Phase::Running,
            any: Ready::default(),
            local: Ready::default(),
            touched: BTreeSet::new(),
        }
    }

    pub(super) fn ready(&self, placement: Placement) -> &Ready {
        match placement {
            Placement::Any => &self.any,
            Placement::Local => &self.local,
        }
    }

    pub(super) fn ready_mut(&mut self, placement: Placement) -> &mut Ready {
        match placement {
            Placement::Any => &mut self.any,
            Placement::Local => &mut self.local,
        }
    }

    pub(super) fn is_failing(&self) -> bool {
        match self.phase {
            Phase::Failing { .. } => true,
            Phase::Running | Phase::Streaming { .. } => false,
        }
    }

    pub(super) fn position(&self, stage: StageId) -> Option<usize> {
        self.stages
            .binary_search_by_key(&stage, |stage| stage.spec.id)
            .ok()
    }

    /// Stages without inputs; they can start at once.
    pub(super) fn sources(&self) -> Vec<usize> {
        (0..self.stages.len())
            .filter(|&stage| self.stages[stage].inputs.is_empty())
            .collect()
    }

    /// Starts a stage whose inputs are all finished.
    pub(super) fn start_stage(
        &mut self,
        stage: usize,
        now: Duration,
        address_of: impl Fn(WorkerId) -> String,
    ) {
        let mut held = BTreeMap::new();
        let mut inputs: Vec<StageInput> = Vec::new();
        for &input in &self.stages[stage].inputs {
            inputs.push(self.stages[input].as_input(&address_of));
            self.stages[input].add_bytes_held(&mut held);
        }
        let mut holders: Vec<_> = held.into_iter().filter(|&(_, bytes)| bytes > 0).collect();
        holders.sort_by_key(|&(worker, bytes)| (std::cmp::Reverse(bytes), worker));
        let holders = holders.into_iter().map(|(worker, _)| worker).collect();
        self.stages[stage].start(now, Sources { inputs, holders });
    }

    /// Takes a worker's word about an attempt.
    pub(super) fn report(
        &mut self,
        worker: WorkerId,
        attempt: AttemptKey,
        status: AttemptStatus,
    ) -> (Change, Option<&'static str>) {
        match self.task_mut(attempt) {
            Some(task) => task.report(worker, attempt.attempt, status),
            None => (Change::Unknown, None),
        }
    }

    fn task_mut(&mut self, attempt: AttemptKey) -> Option<&mut Task> {
        let stage = self.position(attempt.stage)?;
        self.stages[stage]
            .tasks
            .get_mut(usize::try_from(attempt.task.0).ok()?)
    }

    /// Where the result is.
    pub(super) fn result_parts(&self, address_of: impl Fn(WorkerId) -> String) -> Vec<ResultPart> {
        let root = &self.stages[self.root];
        let part = |(number, task): (usize, &Task)| {
            let (worker, attempt) = match (task.live(), task.finished()) {
                (Some((hold, _)), _) => (hold.worker, hold.attempt),
                (None, Some(finished)) => (finished.worker, finished.attempt),
                (None, None) => return None,
            };
            Some(self.result_part(number, worker, attempt, &address_of))
        };
        root.tasks.iter().enumerate().filter_map(part).collect()
    }

    /// How far it is, for whoever asks. The fraction never falls while no finished task is run again.
    pub(super) fn progress(&self, address_of: impl Fn(WorkerId) -> String) -> QueryProgress {
        let (mut done, mut all) = (0.0, 0.0);
        for stage in &self.stages {
            for (task, spec) in stage.tasks.iter().zip(&stage.spec.tasks) {
                let weight = (spec.bytes + TASK_BYTES) as f64;
                all += weight;
                if task.finished().is_some() {
                    done += weight;
                }
            }
        }
        let root = &self.stages[self.root];
        let part = |(number, task): (usize, &Task)| {
            let (worker, attempt) = task.readable()?;
            Some(self.result_part(number, worker, attempt, &address_of))
        };
        let rows = |task: &Task| Some(task.finished()?.output.metrics.rows);
        QueryProgress {
            fraction: if all > 0.0 { done / all } else { 0.0 },
            parts: match root.spec.streamed {
                true => Vec::new(),
                false => root.tasks.iter().enumerate().filter_map(part).collect(),
            },
            rows: root.tasks.iter().map(rows).sum(),
            is_ready: matches!(self.phase, Phase::Streaming { .. }),
            ended: None,
        }
    }

    fn result_part(
        &self,
        number: usize,
        worker: WorkerId,
        attempt: AttemptNumber,
        address_of: impl Fn(WorkerId) -> String,
    ) -> ResultPart {
        let spec = &self.stages[self.root].spec;
        ResultPart {
            attempt: AttemptKey {
                query: self.id,
                stage: spec.id,
                task: task_id(number),
                attempt,
            },
            worker,
            address: address_of(worker),
            partitions: spec
                .tasks
                .get(number)
                .map_or_else(Vec::new, |task| spec.written_by(task)),
        }
    }

    /// All attempts that have not ended, and whether they hold slots.
    pub(super) fn live(&self) -> Vec<(AttemptKey, Hold, bool)> {
        let mut live = Vec::new();
        for stage in &self.stages {
            for (task, hold, holds_slots) in stage.live() {
                let attempt = AttemptKey {
                    query: self.id,
                    stage: stage.spec.id,
                    task,
                    attempt: hold.attempt,
                };
                live.push((attempt, hold, holds_slots));
            }
        }
        live
    }

    /// The worker has forgotten all it was told; nothing of the query depended on it.
    pub(super) fn forgotten_by(&mut self, worker: WorkerId) {
        self.touched.remove(&worker);
        for stage in &mut self.stages {
            stage.forgotten_by(worker);
        }
    }

    pub(super) fn summary(&self, now: Duration) -> QuerySummary {
        QuerySummary {
            elapsed: now.saturating_sub(self.submitted),
            stages: self.stages.iter().map(|stage| stage.summary(now)).collect(),
        }
    }
}
