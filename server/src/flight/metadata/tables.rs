//! CommandGetTables, in both shapes: with each table's schema, and without.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow_flight::sql::CommandGetTables;
use arrow_flight::sql::metadata::GetTablesBuilder;
use datafusion::catalog::SchemaProvider;
use datafusion::common::TableReference;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::TableType;
use datafusion::prelude::SessionContext;
use squadron_proto::Failure;
use tracing::warn;

use super::catalogs::{SYSTEM_TABLE, is_system, provider, schemas, table_type_name};
use super::failure::from_builder;
use super::patterns::filter_names;
use crate::planner::columns::describe;
use crate::planner::schema::client_schema;

/// The full name of a table.
struct TableName<'a> {
    catalog: &'a str,
    schema: &'a str,
    table: &'a str,
}

/// The rows of the command. Only tables whose names match are opened.
pub(super) async fn tables(context: &SessionContext, command: &CommandGetTables) -> Result<RecordBatch, Failure> {
    let mut builder = command.clone().into_builder();
    let schema_pattern = command.db_schema_filter_pattern.as_deref();
    let table_pattern = command.table_name_filter_pattern.as_deref();
    for (catalog, schema) in schemas(context, command.catalog.as_deref(), schema_pattern)? {
        let Some(provider) = provider(context, &catalog, &schema) else {
            continue;
        };
        for table in filter_names(provider.table_names(), table_pattern)? {
            let name = TableName {
                catalog: &catalog,
                schema: &schema,
                table: &table,
            };
            append(&mut builder, &*provider, &name).await?;
        }
    }
    builder.build().map_err(from_builder)
}

async fn append(
    builder: &mut GetTablesBuilder,
    provider: &dyn SchemaProvider,
    name: &TableName<'_>,
) -> Result<(), Failure> {
    let (table_type, columns) = match describe_table(provider, name, builder.include_schema()).await {
        Ok(Some(description)) => description,
        // Dropped since its name was read.
        Ok(None) => return Ok(()),
        // One table that cannot be read must not hide the others; it has no columns to show.
        Err(error) => {
            warn!(table = name.table, "table cannot be described: {error}");
            (TableType::Base, Schema::empty())
        }
    };
    let table_type = match is_system(name.schema) {
        true => SYSTEM_TABLE,
        false => table_type_name(table_type),
    };
    let TableName { catalog, schema, table } = *name;
    builder
        .append(catalog, schema, table, table_type, &columns)
        .map_err(from_builder)
}

