//! `EXPLAIN` and `EXPLAIN ANALYZE` of staged plans, in DataFusion's two columns.
//!
//! ```text
//! stage 1 (result): 1 task, 1 partition, reads stage 0
//!   SortPreservingMergeExec: [n DESC]
//!     ShuffleRead: stage=0, partitions=2
//! stage 0: 2 tasks of 1 partition, written by partition
//!   ...
//! ```

mod analyze;
mod expected;
mod numbers;

use std::fmt::Write;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::Result;
use datafusion::logical_expr::Explain;
use datafusion::physical_plan::ExecutionPlanProperties;
use datafusion::physical_plan::display::DisplayableExecutionPlan;

pub use analyze::analyze;

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

fn rows(schema: &SchemaRef, kinds: Vec<&str>, plans: Vec<String>) -> Result<RecordBatch> {
    let columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(kinds)), Arc::new(StringArray::from(plans))];
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

/// Describes the stages, the root first: it holds what the user asked for.
fn describe(staged: &StagedPlan, body: impl Fn(&PlannedStage) -> String) -> String {
    let mut text = String::new();
    for change in &staged.changes {
        let _ = writeln!(text, "optimizer: {change}");
    }
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
