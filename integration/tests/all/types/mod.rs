//! Every Arrow type from a file to a client and back: as it is, through a shuffle by its value, and in stock clients.

mod table;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use squadron_integration::client::{Client, Rows};
use squadron_integration::cluster::{Cluster, cluster};
use squadron_integration::compare::client_schema;
use tempfile::TempDir;

use crate::support::{Mismatches, Reference, bounded, minutes};

/// The table in a folder of its own, for `--data`.
pub(crate) struct TypesTable {
    folder: TempDir,
}

impl TypesTable {
    pub(crate) fn write() -> Self {
        let folder = TempDir::with_prefix("squadron-types-").unwrap();
        table::write(&folder.path().join("types.arrow"));
        Self { folder }
    }

    /// For `--data`.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("types.arrow")
    }
}

async fn start(table: &TypesTable, workers: usize) -> Cluster {
    let cluster = cluster().workers(workers).slots(2).data(table.folder());
    cluster.tiny_splits().start().await
}

/// Values are compared as the arrays that they are, and, where an array has several forms, as what it shows.
fn same(expected: &ArrayRef, actual: &ArrayRef) -> Result<(), String> {
    if matches!(expected.data_type(), DataType::Union(..)) {
        return match shown(expected) == shown(actual) {
            true => Ok(()),
            false => Err(format!("expected {:?}, got {:?}", shown(expected), shown(actual))),
        };
    }
    let wanted = cast(expected, actual.data_type()).map_err(|error| error.to_string())?;
    match wanted.to_data() == actual.to_data() {
        true => Ok(()),
        false => Err(format!("expected {wanted:?}\ngot {actual:?}")),
    }
}

fn shown(array: &ArrayRef) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let formatter = ArrayFormatter::try_new(array, &options).unwrap();
    (0..array.len()).map(|row| formatter.value(row).to_string()).collect()
}

async fn together(client: &Client, sql: &str) -> Result<RecordBatch, String> {
    let (schema, batches) = client.query(sql).await.map_err(|status| status.to_string())?;
    let told = client.schema(sql).await.map_err(|status| status.to_string())?;
    if told != schema {
        return Err(format!("GetSchema tells {told:?}\nthe stream {schema:?}"));
    }
    concat_batches(&schema, &batches).map_err(|error| error.to_string())
}

#[test]
fn every_type_arrives_as_it_is() {
    bounded(minutes(3), async {
        let table = TypesTable::write();
        let source = table::batch();
        let wanted = client_schema(&source.schema());
        let mut mismatches = Mismatches::default();
        for workers in [0, 2] {
            let cluster = start(&table, workers).await;
            let client = cluster.client().await;
            let all = together(&client, "SELECT * FROM types ORDER BY id").await.unwrap();
            assert_eq!(all.num_rows(), table::ROWS);
            for (index, field) in wanted.fields().iter().enumerate() {
                let found = all.schema().field(index).data_type().clone();
                let outcome = match found == *field.data_type() {
                    true => same(source.column(index), all.column(index)),
                    false => Err(format!("{found} is not {}", field.data_type())),
                };
                mismatches.note(&format!("{} ({workers} workers)", field.name()), outcome);
            }
        }
        mismatches.assert_none();
    });
}

/// Rows as text, in any order. Where the reference has another type for the same, it is cast.
fn rows(of: &Rows, like: &RecordBatch) -> Result<Vec<Vec<String>>, String> {
    let batch = concat_batches(&of.0, &of.1).map_err(|error| error.to_string())?;
    let mut columns = Vec::new();
    for (column, wanted) in batch.columns().iter().zip(like.columns()) {
        let same_kind = matches!(column.data_type(), DataType::Union(..));
        let column = match same_kind || column.data_type() == wanted.data_type() {
            true => Arc::clone(column),
            false => cast(column, wanted.data_type()).map_err(|error| error.to_string())?,
        };
        columns.push(shown(&column));
    }
    let row = |row: usize| columns.iter().map(|column| column[row].clone()).collect::<Vec<_>>();
    let mut rows: Vec<_> = (0..batch.num_rows()).map(row).collect();
    rows.sort();
    Ok(rows)
}

/// What the reference gives is given; what it refuses is refused, not lost.
async fn as_the_reference(client: &Client, reference: &Reference, sql: &str) -> Result<(), String> {
    let expected = reference.run(sql).await;
    let actual = client.query(sql).await;
    match (expected, actual) {
        (Ok(expected), Ok((schema, batches))) => {
            let like = concat_batches(&schema, &batches).map_err(|error| error.to_string())?;
            let (wanted, found) = (rows(&expected.rows, &like)?, rows(&(schema, batches), &like)?);
            match wanted == found {
                true => Ok(()),
                false => Err(format!("expected {wanted:?}\ngot {found:?}")),
            }
        }
        (Err(_), Err(_)) => Ok(()),
        (Ok(_), Err(status)) => Err(format!("refused: {status}")),
        (Err(error), Ok(_)) => Err(format!("the reference fails: {error}")),
    }
}

#[test]
fn every_type_is_a_key_of_shuffles() {
    bounded(minutes(4), async {
        let table = TypesTable::write();
        let cluster = start(&table, 2).await;
        let client = cluster.client().await;
        let reference = Reference::new();
        let file = table.file().display().to_string();
        reference
            .define(&format!(
                "CREATE EXTERNAL TABLE types STORED AS ARROW LOCATION '{file}'"
            ))
            .await;
        let mut mismatches = Mismatches::default();
        // Rows of unions have no order and no hash; the kernels that would be asked panic.
        let columns = table::columns().into_iter();
        for (name, _) in columns.filter(|(name, _)| !name.starts_with("union")) {
            for sql in [
                format!(
                    "SELECT \"{name}\", count(*), min(id), max(id) FROM types GROUP BY \"{name}\" ORDER BY \"{name}\""
                ),
                format!("SELECT a.id, b.id, b.\"{name}\" FROM types a JOIN types b ON a.\"{name}\" = b.\"{name}\""),
            ] {
                let outcome = as_the_reference(&client, &reference, &sql).await;
                mismatches.note(&sql, outcome);
            }
        }
        mismatches.assert_none();
    });
}
