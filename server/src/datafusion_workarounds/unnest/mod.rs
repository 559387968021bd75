//! Correlated subqueries of any shape as joins.
//!
//! A subquery is a function of the values that it takes from the rows around it. It is computed for all distinct values
//! at once, and its rows are joined to the rows around by those values:
//!
//! ```text
//! a, LATERAL (SELECT y FROM b WHERE b.k < a.k ORDER BY y LIMIT 1) l
//!
//! Join: a.k IS NOT DISTINCT FROM o.k
//!   a
//!   Filter: row_number() OVER (PARTITION BY o.k ORDER BY y) <= 1
//!     Filter: b.k < o.k
//!       CrossJoin
//!         b
//!         o: SELECT DISTINCT k FROM a
//! ```
//!
//! This is the method of Neumann and Kemper, "Unnesting Arbitrary Queries" (BTW 2015). [`Domain`] is what they call D,
//! [`push`] takes it down to where nothing depends on it any more, [`simple`] says where DataFusion 55.2 has a plan of its
//! own that is right, and reads the rows around once.
//!
//! The rows around are read twice, so they must be the same both times ([`repeatable`]).

mod aggregate;
mod domain;
mod push;
mod relational;
mod repeatable;
mod simple;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result, plan_datafusion_err};
use datafusion::logical_expr::logical_plan::{Join, Projection, Subquery};
use datafusion::logical_expr::{Expr, JoinType, LogicalPlan, LogicalPlanBuilder, lit};

pub(super) use domain::Names;
use domain::{Domain, Pushed, arranged, same_values};
use push::Pushing;
use simple::is_simple;

