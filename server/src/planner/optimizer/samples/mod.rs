//! Rows of tables that are read before a query runs.
//!
//! Metadata know ranges of numbers, but not how often a text occurs, what a pattern matches, which of two dates of a row
//! comes first, or that half of all rows have one key. A few rows answer that (Neumann and Freitag, "Umbra: A Disk-Based
//! System with In-Memory Performance", 2020, keep such samples of all tables). They are read when a query first needs them,
//! and kept until the files of the table change:
//!
//! - rows, on which conditions are tried,
//! - sketches of columns that tables are joined or grouped by.

mod read;
mod sketch;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::Schema;
use datafusion::common::{DFSchema, Result};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, TableScan};
use datafusion::physical_plan::ExecutionPlan;
use moka::sync::Cache;

use self::read::{Sample, read, version};
pub(crate) use self::sketch::Sketch;

/// Bytes of all rows that are kept.
const ROW_BYTES: u64 = 16 * 1024 * 1024;

/// Bytes of all sketches that are kept.
const SKETCH_BYTES: u64 = 4 * 1024 * 1024;

/// How long rows and sketches are kept that no query asks for.
const KEPT: Duration = Duration::from_secs(3600);

/// How long what was cut off by the clock is kept: a store that was slow may have become faster.
const CUT_KEPT: Duration = Duration::from_secs(60);

/// Samples of the tables that queries asked for.
#[derive(Debug)]
pub(crate) struct Samples {
    rows: Cache<RowsKey, Rows>,
    sketches: Cache<SketchKey, Arc<ColumnSketch>>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct RowsKey {
    /// Of the paths, sizes, times and tags of the files.
    files: u64,
    columns: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Rows {
    rows: RecordBatch,
    is_cut: bool,
    read_at: SystemTime,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct SketchKey {
    files: u64,
    column: usize,
}

/// The sketch of a column, and whose it is.
#[derive(Clone, Debug)]
pub(crate) struct ColumnSketch {
    pub(crate) schema: String,
    pub(crate) table: String,
    pub(crate) column: String,
    /// How many rows the table has.
    pub(crate) rows: u64,
    pub(crate) sketch: Sketch,
    is_cut: bool,
    /// When the rows were read.
    pub(crate) read_at: SystemTime,
}

/// Whether what was read then may be read again.
fn is_due(is_cut: bool, read_at: SystemTime) -> bool {
    is_cut && read_at.elapsed().is_ok_and(|age| age > CUT_KEPT)
}

impl Default for Samples {
    fn default() -> Self {
        let row_bytes = |_: &RowsKey, rows: &Rows| weight(rows.rows.get_array_memory_size());
        let sketch_bytes = |_: &SketchKey, column: &Arc<ColumnSketch>| weight(column.sketch.bytes());
        Self {
            rows: Cache::builder()
                .weigher(row_bytes)
                .max_capacity(ROW_BYTES)
                .time_to_idle(KEPT)
                .build(),
            sketches: Cache::builder()
                .weigher(sketch_bytes)
                .max_capacity(SKETCH_BYTES)
                .time_to_idle(KEPT)
                .build(),
        }
    }
}

fn weight(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

impl Samples {
    /// What is kept of the table of `scan`; none of a table that is not of Parquet files. `files` is a scan of the same files,
    /// which `folders`, conditions on columns of folders, leave.
    pub(super) fn table<'a>(
        &'a self,
        scan: &'a TableScan,
        folders: &'a [Expr],
        files: &dyn ExecutionPlan,
        state: &'a SessionState,
    ) -> Option<TableSamples<'a>> {
        Some(TableSamples {
            samples: self,
            scan,
            folders,
            files: version(files, &scan.source.schema())?,
            state,
        })
    }

    /// The sketches that are kept, the newest of each column, in the order of their names.
    pub(crate) fn newest_sketches(&self) -> Vec<Arc<ColumnSketch>> {
        let mut sketches: Vec<_> = self.sketches.iter().map(|(_, sketch)| sketch).collect();
        let name = |sketch: &ColumnSketch| {
            let ColumnSketch {
                schema, table, column, ..
            } = sketch;
            (schema.clone(), table.clone(), column.clone())
        };
        sketches.sort_by_cached_key(|sketch| (name(sketch), Reverse(sketch.read_at)));
        sketches.dedup_by_key(|sketch| name(sketch));
        sketches
    }
}

/// The samples of one table.
pub(super) struct TableSamples<'a> {
    samples: &'a Samples,
    scan: &'a TableScan,
    folders: &'a [Expr],
    files: u64,
    state: &'a SessionState,
}

impl TableSamples<'_> {
    /// The part of the rows that each of `conditions` is true of, where rows could be read and the condition evaluated.
    pub(super) async fn try_conditions(&self, conditions: Vec<Expr>) -> HashMap<Expr, f64> {
        let rows = self.rows(&conditions).await;
        let Ok(schema) = DFSchema::try_from_qualified_schema(self.scan.table_name.clone(), &rows.schema()) else {
            return HashMap::new();
        };
        if rows.num_rows() == 0 {
            return HashMap::new();
        }
        let tried = conditions.into_iter().filter_map(|condition| {
            let part = part_of(&rows, &condition, &schema, self.state).ok()?;
            Some((condition, part))
        });
        tried.collect()
    }

