//! How queries are written down from the moment they are asked for, and how they are stopped: by whomever and in whatever
//! state, in one way.

use std::time::SystemTime;

use futures::future::BoxFuture;
use squadron_proto::{Failure, FailureKind, QueryId};
use tracing::info;

use super::{Principal, Queries, Session, Started};
use crate::query::history::Asked;
use crate::query::options::options;
use crate::query::result_endpoints::Offer;
use crate::sql::PlannedStatement;
use crate::sql::kill::Target;

impl Queries {
    /// Does the work that starts a query, unless somebody stops it meanwhile. It is large, and lies on the heap so that the stack
    /// of whoever waits for it stays small.
    pub(crate) async fn recorded(
        &self,
        id: QueryId,
        session: &Session,
        planned: &PlannedStatement,
        work: BoxFuture<'_, Result<Started, Failure>>,
    ) -> Result<Started, Failure> {
        let history = self.parts.scheduler.history();
        let asking = history.begin(asked(id, session, planned));
        let mut outcome = tokio::select! {
            outcome = work => outcome,
            failure = asking.stopped() => Err(failure),
        };
        // Whoever stopped it just now may not have found its result yet.
        if let Some(failure) = asking.failure()
            && outcome.is_ok()
        {
            self.parts.kept.discard(id);
            self.parts.results.discard(id);
            outcome = Err(failure);
        }
        match &outcome {
            Ok(started) if started.runs() => asking.hand_over(),
            Ok(_) => asking.ended(Ok(())),
            Err(failure) => asking.ended(Err(failure.clone())),
        }
        outcome
    }

    /// Stops a query and drops its result. One that has just ended is as good as stopped.
    ///
    /// # Errors
    /// `NotFound` for a query that is of another principal, ended long ago or never was.
    pub fn cancel(&self, principal: &Principal, id: QueryId) -> Result<(), Failure> {
        if !self.is_known(principal, id) {
            return Err(Failure::new(
                FailureKind::NotFound,
                "the query is not known: it ended some time ago, or it never ran here; there is nothing to cancel",
            ));
        }
        self.stop(principal, id, "the query was cancelled by its client".to_owned());
        Ok(())
    }

    /// Stops what a session still does. Results of several endpoints that were told to its client stay until they expire:
    /// others may be reading them.
    pub fn end_session(&self, session: &Session) {
        self.parts.sessions.close(&session.id, &session.principal);
        for id in self.parts.scheduler.history().of_session(&session.id) {
            if self.parts.kept.get(id, &session.principal).is_none() {
                let why = "its session was closed by its client".to_owned();
                self.stop(&session.principal, id, why);
            }
        }
    }

    /// KILL, said by `session` in the query `own`.
    pub(crate) fn kill(&self, session: &Session, own: QueryId, target: &Target) -> Result<(), Failure> {
        let principal = &session.principal;
        let by = format!("was killed by a statement of session {}", session.id);
        match target {
            Target::Query(id) if self.is_known(principal, *id) => {
                self.stop(principal, *id, format!("the query {by}"));
                Ok(())
            }
            Target::Session(id) if self.parts.sessions.close(id, principal) => {
                info!(killed = id, "session killed");
                for query in self.parts.scheduler.history().of_session(id) {
                    if query != own {
                        self.stop(principal, query, format!("its session {by}"));
                    }
                }
                Ok(())
            }
            Target::Query(id) => Err(not_there(format!(
                "query {id} is not known: it ended some time ago, or it never ran here; system.queries lists what there is"
            ))),
            Target::Session(id) => Err(not_there(format!(
                "session {id} is not open; system.sessions lists those that are"
            ))),
        }
    }

    fn is_known(&self, principal: &Principal, id: QueryId) -> bool {
        let asked = self.parts.scheduler.history().present(id);
        asked.is_some_and(|asked| asked.user.as_deref() == principal.name())
            || self.parts.results.is_of(id, principal)
            || self.parts.kept.get(id, principal).is_some()
            || self.parts.polls.is_of(id, principal)
    }

    /// Whatever the query is doing, and wherever.
    fn stop(&self, owner: &Principal, id: QueryId, why: String) {
        let failure = Failure::new(FailureKind::Cancelled, why);
        let parts = &self.parts;
        parts.scheduler.history().stop(id, failure.clone());
        parts.scheduler.cancel(id, failure.clone());
        parts.polls.cancel(id, failure);
        parts.kept.discard(id);
        parts.results.discard(id);
        parts.results.remember(id, owner);
    }
}

impl Started {
    /// Whether the scheduler has it; else it was over with its start.
    fn runs(&self) -> bool {
        match &self.offer {
            Offer::Once(progress) => progress.is_some(),
            Offer::Kept(_) => true,
        }
    }
}

pub(crate) fn asked(id: QueryId, session: &Session, planned: &PlannedStatement) -> Asked {
    let options = options(session);
    Asked {
        id,
        user: session.principal.name().map(Into::into),
        session: session.id.as_str().into(),
        statement: planned.text.clone(),
        tag: options.tag.map(Into::into),
        priority: options.priority,
        at: SystemTime::now(),
    }
}

fn not_there(message: String) -> Failure {
    Failure::new(FailureKind::NotFound, message)
}
