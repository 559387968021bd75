//! DuckDB, of PyPI, in a process of its own: an engine to compare with, and the writer of tables.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::tables::{NewFolder, Tables};
use crate::timing::Timing;
use crate::{Result, usage};

/// Where DuckDB is found.
#[derive(Args, Debug, Clone, Serialize)]
pub(super) struct PythonArgs {
    /// The Python that has DuckDB and PyArrow: `pip install duckdb pyarrow`.
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: PathBuf,
}

/// A running DuckDB with the tables as views; it ends when this is dropped.
pub(super) struct DuckDb {
    child: Child,
    requests: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    version: String,
}

/// What the process writes: its version first, then one answer to each request.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Version(String),
    Rows(usize),
    Error(String),
}

impl PythonArgs {
    /// Starts DuckDB with so many threads.
    ///
    /// # Errors
    /// When the Python has no DuckDB.
    pub(super) async fn start(&self, tables: &Tables, threads: usize) -> Result<DuckDb> {
        let files = serde_json::to_string(&parquet_files(tables))?;
        let mut child = self
            .command(include_str!("answer.py"))
            .args([&threads.to_string(), &files])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| self.explain(&error.to_string()))?;
        let (Some(requests), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the process of DuckDB has no pipes".into());
        };
        let mut duckdb = DuckDb {
            child,
            requests,
            answers: BufReader::new(stdout).lines(),
            version: String::new(),
        };
        match duckdb.next_answer().await {
            Ok(Answer::Version(version)) => duckdb.version = version,
            _ => return Err(self.explain("DuckDB did not start, the lines above say why")),
        }
        Ok(duckdb)
    }

    /// Makes sure that `folder` holds what one of the scripts writes into the folder that is its last argument.
    async fn ensure_written(&self, folder: &Path, script: &str, argument: &str) -> Result<()> {
        let Some(new) = NewFolder::unless_exists(folder)? else {
            return Ok(());
        };
        let mut command = self.command(script);
        command.arg(argument).arg(new.path());
        let status = command
            .status()
            .await
            .map_err(|error| self.explain(&error.to_string()))?;
        match status.success() {
            true => new.complete(),
            false => Err(self.explain("the tables were not written, the lines above say why")),
        }
    }

    /// Makes sure that TPC-DS is there: `TABLE.parquet` of each table, and `queries/qNN.sql`.
    pub(super) async fn ensure_tpcds(&self, scale: f64, folder: &Path) -> Result<()> {
        self.ensure_written(folder, include_str!("tpcds.py"), &scale.to_string())
            .await
    }

    /// Makes sure that `folder` holds the tables in files that DuckDB wrote.
    pub(super) async fn ensure_copied(&self, tables: &Tables, folder: &Path) -> Result<()> {
        let files = serde_json::to_string(&parquet_files(tables))?;
        self.ensure_written(folder, include_str!("copy.py"), &files).await
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.arg("-c").arg(script).kill_on_drop(true);
        command
    }

    fn explain(&self, problem: &str) -> crate::Error {
        let python = self.python.display();
        format!(
            "{python}: {problem}; `pip install duckdb pyarrow` (for TPC-DS duckdb-extension-tpcds too), or name \
             another Python with --python"
        )
        .into()
    }
}

impl DuckDb {
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Runs the query to its last row; gives its time and its number of rows.
    pub(super) async fn time(&mut self, sql: &str) -> Result<(Timing, usize)> {
        let pid = self.child.id().ok_or("DuckDB has ended")?;
        let mut request = serde_json::to_vec(&BTreeMap::from([("sql", sql)]))?;
        request.push(b'\n');
        let cpu_before = usage::cpu_seconds(pid);
        let began = Instant::now();
        self.requests.write_all(&request).await?;
        let answer = self.next_answer().await?;
        let timing = Timing::new(began.elapsed().as_secs_f64(), cpu_before, usage::cpu_seconds(pid));
        match answer {
            Answer::Rows(rows) => Ok((timing, rows)),
            Answer::Error(error) => Err(format!("DuckDB: {error}").into()),
            Answer::Version(_) => Err("DuckDB answered with its version twice".into()),
        }
    }

    async fn next_answer(&mut self) -> Result<Answer> {
        let line = self.answers.next_line().await?.ok_or("DuckDB has ended")?;
        Ok(serde_json::from_str(&line)?)
    }
}

/// Each table's files, as a pattern that DuckDB reads.
fn parquet_files(tables: &Tables) -> BTreeMap<&str, String> {
    let pattern = |table: &String| {
        let path = tables.path(table);
        let files = match path.extension() == Some(OsStr::new("parquet")) {
            true => path,
            false => path.join("*.parquet"),
        };
        files.display().to_string()
    };
    tables
        .names
        .iter()
        .map(|table| (table.as_str(), pattern(table)))
        .collect()
}
