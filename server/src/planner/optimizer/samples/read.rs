//! Reads rows from several places of a table of files.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::common::Result;
use datafusion::config::ConfigNonZeroUsize;
use datafusion::datasource::source_as_provider;
use datafusion::execution::SessionState;
use datafusion::logical_expr::TableScan;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::StreamExt;

use super::super::super::estimate::scans;

/// From how many places of a table rows are read, where its files can be divided into so many.
const PLACES: usize = 8;

/// How many rows are read at once.
const ROWS: usize = 512;

/// How long the rows of one table may take; what has been read by then is the sample.
const PATIENCE: Duration = Duration::from_millis(200);

/// A number that changes with the files of a scan; none where they are not Parquet.
pub(super) fn version(plan: &dyn ExecutionPlan) -> Option<u64> {
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

/// Reads some rows of `columns`, as batches from different places.
///
/// # Errors
/// Those of reading files.
pub(super) async fn read(scan: &TableScan, columns: &Vec<usize>, state: &SessionState) -> Result<Vec<RecordBatch>> {
    let provider = source_as_provider(&scan.source)?;
    let mut state = state.clone();
    let execution = &mut state.config_mut().options_mut().execution;
    execution.target_partitions = PLACES;
    execution.batch_size = ConfigNonZeroUsize::try_new(ROWS)?;
    let whole = provider.scan(&state, Some(columns), &[], None).await?;
    let parts = whole.repartitioned(PLACES, state.config_options())?.unwrap_or(whole);
    let mut batches = Vec::new();
    let reading = read_places(parts.as_ref(), &state, &mut batches);
    if let Ok(result) = tokio::time::timeout(PATIENCE, reading).await {
        result?;
    }
    Ok(batches)
}

/// Adds a batch of each partition to `batches`, and more of those that have more, until there are as many as places.
async fn read_places(parts: &dyn ExecutionPlan, state: &SessionState, batches: &mut Vec<RecordBatch>) -> Result<()> {
    let mut places = Vec::new();
    for place in 0..parts.output_partitioning().partition_count().min(PLACES) {
        places.push(parts.execute(place, state.task_ctx())?);
    }
    while !places.is_empty() {
        let mut goes_on = Vec::new();
        for mut place in places {
            if batches.len() == PLACES {
                return Ok(());
            }
            if let Some(batch) = place.next().await {
                batches.push(batch?);
                goes_on.push(place);
            }
        }
        places = goes_on;
    }
    Ok(())
}
