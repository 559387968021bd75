//! Ends queries: when their result is read, on failure, cancel or time limit.

use std::time::Duration;

use squadron_proto::{Failure, FailureKind, QueryId, WorkerId};

use crate::deadline::Deadline;
use crate::event::Effect;
use crate::graph::Placement;
use crate::info::QuerySummary;
use crate::lifecycle::query::{Phase, Query};
use crate::scheduler::Scheduler;

impl Scheduler {
    /// The client has read all rows of the query, which ends as soon as its root stage is finished.
    pub(crate) fn mark_result_read(&mut self, now: Duration, id: QueryId, effects: &mut Vec<Effect>) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        match &mut query.phase {
            Phase::Streaming { read } => *read = true,
            // What it computes again its reader did not need any more.
            Phase::Running if query.recoveries > 0 => return self.end_successfully(now, id, effects),
            Phase::Queued | Phase::Running => return,
        }
        if !self.end_if_complete(now, id, effects) {
            self.set_deadline(now + self.limits.last_report_timeout, Deadline::LastReport(id));
        }
    }

    /// Ends the query if its root stage is finished and its result is read. Returns whether it did.
    pub(crate) fn end_if_complete(&mut self, now: Duration, id: QueryId, effects: &mut Vec<Effect>) -> bool {
        let is_complete = self.queries.get(&id).is_some_and(|query| {
            let is_read = match query.phase {
                Phase::Streaming { read } => read,
                Phase::Queued | Phase::Running => false,
            };
            is_read && query.stages[query.root].is_complete()
        });
        if is_complete {
            self.end_successfully(now, id, effects);
        }
        is_complete
    }

    pub(crate) fn end_successfully(&mut self, now: Duration, id: QueryId, effects: &mut Vec<Effect>) {
        if let Some(query) = self.queries.get(&id) {
            let summary = query.summary(now);
            self.end(id, Ok(summary), effects);
        }
    }

    /// Ends a query in any state, cancels its attempts, and has every worker that it touched release what it holds.
    pub(crate) fn end(&mut self, id: QueryId, outcome: Result<QuerySummary, Failure>, effects: &mut Vec<Effect>) {
        let Some(mut query) = self.queries.remove(&id) else {
            return;
        };
        if let Some((urgent, over)) = query.time_limits() {
            self.deadlines.remove(&(urgent, Deadline::Urgent(id)));
            self.deadlines.remove(&(over, Deadline::TimeLimit(id)));
        }
        if matches!(query.phase, Phase::Streaming { .. }) {
            self.open_results -= 1;
        }
        self.leave_queues(&mut query);
        self.leave_admission(&query);
        if outcome.is_ok() {
            let (plan, bytes) = (query.options.fingerprint, query.read_bytes());
            self.costs.learn(plan, bytes, query.usage.spent_us);
        }
        self.stop_everywhere(&query, effects);
        for &worker in &query.touched {
            self.workers.forget_query(worker, id);
        }
        let info = query.info(self.group_name(query.group));
        effects.push(Effect::Ended {
            query: id,
            outcome,
            info: Some(Box::new(info)),
        });
        if !self.workers.is_stopping(id) {
            effects.push(Effect::Released { query: id });
        }
    }

    /// Cancels the attempts of a query and has every worker that it touched release what it holds of it.
    fn stop_everywhere(&mut self, query: &Query, effects: &mut Vec<Effect>) {
        for (key, attempt) in query.live_attempts() {
            let placed = attempt.placed;
            if !self.workers.contains(placed.worker) {
                continue;
            }
            if attempt.holds_slots() {
                self.workers.release_slots(placed.worker, placed.demand);
            }
            effects.push(Effect::CancelAttempt {
                worker: placed.worker,
                attempt: key,
            });
            if !attempt.has_failed() {
                self.workers.add_stopping(placed.worker, key);
            }
        }
        let touched = query.touched.iter().filter(|&&worker| self.workers.contains(worker));
        effects.extend(touched.map(|&worker| Effect::release_all(worker, query.id)));
    }

    /// Removes the query from its run queues; its groups get its slots back and are charged for their use.
    fn leave_queues(&mut self, query: &mut Query) {
        for (placement, lane, slots, correction) in query.stop_clocks(self.now) {
            let queues = self.queues.of_mut(placement);
            queues.settle(lane, query.group, 0, slots, correction);
        }
        for placement in [Placement::Any, Placement::Local] {
            if let Some(entry) = query.ready_mut(placement).entry.take() {
                self.queues.of_mut(placement).lane_mut(entry.lane).remove(&entry);
            }
        }
    }

    fn leave_admission(&mut self, query: &Query) {
        if query.options.is_exempt {
            return;
        }
        match query.started {
            None => self.admission.leave(&query.candidate()),
            Some(started) => {
                let ran = self.now.saturating_sub(started);
                self.admission.end(&query.candidate(), ran);
            }
        }
        self.may_admit = true;
    }

    /// The last attempt of a query that was told to stop has stopped.
    pub(crate) fn record_last_stop(&self, query: QueryId, effects: &mut Vec<Effect>) {
        // One that goes on has stopped some of its attempts: they were superseded, or are made again.
        if !self.queries.contains_key(&query) {
            effects.push(Effect::Released { query });
        }
    }

    pub(crate) fn lose_worker(&mut self, now: Duration, worker: WorkerId, reason: &str, effects: &mut Vec<Effect>) {
        let Some(loss) = self.workers.lose(worker, self.limits.remembered_workers) else {
            return;
        };
        // Before anything is placed again: what waits from now on waits for other workers.
        self.update_capacity(now);
        for query in loss.released {
            self.record_last_stop(query, effects);
        }
        for &id in &loss.queries {
            let message = format!("{} was lost ({reason})", loss.name);
            let failure = Failure::new(FailureKind::WorkerLost, message);
            self.lose_on_worker(now, id, (worker, None), failure, effects);
            if let Some(query) = self.queries.get_mut(&id) {
                query.forget_worker(worker);
            }
        }
    }

    /// The query's time limit is over; it ends in any phase.
    pub(crate) fn end_at_time_limit(&mut self, id: QueryId, effects: &mut Vec<Effect>) {
        let limit = self
            .queries
            .get(&id)
            .and_then(|query| query.options.time_limit.as_ref());
        if let Some(failure) = limit.map(|limit| limit.failure.clone()) {
            self.end(id, Err(failure), effects);
        }
    }
}
