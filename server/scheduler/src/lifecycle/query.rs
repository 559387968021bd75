//! One query: its stages, its place in the run queues, and the phase of its result.
//!
//! | phase | leads to | when |
//! |---|---|---|
//! | Queued | Running | it is admitted (see [`crate::admission`]) |
//! | Running | Streaming | all tasks of a streamed root run, or all tasks of a retained root are finished |
//! | Streaming | end, with its summary | the root is finished and the client has read the whole result |
//! | Streaming | Running | a part of the result was lost; see [`crate::lifecycle::recovery`] |
//! | any | end | cancel, time limit, a failure that cannot be mended |
//!
//! The scheduler keeps nothing of a query that has ended.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use squadron_proto::control::{AttemptStatus, Lane, StageInput};
use squadron_proto::{AttemptKey, QueryId, StageId, WorkerId};

use crate::admission::Candidate;
use crate::graph::{Placement, QueryOptions, StageGraph};
use crate::info::{QueryProgress, QuerySummary, ResultPart};
use crate::lifecycle::account::Spent;
use crate::lifecycle::attempt::{Attempt, Change};
use crate::lifecycle::stage::{Sources, Stage, task_id};
use crate::lifecycle::task::Task;
use crate::queue::policy::{self, Order, PolicyInput, ReadyStage};
use crate::queue::run_queue::{Correction, Entry};

/// The bytes that a task counts for, in progress and in comparisons, on top of those that it reads.
pub(crate) const TASK_BYTES: u64 = 1024 * 1024;

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
    /// When its root stage finished, and with it the query's last task.
    pub(crate) delivering_since: Option<Duration>,
    /// Whether half of its time limit is over.
    pub(crate) is_urgent: bool,
    pub(crate) usage: Usage,
    pub(crate) stages: Vec<Stage>,
    pub(crate) root: usize,
    pub(crate) phase: Phase,
    /// Whether its result was announced at any time.
    pub(crate) was_announced: bool,
    /// How often something of it was lost and computed again.
    pub(crate) recoveries: u32,
    /// What was lost, the last few times.
    pub(crate) lost: VecDeque<String>,
    any: Ready,
    local: Ready,
    /// Workers from which its rows could not be read, so that all it had there was given up: it would rather have nothing
    /// there any more.
    pub(crate) unreachable: BTreeSet<WorkerId>,
    /// Workers that got something of the query and must release it at its end.
    pub(crate) touched: BTreeSet<WorkerId>,
}

#[derive(Debug)]
pub(crate) enum Phase {
    /// It waits for admission; no worker knows it.
    Queued,
    /// Its result cannot be read yet.
    Running,
    /// Its result can be read; `read`: the client has read all of it.
    Streaming { read: bool },
}

/// A query's stages with tasks to place on workers of one placement, and its place in that placement's run queue.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    pub(crate) stages: BTreeSet<ReadyStage>,
    /// Since when `stages` is not empty.
    pub(crate) ready_since: Duration,
    /// When a task of these stages was launched last, or else when `stages` ceased to be empty.
    waiting_since: Duration,
    /// Since when tasks wait that let others pass for a moment, if no other tasks do.
    aside_since: Option<Duration>,
    /// The lane of its run queue; never goes back to a lane for smaller queries.
    pub(crate) lane: Lane,
    /// What the query was charged in that run queue.
    pub(crate) pass: u128,
    pub(crate) held_slots: u64,
    pub(crate) entry: Option<Entry>,
    pub(crate) blocked: Option<Blocked>,
}

/// The first query of a run queue did not find enough free slots.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocked {
    pub(crate) since: Duration,
    /// How many slots were free at the last attempt.
    pub(crate) free_slots: u64,
}

/// What a query costs, in microseconds: processor time as far as attempts have reported it, else slot time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    predicted_us: u64,
    /// The cost of attempts whose slots were given back.
    pub(crate) spent_us: u64,
    /// What attempts that hold slots were charged in advance.
    charged_us: u64,
    all_tasks: u64,
    /// How many attempts have a known cost.
    measured: u64,
}

