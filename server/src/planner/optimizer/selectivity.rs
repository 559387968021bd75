//! The part of the rows that pass a condition, from 0 to 1.
//!
//! The rules are those of System R (Selinger et al., "Access Path Selection in a Relational Database Management System",
//! 1979): one of the distinct values for `=`, a part of the range for `<`, products for AND. Where nothing is known, the
//! constants below stand in.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Like, Operator};

use super::relation::{Relation, as_number};

/// One value of a column of which nothing is known.
const EQUAL: f64 = 0.03;
/// One side of a bound that is not known to be within the range.
const BOUNDED: f64 = 0.3;
/// A pattern.
const LIKE: f64 = 0.1;
/// Any other condition.
const OTHER: f64 = 0.3;

/// The part of `rows` that `condition` is true of.
pub(super) fn selectivity(condition: &Expr, rows: &Relation) -> f64 {
    let part = match condition {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => binary(left, *op, right, rows),
        Expr::Not(inner) => 1.0 - selectivity(inner, rows),
        Expr::Between(between) => within(between, rows),
        Expr::InList(list) => in_list(list, rows),
        Expr::Like(Like { negated, .. }) => negate(LIKE, *negated),
        Expr::IsNull(inner) => nulls(inner, rows),
        Expr::IsNotNull(inner) => 1.0 - nulls(inner, rows),
        Expr::Literal(ScalarValue::Boolean(Some(true)), _) => 1.0,
        Expr::Literal(..) => 0.0,
        Expr::Alias(alias) => selectivity(&alias.expr, rows),
        _ => OTHER,
    };
    part.clamp(0.0, 1.0)
}

/// Whether metadata tell what [`selectivity`] asks.
pub(super) fn is_known(condition: &Expr, rows: &Relation) -> bool {
    let column = |expression: &Expr| rows.column(expression);
    let has_range = |expression: &Expr| column(expression).is_some_and(|column| column.range.is_some());
    let has_distinct = |expression: &Expr| column(expression).is_some_and(|column| column.distinct.is_some());
    match condition {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::And | Operator::Or => is_known(left, rows) && is_known(right, rows),
            Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq => {
                bound(condition).is_some_and(|(column, _)| has_range(column))
            }
            Operator::Eq | Operator::NotEq => match (constant(left), constant(right)) {
                (None, Some(_)) => has_distinct(left),
                (Some(_), None) => has_distinct(right),
                _ => false,
            },
            _ => false,
        },
        Expr::Not(inner) => is_known(inner, rows),
        Expr::Between(between) => has_range(&between.expr),
        Expr::InList(list) => has_distinct(&list.expr),
        Expr::IsNull(inner) | Expr::IsNotNull(inner) => column(inner).is_some(),
        Expr::Literal(..) => true,
        _ => false,
    }
}

fn negate(part: f64, is_negated: bool) -> f64 {
    if is_negated { 1.0 - part } else { part }
}

fn binary(left: &Expr, op: Operator, right: &Expr, rows: &Relation) -> f64 {
    match op {
        Operator::And => of_all([left, right], rows),
        Operator::Or => {
            let (left, right) = (selectivity(left, rows), selectivity(right, rows));
            left + right - left * right
        }
        Operator::Eq | Operator::IsNotDistinctFrom => equal(left, right, rows),
        Operator::NotEq | Operator::IsDistinctFrom => 1.0 - equal(left, right, rows),
        Operator::Lt | Operator::LtEq => below(left, right, rows),
        Operator::Gt | Operator::GtEq => below(right, left, rows),
        Operator::RegexMatch | Operator::RegexIMatch | Operator::LikeMatch | Operator::ILikeMatch => LIKE,
        Operator::RegexNotMatch | Operator::RegexNotIMatch | Operator::NotLikeMatch | Operator::NotILikeMatch => {
            1.0 - LIKE
        }
        _ => OTHER,
    }
}