/// A table's type and, with `with_columns`, its columns; the type alone may be known without opening the table.
async fn describe_table(
    provider: &dyn SchemaProvider,
    name: &TableName<'_>,
    with_columns: bool,
) -> DataFusionResult<Option<(TableType, Schema)>> {
    if !with_columns {
        let table_type = provider.table_type(name.table).await?;
        return Ok(table_type.map(|table_type| (table_type, Schema::empty())));
    }
    let table = provider.table(name.table).await?;
    Ok(table.map(|table| {
        let origin = TableReference::full(name.catalog, name.schema, name.table);
        let columns = describe(&client_schema(&table.schema()), |_| Some(&origin));
        (table.table_type(), columns)
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Array, AsArray};
    use arrow::datatypes::DataType;
    use arrow_flight::IpcMessage;
    use datafusion::catalog::information_schema::{INFORMATION_SCHEMA, InformationSchemaProvider};

    use super::*;

    async fn context() -> SessionContext {
        let context = SessionContext::new();
        let catalogs = Arc::clone(context.state_ref().read().catalog_list());
        let information_schema = Arc::new(InformationSchemaProvider::new(catalogs));
        let catalog = context.catalog("datafusion").unwrap();
        catalog.register_schema(INFORMATION_SCHEMA, information_schema).unwrap();
        for sql in [
            "CREATE TABLE orders (id BIGINT NOT NULL, total DECIMAL(15, 2), name VARCHAR)",
            "CREATE VIEW order_names AS SELECT name FROM orders",
            "CREATE SCHEMA other",
            "CREATE TABLE other.orders (x INT)",
        ] {
            context.sql(sql).await.unwrap().collect().await.unwrap();
        }
        context
    }

    async fn names(command: CommandGetTables) -> Vec<String> {
        let batch = tables(&context().await, &command).await.unwrap();
        let column = |index: usize| batch.column(index).as_string::<i32>();
        (0..batch.num_rows())
            .filter(|row| column(1).value(*row) != INFORMATION_SCHEMA)
            .map(|row| {
                let part = |index: usize| column(index).value(row);
                format!("{}.{} {}", part(1), part(2), part(3))
            })
            .collect()
    }

    #[tokio::test]
    async fn tables_and_views_are_sorted() {
        assert_eq!(
            names(CommandGetTables::default()).await,
            ["other.orders TABLE", "public.order_names VIEW", "public.orders TABLE"]
        );
    }

    #[tokio::test]
    async fn filters_narrow_the_list() {
        let wanted = CommandGetTables {
            catalog: Some("datafusion".into()),
            db_schema_filter_pattern: Some("pub%".into()),
            table_name_filter_pattern: Some("order_".into()),
            table_types: vec!["TABLE".into()],
            include_schema: false,
        };
        assert_eq!(names(wanted.clone()).await, ["public.orders TABLE"]);
        let views = CommandGetTables {
            table_types: vec!["VIEW".into()],
            table_name_filter_pattern: None,
            ..wanted.clone()
        };
        assert_eq!(names(views).await, ["public.order_names VIEW"]);
        let nowhere = CommandGetTables {
            catalog: Some(String::new()),
            ..wanted
        };
        assert!(names(nowhere).await.is_empty());
    }

    #[tokio::test]
    async fn information_schema_has_system_tables() {
        let command = CommandGetTables {
            db_schema_filter_pattern: Some(INFORMATION_SCHEMA.into()),
            include_schema: true,
            ..Default::default()
        };
        let batch = tables(&context().await, &command).await.unwrap();
        assert!(batch.num_rows() > 3);
        let types = batch.column(3).as_string::<i32>();
        assert!(types.iter().all(|name| name == Some(SYSTEM_TABLE)));
    }

    #[tokio::test]
    async fn table_schema_is_encapsulated_ipc() {
        let command = CommandGetTables {
            db_schema_filter_pattern: Some("public".into()),
            table_name_filter_pattern: Some("orders".into()),
            include_schema: true,
            ..Default::default()
        };
        let batch = tables(&context().await, &command).await.unwrap();
        let bytes = batch.column(4).as_binary::<i32>().value(0).to_vec();
        let schema = Schema::try_from(IpcMessage(bytes.into())).unwrap();
        let id = schema.field(0);
        assert_eq!((id.name().as_str(), id.is_nullable()), ("id", false));
        let total = schema.field(1).metadata();
        assert_eq!(total["ARROW:FLIGHT:SQL:TYPE_NAME"], "DECIMAL");
        assert_eq!(total["ARROW:FLIGHT:SQL:PRECISION"], "15");
        assert_eq!(total["ARROW:FLIGHT:SQL:SCALE"], "2");
        assert_eq!(total["ARROW:FLIGHT:SQL:TABLE_NAME"], "orders");
        assert_eq!(schema.field(2).data_type(), &DataType::Utf8);
    }

    #[tokio::test]
    async fn rows_match_the_announced_schema() {
        for include_schema in [false, true] {
            let command = CommandGetTables {
                include_schema,
                ..Default::default()
            };
            let announced = command.clone().into_builder().schema();
            let batch = tables(&context().await, &command).await.unwrap();
            assert_eq!(batch.schema(), announced);
            assert_eq!(batch.column(2).null_count(), 0);
        }
    }
}