impl Usage {
    /// Sets the predicted cost.
    pub(crate) fn predict(&mut self, cost_us: u64) {
        self.predicted_us = cost_us;
    }

    fn size_us(&self) -> u64 {
        self.predicted_us.max(self.spent_us.saturating_add(self.charged_us))
    }

    /// Replaces what an attempt was charged by what it cost.
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

    /// The mean cost of attempts so far, else an even part of the prediction.
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
        let critical_paths = policy::critical_paths(&graph.stages, &consumers);
        let all_tasks = graph.stages.iter().map(|stage| stage.tasks.len() as u64);
        let usage = Usage {
            all_tasks: all_tasks.sum(),
            ..Usage::default()
        };
        let stages = graph.stages.into_iter().zip(inputs).zip(consumers).zip(critical_paths);
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
                .map(|(((spec, inputs), consumers), critical_path)| Stage::new(spec, inputs, consumers, critical_path))
                .collect(),
            phase: Phase::Queued,
            was_announced: false,
            recoveries: 0,
            lost: VecDeque::new(),
            any: Ready::default(),
            local: Ready::default(),
            unreachable: BTreeSet::new(),
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

    /// The query as admission sees it.
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

    fn policy_input(&self, placement: Placement) -> PolicyInput {
        let ready = self.ready(placement);
        PolicyInput {
            priority: self.options.priority,
            is_urgent: self.is_urgent,
            size_us: self.usage.size_us(),
            next_us: self.usage.next_us(),
            pass: ready.pass,
        }
    }

    /// Its present weight.
    pub(crate) fn weight(&self, order: Order) -> u64 {
        order.weight(&self.policy_input(Placement::Any))
    }

    /// What its next task will probably cost.
    pub(crate) fn next_cost_us(&self) -> u64 {
        self.usage.next_us()
    }

    /// The lane that its next attempts belong to.
    pub(crate) fn lane(&self, placement: Placement, order: Order) -> Lane {
        let lane = order.lane(&self.policy_input(placement));
        lane.max(self.ready(placement).lane)
    }

    /// Its present place in a run queue, if it has tasks to place.
    pub(crate) fn entry(&self, placement: Placement, order: Order) -> Option<Entry> {
        let ready = self.ready(placement);
        if ready.stages.is_empty() {
            return None;
        }
        let input = self.policy_input(placement);
        Some(Entry {
            lane: ready.lane,
            query: self.id,
            group: self.group,
            tag: order.tag(&input),
            weight: order.weight(&input),
            number: self.number,
            waiting_since: ready.waiting_since,
        })
    }

    /// Adds a stage with tasks to place. Returns whether it is the only one. `start`: the virtual time of the run
    /// queue, where the pass of a newcomer starts.
    pub(crate) fn add_ready_stage(&mut self, placement: Placement, stage: usize, now: Duration, start: u128) -> bool {
        let critical_path = self.stages[stage].critical_path;
        let ready = self.ready_mut(placement);
        let is_new = ready.stages.is_empty();
        if is_new {
            ready.ready_since = now;
            ready.waiting_since = ready.aside_since.take().unwrap_or(now);
            ready.pass = ready.pass.max(start);
        }
        ready.stages.insert((Reverse(critical_path), stage));
        is_new
    }

    /// Tasks of a stage were launched; `is_done`: the stage has no more to place.
    pub(crate) fn record_launch(&mut self, placement: Placement, stage: usize, is_done: bool, now: Duration) {
        let critical_path = self.stages[stage].critical_path;
        let ready = self.ready_mut(placement);
        ready.waiting_since = now;
        ready.aside_since = None;
        ready.blocked = None;
        if is_done {
            ready.stages.remove(&(Reverse(critical_path), stage));
        }
    }

    /// A stage has no tasks to place any more, since an input of it was lost.
    pub(crate) fn remove_ready_stage(&mut self, placement: Placement, stage: usize) {
        let critical_path = self.stages[stage].critical_path;
        let ready = self.ready_mut(placement);
        ready.stages.remove(&(Reverse(critical_path), stage));
        ready.blocked = None;
    }

