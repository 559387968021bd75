//! Primary and foreign keys.
//!
//! Primary keys are those that `CREATE EXTERNAL TABLE` declares; the files are not checked against them. There are no
//! foreign keys, hence a schema without rows. arrow-flight has no builders for either; names, order and nullability are
//! those of `format/FlightSql.proto`.

use std::sync::Arc;

use arrow::array::{ArrayBuilder, Int32Builder, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::sql::CommandGetPrimaryKeys;
use datafusion::catalog::TableProvider;
use datafusion::common::Constraint;
use datafusion::prelude::SessionContext;
use squadron_proto::Failure;
use tracing::warn;

use super::catalogs::{provider, schemas};

/// The schema of CommandGetPrimaryKeys.
pub(super) fn primary_keys_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("catalog_name", DataType::Utf8, true),
        Field::new("db_schema_name", DataType::Utf8, true),
        Field::new("table_name", DataType::Utf8, false),
        Field::new("column_name", DataType::Utf8, false),
        Field::new("key_name", DataType::Utf8, true),
        Field::new("key_sequence", DataType::Int32, false),
    ]))
}

/// The schema of CommandGetExportedKeys, CommandGetImportedKeys and CommandGetCrossReference.
pub(super) fn foreign_keys_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("pk_catalog_name", DataType::Utf8, true),
        Field::new("pk_db_schema_name", DataType::Utf8, true),
        Field::new("pk_table_name", DataType::Utf8, false),
        Field::new("pk_column_name", DataType::Utf8, false),
        Field::new("fk_catalog_name", DataType::Utf8, true),
        Field::new("fk_db_schema_name", DataType::Utf8, true),
        Field::new("fk_table_name", DataType::Utf8, false),
        Field::new("fk_column_name", DataType::Utf8, false),
        Field::new("key_sequence", DataType::Int32, false),
        Field::new("fk_key_name", DataType::Utf8, true),
        Field::new("pk_key_name", DataType::Utf8, true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ]))
}

/// The primary key of each table that the command names, its columns in the order of the key.
pub(super) async fn primary_keys(
    context: &SessionContext,
    command: &CommandGetPrimaryKeys,
) -> Result<RecordBatch, Failure> {
    let mut rows = PrimaryKeys::default();
    for (catalog, schema) in schemas(context, command.catalog.as_deref(), None)? {
        if command.db_schema.as_ref().is_some_and(|wanted| *wanted != schema) {
            continue;
        }
        let Some(provider) = provider(context, &catalog, &schema) else {
            continue;
        };
        if !provider.table_exist(&command.table) {
            continue;
        }
        match provider.table(&command.table).await {
            Ok(Some(table)) => {
                for column in key_columns(table.as_ref()) {
                    rows.append([&catalog, &schema, &command.table, &column.name], column.number);
                }
            }
            // The table was dropped after its name was read.
            Ok(None) => {}
            Err(error) => warn!(table = command.table, "table cannot be described: {error}"),
        }
    }
    rows.finish()
}

/// A column of a key, and its position in the key from 1.
struct KeyColumn {
    name: String,
    number: i32,
}

fn key_columns(table: &dyn TableProvider) -> Vec<KeyColumn> {
    let schema = table.schema();
    let constraints = table
        .constraints()
        .into_iter()
        .flat_map(|constraints| constraints.iter());
    let key = constraints
        .filter_map(|constraint| match constraint {
            Constraint::PrimaryKey(columns) => Some(columns),
            Constraint::Unique(_) => None,
        })
        .next();
    let columns = key.into_iter().flatten();
    let named = columns.filter_map(|index| schema.fields().get(*index));
    (1..)
        .zip(named)
        .map(|(number, field)| KeyColumn {
            name: field.name().clone(),
            number,
        })
        .collect()
}

/// Rows of CommandGetPrimaryKeys. They are in order, since schemas are and a table has at most one key.
#[derive(Default)]
struct PrimaryKeys {
    names: [StringBuilder; 4],
    numbers: Int32Builder,
}

impl PrimaryKeys {
    fn append(&mut self, names: [&str; 4], number: i32) {
        for (builder, name) in self.names.iter_mut().zip(names) {
            builder.append_value(name);
        }
        self.numbers.append_value(number);
    }

    fn finish(mut self) -> Result<RecordBatch, Failure> {
        let [catalogs, schemas, tables, columns] = &mut self.names;
        let mut key_names = StringBuilder::new();
        key_names.append_nulls(self.numbers.len());
        RecordBatch::try_new(
            primary_keys_schema(),
            vec![
                Arc::new(catalogs.finish()),
                Arc::new(schemas.finish()),
                Arc::new(tables.finish()),
                Arc::new(columns.finish()),
                Arc::new(key_names.finish()),
                Arc::new(self.numbers.finish()),
            ],
        )
        .map_err(|error| Failure::internal(format!("primary keys do not fit their schema: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    async fn keys_of(table: &str, schema: Option<&str>) -> Vec<(String, String, i32)> {
        let context = SessionContext::new();
        for sql in [
            "CREATE SCHEMA other",
            "CREATE TABLE plain (a INT, b INT, UNIQUE (b))",
            "CREATE TABLE keyed (a INT, b INT NOT NULL, c INT NOT NULL, PRIMARY KEY (c, b))",
            "CREATE TABLE other.keyed (x INT NOT NULL PRIMARY KEY)",
        ] {
            context.sql(sql).await.unwrap().collect().await.unwrap();
        }
        let command = CommandGetPrimaryKeys {
            catalog: None,
            db_schema: schema.map(str::to_owned),
            table: table.to_owned(),
        };
        let rows = primary_keys(&context, &command).await.unwrap();
        let text = |column: usize, row: usize| rows.column(column).as_string::<i32>().value(row).to_owned();
        assert_eq!(rows.column(4).null_count(), rows.num_rows());
        let numbers = rows.column(5).as_primitive::<Int32Type>();
        (0..rows.num_rows())
            .map(|row| (text(1, row), text(3, row), numbers.value(row)))
            .collect()
    }

    #[tokio::test]
    async fn declared_primary_keys_are_listed() {
        let key = |schema: &str, column: &str, number| (schema.to_owned(), column.to_owned(), number);
        let all = [key("other", "x", 1), key("public", "c", 1), key("public", "b", 2)];
        assert_eq!(keys_of("keyed", None).await, all);
        assert_eq!(keys_of("keyed", Some("public")).await, all[1..]);
        assert_eq!(keys_of("keyed", Some("pub%")).await, []);
        assert_eq!(keys_of("keyed", Some("")).await, []);
        assert_eq!(keys_of("plain", None).await, []);
        assert_eq!(keys_of("no_such_table", None).await, []);
    }
}
