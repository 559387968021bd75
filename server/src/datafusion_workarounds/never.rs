//! A condition without columns stays above aggregates.
//!
//! DataFusion 55.2 moves it below an aggregate of all rows, or of a grouping set without keys, which makes a row of no input
//! (apache/datafusion#25415). A condition may lose its columns while it is moved, where they are constants below. Here one
//! that is constantly NULL or false becomes an empty relation before filters are moved, and others hold on to a column of the
//! aggregate once they stand above it; when they turn out to be constants, the next pass removes them in the same way.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::logical_expr::utils::{conjunction, split_conjunction, split_conjunction_owned};
use datafusion::logical_expr::{EmptyRelation, Expr, Filter, LogicalPlan, lit};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};
use squadron_shuffle::functions::{held, value_held};

/// Replaces filters that nothing passes, and removes conditions that hold on to a column and are true.
#[derive(Debug)]
struct Constants;

impl OptimizerRule for Constants {
    fn name(&self) -> &'static str {
        "constant_conditions"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Filter(filter) = &plan else {
            return Ok(Transformed::no(plan));
        };
        let conditions = split_conjunction(&filter.predicate);
        if conditions.iter().any(|condition| is_never_true(condition)) {
            return Ok(Transformed::yes(LogicalPlan::EmptyRelation(EmptyRelation {
                produce_one_row: false,
                schema: Arc::clone(filter.input.schema()),
            })));
        }
        if !conditions.iter().any(|condition| is_held_and_true(condition)) {
            return Ok(Transformed::no(plan));
        }
        let others = conditions.into_iter().filter(|condition| !is_held_and_true(condition));
        Ok(Transformed::yes(match conjunction(others.cloned()) {
            Some(others) => LogicalPlan::Filter(Filter::try_new(others, Arc::clone(&filter.input))?),
            None => filter.input.as_ref().clone(),
        }))
    }
}

fn is_never_true(condition: &Expr) -> bool {
    matches!(
        value_held(condition).unwrap_or(condition),
        Expr::Literal(ScalarValue::Boolean(None | Some(false)) | ScalarValue::Null, _)
    )
}

fn is_held_and_true(condition: &Expr) -> bool {
    matches!(
        value_held(condition),
        Some(Expr::Literal(ScalarValue::Boolean(Some(true)), _))
    )
}

type Rule = Arc<dyn OptimizerRule + Send + Sync>;

/// DataFusion's rule that moves filters, which takes a node at a time.
#[derive(Debug)]
struct MoveByColumns {
    inner: Rule,
}

impl OptimizerRule for MoveByColumns {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.inner.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let plan = match plan {
            LogicalPlan::Filter(filter) if matches!(*filter.input, LogicalPlan::Aggregate(_)) => tied(filter)?,
            other => other,
        };
        self.inner.rewrite(plan, config)
    }
}

/// The filter with its conditions without columns tied to the last one of its input.
fn tied(filter: Filter) -> Result<LogicalPlan> {
    let Some(column) = filter.input.schema().iter().last().map(Column::from) else {
        return Ok(LogicalPlan::Filter(filter));
    };
    if !split_conjunction(&filter.predicate).into_iter().any(has_no_column) {
        return Ok(LogicalPlan::Filter(filter));
    }
    let conditions = split_conjunction_owned(filter.predicate).into_iter();
    let conditions = conditions.map(|condition| match has_no_column(&condition) {
        true => held(vec![condition, Expr::Column(column.clone())]),
        false => condition,
    });
    let predicate = conjunction(conditions).unwrap_or_else(|| lit(true));
    Filter::try_new(predicate, filter.input).map(LogicalPlan::Filter)
}

fn has_no_column(condition: &Expr) -> bool {
    condition.column_refs().is_empty()
}

/// `rules` with these before and around the one that moves filters.
pub(crate) fn with_conditions_above_aggregates(rules: Vec<Rule>) -> Vec<Rule> {
    let rules = rules.into_iter().flat_map(|rule| match rule.name() {
        "push_down_filter" => vec![Arc::new(Constants) as Rule, Arc::new(MoveByColumns { inner: rule })],
        _ => vec![rule],
    });
    rules.collect()
}
