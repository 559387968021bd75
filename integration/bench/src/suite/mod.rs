//! Measures a list of queries: each result is checked, and each time stands beside those of other engines.

pub(crate) mod figures;
mod reference;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, Schema};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use squadron_integration::client::Rows;
use squadron_integration::compare::compare;

use self::figures::{Held, QueryFigures, Runs, SuiteFigures};
use self::reference::{Expected, Reference};
use crate::connection::{self, Connection};
use crate::duckdb::{DuckDb, PythonArgs};
use crate::machine::Machine;
use crate::system::{System, SystemArgs};
use crate::tables::Tables;
use crate::timing::Timing;
use crate::{JsonArgs, Result, Verdict};

/// What the commands that measure a list of queries have in common.
#[derive(Args, Debug, Clone, Serialize)]
pub(super) struct SuiteArgs {
    #[command(flatten)]
    #[serde(flatten)]
    system: SystemArgs,
    /// Time this beside Squadron.
    #[arg(long, value_name = "ENGINE")]
    against: Option<Against>,
    #[command(flatten)]
    #[serde(flatten)]
    python: PythonArgs,
    /// How often each query is timed.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// A session option for Squadron's queries, as in SET; may be given several times.
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
}

/// The engines that Squadron is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Against {
    /// DataFusion in one process, with as many cores.
    Datafusion,
    /// DuckDB in one process, with as many cores.
    Duckdb,
    /// Each of them in turns.
    Both,
}

/// Queries over tables.
pub(super) struct Suite {
    /// The command.
    pub(super) name: &'static str,
    pub(super) tables: Tables,
    /// Arguments of `squadron serve` for these tables.
    pub(super) arguments: Vec<String>,
    /// The number and the text of each query.
    pub(super) queries: Vec<(u8, String)>,
}

impl SuiteArgs {
    pub(super) fn cache_dir(&self) -> Option<&Path> {
        self.system.cache_dir.as_deref()
    }

    pub(super) fn python(&self) -> &PythonArgs {
        &self.python
    }

    /// These arguments with every default filled in, for the report.
    pub(super) fn with_defaults(&self) -> Self {
        Self {
            system: self.system.with_defaults(),
            ..self.clone()
        }
    }

    fn times_datafusion(&self) -> bool {
        matches!(self.against, Some(Against::Datafusion | Against::Both))
    }

    fn times_duckdb(&self) -> bool {
        matches!(self.against, Some(Against::Duckdb | Against::Both))
    }
}

/// The numbers that were asked for, or all.
pub(super) fn chosen(asked: &[u8], all: u8) -> Vec<u8> {
    match asked.is_empty() {
        true => (1..=all).collect(),
        false => asked.to_vec(),
    }
}

/// Measures all queries, prints a line for each, and writes the report with the given options.
pub(super) async fn run(suite: &Suite, args: &SuiteArgs, json: &JsonArgs, options: impl Serialize) -> Result<Verdict> {
    let machine = Machine::detect();
    let threads = args.system.total_slots();
    let duckdb = match args.times_duckdb() {
        true => Some(args.python.start(&suite.tables, threads).await?),
        false => None,
    };
    let reference = Reference::open(&suite.tables, threads).await?;
    let system = args.system.start(&suite.arguments).await?;
    let mut harness = Harness {
        args,
        connection: connection::connect_with(&system.url, &args.set).await?,
        system,
        reference,
        duckdb,
        progress: progress(suite.queries.len(), args),
    };
    println!("{}", figures::head());
    let mut measured = Vec::new();
    for (query, sql) in &suite.queries {
        let one = harness.measure(*query, sql).await?;
        harness.progress.suspend(|| println!("{}", figures::row(&one)));
        measured.push(one);
    }
    harness.progress.finish_and_clear();
    let duckdb_version = harness.duckdb.as_ref().map(|duckdb| duckdb.version().to_owned());
    let figures = SuiteFigures::of(measured, duckdb_version);
    println!("{}", figures::total_row(&figures));
    let verdict = if figures.is_exact() {
        Verdict::Good
    } else {
        Verdict::Bad
    };
    json.write(suite.name, machine, options, figures)?;
    Ok(verdict)
}

fn progress(queries: usize, args: &SuiteArgs) -> ProgressBar {
    let engines = 1 + usize::from(args.times_datafusion()) + usize::from(args.times_duckdb());
    let steps = queries * (1 + args.runs as usize * engines);
    let bar = ProgressBar::new(steps as u64);
    if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} {wide_bar} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar
}

struct Harness<'a> {
    args: &'a SuiteArgs,
    connection: Connection,
    system: System,
    reference: Reference,
    duckdb: Option<DuckDb>,
    progress: ProgressBar,
}

