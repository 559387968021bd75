//! Launches tasks: queries with tasks to place wait in the run queues of their placement, and of each run queue the
//! first query is scheduled while there are free slots for it.
//!
//! While the first query waits for enough free slots, no other query of its run queue overtakes it. After
//! `Limits::room_timeout` its tasks share slots instead (see [`crate::workers::placement`]). [`crate::queue::policy`]
//! and [`crate::queue::run_queue`] decide which query is first.
//!
//! Starvation guard: from time to time, a query that was not scheduled for `Limits::starvation_timeout`, in any lane,
//! is scheduled out of its turn. It then gets slots of its own lane even where attempts of earlier lanes have taken all
//! slots; its threads give way to theirs.

use std::time::Duration;

use squadron_proto::control::{Lane, Launch};
use squadron_proto::{AttemptKey, Failure, FailureKind, QueryId, StageId, TaskId, WorkerId};

use crate::deadline::Deadline;
use crate::event::Effect;
use crate::graph::Placement;
use crate::lifecycle::attempt::PlacedAttempt;
use crate::lifecycle::query::{Blocked, Query};
use crate::lifecycle::stage::Stage;
use crate::queue::policy::{self, charge};
use crate::queue::run_queue::{Correction, Entry};
use crate::scheduler::Scheduler;
use crate::workers::placement::{Place, Preferences};

/// Which slots tasks may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// Free ones.
    Free,
    /// Those of other attempts too, as soon as any slot is free of a worker that they do not avoid.
    Shared,
    /// Those that attempts of earlier lanes have taken, too.
    OwnLane,
}

/// The workers that a task would rather not run on; see [`Preferences`].
#[derive(Debug)]
pub(crate) struct Unwanted {
    cut_off: Vec<WorkerId>,
    tried: Vec<WorkerId>,
    avoided: Vec<WorkerId>,
}

impl Unwanted {
    /// What tasks of the stage prefer.
    pub(crate) fn wish<'a>(&'a self, stage: &'a Stage) -> Preferences<'a> {
        Preferences {
            holders: stage.holders(),
            cut_off: &self.cut_off,
            tried: &self.tried,
            avoided: &self.avoided,
        }
    }
}

impl Scheduler {
    /// Starts or continues a stage whose inputs are all complete.
    pub(crate) fn start_stage(&mut self, now: Duration, id: QueryId, stage: usize) {
        if let Some(query) = self.queries.get_mut(&id) {
            let workers = &self.workers;
            query.start_stage(stage, now, |worker| workers.address(worker));
            if query.stages[stage].is_waiting_for_places() {
                self.enqueue(now, id, stage);
            }
            self.watch_for_stragglers(now, id, stage);
        }
    }

