//! CSV files as their headers and quotes say.
//!
//! DataFusion 55.2 reads the columns of every file in the order of the first one's header (apache/datafusion#4918, #17516),
//! looks for types in pieces that may end within quotes, and may begin to read in the middle of a quoted text that has
//! line breaks (#11472). Here
//!
//! - a sample of whole records of every file gives its columns; those of a table are the union, by name;
//! - a file with other columns than the table, or in another order, is scanned by itself, and its columns are put in
//!   their places; what it has not is NULL;
//! - a file with line breaks within quotes is read as a whole.

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::csv::reader::Format;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::Session;
use datafusion::common::plan_err;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::physical_plan::{CsvSource, FileGroup, FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::scalar::ScalarValue;
use futures::{StreamExt, TryStreamExt};

use super::file_errors::checked;

/// How much of a file is read for its columns, at first and at most.
const SAMPLE_BYTES: usize = 1024 * 1024;
const MAX_SAMPLE_BYTES: usize = 64 * 1024 * 1024;
/// How many files are looked at at a time.
const CONCURRENCY: usize = 16;
/// Files that are not on this machine are not read to look for line breaks in quotes if they are larger.
const MAX_REMOTE_BYTES: u64 = 16 * 1024 * 1024;

/// What is known of the files of one table.
#[derive(Debug, Default)]
pub(super) struct CsvFiles {
    known: Mutex<HashMap<String, Known>>,
    /// Whether the columns of the table come from its files, not from the statement that made it.
    is_inferred: AtomicBool,
}

#[derive(Clone, Debug)]
struct Known {
    of: ObjectMeta,
    columns: Option<Arc<Vec<String>>>,
    has_quoted_breaks: Option<bool>,
}

impl CsvFiles {
    fn known(&self, object: &ObjectMeta) -> Known {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get(object.location.as_ref()).filter(|known| known.of == *object);
        known.cloned().unwrap_or_else(|| Known {
            of: object.clone(),
            columns: None,
            has_quoted_breaks: None,
        })
    }

    fn note(&self, known: Known) {
        let name = known.of.location.to_string();
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, known);
    }

    /// The columns of all files.
    pub(super) async fn infer_schema(
        &self,
        format: &CsvFormat,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        objects: &[ObjectMeta],
    ) -> Result<SchemaRef> {
        self.is_inferred.store(true, Ordering::Relaxed);
        let mut schemas = Vec::with_capacity(objects.len());
        for object in objects {
            schemas.push(sample_of(format, state, store, object));
        }
        let schemas: Vec<(&ObjectMeta, Schema)> = futures::stream::iter(schemas)
            .buffered(CONCURRENCY)
            .try_collect()
            .await?;
        let mut merged: Vec<FieldRef> = Vec::new();
        for (object, schema) in &schemas {
            let names = schema.fields().iter().map(|field| field.name().clone()).collect();
            self.note(Known {
                columns: Some(Arc::new(names)),
                ..self.known(object)
            });
            for field in schema.fields() {
                match merged.iter_mut().find(|known| known.name() == field.name()) {
                    Some(known) => *known = widen(known, field.data_type()),
                    None => merged.push(Arc::clone(field)),
                }
            }
        }
        if !has_header(format, state)
            && let Some((object, schema)) = schemas.iter().find(|(_, schema)| schema.fields().len() != merged.len())
        {
            return plan_err!(
                "the file {} has {} columns where others have {}, and no header that names them",
                object.location,
                schema.fields().len(),
                merged.len()
            );
        }
        Ok(Arc::new(Schema::new(merged)))
    }

    /// A scan of the files by the names of their columns.
    pub(super) async fn scan(
        &self,
        format: &CsvFormat,
        state: &dyn Session,
        scan: FileScanConfig,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let store = state.runtime_env().object_store(&scan.object_store_url)?;
        let is_local = scan.object_store_url.as_str().starts_with("file:");
        let format = match self.have_quoted_breaks(format, state, &store, &scan, is_local).await? {
            true => &with_breaks(format),
            false => format,
        };
        if !has_header(format, state) {
            return format.create_physical_plan(state, scan).await;
        }
        let table: Vec<String> = scan
            .file_schema()
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        let mut layouts: Vec<(Arc<Vec<String>>, Vec<FileGroup>)> = Vec::new();
        for group in &scan.file_groups {
            let mut files: Vec<(Arc<Vec<String>>, FileGroup)> = Vec::new();
            for file in group.files() {
                let columns = self.columns(format, state, &store, &file.object_meta).await?;
                let columns = self.layout(&table, columns, &file.object_meta)?;
                match files.iter_mut().find(|(known, _)| *known == columns) {
                    Some((_, group)) => group.push(file.clone()),
                    None => files.push((columns, FileGroup::new(vec![file.clone()]))),
                }
            }
            for (columns, group) in files {
                match layouts.iter_mut().find(|(known, _)| *known == columns) {
                    Some((_, groups)) => groups.push(group),
                    None => layouts.push((columns, vec![group])),
                }
            }
        }
        let mut scans = Vec::with_capacity(layouts.len());
        for (columns, groups) in layouts {
            scans.push(match *columns == table {
                true => {
                    let same = FileScanConfigBuilder::from(scan.clone())
                        .with_file_groups(groups)
                        .build();
                    format.create_physical_plan(state, same).await?
                }
                false => scan_of_layout(format, state, &scan, &columns, groups).await?,
            });
        }
        match scans.len() {
            0 => format.create_physical_plan(state, scan).await,
            1 => Ok(scans.remove(0)),
            _ => UnionExec::try_new(scans),
        }
    }

    async fn columns(
        &self,
        format: &CsvFormat,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        object: &ObjectMeta,
    ) -> Result<Arc<Vec<String>>> {
        let known = self.known(object);
        if let Some(columns) = known.columns {
            return Ok(columns);
        }
        let schema = match object.size {
            0 => Schema::empty(),
            _ => checked(object, sample_schema(format, state, store, object)).await?,
        };
        let columns = Arc::new(schema.fields().iter().map(|field| field.name().clone()).collect());
        self.note(Known {
            columns: Some(Arc::clone(&columns)),
            ..known
        });
        Ok(columns)
    }

    /// The names of a file's columns as the table has them. Where a statement gave all columns names of its own, they are
    /// found by their position.
    fn layout(&self, table: &[String], columns: Arc<Vec<String>>, object: &ObjectMeta) -> Result<Arc<Vec<String>>> {
        if *columns == table || columns.is_empty() {
            return Ok(Arc::new(table.to_vec()));
        }
        let renamed: Vec<String> = columns
            .iter()
            .map(|column| {
                let same = table.iter().find(|name| name.eq_ignore_ascii_case(column));
                same.filter(|_| !table.contains(column)).unwrap_or(column).clone()
            })
            .collect();
        let missing: Vec<_> = table.iter().filter(|name| !renamed.contains(name)).cloned().collect();
        if missing.is_empty() || self.is_inferred.load(Ordering::Relaxed) {
            return Ok(Arc::new(renamed));
        }
        if missing.len() == table.len() && columns.len() == table.len() {
            return Ok(Arc::new(table.to_vec()));
        }
        plan_err!(
            "the file {} has no column {}; its header names {}",
            object.location,
            missing.join(", "),
            columns.join(", ")
        )
    }

    async fn have_quoted_breaks(
        &self,
        format: &CsvFormat,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        scan: &FileScanConfig,
        is_local: bool,
    ) -> Result<bool> {
        let is_said =
            format.options().newlines_in_values.is_some() || state.config_options().catalog.newlines_in_values;
        let is_compressed = FileCompressionType::from(format.options().compression).is_compressed();
        if is_said || is_compressed {
            return Ok(false);
        }
        for file in scan.file_groups.iter().flat_map(FileGroup::files) {
            if self
                .has_quoted_breaks(format, store, &file.object_meta, is_local)
                .await?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn has_quoted_breaks(
        &self,
        format: &CsvFormat,
        store: &Arc<dyn ObjectStore>,
        object: &ObjectMeta,
        is_local: bool,
    ) -> Result<bool> {
        let known = self.known(object);
        if let Some(found) = known.has_quoted_breaks {
            return Ok(found);
        }
        let found = match is_local || object.size <= MAX_REMOTE_BYTES {
            true => checked(object, find_quoted_break(format, store, object)).await?,
            false => true,
        };
        self.note(Known {
            has_quoted_breaks: Some(found),
            ..known
        });
        Ok(found)
    }
}

/// The format of files whose values may hold line breaks.
fn with_breaks(format: &CsvFormat) -> CsvFormat {
    CsvFormat::default()
        .with_options(format.options().clone())
        .with_newlines_in_values(true)
}

fn has_header(format: &CsvFormat, state: &dyn Session) -> bool {
    format
        .options()
        .has_header
        .unwrap_or(state.config_options().catalog.has_header)
}

/// The scan of files that have other columns than the table, with those of the table.
async fn scan_of_layout(
    format: &CsvFormat,
    state: &dyn Session,
    scan: &FileScanConfig,
    columns: &[String],
    groups: Vec<FileGroup>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let output = scan.projected_schema()?;
    let table = scan.file_schema();
    let fields = columns.iter().map(|name| match table.field_with_name(name) {
        Ok(field) => field.clone(),
        Err(_) => Field::new(name, DataType::Utf8, true),
    });
    let file = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let partitions: Vec<FieldRef> = scan.table_partition_cols().iter().cloned().collect();
    let own = TableSchema::builder(Arc::clone(&file))
        .with_table_partition_cols(partitions)
        .build();
    let wanted: Vec<usize> = output
        .fields()
        .iter()
        .filter_map(|field| own.table_schema().index_of(field.name()).ok())
        .collect();
    let source = Arc::new(CsvSource::new(own));
    let config = FileScanConfigBuilder::new(scan.object_store_url.clone(), source)
        .with_file_groups(groups)
        .with_limit(scan.limit)
        .with_projection_indices(Some(wanted))?
        .build();
    let rows = format.create_physical_plan(state, config).await?;
    let given = rows.schema();
    let expressions = output.fields().iter().map(|field| {
        let value: Arc<dyn PhysicalExpr> = match given.index_of(field.name()) {
            Ok(index) => Arc::new(Column::new(field.name(), index)),
            Err(_) => Arc::new(Literal::new(ScalarValue::try_from(field.data_type())?)),
        };
        Ok((value, field.name().clone()))
    });
    let expressions: Vec<_> = expressions.collect::<Result<_>>()?;
    Ok(Arc::new(ProjectionExec::try_new(expressions, rows)?))
}

async fn sample_of<'a>(
    format: &CsvFormat,
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    object: &'a ObjectMeta,
) -> Result<(&'a ObjectMeta, Schema)> {
    let schema = checked(object, sample_schema(format, state, store, object)).await?;
    Ok((object, schema))
}

/// The columns that whole records at the beginning of a file have.
async fn sample_schema(
    format: &CsvFormat,
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    object: &ObjectMeta,
) -> Result<Schema> {
    let options = format.options();
    let sample = read_sample(format, store, object).await?;
    let mut reader = Format::default()
        .with_header(has_header(format, state))
        .with_delimiter(options.delimiter)
        .with_quote(options.quote)
        .with_truncated_rows(options.truncated_rows.unwrap_or(false));
    if let Some(escape) = options.escape {
        reader = reader.with_escape(escape);
    }
    if let Some(comment) = options.comment {
        reader = reader.with_comment(comment);
    }
    if let Some(terminator) = options.terminator {
        reader = reader.with_terminator(terminator);
    }
    let records = options.schema_infer_max_rec.unwrap_or(1000);
    let (schema, _) = reader.infer_schema(Cursor::new(sample), Some(records))?;
    let mut fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
    // A mark of the byte order is not part of the first name.
    if let Some(first) = fields.first_mut()
        && let Some(name) = first.name().strip_prefix('\u{feff}')
    {
        *first = Arc::new(first.as_ref().clone().with_name(name));
    }
    Ok(Schema::new(fields))
}

/// Bytes from the beginning of a file to the end of a record.
async fn read_sample(format: &CsvFormat, store: &Arc<dyn ObjectStore>, object: &ObjectMeta) -> Result<Vec<u8>> {
    let options = format.options();
    let bytes = store
        .get(&object.location)
        .await?
        .into_stream()
        .map_err(DataFusionError::from);
    let compression = FileCompressionType::from(options.compression);
    let mut bytes = compression.convert_stream(bytes.boxed())?;
    let mut sample = Vec::new();
    let mut wanted = SAMPLE_BYTES;
    while let Some(chunk) = bytes.try_next().await? {
        sample.extend_from_slice(&chunk);
        if sample.len() < wanted {
            continue;
        }
        if let Some(end) = end_of_records(&sample, options.quote, options.terminator.unwrap_or(b'\n')) {
            sample.truncate(end);
            return Ok(sample);
        }
        wanted *= 8;
        if wanted > MAX_SAMPLE_BYTES {
            return plan_err!("its first record is longer than {MAX_SAMPLE_BYTES} bytes; a quote may not be closed");
        }
    }
    Ok(sample)
}

/// Where the last whole record ends.
fn end_of_records(sample: &[u8], quote: u8, terminator: u8) -> Option<usize> {
    let mut is_quoted = false;
    let mut end = None;
    for (at, byte) in sample.iter().enumerate() {
        if *byte == quote {
            is_quoted = !is_quoted;
        } else if *byte == terminator && !is_quoted {
            end = Some(at + 1);
        }
    }
    end
}

/// Whether a value of the file has a line break. Where quotes can be escaped, that is not looked for.
async fn find_quoted_break(format: &CsvFormat, store: &Arc<dyn ObjectStore>, object: &ObjectMeta) -> Result<bool> {
    let options = format.options();
    if options.escape.is_some() {
        return Ok(true);
    }
    let terminator = options.terminator.unwrap_or(b'\n');
    let mut bytes = store.get(&object.location).await?.into_stream();
    let mut is_quoted = false;
    while let Some(chunk) = bytes.try_next().await? {
        let mut found = false;
        for byte in &chunk {
            is_quoted ^= *byte == options.quote;
            found |= is_quoted & (*byte == terminator);
        }
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A type for the values of both.
fn widen(field: &FieldRef, other: &DataType) -> FieldRef {
    let own = field.data_type();
    let wide = match (own, other) {
        _ if own == other => return Arc::clone(field),
        (DataType::Null, other) => other.clone(),
        (_, DataType::Null) => return Arc::clone(field),
        (DataType::Int64, DataType::Float64) | (DataType::Float64, DataType::Int64) => DataType::Float64,
        (DataType::Timestamp(..), DataType::Timestamp(..) | DataType::Date32)
        | (DataType::Date32, DataType::Timestamp(..)) => DataType::Timestamp(TimeUnit::Nanosecond, None),
        _ => DataType::Utf8,
    };
    Arc::new(field.as_ref().clone().with_data_type(wide))
}
