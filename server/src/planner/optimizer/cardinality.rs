//! How many rows a logical plan has.
//!
//! A join has as many as the product of its sides over the greater number of distinct keys, which is right where each key
//! of one side is one of the other's. Keys of several columns have no more values than their side has rows.

use std::collections::HashMap;

use datafusion::common::{Column as Name, JoinType};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Aggregate, Expr, FetchType, Join, LogicalPlan, Projection, SkipType, TableScan};

use super::selectivity::{of_all, selectivity};
use super::statistics::{Column, Tables};

/// A condition above an aggregate speaks of what the groups have in common with few others.
const HAVING: f64 = 0.1;

/// Rows that are estimated.
#[derive(Clone, Debug)]
pub(super) struct Relation {
    pub(super) rows: f64,
    /// How many there would be without the filters of its table.
    pub(super) whole: f64,
    columns: HashMap<Name, Column>,
}

impl Relation {
    /// What is known of a column, which a cast may be around.
    pub(super) fn column(&self, expression: &Expr) -> Option<Column> {
        let Expr::Column(name) = unwrapped(expression) else {
            return None;
        };
        let column = *self.columns.get(name)?;
        let distinct = column.distinct.map(|distinct| distinct.min(self.rows.max(1.0)));
        Some(Column { distinct, ..column })
    }

    /// Whether the expression is a column, perhaps cast, that no row has NULL in.
    pub(super) fn is_never_null(&self, expression: &Expr) -> bool {
        self.column(expression).is_some_and(|column| column.never_null)
    }

    /// The relation where an outer join may put NULL in the place of its rows.
    fn or_null(mut self) -> Self {
        for column in self.columns.values_mut() {
            column.never_null = false;
        }
        self
    }

    /// How many different values the expressions have together.
    pub(super) fn distinct<'a>(&self, expressions: impl IntoIterator<Item = &'a Expr>) -> f64 {
        let rows = self.rows.max(1.0);
        let product: f64 = expressions
            .into_iter()
            .map(|expression| {
                self.column(expression)
                    .and_then(|column| column.distinct)
                    .unwrap_or(rows)
            })
            .product();
        product.min(rows)
    }

    /// How many values the expression may have, those that filters drop among them.
    pub(super) fn domain(&self, expression: &Expr) -> f64 {
        let distinct = match unwrapped(expression) {
            Expr::Column(name) => self.columns.get(name).and_then(|column| column.distinct),
            _ => None,
        };
        distinct.unwrap_or(self.rows).max(1.0)
    }

    /// [`Self::domain`] of several expressions together.
    fn domain_of_all<'a>(&self, expressions: impl IntoIterator<Item = &'a Expr>) -> f64 {
        let product: f64 = expressions
            .into_iter()
            .map(|expression| self.domain(expression))
            .product();
        product.min(self.whole.max(1.0))
    }

    /// No rows, and no columns.
    pub(super) fn empty() -> Self {
        Self {
            rows: 0.0,
            whole: 0.0,
            columns: HashMap::new(),
        }
    }

    /// The columns of both, for conditions that speak of them.
    pub(super) fn beside(mut self, other: &Self) -> Self {
        self.rows = self.rows.max(other.rows);
        self.whole = self.whole.max(other.whole);
        self.columns
            .extend(other.columns.iter().map(|(name, column)| (name.clone(), *column)));
        self
    }

    fn filtered(mut self, part: f64) -> Self {
        self.rows *= part;
        self
    }
}

/// The expression without casts and names.
fn unwrapped(expression: &Expr) -> &Expr {
    match expression {
        Expr::Cast(cast) => unwrapped(&cast.expr),
        Expr::Alias(alias) => unwrapped(&alias.expr),
        other => other,
    }
}

/// Estimates plans of one query.
#[derive(Clone, Copy, Debug)]
pub(super) struct Estimator<'a> {
    pub(super) tables: &'a Tables,
}

