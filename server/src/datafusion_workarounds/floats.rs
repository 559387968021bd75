//! Floats are compared by their values where DataFusion 55.2 compares their bits: as keys of ORDER BY, of `DISTINCT ON` and
//! of windows, in lists, in `CASE x WHEN`, in `nullif`, in DISTINCT aggregates, in functions that look for an element of an
//! array, and as parts of lists, structs and maps that are compared or grouped. What divides makes no NaN with a sign.
//!
//! Intervals are compared by their length in the same places, and `min` and `max` of them are the first in that order.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, DFSchema, Result};
use datafusion::config::ConfigOptions;
use datafusion::functions_aggregate::first_last::first_value_udaf;
use datafusion::logical_expr::expr::{AggregateFunction, InSubquery, ScalarFunction, Sort as SortKey};
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Distinct, DistinctOn, Expr, ExprSchemable, Join, JoinConstraint, LogicalPlan, Operator,
    Projection, ScalarUDF, Subquery,
};
use datafusion::optimizer::AnalyzerRule;
use squadron_shuffle::functions::{canonical, has_floats, held, row_key};

use super::intervals::is_interval;
use crate::plan_limits::expressions::rewrite_node;

/// Functions that compare the elements of arrays.
const SEARCHING: [&str; 16] = [
    "array_has",
    "array_has_all",
    "array_has_any",
    "array_position",
    "array_positions",
    "array_remove",
    "array_remove_n",
    "array_remove_all",
    "array_replace",
    "array_replace_n",
    "array_replace_all",
    "array_distinct",
    "array_union",
    "array_intersect",
    "array_except",
    "array_sort",
];

/// Makes floats canonical where that matters.
#[derive(Debug)]
pub(crate) struct CanonicalFloats {
    canonical: Arc<ScalarUDF>,
}

impl Default for CanonicalFloats {
    fn default() -> Self {
        Self { canonical: canonical() }
    }
}

impl AnalyzerRule for CanonicalFloats {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_down_with_subqueries(|node| {
            let is_sort = matches!(node, LogicalPlan::Sort(_));
            let node = rewrite_node(node, |expression, schema| {
                let within = expression.transform_up(|part| match part {
                    Expr::InSubquery(membership) => self.member(membership, schema),
                    other => Ok(self.within(other, schema)),
                })?;
                within.transform_data(|expression| {
                    Ok(match is_sort {
                        true => self.key(expression, schema),
                        false => Transformed::no(expression),
                    })
                })
            })?;
            node.transform_data(|node| self.grouped(node))
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "canonical_floats"
    }
}

impl CanonicalFloats {
    /// The expression as a key.
    fn key(&self, expression: Expr, schema: &DFSchema) -> Transformed<Expr> {
        let is_canonical = matches!(&expression, Expr::ScalarFunction(call) if call.func == self.canonical);
        let has_forms = || {
            expression
                .get_type(schema)
                .is_ok_and(|data_type| has_floats(&data_type) || is_interval(&data_type))
        };
        if is_canonical || !has_forms() {
            return Transformed::no(expression);
        }
        let call = ScalarFunction::new_udf(Arc::clone(&self.canonical), vec![expression]);
        Transformed::yes(Expr::ScalarFunction(call))
    }

    fn each<'a>(&self, expressions: impl IntoIterator<Item = &'a mut Expr>, schema: &DFSchema) -> bool {
        let mut is_new = false;
        for expression in expressions {
            let key = self.key(std::mem::take(expression), schema);
            is_new |= key.transformed;
            *expression = key.data;
        }
        is_new
    }

