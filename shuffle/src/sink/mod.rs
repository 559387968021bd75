//! The plan node that writes files: each partition writes its own, into a folder named after the attempt.
//!
//! ```text
//! rows --> WriteFilesExec --> <staging>/<stage>-<task>-<attempt>-<partition>/<n>.part
//!              |
//!              '--> one row per file: where it is staged, the folder it belongs in, its rows, its bytes
//! ```
//!
//! No table reads the staging folder. When the whole query has succeeded, the server moves the files that the rows name
//! to their final places; no row names the files of other attempts, and the server removes them with the folder.

mod encoding;
mod file;
mod split;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_datafusion_err, internal_err};
use datafusion::datasource::object_store::ObjectStoreUrl;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, EvaluationType, ReplaceChildrenOptions, SchedulingType,
};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties};
use futures::stream;
use object_store::path::Path;

use crate::context::AttemptContext;
pub use encoding::FileEncoding;
pub use split::NULL_FOLDER;
use writer::Writer;

/// Where files are written, and how.
#[derive(Clone, Debug)]
pub struct FileTarget {
    /// The URL of the store, as in plans.
    pub store: ObjectStoreUrl,
    /// The folder of this query's files until they are published. A local one must exist.
    pub staging: Path,
    /// The schema of incoming rows: types, nullability and names of the table.
    pub schema: SchemaRef,
    /// Columns whose values become folders `k=v`, outermost first.
    pub partition_by: Vec<String>,
    /// Whether those columns are in the files as well.
    pub keep_partition_columns: bool,
    /// Whether the first partition writes a file even when it has no rows.
    pub never_empty: bool,
    /// Whether there must be a single file, however large. The plan has one partition then.
    pub single_file: bool,
    /// Format and options.
    pub encoding: FileEncoding,
}

impl FileTarget {
    /// The columns that are in the files.
    pub fn file_schema(&self) -> SchemaRef {
        if self.keep_partition_columns || self.partition_by.is_empty() {
            return Arc::clone(&self.schema);
        }
        let fields: Vec<_> = self
            .schema
            .fields()
            .iter()
            .filter(|field| !self.partition_by.contains(field.name()))
            .cloned()
            .collect();
        let metadata = self.schema.metadata().clone();
        Arc::new(Schema::new_with_metadata(fields, metadata))
    }
}

/// A file that is written but not published yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StagedFile {
    /// Its staged location.
    pub path: Path,
    /// The folders `k=v/l=w` that it belongs in, below the target; empty without partition columns.
    pub folder: Path,
    /// Rows in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
}

impl StagedFile {
    /// Reads the files from the rows of a [`WriteFilesExec`].
    ///
    /// # Errors
    /// When the rows do not have the columns of [`staged_files_schema`].
    pub fn from_rows(rows: &RecordBatch) -> Result<Vec<Self>> {
        fn column<T: 'static>(rows: &RecordBatch, index: usize) -> Result<&T> {
            let column = rows.columns().get(index);
            column
                .and_then(|column| column.as_any().downcast_ref())
                .ok_or_else(|| internal_datafusion_err!("column {index} does not tell of files"))
        }
        let paths: &StringArray = column(rows, 0)?;
        let folders: &StringArray = column(rows, 1)?;
        let counts: &UInt64Array = column(rows, 2)?;
        let sizes: &UInt64Array = column(rows, 3)?;
        let path =
            |text: &str| Path::parse(text).map_err(|error| internal_datafusion_err!("{text} is no path: {error}"));
        (0..rows.num_rows())
            .map(|row| {
                Ok(Self {
                    path: path(paths.value(row))?,
                    folder: path(folders.value(row))?,
                    rows: counts.value(row),
                    bytes: sizes.value(row),
                })
            })
            .collect()
    }

    fn to_rows(files: &[Self]) -> Result<RecordBatch> {
        let text = |text: fn(&Self) -> &Path| -> ArrayRef {
            let texts = files.iter().map(|file| text(file).as_ref());
            Arc::new(StringArray::from_iter_values(texts))
        };
        let number = |number: fn(&Self) -> u64| -> ArrayRef {
            Arc::new(UInt64Array::from_iter_values(files.iter().map(number)))
        };
        let columns = vec![
            text(|file| &file.path),
            text(|file| &file.folder),
            number(|file| file.rows),
            number(|file| file.bytes),
        ];
        Ok(RecordBatch::try_new(staged_files_schema(), columns)?)
    }
}

/// The columns of a [`WriteFilesExec`]: path, folder, rows, bytes.
pub fn staged_files_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("path", DataType::Utf8, false),
        Field::new("folder", DataType::Utf8, false),
        Field::new("rows", DataType::UInt64, false),
        Field::new("bytes", DataType::UInt64, false),
    ]))
}

/// Writes the rows of its input to files and yields one row per file (see [`StagedFile`]). Has as many partitions as
/// its input, and no two of them share a file.
#[derive(Debug)]
pub struct WriteFilesExec {
    input: Arc<dyn ExecutionPlan>,
    target: Arc<FileTarget>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl WriteFilesExec {
    /// Writes the rows of `input` to `target`.
    pub fn new(input: Arc<dyn ExecutionPlan>, target: Arc<FileTarget>) -> Self {
        let partitions = input.output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(staged_files_schema()),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Final,
            Boundedness::Bounded,
        )
        .with_evaluation_type(EvaluationType::Eager)
        .with_scheduling_type(SchedulingType::Cooperative);
        Self {
            input,
            target,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// Where and how files are written.
    pub fn target(&self) -> &Arc<FileTarget> {
        &self.target
    }

    /// Whether the node can be sent to another process without losing options.
    pub fn has_lossless_encoding(&self) -> bool {
        encoding::is_lossless(&self.target.encoding)
    }
}

impl DisplayAs for WriteFilesExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriteFiles: {}", self.target.encoding.name())?;
        if !self.target.partition_by.is_empty() {
            write!(f, ", partitioned by [{}]", self.target.partition_by.join(", "))?;
        }
        Ok(())
    }
}

impl ExecutionPlan for WriteFilesExec {
    fn name(&self) -> &'static str {
        "WriteFilesExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.len()) {
            (Some(input), 0) => Ok(Arc::new(Self::new(input, Arc::clone(&self.target)))),
            _ => internal_err!("{} has one child", self.name()),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let attempt = AttemptContext::of(&context)?;
        let number = attempt.partition_number(partition)?;
        let key = attempt.key;
        let folder = format!("{}-{}-{}-{number}", key.stage, key.task, key.attempt);
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let writer = Writer::new(
            Arc::clone(&self.target),
            self.target.staging.clone().join(folder),
            number == 0 && self.target.never_empty,
            context,
        )?;
        let rows = MetricBuilder::new(&self.metrics).output_rows(partition);
        let write = async move {
            let files = writer.write(input).await?;
            rows.add(files.len());
            StagedFile::to_rows(&files)
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            staged_files_schema(),
            stream::once(write),
        )))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
