//! How queries are stopped: by any means and in any state, in one way.

use squadron_proto::{Failure, FailureKind, QueryId};
use tracing::info;

use super::{Principal, Queries, Session};
use crate::sql::kill::Target;

impl Queries {
    /// Stops a query and drops its result. One that has just ended is as good as stopped.
    ///
    /// # Errors
    /// `NotFound` for a query that is of another principal, ended long ago or never was.
    pub fn cancel(&self, principal: &Principal, id: QueryId) -> Result<(), Failure> {
        let why = "the query was cancelled by its client".to_owned();
        match self.stop(principal, id, why) {
            true => Ok(()),
            false => Err(not_found(
                "the query is not known: it ended some time ago, or it never ran here; there is nothing to cancel"
                    .to_owned(),
            )),
        }
    }

    /// Stops what a session still does. Results of several endpoints that were told to its client stay until they
    /// expire: other clients may be reading them.
    pub fn end_session(&self, session: &Session) {
        self.parts.sessions.close(&session.id, &session.principal);
        for (id, is_retained) in self.parts.records.of_session(&session.id) {
            if !is_retained {
                let why = "its session was closed by its client".to_owned();
                self.stop(&session.principal, id, why);
            }
        }
    }

    /// KILL, said by `session` in the query `own`.
    pub(super) fn kill(&self, session: &Session, own: QueryId, target: &Target) -> Result<(), Failure> {
        let principal = &session.principal;
        let by = format!("was killed by a statement of session {}", session.id);
        match target {
            Target::Query(id) if self.stop(principal, *id, format!("the query {by}")) => Ok(()),
            Target::Session(id) if self.parts.sessions.close(id, principal) => {
                info!(killed = id, "session killed");
                for (query, _) in self.parts.records.of_session(id) {
                    if query != own {
                        self.stop(principal, query, format!("its session {by}"));
                    }
                }
                Ok(())
            }
            Target::Query(id) => Err(not_found(format!(
                "query {id} is not known: it ended some time ago, or it never ran here; system.queries lists what there is"
            ))),
            Target::Session(id) => Err(not_found(format!(
                "session {id} is not open; system.sessions lists those that are"
            ))),
        }
    }

    /// Stops a query in whatever state it is. Returns whether it is known to `owner`.
    fn stop(&self, owner: &Principal, id: QueryId, why: String) -> bool {
        let failure = Failure::new(FailureKind::Cancelled, why);
        let Some(lost) = self.parts.records.stop(id, owner, &failure) else {
            return false;
        };
        // Before the result goes, whose loss would cancel the query too, without the reason.
        self.parts.scheduler.cancel(id, failure.clone());
        if let Some(poll) = &lost.poll {
            poll.cancel(failure);
        }
        lost.release();
        true
    }
}

fn not_found(message: String) -> Failure {
    Failure::new(FailureKind::NotFound, message)
}
