//! Finds what DataFusion's encoding drops without an error. A fragment with any of it runs in the server's process.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::{ArrowSource, CsvSource, FileScanConfig};
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::memory::LazyMemoryExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec, WindowExpr};

use super::json_array::JsonArraySource;
use crate::WriteFilesExec;

/// Rows inside a plan, such as bound parameters, are sent up to this many bytes.
const MAX_PLAN_ROWS_BYTES: usize = 4 * 1024 * 1024;

/// Why the encoding of `plan`, or of a node below it, would lose meaning; `None` when no loss is known.
pub fn reason(plan: &dyn ExecutionPlan) -> Option<&'static str> {
    node_reason(plan).or_else(|| plan.children().into_iter().find_map(|child| reason(child.as_ref())))
}

fn node_reason(node: &dyn ExecutionPlan) -> Option<&'static str> {
    if let Some(window) = node.downcast_ref::<BoundedWindowAggExec>() {
        return window_reason(window.window_expr());
    }
    if let Some(window) = node.downcast_ref::<WindowAggExec>() {
        return window_reason(window.window_expr());
    }
    if let Some(source) = node.downcast_ref::<DataSourceExec>() {
        let source = source.data_source();
        if let Some(rows) = source.downcast_ref::<MemorySourceConfig>() {
            return memory_reason(rows);
        }
        return source.downcast_ref::<FileScanConfig>().and_then(scan_reason);
    }
    if let Some(write) = node.downcast_ref::<WriteFilesExec>()
        && !write.has_lossless_encoding()
    {
        return Some("options of a file format");
    }
    if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
        let groups = aggregate.group_expr();
        // Decoding loses the sets, and with them the row for an empty input.
        if groups.has_grouping_set() && groups.expr().is_empty() {
            return Some("GROUPING SETS without columns");
        }
    }
    if node.is::<LazyMemoryExec>() && node.schema().fields().is_empty() {
        // Decoding loses that the rows have no columns, but not those of the schema.
        return Some("a series of which no column is read");
    }
    limit_reason(node)
}

/// Every worker of a stage holds the whole plan in memory, and a plan is one message.
fn memory_reason(source: &MemorySourceConfig) -> Option<&'static str> {
    let batches = source.partitions().iter().flatten();
    let bytes: usize = batches.map(RecordBatch::get_array_memory_size).sum();
    (bytes > MAX_PLAN_ROWS_BYTES).then_some("many rows inside the plan")
}

/// The fields have no accessors, but the derived `Debug` of window expressions shows them. A match in a nested
/// expression is a false alarm, which costs speed, not rows.
fn window_reason(expressions: &[Arc<dyn WindowExpr>]) -> Option<&'static str> {
    let text = format!("{expressions:?}");
    if text.contains("ignore_nulls: true") {
        return Some("IGNORE NULLS of a window function");
    }
    if text.contains("filter: Some(") {
        return Some("FILTER of a window aggregate");
    }
    None
}

fn scan_reason(scan: &FileScanConfig) -> Option<&'static str> {
    if scan.file_compression_type != FileCompressionType::UNCOMPRESSED {
        return Some("a compressed text file");
    }
    if scan.limit.is_some_and(beyond_u32) {
        return Some("a limit beyond 32 bits");
    }
    if scan.expr_adapter_factory.is_some() {
        return Some("a schema adapter");
    }
    if is_arrow_stream(scan) {
        return Some("an Arrow IPC stream");
    }
    let source = scan.file_source();
    if source.is::<JsonArraySource>() {
        return Some("a JSON array");
    }
    source.downcast_ref::<CsvSource>().and_then(csv_reason)
}

fn csv_reason(csv: &CsvSource) -> Option<&'static str> {
    let text = format!("{csv:?}");
    let lost = ["terminator: Some(", "double_quote: Some(", "null_regex: Some("];
    lost.iter().any(|field| text.contains(field)).then_some("CSV options")
}

/// Encoding turns the stream form of Arrow IPC into the file form. A source of the stream form refuses to be split.
fn is_arrow_stream(scan: &FileScanConfig) -> bool {
    let split_already = scan
        .file_groups
        .iter()
        .flat_map(|group| group.files())
        .any(|file| file.range.is_some());
    scan.file_source().is::<ArrowSource>()
        && !split_already
        && !matches!(scan.file_source().repartitioned(2, 0, None, scan), Ok(Some(_)))
}

fn limit_reason(node: &dyn ExecutionPlan) -> Option<&'static str> {
    let skip = node.downcast_ref::<GlobalLimitExec>().map_or(0, GlobalLimitExec::skip);
    let local = node.downcast_ref::<LocalLimitExec>().map_or(0, LocalLimitExec::fetch);
    let fetch = node.fetch().unwrap_or(0);
    [skip, local, fetch]
        .into_iter()
        .any(beyond_u32)
        .then_some("a limit beyond 32 bits")
}

fn beyond_u32(number: usize) -> bool {
    u32::try_from(number).is_err()
}
