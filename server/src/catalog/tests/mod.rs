//! The catalog, as sessions use it.

mod files;
mod omissions;
mod statements;

use std::fs::{self, File};
use std::path::Path;

use datafusion::arrow::array::{Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::ipc::writer::FileWriter;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::logical_expr::LogicalPlan;
use datafusion::parquet::arrow::ArrowWriter;

use super::*;

fn rows() -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::Utf8, true),
    ]);
    RecordBatch::try_new(
        Arc::new(schema),
        vec![
            Arc::new(Int64Array::from(vec![1, 2, 3])),
            Arc::new(StringArray::from(vec!["x", "y", "z"])),
        ],
    )
    .unwrap()
}

fn write_parquet(path: &Path, batch: &RecordBatch) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

fn write_text(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

async fn open(folder: &Path) -> Catalog {
    try_open(folder, false).await.unwrap()
}

async fn try_open(folder: &Path, strict: bool) -> Result<Catalog, Failure> {
    let options = CatalogOptions {
        data: vec![DataSource::Path(folder.to_path_buf())],
        strict,
        ..CatalogOptions::default()
    };
    Catalog::open(&options, Arc::new(RuntimeEnv::default())).await
}

async fn query(catalog: &Catalog, sql: &str) -> Result<String, String> {
    let context = catalog.session_context();
    let failure = |error: DataFusionError| squadron_shuffle::failure::of(&error).message;
    let plan = context.state().create_logical_plan(sql).await.map_err(failure)?;
    if let LogicalPlan::Ddl(statement) = plan {
        catalog.execute_ddl(&context, statement).await.map_err(failure)?;
        return Ok(String::new());
    }
    let frame = context.execute_logical_plan(plan).await.map_err(failure)?;
    let batches = frame.collect().await.map_err(failure)?;
    Ok(pretty_format_batches(&batches).unwrap().to_string())
}

/// The only cell of the only row.
async fn cell(catalog: &Catalog, sql: &str) -> String {
    let table = query(catalog, sql).await.unwrap();
    let line = table
        .lines()
        .nth(3)
        .unwrap_or_else(|| panic!("{sql} has no row:\n{table}"));
    line.trim_matches('|').trim().to_string()
}

async fn tables(catalog: &Catalog) -> Vec<String> {
    let mut names = datafusion::catalog::SchemaProvider::table_names(catalog.0.schema.as_ref());
    names.sort();
    names
}
