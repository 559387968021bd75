//! From waiting to launched: the queue of queries with tasks to place, one for each placement.
//!
//! The first query in the queue is served until it has nothing to place; while it waits for room, nobody overtakes it,
//! but not for longer than `Limits::room_timeout`: then its tasks share slots (see [`super::placement`]).

use std::collections::BTreeSet;
use std::time::Duration;

use squadron_proto::{Failure, FailureKind, QueryId, StageId, TaskId};

use super::event::Effect;
use super::graph::Placement;
use super::placement::Place;
use super::policy::{self, Rank};
use super::{Deadline, Scheduler};

/// Queries with tasks to place.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeSet<(Rank, QueryId)>,
    /// The first of them, and since when there has been no room for it.
    blocked: Option<(QueryId, Duration)>,
    /// Since when there has been no worker at all.
    empty_since: Option<Duration>,
}

impl Queue {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.blocked.is_none()
    }

    /// Takes a query out.
    pub(super) fn remove(&mut self, rank: Rank, query: QueryId) {
        self.waiting.remove(&(rank, query));
        if self.blocked.is_some_and(|(blocked, _)| blocked == query) {
            self.blocked = None;
        }
    }
}

impl Scheduler {
    fn queue(&self, placement: Placement) -> &Queue {
        match placement {
            Placement::Any => &self.any,
            Placement::Local => &self.local,
        }
    }

    pub(super) fn queue_mut(&mut self, placement: Placement) -> &mut Queue {
        match placement {
            Placement::Any => &mut self.any,
            Placement::Local => &mut self.local,
        }
    }

    /// The inputs of a stage are there.
    pub(super) fn start_stage(&mut self, now: Duration, id: QueryId, stage: usize) {
        if let Some(query) = self.queries.get_mut(&id) {
            let members = &self.members;
            query.start_stage(stage, now, |worker| members.address(worker));
            self.enqueue(now, id, stage);
        }
    }

    /// A stage has tasks to place.
    fn enqueue(&mut self, now: Duration, id: QueryId, stage: usize) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        let placement = query.stages[stage].spec.placement;
        let rank = query.rank;
        let ready = query.ready_mut(placement);
        if ready.stages.is_empty() {
            ready.since = now;
        }
        ready.stages.insert(stage);
        let is_new = self.queue_mut(placement).waiting.insert((rank, id));
        if is_new && self.members.pool(placement).is_empty() {
            self.queue_mut(placement).empty_since.get_or_insert(now);
            self.remind(
                now + self.limits.no_worker_timeout,
                Deadline::Worker(id, placement),
            );
        }
    }

    /// A pause after a refusal is over.
    pub(super) fn retry(&mut self, now: Duration, id: QueryId, stage: StageId, task: TaskId) {
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

    /// Places what can be placed.
    pub(super) fn dispatch(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        for placement in [Placement::Any, Placement::Local] {
            while self.place_first(now, placement, effects) {}
        }
    }

    /// Serves the first query of the queue once. Answers whether there may be more to do.
    fn place_first(
        &mut self,
        now: Duration,
        placement: Placement,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let queue = self.queue(placement);
        let Some(&(rank, id)) = queue.waiting.first() else {
            return false;
        };
        if self.members.pool(placement).is_empty() {
            return false;
        }
        let impatient = queue.blocked.is_some_and(|(blocked, since)| {
            blocked == id && since + self.limits.room_timeout <= now
        });
        let next = self
            .queries
            .get(&id)
            .and_then(|query| policy::next_stage(&query.ready(placement).stages));
        let Some(stage) = next else {
            self.queue_mut(placement).remove(rank, id);
            return true;
        };
        let places = self.find_places(id, stage, placement, impatient);
        if places.is_empty() {
            self.note_blocked(now, placement, id);
            return false;
        }
        self.queue_mut(placement).blocked = None;
        self.launch(id, stage, places, effects);
        if self
            .queries
            .get(&id)
            .is_none_or(|query| query.ready(placement).stages.is_empty())
        {
            self.queue_mut(placement).remove(rank, id);
        }
        true
    }

    /// Places for the next tasks of a stage, in their order; none when they have to wait.
    fn find_places(
        &mut self,
        id: QueryId,
        stage: usize,
        placement: Placement,
        impatient: bool,
    ) -> Vec<Place> {
        let Some(query) = self.queries.get(&id) else {
            return Vec::new();
        };
        let stage = &query.stages[stage];
        let wants: Vec<_> = stage.next_tasks().map(|task| stage.want(task)).collect();
        let pool = self.members.pool_mut(placement);
        match wants.as_slice() {
            [] => Vec::new(),
            [want] => pool
                .place(*want, stage.holders(), impatient)
                .into_iter()
                .collect(),
            wants => pool
                .place_together(wants, stage.holders(), impatient)
                .unwrap_or_default(),
        }
    }

    fn note_blocked(&mut self, now: Duration, placement: Placement, id: QueryId) {
        if self
            .queue(placement)
            .blocked
            .is_none_or(|(blocked, _)| blocked != id)
        {
            self.queue_mut(placement).blocked = Some((id, now));
            self.remind(now + self.limits.room_timeout, Deadline::Room(placement));
        }
    }

    /// The next tasks of a stage got their places, and their slots are taken already.
    fn launch(&mut self, id: QueryId, stage: usize, places: Vec<Place>, effects: &mut Vec<Effect>) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        for Place { worker, slots } in places {
            query.touched.insert(worker);
            self.members.depend(worker, id);
            let stage = &mut query.stages[stage];
            if let Some(stage) = stage.introduce(id, worker) {
                effects.push(Effect::SendStage { worker, stage });
            }
            if let Some(launch) = stage.launch_next(id, worker, slots) {
                effects.push(Effect::Launch { worker, launch });
            }
        }
        if !query.stages[stage].is_waiting_for_places() {
            let placement = query.stages[stage].spec.placement;
            query.ready_mut(placement).stages.remove(&stage);
        }
    }

    /// Workers have gone: where none is left, those that wait for one do so from now on.
    pub(super) fn watch_empty_pools(&mut self, now: Duration) {
        for placement in [Placement::Any, Placement::Local] {
            let is_empty = self.members.pool(placement).is_empty();
            let queue = self.queue_mut(placement);
            if !is_empty || queue.empty_since.is_some() {
                continue;
            }
            queue.empty_since = Some(now);
            let waiting: Vec<_> = queue.waiting.iter().map(|&(_, query)| query).collect();
            for query in waiting {
                self.remind(
                    now + self.limits.no_worker_timeout,
                    Deadline::Worker(query, placement),
                );
            }
        }
    }

    pub(super) fn workers_are_there_again(&mut self) {
        for placement in [Placement::Any, Placement::Local] {
            if !self.members.pool(placement).is_empty() {
                self.queue_mut(placement).empty_since = None;
            }
        }
    }

    /// A query has waited for a worker; ends it if it still does, and has all the time.
    pub(super) fn give_up_waiting(
        &mut self,
        now: Duration,
        id: QueryId,
        placement: Placement,
        effects: &mut Vec<Effect>,
    ) {
        let timeout = self.limits.no_worker_timeout;
        let has_waited = |since: Duration| since + timeout <= now;
        let is_empty = self.queue(placement).empty_since.is_some_and(has_waited);
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
            self.end(
                id,
                Err(Failure::new(FailureKind::WorkerLost, message)),
                effects,
            );
        }
    }
}
