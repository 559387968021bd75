//! Subqueries in expressions, as the standard means them, in forms that DataFusion's rules turn into joins.
//!
//! | expression | in DataFusion 55.2 | becomes |
//! |---|---|---|
//! | `(SELECT x FROM ...)` | planned only if it is an aggregate; never NULL where `x` is not | `(SELECT single_value(x) FROM ...)`, an error for a second row |
//! | `(SELECT x FROM ... ORDER BY k LIMIT 1)`, correlated | refused | `(SELECT first_value(x ORDER BY k) FROM ...)` |
//! | `EXISTS (...)` outside of WHERE | refused | the mark of a mark join |
//! | `EXISTS (...)`, not correlated, or with OFFSET | OFFSET is dropped (apache/datafusion#25283) | `(SELECT count(*) ...) > n` |
//! | `EXISTS` and `IN` over an aggregate of all rows, correlated | no row where there is no input (#24960) | true, and `=` |
//! | window functions, grouping sets and inner LIMIT over a correlated condition | computed before the condition (#25284, #25519) | refused |
//! | `x NOT IN (...)`, correlated or inside of other conditions | two-valued (apache/datafusion#25347) | `CASE` over `EXISTS` |
//!
//! `x IN (SELECT y ...)` is true where a `y` equals `x`; otherwise it is NULL where `x` is NULL and there is a row, or
//! where a `y` is NULL; otherwise false. A filter drops NULL like false, so `IN` itself may stay as it is there.

mod conditions;
mod joins;
mod sorts;
mod unions;

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, DFSchema, ExprSchema, Result, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::functions_aggregate::count::count_all;
use datafusion::functions_aggregate::first_last::first_value_udaf;
use datafusion::logical_expr::expr::{
    AggregateFunction, Exists, InSubquery, SetComparison, SetQuantifier, Sort as SortKey,
};
use datafusion::logical_expr::logical_plan::{FetchType, Limit, SkipType, Subquery};
use datafusion::logical_expr::{
    AggregateUDF, BinaryExpr, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator, binary_expr, lit, not,
    when,
};
use datafusion::optimizer::AnalyzerRule;
use squadron_shuffle::functions::{held, single_value};

use self::conditions::Moved;
use super::unnest::{self, Names, references};
use crate::plan_limits::expressions::{has_subquery, rewrite_node};

/// Rewrites the subqueries of a plan.
#[derive(Debug)]
pub(crate) struct RewriteSubqueries {
    single_value: Arc<AggregateUDF>,
}

impl Default for RewriteSubqueries {
    fn default() -> Self {
        Self {
            single_value: single_value(),
        }
    }
}

impl AnalyzerRule for RewriteSubqueries {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let names = Names::default();
        let plan = unions::coerced(plan)?;
        plan.transform_up_with_subqueries(|node| self.rewrite(node, &names))
            .data()
    }

    fn name(&self) -> &'static str {
        "rewrite_subqueries"
    }
}

impl RewriteSubqueries {
    /// Rewrites a node whose inputs and subqueries are rewritten.
    fn rewrite(&self, node: LogicalPlan, names: &Names) -> Result<Transformed<LogicalPlan>> {
        unnest::lateral(node, names)?.transform_data(|node| match has_subquery(&node)? {
            false => Ok(Transformed::no(node)),
            true => match conditions::moved(node)? {
                Moved::Filter(filter) => self.rewrite_expressions(filter, names),
                Moved::Inputs(join, inputs) => {
                    let inputs = inputs.into_iter().map(|input| match has_subquery(&input)? {
                        true => Ok(self.rewrite_expressions(input, names)?.data),
                        false => Ok(input),
                    });
                    let join = join.with_new_exprs(join.expressions(), inputs.collect::<Result<_>>()?)?;
                    self.rewrite_expressions(join, names)
                        .map(|join| Transformed::yes(join.data))
                }
                Moved::No(node) => match sorts::widened(&node)? {
                    Some((sort, columns)) => {
                        let sort = self.rewrite_expressions(sort, names)?.data;
                        let plan = LogicalPlanBuilder::from(sort).project(columns)?.build()?;
                        Ok(Transformed::yes(plan))
                    }
                    None => self.rewrite_expressions(node, names),
                },
            },
        })
    }

