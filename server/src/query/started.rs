//! A query that was started, and how its rows can be read.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::datatypes::SchemaRef;
use squadron_proto::QueryId;
use squadron_scheduler::QueryProgress;
use tokio::sync::watch;

use super::retained::RetainedResult;
use crate::sql::StatementKind;

/// A query that was started.
#[derive(Clone, Debug)]
pub struct Started {
    /// Its name from now on.
    pub id: QueryId,
    /// Rows or a change.
    pub kind: StatementKind,
    /// The schema of its rows.
    pub schema: SchemaRef,
    /// How many rows, or -1 when not known yet; of a change, the affected rows.
    pub total_records: i64,
    /// How its rows can be read.
    pub offer: Offer,
    /// For a result that is read once.
    pub(super) ticket: Bytes,
}

/// How a result can be read.
#[derive(Clone, Debug)]
pub enum Offer {
    /// Once, in one stream. The progress of the query, unless its rows are there already.
    Once(Option<watch::Receiver<QueryProgress>>),
    /// In several streams, each as often as wanted.
    Retained(Arc<RetainedResult>),
}
