//! What an attempt took, operator by operator.

use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::display::DisplayableExecutionPlan;

/// An operator's line never gets longer; IN lists and file lists may.
const LINE_LIMIT: usize = 1_000;

/// No plan has more lines than this.
const LINES_LIMIT: usize = 1_000;

/// The metrics of a plan that has run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PlanMetrics {
    /// One line per operator in pre-order, two spaces deeper per level.
    pub(crate) operators: Vec<String>,
    /// Bytes that operators wrote to disk.
    pub(crate) spilled_bytes: u64,
}

/// Collects the metrics of `plan`.
pub(crate) fn collect(plan: &dyn ExecutionPlan) -> PlanMetrics {
    let mut metrics = PlanMetrics::default();
    visit(plan, 0, &mut metrics);
    metrics
}

fn visit(plan: &dyn ExecutionPlan, depth: usize, metrics: &mut PlanMetrics) {
    if metrics.operators.len() < LINES_LIMIT {
        metrics.operators.push(line(plan, depth));
    }
    let spilled = plan.metrics().and_then(|set| set.spilled_bytes());
    metrics.spilled_bytes += spilled.unwrap_or(0) as u64;
    for child in plan.children() {
        visit(child.as_ref(), depth + 1, metrics);
    }
}

/// An operator and its metrics, summed over its partitions, in one line even where an expression holds a line break.
fn line(plan: &dyn ExecutionPlan, depth: usize) -> String {
    let text = DisplayableExecutionPlan::with_metrics(plan)
        .one_line()
        .to_string();
    let mut line = "  ".repeat(depth);
    line.extend(text.trim_end().chars().take(LINE_LIMIT).map(|character| {
        if character.is_control() {
            ' '
        } else {
            character
        }
    }));
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
    fn an_operator_is_one_bounded_line_indented_by_its_depth() {
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
