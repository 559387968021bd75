//! `EXPLAIN ANALYZE`: what each stage and each operator took.
//!
//! ```text
//! elapsed 1.20 s, computed 2.10 s; read 230.1 MiB, shuffled 3.4 MiB
//! stage 1 (result): 1 task, 1 partition, reads stage 0
//!   elapsed 12.0 ms, 4 rows, 512 B
//!      rows    time  %     read  skew  operator
//!         4  0.1 ms  0                 SortExec: ...
//! ```
//!
//! Where the optimizer expected another number of rows, a column shows it, and a line above names the estimate that was off
//! most. An operator's time is that of its own work, summed over the threads of all tasks, and its share is of all work of the
//! query. Its skew is how many times the average the partition with the most rows has.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::Result;
use squadron_proto::control::{OperatorMetrics, TaskMetrics};
use squadron_scheduler::{QuerySummary, StageSummary};

use super::expected::{rows_expected, worst_estimate};
use super::numbers::{count, size, time};
use super::{describe, format_count, rows};
use crate::planner::StagedPlan;
use crate::planner::optimizer::Expected;

/// The rows of `EXPLAIN ANALYZE`: each stage with its time, its rows and its operators. With `is_verbose`, also each
/// task, and all that the operators of the slowest one have counted.
///
/// # Errors
/// When the rows do not fit `schema`.
pub fn analyze(
    staged: &StagedPlan,
    summary: &QuerySummary,
    schema: &SchemaRef,
    is_verbose: bool,
) -> Result<RecordBatch> {
    let computed: Vec<_> = summary
        .stages
        .iter()
        .flat_map(|stage| operators(stage).operators)
        .collect();
    let query = Shown {
        computed_ns: computed.iter().map(|operator| operator.busy_ns).sum(),
        expected: &staged.expected,
        is_verbose,
    };
    let stages = describe(staged, |stage| {
        let stage = summary.stages.iter().find(|summary| summary.stage == stage.id);
        stage.map_or_else(String::new, |stage| query.stage(stage))
    });
    let lost = summary.recoveries.iter();
    let lost: String = lost.map(|lost| format!("computed again: {lost}\n")).collect();
    let worst = worst_estimate(&staged.expected, &computed);
    let worst = worst.map_or_else(String::new, |worst| worst + "\n");
    let text = format!("{}\n{lost}{worst}{stages}", totals(summary, query.computed_ns));
    rows(schema, vec!["Distributed Plan with Metrics"], vec![text])
}

fn totals(summary: &QuerySummary, computed_ns: u64) -> String {
    let sum = |of: fn(&TaskMetrics) -> u64| {
        let tasks = summary.stages.iter().flat_map(|stage| &stage.tasks);
        tasks.map(|task| of(&task.output.metrics)).sum::<u64>()
    };
    let mut text = format!(
        "elapsed {}, computed {}; read {}, shuffled {}",
        time(summary.elapsed),
        time(Duration::from_nanos(computed_ns)),
        size(sum(|metrics| metrics.scanned_bytes)),
        size(sum(|metrics| metrics.fetched_bytes)),
    );
    push_spilled(&mut text, sum(|metrics| metrics.spilled_bytes));
    text
}

fn push_spilled(text: &mut String, bytes: u64) {
    if bytes > 0 {
        let _ = write!(text, ", spilled {}", size(bytes));
    }
}

/// The operators of a stage, summed over its tasks.
struct StageOperators {
    /// Those of the slowest task.
    operators: Vec<OperatorMetrics>,
    /// How many tasks had other operators: each decides by itself what fits into its memory.
    other_tasks: usize,
}

