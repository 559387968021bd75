//! `INTERSECT ALL` and `EXCEPT ALL` that count rows.
//!
//! DataFusion 55.2 plans them as semi and anti joins, which say whether a row is on the other side, not how often
//! (apache/datafusion#12955, #12956). Here equal rows are numbered on both sides, and the joins compare the numbers too: the
//! third of five equal rows finds its partner where the other side has three.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::common::{Column, JoinType, NullEquality, Result};
use datafusion::config::ConfigOptions;
use datafusion::functions_window::row_number::row_number_udwf;
use datafusion::logical_expr::expr::{WindowFunction, WindowFunctionDefinition};
use datafusion::logical_expr::{Distinct, Expr, ExprFunctionExt, Join, LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::AnalyzerRule;

/// Numbers the equal rows of `INTERSECT ALL` and `EXCEPT ALL`.
#[derive(Debug)]
pub(crate) struct CountEqualRows;

const NUMBER: &str = "__number";

impl AnalyzerRule for CountEqualRows {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Join(join) if is_multiset_operation(&join) => count_rows(join).map(Transformed::yes),
            other => Ok(Transformed::no(other)),
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "count_equal_rows"
    }
}

/// In a plan that no rule has seen, only set operations join where NULL equals NULL. Without ALL, the left side is
/// distinct.
fn is_multiset_operation(join: &Join) -> bool {
    let is_set_operation = matches!(join.join_type, JoinType::LeftSemi | JoinType::LeftAnti)
        && join.null_equality == NullEquality::NullEqualsNull;
    is_set_operation && !matches!(*join.left, LogicalPlan::Distinct(Distinct::All(_)))
}

fn count_rows(join: Join) -> Result<LogicalPlan> {
    let columns = join.left.schema().columns();
    let mut on: (Vec<Expr>, Vec<Expr>) = join.on.into_iter().unzip();
    let left = numbered(&join.left)?;
    let right = numbered(&join.right)?;
    on.0.push(number_of(&left));
    on.1.push(number_of(&right));
    let joined = LogicalPlanBuilder::from(left).join_detailed_with_options(
        right,
        join.join_type,
        (columns_of(on.0), columns_of(on.1)),
        join.filter,
        join.null_equality,
        join.null_aware,
    )?;
    joined.project(columns.into_iter().map(Expr::Column))?.build()
}

fn columns_of(keys: Vec<Expr>) -> Vec<Column> {
    let columns = keys.into_iter().filter_map(|key| match key {
        Expr::Column(column) => Some(column),
        _ => None,
    });
    columns.collect()
}

/// The rows with a number among those that equal them.
fn numbered(input: &Arc<LogicalPlan>) -> Result<LogicalPlan> {
    let columns: Vec<_> = input.schema().columns().into_iter().map(Expr::Column).collect();
    let number = WindowFunction::new(WindowFunctionDefinition::WindowUDF(row_number_udwf()), Vec::new());
    let number = Expr::from(number).partition_by(columns).build()?.alias(NUMBER);
    LogicalPlanBuilder::from(LogicalPlan::clone(input))
        .window(vec![number])?
        .build()
}

fn number_of(numbered: &LogicalPlan) -> Expr {
    let last = numbered.schema().iter().last();
    last.map_or_else(
        || Expr::Column(Column::new_unqualified(NUMBER)),
        |last| Expr::Column(Column::from(last)),
    )
}