impl Estimator<'_> {
    /// The rows of `plan`; none where a table, or an operator, does not tell.
    pub(super) fn relation(self, plan: &LogicalPlan) -> Option<Relation> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan, None),
            LogicalPlan::Filter(filter) => match filter.input.as_ref() {
                // The scan has a part of the conditions as well, to prune files by.
                LogicalPlan::TableScan(scan) => self.scan(scan, Some(&filter.predicate)),
                input => {
                    let rows = self.relation(input)?;
                    let part = match has_aggregate(input) {
                        true => HAVING,
                        false => selectivity(&filter.predicate, &rows),
                    };
                    Some(rows.filtered(part))
                }
            },
            LogicalPlan::Projection(projection) => self.projection(projection),
            LogicalPlan::SubqueryAlias(alias) => {
                let input = self.relation(&alias.input)?;
                let names = alias.input.schema().columns().into_iter();
                let renamed = names.zip(alias.schema.columns());
                Some(renamed_relation(&input, renamed))
            }
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Limit(limit) => {
                let mut input = self.relation(&limit.input)?;
                if let (Ok(FetchType::Literal(Some(rows))), Ok(SkipType::Literal(_))) =
                    (limit.get_fetch_type(), limit.get_skip_type())
                {
                    input.rows = input.rows.min(rows as f64);
                }
                Some(input)
            }
            LogicalPlan::Sort(sort) => self.relation(&sort.input),
            LogicalPlan::Repartition(repartition) => self.relation(&repartition.input),
            LogicalPlan::Window(window) => self.relation(&window.input),
            LogicalPlan::EmptyRelation(empty) => Some(Relation {
                rows: f64::from(u8::from(empty.produce_one_row)),
                whole: 1.0,
                columns: HashMap::new(),
            }),
            LogicalPlan::Values(values) => Some(Relation {
                rows: values.values.len() as f64,
                whole: values.values.len() as f64,
                columns: HashMap::new(),
            }),
            _ => None,
        }
    }

    fn scan(self, scan: &TableScan, predicate: Option<&Expr>) -> Option<Relation> {
        let table = self.tables.get(scan)?;
        let columns = scan
            .source
            .schema()
            .fields()
            .iter()
            .filter_map(|field| {
                let name = Name::new(Some(scan.table_name.clone()), field.name());
                Some((name, *table.columns.get(field.name())?))
            })
            .collect();
        let all = Relation {
            rows: table.rows,
            whole: table.rows,
            columns,
        };
        let mut conditions: Vec<&Expr> = predicate.into_iter().flat_map(split_conjunction).collect();
        for filter in &scan.filters {
            if !conditions.contains(&filter) {
                conditions.push(filter);
            }
        }
        let part = of_all(conditions, &all);
        let mut kept = all.filtered(part);
        if let Some(fetch) = scan.fetch {
            kept.rows = kept.rows.min(fetch as f64);
        }
        Some(kept)
    }

    fn projection(self, projection: &Projection) -> Option<Relation> {
        let input = self.relation(&projection.input)?;
        let names = projection.schema.columns();
        let columns = projection
            .expr
            .iter()
            .zip(names)
            .filter_map(|(expression, name)| Some((name, input.column(expression)?)))
            .collect();
        Some(Relation {
            rows: input.rows,
            whole: input.whole,
            columns,
        })
    }

    fn aggregate(self, aggregate: &Aggregate) -> Option<Relation> {
        let input = self.relation(&aggregate.input)?;
        let keys = &aggregate.group_expr;
        let rows = match keys.is_empty() {
            true => 1.0,
            false => input.distinct(keys),
        };
        let names = aggregate.schema.columns();
        let columns = keys
            .iter()
            .zip(names)
            .filter_map(|(key, name)| Some((name, input.column(key)?)))
            .collect();
        Some(Relation {
            rows,
            whole: rows,
            columns,
        })
    }

    fn join(self, join: &Join) -> Option<Relation> {
        let (mut left, mut right) = (self.relation(&join.left)?, self.relation(&join.right)?);
        if matches!(join.join_type, JoinType::Left | JoinType::Full) {
            right = right.or_null();
        }
        if matches!(join.join_type, JoinType::Right | JoinType::Full) {
            left = left.or_null();
        }
        let on = &join.on;
        let mut joined = joined(&left, &right, on);
        if let Some(filter) = &join.filter {
            let part = selectivity(filter, &joined);
            joined.rows *= part;
        }
        let kept_left = |part: f64| left.clone().filtered(part);
        let matched = match on.is_empty() {
            true => 0.5,
            false => matched_part(&left, &right, on),
        };
        Some(match join.join_type {
            JoinType::Inner => joined,
            JoinType::Left => Relation {
                rows: joined.rows.max(left.rows),
                ..joined
            },
            JoinType::Right => Relation {
                rows: joined.rows.max(right.rows),
                ..joined
            },
            JoinType::Full => Relation {
                rows: joined.rows.max(left.rows).max(right.rows),
                ..joined
            },
            JoinType::LeftSemi => kept_left(matched),
            JoinType::LeftAnti => kept_left((1.0 - matched).max(0.1)),
            JoinType::LeftMark => left,
            JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => return None,
        })
    }
}

/// The inner join of two relations.
fn joined(left: &Relation, right: &Relation, on: &[(Expr, Expr)]) -> Relation {
    let mut rows = left.rows * right.rows;
    if !on.is_empty() {
        // Each side has the combinations of keys that it has rows for; the keys of one side are all on the other.
        let most_distinct = on
            .iter()
            .map(|(left_key, right_key)| left.domain(left_key).max(right.domain(right_key)))
            .fold(1.0, f64::max);
        let left_keys = left.domain_of_all(on.iter().map(|(key, _)| key));
        let right_keys = right.domain_of_all(on.iter().map(|(_, key)| key));
        rows /= left_keys.min(right_keys).max(most_distinct);
    }
    let mut columns = left.columns.clone();
    columns.extend(right.columns.iter().map(|(name, column)| (name.clone(), *column)));
    for (left_key, right_key) in on {
        let distinct = left.domain(left_key).min(right.domain(right_key));
        for key in [left_key, right_key] {
            if let Expr::Column(name) = key
                && let Some(column) = columns.get_mut(name)
            {
                column.distinct = Some(distinct);
                column.nulls = 0.0;
            }
        }
    }
    Relation {
        rows,
        whole: rows.max(left.whole).max(right.whole),
        columns,
    }
}

/// The part of the left rows that has a partner.
fn matched_part(left: &Relation, right: &Relation, on: &[(Expr, Expr)]) -> f64 {
    let domain = left.domain_of_all(on.iter().map(|(key, _)| key));
    let found = right.distinct(on.iter().map(|(_, key)| key));
    (found / domain).min(1.0)
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

fn renamed_relation(input: &Relation, names: impl Iterator<Item = (Name, Name)>) -> Relation {
    let columns = names
        .filter_map(|(old, new)| Some((new, *input.columns.get(&old)?)))
        .collect();
    Relation {
        rows: input.rows,
        whole: input.whole,
        columns,
    }
}
