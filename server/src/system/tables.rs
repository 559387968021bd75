//! `system.tables`.

use datafusion::arrow::array::RecordBatch;
use datafusion::error::Result;

use super::rows::Columns;
use crate::catalog::TableInfo;

pub(super) fn batch(tables: &[TableInfo]) -> Result<RecordBatch> {
    Columns::new(tables)
        .text("schema", |row| row.schema.as_str())
        .maybe_text("name", |row| row.name.as_deref())
        .text("kind", |row| row.kind)
        .maybe_text("format", |row| row.format.as_deref())
        .maybe_text("location", |row| row.location.as_deref())
        .maybe_count("files", |row| row.files)
        .maybe_count("bytes", |row| row.bytes)
        .maybe_count("rows", |row| row.rows)
        .maybe_text("warnings", |row| row.warnings.as_deref())
        .batch()
}
