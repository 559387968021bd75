//! Subqueries in expressions, as the standard means them, in forms that DataFusion's rules turn into joins.
//!
//! | expression | in DataFusion 55.2 | becomes |
//! |---|---|---|
//! | `(SELECT x FROM ...)` | planned only if it is an aggregate; never NULL where `x` is not | `(SELECT single_value(x) FROM ...)`, an error for a second row |
//! | `(SELECT x FROM ... ORDER BY k LIMIT 1)`, correlated | refused | `(SELECT first_value(x ORDER BY k) FROM ...)` |
//! | `EXISTS (...)` in SELECT or GROUP BY | refused | the mark of a mark join |
//! | `EXISTS (...)`, not correlated, or with OFFSET | OFFSET is dropped (apache/datafusion#25283) | `(SELECT count(*) ...) > n` |
//! | `EXISTS` and `IN` over an aggregate of all rows, correlated | no row where there is no input (#24960) | true, and `=` |
//! | window functions, grouping sets and inner LIMIT over a correlated condition | computed before the condition (#25284, #25519) | refused |
//! | `x NOT IN (...)`, correlated or inside of other conditions | two-valued (apache/datafusion#25347) | `CASE` over `EXISTS` |
//!
//! `x IN (SELECT y ...)` is true where a `y` equals `x`; otherwise it is NULL where `x` is NULL and there is a row, or
//! where a `y` is NULL; otherwise false. A filter drops NULL like false, so `IN` itself may stay as it is there.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ExprSchema, Result, ScalarValue, not_impl_err};
use datafusion::config::ConfigOptions;
use datafusion::functions_aggregate::count::count_all;
use datafusion::functions_aggregate::first_last::first_value_udaf;
use datafusion::logical_expr::expr::{AggregateFunction, Exists, InSubquery, Sort as SortKey};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::logical_plan::{FetchType, Limit, SkipType, Subquery};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{
    AggregateUDF, BinaryExpr, Expr, JoinType, LogicalPlan, LogicalPlanBuilder, Operator, lit, not, when,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::decorrelate::PullUpCorrelatedExpr;
use squadron_shuffle::functions::{held, single_value};

use crate::plan_limits::expressions::{any_expression, rewrite_node};

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
        let mut marks = Marks::default();
        plan.transform_down_with_subqueries(|node| self.rewrite(node, &mut marks))
            .data()
    }

    fn name(&self) -> &'static str {
        "rewrite_subqueries"
    }
}

