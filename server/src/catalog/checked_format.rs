//! A format whose files may be damaged: what its reader cannot understand, or panics at, is an error that names the file.
//!
//! Readers panic where a length, an offset or a statistic of a file is impossible. The columns of Arrow files are told by
//! [`arrow_files::schema`]: DataFusion's reader allocates what a damaged file asks for, and the process ends when
//! that cannot be had.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Field, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::{GetExt, Statistics};
use datafusion::datasource::file_format::arrow::ArrowFormat;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::file_format::{FileFormat, FileFormatFactory, FileMeta};
use datafusion::datasource::memory::DataSourceExec;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::datasource::physical_plan::{
    FileScanConfig, FileScanConfigBuilder, FileSinkConfig, FileSource, ParquetSource,
};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::object_store::{ObjectMeta, ObjectStore};
use datafusion::parquet::file::metadata::ParquetMetaData;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, LexRequirement, PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;
use futures::{StreamExt, TryStreamExt, stream};
use squadron_shuffle::arrow_files;
use squadron_shuffle::functions::{clean, hides_required, may_hide};

use super::csv::CsvFiles;
use super::file_errors::checked;
use super::merge::{Numbers, merge};
use super::{json_integers, json_numbers, parquet_statistics};

/// The extensions under which DataFusion keeps its formats.
const EXTENSIONS: [&str; 5] = ["parquet", "csv", "json", "arrow", "avro"];

/// Makes the formats of `CREATE EXTERNAL TABLE` and `COPY` checked ones.
pub(super) fn check_formats(state: &mut SessionState) -> Result<()> {
    for extension in EXTENSIONS {
        if let Some(inner) = state.get_file_format_factory(extension) {
            state.register_file_format(Arc::new(CheckedFormatFactory { inner }), true)?;
        }
    }
    Ok(())
}

/// The format within a checked one.
pub fn unchecked(format: &dyn FileFormat) -> &dyn FileFormat {
    let checked = format.downcast_ref::<CheckedFormat>();
    checked.map_or(format, |checked| checked.inner.as_ref())
}

/// How many files are looked at at a time.
const CONCURRENCY: usize = 16;

/// That JSON files are looked at as a whole, as an option of their format says it.
const ALL_ROWS: usize = usize::MAX;
/// JSON files of so many bytes are looked at as a whole for their columns.
const MAX_THOROUGH_BYTES: u64 = 1024 * 1024 * 1024;
/// Of larger ones so many rows, shared among the files, but not fewer than that of each.
const MAX_SAMPLED_ROWS: usize = 100_000;
const MIN_SAMPLED_ROWS: usize = 1_000;

#[derive(Debug)]
pub(super) struct CheckedFormat {
    inner: Arc<dyn FileFormat>,
    csv: CsvFiles,
    /// Whether a Parquet file has bounds by which no row group may be left out.
    has_old_bounds: AtomicBool,
}

impl CheckedFormat {
    pub(super) fn new(inner: Arc<dyn FileFormat>) -> Self {
        Self {
            inner,
            csv: CsvFiles::default(),
            has_old_bounds: AtomicBool::new(false),
        }
    }

    async fn schema_of(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        object: &ObjectMeta,
    ) -> Result<SchemaRef> {
        let reader = self.thorough(object.size, 1);
        self.schema_by(reader.as_ref(), state, store, object).await
    }

    /// The columns of a file as `reader` sees them.
    async fn schema_by(
        &self,
        reader: &dyn FileFormat,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        object: &ObjectMeta,
    ) -> Result<SchemaRef> {
        let work = async {
            if self.inner.is::<ArrowFormat>() {
                return arrow_files::schema(store, object).await;
            }
            let schema = reader.infer_schema(state, store, std::slice::from_ref(object)).await?;
            self.check_footer(state, store, object).await?;
            match reader.downcast_ref::<JsonFormat>() {
                // Of samples the rest may be anything.
                Some(json) if json.options().schema_infer_max_rec == Some(ALL_ROWS) => {
                    json_integers::widen(schema, json, store, object).await
                }
                _ => Ok(schema),
            }
        };
        checked(object, work).await
    }
}

