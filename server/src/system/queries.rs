//! `system.queries`.

use datafusion::arrow::array::RecordBatch;
use datafusion::error::Result;

use super::rows::Columns;
use super::view::SeenQuery;
use crate::scheduler::{QueryInfo, Resources};

pub(super) fn batch(queries: &[SeenQuery]) -> Result<RecordBatch> {
    let counted = |of: fn(&QueryInfo) -> u64| {
        move |query: &SeenQuery| query.info.as_ref().map_or(0, |info| of(info))
    };
    let used = |query: &SeenQuery| {
        let info = query.info.as_ref();
        info.map_or_else(Resources::default, |info| info.resources())
    };
    Columns::of(queries)
        .text("query_id", |query| query.asked.id.to_string())
        .text("state", SeenQuery::state)
        .maybe_text("user", |query| query.asked.user.as_deref())
        .text("session_id", |query| &*query.asked.session)
        .maybe_text("statement", |query| query.asked.statement.as_deref())
        .maybe_text("tag", |query| query.asked.tag.as_deref())
        .number("priority", |query| i64::from(query.asked.priority))
        .maybe_text("resource_group", |query| {
            query.info.as_ref().map(|info| &*info.group)
        })
        .time("created_at", |query| query.asked.at)
        .maybe_time("queued_at", SeenQuery::submitted)
        .maybe_time("started_at", SeenQuery::started)
        .maybe_time("draining_at", |query| {
            Some(query.time(query.info.as_ref()?.drained?))
        })
        .maybe_time("ended_at", SeenQuery::ended)
        .duration("planning_ms", SeenQuery::planning)
        .maybe_duration("queued_ms", SeenQuery::queued)
        .duration("elapsed_ms", SeenQuery::elapsed)
        .fraction("progress", SeenQuery::progress)
        .count("held_slots", |query| match query.end {
            Some(_) => 0,
            None => query.info.as_ref().map_or(0, |info| info.held_slots),
        })
        .count("stages", counted(|info| info.stages.len() as u64))
        .count("tasks", counted(|info| info.tasks() as u64))
        .count(
            "finished_tasks",
            counted(|info| info.finished_tasks() as u64),
        )
        .count("rows", move |query| used(query).rows)
        .duration("cpu_ms", move |query| used(query).cpu)
        .count("read_bytes", move |query| used(query).read_bytes)
        .count("shuffled_bytes", counted(QueryInfo::shuffled_bytes))
        .count("fetched_bytes", move |query| used(query).fetched_bytes)
        .count("spilled_bytes", move |query| used(query).spilled_bytes)
        .count("peak_memory_bytes", move |query| {
            used(query).peak_memory_bytes
        })
        .count("reserved_memory_bytes", counted(|info| info.memory_bytes))
        .maybe_text("failure_kind", |query| {
            query.failure().map(|failure| failure.kind.name())
        })
        .maybe_text("failure", |query| {
            query.failure().map(|failure| failure.message.as_str())
        })
        .batch()
}
