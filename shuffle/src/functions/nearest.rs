//! Floats without a fraction, as PostgreSQL and DuckDB round them where they are cast to integers.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray};
use datafusion::arrow::datatypes::{DataType, Float32Type, Float64Type};
use datafusion::common::Result;
use datafusion::logical_expr::ScalarUDF;

use super::same::same;

/// `nearest(x)` is the whole number nearest to the float `x`, the even one of two; DataFusion 55.2 cuts the fraction off.
pub fn nearest() -> Arc<ScalarUDF> {
    same("nearest", of_array)
}

fn of_array(values: &ArrayRef) -> Result<ArrayRef> {
    Ok(match values.data_type() {
        DataType::Float64 => Arc::new(
            values
                .as_primitive::<Float64Type>()
                .unary::<_, Float64Type>(f64::round_ties_even),
        ),
        DataType::Float32 => Arc::new(
            values
                .as_primitive::<Float32Type>()
                .unary::<_, Float32Type>(f32::round_ties_even),
        ),
        _ => Arc::clone(values),
    })
}
