//! Sort keys of rows: one byte string for the columns that must agree exactly, one for the columns with floats.

use arrow::array::ArrayRef;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};

use super::difference::Difference;
use super::{Table, value};

/// The keys of one side.
pub(super) struct Keys {
    rows: usize,
    /// `None` when there is no exact column; likewise below.
    exact: Option<Rows>,
    inexact: Option<Rows>,
}

impl Keys {
    pub(super) fn new(table: &Table) -> Result<Self, Difference> {
        let (inexact, exact): (Vec<ArrayRef>, Vec<ArrayRef>) = table
            .columns
            .iter()
            .cloned()
            .partition(|column| value::holds_floats(column.data_type()));
        Ok(Self {
            rows: table.rows,
            exact: convert(&exact).map_err(Difference::unreadable)?,
            inexact: convert(&inexact).map_err(Difference::unreadable)?,
        })
    }

    /// The key of a row's exact columns.
    pub(super) fn exact(&self, row: usize) -> &[u8] {
        key(self.exact.as_ref(), row)
    }

    /// Row numbers, sorted by the exact columns, then by the others.
    pub(super) fn sort_rows(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.rows).collect();
        order.sort_by_key(|row| (self.exact(*row), key(self.inexact.as_ref(), *row)));
        order
    }
}

fn convert(columns: &[ArrayRef]) -> Result<Option<Rows>, ArrowError> {
    if columns.is_empty() {
        return Ok(None);
    }
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone()));
    RowConverter::new(fields.collect())?.convert_columns(columns).map(Some)
}

fn key(rows: Option<&Rows>, row: usize) -> &[u8] {
    rows.map_or(&[], |rows| rows.row(row).data())
}