/// The part of `rows` that all of `conditions` are true of.
///
/// Two bounds of one column are a range, whose part is what neither drops; other conditions are taken to be independent.
pub(super) fn of_all<'a>(conditions: impl IntoIterator<Item = &'a Expr>, rows: &Relation) -> f64 {
    let mut bounds: Vec<Bounds<'_>> = Vec::new();
    let mut part = 1.0;
    for condition in conditions.into_iter().flat_map(split_conjunction) {
        let of_condition = selectivity(condition, rows);
        let Some((column, is_upper)) = bound(condition) else {
            part *= of_condition;
            continue;
        };
        let place = bounds.iter().position(|bounds| bounds.column == column);
        let place = place.unwrap_or_else(|| {
            bounds.push(Bounds {
                column,
                below: 1.0,
                above: 1.0,
            });
            bounds.len() - 1
        });
        let side = match is_upper {
            true => &mut bounds[place].below,
            false => &mut bounds[place].above,
        };
        *side = side.min(of_condition);
    }
    bounds
        .iter()
        .map(|bounds| range(bounds.below, bounds.above))
        .product::<f64>()
        * part
}

/// What the bounds of a column let through, one by one.
struct Bounds<'a> {
    column: &'a Expr,
    below: f64,
    above: f64,
}

/// The part between two bounds. Those that do not meet by what is known of the column are about right of neither.
fn range(below: f64, above: f64) -> f64 {
    match below + above > 1.0 {
        true => below + above - 1.0,
        false => below * above,
    }
}

/// The expression that a comparison with a constant bounds, and whether from above.
fn bound(condition: &Expr) -> Option<(&Expr, bool)> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else {
        return None;
    };
    let is_upper = match op {
        Operator::Lt | Operator::LtEq => true,
        Operator::Gt | Operator::GtEq => false,
        _ => return None,
    };
    match (constant(left), constant(right)) {
        (None, Some(_)) => Some((left, is_upper)),
        (Some(_), None) => Some((right, !is_upper)),
        _ => None,
    }
}

fn equal(left: &Expr, right: &Expr, rows: &Relation) -> f64 {
    let (column, value) = match (constant(left), constant(right)) {
        (_, Some(value)) => (left, value),
        (Some(value), None) => (right, value),
        (None, None) => {
            let distinct = |side: &Expr| rows.column(side).and_then(|column| column.distinct);
            return match (distinct(left), distinct(right)) {
                (Some(left), Some(right)) => 1.0 / left.max(right).max(1.0),
                (Some(known), None) | (None, Some(known)) => 1.0 / known.max(1.0),
                (None, None) => EQUAL,
            };
        }
    };
    let Some(column) = rows.column(column) else {
        return EQUAL;
    };
    if let (Some((least, greatest)), Some(value)) = (column.range, as_number(value))
        && !(least..=greatest).contains(&value)
    {
        return 0.0;
    }
    column.part_of(value).unwrap_or_else(|| {
        let part = EQUAL.max(1.0 / rows.rows.max(1.0));
        part * (1.0 - column.nulls)
    })
}

/// `left < right`.
fn below(left: &Expr, right: &Expr, rows: &Relation) -> f64 {
    let part_below = |column: &Expr, value: &ScalarValue| {
        let column = rows.column(column)?;
        let (least, greatest) = column.range?;
        let part = (as_number(value)? - least) / (greatest - least);
        part.is_finite().then(|| part.clamp(0.0, 1.0) * (1.0 - column.nulls))
    };
    match (constant(left), constant(right)) {
        (None, Some(value)) => part_below(left, value).unwrap_or(BOUNDED),
        (Some(value), None) => part_below(right, value).map_or(BOUNDED, |part| 1.0 - part),
        _ => BOUNDED,
    }
}

fn within(between: &Between, rows: &Relation) -> f64 {
    let column = between.expr.as_ref();
    let (from, to) = (below(&between.low, column, rows), below(column, &between.high, rows));
    negate(range(to, from), between.negated)
}

fn in_list(list: &InList, rows: &Relation) -> f64 {
    let part: f64 = list.list.iter().map(|value| equal(&list.expr, value, rows)).sum();
    negate(part.min(1.0), list.negated)
}

fn nulls(expression: &Expr, rows: &Relation) -> f64 {
    rows.column(expression).map_or(0.1, |column| column.nulls)
}

fn constant(expression: &Expr) -> Option<&ScalarValue> {
    match expression {
        Expr::Literal(value, _) => Some(value),
        Expr::Cast(cast) => constant(&cast.expr),
        _ => None,
    }
}
