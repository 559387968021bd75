//! Tables whose folders do not spell the values of their columns as DataFusion reads them.
//!
//! DataFusion 55.2 takes the text of a folder's name for the value: Hive's name for NULL is a text like any other
//! (apache/datafusion#18083), and `month=06` is not found by `month = 6`. Here the columns of folders are read as texts,
//! and a view makes values of them; conditions on the values still leave out folders.

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Column, Constraints, Statistics};
use datafusion::datasource::listing::{ListingTable, ListingTableConfig};
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::error::Result;
use datafusion::functions::core::expr_fn::nullif;
use datafusion::logical_expr::{
    Expr, LogicalPlan, LogicalPlanBuilder, TableProviderFilterPushDown, TableType, cast, lit,
};
use datafusion::physical_plan::ExecutionPlan;
use squadron_shuffle::NULL_FOLDER;

/// A table of files in folders, whose columns have types.
#[derive(Debug)]
pub(super) struct PartitionedTable {
    files: Arc<ListingTable>,
    typed: ViewTable,
    /// The statement that makes the table.
    definition: Option<String>,
}

impl PartitionedTable {
    /// The table of `files`, with partition columns of these types.
    ///
    /// # Errors
    /// When the columns are not those of the table.
    pub(super) fn new(files: &ListingTable, types: &[(String, DataType)]) -> Result<Self> {
        let definition = files.get_table_definition().map(str::to_owned);
        let files = Arc::new(with_texts(files)?);
        let folders = Arc::new(Folders(Arc::clone(&files)));
        let scan = LogicalPlanBuilder::scan("files", provider_as_source(folders as _), None)?;
        let columns = files.schema();
        let columns = columns.fields().iter().map(|field| {
            let column = Expr::Column(Column::new_unqualified(field.name()));
            match types.iter().find(|(name, _)| name == field.name()) {
                Some((name, data_type)) => cast(nullif(column, lit(NULL_FOLDER)), data_type.clone()).alias(name),
                None => column,
            }
        });
        let plan = scan.project(columns.collect::<Vec<_>>())?.build()?;
        Ok(Self {
            files,
            typed: ViewTable::new(plan, None),
            definition,
        })
    }
}

/// The files behind a table, if it is one of files.
pub fn files_of(table: &dyn TableProvider) -> Option<&ListingTable> {
    let partitioned = table
        .downcast_ref::<PartitionedTable>()
        .map(|table| table.files.as_ref());
    let folders = || table.downcast_ref::<Folders>().map(|table| table.0.as_ref());
    partitioned.or_else(folders).or_else(|| table.downcast_ref())
}

/// The files with the names of their folders as texts. A folder for which a condition is NULL is not left out, so the
/// conditions are checked again for each row.
#[derive(Debug)]
struct Folders(Arc<ListingTable>);

#[async_trait]
impl TableProvider for Folders {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn table_type(&self) -> TableType {
        self.0.table_type()
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let supported = self.0.supports_filters_pushdown(filters)?.into_iter();
        let supported = supported.map(|support| match support {
            TableProviderFilterPushDown::Exact => TableProviderFilterPushDown::Inexact,
            other => other,
        });
        Ok(supported.collect())
    }

    fn statistics(&self) -> Option<Statistics> {
        self.0.statistics()
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.0.scan(state, projection, filters, limit).await
    }
}

/// The same files, with the names of folders as texts.
fn with_texts(files: &ListingTable) -> Result<ListingTable> {
    let mut options = files.options().clone();
    let is_partition = |field: &Field| {
        options
            .table_partition_cols
            .iter()
            .any(|(name, _)| name == field.name())
    };
    let schema = files.schema();
    let own: Vec<usize> = (0..schema.fields().len())
        .filter(|index| !is_partition(schema.field(*index)))
        .collect();
    for (_, data_type) in &mut options.table_partition_cols {
        *data_type = DataType::Utf8;
    }
    let config = ListingTableConfig::new_with_multi_paths(files.table_paths().clone())
        .with_listing_options(options)
        .with_schema(Arc::new(schema.project(&own)?));
    let constraints = files.constraints().cloned().unwrap_or_default();
    Ok(ListingTable::try_new(config)?.with_constraints(constraints))
}

#[async_trait]
impl TableProvider for PartitionedTable {
    fn schema(&self) -> SchemaRef {
        self.typed.schema()
    }

    fn constraints(&self) -> Option<&Constraints> {
        self.files.constraints()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn get_table_definition(&self) -> Option<&str> {
        self.definition.as_deref()
    }

    fn get_logical_plan(&self) -> Option<Cow<'_, LogicalPlan>> {
        self.typed.get_logical_plan()
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.typed.scan(state, projection, filters, limit).await
    }
}
