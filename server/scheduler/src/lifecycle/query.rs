//! One query: its stages, and how far its result is.
//!
//! | phase | leads to | when |
//! |---|---|---|
//! | Queued | Running | its turn has come (see [`crate::admission`]) |
//! | Running | Streaming | all tasks of the streamed root run, or all tasks of another root are finished |
//! | Streaming | end, with its summary | the root is finished and the client has read everything |
//! | Running, Streaming | Failing | an attempt stopped although nobody asked it to; the cause may follow |
//! | Failing | end | a better cause comes, or none does in time |
//! | any | end | cancel, a failed attempt, a lost worker |
//!
//! A query that has ended is no longer there.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use squadron_proto::control::{AttemptStatus, Lane, StageInput};
use squadron_proto::{AttemptKey, AttemptNumber, Failure, QueryId, StageId, WorkerId};

use crate::admission::Candidate;
use crate::graph::{Placement, QueryOptions, StageGraph};
use crate::info::{QueryProgress, QuerySummary, ResultPart};
use crate::lifecycle::stage::{Sources, Stage, task_id};
use crate::lifecycle::task::{Change, Hold, Spent, Task};
use crate::queue::policy::{self, Order, ReadyStage, Standing};
use crate::queue::run_queue::{Correction, Entry};

/// What a task counts for in a query's progress beside the bytes it reads.
const TASK_BYTES: u64 = 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Query {
    pub(crate) id: QueryId,
    /// How many queries were submitted before.
    pub(crate) number: u64,
    /// Its resource group.
    pub(crate) group: usize,
    pub(crate) options: QueryOptions,
    pub(crate) submitted: Duration,
    /// When it was admitted.
    pub(crate) started: Option<Duration>,
    /// When its root finished.
    pub(crate) delivering_since: Option<Duration>,
    /// Whether most of its time is over.
    pub(crate) is_urgent: bool,
    pub(crate) usage: Usage,
    pub(crate) stages: Vec<Stage>,
    pub(crate) root: usize,
    pub(crate) phase: Phase,
    any: Ready,
    local: Ready,
    /// Workers that were told of it and must be told of its end.
    pub(crate) touched: BTreeSet<WorkerId>,
}

#[derive(Debug)]
pub(crate) enum Phase {
    /// It waits for its turn; nothing of it has been told to anybody.
    Queued,
    /// Its result cannot be read yet.
    Running,
    /// Its result is being read.
    Streaming { read: bool },
    /// It has failed, but the cause may still come.
    Failing { failure: Failure },
}

/// The stages with tasks to place, and the query's place in that line.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    pub(crate) stages: BTreeSet<ReadyStage>,
    /// Since when there are any.
    pub(crate) since: Duration,
    /// When one of their tasks was placed last, or the first of them came.
    served: Duration,
    /// Which line it stands in; it never goes back to one for smaller queries.
    pub(crate) lane: Lane,
    /// What the query was charged in that line.
    pub(crate) pass: u128,
    pub(crate) held_slots: u64,
    pub(crate) entry: Option<Entry>,
    pub(crate) blocked: Option<Blocked>,
}

/// There was no room for the first query in the line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocked {
    pub(crate) since: Duration,
    /// With so many slots free.
    pub(crate) free_slots: u64,
}

/// What a query costs, in microseconds of processors, as far as attempts have said, else of slots.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    predicted_us: u64,
    /// By attempts in times that are over.
    pub(crate) spent_us: u64,
    /// What those that hold slots were charged beforehand.
    charged_us: u64,
    all_tasks: u64,
    /// Attempts that have spent something.
    measured: u64,
}

impl Usage {
    /// What the query will probably cost.
    pub(crate) fn predict(&mut self, cost_us: u64) {
        self.predicted_us = cost_us;
    }

    fn size_us(&self) -> u64 {
        self.predicted_us.max(self.spent_us.saturating_add(self.charged_us))
    }

    /// What an attempt was charged turns out to be something else.
    fn charge(&mut self, spent: Spent) {
        self.charged_us = self.charged_us.saturating_sub(spent.charged_us);
        self.spent_us = self
            .spent_us
            .saturating_sub(spent.before_us)
            .saturating_add(spent.actual_us);
        if spent.before_us == 0 && spent.actual_us > 0 {
            self.measured += 1;
        }
    }

    /// As much as those before, else an even part of all.
    fn next_us(&self) -> u64 {
        let next = match self.measured {
            0 => self.predicted_us / self.all_tasks.max(1),
            measured => self.spent_us / measured,
        };
        next.max(1)
    }
}

