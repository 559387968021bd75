//! Catalogs, schemas and table types.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::sql::{CommandGetCatalogs, CommandGetDbSchemas};
use datafusion::catalog::SchemaProvider;
use datafusion::catalog::information_schema::INFORMATION_SCHEMA;
use datafusion::logical_expr::TableType;
use datafusion::prelude::SessionContext;
use squadron_proto::Failure;

use super::failure::from_builder;
use super::patterns::filter_names;
use crate::catalog::SYSTEM_SCHEMA;

/// The type of tables that describe the server and other tables.
pub(super) const SYSTEM_TABLE: &str = "SYSTEM TABLE";

/// The names of table types, sorted.
const TABLE_TYPES: [&str; 4] = ["LOCAL TEMPORARY", SYSTEM_TABLE, "TABLE", "VIEW"];

/// Whether the tables of a schema describe the server and the other tables.
pub(super) fn is_system(schema: &str) -> bool {
    schema == INFORMATION_SCHEMA || schema == SYSTEM_SCHEMA
}

/// The name by which JDBC and ODBC programs filter.
pub(super) fn table_type_name(table_type: TableType) -> &'static str {
    match table_type {
        TableType::Base => "TABLE",
        TableType::View => "VIEW",
        TableType::Temporary => "LOCAL TEMPORARY",
    }
}

/// Rows of CommandGetCatalogs.
pub(super) fn catalogs(context: &SessionContext) -> Result<RecordBatch, Failure> {
    let mut builder = CommandGetCatalogs {}.into_builder();
    for catalog in context.catalog_names() {
        builder.append(catalog);
    }
    builder.build().map_err(from_builder)
}

/// Rows of CommandGetDbSchemas.
pub(super) fn db_schemas(context: &SessionContext, command: &CommandGetDbSchemas) -> Result<RecordBatch, Failure> {
    let mut builder = command.clone().into_builder();
    let pattern = command.db_schema_filter_pattern.as_deref();
    for (catalog, schema) in schemas(context, command.catalog.as_deref(), pattern)? {
        builder.append(catalog, schema);
    }
    builder.build().map_err(from_builder)
}

/// Catalog and schema names in order; the catalog is matched exactly, the schema by a pattern.
pub(super) fn schemas(
    context: &SessionContext,
    catalog: Option<&str>,
    pattern: Option<&str>,
) -> Result<Vec<(String, String)>, Failure> {
    let mut found = Vec::new();
    let mut catalogs = context.catalog_names();
    catalogs.sort_unstable();
    for name in catalogs {
        if catalog.is_some_and(|wanted| wanted != name) {
            continue;
        }
        let Some(catalog) = context.catalog(&name) else {
            continue;
        };
        let mut schemas = catalog.schema_names();
        schemas.sort_unstable();
        let schemas = filter_names(schemas, pattern)?;
        found.extend(schemas.into_iter().map(|schema| (name.clone(), schema)));
    }
    Ok(found)
}

/// A schema to read tables from.
pub(super) fn provider(context: &SessionContext, catalog: &str, schema: &str) -> Option<Arc<dyn SchemaProvider>> {
    context.catalog(catalog)?.schema(schema)
}

/// The schema of CommandGetTableTypes.
pub(super) fn table_types_schema() -> SchemaRef {
    let field = Field::new("table_type", DataType::Utf8, false);
    Arc::new(Schema::new(vec![field]))
}

/// Rows of CommandGetTableTypes.
pub(super) fn table_types() -> RecordBatch {
    let names: ArrayRef = Arc::new(StringArray::from(TABLE_TYPES.to_vec()));
    RecordBatch::try_new(table_types_schema(), vec![names]).expect("the column has the schema's one type and no nulls")
}
