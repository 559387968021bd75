//! Rows of tables on which conditions are tried before a query runs.
//!
//! Metadata know ranges of numbers, but not how often a text occurs, what a pattern matches or which of two dates of a
//! row comes first. A few rows answer that (Neumann and Freitag, "Umbra: A Disk-Based System with In-Memory Performance",
//! 2020, keep such samples of all tables). They are read when a query first needs them, from up to [`PLACES`] places of a
//! table, and kept until its files change.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::Schema;
use datafusion::common::{DFSchema, Result};
use datafusion::config::ConfigNonZeroUsize;
use datafusion::datasource::source_as_provider;
use datafusion::execution::{SessionState, TaskContext};
use datafusion::logical_expr::{Expr, TableScan};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::StreamExt;
use moka::sync::Cache;

use super::super::estimate::scans;

/// From how many places of a table rows are read.
const PLACES: usize = 8;

/// How many rows are read in each place.
const ROWS: usize = 512;

/// How long the rows of one table may take; what has been read by then is the sample.
const PATIENCE: Duration = Duration::from_millis(200);

/// Bytes of all samples that are kept.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// How long a sample is kept that no query asks for.
const KEPT: Duration = Duration::from_secs(3600);

/// Samples of the tables that queries asked for.
#[derive(Debug)]
pub(crate) struct Samples(Cache<Key, RecordBatch>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    /// Of the paths, sizes, times and tags of the files.
    files: u64,
    columns: Vec<usize>,
}

impl Default for Samples {
    fn default() -> Self {
        let bytes = |_: &Key, batch: &RecordBatch| u32::try_from(batch.get_array_memory_size()).unwrap_or(u32::MAX);
        Self(
            Cache::builder()
                .weigher(bytes)
                .max_capacity(MAX_BYTES)
                .time_to_idle(KEPT)
                .build(),
        )
    }
}

impl Samples {
    /// The part of the rows of `scan` that each of `conditions` is true of, where rows could be read and the condition
    /// evaluated. `files` is a scan of the same files.
    pub(super) async fn try_conditions(
        &self,
        scan: &TableScan,
        files: &Arc<dyn ExecutionPlan>,
        conditions: Vec<Expr>,
        state: &SessionState,
    ) -> HashMap<Expr, f64> {
        let Some(rows) = self.rows(scan, files, &conditions, state).await else {
            return HashMap::new();
        };
        let Ok(schema) = DFSchema::try_from_qualified_schema(scan.table_name.clone(), &rows.schema()) else {
            return HashMap::new();
        };
        let tried = conditions.into_iter().filter_map(|condition| {
            let part = part_of(&rows, &condition, &schema, state).ok()?;
            Some((condition, part))
        });
        tried.collect()
    }

    /// Rows of the columns that `conditions` speak of; none of tables that are not of Parquet files.
    async fn rows(
        &self,
        scan: &TableScan,
        files: &Arc<dyn ExecutionPlan>,
        conditions: &[Expr],
        state: &SessionState,
    ) -> Option<RecordBatch> {
        let key = Key {
            files: version(files.as_ref())?,
            columns: columns(conditions, &scan.source.schema()),
        };
        if let Some(rows) = self.0.get(&key) {
            return (rows.num_rows() > 0).then_some(rows);
        }
        // What cannot be read is not tried again by each query; where it matters, the query will say so.
        let kept = read(scan, &key.columns, state).await.unwrap_or_else(|error| {
            tracing::debug!(table = %scan.table_name, %error, "no sample");
            RecordBatch::new_empty(scan.source.schema())
        });
        self.0.insert(key, kept.clone());
        (kept.num_rows() > 0).then_some(kept)
    }
}

/// A number that changes with the files; none where they are not Parquet.
fn version(plan: &dyn ExecutionPlan) -> Option<u64> {
    let scans = scans(plan);
    let mut hasher = DefaultHasher::new();
    for scan in &scans {
        if scan.file_source().file_type() != "parquet" {
            return None;
        }
        for file in scan.file_groups.iter().flat_map(|group| group.files()) {
            let object = &file.object_meta;
            (scan.object_store_url.as_str(), object.location.as_ref(), object.size).hash(&mut hasher);
            (object.last_modified, &object.e_tag, &object.version).hash(&mut hasher);
        }
    }
    (!scans.is_empty()).then(|| hasher.finish())
}

fn columns(conditions: &[Expr], schema: &Schema) -> Vec<usize> {
    let names = conditions.iter().flat_map(Expr::column_refs);
    let mut columns: Vec<_> = names.filter_map(|column| schema.index_of(column.name()).ok()).collect();
    columns.sort_unstable();
    columns.dedup();
    columns
}

async fn read(scan: &TableScan, columns: &Vec<usize>, state: &SessionState) -> Result<RecordBatch> {
    let provider = source_as_provider(&scan.source)?;
    let mut state = state.clone();
    let execution = &mut state.config_mut().options_mut().execution;
    execution.target_partitions = PLACES;
    execution.batch_size = ConfigNonZeroUsize::try_new(ROWS)?;
    let whole = provider.scan(&state, Some(columns), &[], None).await?;
    let parts = whole.repartitioned(PLACES, state.config_options())?.unwrap_or(whole);
    let context = state.task_ctx();
    let mut batches = Vec::new();
    let reading = read_places(parts.as_ref(), &context, &mut batches);
    if let Ok(result) = tokio::time::timeout(PATIENCE, reading).await {
        result?;
    }
    Ok(concat_batches(&parts.schema(), &batches)?)
}

/// Adds the first batch of each partition to `batches`.
async fn read_places(
    parts: &dyn ExecutionPlan,
    context: &Arc<TaskContext>,
    batches: &mut Vec<RecordBatch>,
) -> Result<()> {
    for place in 0..parts.output_partitioning().partition_count().min(PLACES) {
        if let Some(batch) = parts.execute(place, Arc::clone(context))?.next().await {
            batches.push(batch?);
        }
    }
    Ok(())
}

/// The part of `rows` that `condition` is true of. Where it is true of none, of half a row.
fn part_of(rows: &RecordBatch, condition: &Expr, schema: &DFSchema, state: &SessionState) -> Result<f64> {
    let condition = state.create_physical_expr(condition.clone(), schema)?;
    let count = rows.num_rows();
    let results = condition.evaluate(rows)?.into_array(count)?;
    let hits = results.as_boolean_opt().map_or(0, |results| results.true_count());
    Ok((hits as f64).max(0.5) / count as f64)
}
