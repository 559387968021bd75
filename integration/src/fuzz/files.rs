//! Files of tables: damaged footers, headers, pages and rows.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::dataframe::DataFrameWriteOptions;
use datafusion::prelude::SessionContext;
use tonic::Status;

use super::server::Server;
use super::{choose, judge_status};
use crate::client::Client;

const FORMATS: [&str; 5] = ["PARQUET", "CSV", "JSON", "AVRO", "ARROW"];

/// The first byte chooses the format, the rest is the file.
pub(super) fn judge(bytes: &[u8]) -> Result<(), String> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let Some((format, content)) = choose(bytes, &FORMATS) else {
        return Ok(());
    };
    let format = FORMATS[format];
    // Files are cached by their names.
    let table = format!("file_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let server = Server::get();
    let name = format!("{table}.{}", format.to_lowercase());
    let path = server.folder().join(&name);
    fs::write(&path, content).map_err(|error| error.to_string())?;
    let client = server.client();
    let location = path.display().to_string();
    // Tasks are also sent to what the control messages of another target claim to be a worker.
    let impostor = server.worker_address.url().to_owned();
    let ended = server.run(async move {
        let outcome = read(&client, &table, format, &location).await;
        drop(client.update(&format!("DROP TABLE IF EXISTS {table}")).await);
        if let Err(status) = &outcome
            && !status.message().contains(&name)
            && !status.message().contains(&table)
            && !status.message().contains(&impostor)
        {
            return Err(format!("the file is not named: {status}"));
        }
        judge_status("the file", outcome)
    });
    fs::remove_file(&path).map_err(|error| error.to_string())?;
    ended
}

async fn read(client: &Client, table: &str, format: &str, location: &str) -> Result<(), Status> {
    let create = format!("CREATE EXTERNAL TABLE {table} STORED AS {format} LOCATION '{location}'");
    client.update(&create).await?;
    client.query(&format!("SELECT * FROM {table}")).await?;
    client.query(&format!("SELECT count(*) FROM {table}")).await?;
    Ok(())
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let server = Server::get();
    let folder = server.folder().join("seeds");
    fs::create_dir_all(&folder).expect("a folder of seeds");
    let path = |format: &str| folder.join(format).display().to_string();
    server.runtime().block_on(async {
        let context = SessionContext::new();
        let rows = context.sql(ROWS).await.expect("the statement is right");
        let one_file = || DataFrameWriteOptions::new().with_single_file_output(true);
        let parquet = rows.clone().write_parquet(&path("0.parquet"), one_file(), None).await;
        parquet.expect("it can be written");
        let csv = rows.clone().write_csv(&path("1.csv"), one_file(), None).await;
        csv.expect("it can be written");
        let json = rows.write_json(&path("2.json"), one_file(), None).await;
        json.expect("it can be written");
    });
    let written = ["0.parquet", "1.csv", "2.json"];
    let written = (0_u8..).zip(written).map(|(format, name)| {
        let content = fs::read(path(name)).expect("it was written");
        [vec![format], content].concat()
    });
    let written: Vec<_> = written.collect();
    let others = [(3, avro()), (4, arrow())].map(|(format, content)| [vec![format], content].concat());
    written.into_iter().chain(others).collect()
}

/// Rows of the usual types, with NULLs.
const ROWS: &str = "SELECT column1 AS n, column2 AS s, column3::double AS x, column4 = 'a' AS b, \
    column4::varchar AS t FROM (VALUES (1, 'one', 0.5, 'a'), (2, NULL, NULL, 'b'), (NULL, 'three', -1, NULL))";

/// An Avro file of one row: a header with its schema, and one block.
fn avro() -> Vec<u8> {
    const SYNC: [u8; 16] = *b"0123456789abcdef";
    let schema = br#"{"type":"record","name":"r","fields":[{"name":"n","type":"long"},{"name":"s","type":"string"}]}"#;
    let mut bytes = b"Obj\x01\x02\x16avro.schema".to_vec();
    // Lengths are zigzag numbers of seven bits a byte.
    let length = schema.len() * 2;
    bytes.extend([(length & 0x7F) as u8 | 0x80, (length >> 7) as u8]);
    bytes.extend(schema);
    bytes.push(0);
    bytes.extend(SYNC);
    // One row of five bytes: 7, "one".
    bytes.extend([2, 10, 14, 6]);
    bytes.extend(b"one");
    bytes.extend(SYNC);
    bytes
}

fn arrow() -> Vec<u8> {
    let batch = super::frames::batch();
    let mut bytes = Vec::new();
    let writer = arrow::ipc::writer::FileWriter::try_new(&mut bytes, &batch.schema());
    let mut writer = writer.expect("a schema can be written");
    writer.write(&batch).expect("a batch can be written");
    writer.finish().expect("a footer can be written");
    drop(writer);
    bytes
}
