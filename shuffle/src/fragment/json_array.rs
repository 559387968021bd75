//! JSON files that are one array each: read as a whole, and only in the process that planned them.
//!
//! DataFusion 55.2 splits such files like those of lines, and then refuses to read the pieces; and its encoding makes files
//! of lines of them. Of a file of this machine it takes an array without an end for a whole one, and so loses the rows
//! behind a cut; of a file that comes in pieces it does not.

use std::fmt;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::physical_plan::{FileOpener, FileScanConfig, FileScanConfigBuilder, FileSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{DisplayFormatType, ExecutionPlan};
use object_store::ObjectStore;
use object_store::chunked::ChunkedStore;

use crate::plan_nodes::file_scan;

/// How much of a file is read at a time.
const PIECE_BYTES: usize = 1024 * 1024;

/// The same scan, of arrays. Other plans stay as they are.
pub fn scan_of_arrays(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let Some(config) = file_scan(plan.as_ref()) else {
        return plan;
    };
    let source = Arc::new(JsonArraySource(Arc::clone(config.file_source())));
    let config = FileScanConfigBuilder::from(config.clone()).with_source(source);
    DataSourceExec::from_data_source(config.build())
}

/// DataFusion's source of JSON files, whose files are not split.
pub(super) struct JsonArraySource(Arc<dyn FileSource>);

impl FileSource for JsonArraySource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        let store = Arc::new(ChunkedStore::new(store, PIECE_BYTES));
        self.0.create_file_opener(store, config, partition)
    }

    fn table_schema(&self) -> &TableSchema {
        self.0.table_schema()
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        Arc::new(Self(self.0.with_batch_size(batch_size)))
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.0.projection()
    }

    fn try_pushdown_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn FileSource>>> {
        let pushed = self.0.try_pushdown_projection(projection)?;
        Ok(pushed.map(|source| Arc::new(Self(source)) as _))
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.0.metrics()
    }

    fn file_type(&self) -> &str {
        self.0.file_type()
    }

    fn fmt_extra(&self, display: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt_extra(display, f)
    }

    fn supports_repartitioning(&self) -> bool {
        false
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.0.apply_expressions(f)
    }
}
