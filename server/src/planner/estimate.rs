//! Estimates how many bytes a plan outputs, from DataFusion's statistics.

use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::common::stats::Precision;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use squadron_shuffle::plan_nodes::file_scan;

/// The assumed bytes of a value of variable width.
const VARIABLE_WIDTH_BYTES: usize = 24;

/// Caches the statistics of nodes, so that a walk up a plan computes those of each node once.
pub(crate) struct Estimator {
    context: StatisticsContext,
}

impl Estimator {
    pub(crate) fn new() -> Self {
        Self {
            context: StatisticsContext::new(),
        }
    }

    /// Estimated bytes that `plan` outputs: its rows, where statistics know them, times the width of a row; else the
    /// bytes of the files below it.
    pub(crate) fn bytes(&self, plan: &Arc<dyn ExecutionPlan>) -> u64 {
        self.rows(plan).map_or_else(
            || scan_bytes(plan.as_ref()),
            |rows| rows.saturating_mul(u64::try_from(row_bytes(&plan.schema())).unwrap_or(u64::MAX)),
        )
    }

    fn rows(&self, plan: &Arc<dyn ExecutionPlan>) -> Option<u64> {
        let statistics = self.context.compute(plan.as_ref(), &StatisticsArgs::new()).ok()?;
        match statistics.num_rows {
            Precision::Exact(rows) | Precision::Inexact(rows) => u64::try_from(rows).ok(),
            Precision::Absent => None,
        }
    }
}

/// Bytes of the files that the scans at and below `plan` read.
pub(crate) fn scan_bytes(plan: &dyn ExecutionPlan) -> u64 {
    scans(plan).into_iter().map(config_bytes).fold(0, u64::saturating_add)
}

/// Bytes of the columns that the scans at and below `plan` read.
pub(crate) fn read_bytes(plan: &dyn ExecutionPlan) -> u64 {
    let read = |scan: &FileScanConfig| (config_bytes(scan) as f64 * column_part(scan)) as u64;
    scans(plan).into_iter().map(read).fold(0, u64::saturating_add)
}

/// The part that the columns which are read have of the bytes of all columns; all where that is not known: of Parquet
/// files, others are read whole.
fn column_part(scan: &FileScanConfig) -> f64 {
    let statistics = scan.statistics();
    let columns = statistics
        .column_statistics
        .iter()
        .take(scan.file_schema().fields().len());
    let sizes: Option<Vec<usize>> = columns.map(|column| column.byte_size.get_value().copied()).collect();
    let (Some(sizes), Some(projection)) = (sizes, scan.file_source().projection()) else {
        return 1.0;
    };
    let all: usize = sizes.iter().sum();
    let places = projection.column_indices().into_iter();
    let read: usize = places.filter_map(|place| sizes.get(place)).sum();
    match all {
        0 => 1.0,
        all => read as f64 / all as f64,
    }
}

/// The file scans at and below `plan`.
pub(crate) fn scans(plan: &dyn ExecutionPlan) -> Vec<&FileScanConfig> {
    let mut found: Vec<_> = file_scan(plan).into_iter().collect();
    for child in plan.children() {
        found.extend(scans(child.as_ref()));
    }
    found
}

fn config_bytes(config: &FileScanConfig) -> u64 {
    config
        .file_groups
        .iter()
        .flat_map(|group| group.files())
        .map(|file| match &file.range {
            Some(range) => u64::try_from(range.end - range.start).unwrap_or(0),
            None => file.object_meta.size,
        })
        .sum()
}

/// The assumed bytes of a row.
pub(super) fn row_bytes(schema: &Schema) -> usize {
    let fields = schema.fields().iter();
    let width: usize = fields
        .map(|field| field.data_type().primitive_width().unwrap_or(VARIABLE_WIDTH_BYTES))
        .sum();
    width.max(1)
}
