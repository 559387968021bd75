//! Rows whose number, and what is known of their columns, is estimated.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::{Column as Name, ScalarValue};
use datafusion::logical_expr::{Expr, TableScan};
use foldhash::fast::RandomState;

use super::samples::Sketch;

/// A column of rows that are estimated.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Column {
    /// The least and the greatest value, as numbers of the column's unit.
    pub(super) range: Option<(f64, f64)>,
    /// How many different values there are, where it is known or follows from the range.
    pub(super) distinct: Option<f64>,
    /// Values that are more common than others, with their part of all rows.
    pub(super) common: Arc<[(ScalarValue, f64)]>,
    /// The least part of the rows that a value has which a sample did not show.
    pub(super) unseen: f64,
    /// The part of the rows that is NULL, from 0 to 1.
    pub(super) nulls: f64,
    /// Whether it is known for certain that no value is NULL.
    pub(super) never_null: bool,
}

impl Column {
    /// Adds what some of the rows tell. They do not tell more values apart than the range holds.
    pub(super) fn learn(&mut self, sketch: &Sketch) {
        if sketch.sampled == 0 {
            return;
        }
        let distinct = sketch.distinct.max(1.0);
        self.distinct = Some(self.distinct.map_or(distinct, |known| known.min(distinct)));
        self.common = sketch.common.as_slice().into();
        self.unseen = 0.5 / sketch.sampled as f64;
    }

    /// The part of the rows that has `value`, where so much is known.
    pub(super) fn part_of(&self, value: &ScalarValue) -> Option<f64> {
        match self.common.iter().find(|(common, _)| is_equal(common, value)) {
            Some((_, part)) => Some(*part),
            None => self.part_of_others(),
        }
    }

    fn is_common(&self, value: &ScalarValue) -> bool {
        self.common.iter().any(|(common, _)| is_equal(common, value))
    }

    /// The part of the rows that has values which are not common.
    fn others(&self) -> f64 {
        let common: f64 = self.common.iter().map(|(_, part)| part).sum();
        (1.0 - self.nulls - common).max(0.0)
    }

    /// The part of the rows that has one value which is not common.
    fn part_of_others(&self) -> Option<f64> {
        let values = (self.distinct? - self.common.len() as f64).max(1.0);
        Some((self.others() / values).max(self.unseen))
    }
}

/// Whether a value is a common one, which has the type of the column.
fn is_equal(common: &ScalarValue, value: &ScalarValue) -> bool {
    value.cast_to(&common.data_type()).is_ok_and(|value| value == *common)
}

/// A table as a query scans it.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) rows: f64,
    /// By name.
    pub(super) columns: HashMap<String, Column>,
    /// The part of the rows that pass a condition, where it was tried.
    pub(super) tried: HashMap<Expr, f64>,
}

/// Rows that are estimated.
#[derive(Clone, Debug)]
pub(super) struct Relation {
    pub(super) rows: f64,
    /// How many there would be without the filters of its table.
    pub(super) whole: f64,
    columns: HashMap<Name, Column, RandomState>,
}

impl Relation {
    pub(super) fn new(rows: f64, whole: f64, columns: impl IntoIterator<Item = (Name, Column)>) -> Self {
        Self {
            rows,
            whole,
            columns: columns.into_iter().collect(),
        }
    }

