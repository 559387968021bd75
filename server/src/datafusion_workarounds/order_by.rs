//! A name within an expression of ORDER BY is a column of the tables, as in PostgreSQL and DuckDB.
//!
//! `SELECT k AS x, x AS y FROM t ORDER BY x + 0` orders by `t.x`; DataFusion 55.2 orders by what is named `x` in the result,
//! which is right for a name alone.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection, Sort};
use datafusion::optimizer::AnalyzerRule;

/// Takes the columns of tables in such expressions.
#[derive(Debug)]
pub(crate) struct OrderByColumns;

impl AnalyzerRule for OrderByColumns {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|node| match node {
            LogicalPlan::Sort(sort) => by_columns(sort),
            other => Ok(Transformed::no(other)),
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "order_by_columns"
    }
}

fn by_columns(mut sort: Sort) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Projection(projection) = sort.input.as_ref() else {
        return Ok(Transformed::no(LogicalPlan::Sort(sort)));
    };
    let mut hidden: Vec<(Expr, String)> = Vec::new();
    let mut keys = Vec::with_capacity(sort.expr.len());
    for key in &sort.expr {
        if matches!(key.expr, Expr::Column(_)) {
            keys.push(key.clone());
            continue;
        }
        let expr = key.expr.clone().transform_up(|part| {
            let Some(column) = behind_alias(&part, projection) else {
                return Ok(Transformed::no(part));
            };
            let known = hidden.iter().find(|(known, _)| *known == column);
            let name = known.map(|(_, name)| name.clone());
            let name = name.unwrap_or_else(|| {
                let name = format!("__order_{}", hidden.len());
                hidden.push((column, name.clone()));
                name
            });
            Ok(Transformed::yes(Expr::Column(Column::new_unqualified(name))))
        });
        keys.push(key.with_expr(expr.data()?));
    }
    if hidden.is_empty() {
        return Ok(Transformed::no(LogicalPlan::Sort(sort)));
    }
    let shown = sort.input.schema().columns().into_iter().map(Expr::Column).collect();
    let hidden = hidden.into_iter().map(|(column, name)| column.alias(name));
    let columns = projection.expr.iter().cloned().chain(hidden).collect();
    let input = Projection::try_new(columns, Arc::clone(&projection.input))?;
    sort.expr = keys;
    sort.input = Arc::new(LogicalPlan::Projection(input));
    let shown = Projection::try_new(shown, Arc::new(LogicalPlan::Sort(sort)))?;
    Ok(Transformed::yes(LogicalPlan::Projection(shown)))
}

/// The column of the tables that has the name which `part` takes for something else.
fn behind_alias(part: &Expr, projection: &Projection) -> Option<Expr> {
    let Expr::Column(Column {
        relation: None, name, ..
    }) = part
    else {
        return None;
    };
    let is_other = projection.expr.iter().any(|shown| match shown {
        Expr::Alias(alias) if alias.relation.is_none() && alias.name == *name => {
            !matches!(alias.expr.as_ref(), Expr::Column(column) if column.name == *name)
        }
        _ => false,
    });
    let columns = projection.input.schema().columns_with_unqualified_name(name);
    match columns.as_slice() {
        [column] if is_other => Some(Expr::Column(column.clone())),
        _ => None,
    }
}
