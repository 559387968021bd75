//! Encodes rows with DataFusion's own file sinks, each for a single file.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::arrow::csv::WriterBuilder;
use datafusion::common::file_options::csv_writer::CsvWriterOptions;
use datafusion::common::file_options::json_writer::JsonWriterOptions;
use datafusion::common::{Result, internal_err};
use datafusion::config::TableParquetOptions;
use datafusion::datasource::file_format::csv::CsvSink;
use datafusion::datasource::file_format::json::JsonSink;
use datafusion::datasource::file_format::parquet::ParquetSink;
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::datasource::object_store::ObjectStoreUrl;
use datafusion::datasource::physical_plan::{FileOutputMode, FileSinkConfig};
use datafusion::datasource::sink::{DataSink, DataSinkExec};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion_proto::physical_plan::{
    DefaultPhysicalProtoConverter, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf;
use object_store::path::Path;
use url::Url;

use crate::codec::ShuffleCodec;

/// A file format with its options.
#[derive(Clone, Debug)]
pub enum FileEncoding {
    /// Parquet.
    Parquet(Box<TableParquetOptions>),
    /// CSV, perhaps compressed.
    Csv(Box<CsvWriterOptions>),
    /// JSON lines, perhaps compressed.
    Json(Box<JsonWriterOptions>),
}

impl FileEncoding {
    /// The encoding of a write as DataFusion plans it; none for a format that Squadron does not write.
    pub fn from_plan(plan: &dyn ExecutionPlan) -> Option<Self> {
        let sink = plan.downcast_ref::<DataSinkExec>()?.sink();
        if let Some(sink) = sink.downcast_ref::<ParquetSink>() {
            return Some(Self::Parquet(Box::new(sink.parquet_options().clone())));
        }
        if let Some(sink) = sink.downcast_ref::<CsvSink>() {
            return Some(Self::Csv(Box::new(sink.writer_options().clone())));
        }
        let sink = sink.downcast_ref::<JsonSink>()?;
        Some(Self::Json(Box::new(sink.writer_options().clone())))
    }

    /// The name that users know.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Parquet(_) => "Parquet",
            Self::Csv(_) => "CSV",
            Self::Json(_) => "JSON",
        }
    }

    /// The same for many files that are open at once: each file is written by one thread.
    pub(super) fn for_many_files(&self) -> Self {
        match self {
            Self::Parquet(options) => {
                let mut options = options.clone();
                options.global.allow_single_file_parallelism = false;
                Self::Parquet(options)
            }
            Self::Csv(_) | Self::Json(_) => self.clone(),
        }
    }

    /// The sink that writes the file at `path`.
    pub(super) fn sink(&self, store: &ObjectStoreUrl, path: &Path, schema: SchemaRef) -> Result<Arc<dyn DataSink>> {
        let mut url: Url = AsRef::<Url>::as_ref(store).clone();
        match url.path_segments_mut() {
            Ok(mut segments) => {
                segments
                    .clear()
                    .extend(path.parts().map(|part| part.as_ref().to_owned()));
            }
            Err(()) => return internal_err!("{store} has no paths"),
        }
        let config = FileSinkConfig {
            original_url: String::new(),
            object_store_url: store.clone(),
            file_group: Default::default(),
            table_paths: vec![ListingTableUrl::try_new(url, None)?],
            output_schema: schema,
            table_partition_cols: Vec::new(),
            insert_op: InsertOp::Append,
            keep_partition_by_columns: false,
            file_extension: String::new(),
            file_output_mode: FileOutputMode::SingleFile,
        };
        Ok(match self {
            Self::Parquet(options) => Arc::new(ParquetSink::new(config, (**options).clone())),
            Self::Csv(options) => Arc::new(CsvSink::new(config, (**options).clone())),
            Self::Json(options) => Arc::new(JsonSink::new(config, (**options).clone())),
        })
    }

    /// The wire form: a DataFusion sink without rows.
    pub(crate) fn to_proto(
        &self,
        schema: SchemaRef,
        codec: &ShuffleCodec,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<protobuf::PhysicalPlanNode> {
        let nothing = Arc::new(EmptyExec::new(Arc::clone(&schema)));
        let local = ObjectStoreUrl::local_filesystem();
        let sink = self.sink(&local, &Path::from("nothing"), schema)?;
        let plan: Arc<dyn ExecutionPlan> = Arc::new(DataSinkExec::new(nothing, sink, None));
        converter.execution_plan_to_proto(&plan, codec)
    }

    pub(crate) fn from_proto(
        proto: &protobuf::PhysicalPlanNode,
        context: &PhysicalPlanDecodeContext<'_>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Self> {
        let plan = converter.proto_to_execution_plan(proto, context)?;
        match Self::from_plan(plan.as_ref()) {
            Some(Self::Csv(options)) => Ok(Self::Csv(Box::new(drop_empty_formats(*options)))),
            Some(encoding) => Ok(encoding),
            None => internal_err!("{} does not write files", plan.name()),
        }
    }
}

/// Drops empty formats: DataFusion decodes an unset format as an empty one, which writes a date as empty text.
fn drop_empty_formats(options: CsvWriterOptions) -> CsvWriterOptions {
    let read = &options.writer_options;
    let is_set = |format: &&str| !format.is_empty();
    let mut builder = WriterBuilder::new()
        .with_header(read.header())
        .with_delimiter(read.delimiter())
        .with_quote(read.quote())
        .with_escape(read.escape())
        .with_double_quote(read.double_quote())
        .with_quote_style(read.quote_style())
        .with_ignore_leading_whitespace(read.ignore_leading_whitespace())
        .with_ignore_trailing_whitespace(read.ignore_trailing_whitespace());
    if let Some(format) = read.date_format().filter(is_set) {
        builder = builder.with_date_format(format.into());
    }
    if let Some(format) = read.datetime_format().filter(is_set) {
        builder = builder.with_datetime_format(format.into());
    }
    if let Some(format) = read.timestamp_format().filter(is_set) {
        builder = builder.with_timestamp_format(format.into());
    }
    if let Some(format) = read.time_format().filter(is_set) {
        builder = builder.with_time_format(format.into());
    }
    if is_set(&read.null()) {
        builder = builder.with_null(read.null().into());
    }
    CsvWriterOptions {
        writer_options: builder,
        ..options
    }
}

/// Whether `encoding` is the same after a round trip through its wire form.
pub(super) fn is_lossless(encoding: &FileEncoding) -> bool {
    let converter = DefaultPhysicalProtoConverter {};
    let context = TaskContext::default();
    let context = PhysicalPlanDecodeContext::new(&context, &ShuffleCodec);
    let schema = SchemaRef::new(arrow::datatypes::Schema::empty());
    let decoded = encoding
        .to_proto(schema, &ShuffleCodec, &converter)
        .and_then(|proto| FileEncoding::from_proto(&proto, &context, &converter));
    decoded.is_ok_and(|decoded| format!("{decoded:?}") == format!("{encoding:?}"))
}
