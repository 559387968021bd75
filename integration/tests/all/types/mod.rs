//! Every Arrow type from a file to a client: unchanged, as the key of a shuffle, and in stock clients.

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

    /// The folder, for `--data`.
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

/// Compares two columns as arrays; unions, which have several physical forms, as text.
fn compare_columns(expected: &ArrayRef, actual: &ArrayRef) -> Result<(), String> {
    if matches!(expected.data_type(), DataType::Union(..)) {
        return match format_values(expected) == format_values(actual) {
            true => Ok(()),
            false => Err(format!(
                "expected {:?}, got {:?}",
                format_values(expected),
                format_values(actual)
            )),
        };
    }
    let wanted = cast(expected, actual.data_type()).map_err(|error| error.to_string())?;
    match wanted.to_data() == actual.to_data() {
        true => Ok(()),
        false => Err(format!("expected {wanted:?}\ngot {actual:?}")),
    }
}

fn format_values(array: &ArrayRef) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let formatter = ArrayFormatter::try_new(array, &options).unwrap();
    (0..array.len()).map(|row| formatter.value(row).to_string()).collect()
}

/// Runs `sql`; gives its rows in one batch, after checking that GetSchema has the schema of the stream.
async fn query_batch(client: &Client, sql: &str) -> Result<RecordBatch, String> {
    let (schema, batches) = client.query(sql).await.map_err(|status| status.to_string())?;
    let promised = client.schema(sql).await.map_err(|status| status.to_string())?;
    if promised != schema {
        return Err(format!("GetSchema answers {promised:?}\nthe stream has {schema:?}"));
    }
    concat_batches(&schema, &batches).map_err(|error| error.to_string())
}

#[test]
fn every_type_arrives_unchanged() {
    bounded(minutes(3), async {
        let table = TypesTable::write();
        let source = table::batch();
        let wanted = client_schema(&source.schema());
        let mut mismatches = Mismatches::default();
        for workers in [0, 2] {
            let cluster = start(&table, workers).await;
            let client = cluster.client().await;
            let all = query_batch(&client, "SELECT * FROM types ORDER BY id").await.unwrap();
            assert_eq!(all.num_rows(), table::ROWS);
            for (index, field) in wanted.fields().iter().enumerate() {
                let found = all.schema().field(index).data_type().clone();
                let outcome = match found == *field.data_type() {
                    true => compare_columns(source.column(index), all.column(index)),
                    false => Err(format!("{found} is not {}", field.data_type())),
                };
                mismatches.note(&format!("{} ({workers} workers)", field.name()), outcome);
            }
        }
        mismatches.assert_none();
    });
}

/// Sorted rows as text. Columns are cast to the types of `like`.
fn sorted_rows(of: &Rows, like: &RecordBatch) -> Result<Vec<Vec<String>>, String> {
    let batch = concat_batches(&of.0, &of.1).map_err(|error| error.to_string())?;
    let mut columns = Vec::new();
    for (column, wanted) in batch.columns().iter().zip(like.columns()) {
        let same_kind = matches!(column.data_type(), DataType::Union(..));
        let column = match same_kind || column.data_type() == wanted.data_type() {
            true => Arc::clone(column),
            false => cast(column, wanted.data_type()).map_err(|error| error.to_string())?,
        };
        columns.push(format_values(&column));
    }
    let row = |row: usize| columns.iter().map(|column| column[row].clone()).collect::<Vec<_>>();
    let mut rows: Vec<_> = (0..batch.num_rows()).map(row).collect();
    rows.sort();
    Ok(rows)
}

/// Compares `sql` with the reference: both give the same rows, or both fail.
async fn compare_with_reference(client: &Client, reference: &Reference, sql: &str) -> Result<(), String> {
    let expected = reference.run(sql).await;
    let actual = client.query(sql).await;
    match (expected, actual) {
        (Ok(expected), Ok((schema, batches))) => {
            let like = concat_batches(&schema, &batches).map_err(|error| error.to_string())?;
            let (wanted, found) = (
                sorted_rows(&expected.rows, &like)?,
                sorted_rows(&(schema, batches), &like)?,
            );
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
fn every_type_works_as_shuffle_key() {
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
        // Unions have no order and no hash; the kernels would panic.
        let columns = table::columns().into_iter();
        for (name, _) in columns.filter(|(name, _)| !name.starts_with("union")) {
            for sql in [
                format!(
                    "SELECT \"{name}\", count(*), min(id), max(id) FROM types GROUP BY \"{name}\" ORDER BY \"{name}\""
                ),
                format!("SELECT a.id, b.id, b.\"{name}\" FROM types a JOIN types b ON a.\"{name}\" = b.\"{name}\""),
            ] {
                let outcome = compare_with_reference(&client, &reference, &sql).await;
                mismatches.note(&sql, outcome);
            }
        }
        mismatches.assert_none();
    });
}