    fn within(&self, part: Expr, schema: &DFSchema) -> Transformed<Expr> {
        match part {
            Expr::InList(mut list) => {
                let operands = std::iter::once(list.expr.as_mut()).chain(&mut list.list);
                let is_new = self.each(operands, schema);
                Transformed::new_transformed(Expr::InList(list), is_new)
            }
            Expr::Case(mut case) => {
                let Some(base) = &mut case.expr else {
                    return Transformed::no(Expr::Case(case));
                };
                let whens = case.when_then_expr.iter_mut().map(|(when, _)| when.as_mut());
                let is_new = self.each(std::iter::once(base.as_mut()).chain(whens), schema);
                Transformed::new_transformed(Expr::Case(case), is_new)
            }
            Expr::ScalarFunction(mut call) if call.name() == "nullif" || SEARCHING.contains(&call.name()) => {
                let is_new = self.each(&mut call.args, schema);
                Transformed::new_transformed(Expr::ScalarFunction(call), is_new)
            }
            Expr::AggregateFunction(aggregate) if matches!(aggregate.func.name(), "min" | "max") => {
                first_interval(aggregate, &self.canonical, schema)
            }
            Expr::AggregateFunction(mut aggregate) if aggregate.params.distinct => {
                let is_new = self.each(&mut aggregate.params.args, schema);
                Transformed::new_transformed(Expr::AggregateFunction(aggregate), is_new)
            }
            Expr::WindowFunction(mut window) => {
                let order = window.params.order_by.iter_mut().map(|key| &mut key.expr);
                let keys = window.params.partition_by.iter_mut().chain(order);
                let is_new = self.each(keys, schema);
                Transformed::new_transformed(Expr::WindowFunction(window), is_new)
            }
            Expr::BinaryExpr(BinaryExpr {
                op: Operator::Divide | Operator::Modulo,
                ..
            }) => self.key(part, schema),
            // Floats that are not nested are compared by their values.
            Expr::BinaryExpr(BinaryExpr {
                mut left,
                op,
                mut right,
            }) if is_comparison(op) && (has_other_forms(&left, schema) || has_other_forms(&right, schema)) => {
                let is_new = self.each([left.as_mut(), right.as_mut()], schema);
                // As keys of a join, both sides would be columns with the names of those that they are made of.
                let may_join = is_new && !left.column_refs().is_empty() && !right.column_refs().is_empty();
                let comparison = Expr::BinaryExpr(BinaryExpr::new(left, op, right));
                let comparison = match may_join {
                    true => held(vec![comparison]),
                    false => comparison,
                };
                Transformed::new_transformed(comparison, is_new)
            }
            other => Transformed::no(other),
        }
    }

