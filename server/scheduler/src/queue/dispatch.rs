//! From waiting to launched: the queries with tasks to place stand in a queue for each placement, and the first is served
//! as long as there is room for it.
//!
//! While the first waits for room, nobody overtakes it, but not for longer than `Limits::room_timeout`: then its tasks
//! share slots (see [`crate::workers::placement`]). Who is first, [`crate::queue::policy`] and [`crate::queue::run_queue`] decide.
//!
//! Whoever was not served for `Limits::starvation_timeout`, in whatever lane, is served now and then all the same: in its own lane,
//! and there also where attempts of the lanes before it have taken all slots. They go on ahead of it, since its threads give
//! way to theirs.

use std::time::Duration;

use squadron_proto::control::Lane;
use squadron_proto::{AttemptKey, Failure, FailureKind, QueryId, StageId, TaskId};

use crate::deadline::Deadline;
use crate::event::Effect;
use crate::graph::Placement;
use crate::lifecycle::query::Blocked;
use crate::lifecycle::task::Hold;
use crate::queue::policy::{self, charge};
use crate::queue::run_queue::{Correction, Entry};
use crate::scheduler::Scheduler;
use crate::workers::placement::Place;

impl Scheduler {
    /// The inputs of a stage are there.
    pub(crate) fn start_stage(&mut self, now: Duration, id: QueryId, stage: usize) {
        if let Some(query) = self.queries.get_mut(&id) {
            let workers = &self.workers;
            query.start_stage(stage, now, |worker| workers.address(worker));
            self.enqueue(now, id, stage);
        }
    }

