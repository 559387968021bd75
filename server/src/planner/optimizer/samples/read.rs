//! Reads rows from several places of a table of files.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::Result;
use datafusion::config::ConfigNonZeroUsize;
use datafusion::datasource::source_as_provider;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, TableScan};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::StreamExt;

use super::super::super::estimate::scans;
use super::super::super::files::files;

/// From how many places of a table rows are read, where its files can be divided into so many.
const PLACES: usize = 8;

/// How many rows are read at once.
const ROWS: usize = 512;

/// No more is read once there are so many bytes.
const BYTES: usize = 2 * 1024 * 1024;

/// How long the rows of one table may take; what has been read by then is the sample.
const PATIENCE: Duration = Duration::from_millis(200);

/// A number that changes with the files of a scan, and with the columns that a table has of them; none where they are not
/// Parquet.
pub(super) fn version(plan: &dyn ExecutionPlan, columns: &Schema) -> Option<u64> {
    let scans = scans(plan);
    if scans.is_empty() || scans.iter().any(|scan| scan.file_source().file_type() != "parquet") {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    columns.hash(&mut hasher);
    files(plan).hash(&mut hasher);
    Some(hasher.finish())
}

/// Some rows of a table.
#[derive(Debug, Default)]
pub(super) struct Sample {
    /// The rows of each place.
    pub(super) places: Vec<RecordBatch>,
    /// Whether there was no time for all of them.
    pub(super) is_cut: bool,
}

/// Reads some rows of `columns` from the files that `folders`, conditions on columns of folders, leave.
///
/// # Errors
/// Those of reading files.
pub(super) async fn read(
    scan: &TableScan,
    columns: &Vec<usize>,
    folders: &[Expr],
    state: &SessionState,
) -> Result<Sample> {
    let provider = source_as_provider(&scan.source)?;
    let mut state = state.clone();
    let execution = &mut state.config_mut().options_mut().execution;
    execution.target_partitions = PLACES;
    execution.batch_size = ConfigNonZeroUsize::try_new(ROWS)?;
    let whole = provider.scan(&state, Some(columns), folders, None).await?;
    let parts = whole.repartitioned(PLACES, state.config_options())?.unwrap_or(whole);
    let mut places = Vec::new();
    let reading = read_places(parts.as_ref(), &state, &mut places);
    let is_cut = match tokio::time::timeout(PATIENCE, reading).await {
        Ok(result) => result.map(|()| false)?,
        Err(_) => true,
    };
    places.retain(|place| !place.is_empty());
    let places = places.iter().map(|place| concat_batches(&parts.schema(), place));
    Ok(Sample {
        places: places.collect::<Result<_, _>>()?,
        is_cut,
    })
}

/// Adds a batch of each partition to `places`. Where there are fewer partitions, further batches follow.
async fn read_places(
    parts: &dyn ExecutionPlan,
    state: &SessionState,
    places: &mut Vec<Vec<RecordBatch>>,
) -> Result<()> {
    let partitions = parts.output_partitioning().partition_count().min(PLACES);
    let rounds = PLACES / partitions.max(1);
    let mut bytes = 0;
    for partition in 0..partitions {
        let mut rows = parts.execute(partition, state.task_ctx())?;
        places.push(Vec::new());
        for _ in 0..rounds {
            let Some(batch) = rows.next().await.transpose()? else {
                break;
            };
            let batch = compact(&batch)?;
            bytes += batch.get_array_memory_size();
            places[partition].push(batch);
            if bytes >= BYTES {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The batch without the pages that its texts are parts of.
fn compact(batch: &RecordBatch) -> Result<RecordBatch> {
    let columns = batch.columns().iter().map(|column| -> ArrayRef {
        match column.data_type() {
            DataType::Utf8View => Arc::new(column.as_string_view().gc()),
            DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
            _ => Arc::clone(column),
        }
    });
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        batch.schema(),
        columns.collect(),
        &options,
    )?)
}
