//! Groups of intervals that are equally long.
//!
//! DataFusion 55.2 compares months, days and nanoseconds in turn, and makes two groups of `24 hours` and `1 day`
//! (apache/datafusion#8468). Here groups are made by length, and show the first of their intervals in DataFusion's order, as
//! PostgreSQL and DuckDB show one of them.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, IntervalUnit};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, Result, not_impl_err};
use datafusion::config::ConfigOptions;
use datafusion::functions_aggregate::min_max::min;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Aggregate, Distinct, Expr, ExprSchemable, LogicalPlan, Projection};
use datafusion::optimizer::AnalyzerRule;
use squadron_shuffle::functions::canonical;

use crate::plan_limits::expressions::rewrite_types;

/// Makes such groups.
#[derive(Debug)]
pub(crate) struct GroupIntervals;

impl AnalyzerRule for GroupIntervals {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        rewrite_types(plan, |node| match node {
            LogicalPlan::Distinct(Distinct::All(input)) if has_interval(input.schema()) => {
                let keys = input.schema().columns().into_iter().map(Expr::Column).collect();
                by_length(Aggregate::try_new(input, keys, Vec::new())?)
            }
            LogicalPlan::Aggregate(aggregate) => by_length(aggregate),
            other => Ok(Transformed::no(other)),
        })
    }

    fn name(&self) -> &'static str {
        "group_intervals"
    }
}

fn has_interval(schema: &DFSchema) -> bool {
    schema.fields().iter().any(|field| is_interval(field.data_type()))
}

/// Whether values of the type are intervals whose parts are compared in turn.
pub(super) fn is_interval(data_type: &DataType) -> bool {
    *data_type == DataType::Interval(IntervalUnit::MonthDayNano)
}

fn by_length(aggregate: Aggregate) -> Result<Transformed<LogicalPlan>> {
    if let [Expr::GroupingSet(set)] = aggregate.group_expr.as_slice() {
        for key in set.distinct_expr() {
            if is_interval(&key.get_type(aggregate.input.schema())?) {
                return not_impl_err!(
                    "ROLLUP, CUBE and GROUPING SETS of an interval are not supported; group by a number: extract(epoch FROM x)"
                );
            }
        }
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    }
    let schema = Arc::clone(&aggregate.schema);
    let mut shown = HashMap::new();
    let Aggregate {
        input,
        mut group_expr,
        mut aggr_expr,
        ..
    } = aggregate;
    for (index, key) in group_expr.iter_mut().enumerate() {
        if !is_interval(schema.field(index).data_type()) {
            continue;
        }
        let (qualifier, field) = schema.qualified_field(index);
        let interval = std::mem::take(key).unalias();
        let name = format!("__interval_{index}");
        aggr_expr.push(min(interval.clone()).alias(&name));
        shown.insert(index, name);
        let length = ScalarFunction::new_udf(canonical(), vec![interval]);
        *key = Expr::ScalarFunction(length).alias_qualified(qualifier.cloned(), field.name());
    }
    let is_new = !shown.is_empty();
    let aggregate = LogicalPlan::Aggregate(Aggregate::try_new(input, group_expr, aggr_expr)?);
    if !is_new {
        return Ok(Transformed::no(aggregate));
    }
    let columns = schema
        .iter()
        .enumerate()
        .map(|(index, (qualifier, field))| match shown.get(&index) {
            Some(name) => Expr::Column(Column::new_unqualified(name)).alias_qualified(qualifier.cloned(), field.name()),
            None => Expr::Column(Column::from((qualifier, field))),
        });
    let columns = columns.collect();
    let shown = Projection::try_new(columns, Arc::new(aggregate))?;
    Ok(Transformed::yes(LogicalPlan::Projection(shown)))
}