    /// A stage has tasks to place.
    fn enqueue(&mut self, now: Duration, id: QueryId, stage: usize) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        let placement = query.stages[stage].spec.placement;
        let lane = query.lane(placement, self.limits.order());
        let queue = self.queues.of(placement).lane(lane);
        let start = queue.virtual_time(query.group);
        let is_new = query.wants_places(placement, stage, now, start);
        self.stand(id, placement);
        if is_new && self.workers.slots(placement).is_empty() {
            self.queues.of_mut(placement).empty_since.get_or_insert(now);
            self.remind(now + self.limits.no_worker_timeout, Deadline::Worker(id, placement));
        }
    }

    /// A pause after a refusal is over.
    pub(crate) fn retry(&mut self, now: Duration, id: QueryId, stage: StageId, task: TaskId) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        if query.is_failing() {
            return;
        }
        if let Some(position) = query.position(stage)
            && let Ok(task) = usize::try_from(task.0)
            && query.stages[position].retry(task)
        {
            self.enqueue(now, id, position);
        }
    }

    /// Puts a query where it belongs in a queue now, or out of it.
    pub(crate) fn stand(&mut self, id: QueryId, placement: Placement) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        let queues = self.queues.of_mut(placement);
        let lane = query.lane(placement, self.limits.order());
        let start = queues.lane(lane).virtual_time(query.group);
        let ready = query.ready_mut(placement);
        if ready.lane != lane {
            // In another queue it begins anew: what was charged elsewhere means nothing there.
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

    /// Places what can be placed.
    pub(crate) fn dispatch(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        for placement in [Placement::Any, Placement::Local] {
            self.serve_starved(now, placement, effects);
            for lane in Lane::ALL {
                while self.place_first(now, placement, lane, effects) {}
            }
        }
    }

    /// Serves somebody who was passed for too long, if it is time for that and there is room.
    fn serve_starved(&mut self, now: Duration, placement: Placement, effects: &mut Vec<Effect>) {
        let Some(overdue) = now.checked_sub(self.limits.starvation_timeout) else {
            return;
        };
        let id = self.queues.of(placement).starved(overdue);
        let Some((entry, stage)) = id.and_then(|id| self.wish(id, placement)) else {
            return;
        };
        let mut places = self.find_places(&entry, stage, placement, true);
        if places.is_empty() {
            places = self.find_places_beside(&entry, stage, placement);
        }
        if !places.is_empty() {
            self.launch(now, &entry, stage, places, effects);
        }
    }

    /// Where a query stands that waits, and for which of its stages.
    fn wish(&self, id: QueryId, placement: Placement) -> Option<(Entry, usize)> {
        let ready = self.queries.get(&id)?.ready(placement);
        Some((ready.entry?, policy::next_stage(&ready.stages)?))
    }

    /// Serves the first query of a queue once. Answers whether there may be more to do.
    fn place_first(&mut self, now: Duration, placement: Placement, lane: Lane, effects: &mut Vec<Effect>) -> bool {
        let free_slots = self.workers.slots(placement).free_slots(lane);
        if free_slots == 0 {
            return false;
        }
        let first = self.queues.of(placement).lane(lane).next();
        let Some((entry, stage)) = first.and_then(|id| self.wish(id, placement)) else {
            return false;
        };
        let query = self.queries.get(&entry.query);
        let impatient = match query.and_then(|query| query.ready(placement).blocked) {
            None => false,
            Some(blocked) if blocked.since + self.limits.room_timeout <= now => true,
            Some(blocked) if free_slots <= blocked.free_slots => return false,
            Some(_) => false,
        };
        let places = self.find_places(&entry, stage, placement, impatient);
        if places.is_empty() {
            self.note_blocked(now, placement, entry.query, free_slots);
            return false;
        }
        self.launch(now, &entry, stage, places, effects);
        true
    }

    /// Places for the next tasks of a stage, in their order; none when they have to wait.
    fn find_places(&mut self, entry: &Entry, stage: usize, placement: Placement, impatient: bool) -> Vec<Place> {
        let Some(query) = self.queries.get(&entry.query) else {
            return Vec::new();
        };
        let stage = &query.stages[stage];
        let wants = stage.next_wants(entry.lane);
        let pool = self.workers.slots_mut(placement);
        match wants.as_slice() {
            [] => Vec::new(),
            [want] => pool.place(*want, stage.holders(), impatient).into_iter().collect(),
            wants => pool
                .place_together(wants, stage.holders(), impatient)
                .unwrap_or_default(),
        }
    }

    /// As [`Scheduler::find_places`], whatever attempts of the lanes before have taken.
    fn find_places_beside(&mut self, entry: &Entry, stage: usize, placement: Placement) -> Vec<Place> {
        let Some(query) = self.queries.get(&entry.query) else {
            return Vec::new();
        };
        let wants = query.stages[stage].next_wants(entry.lane);
        let pool = self.workers.slots_mut(placement);
        pool.place_beside(&wants).unwrap_or_default()
    }

    /// It looks again when more slots are free, and for the last time when its patience ends.
    fn note_blocked(&mut self, now: Duration, placement: Placement, id: QueryId, free_slots: u64) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        let blocked = &mut query.ready_mut(placement).blocked;
        let is_new = blocked.is_none();
        let since = blocked.map_or(now, |blocked| blocked.since);
        *blocked = Some(Blocked { since, free_slots });
        if is_new {
            self.remind(now + self.limits.room_timeout, Deadline::Room(placement));
        }
    }

    /// The next tasks of a stage got their places, and their slots are taken already.
    fn launch(&mut self, now: Duration, entry: &Entry, stage: usize, places: Vec<Place>, effects: &mut Vec<Effect>) {
        let id = entry.query;
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        let placement = query.stages[stage].spec.placement;
        let queues = self.queues.of_mut(placement);
        queues.was_served(entry.since, now.checked_sub(self.limits.starvation_timeout));
        for Place { worker, slots } in places {
            query.touched.insert(worker);
            self.workers.depend(worker, id);
            let cost_us = query.next_cost_us();
            let taken = u64::from(slots);
            queues.settle(entry.lane, entry.group, taken, 0, Correction::More(cost_us));
            query.take(placement, taken, cost_us);
            query.ready_mut(placement).pass += charge(cost_us, entry.weight);
            let stage = &mut query.stages[stage];
            if let Some(stage) = stage.introduce(id, worker) {
                effects.push(Effect::SendStage { worker, stage });
            }
            if let Some(launch) = stage.launch_next(id, worker, slots, entry.lane) {
                let task = launch.attempt.task;
                stage.start_clock(task, now, cost_us, entry.weight, entry.lane);
                effects.push(Effect::Launch { worker, launch });
            }
        }
        let is_done = !query.stages[stage].is_waiting_for_places();
        query.was_served(placement, stage, is_done, now);
        self.stand(id, placement);
    }

    /// An attempt gives its slots back; `has_run`: for what it did with them, its query is charged.
    pub(crate) fn give_slots(&mut self, attempt: AttemptKey, hold: Hold, has_run: bool) {
        self.workers.give(hold.worker, hold.share);
        self.charge(attempt, hold.share.slots, has_run);
    }

    /// What an attempt has cost is known better now; it gives back so many slots.
    pub(crate) fn charge(&mut self, attempt: AttemptKey, slots: u32, has_run: bool) {
        let Some(query) = self.queries.get_mut(&attempt.query) else {
            return;
        };
        let Some(stage) = query.position(attempt.stage) else {
            return;
        };
        let placement = query.stages[stage].spec.placement;
        let until = has_run.then_some(self.now);
        let Some(spent) = query.stages[stage].stop_clock(attempt.task, until, slots) else {
            return;
        };
        let slots = u64::from(slots);
        let correction = spent.correction();
        query.give(placement, slots, spent);
        let ready = query.ready_mut(placement);
        if ready.lane == spent.lane {
            ready.pass = correction.apply(ready.pass, spent.weight);
        }
        self.queues
            .of_mut(placement)
            .settle(spent.lane, query.group, 0, slots, correction);
        for placement in [Placement::Any, Placement::Local] {
            self.stand(attempt.query, placement);
        }
    }

    /// A parked attempt takes its slots again, unasked.
    pub(crate) fn take_slots_again(&mut self, attempt: AttemptKey, hold: Hold) {
        self.workers.take(hold.worker, hold.share);
        let Some(query) = self.queries.get_mut(&attempt.query) else {
            return;
        };
        let Some(stage) = query.position(attempt.stage) else {
            return;
        };
        let placement = query.stages[stage].spec.placement;
        let slots = u64::from(hold.share.slots);
        query.take(placement, slots, 0);
        let weight = query.weight(self.limits.order());
        let lane = query.ready(placement).lane;
        query.stages[stage].start_clock(attempt.task, self.now, 0, weight, lane);
        self.queues
            .of_mut(placement)
            .settle(lane, query.group, slots, 0, Correction::More(0));
        self.stand(attempt.query, placement);
    }

    /// Workers have come or gone: limits follow, and where none is left, those that wait for one do so from now on.
    pub(crate) fn workers_changed(&mut self, now: Duration) {
        self.admission.resize(self.workers.slots(Placement::Any).memory_bytes());
        self.may_admit = true;
        for placement in [Placement::Any, Placement::Local] {
            let pool = self.workers.slots(placement);
            let queues = self.queues.of_mut(placement);
            queues.resize(pool.total_slots());
            if !pool.is_empty() {
                queues.empty_since = None;
                continue;
            }
            if queues.empty_since.is_some() {
                continue;
            }
            queues.empty_since = Some(now);
            let waiting: Vec<_> = queues.waiting().collect();
            for query in waiting {
                self.remind(now + self.limits.no_worker_timeout, Deadline::Worker(query, placement));
            }
        }
    }

    /// A query has waited for a worker; ends it if it still does, and has all the time.
    pub(crate) fn give_up_waiting(
        &mut self,
        now: Duration,
        id: QueryId,
        placement: Placement,
        effects: &mut Vec<Effect>,
    ) {
        let timeout = self.limits.no_worker_timeout;
        let has_waited = |since: Duration| since + timeout <= now;
        let is_empty = self.queues.of(placement).empty_since.is_some_and(has_waited);
        let is_waiting = self.queries.get(&id).is_some_and(|query| {
            let ready = query.ready(placement);
            !ready.stages.is_empty() && has_waited(ready.since)
        });
        if is_empty && is_waiting {
            let message = match placement {
                Placement::Any => {
                    "no worker has joined; start one with `squadron worker --server http://HOST:CLUSTER_PORT`, or start \
                     the server with `--embedded-workers 1`"
                }
                Placement::Local => "the server's local worker has stopped; start the server anew",
            };
            self.end(id, Err(Failure::new(FailureKind::WorkerLost, message)), effects);
        }
    }
}
