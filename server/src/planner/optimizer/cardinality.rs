//! How many rows a logical plan has.
//!
//! A join has as many as the product of its sides over the greater number of distinct keys, which is right where each key
//! of one side is one of the other's. Keys of several columns have no more values than their side has rows.

use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Aggregate, Expr, FetchType, Join, LogicalPlan, Projection, SkipType, TableScan};

use super::relation::{Relation, joined, matched_part};
use super::selectivity::{of_all, selectivity};
use super::statistics::Tables;

/// A condition above an aggregate speaks of what the groups have in common with few others.
const HAVING: f64 = 0.1;

/// Estimates plans of one query.
#[derive(Clone, Copy, Debug)]
pub(super) struct Estimator<'a> {
    pub(super) tables: &'a Tables,
}

impl Estimator<'_> {
    /// The rows of `plan`; none where a table, or an operator, does not tell.
    pub(super) fn relation(self, plan: &LogicalPlan) -> Option<Relation> {
        let inputs = match is_filtered_scan(plan) {
            true => Vec::new(),
            false => plan.inputs().into_iter().map(|input| self.relation(input)).collect(),
        };
        self.relation_of(plan, inputs)
    }

    /// [`Self::relation`], from that of each input of `plan`; [`is_filtered_scan`] needs none.
    pub(super) fn relation_of(self, plan: &LogicalPlan, inputs: Vec<Option<Relation>>) -> Option<Relation> {
        let mut inputs = inputs.into_iter();
        let mut input = || inputs.next().flatten();
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::Filter(filter) => match filter.input.as_ref() {
                // The scan has a part of the conditions as well, to prune files by.
                LogicalPlan::TableScan(scan) => self.filtered_scan(scan, &filter.predicate),
                groups if has_aggregate(groups) => Some(input()?.filtered(HAVING)),
                _ => {
                    let rows = input()?;
                    let part = selectivity(&filter.predicate, &rows);
                    Some(rows.filtered(part))
                }
            },
            LogicalPlan::Projection(of) => Some(projection(of, &input()?)),
            LogicalPlan::SubqueryAlias(alias) => {
                let names = alias.input.schema().columns().into_iter();
                Some(input()?.renamed(names.zip(alias.schema.columns())))
            }
            LogicalPlan::Aggregate(groups) => Some(aggregate(groups, &input()?)),
            LogicalPlan::Join(of) => join(of, input()?, input()?),
            LogicalPlan::Limit(limit) => {
                let mut input = input()?;
                if let (Ok(FetchType::Literal(Some(rows))), Ok(SkipType::Literal(_))) =
                    (limit.get_fetch_type(), limit.get_skip_type())
                {
                    input.rows = input.rows.min(rows as f64);
                }
                Some(input)
            }
            LogicalPlan::Sort(_) | LogicalPlan::Repartition(_) | LogicalPlan::Window(_) => input(),
            LogicalPlan::EmptyRelation(empty) => {
                let rows = f64::from(u8::from(empty.produce_one_row));
                Some(Relation::new(rows, rows, []))
            }
            LogicalPlan::Values(values) => {
                let rows = values.values.len() as f64;
                Some(Relation::new(rows, rows, []))
            }
            _ => None,
        }
    }

    /// Its conditions prune files, of which `tables` know; rows are filtered above it.
    fn scan(self, scan: &TableScan) -> Option<Relation> {
        Some(fetched(scan, Relation::of_table(scan, self.tables.get(scan)?, [])))
    }

    fn filtered_scan(self, scan: &TableScan, predicate: &Expr) -> Option<Relation> {
        let table = self.tables.get(scan)?;
        let mut conditions = split_conjunction(predicate);
        for filter in &scan.filters {
            if !conditions.contains(&filter) {
                conditions.push(filter);
            }
        }
        let all = Relation::of_table(scan, table, conditions.iter().copied());
        let (tried, others): (Vec<&Expr>, Vec<&Expr>) = conditions
            .into_iter()
            .partition(|condition| table.tried.contains_key(*condition));
        let part: f64 = tried.into_iter().map(|condition| table.tried[condition]).product();
        let part = part * of_all(others, &all);
        Some(fetched(scan, all.filtered(part)))
    }
}

fn projection(projection: &Projection, input: &Relation) -> Relation {
    let names = projection.schema.columns();
    let columns = projection.expr.iter().zip(names);
    let columns = columns.filter_map(|(expression, name)| Some((name, input.column(expression)?)));
    Relation::new(input.rows, input.whole, columns)
}

fn aggregate(aggregate: &Aggregate, input: &Relation) -> Relation {
    let keys = &aggregate.group_expr;
    let rows = match keys.is_empty() {
        true => 1.0,
        false => input.distinct(keys),
    };
    let names = aggregate.schema.columns();
    let columns = keys.iter().zip(names).filter_map(|(key, name)| {
        let mut column = input.column(key)?;
        // A group has a value once.
        column.common = Arc::default();
        column.nulls = column.nulls.min(rows.max(1.0).recip());
        Some((name, column))
    });
    Relation::new(rows, rows, columns)
}

fn join(join: &Join, left: Relation, right: Relation) -> Option<Relation> {
    let on = &join.on;
    let mut joined = joined(&left, &right, on);
    let part = join.filter.as_ref().map_or(1.0, |filter| selectivity(filter, &joined));
    joined.rows *= part;
    let pairs = joined.rows;
    let matched = |side: &Relation, other: &Relation, on: &[(Expr, Expr)], of_all: f64| match on.is_empty() {
        true => of_all,
        false => matched_part(side, other, on),
    };
    // All rows of a side that is kept come out, with a partner or alone.
    let alone = |side: &Relation, matched: f64| (side.rows * (1.0 - part * matched)).max(side.rows - pairs);
    let left_alone = || alone(&left, matched(&left, &right, on, 1.0));
    let right_alone = || {
        let swapped: Vec<_> = on.iter().map(|(left, right)| (right.clone(), left.clone())).collect();
        alone(&right, matched(&right, &left, &swapped, 1.0))
    };
    Some(match join.join_type {
        JoinType::Inner => joined,
        JoinType::Left => joined.and_alone(left_alone(), &right),
        JoinType::Right => joined.and_alone(right_alone(), &left),
        JoinType::Full => joined.and_alone(left_alone(), &right).and_alone(right_alone(), &left),
        JoinType::LeftSemi => {
            let part = matched(&left, &right, on, 0.5);
            left.filtered(part)
        }
        JoinType::LeftAnti => {
            let part = 1.0 - matched(&left, &right, on, 0.5);
            left.filtered(part.max(0.1))
        }
        JoinType::LeftMark => left,
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => return None,
    })
}

fn fetched(scan: &TableScan, mut rows: Relation) -> Relation {
    if let Some(fetch) = scan.fetch {
        rows.rows = rows.rows.min(fetch as f64);
    }
    rows
}

/// Whether `plan` is a filter right above a scan: both are estimated together.
pub(super) fn is_filtered_scan(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Filter(filter) => matches!(filter.input.as_ref(), LogicalPlan::TableScan(_)),
        _ => false,
    }
}

/// Whether the rows are groups.
pub(super) fn has_aggregate(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(aggregate) => !aggregate.group_expr.is_empty(),
        LogicalPlan::Projection(projection) => has_aggregate(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => has_aggregate(&alias.input),
        _ => false,
    }
}
