//! Metadata of many tables, of broken tables, and of tables that appear and disappear.

use std::fs;
use std::path::Path;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Schema;
use arrow_flight::sql::{CommandGetPrimaryKeys, CommandGetTables};
use arrow_flight::{FlightInfo, IpcMessage};
use squadron_integration::client::Client;
use squadron_integration::cluster::cluster;
use tempfile::TempDir;

use crate::support::{bounded, minutes};

const MANY: usize = 10_000;

async fn rows(client: &Client, info: FlightInfo) -> RecordBatch {
    let (schema, batches) = client.fetch(info).await.unwrap();
    arrow::compute::concat_batches(&schema, &batches).unwrap()
}

async fn tables(client: &Client, command: CommandGetTables) -> RecordBatch {
    let info = client.sql().get_tables(command).await.unwrap();
    rows(client, info).await
}

fn column(batch: &RecordBatch, index: usize) -> Vec<String> {
    let values = batch.column(index).as_string::<i32>();
    values.iter().flatten().map(str::to_owned).collect()
}

/// GetTables for the schema `public`.
fn public_tables(pattern: &str, include_schema: bool) -> CommandGetTables {
    CommandGetTables {
        db_schema_filter_pattern: Some("public".into()),
        table_name_filter_pattern: Some(pattern.into()),
        include_schema,
        ..CommandGetTables::default()
    }
}

fn write_csv(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(format!("{name}.csv")), text).unwrap();
}

#[test]
fn ten_thousand_tables_are_listed() {
    bounded(minutes(4), async {
        let folder = TempDir::with_prefix("squadron-many-").unwrap();
        for number in 0..MANY {
            write_csv(folder.path(), &format!("t{number:05}"), "a,b\n1,x\n");
        }
        let cluster = cluster().data(folder.path()).start().await;
        let client = cluster.client().await;
        let start = std::time::Instant::now();
        let names = tables(&client, public_tables("t%", false)).await;
        assert_eq!(names.num_rows(), MANY);
        assert!(column(&names, 2).is_sorted());
        let described = tables(&client, public_tables("t%", true)).await;
        assert_eq!(described.num_rows(), MANY);
        assert_eq!(column(&described, 2), column(&names, 2));
        // A listing whose cost is quadratic would take minutes.
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
        assert_eq!(
            column(&tables(&client, public_tables("t00017", true)).await, 2),
            ["t00017"]
        );
    });
}

#[test]
fn broken_or_dropped_table_hides_no_other() {
    bounded(minutes(2), async {
        let folder = TempDir::with_prefix("squadron-broken-").unwrap();
        write_csv(folder.path(), "whole", "a,b\n1,x\n");
        write_csv(folder.path(), "other", "a\n1\n");
        fs::write(folder.path().join("broken.parquet"), "this is no Parquet file").unwrap();
        let cluster = cluster().data(folder.path()).start().await;
        let client = cluster.client().await;
        assert_eq!(
            column(&tables(&client, public_tables("%", true)).await, 2),
            ["other", "whole"]
        );
        client.update("DROP TABLE other").await.unwrap();
        assert_eq!(column(&tables(&client, public_tables("%", true)).await, 2), ["whole"]);
        // A table that breaks while the server runs is listed until the next scan of the folder, and hides no other
        // table meanwhile.
        write_csv(folder.path(), "late", "c\n1\n");
        let mut listed = Vec::new();
        for _ in 0..600 {
            listed = column(&tables(&client, public_tables("%", true)).await, 2);
            if listed.len() == 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(listed, ["late", "whole"]);
        fs::remove_file(folder.path().join("late.csv")).unwrap();
        let names = column(&tables(&client, public_tables("%", true)).await, 2);
        assert!(names.contains(&"whole".to_owned()), "{names:?}");
    });
}

#[test]
fn declared_primary_keys_are_listed() {
    bounded(minutes(2), async {
        let folder = TempDir::with_prefix("squadron-keys-").unwrap();
        write_csv(folder.path(), "rows", "1,2,3\n");
        let cluster = cluster().start().await;
        let client = cluster.client().await;
        let file = folder.path().join("rows.csv");
        let create = |keys: &str| {
            let file = file.display();
            let columns = "a INT, b INT NOT NULL, c INT NOT NULL";
            format!("CREATE EXTERNAL TABLE keyed ({columns}, {keys}) STORED AS CSV LOCATION '{file}'")
        };
        let refused = client.update(&create("UNIQUE (a)")).await.unwrap_err();
        assert!(refused.message().contains("UNIQUE is not supported"), "{refused}");
        client.update(&create("PRIMARY KEY (c, b)")).await.unwrap();
        let command = CommandGetPrimaryKeys {
            table: "keyed".into(),
            ..CommandGetPrimaryKeys::default()
        };
        let info = client.sql().get_primary_keys(command.clone()).await.unwrap();
        assert_eq!(column(&rows(&client, info).await, 3), ["c", "b"]);
        client.update("DROP TABLE keyed").await.unwrap();
        let info = client.sql().get_primary_keys(command).await.unwrap();
        assert_eq!(rows(&client, info).await.num_rows(), 0);
    });
}

/// The listed schema of a table, and the schema of a query over it, have the same metadata for drivers.
#[test]
fn tables_and_results_describe_columns_alike() {
    bounded(minutes(2), async {
        let cluster = cluster().tpch(0.01).start().await;
        let client = cluster.client().await;
        let listed = tables(&client, public_tables("lineitem", true)).await;
        let bytes = listed.column(4).as_binary::<i32>().value(0).to_vec();
        let table = Schema::try_from(IpcMessage(bytes.into())).unwrap();
        let sql = "SELECT l_extendedprice, l_extendedprice * 2 AS twice, x.l_comment FROM lineitem x LIMIT 1";
        let result = client.schema(sql).await.unwrap();
        let metadata = |schema: &Schema, column: &str, key: &str| {
            let field = schema.field_with_name(column).unwrap();
            field.metadata().get(&format!("ARROW:FLIGHT:SQL:{key}")).cloned()
        };
        for schema in [&table, &result] {
            assert_eq!(metadata(schema, "l_extendedprice", "PRECISION").as_deref(), Some("15"));
            assert_eq!(metadata(schema, "l_extendedprice", "SCALE").as_deref(), Some("2"));
            assert_eq!(
                metadata(schema, "l_extendedprice", "TYPE_NAME").as_deref(),
                Some("DECIMAL")
            );
            assert_eq!(metadata(schema, "l_comment", "IS_CASE_SENSITIVE").as_deref(), Some("1"));
        }
        assert_eq!(metadata(&table, "l_comment", "TABLE_NAME").as_deref(), Some("lineitem"));
        assert_eq!(
            metadata(&table, "l_comment", "CATALOG_NAME").as_deref(),
            Some("datafusion")
        );
        assert_eq!(
            metadata(&result, "l_comment", "TABLE_NAME").as_deref(),
            Some("x"),
            "as the statement calls it"
        );
        assert_eq!(metadata(&result, "twice", "TABLE_NAME"), None);
        assert_eq!(metadata(&result, "twice", "TYPE_NAME").as_deref(), Some("DECIMAL"));
    });
}