/// The columns of the queries around that `query` names, but for those that its own subqueries take from it.
pub(super) fn references(query: &LogicalPlan) -> Result<Vec<Expr>> {
    let mut found = Vec::new();
    query.apply_expressions(|expression| {
        expression.apply(|part| {
            if matches!(part, Expr::OuterReferenceColumn(..)) && !found.contains(part) {
                found.push(part.clone());
            }
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    for input in query.inputs() {
        let mut below = references(input)?;
        if let LogicalPlan::Join(join) = query
            && lateral_query(&join.right).is_some()
        {
            // What a LATERAL subquery takes from its neighbour.
            below.retain(|reference| bound(std::slice::from_ref(reference), join.left.schema()).is_empty());
        }
        below.retain(|reference| !found.contains(reference));
        found.extend(below);
    }
    Ok(found)
}

/// The columns of `schema` among the references.
fn bound(references: &[Expr], schema: &DFSchema) -> Vec<Column> {
    let column = |reference: &Expr| match reference {
        Expr::OuterReferenceColumn(_, column) if schema.has_column(column) => Some(column.clone()),
        _ => None,
    };
    references.iter().filter_map(column).collect()
}

/// Whether DataFusion joins a subquery with these references to rows of `around`: they name no queries further out.
pub(super) fn is_planned(query: &LogicalPlan, references: &[Expr], around: &DFSchema) -> Result<bool> {
    Ok(bound(references, around).len() == references.len() && is_simple(query)?)
}

/// The value of `(SELECT a.x + 1)`, which reads no rows, for each row of `around`.
pub(super) fn constant(query: &LogicalPlan, around: &DFSchema) -> Result<Option<Expr>> {
    let LogicalPlan::Projection(Projection { input, expr, .. }) = query else {
        return Ok(None);
    };
    let (LogicalPlan::EmptyRelation(empty), [value]) = (input.as_ref(), expr.as_slice()) else {
        return Ok(None);
    };
    let references = references(query)?;
    if !empty.produce_one_row || references.is_empty() {
        return Ok(None);
    }
    let columns = bound(&references, around);
    replaced(value.clone().unalias(), &columns, &columns).map(Some)
}

/// Joins the value of a subquery with at most one row for each row of `around` to `input`, which is `around` with what was
/// joined to it before; gives the column of the value.
pub(super) fn join_value(
    input: &mut LogicalPlan,
    around: &LogicalPlan,
    query: &LogicalPlan,
    names: &Names,
) -> Result<Expr> {
    let domain = Domain::of(around, bound(&references(query)?, around.schema()), names)?;
    let pushed = Pushing::new(&domain).at_most_one_row(query)?;
    let alias = names.next("__subquery");
    let value = pushed.plan.schema().field(0).name().clone();
    join_rows(input, &domain, pushed, &alias, JoinType::Left)?;
    Ok(Expr::Column(Column::new(Some(alias), value)))
}

/// Joins a mark that says whether a subquery has rows in the same way; gives its column.
pub(super) fn join_mark(
    input: &mut LogicalPlan,
    around: &LogicalPlan,
    query: &LogicalPlan,
    names: &Names,
) -> Result<Expr> {
    let domain = Domain::of(around, bound(&references(query)?, around.schema()), names)?;
    let pushed = Pushing::new(&domain).push(query)?;
    let alias = names.next("__exists");
    let rows = LogicalPlanBuilder::from(pushed.plan);
    // The values for which there are rows; a row that says nothing where it depends on none.
    let rows = match pushed.outer.is_empty() {
        true => rows.limit(0, Some(1))?.project([lit(true).alias("found")])?,
        false => rows
            .project(pushed.outer.iter().cloned().map(Expr::Column))?
            .distinct()?,
    };
    let found = Pushed {
        plan: rows.build()?,
        outer: pushed.outer,
    };
    join_rows(input, &domain, found, &alias, JoinType::LeftMark)?;
    Ok(Expr::Column(Column::new(Some(alias), "mark")))
}

/// Joins rows, under `alias`, to those rows of `input` that have the values that they were computed for.
fn join_rows(
    input: &mut LogicalPlan,
    domain: &Domain<'_>,
    rows: Pushed,
    alias: &str,
    join_type: JoinType,
) -> Result<()> {
    let outer = rows.outer.into_iter();
    let outer: Vec<_> = outer.map(|column| Column::new(Some(alias), column.name)).collect();
    let rows = LogicalPlanBuilder::from(rows.plan).alias(alias)?.build()?;
    let condition = same_values(&domain.columns, &outer, input.schema()).unwrap_or_else(|| lit(true));
    *input = LogicalPlanBuilder::from(input.clone())
        .join_on(rows, join_type, Some(condition))?
        .build()?;
    Ok(())
}

/// A join with a LATERAL subquery that DataFusion has no right plan for, as a join of tables.
pub(super) fn lateral(node: LogicalPlan, names: &Names) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Join(join) = &node else {
        return Ok(Transformed::no(node));
    };
    let Some(query) = lateral_query(&join.right) else {
        return Ok(Transformed::no(node));
    };
    let references = references(query)?;
    if is_planned(query, &references, join.left.schema())? {
        // DataFusion's join has columns of its own, which nodes above may not know.
        let columns = node.schema().columns().into_iter().map(Expr::Column);
        let plan = LogicalPlanBuilder::from(node).project(columns)?.build()?;
        return Ok(Transformed::yes(plan));
    }
    let query = under_aliases(query, &join.right)?;
    let domain = Domain::of(&join.left, bound(&references, join.left.schema()), names)?;
    let pushed = Pushing::new(&domain).push(&query)?;
    let same = same_values(&domain.columns, &pushed.outer, join.left.schema());
    let conditions = [join.filter.clone(), same].into_iter().flatten();
    let filter = conditions.reduce(Expr::and);
    if join.join_type != JoinType::Inner && filter.is_none() {
        return Err(plan_datafusion_err!("a join with LATERAL needs a condition"));
    }
    let original = Join::clone(join);
    let positions: Vec<_> = (0..original.schema.fields().len()).collect();
    let joined = LogicalPlan::Join(Join::try_new(
        original.left,
        pushed.plan.into(),
        original.on,
        filter,
        original.join_type,
        original.join_constraint,
        original.null_equality,
        original.null_aware,
    )?);
    arranged(joined, &original.schema, &positions, &[]).map(Transformed::yes)
}

/// The query of a LATERAL subquery.
fn lateral_query(right: &LogicalPlan) -> Option<&LogicalPlan> {
    match right {
        LogicalPlan::Subquery(Subquery { subquery, .. }) => Some(subquery),
        LogicalPlan::SubqueryAlias(alias) => lateral_query(&alias.input),
        _ => None,
    }
}

fn under_aliases(query: &LogicalPlan, right: &LogicalPlan) -> Result<LogicalPlan> {
    let LogicalPlan::SubqueryAlias(alias) = right else {
        return Ok(query.clone());
    };
    let query = under_aliases(query, &alias.input)?;
    LogicalPlanBuilder::from(query).alias(alias.alias.clone())?.build()
}

/// An expression in which columns stand for those of the queries around.
fn replaced(expression: Expr, columns: &[Column], by: &[Column]) -> Result<Expr> {
    expression
        .transform_up(|part| {
            let Expr::OuterReferenceColumn(_, column) = &part else {
                return Ok(Transformed::no(part));
            };
            Ok(match columns.iter().position(|known| known == column) {
                Some(place) => Transformed::yes(Expr::Column(by[place].clone())),
                None => Transformed::no(part),
            })
        })
        .data()
}
