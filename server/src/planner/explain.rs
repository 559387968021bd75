//! `EXPLAIN` and `EXPLAIN ANALYZE` of staged plans, in DataFusion's two columns.
//!
//! ```text
//! stage 1 (result): 1 task, 1 partition, reads stage 0
//!   SortPreservingMergeExec: [n DESC]
//!     ShuffleRead: stage=0, partitions=2
//! stage 0: 2 tasks of 1 partition, written by partition
//!   ...
//! ```

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::Result;
use datafusion::logical_expr::Explain;
use datafusion::physical_plan::ExecutionPlanProperties;
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use squadron_proto::control::TaskMetrics;
use squadron_scheduler::{QuerySummary, StageSummary};

use super::cut::Output;
use super::stages::{PlannedStage, StagedPlan};

/// The rows of `EXPLAIN`: the logical plan and the stages.
///
/// # Errors
/// When the rows do not fit `schema`.
pub fn plan(explain: &Explain, staged: &StagedPlan, schema: &SchemaRef) -> Result<RecordBatch> {
    let logical = explain.plan.display_indent().to_string();
    let stages = describe_plan(staged, explain.verbose);
    rows(schema, vec!["logical_plan", "distributed_plan"], vec![logical, stages])
}

/// The stages with their operators, the root first.
pub fn describe_plan(staged: &StagedPlan, verbose: bool) -> String {
    describe(staged, |stage| {
        DisplayableExecutionPlan::new(stage.plan.as_ref())
            .indent(verbose)
            .to_string()
    })
}

/// The rows of `EXPLAIN ANALYZE`: each stage with its time, its rows and its tasks.
///
/// # Errors
/// When the rows do not fit `schema`.
pub fn analyze(staged: &StagedPlan, summary: &QuerySummary, schema: &SchemaRef) -> Result<RecordBatch> {
    let text = describe(staged, |stage| {
        summary
            .stages
            .iter()
            .find(|summary| summary.stage == stage.id)
            .map_or_else(String::new, describe_summary)
    });
    let lost = summary.recoveries.iter();
    let lost: String = lost.map(|lost| format!("computed again: {lost}\n")).collect();
    let text = format!("elapsed={}\n{lost}{text}", millis(summary.elapsed));
    rows(schema, vec!["Distributed Plan with Metrics"], vec![text])
}

fn rows(schema: &SchemaRef, kinds: Vec<&str>, plans: Vec<String>) -> Result<RecordBatch> {
    let columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(kinds)), Arc::new(StringArray::from(plans))];
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

/// Describes the stages, the root first: it holds what the user asked for.
fn describe(staged: &StagedPlan, body: impl Fn(&PlannedStage) -> String) -> String {
    let mut text = String::new();
    let root = staged.stages.last().map(|stage| stage.id);
    for stage in staged.stages.iter().rev() {
        text.push_str(&heading(stage, Some(stage.id) == root));
        text.push('\n');
        for line in body(stage).lines() {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

fn heading(stage: &PlannedStage, is_root: bool) -> String {
    let mut text = format!("stage {}", stage.id);
    if is_root {
        text.push_str(" (result)");
    }
    let partitions = stage.plan.output_partitioning().partition_count();
    let _ = write!(
        text,
        ": {}, {}",
        format_count(stage.tasks.len(), "task"),
        format_count(partitions, "partition")
    );
    if !stage.inputs.is_empty() {
        let inputs: Vec<String> = stage.inputs.iter().map(ToString::to_string).collect();
        let _ = write!(text, ", reads stage {}", inputs.join(", "));
    }
    if let Output::Hash(exprs) = &stage.output {
        let exprs: Vec<String> = exprs.iter().map(ToString::to_string).collect();
        let _ = write!(
            text,
            ", writes hash([{}]) into {}",
            exprs.join(", "),
            format_count(stage.output_partitions, "partition")
        );
    }
    text
}

fn format_count(number: usize, what: &str) -> String {
    if number == 1 {
        format!("1 {what}")
    } else {
        format!("{number} {what}s")
    }
}

/// Time, rows and bytes of a stage, then its slowest task, operator by operator.
fn describe_summary(summary: &StageSummary) -> String {
    let mut metrics: Vec<&TaskMetrics> = summary.tasks.iter().map(|task| &task.output.metrics).collect();
    metrics.sort_by_key(|metrics| metrics.elapsed_us);
    let (Some(slowest), Some(median)) = (metrics.last(), metrics.get(metrics.len() / 2)) else {
        return String::new();
    };
    let rows: u64 = metrics.iter().map(|metrics| metrics.rows).sum();
    let bytes: u64 = metrics.iter().map(|metrics| metrics.bytes).sum();
    let spilled: u64 = metrics.iter().map(|metrics| metrics.spilled_bytes).sum();
    let mut text = format!(
        "elapsed={}, rows={rows}, bytes={bytes}, spilled_bytes={spilled}, slowest_task={}, median_task={}\n",
        millis(summary.elapsed),
        millis(Duration::from_micros(slowest.elapsed_us)),
        millis(Duration::from_micros(median.elapsed_us)),
    );
    if summary.second_attempts > 0 {
        let _ = writeln!(text, "second attempts at slow tasks: {}", summary.second_attempts);
    }
    for operator in &slowest.operators {
        text.push_str(operator);
        text.push('\n');
    }
    text
}

fn millis(duration: Duration) -> String {
    format!("{:.3}ms", duration.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use squadron_proto::control::TaskOutput;
    use squadron_proto::{AttemptNumber, StageId, TaskId, WorkerId};
    use squadron_scheduler::TaskSummary;

    use super::*;

    #[test]
    fn second_attempts_are_counted_where_there_are_any() {
        let summary = |second_attempts| StageSummary {
            stage: StageId(0),
            elapsed: Duration::ZERO,
            second_attempts,
            tasks: vec![TaskSummary {
                task: TaskId(0),
                attempt: AttemptNumber(0),
                worker: WorkerId::from_u128(1),
                output: TaskOutput::default(),
            }],
        };
        assert!(describe_summary(&summary(2)).contains("\nsecond attempts at slow tasks: 2\n"));
        assert!(!describe_summary(&summary(0)).contains("second"));
    }
}