impl RewriteSubqueries {
    fn rewrite(&self, node: LogicalPlan, marks: &mut Marks) -> Result<Transformed<LogicalPlan>> {
        if let LogicalPlan::Subquery(lateral) = &node
            && !lateral.outer_ref_columns.is_empty()
        {
            refuse_early_work(&lateral.subquery, false)?;
        }
        if !has_subquery(&node)? {
            return Ok(Transformed::no(node));
        }
        let is_filter = matches!(node, LogicalPlan::Filter(_));
        // DataFusion makes filters of the conditions of a join where it can, and has a form for IN there.
        let is_join = matches!(node, LogicalPlan::Join(_));
        let node = rewrite_node(node, |expression, schema| {
            if is_join {
                return self.scalars(expression);
            }
            let tie = schema.iter().last().filter(|_| is_filter).map(Column::from);
            let expression = expression.transform_up(one_row)?;
            let expression = expression.transform_data(|expression| match is_filter {
                true => in_filter(expression, Place::Conjunct, schema),
                false => everywhere(expression, schema),
            })?;
            let expression = expression.transform_data(|expression| {
                expression.transform_up(|part| existence(part)?.map_data(|part| Ok(tied(part, &tie))))
            })?;
            expression.transform_data(|expression| self.scalars(expression))
        })?;
        node.transform_data(|node| marks.join(node))
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
            return Ok(None);
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
            .project(vec![Expr::Column(Column::new_unqualified(name)).alias(field.name())])?;
        single.build().map(Some)
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
    let is_correlated = !subquery.outer_ref_columns.is_empty();
    if is_correlated && has_one_row(&subquery.subquery, true) {
        return not_impl_err!(
            "EXISTS over an aggregate without GROUP BY and with HAVING is not supported where it is correlated; compare the \
             aggregate: (SELECT count(*) ...) > 1"
        );
    }
    let (rows, skipped) = match subquery.subquery.as_ref() {
        LogicalPlan::Limit(limit) if is_correlated => match (limit.get_skip_type()?, limit.get_fetch_type()?) {
            (_, FetchType::Literal(Some(0))) => return Ok(Transformed::yes(lit(negated))),
            (SkipType::Literal(skipped), FetchType::Literal(_)) => (Arc::clone(&limit.input), skipped),
            _ => return not_impl_err!("LIMIT and OFFSET of a correlated subquery must be numbers"),
        },
        _ => (Arc::clone(&subquery.subquery), 0),
    };
    if is_correlated {
        refuse_early_work(&rows, true)?;
    }
    if is_correlated && skipped == 0 {
        let subquery = Subquery {
            subquery: rows,
            ..subquery
        };
        return Ok(Transformed::yes(Expr::Exists(Exists { subquery, negated })));
    }
    let mut rows = LogicalPlanBuilder::from(LogicalPlan::clone(&rows));
    if !is_correlated {
        rows = rows.limit(0, Some(1))?;
    }
    let count = count_all().alias("count");
    let subquery = Subquery {
        subquery: Arc::new(rows.aggregate(Vec::<Expr>::new(), vec![count])?.build()?),
        ..subquery
    };
    let skipped = lit(i64::try_from(skipped).unwrap_or(i64::MAX));
    let count = Expr::ScalarSubquery(subquery);
    Ok(Transformed::yes(match negated {
        true => count.lt_eq(skipped),
        false => count.gt(skipped),
    }))
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

/// Refuses what would be computed before the correlated conditions below it apply.
fn refuse_early_work(query: &LogicalPlan, is_existence: bool) -> Result<()> {
    let is_sets = |expression: &Expr| matches!(expression, Expr::GroupingSet(_));
    query.apply(|node| {
        let is_correlated = || node.exists(|below| Ok(!below.all_out_ref_exprs().is_empty()));
        match node {
            LogicalPlan::Window(_) if is_correlated()? => {
                not_impl_err!(
                    "a window function over the rows of a correlated condition is not supported; write a join"
                )
            }
            LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.iter().any(is_sets) && is_correlated()? => {
                not_impl_err!("grouping sets over the rows of a correlated condition are not supported; write a join")
            }
            LogicalPlan::Limit(_) if is_existence || is_correlated()? => {
                not_impl_err!("LIMIT within a correlated subquery is not supported; write a join with row_number()")
            }
            _ => Ok(TreeNodeRecursion::Continue),
        }
    })?;
    Ok(())
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

fn has_subquery(node: &LogicalPlan) -> Result<bool> {
    any_expression(node, |expression| {
        expression.exists(|part| {
            let is_one = matches!(part, Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_));
            Ok(is_one)
        })
    })
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
            if !membership.subquery.outer_ref_columns.is_empty() {
                refuse_early_work(&membership.subquery.subquery, false)?;
            }
            Ok(Transformed::no(Expr::InSubquery(membership)))
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
        other => everywhere(other, schema),
    }
}

fn is_column(expression: &Expr) -> bool {
    matches!(expression, Expr::Column(_))
}

/// Rewrites every `IN` and `NOT IN` of an expression whose NULL is not the same as false.
fn everywhere(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    expression.transform_up(|part| match part {
        Expr::InSubquery(membership) => three_valued(membership, schema).map(Transformed::yes),
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
    let query = &subquery.subquery;
    let member = Expr::Column(Column::from(query.schema().qualified_field(0)));
    let outer = as_outer(value.as_ref().clone(), schema)?;
    let own = subquery.outer_ref_columns.clone();
    let mut all = own.clone();
    outer.apply(|part| {
        if matches!(part, Expr::OuterReferenceColumn(..)) && !all.contains(part) {
            all.push(part.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let exists = |condition: Option<Expr>, references: Vec<Expr>| -> Result<Expr> {
        let mut plan = LogicalPlanBuilder::from(LogicalPlan::clone(query));
        if let Some(condition) = condition {
            plan = plan.filter(condition)?;
        }
        Ok(Expr::Exists(Exists {
            subquery: Subquery {
                subquery: Arc::new(plan.build()?),
                outer_ref_columns: references,
                spans: subquery.spans.clone(),
            },
            negated: false,
        }))
    };
    let null = || lit(ScalarValue::Boolean(None));
    let mut cases = when(exists(Some(outer.eq(member.clone())), all)?, lit(!negated));
    cases = cases.when(value.is_null().and(exists(None, own.clone())?), null());
    cases = cases.when(exists(Some(member.is_null()), own)?, null());
    cases.otherwise(lit(negated))
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

/// Mark joins for EXISTS where DataFusion makes none: outside of filters.
#[derive(Default)]
struct Marks {
    made: usize,
}

impl Marks {
    fn join(&mut self, node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
        let mut input = match &node {
            LogicalPlan::Projection(projection) => LogicalPlan::clone(&projection.input),
            LogicalPlan::Aggregate(aggregate) => LogicalPlan::clone(&aggregate.input),
            _ => return Ok(Transformed::no(node)),
        };
        let names = NamePreserver::new(&node);
        let mut expressions = Vec::new();
        let mut is_marked = false;
        for expression in node.expressions() {
            let name = names.save(&expression);
            let marked = expression.transform_up(|part| match part {
                Expr::Exists(exists) => match self.mark(&mut input, &exists)? {
                    Some(mark) if exists.negated => Ok(Transformed::yes(not(mark))),
                    Some(mark) => Ok(Transformed::yes(mark)),
                    None => Ok(Transformed::no(Expr::Exists(exists))),
                },
                other => Ok(Transformed::no(other)),
            })?;
            is_marked |= marked.transformed;
            expressions.push(name.restore(marked.data));
        }
        if !is_marked {
            return Ok(Transformed::no(node));
        }
        node.with_new_exprs(expressions, vec![input]).map(Transformed::yes)
    }

    /// Joins the subquery to `input`; gives the column that says whether it has rows. None where it is correlated in a way
    /// that is not planned.
    fn mark(&mut self, input: &mut LogicalPlan, exists: &Exists) -> Result<Option<Expr>> {
        let mut pull_up = PullUpCorrelatedExpr::new().with_exists_sub_query(true);
        let query = LogicalPlan::clone(&exists.subquery.subquery);
        let query = query.rewrite(&mut pull_up).data()?;
        if !pull_up.can_pull_up {
            return Ok(None);
        }
        self.made += 1;
        let alias = format!("__exists_{}", self.made);
        let pulled: BTreeSet<Column> = pull_up.correlated_subquery_cols_map.into_values().flatten().collect();
        let condition = match conjunction(pull_up.join_filters) {
            Some(condition) => requalified(condition, &pulled, &alias)?,
            None => lit(true),
        };
        let mut query = LogicalPlanBuilder::from(query);
        if exists.subquery.outer_ref_columns.is_empty() {
            query = query.limit(0, Some(1))?;
        }
        let query = query.alias(alias.as_str())?.build()?;
        let joined = LogicalPlanBuilder::from(input.clone()).join_on(query, JoinType::LeftMark, Some(condition))?;
        *input = joined.build()?;
        Ok(Some(Expr::Column(Column::new(Some(alias), "mark"))))
    }
}

/// The condition over the columns of the subquery under its alias.
fn requalified(condition: Expr, columns: &BTreeSet<Column>, alias: &str) -> Result<Expr> {
    condition
        .transform_up(|part| match part {
            Expr::Column(column) if columns.contains(&column) => {
                Ok(Transformed::yes(Expr::Column(Column::new(Some(alias), column.name))))
            }
            other => Ok(Transformed::no(other)),
        })
        .data()
}