fn operators(stage: &StageSummary) -> StageOperators {
    let slowest = by_time(stage).pop();
    let mut sums = slowest.map(|slowest| slowest.operators.clone()).unwrap_or_default();
    let mut other_tasks = 0;
    for metrics in stage.tasks.iter().map(|task| &task.output.metrics) {
        let is_slowest = slowest.is_some_and(|slowest| std::ptr::eq(slowest, metrics));
        if is_slowest {
            continue;
        }
        if !is_same_plan(&sums, &metrics.operators) {
            other_tasks += 1;
            continue;
        }
        for (sum, operator) in sums.iter_mut().zip(&metrics.operators) {
            add(sum, operator);
        }
    }
    StageOperators {
        operators: sums,
        other_tasks,
    }
}

/// The metrics of a stage's tasks, the slowest task last.
fn by_time(stage: &StageSummary) -> Vec<&TaskMetrics> {
    let mut metrics: Vec<_> = stage.tasks.iter().map(|task| &task.output.metrics).collect();
    metrics.sort_by_key(|metrics| metrics.elapsed_us);
    metrics
}

/// Whether the operators have the same names in the same places. Their files and filters may differ.
fn is_same_plan(one: &[OperatorMetrics], other: &[OperatorMetrics]) -> bool {
    fn place(operator: &OperatorMetrics) -> (u32, Option<&str>) {
        (operator.depth, operator.operator.split(':').next())
    }
    one.iter().map(place).eq(other.iter().map(place))
}

fn add(sum: &mut OperatorMetrics, other: &OperatorMetrics) {
    sum.rows += other.rows;
    sum.busy_ns += other.busy_ns;
    sum.read_bytes += other.read_bytes;
    sum.spilled_bytes += other.spilled_bytes;
    sum.partitions += other.partitions;
    sum.largest_partition_rows = sum.largest_partition_rows.max(other.largest_partition_rows);
}

/// How the stages of a query are shown.
struct Shown<'a> {
    /// The time of all operators.
    computed_ns: u64,
    expected: &'a [Expected],
    is_verbose: bool,
}

impl Shown<'_> {
    fn stage(&self, stage: &StageSummary) -> String {
        let mut text = stage_line(stage);
        if stage.second_attempts > 0 {
            let _ = writeln!(text, "second attempts at slow tasks: {}", stage.second_attempts);
        }
        if self.is_verbose {
            tasks(&mut text, stage);
        }
        let StageOperators { operators, other_tasks } = operators(stage);
        self.operators(&mut text, &operators);
        if other_tasks > 0 {
            let tasks = format_count(other_tasks, "task");
            let _ = writeln!(
                text,
                "not counted: {tasks} that had other operators, by what fits into memory"
            );
        }
        text
    }

    /// The operators as a table, without the columns that would be empty.
    fn operators(&self, text: &mut String, operators: &[OperatorMetrics]) {
        if operators.is_empty() {
            return;
        }
        let lines: Vec<_> = operators.iter().map(|operator| self.figures(operator)).collect();
        let width = |column: usize| {
            let cells = lines.iter().map(|cells| cells[column].len());
            let widest = cells.max().filter(|widest| *widest > 0)?;
            Some(widest.max(HEADINGS[column].len()))
        };
        let widths: [Option<usize>; COLUMNS] = std::array::from_fn(width);
        push_cells(text, &widths, &HEADINGS.map(String::from));
        let _ = writeln!(text, "operator");
        for (operator, figures) in operators.iter().zip(&lines) {
            push_cells(text, &widths, figures);
            let indent = "  ".repeat(operator.depth as usize);
            let _ = writeln!(text, "{indent}{}", self.shortened(&operator.operator));
            if self.is_verbose && !operator.details.is_empty() {
                push_cells(text, &widths, &std::array::from_fn(|_| String::new()));
                let _ = writeln!(text, "{indent}  {}", operator.details);
            }
        }
    }

    /// What an operator does, cut where lists of values would hide the other operators.
    fn shortened<'t>(&self, operator: &'t str) -> Cow<'t, str> {
        match operator.char_indices().nth(OPERATOR_CHARS) {
            Some((end, _)) if !self.is_verbose => Cow::Owned(format!("{}...", &operator[..end])),
            _ => Cow::Borrowed(operator),
        }
    }

    fn figures(&self, operator: &OperatorMetrics) -> [String; COLUMNS] {
        let share = operator.busy_ns as f64 * 100.0 / self.computed_ns.max(1) as f64;
        [
            count(operator.rows),
            rows_expected(self.expected, &operator.operator).map_or_else(String::new, count),
            time(Duration::from_nanos(operator.busy_ns)),
            format!("{share:.0}"),
            some(operator.read_bytes, size),
            some(operator.spilled_bytes, size),
            skew(operator).map_or_else(String::new, |skew| format!("{skew:.1}x")),
        ]
    }
}

