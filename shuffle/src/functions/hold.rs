//! A function that gives back its first argument, and that no rule of DataFusion looks through.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, plan_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// `hold(value, ...)` is `value`. What else is named keeps the expression where those columns are.
pub(super) fn hold() -> Arc<ScalarUDF> {
    static HOLD: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
        Arc::new(ScalarUDF::new_from_impl(Hold {
            signature: Signature::variadic_any(Volatility::Immutable),
        }))
    });
    Arc::clone(&HOLD)
}

/// The first of `args`, as a call that no rule looks through.
pub fn held(args: Vec<Expr>) -> Expr {
    Expr::ScalarFunction(ScalarFunction::new_udf(hold(), args))
}

/// What a call of [`held`] gives back; none where `expression` is something else.
pub fn value_held(expression: &Expr) -> Option<&Expr> {
    match expression {
        Expr::ScalarFunction(call) if call.func.inner().is::<Hold>() => call.args.first(),
        _ => None,
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Hold {
    signature: Signature,
}

impl ScalarUDFImpl for Hold {
    fn name(&self) -> &str {
        "hold"
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.first().map(ToString::to_string).unwrap_or_default())
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args
            .first()
            .map(|value| value.schema_name().to_string())
            .unwrap_or_default())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types.first() {
            Some(value) => Ok(value.clone()),
            None => plan_err!("hold takes a value"),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        match args.arg_fields.first() {
            Some(value) => Ok(Arc::new(Field::new(
                self.name(),
                value.data_type().clone(),
                value.is_nullable(),
            ))),
            None => plan_err!("hold takes a value"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.into_iter().next() {
            Some(value) => Ok(value),
            None => plan_err!("hold takes a value"),
        }
    }
}
