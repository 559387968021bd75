//! Compares two results and describes how they differ.
//!
//! ```text
//! schema    names and types, as clients see them (no views, no dictionaries)
//! rows      as multisets: floats within a tolerance, everything else exactly
//! order     of a query with ORDER BY: the same sequence of the order-by columns; ties may come in any order
//! ```

mod difference;
mod keys;
#[cfg(test)]
mod tests;
mod value;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_empty_array};
use arrow::compute::{cast, concat};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::Expr;

pub use self::difference::Difference;
use self::keys::Keys;
use crate::client::Rows;

/// Compares a result with the expected one. `order` holds the columns that the query orders by, see [`order_of`]; it is
/// empty for a query without ORDER BY.
///
/// # Errors
/// The first kind of difference found: schema, then rows, then order.
pub fn compare(expected: &Rows, actual: &Rows, order: &[usize]) -> Result<(), Difference> {
    let schema = client_schema(&expected.0);
    compare_schemas(&schema, &actual.0)?;
    let expected = Table::gather(&schema, &expected.1)?;
    for batch in &actual.1 {
        compare_schemas(&schema, &batch.schema())?;
    }
    let actual = Table::gather(&schema, &actual.1)?;
    compare_rows(&expected, &actual)?;
    compare_order(&expected, &actual, order)
}

/// The schema as clients see it: types that some clients cannot read are replaced, at any depth, by their plain forms.
pub fn client_schema(schema: &Schema) -> SchemaRef {
    let fields: Vec<_> = schema.fields().iter().map(client_field).collect();
    Arc::new(Schema::new(fields))
}

fn client_field(field: &FieldRef) -> FieldRef {
    Arc::new(Field::new(
        field.name(),
        client_type(field.data_type()),
        field.is_nullable(),
    ))
}

