//! Rows as keys, for `count(DISTINCT a, b)` and for joins on values that DataFusion 55.2 does not compare by their value.

use std::sync::Arc;

use datafusion::arrow::array::BinaryArray;
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// `row_key(a, b, ...)` gives equal bytes for equal rows, and NULL for a row with a NULL.
pub fn row_key() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(RowKey {
        signature: Signature::variadic_any(Volatility::Immutable),
    }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct RowKey {
    signature: Signature,
}

impl ScalarUDFImpl for RowKey {
    fn name(&self) -> &str {
        "row_key"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns = ColumnarValue::values_to_arrays(&args.args)?;
        let fields = columns.iter().map(|column| SortField::new(column.data_type().clone()));
        let rows = RowConverter::new(fields.collect())?.convert_columns(&columns)?;
        let nulls = columns.iter().map(|column| column.logical_nulls());
        let nulls = nulls.fold(None, |all, some| NullBuffer::union(all.as_ref(), some.as_ref()));
        let is_complete = |row: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
        let keys = (0..rows.num_rows()).map(|row| is_complete(row).then(|| rows.row(row).data().to_vec()));
        Ok(ColumnarValue::Array(Arc::new(keys.collect::<BinaryArray>())))
    }
}
