//! The figures of a list of queries: medians, ratios and totals, and the table on the terminal.

use serde::Serialize;

use crate::stats::median;
use crate::timing::Timing;

/// What the runs of one query took of memory and disk.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Held {
    /// Peak resident memory of the process that held most; not known for a server that was not started here.
    pub(crate) peak_memory_bytes: Option<u64>,
    /// Bytes that overflowed to disk, of the run that wrote most.
    pub(crate) spilled_bytes: Option<u64>,
}

/// The runs of one query, by engine; none of an engine that was not measured.
#[derive(Debug, Default)]
pub(super) struct Runs {
    pub(super) squadron: Vec<Timing>,
    pub(super) datafusion: Vec<Timing>,
    pub(super) duckdb: Vec<Timing>,
}

/// All figures.
#[derive(Debug, Serialize)]
pub(crate) struct SuiteFigures {
    queries: Vec<QueryFigures>,
    total: Total,
    /// Totals of the other engines.
    total_datafusion: Option<Beside<Total>>,
    total_duckdb: Option<Beside<Total>>,
    duckdb_version: Option<String>,
    exact: bool,
}

/// The figures of one query.
#[derive(Debug, Serialize)]
pub(crate) struct QueryFigures {
    query: u8,
    rows: usize,
    exact: bool,
    /// The difference of an inexact result, or the server's error.
    difference: Option<String>,
    #[serde(flatten)]
    held: Held,
    squadron: Option<Median>,
    datafusion: Option<Beside<Median>>,
    duckdb: Option<Beside<Median>>,
}

/// The medians of one engine's runs of one query.
#[derive(Debug, Clone, Serialize)]
struct Median {
    seconds: f64,
    cpu_seconds: Option<f64>,
    runs: Vec<Timing>,
}

/// Sums of one engine's medians.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
struct Total {
    seconds: f64,
    cpu_seconds: Option<f64>,
    /// How many queries have figures.
    measured: usize,
}

/// The figures of another engine, and what Squadron took in relation to them.
#[derive(Debug, Clone, Serialize)]
struct Beside<Figures> {
    #[serde(flatten)]
    figures: Figures,
    /// Squadron's seconds divided by this engine's.
    ratio: f64,
}

impl Median {
    /// None without runs.
    fn of(runs: Vec<Timing>) -> Option<Self> {
        let seconds: Vec<_> = runs.iter().map(|run| run.seconds).collect();
        let cpu_seconds: Option<Vec<_>> = runs.iter().map(|run| run.cpu_seconds).collect();
        (!runs.is_empty()).then(|| Self {
            seconds: median(&seconds),
            cpu_seconds: cpu_seconds.map(|seconds| median(&seconds)),
            runs,
        })
    }

    fn beside(self, squadron: Option<&Self>) -> Option<Beside<Self>> {
        let ratio = squadron?.seconds / self.seconds;
        Some(Beside { figures: self, ratio })
    }
}

impl QueryFigures {
    pub(super) fn new(query: u8, rows: usize, difference: Option<String>, runs: Runs, held: Held) -> Self {
        let squadron = Median::of(runs.squadron);
        let beside = |runs| Median::of(runs).and_then(|median| median.beside(squadron.as_ref()));
        Self {
            query,
            rows,
            exact: difference.is_none(),
            difference,
            held,
            datafusion: beside(runs.datafusion),
            duckdb: beside(runs.duckdb),
            squadron,
        }
    }
}

impl Total {
    fn of<'a>(medians: impl Iterator<Item = &'a Median>) -> Self {
        let none = Self {
            cpu_seconds: Some(0.0),
            ..Self::default()
        };
        medians.fold(none, |sum, median| Self {
            seconds: sum.seconds + median.seconds,
            cpu_seconds: sum.cpu_seconds.zip(median.cpu_seconds).map(|(sum, one)| sum + one),
            measured: sum.measured + 1,
        })
    }

    /// An engine's total over the queries that both ran, and Squadron's over the same ones in relation to it.
    fn beside(queries: &[QueryFigures], engine: fn(&QueryFigures) -> Option<&Beside<Median>>) -> Option<Beside<Self>> {
        let both = || queries.iter().filter(|query| engine(query).is_some());
        let theirs = Self::of(both().filter_map(engine).map(|beside| &beside.figures));
        let ours = Self::of(both().filter_map(|query| query.squadron.as_ref()));
        (theirs.measured > 0).then(|| Beside {
            figures: theirs,
            ratio: ours.seconds / theirs.seconds,
        })
    }
}

impl SuiteFigures {
    /// Totals are sums over the queries that ran.
    pub(super) fn of(queries: Vec<QueryFigures>, duckdb_version: Option<String>) -> Self {
        Self {
            exact: queries.iter().all(|query| query.exact),
            total: Total::of(queries.iter().filter_map(|query| query.squadron.as_ref())),
            total_datafusion: Total::beside(&queries, |query| query.datafusion.as_ref()),
            total_duckdb: Total::beside(&queries, |query| query.duckdb.as_ref()),
            duckdb_version,
            queries,
        }
    }

    /// Whether every result was the expected one.
    pub(super) fn is_exact(&self) -> bool {
        self.exact
    }
}