impl Query {
    /// `graph` must be valid.
    pub(crate) fn new(graph: StageGraph, number: u64, group: usize, now: Duration) -> Self {
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
        let ways = policy::ways_to_root(&graph.stages, &consumers);
        let all_tasks = graph.stages.iter().map(|stage| stage.tasks.len() as u64);
        let usage = Usage {
            all_tasks: all_tasks.sum(),
            ..Usage::default()
        };
        let stages = graph.stages.into_iter().zip(inputs).zip(consumers).zip(ways);
        Self {
            id: graph.query,
            number,
            group,
            started: None,
            delivering_since: None,
            is_urgent: false,
            usage,
            submitted: now,
            options: graph.options,
            root: position(&graph.root).unwrap_or_default(),
            stages: stages
                .map(|(((spec, inputs), consumers), way)| Stage::new(spec, inputs, consumers, way))
                .collect(),
            phase: Phase::Queued,
            any: Ready::default(),
            local: Ready::default(),
            touched: BTreeSet::new(),
        }
    }

    pub(crate) fn ready(&self, placement: Placement) -> &Ready {
        match placement {
            Placement::Any => &self.any,
            Placement::Local => &self.local,
        }
    }

    pub(crate) fn ready_mut(&mut self, placement: Placement) -> &mut Ready {
        match placement {
            Placement::Any => &mut self.any,
            Placement::Local => &mut self.local,
        }
    }

    pub(crate) fn is_failing(&self) -> bool {
        match self.phase {
            Phase::Failing { .. } => true,
            Phase::Queued | Phase::Running | Phase::Streaming { .. } => false,
        }
    }

    /// What admission knows of it.
    pub(crate) fn candidate(&self) -> Candidate {
        Candidate {
            query: self.id,
            number: self.number,
            priority: self.options.priority,
            group: self.group,
            session: Arc::clone(&self.options.session),
            memory_bytes: self.options.memory_bytes,
        }
    }

    fn standing(&self, placement: Placement) -> Standing {
        let ready = self.ready(placement);
        Standing {
            priority: self.options.priority,
            is_urgent: self.is_urgent,
            size_us: self.usage.size_us(),
            next_us: self.usage.next_us(),
            pass: ready.pass,
        }
    }

    /// Its weight now.
    pub(crate) fn weight(&self, order: Order) -> u64 {
        order.weight(&self.standing(Placement::Any))
    }

    /// What its next task will probably cost.
    pub(crate) fn next_cost_us(&self) -> u64 {
        self.usage.next_us()
    }

    /// The lane that its attempts belong to now.
    pub(crate) fn lane(&self, placement: Placement, order: Order) -> Lane {
        let lane = order.lane(&self.standing(placement));
        lane.max(self.ready(placement).lane)
    }

    /// Its place in a line now, if it has any.
    pub(crate) fn entry(&self, placement: Placement, order: Order) -> Option<Entry> {
        let ready = self.ready(placement);
        if ready.stages.is_empty() || self.is_failing() {
            return None;
        }
        let standing = self.standing(placement);
        Some(Entry {
            lane: ready.lane,
            query: self.id,
            group: self.group,
            tag: order.tag(&standing),
            weight: order.weight(&standing),
            number: self.number,
            since: ready.served,
        })
    }

    /// A stage has tasks to place. Answers whether none had before. `start`: where those begin who come to wait now.
    pub(crate) fn wants_places(&mut self, placement: Placement, stage: usize, now: Duration, start: u128) -> bool {
        let way = self.stages[stage].way_to_root;
        let ready = self.ready_mut(placement);
        let is_new = ready.stages.is_empty();
        if is_new {
            ready.since = now;
            ready.served = now;
            ready.pass = ready.pass.max(start);
        }
        ready.stages.insert((Reverse(way), stage));
        is_new
    }

    /// Some tasks of a stage were placed; `is_done`: that were all.
    pub(crate) fn was_served(&mut self, placement: Placement, stage: usize, is_done: bool, now: Duration) {
        let way = self.stages[stage].way_to_root;
        let ready = self.ready_mut(placement);
        ready.served = now;
        ready.blocked = None;
        if is_done {
            ready.stages.remove(&(Reverse(way), stage));
        }
    }

    /// Slots are taken for an attempt that will probably cost so much.
    pub(crate) fn take(&mut self, placement: Placement, slots: u64, cost_us: u64) {
        self.ready_mut(placement).held_slots += slots;
        self.usage.charged_us = self.usage.charged_us.saturating_add(cost_us);
    }

    /// Slots are given back, if there are any, and what they cost is known better.
    pub(crate) fn give(&mut self, placement: Placement, slots: u64, spent: Spent) {
        let ready = self.ready_mut(placement);
        ready.held_slots = ready.held_slots.saturating_sub(slots);
        self.usage.charge(spent);
    }

    /// When its time is short, and when it is over.
    pub(crate) fn time_limits(&self) -> Option<(Duration, Duration)> {
        let left = self.options.time_limit.as_ref()?.left;
        let at = |left| self.submitted.saturating_add(left);
        Some((at(left / 2), at(left)))
    }

