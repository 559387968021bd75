//! `squadron-bench tpch`: checks that the 22 results are exact, and times each query beside single-process DataFusion.

pub(super) mod figures;

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, Schema};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use squadron_integration::client::Rows;
use squadron_integration::compare::compare;
use squadron_integration::tpch;

use self::figures::{Held, QueryFigures, Timing, TpchFigures};
use crate::connection::{self, Connection};
use crate::machine::Machine;
use crate::reference::{Expected, Reference};
use crate::system::{System, SystemArgs};
use crate::{JsonArgs, Result, Verdict, tables};

/// `squadron-bench tpch`.
#[derive(Args, Debug, Clone, Serialize)]
pub(super) struct TpchArgs {
    /// Scale of the tables: 1 is 1 GB of raw data.
    #[arg(long, value_name = "SCALE", default_value_t = 1.0)]
    sf: f64,
    #[command(flatten)]
    #[serde(flatten)]
    system: SystemArgs,
    /// Time this beside Squadron.
    #[arg(long, value_name = "ENGINE")]
    against: Option<Against>,
    /// How often each query is timed.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Only these queries [default: all 22].
    #[arg(long, value_name = "1,3,..", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=22))]
    queries: Vec<u8>,
    #[command(flatten)]
    #[serde(skip)]
    json: JsonArgs,
}

/// The engine that Squadron is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Against {
    /// DataFusion in one process, with as many cores.
    Datafusion,
}

pub(super) async fn run(args: &TpchArgs) -> Result<Verdict> {
    let machine = Machine::detect();
    let queries = match args.queries.is_empty() {
        true => (1..=tpch::QUERIES).collect(),
        false => args.queries.clone(),
    };
    let folder = tables::ensure_tpch(args.sf, args.system.cache_dir.as_deref()).await?;
    let reference = Reference::open(&folder, args.system.total_slots()).await?;
    let system = args.system.start(&["--tpch".to_owned(), args.sf.to_string()]).await?;
    let mut harness = Harness {
        args,
        connection: connection::connect(&system.url).await?,
        system,
        reference,
        progress: progress(queries.len(), args),
    };
    println!("{}", figures::head());
    let mut measured = Vec::new();
    for query in &queries {
        let one = harness.measure(*query).await?;
        harness.progress.suspend(|| println!("{}", figures::row(&one)));
        measured.push(one);
    }
    harness.progress.finish_and_clear();
    let figures = TpchFigures::of(measured);
    println!("{}", figures::total_row(&figures));
    let verdict = if figures.is_exact() {
        Verdict::Good
    } else {
        Verdict::Bad
    };
    let system = args.system.with_defaults();
    let options = TpchArgs {
        system,
        queries,
        ..args.clone()
    };
    args.json.write("tpch", machine, options, figures)?;
    Ok(verdict)
}

fn progress(queries: usize, args: &TpchArgs) -> ProgressBar {
    let steps = queries * (1 + args.runs as usize * if args.against.is_some() { 2 } else { 1 });
    let bar = ProgressBar::new(steps as u64);
    if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} {wide_bar} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar
}

struct Harness<'a> {
    args: &'a TpchArgs,
    connection: Connection,
    system: System,
    reference: Reference,
    progress: ProgressBar,
}

impl Harness<'_> {
    /// Checks and times one query. An error of the server makes the result inexact; an error of the reference ends the
    /// measurement.
    async fn measure(&mut self, query: u8) -> Result<QueryFigures> {
        let sql = tpch::query(query, self.args.sf);
        self.step(query, "expected result");
        let expected = self.reference.expected(&sql).await?;
        let mut runs = Vec::new();
        let mut reference_runs = Vec::new();
        let mut difference = None;
        self.system.reset_peak_memory();
        for _ in 0..self.args.runs {
            self.step(query, "squadron");
            match self.run_once(&sql, &expected).await {
                Ok((timing, found)) => {
                    runs.push(timing);
                    difference = difference.or(found);
                }
                Err(error) => {
                    difference = Some(error.to_string());
                    self.print_failure(query, &error.to_string());
                }
            }
            if self.args.against.is_some() {
                self.step(query, "datafusion");
                reference_runs.push(self.reference.time(&sql).await?);
            }
        }
        let held = Held {
            peak_memory_bytes: self.system.peak_memory_bytes(),
            spilled_bytes: self.spilled_bytes().await,
        };
        let rows = expected.rows.1.iter().map(RecordBatch::num_rows).sum();
        if let Some(difference) = &difference {
            self.progress
                .suspend(|| eprintln!("q{query:02} is not exact: {difference}"));
        }
        Ok(QueryFigures::new(query, rows, difference, runs, reference_runs, held))
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