    /// The tasks of a stage let others pass, and come back soon. For the starvation guard they still wait.
    pub(crate) fn leave_for_a_while(&mut self, placement: Placement, stage: usize) {
        self.remove_ready_stage(placement, stage);
        let ready = self.ready_mut(placement);
        if ready.stages.is_empty() {
            ready.aside_since = Some(ready.waiting_since);
        }
    }

    /// Takes slots for an attempt that will probably cost `cost_us`.
    pub(crate) fn take_slots(&mut self, placement: Placement, slots: u64, cost_us: u64) {
        self.ready_mut(placement).held_slots += slots;
        self.usage.charged_us = self.usage.charged_us.saturating_add(cost_us);
    }

    /// Gives slots back, possibly none, and corrects what their attempt was charged.
    pub(crate) fn release_slots(&mut self, placement: Placement, slots: u64, spent: Spent) {
        let ready = self.ready_mut(placement);
        ready.held_slots = ready.held_slots.saturating_sub(slots);
        self.usage.charge(spent);
    }

    /// When the query becomes urgent, and when its time limit is over.
    pub(crate) fn time_limits(&self) -> Option<(Duration, Duration)> {
        let left = self.options.time_limit.as_ref()?.left;
        let at = |left| self.submitted.saturating_add(left);
        Some((at(left / 2), at(left)))
    }

    /// The slots it holds.
    pub(crate) fn held_slots(&self) -> u64 {
        self.any.held_slots + self.local.held_slots
    }

    /// The options that its session changed.
    pub(crate) fn settings(&self) -> &[(String, String)] {
        &self.stages[self.root].spec.settings
    }

    /// Takes the slots from all attempts that hold some. Returns for each the placement and lane of its run queue, its
    /// slots, and the correction of its charge.
    pub(crate) fn stop_clocks(&mut self, now: Duration) -> Vec<(Placement, Lane, u64, Correction)> {
        let mut stopped = Vec::new();
        for stage in &mut self.stages {
            let attempts = stage.attempts(self.id).filter(|(_, attempt)| attempt.holds_slots());
            let holding: Vec<_> = attempts.map(|(key, attempt)| (key, attempt.placed)).collect();
            for (key, placed) in holding {
                let slots = placed.demand.slots;
                if let Some(spent) = stage.stop_clock(key, Some(now), slots) {
                    let slots = u64::from(slots);
                    stopped.push((stage.spec.placement, spent.lane, slots, spent.correction()));
                    self.usage.charge(spent);
                }
            }
        }
        stopped
    }

    /// The estimated bytes that it reads.
    pub(crate) fn read_bytes(&self) -> u64 {
        let tasks = self.stages.iter().flat_map(|stage| &stage.spec.tasks);
        tasks.map(|task| task.bytes).fold(0, u64::saturating_add)
    }

    pub(crate) fn position(&self, stage: StageId) -> Option<usize> {
        self.stages.binary_search_by_key(&stage, |stage| stage.spec.id).ok()
    }

    /// Starts or continues a stage whose inputs are all complete.
    pub(crate) fn start_stage(&mut self, stage: usize, now: Duration, address_of: impl Fn(WorkerId) -> String) {
        let mut held = BTreeMap::new();
        let mut inputs: Vec<StageInput> = Vec::new();
        for &input in &self.stages[stage].inputs {
            inputs.push(self.stages[input].to_input(&address_of));
            self.stages[input].add_held_bytes(&mut held);
        }
        let mut holders: Vec<_> = held.into_iter().filter(|&(_, bytes)| bytes > 0).collect();
        holders.sort_by_key(|&(worker, bytes)| (std::cmp::Reverse(bytes), worker));
        let holders = holders.into_iter().map(|(worker, _)| worker).collect();
        let inputs = inputs.into();
        self.stages[stage].start(now, Sources { inputs, holders });
    }

