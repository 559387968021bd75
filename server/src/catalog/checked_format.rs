//! A format whose files may be damaged: what its reader cannot understand, or panics at, is an error that names the file.
//!
//! Readers panic where a length, an offset or a statistic of a file is impossible. The columns of Arrow files are told by
//! [`arrow_files::schema`]: DataFusion's reader allocates what a damaged file asks for, and the process ends when
//! that cannot be had.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::{GetExt, Statistics};
use datafusion::datasource::file_format::arrow::ArrowFormat;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::file_format::{FileFormat, FileFormatFactory, FileMeta};
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::datasource::physical_plan::{FileScanConfig, FileSinkConfig, FileSource};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::object_store::{ObjectMeta, ObjectStore};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, LexRequirement, PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;
use futures::FutureExt;
use squadron_shuffle::arrow_files;
use squadron_shuffle::functions::{clean, hides_required, may_hide};

use super::csv::CsvFiles;
use super::file_errors::checked;
use super::{json_numbers, parquet_statistics};

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

/// JSON files of so many bytes are looked at as a whole for their columns.
const MAX_THOROUGH_BYTES: u64 = 1024 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct CheckedFormat {
    inner: Arc<dyn FileFormat>,
    csv: CsvFiles,
}

impl CheckedFormat {
    pub(super) fn new(inner: Arc<dyn FileFormat>) -> Self {
        Self {
            inner,
            csv: CsvFiles::default(),
        }
    }

    async fn schema_of(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        object: &ObjectMeta,
    ) -> Result<SchemaRef> {
        let work = async {
            if self.inner.is::<ArrowFormat>() {
                return arrow_files::schema(store, object).await;
            }
            let reader = self.thorough(object.size);
            reader.infer_schema(state, store, std::slice::from_ref(object)).await
        };
        checked(object, work).await
    }
}

impl CheckedFormat {
    /// The format as it looks at files of so many bytes for their columns. Where a field comes late, or has a fraction
    /// late, JSON's reader would leave it out (apache/arrow-rs#10265), so it looks at all rows.
    fn thorough(&self, bytes: u64) -> Arc<dyn FileFormat> {
        match self.inner.downcast_ref::<JsonFormat>() {
            Some(json) if json.options().schema_infer_max_rec.is_none() => {
                if bytes > MAX_THOROUGH_BYTES {
                    tracing::warn!(
                        bytes,
                        "the columns of JSON files are those of their first 100,000 rows, because they are larger than \
                         {MAX_THOROUGH_BYTES} bytes; declare the columns with CREATE EXTERNAL TABLE"
                    );
                    return Arc::new(json_with(json, 100_000));
                }
                Arc::new(json_with(json, usize::MAX))
            }
            _ => Arc::clone(&self.inner),
        }
    }

    /// Leaves of a Parquet file's statistics what its footer, which is in the cache by now, proves.
    async fn keep_proven(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        schema: &SchemaRef,
        object: &ObjectMeta,
        statistics: &mut Statistics,
    ) -> Result<()> {
        if !self.inner.is::<ParquetFormat>() {
            return Ok(());
        }
        let footers = state.runtime_env().cache_manager.get_file_metadata_cache();
        let footer = DFParquetMetadata::new(store, object).with_file_metadata_cache(Some(footers));
        parquet_statistics::keep_proven(statistics, schema, footer.fetch_metadata().await?.as_ref());
        Ok(())
    }
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
        if !self.inner.is::<ArrowFormat>() {
            // Many files are read at a time.
            let reader = self.thorough(objects.iter().map(|object| object.size).sum());
            let work = AssertUnwindSafe(reader.infer_schema(state, store, objects));
            if let Ok(Ok(schema)) = work.catch_unwind().await {
                return Ok(schema);
            }
        }
        // One after the other, to find the one that cannot be read.
        let mut schemas = Vec::with_capacity(objects.len());
        for object in objects {
            schemas.push(Arc::unwrap_or_clone(self.schema_of(state, store, object).await?));
        }
        Ok(Arc::new(Schema::try_merge(schemas)?))
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
