//! A client that writes, and checks that each row of a statement is there once, or none of them if it failed.

use std::path::PathBuf;
use std::time::Instant;

use rand::Rng;
use rand::rngs::StdRng;
use tempfile::TempDir;
use tokio::time::timeout;

use super::client::HANG;
use super::figures::Queries;
use crate::Result;
use crate::connection::{self, Connection};

/// The rows that a statement writes: one of so many parts of a table.
const PARTS: u64 = 8;
/// How many statements write into one table.
const STATEMENTS_PER_TABLE: u64 = 12;

/// The number of rows, and the sum of their keys up to multiples of 2^32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rows {
    count: u64,
    keys: u64,
}

const WIDTH: u64 = 1 << 32;

impl Rows {
    /// Reads what is in `from`.
    async fn read(connection: &mut Connection, from: &str) -> Result<Self> {
        let sql = format!(
            "SELECT CAST(count(*) * {WIDTH} + coalesce(sum(l_orderkey), 0) % {WIDTH} AS BIGINT) AS rows FROM {from}"
        );
        let both = connection::number(connection, &sql).await?;
        Ok(Self {
            count: both / WIDTH,
            keys: both % WIDTH,
        })
    }

    fn add(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            keys: (self.keys + other.keys) % WIDTH,
        }
    }
}

pub(super) struct Writer {
    url: String,
    connection: Connection,
    random: StdRng,
    folder: TempDir,
    /// The rows of each part.
    parts: Vec<Rows>,
    statements: u64,
    /// The table that takes rows, and what must be in it.
    table: String,
    written: Rows,
}

impl Writer {
    pub(super) async fn connect(url: &str, random: StdRng) -> Result<Self> {
        let mut connection = connection::connect(url).await?;
        let mut parts = Vec::new();
        for part in 0..PARTS {
            parts.push(Rows::read(&mut connection, &format!("({})", rows_of(part))).await?);
        }
        Ok(Self {
            url: url.to_owned(),
            connection,
            random,
            folder: TempDir::with_prefix("squadron-chaos-")?,
            parts,
            statements: 0,
            table: String::new(),
            written: Rows::default(),
        })
    }

    pub(super) async fn work_until(mut self, end: Instant) -> Queries {
        let mut queries = Queries::default();
        while Instant::now() < end {
            let part = self.random.random_range(0..PARTS);
            let does_insert = self.random.random_bool(0.5);
            let worked = async {
                match does_insert {
                    true => self.insert(part, &mut queries).await,
                    false => self.copy(part, &mut queries).await,
                }
            };
            match timeout(HANG, worked).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    queries.failed += 1;
                    eprintln!("a write or its check: {error}");
                }
                Err(_) => {
                    queries.hung += 1;
                    eprintln!("a write hangs");
                    if let Ok(connection) = connection::connect(&self.url).await {
                        self.connection = connection;
                    }
                }
            }
            self.statements += 1;
        }
        queries
    }

    async fn insert(&mut self, part: u64, queries: &mut Queries) -> Result<()> {
        if self.statements.is_multiple_of(STATEMENTS_PER_TABLE) || self.table.is_empty() {
            self.table = format!("written_{}", self.statements);
            self.written = Rows::default();
            let folder = self.new_folder()?;
            self.create_table(&self.table.clone(), &folder).await?;
        }
        queries.writes += 1;
        let sql = format!("INSERT INTO {} {}", self.table, rows_of(part));
        let outcome = connection::update(&mut self.connection, &sql).await;
        if outcome.is_ok() {
            self.written = self.written.add(self.parts[part as usize]);
        }
        let found = Rows::read(&mut self.connection, &self.table).await?;
        if found != self.written {
            queries.wrong += 1;
            eprintln!("{sql}: {found:?} instead of {:?} after {outcome:?}", self.written);
            self.written = found;
        }
        outcome
    }

    async fn copy(&mut self, part: u64, queries: &mut Queries) -> Result<()> {
        let folder = self.new_folder()?;
        queries.writes += 1;
        let sql = format!("COPY ({}) TO '{}/' STORED AS PARQUET", rows_of(part), folder.display());
        let outcome = connection::update(&mut self.connection, &sql).await;
        let table = format!("copied_{}", self.statements);
        self.create_table(&table, &folder).await?;
        let found = Rows::read(&mut self.connection, &table).await?;
        let expected = match &outcome {
            Ok(()) => self.parts[part as usize],
            Err(_) => Rows::default(),
        };
        if found != expected {
            queries.wrong += 1;
            eprintln!("{sql}: {found:?} instead of {expected:?} after {outcome:?}");
        }
        connection::update(&mut self.connection, &format!("DROP TABLE {table}")).await?;
        outcome
    }

    fn new_folder(&self) -> Result<PathBuf> {
        let folder = self.folder.path().join(self.statements.to_string());
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    async fn create_table(&mut self, name: &str, folder: &std::path::Path) -> Result<()> {
        let sql = format!(
            "CREATE EXTERNAL TABLE {name} (l_orderkey BIGINT, l_comment VARCHAR) STORED AS PARQUET LOCATION '{}/'",
            folder.display()
        );
        connection::update(&mut self.connection, &sql).await
    }
}

fn rows_of(part: u64) -> String {
    format!("SELECT l_orderkey, l_comment FROM lineitem WHERE l_orderkey % {PARTS} = {part}")
}
