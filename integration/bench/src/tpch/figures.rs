//! The figures of `squadron-bench tpch`: medians, ratios and totals, and the table on the terminal.

use serde::Serialize;

use crate::stats::median;

/// One timed run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Timing {
    seconds: f64,
    /// Of all processes and the client; not known for a server that was not started here.
    cpu_seconds: Option<f64>,
}

impl Timing {
    pub(crate) fn new(seconds: f64, cpu_before: Option<f64>, cpu_after: Option<f64>) -> Self {
        Self {
            seconds,
            cpu_seconds: cpu_after.zip(cpu_before).map(|(after, before)| after - before),
        }
    }
}

/// What the runs of one query took of memory and disk.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Held {
    /// Peak resident memory of the process that held most; not known for a server that was not started here.
    pub(crate) peak_memory_bytes: Option<u64>,
    /// Bytes that overflowed to disk, of the run that wrote most.
    pub(crate) spilled_bytes: Option<u64>,
}

/// All figures.
#[derive(Debug, Serialize)]
pub(crate) struct TpchFigures {
    queries: Vec<QueryFigures>,
    total_seconds: Option<f64>,
    total_cpu_seconds: Option<f64>,
    total_reference_seconds: Option<f64>,
    total_reference_cpu_seconds: Option<f64>,
    /// Squadron's sum of medians divided by the reference's.
    total_ratio: Option<f64>,
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
    seconds: Option<f64>,
    cpu_seconds: Option<f64>,
    reference_seconds: Option<f64>,
    reference_cpu_seconds: Option<f64>,
    ratio: Option<f64>,
    #[serde(flatten)]
    held: Held,
    runs: Vec<Timing>,
    reference_runs: Vec<Timing>,
}

impl QueryFigures {
    pub(super) fn new(
        query: u8,
        rows: usize,
        difference: Option<String>,
        runs: Vec<Timing>,
        reference_runs: Vec<Timing>,
        held: Held,
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
            ratio: seconds.zip(reference_seconds).map(|(ours, theirs)| ours / theirs),
            held,
            runs,
            reference_runs,
        }
    }
}

impl TpchFigures {
    /// Totals are sums over the queries that ran; a total is None when one of these queries has no figure, or no query
    /// ran.
    pub(super) fn of(queries: Vec<QueryFigures>) -> Self {
        let ran: Vec<_> = queries.iter().filter(|query| !query.runs.is_empty()).collect();
        let total = |figure: fn(&QueryFigures) -> Option<f64>| -> Option<f64> {
            let sum = ran.iter().map(|query| figure(query)).sum::<Option<f64>>();
            sum.filter(|_| !ran.is_empty())
        };
        let total_seconds = total(|query| query.seconds);
        let total_reference_seconds = total(|query| query.reference_seconds);
        Self {
            exact: queries.iter().all(|query| query.exact),
            total_seconds,
            total_cpu_seconds: total(|query| query.cpu_seconds),
            total_reference_seconds,
            total_reference_cpu_seconds: total(|query| query.reference_cpu_seconds),
            total_ratio: total_seconds
                .zip(total_reference_seconds)
                .map(|(ours, theirs)| ours / theirs),
            queries,
        }
    }

    /// Whether every result was the expected one.
    pub(super) fn is_exact(&self) -> bool {
        self.exact
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

pub(super) fn head() -> String {
    format!(
        "{:5} {:>9} {:>12} {:>12} {:>7} {:>10} {:>10} {:>9} {:>10}  exact",
        "query", "rows", "squadron s", "reference s", "ratio", "cpu s", "ref cpu s", "peak MiB", "spilled MB"
    )
}

pub(super) fn row(query: &QueryFigures) -> String {
    format!(
        "q{:02}   {:>9} {:>12} {:>12} {:>7} {:>10} {:>10} {:>9} {:>10}  {}",
        query.query,
        query.rows,
        format_or_dash(query.seconds, 3),
        format_or_dash(query.reference_seconds, 3),
        format_or_dash(query.ratio, 2),
        format_or_dash(query.cpu_seconds, 2),
        format_or_dash(query.reference_cpu_seconds, 2),
        format_or_dash(query.held.peak_memory_bytes.map(|bytes| bytes as f64 / 1_048_576.0), 0),
        format_or_dash(query.held.spilled_bytes.map(|bytes| bytes as f64 / 1e6), 0),
        if query.exact { "yes" } else { "NO" },
    )
}

pub(super) fn total_row(figures: &TpchFigures) -> String {
    format!(
        "total {:>9} {:>12} {:>12} {:>7} {:>10} {:>10} {:>9} {:>10}  {}",
        "",
        format_or_dash(figures.total_seconds, 3),
        format_or_dash(figures.total_reference_seconds, 3),
        format_or_dash(figures.total_ratio, 3),
        format_or_dash(figures.total_cpu_seconds, 2),
        format_or_dash(figures.total_reference_cpu_seconds, 2),
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

    /// Figures with every key, also for the test of the documentation.
    pub(crate) fn sample() -> TpchFigures {
        TpchFigures::of(vec![
            QueryFigures::new(
                1,
                4,
                None,
                timings(&[3.0, 1.0, 2.0]),
                timings(&[1.0, 1.0, 5.0]),
                Held::default(),
            ),
            QueryFigures::new(2, 9, None, timings(&[1.0]), timings(&[1.0]), Held::default()),
        ])
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
        assert!(figures.is_exact());
    }

    #[test]
    fn failed_query_is_excluded_from_totals() {
        let mut queries = sample().queries;
        queries.push(QueryFigures::new(
            3,
            1,
            Some("no worker".into()),
            vec![],
            timings(&[9.0]),
            Held::default(),
        ));
        let figures = TpchFigures::of(queries);
        assert!(!figures.is_exact());
        assert_eq!(figures.total_ratio, Some(1.5));
    }

    #[test]
    fn ratio_is_absent_without_reference() {
        let figures = TpchFigures::of(vec![QueryFigures::new(
            1,
            4,
            None,
            timings(&[1.0]),
            vec![],
            Held::default(),
        )]);
        assert_eq!((figures.queries[0].ratio, figures.total_ratio), (None, None));
        assert!(row(&figures.queries[0]).ends_with("yes"));
    }

    #[test]
    fn totals_are_absent_without_runs() {
        let failed = QueryFigures::new(1, 4, Some("no worker".into()), vec![], vec![], Held::default());
        let figures = TpchFigures::of(vec![failed]);
        assert_eq!((figures.total_seconds, figures.total_ratio), (None, None));
    }
}
