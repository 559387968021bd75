//! `system.stages` and `system.tasks`.

use datafusion::arrow::array::RecordBatch;
use datafusion::error::Result;
use squadron_scheduler::{Resources, StagePhase};

use super::rows::Columns;
use super::view::{StageView, TaskView};

pub(super) fn stages(stages: &[StageView<'_>]) -> Result<RecordBatch> {
    let used = |row: &StageView<'_>| row.stage.resources();
    Columns::new(stages)
        .text("query_id", |row| row.query.request.id.to_string())
        .number("stage", |row| i64::from(row.stage.id.0))
        .text("state", state)
        .count("tasks", |row| row.stage.tasks.len() as u64)
        .count("finished_tasks", |row| row.stage.finished_tasks() as u64)
        .maybe_time("started_at", |row| Some(row.query.time(row.stage.started?)))
        .maybe_duration("elapsed_ms", |row| {
            let finished = row.stage.finished.map(|at| row.query.time(at));
            let started = row.query.time(row.stage.started?);
            Some(row.query.time_between(started, finished))
        })
        .count("rows", move |row| used(row).rows)
        .duration("cpu_ms", move |row| used(row).cpu)
        .count("read_bytes", move |row| used(row).read_bytes)
        .count("shuffled_bytes", move |row| shuffled_bytes(used(row), row.is_last))
        .count("fetched_bytes", move |row| used(row).fetched_bytes)
        .count("spilled_bytes", move |row| used(row).spilled_bytes)
        .count("peak_memory_bytes", move |row| used(row).peak_memory_bytes)
        .batch()
}

pub(super) fn tasks(tasks: &[TaskView<'_>]) -> Result<RecordBatch> {
    let used = |of: fn(Resources) -> u64| move |row: &TaskView<'_>| row.resources().map(of);
    Columns::new(tasks)
        .text("query_id", |row| row.query.request.id.to_string())
        .number("stage", |row| i64::from(row.stage.id.0))
        .number("task", |row| i64::from(row.task.id.0))
        .maybe_count("attempt", |row| Some(u64::from(row.attempt?.attempt.0)))
        .text("state", TaskView::state)
        .maybe_text("worker_id", |row| Some(row.attempt?.worker.to_string()))
        .maybe_text("reason", TaskView::reason)
        .count("slots", |row| u64::from(row.slots()))
        .maybe_time("launched_at", |row| row.time(|attempt| attempt.launched))
        .maybe_time("started_at", |row| row.time(|attempt| attempt.started))
        .maybe_time("ended_at", TaskView::ended_at)
        .maybe_count("rows", used(|used| used.rows))
        .maybe_duration("cpu_ms", |row| Some(row.resources()?.cpu))
        .maybe_count("read_bytes", used(|used| used.read_bytes))
        .maybe_count("shuffled_bytes", |row| {
            Some(shuffled_bytes(row.resources()?, row.is_last))
        })
        .maybe_count("fetched_bytes", used(|used| used.fetched_bytes))
        .maybe_count("spilled_bytes", used(|used| used.spilled_bytes))
        .maybe_count("peak_memory_bytes", used(|used| used.peak_memory_bytes))
        .batch()
}

/// The bytes that a stage or task writes for other stages; the last stage writes for the client.
fn shuffled_bytes(used: Resources, is_last: bool) -> u64 {
    if is_last { 0 } else { used.written_bytes }
}

fn state(row: &StageView<'_>) -> &'static str {
    match row.stage.phase {
        StagePhase::Finished => "finished",
        StagePhase::Released => "released",
        StagePhase::Waiting | StagePhase::Running if row.query.end.is_some() => "cancelled",
        StagePhase::Waiting => "waiting",
        StagePhase::Running => "running",
    }
}
