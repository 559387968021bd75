//! The history: the last queries that have ended.
//!
//! It is bounded by a number of queries and by bytes; the oldest gives way first. With a folder it outlives the
//! process.

mod completed;
mod entry;
mod file;
mod limits;

use std::collections::VecDeque;
use std::time::SystemTime;

use squadron_proto::{Failure, QueryId};

pub use self::completed::{CompletedQuery, QueryRequest};
use self::file::Writer;
pub use self::limits::HistoryLimits;

/// The completed queries, the oldest end first.
#[derive(Debug)]
pub(super) struct CompletedQueries {
    queries: VecDeque<CompletedQuery>,
    bytes: u64,
    limits: HistoryLimits,
    writer: Option<Writer>,
}

impl CompletedQueries {
    /// What is on disk, if anything is.
    ///
    /// # Errors
    /// `Invalid` when the folder cannot be used.
    pub(super) fn open(limits: HistoryLimits) -> Result<Self, Failure> {
        let mut completed = Self {
            queries: VecDeque::new(),
            bytes: 0,
            limits,
            writer: None,
        };
        if let Some(folder) = &completed.limits.folder {
            let (writer, queries) = Writer::open(folder, &completed.limits)?;
            queries.into_iter().for_each(|query| completed.remember(query));
            completed.writer = Some(writer);
        }
        Ok(completed)
    }

    /// A query has ended.
    pub(super) fn add(&mut self, query: CompletedQuery) {
        if let Some(writer) = &self.writer {
            writer.write(&query);
        }
        self.remember(query);
    }

    /// The workers have stopped what they still ran of a query, which ended a moment ago.
    pub(super) fn released(&mut self, id: QueryId, at: SystemTime) {
        let mut latest = self.queries.iter_mut().rev();
        if let Some(query) = latest.find(|query| query.request.id == id) {
            query.released = Some(at);
        }
    }

    pub(super) fn all(&self) -> Vec<CompletedQuery> {
        self.queries.iter().cloned().collect()
    }

    /// Forgets the oldest until they take no more than so many bytes, and never more than the limits allow.
    pub(super) fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.limits.max_bytes);
        while self.queries.len() > self.limits.max_queries || self.bytes > bytes {
            let Some(oldest) = self.queries.pop_front() else {
                return;
            };
            self.bytes -= oldest.bytes();
        }
    }

    fn remember(&mut self, query: CompletedQuery) {
        self.bytes += query.bytes();
        self.queries.push_back(query);
        self.shrink(self.limits.max_bytes);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;

    pub(in crate::query) fn request(id: u128) -> QueryRequest {
        QueryRequest {
            id: QueryId::from_u128(id),
            user: None,
            session: "s".into(),
            statement: Some("SELECT 1".into()),
            tag: None,
            priority: 0,
            at: SystemTime::UNIX_EPOCH,
        }
    }

    pub(in crate::query) fn failed(message: &str) -> Result<(), Failure> {
        Err(Failure::new(squadron_proto::FailureKind::Invalid, message))
    }

    fn completed(id: u128, outcome: Result<(), Failure>) -> CompletedQuery {
        CompletedQuery {
            request: Arc::new(request(id)),
            ended: SystemTime::UNIX_EPOCH,
            outcome,
            info: None,
            released: None,
            epoch: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn oldest_gives_way_by_number_and_bytes() {
        let limits = HistoryLimits {
            max_queries: 2,
            max_bytes: 1 << 20,
            folder: None,
            max_disk_bytes: 0,
        };
        let max_bytes = limits.max_bytes as usize;
        let mut history = CompletedQueries::open(limits).unwrap();
        (1..=3).for_each(|id| history.add(completed(id, Ok(()))));
        let ids =
            |history: &CompletedQueries| -> Vec<_> { history.all().iter().map(|query| query.request.id).collect() };
        assert_eq!(ids(&history), [2, 3].map(QueryId::from_u128));
        history.add(completed(4, failed(&"x".repeat(max_bytes))));
        assert!(
            ids(&history).is_empty(),
            "one that is too large for all is forgotten too"
        );
        history.add(completed(5, Ok(())));
        assert_eq!(ids(&history), [QueryId::from_u128(5)]);
    }
}
