//! Floats of which equal ones have equal bits.
//!
//! In SQL -0.0 equals 0.0, and one NaN another. DataFusion 55.2 compares bits where it sorts, and where it looks values up
//! in lists and tables of windows (apache/datafusion#22826, #25186). A division of zero by zero gives a NaN with a sign,
//! which then is the least of all numbers and not the greatest.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::{DataType, FieldRef, Float32Type, Float64Type};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::strict_field;

/// `canonical(x)` is `x`, but 0.0 for -0.0, and the one NaN for each.
pub fn canonical() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(Canonical {
        signature: Signature::any(1, Volatility::Immutable),
    }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Canonical {
    signature: Signature,
}

impl ScalarUDFImpl for Canonical {
    fn name(&self) -> &str {
        "canonical"
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.iter().map(ToString::to_string).collect())
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.iter().map(|arg| arg.schema_name().to_string()).collect())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [data_type] if data_type.is_floating() => Ok(data_type.clone()),
            _ => plan_err!("canonical takes a float"),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        strict_field(self.name(), &args, |types| self.return_type(types))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [ColumnarValue::Array(values)] => Ok(ColumnarValue::Array(of_array(values)?)),
            [ColumnarValue::Scalar(value)] => {
                let one = of_array(&value.to_array_of_size(1)?)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&one, 0)?))
            }
            other => exec_err!("canonical takes one argument, not {}", other.len()),
        }
    }

    // But for NaN with a sign, which files may hold, the order of values is that of their bits.
    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        Ok(match inputs {
            [input] if input.sort_properties == SortProperties::Singleton => SortProperties::Singleton,
            _ => SortProperties::Unordered,
        })
    }
}

fn of_array(values: &ArrayRef) -> Result<ArrayRef> {
    macro_rules! canonical {
        ($type:ty, $nan:expr, $zero:expr) => {{
            let values = values.as_primitive::<$type>();
            let canonical = values.unary::<_, $type>(|value| match value {
                _ if value.is_nan() => $nan,
                // -0.0 + 0.0 is 0.0.
                _ => value + $zero,
            });
            Ok(Arc::new(canonical) as ArrayRef)
        }};
    }
    match values.data_type() {
        DataType::Float64 => canonical!(Float64Type, f64::NAN, 0.0),
        DataType::Float32 => canonical!(Float32Type, f32::NAN, 0.0),
        _ => Ok(Arc::clone(values)),
    }
}