/// The columns of another engine, whose seconds and processor seconds `of` gives.
fn engine_columns<F>(engine: Option<&Beside<F>>, of: fn(&F) -> (f64, Option<f64>)) -> String {
    let times = engine.map(|engine| of(&engine.figures));
    format!(
        " {:>8} {:>7} {:>6}",
        format_or_dash(times.map(|(seconds, _)| seconds), 3),
        format_or_dash(times.and_then(|(_, cpu_seconds)| cpu_seconds), 2),
        format_or_dash(engine.map(|engine| engine.ratio), 2)
    )
}

pub(super) fn head() -> String {
    let engine = |name: &str| format!(" {name:>8} {:>7} {:>6}", "cpu s", "ratio");
    format!(
        "query {:>8} {:>9} {:>7}{}{} {:>9} {:>10}  exact",
        "rows",
        "seconds",
        "cpu s",
        engine("df s"),
        engine("duckdb s"),
        "peak MiB",
        "spilled MB"
    )
}

pub(super) fn row(query: &QueryFigures) -> String {
    let beside = |engine: &Option<_>| engine_columns(engine.as_ref(), |it: &Median| (it.seconds, it.cpu_seconds));
    let squadron = query.squadron.as_ref();
    format!(
        "q{:02}   {:>8} {:>9} {:>7}{}{} {:>9} {:>10}  {}",
        query.query,
        query.rows,
        format_or_dash(squadron.map(|it| it.seconds), 3),
        format_or_dash(squadron.and_then(|it| it.cpu_seconds), 2),
        beside(&query.datafusion),
        beside(&query.duckdb),
        format_or_dash(query.held.peak_memory_bytes.map(|bytes| bytes as f64 / 1_048_576.0), 0),
        format_or_dash(query.held.spilled_bytes.map(|bytes| bytes as f64 / 1e6), 0),
        if query.exact { "yes" } else { "NO" },
    )
}

pub(super) fn total_row(figures: &SuiteFigures) -> String {
    let beside = |engine: &Option<_>| engine_columns(engine.as_ref(), |it: &Total| (it.seconds, it.cpu_seconds));
    format!(
        "total {:>8} {:>9} {:>7}{}{} {:>9} {:>10}  {}",
        "",
        format_or_dash(Some(figures.total.seconds), 3),
        format_or_dash(figures.total.cpu_seconds, 2),
        beside(&figures.total_datafusion),
        beside(&figures.total_duckdb),
        "",
        "",
        if figures.exact { "yes" } else { "NO" },
    )
}

fn format_or_dash(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn timings(seconds: &[f64]) -> Vec<Timing> {
        seconds
            .iter()
            .map(|seconds| Timing::new(*seconds, Some(1.0), Some(1.0 + 2.0 * seconds)))
            .collect()
    }

    fn query(
        number: u8,
        difference: Option<&str>,
        squadron: &[f64],
        datafusion: &[f64],
        duckdb: &[f64],
    ) -> QueryFigures {
        let runs = Runs {
            squadron: timings(squadron),
            datafusion: timings(datafusion),
            duckdb: timings(duckdb),
        };
        QueryFigures::new(number, 4, difference.map(str::to_owned), runs, Held::default())
    }

    fn totals(queries: Vec<QueryFigures>) -> SuiteFigures {
        SuiteFigures::of(queries, None)
    }

    /// Figures with every key, also for the test of the documentation.
    pub(crate) fn sample() -> SuiteFigures {
        totals(vec![
            query(1, None, &[3.0, 1.0, 2.0], &[1.0, 1.0, 5.0], &[4.0]),
            query(2, None, &[1.0], &[1.0], &[]),
        ])
    }

    fn ratios(figures: &SuiteFigures) -> (Option<f64>, Option<f64>) {
        let ratio = |total: &Option<Beside<Total>>| total.as_ref().map(|total| total.ratio);
        (ratio(&figures.total_datafusion), ratio(&figures.total_duckdb))
    }

    #[test]
    fn totals_are_sums_of_medians_over_the_queries_that_both_ran() {
        let figures = sample();
        assert_eq!(figures.queries[0].datafusion.as_ref().map(|it| it.ratio), Some(2.0));
        let total = Total {
            seconds: 3.0,
            cpu_seconds: Some(6.0),
            measured: 2,
        };
        assert_eq!(figures.total, total);
        assert_eq!(ratios(&figures), (Some(1.5), Some(0.5)));
        assert!(figures.is_exact());
    }

    #[test]
    fn failed_query_is_excluded_from_totals() {
        let mut queries = sample().queries;
        queries.push(query(3, Some("no worker"), &[], &[9.0], &[9.0]));
        let figures = totals(queries);
        assert!(!figures.is_exact());
        assert_eq!(ratios(&figures), (Some(1.5), Some(0.5)));
    }

    #[test]
    fn ratio_is_absent_without_another_engine() {
        let figures = totals(vec![query(1, None, &[1.0], &[], &[])]);
        assert_eq!(ratios(&figures), (None, None));
        assert!(row(&figures.queries[0]).ends_with("yes"));
        assert_eq!(head().len(), row(&figures.queries[0]).len() + 2);
    }

    #[test]
    fn totals_are_zero_without_runs() {
        let figures = totals(vec![query(1, Some("no worker"), &[], &[], &[])]);
        assert_eq!((figures.total.measured, ratios(&figures)), (0, (None, None)));
    }
}
