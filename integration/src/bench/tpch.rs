//! `squadron-bench tpch`: are the 22 results exact, and how long do they take beside DataFusion alone?

use std::time::Instant;

use arrow::array::RecordBatch;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::connection::{self, Connection};
use super::machine::Machine;
use super::reference::{Expected, Reference};
use super::stats::median;
use super::system::{System, SystemArgs};
use super::{JsonArgs, Result, Verdict, tables};
use crate::compare::compare;
use crate::tpch;

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

/// What Squadron is timed beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Against {
    /// DataFusion in one process, with as many cores.
    Datafusion,
}

/// One timed run.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Timing {
    seconds: f64,
    /// Of all processes that took part; not known for a server that was not started here.
    cpu_seconds: Option<f64>,
}

impl Timing {
    pub(super) fn new(seconds: f64, cpu_before: Option<f64>, cpu_after: Option<f64>) -> Self {
        Self {
            seconds,
            cpu_seconds: cpu_after
                .zip(cpu_before)
                .map(|(after, before)| after - before),
        }
    }
}

/// All figures.
#[derive(Debug, Default, Serialize)]
pub(super) struct TpchFigures {
    queries: Vec<QueryFigures>,
    total_seconds: Option<f64>,
    total_cpu_seconds: Option<f64>,
    total_reference_seconds: Option<f64>,
    total_reference_cpu_seconds: Option<f64>,
    /// Sum of the medians, Squadron's over the reference's.
    total_ratio: Option<f64>,
    exact: bool,
}

/// The figures of one query.
#[derive(Debug, Serialize)]
pub(super) struct QueryFigures {
    query: u8,
    rows: usize,
    exact: bool,
    /// Why it is not exact: the difference, or the server's error.
    difference: Option<String>,
    seconds: Option<f64>,
    cpu_seconds: Option<f64>,
    reference_seconds: Option<f64>,
    reference_cpu_seconds: Option<f64>,
    ratio: Option<f64>,
    runs: Vec<Timing>,
    reference_runs: Vec<Timing>,
}

pub(super) async fn run(args: &TpchArgs) -> Result<Verdict> {
    let machine = Machine::here();
    let queries = match args.queries.is_empty() {
        true => (1..=tpch::QUERIES).collect(),
        false => args.queries.clone(),
    };
    let folder = tables::tpch(args.sf, args.system.cache_dir.as_deref()).await?;
    let reference = Reference::open(&folder, args.system.total_slots()).await?;
    let system = args
        .system
        .start(&["--tpch".to_owned(), args.sf.to_string()])
        .await?;
    let mut harness = Harness {
        args,
        connection: connection::connect(&system.url).await?,
        system,
        reference,
        progress: progress(queries.len(), args),
    };
    println!("{}", head());
    let mut figures = TpchFigures {
        exact: true,
        ..TpchFigures::default()
    };
    for query in queries {
        let measured = harness.measure(query).await?;
        harness.progress.suspend(|| println!("{}", line(&measured)));
        figures.add(measured);
    }
    harness.progress.finish_and_clear();
    figures.sum_up();
    println!("{}", total_line(&figures));
    let verdict = if figures.exact {
        Verdict::Good
    } else {
        Verdict::Bad
    };
    let mut options = args.clone();
    options.system = args.system.resolved();
    options.queries = figures.queries.iter().map(|query| query.query).collect();
    args.json.write("tpch", machine, options, figures)?;
    Ok(verdict)
}