    /// The slots it holds.
    pub(crate) fn held_slots(&self) -> u64 {
        self.any.held_slots + self.local.held_slots
    }

    /// What its session changed.
    pub(crate) fn settings(&self) -> &[(String, String)] {
        &self.stages[self.root].spec.settings
    }

    /// All attempts that hold slots stop to do so: in which line they were charged, how many slots they held, and what they
    /// cost in truth.
    pub(crate) fn stop_clocks(&mut self, now: Duration) -> Vec<(Placement, Lane, u64, Correction)> {
        let mut stopped = Vec::new();
        for stage in &mut self.stages {
            let live: Vec<_> = stage.live().filter(|&(.., holds)| holds).collect();
            for (task, hold, _) in live {
                let slots = hold.share.slots;
                if let Some(spent) = stage.stop_clock(task, Some(now), slots) {
                    let slots = u64::from(slots);
                    stopped.push((stage.spec.placement, spent.lane, slots, spent.correction()));
                    self.usage.charge(spent);
                }
            }
        }
        stopped
    }

    /// What it reads, in bytes, as estimated.
    pub(crate) fn read_bytes(&self) -> u64 {
        let tasks = self.stages.iter().flat_map(|stage| &stage.spec.tasks);
        tasks.map(|task| task.bytes).fold(0, u64::saturating_add)
    }

    pub(crate) fn position(&self, stage: StageId) -> Option<usize> {
        self.stages.binary_search_by_key(&stage, |stage| stage.spec.id).ok()
    }

    /// Stages without inputs; they can start at once.
    pub(crate) fn sources(&self) -> Vec<usize> {
        (0..self.stages.len())
            .filter(|&stage| self.stages[stage].inputs.is_empty())
            .collect()
    }

    /// Starts a stage whose inputs are all finished.
    pub(crate) fn start_stage(&mut self, stage: usize, now: Duration, address_of: impl Fn(WorkerId) -> String) {
        let mut held = BTreeMap::new();
        let mut inputs: Vec<StageInput> = Vec::new();
        for &input in &self.stages[stage].inputs {
            inputs.push(self.stages[input].as_input(&address_of));
            self.stages[input].add_bytes_held(&mut held);
        }
        let mut holders: Vec<_> = held.into_iter().filter(|&(_, bytes)| bytes > 0).collect();
        holders.sort_by_key(|&(worker, bytes)| (std::cmp::Reverse(bytes), worker));
        let holders = holders.into_iter().map(|(worker, _)| worker).collect();
        let inputs = inputs.into();
        self.stages[stage].start(now, Sources { inputs, holders });
    }

    /// Takes a worker's word about an attempt.
    pub(crate) fn report(
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

    /// Whether its worker said that the attempt has stopped without its output.
    pub(crate) fn has_failed(&self, attempt: AttemptKey) -> bool {
        let task = || {
            let stage = &self.stages[self.position(attempt.stage)?];
            stage.tasks.get(usize::try_from(attempt.task.0).ok()?)
        };
        task().is_some_and(Task::has_failed)
    }

    pub(crate) fn task_mut(&mut self, attempt: AttemptKey) -> Option<&mut Task> {
        let stage = self.position(attempt.stage)?;
        self.stages[stage].tasks.get_mut(usize::try_from(attempt.task.0).ok()?)
    }

    /// Where the result is.
    pub(crate) fn result_parts(&self, address_of: impl Fn(WorkerId) -> String) -> Vec<ResultPart> {
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

    /// Finished tasks over all tasks, weighted by the bytes they read; never falls while no finished task is run again.
    pub(crate) fn fraction_done(&self) -> f64 {
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
        if all > 0.0 { done / all } else { 0.0 }
    }

    /// How far it is, for whoever asks.
    pub(crate) fn progress(&self, address_of: impl Fn(WorkerId) -> String) -> QueryProgress {
        let root = &self.stages[self.root];
        let part = |(number, task): (usize, &Task)| {
            let (worker, attempt) = task.readable()?;
            Some(self.result_part(number, worker, attempt, &address_of))
        };
        let rows = |task: &Task| Some(task.finished()?.output.metrics.rows);
        QueryProgress {
            fraction: self.fraction_done(),
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
    pub(crate) fn live(&self) -> Vec<(AttemptKey, Hold, bool)> {
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
    pub(crate) fn forgotten_by(&mut self, worker: WorkerId) {
        self.touched.remove(&worker);
        for stage in &mut self.stages {
            stage.forgotten_by(worker);
        }
    }

    pub(crate) fn summary(&self, now: Duration) -> QuerySummary {
        QuerySummary {
            elapsed: now.saturating_sub(self.submitted),
            stages: self.stages.iter().map(|stage| stage.summary(now)).collect(),
        }
    }
}