    /// The node with canonical keys where it makes groups of nested values, and of any floats in `DISTINCT ON`.
    fn grouped(&self, node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
        match node {
            LogicalPlan::Distinct(Distinct::On(on)) => self.distinct_on(on),
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let schema = Arc::clone(input.schema());
                let mut is_new = false;
                let columns = schema.iter().map(|(qualifier, field)| {
                    let column = Expr::Column(Column::from((qualifier, field)));
                    if !is_nested(&column, &schema) {
                        return column;
                    }
                    let key = self.key(column, &schema);
                    is_new |= key.transformed;
                    match key.transformed {
                        true => key.data.alias_qualified(qualifier.cloned(), field.name()),
                        false => key.data,
                    }
                });
                let columns: Vec<_> = columns.collect();
                let input = match is_new {
                    true => Arc::new(LogicalPlan::Projection(Projection::try_new(columns, input)?)),
                    false => input,
                };
                let distinct = LogicalPlan::Distinct(Distinct::All(input));
                Ok(Transformed::new_transformed(distinct, is_new))
            }
            LogicalPlan::Aggregate(aggregate) => self.groups(aggregate),
            LogicalPlan::Join(join) => Ok(self.joined(join)),
            other => Ok(Transformed::no(other)),
        }
    }

    /// Membership in the rows of a subquery, of which a join on its column is made.
    fn member(&self, membership: InSubquery, schema: &DFSchema) -> Result<Transformed<Expr>> {
        let rows = &membership.subquery.subquery;
        let column = Expr::Column(Column::from(rows.schema().qualified_field(0)));
        if !has_other_forms(&membership.expr, schema) || !has_other_forms(&column, rows.schema()) {
            return Ok(Transformed::no(Expr::InSubquery(membership)));
        }
        let key = self.by_value(column, rows.schema());
        let rows = Projection::try_new(vec![key], Arc::clone(rows))?;
        let subquery = Subquery {
            subquery: Arc::new(LogicalPlan::Projection(rows)),
            ..membership.subquery
        };
        let operand = self.by_value(*membership.expr, schema);
        let membership = InSubquery::new(Box::new(operand), subquery, membership.negated);
        Ok(Transformed::yes(Expr::InSubquery(membership)))
    }

    /// The value as bytes that are equal where it is, under another name.
    fn by_value(&self, value: Expr, schema: &DFSchema) -> Expr {
        let value = self.key(value, schema).data;
        Expr::ScalarFunction(ScalarFunction::new_udf(row_key(), vec![value]))
    }

    /// The join with keys that are compared by their values: set operations, USING and IN join on columns.
    fn joined(&self, mut join: Join) -> Transformed<LogicalPlan> {
        let mut is_new = false;
        let keys = std::mem::take(&mut join.on).into_iter().map(|(left, right)| {
            if !has_other_forms(&left, join.left.schema()) || !has_other_forms(&right, join.right.schema()) {
                return (left, right);
            }
            is_new = true;
            // The join's output has the columns of both sides, so its keys have other names.
            let left = self.by_value(left, join.left.schema());
            (left, self.by_value(right, join.right.schema()))
        });
        join.on = keys.collect();
        if is_new {
            // The columns of USING are merged by now.
            join.join_constraint = JoinConstraint::On;
        }
        Transformed::new_transformed(LogicalPlan::Join(join), is_new)
    }

    fn distinct_on(&self, on: DistinctOn) -> Result<Transformed<LogicalPlan>> {
        let schema = Arc::clone(on.input.schema());
        let DistinctOn {
            mut on_expr,
            select_expr,
            mut sort_expr,
            input,
            ..
        } = on;
        let keys = sort_expr.iter_mut().flatten().map(|key| &mut key.expr);
        let is_new = self.each(on_expr.iter_mut().chain(keys), &schema);
        let distinct = DistinctOn::try_new(on_expr, select_expr, sort_expr, input)?;
        Ok(Transformed::new_transformed(
            LogicalPlan::Distinct(Distinct::On(distinct)),
            is_new,
        ))
    }

    fn groups(&self, aggregate: Aggregate) -> Result<Transformed<LogicalPlan>> {
        let schema = Arc::clone(aggregate.input.schema());
        if !aggregate.group_expr.iter().any(|key| is_nested(key, &schema)) {
            return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
        }
        let names: Vec<_> = aggregate
            .schema
            .iter()
            .map(|(qualifier, field)| (qualifier.cloned(), field.name().clone()))
            .collect();
        let Aggregate {
            input,
            group_expr,
            aggr_expr,
            ..
        } = aggregate;
        let mut is_new = false;
        let keys = group_expr.into_iter().zip(names).map(|(key, (qualifier, name))| {
            if !is_nested(&key, &schema) {
                return key;
            }
            let key = self.key(key, &schema);
            is_new |= key.transformed;
            match key.transformed {
                true => key.data.alias_qualified(qualifier, name),
                false => key.data,
            }
        });
        let keys: Vec<_> = keys.collect();
        let aggregate = Aggregate::try_new(input, keys, aggr_expr)?;
        Ok(Transformed::new_transformed(LogicalPlan::Aggregate(aggregate), is_new))
    }
}

/// Whether the operator compares values; DataFusion counts patterns too.
pub(super) fn is_comparison(op: Operator) -> bool {
    matches!(
        op,
        Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
    )
}

/// Whether DataFusion takes values that are equal for different ones where it compares two.
fn has_other_forms(expression: &Expr, schema: &DFSchema) -> bool {
    is_nested(expression, schema)
        || expression
            .get_type(schema)
            .is_ok_and(|data_type| is_interval(&data_type))
}

/// `min` and `max` of an interval as the first in the order of their lengths.
fn first_interval(
    mut aggregate: AggregateFunction,
    canonical: &Arc<ScalarUDF>,
    schema: &DFSchema,
) -> Transformed<Expr> {
    let is_min = aggregate.func.name() == "min";
    let interval = aggregate.params.args.first();
    let data_type = interval.and_then(|interval| interval.get_type(schema).ok());
    let (Some(interval), Some(true)) = (interval, data_type.as_ref().map(is_interval)) else {
        return Transformed::no(Expr::AggregateFunction(aggregate));
    };
    let length = ScalarFunction::new_udf(Arc::clone(canonical), vec![interval.clone()]);
    aggregate.params.order_by = vec![SortKey::new(Expr::ScalarFunction(length), is_min, false)];
    aggregate.params.distinct = false;
    aggregate.func = first_value_udaf();
    Transformed::yes(Expr::AggregateFunction(aggregate))
}

/// Whether the value is a list, struct or map with floats.
fn is_nested(expression: &Expr, schema: &DFSchema) -> bool {
    let data_type = expression.get_type(schema);
    data_type.is_ok_and(|data_type| !data_type.is_floating() && has_floats(&data_type))
}