fn client_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Dictionary(_, value) => client_type(value),
        DataType::RunEndEncoded(_, value) => client_type(value.data_type()),
        DataType::List(item) | DataType::ListView(item) => DataType::List(client_field(item)),
        DataType::LargeList(item) | DataType::LargeListView(item) => DataType::LargeList(client_field(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(client_field(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(client_field).collect()),
        DataType::Map(entries, sorted) => DataType::Map(client_entries(entries), *sorted),
        DataType::Union(children, mode) => {
            let children = children.iter();
            DataType::Union(children.map(|(id, child)| (id, client_field(child))).collect(), *mode)
        }
        other => other.clone(),
    }
}

/// The entries of a map, with the column names that clients expect.
fn client_entries(entries: &FieldRef) -> FieldRef {
    let DataType::Struct(columns) = entries.data_type() else {
        return client_field(entries);
    };
    let columns = columns.iter().zip(["key", "value"]);
    let columns = columns.map(|(column, name)| {
        let plain = client_type(column.data_type());
        Field::new(name, plain, column.is_nullable())
    });
    let plain = DataType::Struct(columns.collect());
    Arc::new(Field::new("entries", plain, entries.is_nullable()))
}

/// The columns of a plan's result that its top-level ORDER BY names: the longest prefix of the sort keys that are
/// columns of the result.
pub fn order_of(plan: &LogicalPlan) -> Vec<usize> {
    match plan {
        LogicalPlan::Limit(limit) => order_of(&limit.input),
        LogicalPlan::Sort(sort) => {
            let schema = sort.input.schema();
            let column = |expr: &Expr| {
                expr.try_as_col()
                    .and_then(|column| schema.maybe_index_of_column(column))
            };
            sort.expr.iter().map_while(|key| column(&key.expr)).collect()
        }
        LogicalPlan::Projection(projection) => {
            let schema = projection.input.schema();
            let source = |expr: &Expr| {
                let bare = expr.clone().unalias();
                bare.try_as_col()
                    .and_then(|column| schema.maybe_index_of_column(column))
            };
            let sources: Vec<_> = projection.expr.iter().map(source).collect();
            let inner = order_of(&projection.input);
            inner
                .iter()
                .map_while(|key| sources.iter().position(|source| *source == Some(*key)))
                .collect()
        }
        _ => Vec::new(),
    }
}

/// One side of the comparison as whole columns.
struct Table {
    schema: SchemaRef,
    columns: Vec<ArrayRef>,
    rows: usize,
}

impl Table {
    fn gather(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Self, Difference> {
        let gather_column = |(index, field): (usize, &FieldRef)| {
            let parts: Vec<_> = batches
                .iter()
                .map(|batch| cast(batch.column(index), field.data_type()))
                .collect::<Result<_, _>>()?;
            match parts.is_empty() {
                true => Ok(new_empty_array(field.data_type())),
                false => concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<_>>()),
            }
        };
        let columns = schema.fields().iter().enumerate().map(gather_column);
        Ok(Self {
            schema: Arc::clone(schema),
            columns: columns.collect::<Result<_, _>>().map_err(Difference::unreadable)?,
            rows: batches.iter().map(RecordBatch::num_rows).sum(),
        })
    }
}

fn compare_schemas(expected: &Schema, actual: &Schema) -> Result<(), Difference> {
    let shape = |schema: &Schema| -> Vec<String> {
        let fields = schema.fields().iter();
        fields
            .map(|field| format!("{}: {}", field.name(), format_type(field.data_type())))
            .collect()
    };
    match (shape(expected), shape(actual)) {
        (expected, actual) if expected == actual => Ok(()),
        (expected, actual) => Err(Difference::schema(&expected, &actual)),
    }
}

/// A type as text, without the nullability and metadata of nested fields, which are not compared.
fn format_type(data_type: &DataType) -> String {
    let inner = |field: &FieldRef| format!("{}: {}", field.name(), format_type(field.data_type()));
    match data_type {
        DataType::List(item) => format!("List<{}>", format_type(item.data_type())),
        DataType::LargeList(item) => format!("LargeList<{}>", format_type(item.data_type())),
        DataType::FixedSizeList(item, size) => {
            format!("FixedSizeList<{}; {size}>", format_type(item.data_type()))
        }
        DataType::Struct(fields) => format!("Struct<{}>", fields.iter().map(inner).collect::<Vec<_>>().join(", ")),
        DataType::Map(entries, _) => format!("Map<{}>", format_type(entries.data_type())),
        other => other.to_string(),
    }
}

/// Sorts both sides by their exact columns, then pairs rows with equal exact columns by their inexact ones.
fn compare_rows(expected: &Table, actual: &Table) -> Result<(), Difference> {
    let (left, right) = (Keys::new(expected)?, Keys::new(actual)?);
    let (left_order, right_order) = (left.sort_rows(), right.sort_rows());
    let (mut missing, mut unexpected) = (Vec::new(), Vec::new());
    let (mut i, mut j) = (0, 0);
    while i < left_order.len() || j < right_order.len() {
        let key = match (left_order.get(i), right_order.get(j)) {
            (Some(a), Some(b)) => left.exact(*a).min(right.exact(*b)),
            (Some(a), None) => left.exact(*a),
            (None, Some(b)) => right.exact(*b),
            (None, None) => break,
        };
        let of_left = left_order[i..]
            .iter()
            .take_while(|row| left.exact(**row) == key)
            .count();
        let of_right = right_order[j..]
            .iter()
            .take_while(|row| right.exact(**row) == key)
            .count();
        let same = |a: usize, b: usize| value::rows_equal(&expected.columns, a, &actual.columns, b);
        let (lost, found) = pair(&left_order[i..i + of_left], &right_order[j..j + of_right], same);
        missing.extend(lost);
        unexpected.extend(found);
        (i, j) = (i + of_left, j + of_right);
        if missing.len() >= difference::MAX_LISTED_ROWS && unexpected.len() >= difference::MAX_LISTED_ROWS {
            break;
        }
    }
    match missing.is_empty() && unexpected.is_empty() {
        true => Ok(()),
        false => Err(Difference::rows(expected, &missing, actual, &unexpected)),
    }
}

/// Pairs the rows of two groups with one key; gives the rows without a partner. Most rows stand opposite their partner,
/// so that pairing is linear except where floats within the tolerance sorted differently.
fn pair(left: &[usize], right: &[usize], same: impl Fn(usize, usize) -> bool) -> (Vec<usize>, Vec<usize>) {
    let mut unpaired: Vec<usize> = Vec::new();
    let mut lost: Vec<usize> = Vec::new();
    let mut rest = right.iter().copied();
    for &row in left {
        match rest.next() {
            Some(opposite) if same(row, opposite) => continue,
            opposite => unpaired.extend(opposite),
        }
        lost.push(row);
    }
    unpaired.extend(rest);
    lost.retain(
        |row| match unpaired.iter().position(|candidate| same(*row, *candidate)) {
            Some(partner) => {
                unpaired.swap_remove(partner);
                false
            }
            None => true,
        },
    );
    (lost, unpaired)
}

fn compare_order(expected: &Table, actual: &Table, order: &[usize]) -> Result<(), Difference> {
    for row in 0..expected.rows {
        for &column in order {
            let (wanted, found) = (&expected.columns[column], &actual.columns[column]);
            if !value::equal(wanted, row, found, row) {
                return Err(Difference::order(expected, actual, column, row));
            }
        }
    }
    Ok(())
}