    /// Applies a worker's report. The second value says what was impossible about it, if anything.
    pub(crate) fn apply_report(
        &mut self,
        worker: WorkerId,
        attempt: AttemptKey,
        status: AttemptStatus,
    ) -> (Change, Option<&'static str>) {
        match self.task_mut(attempt) {
            Some(task) => task.apply_report(worker, attempt.attempt, status),
            None => (Change::Unknown, None),
        }
    }

    /// The worker of an attempt, if it has not come to nothing.
    pub(crate) fn worker_of(&self, key: AttemptKey) -> Option<WorkerId> {
        self.attempt(key).map(Attempt::worker)
    }

    /// An attempt, if it has not come to nothing.
    pub(crate) fn attempt(&self, key: AttemptKey) -> Option<&Attempt> {
        self.task(key)?.find(key.attempt)
    }

    pub(crate) fn attempt_mut(&mut self, key: AttemptKey) -> Option<&mut Attempt> {
        self.task_mut(key)?.find_mut(key.attempt)
    }

    pub(crate) fn task(&self, attempt: AttemptKey) -> Option<&Task> {
        let stage = self.position(attempt.stage)?;
        self.stages[stage].tasks.get(usize::try_from(attempt.task.0).ok()?)
    }

    pub(crate) fn task_mut(&mut self, attempt: AttemptKey) -> Option<&mut Task> {
        let stage = self.position(attempt.stage)?;
        self.stages[stage].tasks.get_mut(usize::try_from(attempt.task.0).ok()?)
    }

    /// Where the partitions of the result are.
    pub(crate) fn result_parts(&self, address_of: impl Fn(WorkerId) -> String) -> Vec<ResultPart> {
        let root = &self.stages[self.root];
        let part = |(number, task): (usize, &Task)| Some(self.result_part(number, task.attempt()?, &address_of));
        root.tasks.iter().enumerate().filter_map(part).collect()
    }

    /// Finished tasks over all tasks, weighted by the bytes they read; never falls unless a finished task is run again.
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

    /// The progress as the server shows it.
    pub(crate) fn progress(&self, address_of: impl Fn(WorkerId) -> String) -> QueryProgress {
        let root = &self.stages[self.root];
        let part = |(number, task): (usize, &Task)| {
            let attempt = task.attempt().filter(|attempt| attempt.is_readable())?;
            Some(self.result_part(number, attempt, &address_of))
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

    fn result_part(&self, number: usize, attempt: &Attempt, address_of: impl Fn(WorkerId) -> String) -> ResultPart {
        let spec = &self.stages[self.root].spec;
        ResultPart {
            attempt: AttemptKey {
                query: self.id,
                stage: spec.id,
                task: task_id(number),
                attempt: attempt.number(),
            },
            worker: attempt.worker(),
            address: address_of(attempt.worker()),
            partitions: spec
                .tasks
                .get(number)
                .map_or_else(Vec::new, |task| spec.written_partitions(task)),
        }
    }

    /// All attempts that have not ended.
    pub(crate) fn live_attempts(&self) -> impl Iterator<Item = (AttemptKey, &Attempt)> + '_ {
        let attempts = self.stages.iter().flat_map(|stage| stage.attempts(self.id));
        attempts.filter(|(_, attempt)| attempt.is_live())
    }

    /// The worker is lost: stages must be sent to it again if it comes back.
    pub(crate) fn forget_worker(&mut self, worker: WorkerId) {
        self.touched.remove(&worker);
        self.forget_stages_sent(worker);
    }

    /// Stages must be sent to the worker again.
    pub(crate) fn forget_stages_sent(&mut self, worker: WorkerId) {
        for stage in &mut self.stages {
            stage.forget_worker(worker);
        }
    }

    pub(crate) fn summary(&self, now: Duration) -> QuerySummary {
        QuerySummary {
            elapsed: now.saturating_sub(self.submitted),
            recoveries: self.lost.iter().cloned().collect(),
            stages: self.stages.iter().map(|stage| stage.summary(now)).collect(),
        }
    }
}
