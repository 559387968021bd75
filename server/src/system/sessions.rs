//! `system.sessions`.

use datafusion::arrow::array::RecordBatch;
use datafusion::error::Result;

use super::rows::Columns;
use crate::auth::Principal;
use crate::query::records::QueryRecords;
use crate::query::{OpenSessions, SessionInfo};

/// A session with the number of its queries that have not ended.
pub(super) struct SessionRow {
    session: SessionInfo,
    queries: usize,
}

pub(super) fn rows(sessions: &OpenSessions, records: &QueryRecords, viewer: &Principal) -> Vec<SessionRow> {
    let own = sessions
        .all()
        .into_iter()
        .filter(|session| session.principal == *viewer);
    own.map(|session| SessionRow {
        queries: records.of_session(&session.id).len(),
        session,
    })
    .collect()
}

pub(super) fn batch(sessions: &[SessionRow]) -> Result<RecordBatch> {
    Columns::new(sessions)
        .text("session_id", |row| row.session.id.as_str())
        .maybe_text("user", |row| row.session.principal.name())
        .time("created_at", |row| row.session.created)
        .time("last_used_at", |row| row.session.last_used)
        .count("queries", |row| row.queries as u64)
        .batch()
}