    fn rewrite_expressions(&self, node: LogicalPlan, names: &Names) -> Result<Transformed<LogicalPlan>> {
        let is_filter = matches!(node, LogicalPlan::Filter(_));
        // DataFusion makes filters of the conditions of a join where it can, and has a form for IN there.
        let is_join = matches!(node, LogicalPlan::Join(_));
        let node = rewrite_node(node, |expression, schema| {
            let expression = expression.transform_up(|part| with_references(part, schema))?;
            if is_join {
                return expression.transform_data(|expression| self.scalars(expression));
            }
            let tie = schema.iter().last().filter(|_| is_filter).map(Column::from);
            let expression = expression.transform_data(|expression| expression.transform_up(one_row))?;
            let expression = expression.transform_data(|expression| match is_filter {
                true => in_filter(expression, Place::Conjunct, schema),
                false => everywhere(expression, schema),
            })?;
            let expression = expression.transform_data(|expression| {
                expression.transform_up(|part| existence(part)?.map_data(|part| Ok(tied(part, &tie))))
            })?;
            expression.transform_data(|expression| self.scalars(expression))
        })?;
        node.transform_data(|node| joins::joined(node, names))
    }

    /// Gives scalar subqueries at most one row.
    fn scalars(&self, expression: Expr) -> Result<Transformed<Expr>> {
        expression.transform_down(|part| match part {
            Expr::ScalarSubquery(subquery) => {
                let is_correlated = !subquery.outer_ref_columns.is_empty();
                let Some(single) = self.single_row(&subquery.subquery, is_correlated)? else {
                    return Ok(Transformed::no(Expr::ScalarSubquery(subquery)));
                };
                let subquery = Subquery {
                    subquery: Arc::new(single),
                    ..subquery
                };
                Ok(Transformed::yes(Expr::ScalarSubquery(subquery)))
            }
            other => Ok(Transformed::no(other)),
        })
    }

    /// The query with one row; none where it has one anyway.
    fn single_row(&self, query: &LogicalPlan, is_correlated: bool) -> Result<Option<LogicalPlan>> {
        let [field] = query.schema().fields().as_ref() else {
            return Ok(None);
        };
        if has_one_row(query, is_correlated) {
            return match is_correlated {
                true => under_own_name(query),
                false => Ok(None),
            };
        }
        let (input, value) = match query {
            LogicalPlan::Limit(limit) if has_one_row(&limit.input, is_correlated) && takes_first(limit)? => {
                return Ok(Some(LogicalPlan::clone(&limit.input)));
            }
            LogicalPlan::Limit(limit) if is_correlated => match first_row(limit)? {
                Some(first) => first,
                None => return Ok(None),
            },
            _ => {
                let column = Expr::Column(Column::from(query.schema().qualified_field(0)));
                (query.clone(), aggregate(&self.single_value, column, Vec::new()))
            }
        };
        let name = value.schema_name().to_string();
        let single = LogicalPlanBuilder::from(input)
            .aggregate(Vec::<Expr>::new(), vec![value])?
            .project(vec![
                Expr::Column(Column::new_unqualified(name)).alias(own_name(field.name())),
            ])?;
        single.build().map(Some)
    }
}

/// The name of a subquery's value, which no column of its condition has. DataFusion takes both up to its join.
fn own_name(name: &str) -> String {
    format!("__value_{name}")
}

/// The query with a value of its own name, if it has that of a column.
fn under_own_name(query: &LogicalPlan) -> Result<Option<LogicalPlan>> {
    let LogicalPlan::Projection(projection) = query else {
        return Ok(None);
    };
    match projection.expr.as_slice() {
        [Expr::Alias(value)] if !value.name.starts_with("__value_") => {
            let value = value.expr.as_ref().clone().alias(own_name(&value.name));
            let named = LogicalPlanBuilder::from(LogicalPlan::clone(&projection.input)).project(vec![value])?;
            named.build().map(Some)
        }
        _ => Ok(None),
    }
}