impl CheckedFormat {
    /// The format as it looks at so many files, of so many bytes together, for their columns. Where a field comes late, or has a fraction
    /// late, JSON's reader would leave it out (apache/arrow-rs#10265), so it looks at all rows.
    fn thorough(&self, bytes: u64, files: usize) -> Arc<dyn FileFormat> {
        match self.inner.downcast_ref::<JsonFormat>() {
            Some(json) if json.options().schema_infer_max_rec.is_none() => {
                if bytes > MAX_THOROUGH_BYTES {
                    let rows = (MAX_SAMPLED_ROWS / files.max(1)).max(MIN_SAMPLED_ROWS);
                    tracing::warn!(
                        bytes,
                        "the columns of JSON files are those of their first {rows} rows each, because they are larger \
                         than {MAX_THOROUGH_BYTES} bytes; declare the columns with CREATE EXTERNAL TABLE"
                    );
                    return Arc::new(json_with(json, rows));
                }
                Arc::new(json_with(json, ALL_ROWS))
            }
            _ => Arc::clone(&self.inner),
        }
    }

    /// The footer of a Parquet file, which is in the cache by now.
    ///
    /// # Errors
    /// When its numbers of rows do not agree.
    async fn check_footer(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        object: &ObjectMeta,
    ) -> Result<Option<Arc<ParquetMetaData>>> {
        if !self.inner.is::<ParquetFormat>() {
            return Ok(None);
        }
        let footers = state.runtime_env().cache_manager.get_file_metadata_cache();
        let footer = DFParquetMetadata::new(store, object).with_file_metadata_cache(Some(footers));
        let footer = footer.fetch_metadata().await?;
        parquet_statistics::check_rows(&footer)?;
        if parquet_statistics::has_old_bounds(&footer) {
            self.has_old_bounds.store(true, Ordering::Relaxed);
        }
        Ok(Some(footer))
    }

    /// Leaves of a Parquet file's statistics what its footer proves.
    async fn keep_proven(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        schema: &SchemaRef,
        object: &ObjectMeta,
        statistics: &mut Statistics,
    ) -> Result<()> {
        if let Some(footer) = self.check_footer(state, store, object).await? {
            parquet_statistics::keep_proven(statistics, schema, &footer);
        }
        Ok(())
    }
}

/// The same scan of Parquet files, which reads every row group.
fn without_pruning(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let scan = plan.downcast_ref::<DataSourceExec>();
    let Some((config, source)) = scan.and_then(|scan| scan.downcast_to_file_source::<ParquetSource>()) else {
        return plan;
    };
    let mut options = source.table_parquet_options().clone();
    options.global.pruning = false;
    let source = source.clone().with_table_parquet_options(options);
    let config = FileScanConfigBuilder::from(config.clone()).with_source(Arc::new(source));
    DataSourceExec::from_data_source(config.build())
}

fn json_with(format: &JsonFormat, records: usize) -> JsonFormat {
    JsonFormat::default()
        .with_options(format.options().clone())
        .with_schema_infer_max_rec(records)
}

#[async_trait]
impl FileFormat for CheckedFormat {
    fn get_ext(&self) -> String {
        self.inner.get_ext()
    }

    fn get_ext_with_compression(&self, compression: &FileCompressionType) -> Result<String> {
        self.inner.get_ext_with_compression(compression)
    }

    fn compression_type(&self) -> Option<FileCompressionType> {
        self.inner.compression_type()
    }

    async fn infer_schema(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        objects: &[ObjectMeta],
    ) -> Result<SchemaRef> {
        if let Some(format) = self.inner.downcast_ref::<CsvFormat>() {
            return self.csv.infer_schema(format, state, store, objects).await;
        }
        if let [object] = objects {
            return self.schema_of(state, store, object).await;
        }
        let reader = &self.thorough(objects.iter().map(|object| object.size).sum(), objects.len());
        let mut schemas = Vec::with_capacity(objects.len());
        for object in objects {
            schemas.push(async move {
                let schema = self.schema_by(reader.as_ref(), state, store, object).await?;
                Ok::<_, DataFusionError>((object.location.to_string(), Arc::unwrap_or_clone(schema)))
            });
        }
        let schemas: Vec<_> = stream::iter(schemas).buffered(CONCURRENCY).try_collect().await?;
        let numbers = match self.inner.is::<JsonFormat>() {
            true => Numbers::Guessed,
            false => Numbers::Declared,
        };
        Ok(Arc::new(merge(&schemas, numbers)?))
    }

