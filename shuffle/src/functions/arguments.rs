//! The arguments of a function, row by row.

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::compute::kernels::length::length;
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::common::Result;
use datafusion::logical_expr::ColumnarValue;

/// A number for each row, or one for all.
pub(super) struct Numbers {
    values: Option<ArrayRef>,
}

impl Numbers {
    /// 0 for NULL, and for what is no number.
    pub(super) fn signed(&self, row: usize) -> i64 {
        let Some(values) = &self.values else {
            return 0;
        };
        let values = values.as_primitive::<Int64Type>();
        let row = if values.len() == 1 { 0 } else { row };
        if values.is_null(row) { 0 } else { values.value(row) }
    }

    /// 0 for negative numbers too.
    pub(super) fn at(&self, row: usize) -> u64 {
        u64::try_from(self.signed(row)).unwrap_or(0)
    }
}

/// One row for a constant.
pub(super) fn array(column: &ColumnarValue) -> Result<ArrayRef> {
    match column {
        ColumnarValue::Array(array) => Ok(ArrayRef::clone(array)),
        ColumnarValue::Scalar(value) => value.to_array_of_size(1),
    }
}

pub(super) fn numbers(column: &ColumnarValue) -> Result<Numbers> {
    let values = array(column)?;
    let values = match values.data_type() {
        data_type if data_type.is_integer() => Some(cast(&values, &DataType::Int64)?),
        _ => None,
    };
    Ok(Numbers { values })
}

/// The lengths of texts, in bytes.
pub(super) fn lengths(column: &ColumnarValue) -> Result<Numbers> {
    let values = array(column)?;
    let values = match values.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(cast(&length(&values)?, &DataType::Int64)?),
        _ => None,
    };
    Ok(Numbers { values })
}

/// The numbers of elements of arrays.
pub(super) fn cardinalities(arrays: &ArrayRef) -> Result<Numbers> {
    let values = match arrays.data_type() {
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
            Some(cast(&length(arrays)?, &DataType::Int64)?)
        }
        _ => None,
    };
    Ok(Numbers { values })
}