fn aggregate(function: &Arc<AggregateUDF>, value: Expr, order_by: Vec<SortKey>) -> Expr {
    let call = AggregateFunction::new_udf(Arc::clone(function), vec![value], false, None, order_by, None);
    Expr::AggregateFunction(call)
}

/// Whether the query is an aggregate of all rows, which has one row, or a constant. HAVING may take the row away, which
/// DataFusion takes into account where the query is correlated.
fn has_one_row(query: &LogicalPlan, is_correlated: bool) -> bool {
    match query {
        LogicalPlan::Projection(projection) => has_one_row(&projection.input, is_correlated),
        LogicalPlan::SubqueryAlias(alias) => has_one_row(&alias.input, is_correlated),
        LogicalPlan::Filter(filter) if is_correlated => {
            matches!(&*filter.input, LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.is_empty())
        }
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::EmptyRelation(empty) => empty.produce_one_row,
        _ => false,
    }
}

/// Membership in the one row of an aggregate.
fn one_row(part: Expr) -> Result<Transformed<Expr>> {
    match part {
        Expr::InSubquery(InSubquery {
            expr,
            subquery,
            negated,
        }) if has_one_row(&subquery.subquery, true) && !subquery.outer_ref_columns.is_empty() => {
            let value = Expr::ScalarSubquery(subquery);
            Ok(Transformed::yes(match negated {
                true => (*expr).not_eq(value),
                false => Expr::eq(*expr, value),
            }))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// EXISTS in a form that keeps LIMIT and OFFSET.
fn existence(part: Expr) -> Result<Transformed<Expr>> {
    let Expr::Exists(Exists { subquery, negated }) = part else {
        return Ok(Transformed::no(part));
    };
    if is_row_of_all(&subquery.subquery) {
        return Ok(Transformed::yes(lit(!negated)));
    }
    if !subquery.outer_ref_columns.is_empty() {
        let subquery = without_limit(subquery)?;
        return Ok(Transformed::yes(Expr::Exists(Exists { subquery, negated })));
    }
    let count = LogicalPlanBuilder::from(LogicalPlan::clone(&subquery.subquery))
        .limit(0, Some(1))?
        .aggregate(Vec::<Expr>::new(), vec![count_all().alias("count")])?;
    let subquery = Subquery {
        subquery: Arc::new(count.build()?),
        ..subquery
    };
    let count = Expr::ScalarSubquery(subquery);
    Ok(Transformed::yes(match negated {
        true => count.lt_eq(lit(0_i64)),
        false => count.gt(lit(0_i64)),
    }))
}

/// A subquery of which only matters whether it has rows, without a LIMIT and an order that do not matter.
fn without_limit(subquery: Subquery) -> Result<Subquery> {
    let rows = match subquery.subquery.as_ref() {
        LogicalPlan::Limit(limit) if takes_first(limit)? => Arc::clone(&limit.input),
        LogicalPlan::Sort(sort) => Arc::clone(&sort.input),
        _ => return Ok(subquery),
    };
    without_limit(Subquery {
        subquery: rows,
        ..subquery
    })
}

/// A condition of a filter without columns, tied to one: it must not be moved below an aggregate.
fn tied(condition: Expr, tie: &Option<Column>) -> Expr {
    match tie {
        Some(column) if is_free_count(&condition) => held(vec![condition, Expr::Column(column.clone())]),
        _ => condition,
    }
}

/// Whether it compares the number of rows of a subquery that is not correlated.
fn is_free_count(condition: &Expr) -> bool {
    let Expr::BinaryExpr(BinaryExpr { left, .. }) = condition else {
        return false;
    };
    matches!(left.as_ref(), Expr::ScalarSubquery(subquery) if subquery.outer_ref_columns.is_empty())
}

/// Whether there is one row whatever the input is.
fn is_row_of_all(query: &LogicalPlan) -> bool {
    match query {
        LogicalPlan::Projection(projection) => is_row_of_all(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => is_row_of_all(&alias.input),
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        _ => false,
    }
}

/// Whether LIMIT leaves the first row.
fn takes_first(limit: &Limit) -> Result<bool> {
    let fetches = matches!(limit.get_fetch_type()?, FetchType::Literal(None | Some(1..)));
    Ok(fetches && matches!(limit.get_skip_type()?, SkipType::Literal(0)))
}

/// The value of the row that `LIMIT 1` leaves, as an aggregate of the rows that are sorted for it.
fn first_row(limit: &Limit) -> Result<Option<(LogicalPlan, Expr)>> {
    let is_first = matches!(limit.get_skip_type()?, SkipType::Literal(0))
        && matches!(limit.get_fetch_type()?, FetchType::Literal(Some(1)));
    if !is_first {
        return Ok(None);
    }
    let (value, below) = match limit.input.as_ref() {
        LogicalPlan::Projection(projection) if matches!(*projection.input, LogicalPlan::Sort(_)) => {
            (projection.expr[0].clone().unalias(), &projection.input)
        }
        other => (
            Expr::Column(Column::from(other.schema().qualified_field(0))),
            &limit.input,
        ),
    };
    Ok(Some(match below.as_ref() {
        LogicalPlan::Sort(sort) => {
            let value = aggregate(&first_value_udaf(), value, sort.expr.clone());
            (LogicalPlan::clone(&sort.input), value)
        }
        other => (other.clone(), aggregate(&first_value_udaf(), value, Vec::new())),
    }))
}

/// A subquery that tells which columns it names of the queries around, with the types that these columns have.
fn with_references(mut part: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let subquery = match &mut part {
        Expr::ScalarSubquery(subquery) => subquery,
        Expr::Exists(exists) => &mut exists.subquery,
        Expr::InSubquery(membership) => &mut membership.subquery,
        Expr::SetComparison(comparison) => &mut comparison.subquery,
        _ => return Ok(Transformed::no(part)),
    };
    let query = unions::with_types_of(LogicalPlan::clone(&subquery.subquery), schema)?;
    subquery.outer_ref_columns = references(&query)?;
    subquery.subquery = Arc::new(query);
    Ok(Transformed::yes(part))
}

/// Where in a filter's predicate an expression stands.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// One of the conditions that must all be true.
    Conjunct,
    /// Below AND and OR alone, where NULL means the same as false.
    Condition,
}

/// Rewrites what DataFusion would not plan with three-valued logic in a filter.
fn in_filter(expression: Expr, place: Place, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match expression {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: op @ (Operator::And | Operator::Or),
            right,
        }) => {
            let place = match op {
                Operator::And => place,
                _ => Place::Condition,
            };
            let left = in_filter(*left, place, schema)?;
            let right = in_filter(*right, place, schema)?;
            let is_new = left.transformed || right.transformed;
            let both = Expr::BinaryExpr(BinaryExpr::new(Box::new(left.data), op, Box::new(right.data)));
            Ok(Transformed::new_transformed(both, is_new))
        }
        Expr::Not(inner) if matches!(*inner, Expr::InSubquery(_)) => {
            let Expr::InSubquery(membership) = *inner else {
                return everywhere(Expr::Not(inner), schema);
            };
            let negated = !membership.negated;
            in_filter(Expr::InSubquery(InSubquery { negated, ..membership }), place, schema)
        }
        Expr::InSubquery(membership) if !membership.negated => {
            match is_planned_condition(&membership.expr, &membership.subquery, schema)? {
                true => Ok(Transformed::no(Expr::InSubquery(membership))),
                false => any_equal(membership, schema).map(Transformed::yes),
            }
        }
        // DataFusion has a join of its own for this.
        Expr::InSubquery(membership)
            if place == Place::Conjunct
                && membership.subquery.outer_ref_columns.is_empty()
                && is_column(&membership.expr) =>
        {
            Ok(Transformed::no(Expr::InSubquery(membership)))
        }
        Expr::Exists(exists) => Ok(Transformed::no(Expr::Exists(exists))),
        // DataFusion has a form for this.
        Expr::SetComparison(comparison) if is_planned_condition(&comparison.expr, &comparison.subquery, schema)? => {
            Ok(Transformed::no(Expr::SetComparison(comparison)))
        }
        other => everywhere(other, schema),
    }
}

/// Whether DataFusion joins a subquery whose column is compared with `value`. It gives one that is correlated a second
/// column of the same name where types differ.
fn is_planned_condition(value: &Expr, subquery: &Subquery, schema: &DFSchema) -> Result<bool> {
    if subquery.outer_ref_columns.is_empty() {
        return Ok(true);
    }
    let member = subquery.subquery.schema().field(0).data_type();
    Ok(value.get_type(schema)? == *member && joins::is_planned(subquery, schema)?)
}

fn is_column(expression: &Expr) -> bool {
    matches!(expression, Expr::Column(_))
}

/// Rewrites every `IN` and `NOT IN` of an expression whose NULL is not the same as false.
fn everywhere(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    expression.transform_up(|part| match part {
        Expr::InSubquery(membership) => three_valued(membership, schema).map(Transformed::yes),
        Expr::SetComparison(comparison) => quantified(comparison, schema).map(Transformed::yes),
        other => Ok(Transformed::no(other)),
    })
}

/// `x [NOT] IN (SELECT y ...)` as conditions that are true or false each.
fn three_valued(membership: InSubquery, schema: &DFSchema) -> Result<Expr> {
    let InSubquery {
        expr: value,
        subquery,
        negated,
    } = membership;
    let member = member(&subquery);
    let outer = as_outer(value.as_ref().clone(), schema)?;
    let null = || lit(ScalarValue::Boolean(None));
    let mut cases = when(exists_where(&subquery, Some(outer.eq(member.clone())))?, lit(!negated));
    cases = cases.when(value.is_null().and(exists_where(&subquery, None)?), null());
    cases = cases.when(exists_where(&subquery, Some(member.is_null()))?, null());
    cases.otherwise(lit(negated))
}

/// `x IN (SELECT y ...)` where NULL means the same as false.
fn any_equal(membership: InSubquery, schema: &DFSchema) -> Result<Expr> {
    let outer = as_outer(*membership.expr, schema)?;
    let equal = outer.eq(member(&membership.subquery));
    exists_where(&membership.subquery, Some(equal))
}

/// `x > ANY (SELECT y ...)` or `x > ALL (...)` as conditions that are true or false each.
fn quantified(comparison: SetComparison, schema: &DFSchema) -> Result<Expr> {
    let SetComparison {
        expr: value,
        subquery,
        op,
        quantifier,
    } = comparison;
    let compared = binary_expr(as_outer(*value, schema)?, op, member(&subquery));
    // One row decides: with ANY where it is true, with ALL where it is false.
    let (decides, decided) = match quantifier {
        SetQuantifier::Any => (compared.clone(), true),
        SetQuantifier::All => (not(compared.clone()), false),
    };
    when(exists_where(&subquery, Some(decides))?, lit(decided))
        .when(
            exists_where(&subquery, Some(compared.is_null()))?,
            lit(ScalarValue::Boolean(None)),
        )
        .otherwise(lit(!decided))
}

/// The column of a subquery.
fn member(subquery: &Subquery) -> Expr {
    Expr::Column(Column::from(subquery.subquery.schema().qualified_field(0)))
}

/// Whether the subquery has a row that meets the condition, or any.
fn exists_where(subquery: &Subquery, condition: Option<Expr>) -> Result<Expr> {
    let mut rows = LogicalPlanBuilder::from(LogicalPlan::clone(&subquery.subquery));
    if let Some(condition) = condition {
        rows = rows.filter(condition)?;
    }
    let rows = rows.build()?;
    Ok(Expr::Exists(Exists {
        subquery: Subquery {
            outer_ref_columns: references(&rows)?,
            subquery: Arc::new(rows),
            spans: subquery.spans.clone(),
        },
        negated: false,
    }))
}

/// An expression of the query around, as the subquery sees it.
fn as_outer(expression: Expr, schema: &DFSchema) -> Result<Expr> {
    expression
        .transform_up(|part| match part {
            Expr::Column(column) => {
                let field = Arc::clone(schema.field_from_column(&column)?);
                Ok(Transformed::yes(Expr::OuterReferenceColumn(field, column)))
            }
            other => Ok(Transformed::no(other)),
        })
        .data()
}
