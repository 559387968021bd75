//! The keys of grouping sets are no constants.
//!
//! `WHERE c = 'a' GROUP BY CUBE(c)` gives rows in which `c` is NULL. DataFusion 55.2 holds `c` for constant all the same, and
//! leaves out a sort by it. Here what stands above the groups sees a key that depends on the grouping too.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::common::{Column, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, Projection};
use datafusion::optimizer::AnalyzerRule;
use squadron_shuffle::functions::held;

/// Ties the keys of grouping sets to the grouping.
#[derive(Debug)]
pub(crate) struct TieGroupingSets;

impl AnalyzerRule for TieGroupingSets {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|node| match &node {
            LogicalPlan::Aggregate(Aggregate { group_expr, .. })
                if group_expr.iter().any(|key| matches!(key, Expr::GroupingSet(_))) =>
            {
                Ok(Transformed::yes(tied(node)?))
            }
            _ => Ok(Transformed::no(node)),
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "tie_grouping_sets"
    }
}

fn tied(aggregate: LogicalPlan) -> Result<LogicalPlan> {
    let schema = Arc::clone(aggregate.schema());
    let columns: Vec<_> = schema
        .iter()
        .map(|(qualifier, field)| Column::from((qualifier, field)))
        .collect();
    let Some(grouping) = columns
        .iter()
        .position(|column| column.name == Aggregate::INTERNAL_GROUPING_ID)
    else {
        return Ok(aggregate);
    };
    let id = Expr::Column(columns[grouping].clone());
    let tied = columns.into_iter().enumerate().map(|(index, column)| {
        let (qualifier, name) = (column.relation.clone(), column.name.clone());
        match index < grouping {
            true => held(vec![Expr::Column(column), id.clone()]).alias_qualified(qualifier, name),
            false => Expr::Column(column),
        }
    });
    let tied = tied.collect();
    Ok(LogicalPlan::Projection(Projection::try_new(tied, Arc::new(aggregate))?))
}