    /// Rows of the columns that `conditions` speak of.
    async fn rows(&self, conditions: &[Expr]) -> RecordBatch {
        let schema = self.scan.source.schema();
        let key = RowsKey {
            files: self.files,
            columns: columns(conditions, &schema),
        };
        let kept = self.samples.rows.get(&key);
        if let Some(kept) = kept.filter(|kept| !is_due(kept.is_cut, kept.read_at)) {
            return kept.rows;
        }
        let Sample { places, is_cut } = self.read(&key.columns).await;
        let rows = schema
            .project(&key.columns)
            .and_then(|schema| concat_batches(&Arc::new(schema), &places));
        let rows = rows.unwrap_or_else(|_| RecordBatch::new_empty(schema));
        let kept = Rows {
            rows: rows.clone(),
            is_cut,
            read_at: SystemTime::now(),
        };
        self.samples.rows.insert(key, kept);
        rows
    }

    /// Sketches of `columns`, whose table has `rows` rows.
    pub(super) async fn sketches(&self, columns: &[usize], rows: f64) -> Vec<Arc<ColumnSketch>> {
        let key = |column: usize| SketchKey {
            files: self.files,
            column,
        };
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for column in columns {
            let kept = self.samples.sketches.get(&key(*column));
            match kept.filter(|kept| !is_due(kept.is_cut, kept.read_at)) {
                Some(sketch) => found.push(sketch),
                None => missing.push(*column),
            }
        }
        if missing.is_empty() {
            return found;
        }
        let Sample { places, is_cut } = self.read(&missing).await;
        let names = &self.state.config_options().catalog;
        let table = self.scan.table_name.clone();
        let table = table.resolve(&names.default_catalog, &names.default_schema);
        let schema = self.scan.source.schema();
        for (place, column) in missing.into_iter().enumerate() {
            let values: Vec<_> = places.iter().map(|rows| Arc::clone(rows.column(place))).collect();
            let sketch = Arc::new(ColumnSketch {
                schema: table.schema.to_string(),
                table: table.table.to_string(),
                column: schema.field(column).name().clone(),
                rows: rows as u64,
                sketch: Sketch::of(&values, rows).unwrap_or_default(),
                is_cut,
                read_at: SystemTime::now(),
            });
            self.samples.sketches.insert(key(column), Arc::clone(&sketch));
            found.push(sketch);
        }
        found
    }

    /// Rows from several places. What cannot be read has none, which is kept as well: it is not tried again by each query,
    /// and where it matters, the query will say so.
    async fn read(&self, columns: &Vec<usize>) -> Sample {
        let sample = read(self.scan, columns, self.folders, self.state).await;
        sample.unwrap_or_else(|error| {
            tracing::debug!(table = %self.scan.table_name, %error, "no sample");
            Sample::default()
        })
    }
}

fn columns(conditions: &[Expr], schema: &Schema) -> Vec<usize> {
    let names = conditions.iter().flat_map(Expr::column_refs);
    let mut columns: Vec<_> = names.filter_map(|column| schema.index_of(column.name()).ok()).collect();
    columns.sort_unstable();
    columns.dedup();
    columns
}

/// The part of `rows` that `condition` is true of. Where it is true of none, of half a row.
fn part_of(rows: &RecordBatch, condition: &Expr, schema: &DFSchema, state: &SessionState) -> Result<f64> {
    let condition = state.create_physical_expr(condition.clone(), schema)?;
    let count = rows.num_rows();
    let results = condition.evaluate(rows)?.into_array(count)?;
    let hits = results.as_boolean_opt().map_or(0, |results| results.true_count());
    Ok((hits as f64).max(0.5) / count as f64)
}