    /// Lets a query wait in its run queue with a stage that has tasks to place.
    fn enqueue(&mut self, now: Duration, id: QueryId, stage: usize) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        let placement = query.stages[stage].spec.placement;
        let lane = query.lane(placement, self.limits.order());
        let queue = self.queues.of(placement).lane(lane);
        let start = queue.virtual_time(query.group);
        let is_new = query.add_ready_stage(placement, stage, now, start);
        self.update_queue_entry(id, placement);
        if is_new && self.is_without_workers(placement) {
            self.queues.of_mut(placement).empty_since.get_or_insert(now);
            self.set_deadline(now + self.limits.no_worker_timeout, Deadline::Worker(id, placement));
        }
    }

    /// A task's pause is over.
    pub(crate) fn retry(&mut self, now: Duration, id: QueryId, stage: StageId, task: TaskId) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        if let Some(position) = query.position(stage)
            && let Ok(task) = usize::try_from(task.0)
            && query.stages[position].end_pause(task)
        {
            self.enqueue(now, id, position);
        }
    }

    /// Brings a query's place in the run queues of a placement up to date: inserts, moves or removes it.
    pub(crate) fn update_queue_entry(&mut self, id: QueryId, placement: Placement) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        let queues = self.queues.of_mut(placement);
        let lane = query.lane(placement, self.limits.order());
        let start = queues.lane(lane).virtual_time(query.group);
        let ready = query.ready_mut(placement);
        if ready.lane != lane {
            // The pass of another run queue means nothing in this one, so the query starts at its virtual time.
            (ready.lane, ready.pass) = (lane, start);
        }
        let entry = query.entry(placement, self.limits.order());
        let was = std::mem::replace(&mut query.ready_mut(placement).entry, entry);
        if was == entry {
            return;
        }
        if let Some(was) = was {
            queues.lane_mut(was.lane).remove(&was);
        }
        if let Some(entry) = entry {
            queues.lane_mut(entry.lane).insert(entry);
        }
    }

    /// Launches all tasks that can be placed.
    pub(crate) fn dispatch(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        for placement in [Placement::Any, Placement::Local] {
            self.launch_starved(now, placement, effects);
            for lane in Lane::ALL {
                while self.launch_first(now, placement, lane, effects) {}
            }
        }
    }

    /// Schedules a starved query, if the guard's turn has come and there are slots for it.
    fn launch_starved(&mut self, now: Duration, placement: Placement, effects: &mut Vec<Effect>) {
        let Some(starved_since) = now.checked_sub(self.limits.starvation_timeout) else {
            return;
        };
        let id = self.queues.of(placement).find_starved(starved_since);
        let Some((entry, stage)) = id.and_then(|id| self.ready_stage(id, placement)) else {
            return;
        };
        let mut places = self.find_places(&entry, stage, placement, Room::Shared);
        if places.is_empty() {
            places = self.find_places(&entry, stage, placement, Room::OwnLane);
        }
        if !places.is_empty() {
            self.launch(now, &entry, stage, places, effects);
        }
    }

    /// The place of a waiting query in its run queue, and the stage it is to be scheduled with.
    fn ready_stage(&self, id: QueryId, placement: Placement) -> Option<(Entry, usize)> {
        let ready = self.queries.get(&id)?.ready(placement);
        Some((ready.entry?, policy::next_stage(&ready.stages)?))
    }

    /// Schedules the first query of a run queue once. Returns whether another call may launch more.
    fn launch_first(&mut self, now: Duration, placement: Placement, lane: Lane, effects: &mut Vec<Effect>) -> bool {
        let free_slots = self.workers.slots(placement).free_slots(lane);
        if free_slots == 0 {
            return false;
        }
        let first = self.queues.of(placement).lane(lane).next();
        let Some((entry, stage)) = first.and_then(|id| self.ready_stage(id, placement)) else {
            return false;
        };
        let query = self.queries.get(&entry.query);
        let room = match query.and_then(|query| query.ready(placement).blocked) {
            None => Room::Free,
            Some(blocked) if blocked.since + self.limits.room_timeout <= now => Room::Shared,
            Some(blocked) if free_slots <= blocked.free_slots => return false,
            Some(_) => Room::Free,
        };
        let places = self.find_places(&entry, stage, placement, room);
        if places.is_empty() && room == Room::Shared && self.step_aside(now, &entry, stage, placement) {
            return true;
        }
        if places.is_empty() {
            self.record_blocked(now, placement, entry.query, free_slots);
            return false;
        }
        self.launch(now, &entry, stage, places, effects);
        true
    }

    /// Takes places for the next tasks of a stage, in their order; none if the tasks have to wait.
    fn find_places(&mut self, entry: &Entry, stage: usize, placement: Placement, room: Room) -> Vec<Place> {
        let Some(query) = self.queries.get(&entry.query) else {
            return Vec::new();
        };
        let stage = &query.stages[stage];
        let demands = stage.next_demands(entry.lane);
        let unwanted = self.unwanted_by(query, stage, stage.tried_next());
        let wish = unwanted.wish(stage);
        let may_oversubscribe = room == Room::Shared;
        let pool = self.workers.slots_mut(placement);
        let places = match demands.as_slice() {
            demands if room == Room::OwnLane => pool.place_in_lane(demands, wish),
            [] => None,
            [demand] => pool.place(*demand, wish, may_oversubscribe).map(|place| vec![place]),
            demands => pool.place_together(demands, wish, may_oversubscribe),
        };
        places.unwrap_or_default()
    }

    /// The workers that tasks of a stage would rather not run on, which were `tried` before.
    pub(crate) fn unwanted_by(&self, query: &Query, stage: &Stage, tried: impl Iterator<Item = WorkerId>) -> Unwanted {
        let health = &self.workers.health;
        Unwanted {
            cut_off: Vec::from_iter(health.cut_off(self.now, stage.holders())),
            tried: tried.chain(query.unreachable.iter().copied()).collect(),
            avoided: Vec::from_iter(health.avoided(self.now)),
        }
    }

    /// The next task of the first query finds room only where it was tried before, or cannot read its input, which others
    /// may use: it pauses. Returns whether it does.
    fn step_aside(&mut self, now: Duration, entry: &Entry, stage: usize, placement: Placement) -> bool {
        let id = entry.query;
        let Some(query) = self.queries.get(&id) else {
            return false;
        };
        let waiting = &query.stages[stage];
        let unwanted = self.unwanted_by(query, waiting, waiting.tried_next());
        let [demand] = waiting.next_demands(entry.lane)[..] else {
            return false;
        };
        let slots = self.workers.slots(placement);
        if !slots.has_room_for_others(demand, unwanted.wish(waiting)) {
            return false;
        }
        let Some(query) = self.queries.get_mut(&id) else {
            return false;
        };
        let number = query.stages[stage].spec.id;
        let Some(task) = query.stages[stage].pause_next() else {
            return false;
        };
        if !query.stages[stage].is_waiting_for_places() {
            query.leave_for_a_while(placement, stage);
        }
        self.set_deadline(now + self.limits.retry_pause, Deadline::Retry(id, number, task));
        self.update_queue_entry(id, placement);
        true
    }

    /// The first query of a run queue found too few free slots: it is tried again when more are free, or after
    /// `Limits::room_timeout`.
    fn record_blocked(&mut self, now: Duration, placement: Placement, id: QueryId, free_slots: u64) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        let blocked = &mut query.ready_mut(placement).blocked;
        let is_new = blocked.is_none();
        let since = blocked.map_or(now, |blocked| blocked.since);
        *blocked = Some(Blocked { since, free_slots });
        if is_new {
            self.set_deadline(now + self.limits.room_timeout, Deadline::Room(placement));
        }
    }

    /// Launches the next tasks of a stage on `places`, whose slots are taken already.
    fn launch(&mut self, now: Duration, entry: &Entry, stage: usize, places: Vec<Place>, effects: &mut Vec<Effect>) {
        let id = entry.query;
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        let placement = query.stages[stage].spec.placement;
        let queues = self.queues.of_mut(placement);
        queues.count_launch(entry.waiting_since, now.checked_sub(self.limits.starvation_timeout));
        for Place { worker, slots } in places {
            let query = self.queries.get_mut(&id);
            let launch = query.and_then(|query| query.stages[stage].launch_next(id, worker, slots, entry.lane));
            if let Some(launch) = launch {
                self.send_launch(now, stage, (worker, launch), entry.weight, effects);
            }
        }
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        let is_done = !query.stages[stage].is_waiting_for_places();
        query.record_launch(placement, stage, is_done, now);
        self.update_queue_entry(id, placement);
    }

    /// Sends a new attempt to its worker, whose slots are taken already. The query is charged for it with this `weight`.
    pub(crate) fn send_launch(
        &mut self,
        now: Duration,
        stage: usize,
        (worker, launch): (WorkerId, Launch),
        weight: u64,
        effects: &mut Vec<Effect>,
    ) {
        let id = launch.attempt.query;
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        let placement = query.stages[stage].spec.placement;
        query.touched.insert(worker);
        self.workers.touch(worker, id);
        let cost_us = query.next_cost_us();
        let taken = u64::from(launch.slots);
        let queues = self.queues.of_mut(placement);
        queues.settle(launch.lane, query.group, taken, 0, Correction::More(cost_us));
        query.take_slots(placement, taken, cost_us);
        query.ready_mut(placement).pass += charge(cost_us, weight);
        let workers = self.workers.slots(placement);
        let reserved_bytes = workers.memory_part(worker, query.options.memory_bytes);
        let stage = &mut query.stages[stage];
        if let Some(stage) = stage.introduce(id, worker, reserved_bytes) {
            effects.push(Effect::SendStage { worker, stage });
        }
        stage.start_clock(launch.attempt, now, cost_us, weight, launch.lane);
        effects.push(Effect::Launch { worker, launch });
    }

    /// An attempt gives its slots back; `has_run`: its query is charged for using them.
    pub(crate) fn release_slots(&mut self, attempt: AttemptKey, placed: PlacedAttempt, has_run: bool) {
        self.workers.release_slots(placed.worker, placed.demand);
        self.charge(attempt, placed.demand.slots, has_run);
    }

    /// Corrects what an attempt was charged; `slots`: how many it gives back.
    pub(crate) fn charge(&mut self, attempt: AttemptKey, slots: u32, has_run: bool) {
        let Some(query) = self.queries.get_mut(&attempt.query) else {
            return;
        };
        let Some(stage) = query.position(attempt.stage) else {
            return;
        };
        let placement = query.stages[stage].spec.placement;
        let until = has_run.then_some(self.now);
        let Some(spent) = query.stages[stage].stop_clock(attempt, until, slots) else {
            return;
        };
        let slots = u64::from(slots);
        let correction = spent.correction();
        query.release_slots(placement, slots, spent);
        let ready = query.ready_mut(placement);
        if ready.lane == spent.lane {
            ready.pass = correction.apply(ready.pass, spent.weight);
        }
        self.queues
            .of_mut(placement)
            .settle(spent.lane, query.group, 0, slots, correction);
        for placement in [Placement::Any, Placement::Local] {
            self.update_queue_entry(attempt.query, placement);
        }
    }

    /// A parked attempt resumed by itself, so its slots are taken again, free or not.
    pub(crate) fn retake_slots(&mut self, attempt: AttemptKey, placed: PlacedAttempt) {
        self.workers.take_slots(placed.worker, placed.demand);
        let Some(query) = self.queries.get_mut(&attempt.query) else {
            return;
        };
        let Some(stage) = query.position(attempt.stage) else {
            return;
        };
        let placement = query.stages[stage].spec.placement;
        let slots = u64::from(placed.demand.slots);
        query.take_slots(placement, slots, 0);
        let weight = query.weight(self.limits.order());
        let lane = query.ready(placement).lane;
        query.stages[stage].start_clock(attempt, self.now, 0, weight, lane);
        self.queues
            .of_mut(placement)
            .settle(lane, query.group, slots, 0, Correction::More(0));
        self.update_queue_entry(attempt.query, placement);
    }

    /// Workers joined, left, fell silent or returned: adapts the limits that depend on them. For a placement that has lost
    /// its last worker, `Limits::no_worker_timeout` starts for all waiting queries.
    pub(crate) fn update_capacity(&mut self, now: Duration) {
        let absent_bytes = self.workers.absent_memory_bytes(Placement::Any);
        let present_bytes = self.workers.slots(Placement::Any).memory_bytes();
        self.admission.resize(present_bytes.saturating_add(absent_bytes));
        self.may_admit = true;
        for placement in [Placement::Any, Placement::Local] {
            let is_empty = self.is_without_workers(placement);
            let slots = self.workers.slots(placement).total_slots();
            let queues = self.queues.of_mut(placement);
            queues.resize(slots);
            if !is_empty {
                queues.empty_since = None;
                continue;
            }
            if queues.empty_since.is_some() {
                continue;
            }
            queues.empty_since = Some(now);
            let waiting: Vec<_> = queues.waiting().collect();
            for query in waiting {
                self.set_deadline(now + self.limits.no_worker_timeout, Deadline::Worker(query, placement));
            }
        }
    }

    /// Whether no worker accepts tasks, nor may soon, when it returns.
    fn is_without_workers(&self, placement: Placement) -> bool {
        self.workers.slots(placement).is_empty() && !self.workers.has_absent(placement)
    }

    /// Ends a query if it still waits and there has been no worker for it during `Limits::no_worker_timeout`.
    pub(crate) fn end_without_worker(
        &mut self,
        now: Duration,
        id: QueryId,
        placement: Placement,
        effects: &mut Vec<Effect>,
    ) {
        let timeout = self.limits.no_worker_timeout;
        let has_waited = |since: Duration| since + timeout <= now;
        let is_empty = self.queues.of(placement).empty_since.is_some_and(has_waited);
        let Some(query) = self.queries.get(&id) else {
            return;
        };
        let ready = query.ready(placement);
        let is_waiting = !ready.stages.is_empty() && has_waited(ready.ready_since);
        if is_empty && is_waiting {
            let message = match (placement, query.lost.back()) {
                (_, Some(lost)) => format!("{lost}; for {timeout:?} no other worker has joined that could go on"),
                (Placement::Any, None) => {
                    "no worker has joined; start one with `squadron worker --server http://HOST:CLUSTER_PORT`, or \
                     start the server with `--embedded-workers 1`"
                        .to_owned()
                }
                (Placement::Local, None) => "the server's local worker has stopped; start the server anew".to_owned(),
            };
            self.end(id, Err(Failure::new(FailureKind::WorkerLost, message)), effects);
        }
    }
}