impl Harness<'_> {
    /// Checks and times one query. An error of the server makes the result inexact; so do other numbers of rows than
    /// DuckDB's. An error of another engine ends its figures for this query.
    async fn measure(&mut self, query: u8, sql: &str) -> Result<QueryFigures> {
        self.step(query, "expected result");
        let expected = self.reference.expected(sql).await?;
        let rows = expected.rows.1.iter().map(RecordBatch::num_rows).sum();
        let mut runs = Runs::default();
        let mut difference = None;
        self.system.reset_peak_memory();
        for _ in 0..self.args.runs {
            self.step(query, "squadron");
            match self.run_once(sql, &expected).await {
                Ok((timing, found)) => {
                    runs.squadron.push(timing);
                    difference = difference.or(found);
                }
                Err(error) => {
                    difference = Some(error.to_string());
                    self.print_failure(query, &error.to_string());
                }
            }
            if self.args.times_datafusion() {
                self.step(query, "datafusion");
                runs.datafusion.push(self.reference.time(sql).await?);
            }
            difference = difference.or(self.time_duckdb(query, sql, rows, &mut runs).await);
        }
        let held = Held {
            peak_memory_bytes: self.system.peak_memory_bytes(),
            spilled_bytes: self.spilled_bytes().await,
        };
        if let Some(difference) = &difference {
            self.progress
                .suspend(|| eprintln!("q{query:02} is not exact: {difference}"));
        }
        Ok(QueryFigures::new(query, rows, difference, runs, held))
    }

    /// Times DuckDB once, if it is measured; gives the difference between its number of rows and the expected one.
    async fn time_duckdb(&mut self, query: u8, sql: &str, rows: usize, runs: &mut Runs) -> Option<String> {
        self.duckdb.as_ref()?;
        self.step(query, "duckdb");
        match self.duckdb.as_mut()?.time(sql).await {
            Ok((timing, found)) => {
                runs.duckdb.push(timing);
                (found != rows).then(|| format!("DuckDB gives {found} rows, DataFusion {rows}"))
            }
            Err(error) => {
                self.progress.suspend(|| eprintln!("q{query:02}: {error}"));
                None
            }
        }
    }

    /// Times one run and, after the time was taken, compares its result with the expected one.
    async fn run_once(&mut self, sql: &str, expected: &Expected) -> Result<(Timing, Option<String>)> {
        let cpu_before = self.system.cpu_seconds();
        let began = Instant::now();
        let rows = connection::query(&mut self.connection, sql).await?;
        let timing = Timing::new(began.elapsed().as_secs_f64(), cpu_before, self.system.cpu_seconds());
        let expected_rows = named_like(&expected.rows, &rows.0)?;
        let difference = compare(&expected_rows, &rows, &expected.order).err();
        Ok((timing, difference.map(|difference| difference.to_string())))
    }

    /// What the last runs wrote to disk at most; not known for a server that does not say it.
    async fn spilled_bytes(&mut self) -> Option<u64> {
        let sql = format!(
            "SELECT CAST(max(spilled_bytes) AS BIGINT) FROM (SELECT spilled_bytes FROM system.queries WHERE ended_at IS NOT NULL \
             ORDER BY ended_at DESC LIMIT {})",
            self.args.runs
        );
        let (_, batches) = connection::query(&mut self.connection, &sql).await.ok()?;
        let column = batches.first()?.column(0).as_primitive_opt::<Int64Type>()?.clone();
        (column.len() == 1 && column.is_valid(0)).then(|| column.value(0).unsigned_abs())
    }

    fn step(&self, query: u8, what: &str) {
        self.progress.set_message(format!("q{query:02} {what}"));
        self.progress.inc(1);
    }

    fn print_failure(&self, query: u8, error: &str) {
        self.progress
            .suspend(|| eprintln!("q{query:02} failed: {error}\n{}", self.system.last_log_lines()));
    }
}

/// The rows under the names of `like`: DataFusion names columns without an alias by itself, Squadron as they are written.
fn named_like(rows: &Rows, like: &Schema) -> Result<Rows> {
    let renamed = |schema: &Schema| {
        let names = like.fields().iter().map(|field| field.name().clone());
        let fields = schema.fields().iter().zip(names);
        let fields: Vec<_> = fields
            .map(|(field, name)| field.as_ref().clone().with_name(name))
            .collect();
        Arc::new(Schema::new(fields))
    };
    if rows.0.fields().len() != like.fields().len() {
        return Ok(rows.clone());
    }
    let batches = rows
        .1
        .iter()
        .map(|batch| RecordBatch::try_new(renamed(&batch.schema()), batch.columns().to_vec()));
    Ok((renamed(&rows.0), batches.collect::<std::result::Result<_, _>>()?))
}
