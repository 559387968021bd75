//! Subqueries that become joins below the node whose expressions they are in.

use std::collections::BTreeSet;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, DFSchema, JoinType, Result};
use datafusion::logical_expr::expr::Exists;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::logical_plan::Subquery;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan, LogicalPlanBuilder, lit, not};
use datafusion::optimizer::decorrelate::PullUpCorrelatedExpr;

use super::super::unnest::{self, Names};

/// Joins the subqueries of a node to its input that DataFusion has no plan for.
pub(super) fn joined(node: LogicalPlan, names: &Names) -> Result<Transformed<LogicalPlan>> {
    let [input] = node.inputs()[..] else {
        return Ok(Transformed::no(node));
    };
    let mut joins = Joins {
        around: input,
        input: input.clone(),
        is_filter: matches!(node, LogicalPlan::Filter(_)),
        has_values: matches!(node, LogicalPlan::Filter(_) | LogicalPlan::Projection(_)),
        names,
    };
    let preserver = NamePreserver::new(&node);
    let mut expressions = Vec::new();
    let mut is_new = false;
    for expression in node.expressions() {
        let name = preserver.save(&expression);
        let expression = expression.transform_up(|part| joins.part(part))?;
        is_new |= expression.transformed;
        expressions.push(name.restore(expression.data));
    }
    if !is_new {
        return Ok(Transformed::no(node));
    }
    let schema = node.schema().clone();
    let joined = with_expressions(&node, expressions, joins.input)?;
    if joined.schema().fields().len() == schema.fields().len() {
        return Ok(Transformed::yes(joined));
    }
    // What was joined to the input goes no further.
    let columns = schema.columns().into_iter().map(Expr::Column);
    let plan = LogicalPlanBuilder::from(joined).project(columns)?.build()?;
    Ok(Transformed::yes(plan))
}

/// `node` with other expressions over another input.
fn with_expressions(node: &LogicalPlan, mut expressions: Vec<Expr>, input: LogicalPlan) -> Result<LogicalPlan> {
    let LogicalPlan::Distinct(Distinct::On(distinct)) = node else {
        return node.with_new_exprs(expressions, vec![input]);
    };
    let mut select = expressions.split_off(distinct.on_expr.len());
    let keys = select.split_off(distinct.select_expr.len());
    let on = expressions.into_iter().map(Expr::unalias).collect();
    let order_by = distinct.sort_expr.as_ref().map(|old| {
        let pairs = old.iter().zip(keys);
        pairs.map(|(old, key)| old.with_expr(key.unalias())).collect()
    });
    LogicalPlanBuilder::from(input)
        .distinct_on(on, select, order_by)?
        .build()
}

struct Joins<'a> {
    /// The input of the node.
    around: &'a LogicalPlan,
    /// The input with what was joined to it.
    input: LogicalPlan,
    is_filter: bool,
    /// Whether DataFusion joins scalar subqueries to inputs of such nodes.
    has_values: bool,
    names: &'a Names,
}

impl Joins<'_> {
    /// A subquery as an expression over what is joined.
    fn part(&mut self, part: Expr) -> Result<Transformed<Expr>> {
        let around = self.around.schema();
        match part {
            Expr::ScalarSubquery(subquery) => {
                if let Some(value) = unnest::constant(&subquery.subquery, around)? {
                    return Ok(Transformed::yes(value));
                }
                let is_planned = match self.has_values {
                    true => is_planned(&subquery, around)?,
                    false => subquery.outer_ref_columns.is_empty(),
                };
                if is_planned {
                    return Ok(Transformed::no(Expr::ScalarSubquery(subquery)));
                }
                unnest::join_value(&mut self.input, self.around, &subquery.subquery, self.names).map(Transformed::yes)
            }
            Expr::Exists(exists) => {
                let is_planned = is_planned(&exists.subquery, around)?;
                if is_planned && self.is_filter {
                    return Ok(Transformed::no(Expr::Exists(exists)));
                }
                let mark = match is_planned {
                    true => self.mark(&exists)?,
                    false => None,
                };
                let mark = match mark {
                    Some(mark) => mark,
                    None => unnest::join_mark(&mut self.input, self.around, &exists.subquery.subquery, self.names)?,
                };
                Ok(Transformed::yes(if exists.negated { not(mark) } else { mark }))
            }
            other => Ok(Transformed::no(other)),
        }
    }

    /// Joins a subquery to the input by its own conditions; gives the column that says whether it has rows. None where
    /// they cannot be moved to the join.
    fn mark(&mut self, exists: &Exists) -> Result<Option<Expr>> {
        let mut pull_up = PullUpCorrelatedExpr::new().with_exists_sub_query(true);
        let query = LogicalPlan::clone(&exists.subquery.subquery);
        let query = query.rewrite(&mut pull_up).data()?;
        if !pull_up.can_pull_up {
            return Ok(None);
        }
        let alias = self.names.next("__exists");
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
        self.input = LogicalPlanBuilder::from(self.input.clone())
            .join_on(query, JoinType::LeftMark, Some(condition))?
            .build()?;
        Ok(Some(Expr::Column(Column::new(Some(alias), "mark"))))
    }
}

/// Whether DataFusion plans the subquery where it stands.
pub(super) fn is_planned(subquery: &Subquery, around: &DFSchema) -> Result<bool> {
    let references = &subquery.outer_ref_columns;
    Ok(references.is_empty() || unnest::is_planned(&subquery.subquery, references, around)?)
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
