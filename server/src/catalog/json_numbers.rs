//! The scan of JSON files whose whole numbers and decimals are read with all their digits.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, FieldRef, Schema};
use datafusion::catalog::Session;
use datafusion::common::ScalarValue;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::physical_plan::{FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::Result;
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;
use squadron_shuffle::fragment::json_array::scan_of_arrays;
use squadron_shuffle::functions::{fit, wide};

/// The rows of `scan`.
pub(super) async fn scan(
    format: &JsonFormat,
    state: &dyn Session,
    scan: FileScanConfig,
) -> Result<Arc<dyn ExecutionPlan>> {
    let output = scan.projected_schema()?;
    let read = with_wide_types(format, &scan, &output)?;
    let rows = format.create_physical_plan(state, read).await?;
    let rows = match format.is_newline_delimited() {
        true => rows,
        false => scan_of_arrays(rows),
    };
    let given = rows.schema();
    if given.fields() == output.fields() {
        return Ok(rows);
    }
    let options = Arc::new(state.config_options().clone());
    let columns = output.fields().iter().enumerate().map(|(index, field)| {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), index));
        let value: Arc<dyn PhysicalExpr> = match given.field(index).data_type() == field.data_type() {
            true => column,
            false => {
                let to = Arc::new(Literal::new(ScalarValue::try_from(field.data_type())?));
                Arc::new(ScalarFunctionExpr::try_new(
                    fit(),
                    vec![column, to],
                    &given,
                    Arc::clone(&options),
                )?)
            }
        };
        Ok((value, field.name().clone()))
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(ProjectionExec::try_new(columns, rows)?))
}

/// The scan of the columns `output` with wide types.
fn with_wide_types(format: &JsonFormat, scan: &FileScanConfig, output: &Schema) -> Result<FileScanConfig> {
    let fields = scan.file_schema().fields().iter().map(|field| {
        let wide = wide(field.data_type());
        field.as_ref().clone().with_data_type(wide)
    });
    let fields: Vec<Field> = fields.collect();
    let partitions: Vec<FieldRef> = scan.table_partition_cols().iter().cloned().collect();
    let table = TableSchema::builder(Arc::new(Schema::new(fields)))
        .with_table_partition_cols(partitions)
        .build();
    let wanted = output
        .fields()
        .iter()
        .map(|field| Ok(table.table_schema().index_of(field.name())?));
    let wanted = wanted.collect::<Result<Vec<_>>>()?;
    let source = format.file_source(table);
    let read = FileScanConfigBuilder::new(scan.object_store_url.clone(), source)
        .with_file_groups(scan.file_groups.clone())
        .with_limit(scan.limit)
        .with_projection_indices(Some(wanted))?
        .build();
    Ok(read)
}
