//! The metrics of an attempt, operator by operator.

use std::sync::Arc;

use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use datafusion::physical_plan::metrics::MetricsSet;
use squadron_shuffle::FETCHED_BYTES;

use crate::spilling::{LateInputExec, SpillingJoinExec};
use crate::yielding::YieldExec;

/// Limit of an operator's line, in characters: IN lists and file lists would get longer.
const LINE_LIMIT: usize = 1_000;

/// Limit of the lines of a plan.
const LINES_LIMIT: usize = 1_000;

/// The metrics of a plan that has run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PlanMetrics {
    /// One line per operator in pre-order, two spaces deeper per level.
    pub(crate) operators: Vec<String>,
    /// Bytes that operators wrote to disk.
    pub(crate) spilled_bytes: u64,
    /// Bytes that scans read from files.
    pub(crate) scanned_bytes: u64,
    /// Bytes fetched from other workers.
    pub(crate) fetched_bytes: u64,
}

/// Collects the metrics of `plan`.
pub(crate) fn collect(plan: &dyn ExecutionPlan) -> PlanMetrics {
    let mut metrics = PlanMetrics::default();
    visit(plan, 0, &mut metrics);
    metrics
}

fn visit(plan: &dyn ExecutionPlan, depth: usize, metrics: &mut PlanMetrics) {
    if let Some(input) = passed_on(plan) {
        return visit(input.as_ref(), depth, metrics);
    }
    if metrics.operators.len() < LINES_LIMIT {
        metrics.operators.push(line(plan, depth));
    }
    let set = plan.metrics().unwrap_or_default();
    metrics.spilled_bytes += set.spilled_bytes().unwrap_or(0) as u64;
    metrics.scanned_bytes += scanned_bytes(plan, &set);
    metrics.fetched_bytes += count(&set, FETCHED_BYTES).unwrap_or(0);
    for child in plan.children() {
        visit(child.as_ref(), depth + 1, metrics);
    }
}

/// The input of a node that the attempt added and that only passes rows on.
fn passed_on(plan: &dyn ExecutionPlan) -> Option<&Arc<dyn ExecutionPlan>> {
    match plan.downcast_ref::<YieldExec>() {
        Some(yielding) => Some(yielding.input()),
        None => plan.downcast_ref::<LateInputExec>()?.input(),
    }
}

/// The bytes that a Parquet scan has counted itself; for other formats, the sizes of the scan's files.
fn scanned_bytes(plan: &dyn ExecutionPlan, set: &MetricsSet) -> u64 {
    let files = || {
        let source = plan.downcast_ref::<DataSourceExec>()?.data_source();
        let groups = &source.downcast_ref::<FileScanConfig>()?.file_groups;
        let files = groups.iter().flat_map(|group| group.files());
        Some(files.map(|file| file.effective_size()).sum())
    };
    count(set, "bytes_scanned").or_else(files).unwrap_or(0)
}

/// The metric called `name`, summed over all partitions.
fn count(set: &MetricsSet, name: &str) -> Option<u64> {
    set.sum_by_name(name).map(|sum| sum.as_usize() as u64)
}

/// An operator and its metrics, summed over its partitions, in one line even where an expression holds a line break.
fn line(plan: &dyn ExecutionPlan, depth: usize) -> String {
    let shown = |plan| DisplayableExecutionPlan::with_metrics(plan).one_line().to_string();
    let text = match plan.downcast_ref::<SpillingJoinExec>() {
        None => shown(plan),
        Some(spilling) => {
            let join = shown(spilling.join());
            match spilling.metrics().filter(|metrics| metrics.spill_count() > Some(0)) {
                Some(metrics) => format!("{}, spilled=[{metrics}]", join.trim_end()),
                None => join,
            }
        }
    };
    let mut line = "  ".repeat(depth);
    line.extend(text.trim_end().chars().take(LINE_LIMIT).map(
        |character| {
            if character.is_control() { ' ' } else { character }
        },
    ));
    line
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::common::ScalarValue;
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::physical_plan::filter::FilterExec;

    use super::*;

    #[test]
    fn operator_prints_one_bounded_line() {
        let schema = Arc::new(Schema::new(vec![Field::new("name", DataType::Utf8, true)]));
        let long = format!("two\nlines {}", "x".repeat(2 * LINE_LIMIT));
        let predicate = BinaryExpr::new(
            Arc::new(Column::new("name", 0)),
            Operator::Eq,
            Arc::new(Literal::new(ScalarValue::Utf8(Some(long)))),
        );
        let empty = Arc::new(EmptyExec::new(schema));
        let plan = FilterExec::try_new(Arc::new(predicate), empty).unwrap();

        let metrics = collect(&plan);

        assert_eq!(metrics.operators.len(), 2);
        assert!(metrics.operators[0].starts_with("FilterExec: name@0 = two lines"));
        assert_eq!(metrics.operators[0].chars().count(), LINE_LIMIT);
        assert!(metrics.operators[1].starts_with("  EmptyExec"));
    }
}