    async fn infer_stats(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        table_schema: SchemaRef,
        object: &ObjectMeta,
    ) -> Result<Statistics> {
        let work = async {
            let mut statistics = self
                .inner
                .infer_stats(state, store, Arc::clone(&table_schema), object)
                .await?;
            self.keep_proven(state, store, &table_schema, object, &mut statistics)
                .await?;
            Ok(statistics)
        };
        checked(object, work).await
    }

    async fn infer_ordering(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        table_schema: SchemaRef,
        object: &ObjectMeta,
    ) -> Result<Option<LexOrdering>> {
        let work = self.inner.infer_ordering(state, store, table_schema, object);
        checked(object, work).await
    }

    async fn infer_stats_and_ordering(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        table_schema: SchemaRef,
        object: &ObjectMeta,
    ) -> Result<FileMeta> {
        let work = async {
            let mut meta = self
                .inner
                .infer_stats_and_ordering(state, store, Arc::clone(&table_schema), object)
                .await?;
            self.keep_proven(state, store, &table_schema, object, &mut meta.statistics)
                .await?;
            Ok(meta)
        };
        checked(object, work).await
    }

    async fn create_physical_plan(&self, state: &dyn Session, scan: FileScanConfig) -> Result<Arc<dyn ExecutionPlan>> {
        if let Some(csv) = self.inner.downcast_ref::<CsvFormat>() {
            return self.csv.scan(csv, state, scan).await;
        }
        if let Some(json) = self.inner.downcast_ref::<JsonFormat>() {
            return json_numbers::scan(json, state, scan).await;
        }
        let plan = self.inner.create_physical_plan(state, scan).await?;
        let plan = match self.has_old_bounds.load(Ordering::Relaxed) {
            true => without_pruning(plan),
            false => plan,
        };
        match self.inner.is::<ParquetFormat>() {
            // Fields are read without the rest of their struct where nothing has to be removed.
            true => without_hidden_values(plan, state, hides_required),
            false => without_hidden_values(plan, state, |field| may_hide(field.data_type())),
        }
    }

    async fn create_writer_physical_plan(
        &self,
        input: Arc<dyn ExecutionPlan>,
        state: &dyn Session,
        sink: FileSinkConfig,
        order: Option<LexRequirement>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.inner.create_writer_physical_plan(input, state, sink, order).await
    }

    fn file_source(&self, table_schema: TableSchema) -> Arc<dyn FileSource> {
        self.inner.file_source(table_schema)
    }
}

/// Removes what Arrow files hold under NULL, and what readers put there, from the columns that may have it.
fn without_hidden_values(
    plan: Arc<dyn ExecutionPlan>,
    state: &dyn Session,
    hides: impl Fn(&Field) -> bool,
) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = plan.schema();
    if !schema.fields().iter().any(|field| hides(field)) {
        return Ok(plan);
    }
    let options = Arc::new(state.config_options().clone());
    let columns = schema.fields().iter().enumerate().map(|(index, field)| {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), index));
        let value: Arc<dyn PhysicalExpr> = match hides(field) {
            true => Arc::new(ScalarFunctionExpr::try_new(
                clean(),
                vec![column],
                &schema,
                Arc::clone(&options),
            )?),
            false => column,
        };
        Ok((value, field.name().clone()))
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(ProjectionExec::try_new(columns, plan)?))
}

#[derive(Debug)]
struct CheckedFormatFactory {
    inner: Arc<dyn FileFormatFactory>,
}

impl FileFormatFactory for CheckedFormatFactory {
    fn create(&self, state: &dyn Session, options: &HashMap<String, String>) -> Result<Arc<dyn FileFormat>> {
        Ok(Arc::new(CheckedFormat::new(self.inner.create(state, options)?)))
    }

    fn default(&self) -> Arc<dyn FileFormat> {
        Arc::new(CheckedFormat::new(self.inner.default()))
    }
}

impl GetExt for CheckedFormatFactory {
    fn get_ext(&self) -> String {
        self.inner.get_ext()
    }
}
