//! The scan of Arrow files that DataFusion runs.

use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::exec_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileOpenFuture, FileOpener, FileScanConfig, FileSource};
use datafusion::datasource::projection::{ProjectionOpener, SplitProjection};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::Result;
use datafusion::object_store::ObjectStore;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::StreamExt;
use futures::stream::try_unfold;

use super::layout::ArrowFile;

/// DataFusion's source of Arrow files, but for how it reads.
#[derive(Clone)]
pub(super) struct CheckedArrowSource {
    inner: Arc<dyn FileSource>,
}

impl CheckedArrowSource {
    pub(super) fn new(inner: Arc<dyn FileSource>) -> Self {
        Self { inner }
    }
}

impl FileSource for CheckedArrowSource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        _scan: &FileScanConfig,
        _partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        let table = self.inner.table_schema();
        let projection = match self.inner.projection() {
            Some(projection) => SplitProjection::new(table.file_schema(), projection),
            None => SplitProjection::unprojected(table),
        };
        let wanted = Arc::new(table.file_schema().project(&projection.file_indices)?);
        ProjectionOpener::try_new(projection, Arc::new(Opener { store, wanted }), table.file_schema())
    }

    fn table_schema(&self) -> &TableSchema {
        self.inner.table_schema()
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        Arc::new(Self::new(self.inner.with_batch_size(batch_size)))
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.inner.projection()
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.inner.metrics()
    }

    fn file_type(&self) -> &str {
        self.inner.file_type()
    }

    fn supports_repartitioning(&self) -> bool {
        self.inner.supports_repartitioning()
    }

    fn try_pushdown_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn FileSource>>> {
        let pushed = self.inner.try_pushdown_projection(projection)?;
        Ok(pushed.map(|inner| Arc::new(Self::new(inner)) as Arc<dyn FileSource>))
    }

    fn apply_expressions(
        &self,
        apply: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.inner.apply_expressions(apply)
    }
}

struct Opener {
    store: Arc<dyn ObjectStore>,
    /// The columns of the table to be read.
    wanted: SchemaRef,
}

impl FileOpener for Opener {
    fn open(&self, file: PartitionedFile) -> Result<FileOpenFuture> {
        let store = Arc::clone(&self.store);
        let wanted = Arc::clone(&self.wanted);
        Ok(Box::pin(async move {
            let mut open = ArrowFile::open(&store, &file.object_meta).await?;
            if let Some(range) = file.range {
                let bound = |offset: i64| u64::try_from(offset).unwrap_or(0);
                open = open.with_range(bound(range.start)..bound(range.end));
            }
            let columns = columns_of(&wanted, &open.schema);
            let open = open.with_projection(columns);
            let batches = try_unfold((open, wanted), async |(mut open, wanted)| {
                let batch = open.next().await?;
                let batch = batch.map(|batch| conform(&batch, &wanted)).transpose()?;
                Ok(batch.map(|batch| (batch, (open, wanted))))
            });
            Ok(batches.boxed())
        }))
    }
}

/// Where the columns of `wanted` are in a file of the columns `found`, by their names. Files need not agree about the
/// order of columns.
fn columns_of(wanted: &Schema, found: &Schema) -> Vec<usize> {
    let columns = wanted
        .fields()
        .iter()
        .filter_map(|field| found.index_of(field.name()).ok());
    columns.collect()
}

/// The columns of `batch` with the types of `wanted`; those that it lacks are NULL.
fn conform(batch: &RecordBatch, wanted: &SchemaRef) -> Result<RecordBatch> {
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let column = |(name, field): (&String, &datafusion::arrow::datatypes::FieldRef)| match batch.column_by_name(name) {
        Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
        Some(column) => Ok(cast_with_options(column, field.data_type(), &strict)?),
        None if field.is_nullable() => Ok(new_null_array(field.data_type(), batch.num_rows())),
        None => exec_err!("the file lacks the column {name}, which is not nullable"),
    };
    let fields = wanted.fields().iter().map(|field| (field.name(), field));
    let columns = fields.map(column).collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(wanted),
        columns,
        &options,
    )?)
}
