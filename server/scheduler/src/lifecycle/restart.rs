//! Queries that start again from the beginning, under the same id, when what failed was not their own fault.
//!
//! A worker that is lost takes output with it, and the attempts that read there fail. Nothing of the query is kept then:
//! its attempts are stopped, its output is released, and after a pause its first stages start anew. New attempts have new
//! numbers, so nothing that the former ones still say or leave is taken for theirs.
//!
//! A query starts again while none of its rows can have reached its client. A streamed result is announced a second time
//! after a restart; its reader, which alone knows whether it has forwarded rows, takes it from the beginning or gives the
//! query up. A retained result that clients may be reading is not written a second time.

use std::time::Duration;

use squadron_proto::control::PlanRef;
use squadron_proto::{Failure, FailureKind, QueryId};

use crate::deadline::Deadline;
use crate::event::Effect;
use crate::lifecycle::query::{Phase, Query};
use crate::lifecycle::stage::Stage;
use crate::scheduler::Scheduler;

impl Scheduler {
    /// Something failed that the query needs: it starts again where that may help, else it ends.
    pub(crate) fn fail(&mut self, now: Duration, id: QueryId, failure: Failure, effects: &mut Vec<Effect>) {
        let Some(query) = self.queries.get(&id) else {
            return;
        };
        if matches!(query.phase, Phase::Streaming { read: true }) && is_loss(&failure) {
            self.end_successfully(now, id, effects);
        } else if query.restart_count() < self.limits.max_restarts && is_loss(&failure) && query.can_start_again() {
            self.restart(now, id, failure, effects);
        } else {
            self.end(id, Err(failure), effects);
        }
    }

    fn restart(&mut self, now: Duration, id: QueryId, failure: Failure, effects: &mut Vec<Effect>) {
        let Some(mut query) = self.queries.remove(&id) else {
            return;
        };
        if matches!(query.phase, Phase::Streaming { .. }) {
            self.open_results -= 1;
        }
        self.leave_queues(&mut query);
        self.stop_everywhere(&query, effects);
        for &worker in &query.touched {
            self.workers.drop_dependencies(worker, id);
        }
        let pause = self.limits.restart_pause * (1 << query.restart_count().min(6));
        query.restarts.push(failure.message.clone());
        query.reset();
        self.queries.insert(id, query);
        effects.push(Effect::Restarted { query: id, failure });
        self.set_deadline(now + pause, Deadline::Restart(id));
    }

    /// The pause before a restart is over.
    pub(crate) fn start_again(&mut self, now: Duration, id: QueryId) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        if !std::mem::take(&mut query.waits_for_restart) {
            return;
        }
        for stage in query.source_stages() {
            self.start_stage(now, id, stage);
        }
    }
}

/// Whether a failure says that something was lost, which another run may find in its place.
fn is_loss(failure: &Failure) -> bool {
    match failure.kind {
        FailureKind::WorkerLost | FailureKind::ShuffleLost | FailureKind::Draining => true,
        FailureKind::Invalid
        | FailureKind::NotFound
        | FailureKind::Unsupported
        | FailureKind::Unauthenticated
        | FailureKind::Denied
        | FailureKind::Exhausted
        | FailureKind::Cancelled
        | FailureKind::Deadline
        | FailureKind::Storage
        | FailureKind::Internal
        | FailureKind::Busy => false,
    }
}

impl Query {
    fn can_start_again(&self) -> bool {
        let root = &self.stages[self.root];
        let may_be_read = !root.spec.streamed && root.tasks.iter().any(|task| task.readable_attempt().is_some());
        !may_be_read && self.stages.iter().all(Stage::can_start_again)
    }

    /// Back to where it was when it was admitted; what it has used stays charged. It still touches the workers of before:
    /// those that are away have not released anything.
    fn reset(&mut self) {
        self.waits_for_restart = true;
        self.phase = Phase::Running;
        self.delivering_since = None;
        self.reset_ready();
        for stage in &mut self.stages {
            stage.reset();
        }
    }
}

impl Stage {
    /// A plan inside this process is good for one attempt.
    fn can_start_again(&self) -> bool {
        let had_attempt = || self.tasks.iter().any(|task| task.last_attempt().is_some());
        !matches!(self.spec.plan, PlanRef::InProcess(_)) || !had_attempt()
    }
}
