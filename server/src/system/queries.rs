//! `system.queries`.

use datafusion::arrow::array::RecordBatch;
use datafusion::error::Result;
use squadron_scheduler::{QueryInfo, Resources};

use super::rows::Columns;
use super::view::QueryView;

/// A query with the resources that all its tasks used together.
struct Row<'a> {
    query: &'a QueryView,
    used: Resources,
}

impl<'a> Row<'a> {
    fn new(query: &'a QueryView) -> Self {
        let info = query.info.as_ref();
        Self {
            query,
            used: info.map_or_else(Resources::default, |info| info.resources()),
        }
    }

    /// A number of the scheduler; 0 before the query was submitted.
    fn count(&self, of: impl Fn(&QueryInfo) -> u64) -> u64 {
        self.query.info.as_ref().map_or(0, |info| of(info))
    }
}

pub(super) fn batch(queries: &[QueryView]) -> Result<RecordBatch> {
    let rows: Vec<_> = queries.iter().map(Row::new).collect();
    Columns::new(&rows)
        .text("query_id", |row| row.query.request.id.to_string())
        .text("state", |row| row.query.state())
        .maybe_text("user", |row| row.query.request.user.as_deref())
        .text("session_id", |row| &*row.query.request.session)
        .maybe_text("statement", |row| row.query.request.statement.as_deref())
        .maybe_text("tag", |row| row.query.request.tag.as_deref())
        .number("priority", |row| i64::from(row.query.request.priority))
        .maybe_text("resource_group", |row| row.query.info.as_ref().map(|info| &*info.group))
        .time("created_at", |row| row.query.request.at)
        .maybe_time("queued_at", |row| row.query.submitted_at())
        .maybe_time("started_at", |row| row.query.started_at())
        .maybe_time("delivering_at", |row| {
            Some(row.query.time(row.query.info.as_ref()?.delivering_since?))
        })
        .maybe_time("ended_at", |row| row.query.ended_at())
        .maybe_time("released_at", |row| row.query.released)
        .duration("planning_ms", |row| row.query.planning_time())
        .maybe_duration("queued_ms", |row| row.query.queue_time())
        .duration("elapsed_ms", |row| row.query.elapsed())
        .fraction("progress", |row| row.query.progress())
        .count("recoveries", |row| row.count(|info| u64::from(info.recoveries)))
        .count("held_slots", |row| match row.query.end {
            Some(_) => 0,
            None => row.count(|info| info.held_slots),
        })
        .count("stages", |row| row.count(|info| info.stages.len() as u64))
        .count("tasks", |row| row.count(|info| info.tasks() as u64))
        .count("finished_tasks", |row| row.count(|info| info.finished_tasks() as u64))
        .count("rows", |row| row.used.rows)
        .duration("cpu_ms", |row| row.used.cpu)
        .count("read_bytes", |row| row.used.read_bytes)
        .count("shuffled_bytes", |row| row.count(QueryInfo::shuffled_bytes))
        .count("fetched_bytes", |row| row.used.fetched_bytes)
        .count("spilled_bytes", |row| row.used.spilled_bytes)
        .count("peak_memory_bytes", |row| row.used.peak_memory_bytes)
        .count("reserved_memory_bytes", |row| row.count(|info| info.memory_bytes))
        .maybe_text("failure_kind", |row| {
            row.query.failure().map(|failure| failure.kind.name())
        })
        .maybe_text("failure", |row| {
            row.query.failure().map(|failure| failure.message.as_str())
        })
        .batch()
}