fn progress(queries: usize, args: &TpchArgs) -> ProgressBar {
    let steps = queries * (1 + args.runs as usize * if args.against.is_some() { 2 } else { 1 });
    let bar = ProgressBar::new(steps as u64);
    if let Ok(style) =
        ProgressStyle::with_template("{elapsed_precise} {wide_bar} {pos}/{len} {msg}")
    {
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
    /// Checks and times one query. An error of the server is a result that is not exact; an error of the reference ends
    /// the measurement.
    async fn measure(&mut self, query: u8) -> Result<QueryFigures> {
        let sql = tpch::query(query, self.args.sf);
        self.step(query, "expected result");
        let expected = self.reference.expected(&sql).await?;
        let mut runs = Vec::new();
        let mut reference_runs = Vec::new();
        let mut difference = None;
        for _ in 0..self.args.runs {
            self.step(query, "squadron");
            match self.run_once(&sql, &expected).await {
                Ok((timing, found)) => {
                    runs.push(timing);
                    difference = difference.or(found);
                }
                Err(error) => {
                    difference = Some(error.to_string());
                    self.explain(query, &error.to_string());
                }
            }
            if self.args.against.is_some() {
                self.step(query, "datafusion");
                reference_runs.push(self.reference.time(&sql).await?);
            }
        }
        let rows = expected.rows.1.iter().map(RecordBatch::num_rows).sum();
        if let Some(difference) = &difference {
            self.progress
                .suspend(|| eprintln!("q{query:02} is not exact: {difference}"));
        }
        Ok(QueryFigures::new(
            query,
            rows,
            difference,
            runs,
            reference_runs,
        ))
    }

    /// One timed run and, outside the time, how its result differs from the expected one.
    async fn run_once(
        &mut self,
        sql: &str,
        expected: &Expected,
    ) -> Result<(Timing, Option<String>)> {
        let cpu_before = self.system.cpu_seconds();
        let began = Instant::now();
        let rows = connection::query(&mut self.connection, sql).await?;
        let timing = Timing::new(
            began.elapsed().as_secs_f64(),
            cpu_before,
            self.system.cpu_seconds(),
        );
        let difference = compare(&expected.rows, &rows, &expected.order).err();
        Ok((timing, difference.map(|difference| difference.to_string())))
    }

    fn step(&self, query: u8, what: &str) {
        self.progress.set_message(format!("q{query:02} {what}"));
        self.progress.inc(1);
    }

    fn explain(&self, query: u8, error: &str) {
        self.progress.suspend(|| {
            eprintln!(
                "q{query:02} failed: {error}\n{}",
                self.system.last_log_lines()
            )
        });
    }
}

impl QueryFigures {
    fn new(
        query: u8,
        rows: usize,
        difference: Option<String>,
        runs: Vec<Timing>,
        reference_runs: Vec<Timing>,
    ) -> Self {
        let seconds = median_seconds(&runs);
        let reference_seconds = median_seconds(&reference_runs);
        Self {
            query,
            rows,
            exact: difference.is_none(),
            difference,
            seconds,
            cpu_seconds: median_cpu_seconds(&runs),
            reference_seconds,
            reference_cpu_seconds: median_cpu_seconds(&reference_runs),
            ratio: seconds
                .zip(reference_seconds)
                .map(|(ours, theirs)| ours / theirs),
            runs,
            reference_runs,
        }
    }
}

impl TpchFigures {
    fn add(&mut self, query: QueryFigures) {
        self.exact &= query.exact;
        self.queries.push(query);
    }

    /// Totals are over the queries that ran; there is none where one of those has no figure, or none ran.
    fn sum_up(&mut self) {
        let ran: Vec<_> = self
            .queries
            .iter()
            .filter(|query| !query.runs.is_empty())
            .collect();
        let total = |figure: fn(&QueryFigures) -> Option<f64>| -> Option<f64> {
            let sum = ran.iter().map(|query| figure(query)).sum::<Option<f64>>();
            sum.filter(|_| !ran.is_empty())
        };
        let seconds = total(|query| query.seconds);
        let reference_seconds = total(|query| query.reference_seconds);
        self.total_cpu_seconds = total(|query| query.cpu_seconds);
        self.total_reference_cpu_seconds = total(|query| query.reference_cpu_seconds);
        self.total_ratio = seconds
            .zip(reference_seconds)
            .map(|(ours, theirs)| ours / theirs);
        self.total_seconds = seconds;
        self.total_reference_seconds = reference_seconds;
    }
}

fn median_seconds(runs: &[Timing]) -> Option<f64> {
    let seconds: Vec<_> = runs.iter().map(|run| run.seconds).collect();
    Some(median(&seconds)).filter(|seconds| seconds.is_finite())
}

fn median_cpu_seconds(runs: &[Timing]) -> Option<f64> {
    let seconds: Option<Vec<_>> = runs.iter().map(|run| run.cpu_seconds).collect();
    Some(median(&seconds?)).filter(|seconds| seconds.is_finite())
}

fn head() -> String {
    format!(
        "{:5} {:>9} {:>12} {:>12} {:>7} {:>10} {:>10}  exact",
        "query", "rows", "squadron s", "reference s", "ratio", "cpu s", "ref cpu s"
    )
}

fn line(query: &QueryFigures) -> String {
    format!(
        "q{:02}   {:>9} {:>12} {:>12} {:>7} {:>10} {:>10}  {}",
        query.query,
        query.rows,
        shown(query.seconds, 3),
        shown(query.reference_seconds, 3),
        shown(query.ratio, 2),
        shown(query.cpu_seconds, 2),
        shown(query.reference_cpu_seconds, 2),
        if query.exact { "yes" } else { "NO" },
    )
}

fn total_line(figures: &TpchFigures) -> String {
    format!(
        "total {:>9} {:>12} {:>12} {:>7} {:>10} {:>10}  {}",
        "",
        shown(figures.total_seconds, 3),
        shown(figures.total_reference_seconds, 3),
        shown(figures.total_ratio, 3),
        shown(figures.total_cpu_seconds, 2),
        shown(figures.total_reference_cpu_seconds, 2),
        if figures.exact { "yes" } else { "NO" },
    )
}

fn shown(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn timings(seconds: &[f64]) -> Vec<Timing> {
        seconds
            .iter()
            .map(|seconds| Timing::new(*seconds, Some(1.0), Some(1.0 + 2.0 * seconds)))
            .collect()
    }

    /// Figures with every key filled, also for the test of the documentation.
    pub(in super::super) fn sample() -> TpchFigures {
        let mut figures = TpchFigures {
            exact: true,
            ..TpchFigures::default()
        };
        figures.add(QueryFigures::new(
            1,
            4,
            None,
            timings(&[3.0, 1.0, 2.0]),
            timings(&[1.0, 1.0, 5.0]),
        ));
        figures.add(QueryFigures::new(
            2,
            9,
            None,
            timings(&[1.0]),
            timings(&[1.0]),
        ));
        figures.sum_up();
        figures
    }

    #[test]
    fn totals_are_sums_of_medians() {
        let figures = sample();
        assert_eq!(figures.queries[0].ratio, Some(2.0));
        assert_eq!(
            (figures.total_seconds, figures.total_reference_seconds),
            (Some(3.0), Some(2.0))
        );
        assert_eq!(figures.total_ratio, Some(1.5));
        assert_eq!(figures.total_cpu_seconds, Some(6.0));
        assert!(figures.exact);
    }

    #[test]
    fn a_failed_query_is_not_exact_and_not_in_the_totals() {
        let mut figures = sample();
        figures.add(QueryFigures::new(
            3,
            1,
            Some("no worker".into()),
            vec![],
            timings(&[9.0]),
        ));
        figures.sum_up();
        assert!(!figures.exact);
        assert_eq!(figures.total_ratio, Some(1.5));
    }

    #[test]
    fn without_a_reference_there_is_no_ratio() {
        let mut figures = TpchFigures::default();
        figures.add(QueryFigures::new(1, 4, None, timings(&[1.0]), vec![]));
        figures.sum_up();
        assert_eq!(
            (figures.queries[0].ratio, figures.total_ratio),
            (None, None)
        );
        assert!(line(&figures.queries[0]).ends_with("yes"));
    }

    #[test]
    fn when_nothing_ran_there_are_no_totals() {
        let mut figures = TpchFigures::default();
        figures.add(QueryFigures::new(
            1,
            4,
            Some("no worker".into()),
            vec![],
            vec![],
        ));
        figures.sum_up();
        assert_eq!((figures.total_seconds, figures.total_ratio), (None, None));
    }
}
