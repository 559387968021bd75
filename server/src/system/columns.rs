//! `system.columns`.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::error::Result;

use super::rows::Columns;
use crate::planner::ColumnSketch;

/// The most characters of a common value that are shown.
const VALUE_CHARACTERS: usize = 64;

pub(super) fn batch(columns: &[Arc<ColumnSketch>]) -> Result<RecordBatch> {
    Columns::new(columns)
        .text("schema", |row| row.schema.as_str())
        .text("table", |row| row.table.as_str())
        .text("name", |row| row.column.as_str())
        .count("rows", |row| row.rows)
        .count("sampled_rows", |row| row.sketch.sampled as u64)
        .maybe_count("distinct_values", |row| {
            of_sampled(row, row.sketch.distinct.round() as u64)
        })
        .maybe_fraction("null_part", |row| of_sampled(row, row.sketch.nulls))
        .maybe_text("common_values", |row| of_sampled(row, common_values(row)))
        .time("read_at", |row| row.read_at)
        .batch()
}

/// Nothing is said of a column of which no row could be read.
fn of_sampled<T>(row: &ColumnSketch, value: T) -> Option<T> {
    (row.sketch.sampled > 0).then_some(value)
}

/// `7 (61.3 %), 12 (4.0 %)`.
fn common_values(row: &ColumnSketch) -> String {
    let shown = row.sketch.common.iter().map(|(value, part)| {
        let value: String = value.to_string().chars().take(VALUE_CHARACTERS).collect();
        format!("{value} ({:.1} %)", part * 100.0)
    });
    shown.collect::<Vec<_>>().join(", ")
}