/// How many characters of an operator are shown, but for VERBOSE.
const OPERATOR_CHARS: usize = 200;

const COLUMNS: usize = 7;
const HEADINGS: [&str; COLUMNS] = ["rows", "expected", "time", "%", "read", "spilled", "skew"];

/// Writes the figures before an operator, each to the right of its column.
fn push_cells(text: &mut String, widths: &[Option<usize>; COLUMNS], cells: &[String; COLUMNS]) {
    for (width, cell) in widths.iter().zip(cells) {
        if let Some(width) = width {
            let _ = write!(text, "{cell:>width$}  ");
        }
    }
}

fn some(number: u64, shown: fn(u64) -> String) -> String {
    if number == 0 { String::new() } else { shown(number) }
}

/// The rows of the largest partition over the average of all.
fn skew(operator: &OperatorMetrics) -> Option<f64> {
    let is_spread = operator.partitions > 1 && operator.rows > 0;
    is_spread.then(|| operator.largest_partition_rows as f64 * f64::from(operator.partitions) / operator.rows as f64)
}

/// The time of a stage and what it wrote.
fn stage_line(stage: &StageSummary) -> String {
    let metrics = by_time(stage);
    let sum = |of: fn(&TaskMetrics) -> u64| metrics.iter().map(|metrics| of(metrics)).sum::<u64>();
    let mut text = format!(
        "elapsed {}, {} rows, {}",
        time(stage.elapsed),
        count(sum(|metrics| metrics.rows)),
        size(sum(|metrics| metrics.bytes)),
    );
    push_spilled(&mut text, sum(|metrics| metrics.spilled_bytes));
    if let [_, .., slowest] = metrics.as_slice() {
        let median = metrics[metrics.len() / 2];
        let _ = write!(
            text,
            "; slowest task {}, median {}",
            time(Duration::from_micros(slowest.elapsed_us)),
            time(Duration::from_micros(median.elapsed_us)),
        );
    }
    text.push('\n');
    text
}

