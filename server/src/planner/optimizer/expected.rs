//! How many rows are expected of joins and groups, for `EXPLAIN ANALYZE` to show beside those that were found.

use datafusion::logical_expr::{Aggregate, Expr, Join, LogicalPlan};

use super::relation::Relation;

/// The rows that are expected of a join or of groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::planner) struct Expected {
    /// A name that the physical operator has too: its keys, without the names of tables.
    pub(in crate::planner) what: String,
    pub(in crate::planner) rows: u64,
}

impl Expected {
    /// What a join of this type is called, whichever side is the left one.
    pub(in crate::planner) fn join(kind: &str, pairs: Vec<(&str, &str)>) -> String {
        let kind = kind.trim_start_matches("Left").trim_start_matches("Right");
        let kind = if kind.is_empty() { "Outer" } else { kind };
        let mut pairs: Vec<String> = pairs
            .into_iter()
            .map(|(left, right)| format!("{} = {}", left.min(right), left.max(right)))
            .collect();
        pairs.sort();
        format!("{} join on {}", kind.to_lowercase(), pairs.join(", "))
    }

    /// What is expected of `node`, if it is a join or groups, and has keys.
    pub(super) fn of(node: &LogicalPlan, relation: &Relation) -> Option<Self> {
        let what = match node {
            LogicalPlan::Join(join) => of_join(join)?,
            LogicalPlan::Aggregate(aggregate) => of_groups(aggregate)?,
            _ => return None,
        };
        let rows = relation.rows.round() as u64;
        Some(Self { what, rows })
    }

    /// What groups are called.
    pub(in crate::planner) fn groups(mut keys: Vec<&str>) -> String {
        keys.sort_unstable();
        format!("groups by {}", keys.join(", "))
    }
}

fn of_join(join: &Join) -> Option<String> {
    let pairs = join.on.iter().map(|(left, right)| Some((name(left)?, name(right)?)));
    let pairs: Vec<_> = pairs.collect::<Option<_>>()?;
    (!pairs.is_empty()).then(|| Expected::join(&join.join_type.to_string(), pairs))
}

fn of_groups(aggregate: &Aggregate) -> Option<String> {
    let keys: Vec<_> = aggregate.group_expr.iter().map(name).collect::<Option<_>>()?;
    (!keys.is_empty()).then(|| Expected::groups(keys))
}

fn name(expression: &Expr) -> Option<&str> {
    match expression {
        Expr::Column(column) => Some(&column.name),
        _ => None,
    }
}