    /// All rows of a table, with the columns that a scan gives, or that `conditions` speak of.
    pub(super) fn of_table<'a>(
        scan: &TableScan,
        table: &Table,
        conditions: impl IntoIterator<Item = &'a Expr>,
    ) -> Self {
        let given = scan.projected_schema.fields().iter().map(|field| field.name().as_str());
        let asked = conditions.into_iter().flat_map(Expr::column_refs);
        let columns = given
            .chain(asked.map(|column| column.name.as_str()))
            .filter_map(|column| {
                let name = Name::new(Some(scan.table_name.clone()), column);
                Some((name, table.columns.get(column)?.clone()))
            });
        Self::new(table.rows, table.rows, columns)
    }

    /// What is known of a column, which a cast may be around.
    pub(super) fn column(&self, expression: &Expr) -> Option<Column> {
        let Expr::Column(name) = unwrapped(expression) else {
            return None;
        };
        let mut column = self.columns.get(name)?.clone();
        column.distinct = column.distinct.map(|distinct| distinct.min(self.rows.max(1.0)));
        Some(column)
    }

    /// Whether the expression is a column, perhaps cast, that no row has NULL in.
    pub(super) fn is_never_null(&self, expression: &Expr) -> bool {
        self.column(expression).is_some_and(|column| column.never_null)
    }

    /// The rows of an inner join, and so many of one side without a partner, with NULL in the columns of the `other` side.
    pub(super) fn and_alone(mut self, rows: f64, other: &Self) -> Self {
        let all = self.rows + rows;
        for name in other.columns.keys() {
            if let Some(column) = self.columns.get_mut(name) {
                column.never_null = false;
                column.nulls = (column.nulls * self.rows + rows) / all.max(1.0);
            }
        }
        self.rows = all;
        self.whole = self.whole.max(all);
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
    pub(super) fn domain_of_all<'a>(&self, expressions: impl IntoIterator<Item = &'a Expr>) -> f64 {
        let product: f64 = expressions
            .into_iter()
            .map(|expression| self.domain(expression))
            .product();
        product.min(self.whole.max(1.0))
    }

    /// The same rows with other names of columns.
    pub(super) fn renamed(&self, names: impl IntoIterator<Item = (Name, Name)>) -> Self {
        let names = names.into_iter();
        let columns = names.filter_map(|(old, new)| Some((new, self.columns.get(&old)?.clone())));
        Self::new(self.rows, self.whole, columns)
    }

    /// The columns of both, for conditions that speak of them.
    pub(super) fn beside(mut self, other: &Self) -> Self {
        self.rows = self.rows.max(other.rows);
        self.whole = self.whole.max(other.whole);
        self.columns.extend(
            other
                .columns
                .iter()
                .map(|(name, column)| (name.clone(), column.clone())),
        );
        self
    }

    pub(super) fn filtered(mut self, part: f64) -> Self {
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

/// The inner join of two relations.
pub(super) fn joined(left: &Relation, right: &Relation, on: &[(Expr, Expr)]) -> Relation {
    let mut rows = left.rows * right.rows;
    if let [(left_key, right_key)] = on {
        rows /= pair_domain((left, left_key), (right, right_key));
    } else if !on.is_empty() {
        // Each side has the combinations of keys that it has rows for; the keys of one side are all on the other.
        let most_distinct = on
            .iter()
            .map(|(left_key, right_key)| left.domain(left_key).max(right.domain(right_key)))
            .fold(1.0, f64::max);
        let left_keys = left.domain_of_all(on.iter().map(|(key, _)| key));
        let right_keys = right.domain_of_all(on.iter().map(|(_, key)| key));
        rows /= left_keys.min(right_keys).max(most_distinct);
    }
    let mut columns = left.clone().beside(right).columns;
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

/// Of how many pairs of rows one has equal keys.
///
/// Where both sides have common values, those make more pairs than others: "On the Propagation of Errors in the Size of Join
/// Results" (Ioannidis and Christodoulakis, 1991) shows that they are what estimates need to know of a column.
pub(super) fn pair_domain((left, left_key): (&Relation, &Expr), (right, right_key): (&Relation, &Expr)) -> f64 {
    let even = left.domain(left_key).max(right.domain(right_key));
    match (left.column(left_key), right.column(right_key)) {
        (Some(left), Some(right)) if !left.common.is_empty() && !right.common.is_empty() => {
            even.min(equal_part(&left, &right, even).recip())
        }
        _ => even,
    }
}

/// The part of all pairs of values that are equal, where those that are not common are of a domain of `even` values.
fn equal_part(left: &Column, right: &Column, even: f64) -> f64 {
    let of_left: f64 = left
        .common
        .iter()
        .map(|(value, part)| part * right.part_of(value).unwrap_or(0.0))
        .sum();
    let right_alone = right.common.iter().filter(|(value, _)| !left.is_common(value));
    let of_right: f64 = right_alone
        .map(|(_, part)| part * left.part_of_others().unwrap_or(0.0))
        .sum();
    of_left + of_right + left.others() * right.others() / even
}

/// The part of the left rows that has a partner.
pub(super) fn matched_part(left: &Relation, right: &Relation, on: &[(Expr, Expr)]) -> f64 {
    let domain = left.domain_of_all(on.iter().map(|(key, _)| key));
    let found = right.distinct(on.iter().map(|(_, key)| key));
    (found / domain).min(1.0)
}

/// A value on the scale of its type; none of types without one.
pub(super) fn as_number(value: &ScalarValue) -> Option<f64> {
    use ScalarValue::*;
    Some(match value {
        Int8(Some(value)) => f64::from(*value),
        Int16(Some(value)) => f64::from(*value),
        Int32(Some(value)) | Date32(Some(value)) => f64::from(*value),
        Int64(Some(value)) | Date64(Some(value)) => *value as f64,
        UInt8(Some(value)) => f64::from(*value),
        UInt16(Some(value)) => f64::from(*value),
        UInt32(Some(value)) => f64::from(*value),
        UInt64(Some(value)) => *value as f64,
        Float32(Some(value)) => f64::from(*value),
        Float64(Some(value)) => *value,
        Boolean(Some(value)) => f64::from(u8::from(*value)),
        Decimal128(Some(value), _, scale) => *value as f64 / 10_f64.powi(i32::from(*scale)),
        TimestampSecond(Some(value), _) => *value as f64,
        TimestampMillisecond(Some(value), _) => *value as f64 / 1e3,
        TimestampMicrosecond(Some(value), _) => *value as f64 / 1e6,
        TimestampNanosecond(Some(value), _) => *value as f64 / 1e9,
        _ => return None,
    })
}