fn tasks(text: &mut String, stage: &StageSummary) {
    for task in &stage.tasks {
        let metrics = &task.output.metrics;
        let _ = write!(
            text,
            "task {} (attempt {}, worker {}): {}, {} rows, {}, CPU {}, peak memory {}",
            task.task,
            task.attempt,
            task.worker,
            time(Duration::from_micros(metrics.elapsed_us)),
            count(metrics.rows),
            size(metrics.bytes),
            time(Duration::from_nanos(metrics.cpu_ns)),
            size(metrics.peak_memory_bytes),
        );
        push_spilled(text, metrics.spilled_bytes);
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use squadron_proto::control::TaskOutput;
    use squadron_proto::{AttemptNumber, StageId, TaskId, WorkerId};
    use squadron_scheduler::TaskSummary;

    use super::*;

    fn operator(depth: u32, operator: &str, rows: u64, largest_partition_rows: u64) -> OperatorMetrics {
        OperatorMetrics {
            depth,
            operator: operator.into(),
            rows,
            busy_ns: rows * 1_000,
            partitions: 2,
            largest_partition_rows,
            details: format!("metrics of {operator}"),
            ..OperatorMetrics::default()
        }
    }

    /// A stage with one task for each list of operators, each task slower than the one before.
    fn stage(tasks: Vec<Vec<OperatorMetrics>>) -> StageSummary {
        let task = |(number, operators): (usize, Vec<OperatorMetrics>)| TaskSummary {
            task: TaskId(number as u32),
            attempt: AttemptNumber(0),
            worker: WorkerId::from_u128(1),
            output: TaskOutput {
                metrics: TaskMetrics {
                    elapsed_us: number as u64 * 10_000,
                    rows: 1_000,
                    bytes: 2_048,
                    operators,
                    ..TaskMetrics::default()
                },
                ..TaskOutput::default()
            },
        };
        StageSummary {
            stage: StageId(0),
            elapsed: Duration::from_millis(30),
            second_attempts: 0,
            tasks: tasks.into_iter().enumerate().map(task).collect(),
        }
    }

    fn shown(stage: &StageSummary, is_verbose: bool) -> Vec<String> {
        let query = Shown {
            computed_ns: 10_000_000,
            expected: &[],
            is_verbose,
        };
        query.stage(stage).lines().map(ToOwned::to_owned).collect()
    }

    #[test]
    fn operators_are_summed_over_tasks() {
        let filter = |rows, largest| operator(0, "FilterExec: a > 1", rows, largest);
        let scan = |rows, largest| OperatorMetrics {
            read_bytes: 1_048_576,
            ..operator(1, &format!("DataSourceExec: file of {rows}"), rows, largest)
        };
        let stage = stage(vec![
            vec![filter(100, 90), scan(1_000, 500)],
            vec![filter(300, 150), scan(3_000, 1_500)],
        ]);
        let expected = [
            "elapsed 30.0 ms, 2,000 rows, 4.0 KiB; slowest task 10.0 ms, median 10.0 ms",
            " rows    time   %     read  skew  operator",
            "  400  0.4 ms   4           1.5x  FilterExec: a > 1",
            "4,000  4.0 ms  40  2.0 MiB  1.5x    DataSourceExec: file of 3000",
        ];
        assert_eq!(shown(&stage, false), expected);
    }

    #[test]
    fn verbose_tells_tasks_and_details() {
        let stage = stage(vec![vec![operator(0, "FilterExec", 100, 50)]]);
        let lines = shown(&stage, true);
        assert!(lines[1].starts_with("task 0 (attempt 0, worker "), "{lines:?}");
        assert!(
            lines[1].ends_with("0.0 ms, 1,000 rows, 2.0 KiB, CPU 0.0 ms, peak memory 0 B"),
            "{lines:?}"
        );
        assert!(
            lines.last().unwrap().ends_with("    metrics of FilterExec"),
            "{lines:?}"
        );
        assert!(!shown(&stage, false).iter().any(|line| line.contains("metrics of")));
    }

    #[test]
    fn tasks_with_other_operators_are_told() {
        let filter = vec![operator(0, "FilterExec", 100, 50)];
        let sort = vec![operator(0, "SortExec", 7, 7)];
        let lines = shown(&stage(vec![sort, filter]), false);
        assert!(lines[2].starts_with(" 100  "), "{lines:?}");
        assert!(lines[3].starts_with("not counted: 1 task"), "{lines:?}");
    }

    #[test]
    fn long_operators_are_cut() {
        let long = format!("FilterExec: {}", "é".repeat(500));
        let stage = stage(vec![vec![operator(0, &long, 1, 1)]]);
        let line = |is_verbose| {
            shown(&stage, is_verbose)
                .into_iter()
                .find(|line| line.contains("Filter"))
                .unwrap()
        };
        assert!(line(false).ends_with("ééé...") && line(false).chars().count() < 300);
        assert!(line(true).ends_with(&long));
    }

    #[test]
    fn second_attempts_are_counted_where_there_are_any() {
        let mut stage = stage(vec![Vec::new()]);
        assert!(!shown(&stage, false).iter().any(|line| line.contains("second")));
        stage.second_attempts = 2;
        assert!(shown(&stage, false).contains(&"second attempts at slow tasks: 2".to_owned()));
    }
}
