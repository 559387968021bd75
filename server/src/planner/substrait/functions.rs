//! Scalar functions of Substrait's standard extensions that DataFusion implements differently, or under several names.
//!
//! Arguments of a function are expressions again, so this file and `reader` import each other: the recursion of the
//! reader.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::functions::expr_fn as own;
use datafusion::logical_expr::{BinaryExpr, Expr, Like, Operator, cast, lit, when};
use datafusion_substrait::logical_plan::consumer::{from_scalar_function, from_substrait_func_args};
use datafusion_substrait::substrait::proto::FunctionArgument;
use datafusion_substrait::substrait::proto::expression::ScalarFunction;

use super::declarations::{Dialect, bare_name, check_option, choice};
use super::errors::{invalid, unsupported};
use super::reader::Reader;

/// Reads a scalar function as an expression.
pub(super) async fn scalar(reader: &Reader<'_>, function: &ScalarFunction, input: &DFSchema) -> Result<Expr> {
    let declared = reader.declarations.function(function.function_reference)?;
    if reader.declarations.dialect == Dialect::DataFusion {
        return from_scalar_function(reader, function, input).await;
    }
    let call = Call {
        reader,
        function,
        declared,
        input,
    };
    match bare_name(declared).as_str() {
        "concat" => call.concat().await,
        "extract" => call.extract().await,
        "greatest" => call.null_if_any_null(own::greatest).await,
        "least" => call.null_if_any_null(own::least).await,
        "like" => call.like().await,
        _ => call.plain().await,
    }
}

struct Call<'a> {
    reader: &'a Reader<'a>,
    function: &'a ScalarFunction,
    /// As the plan calls it.
    declared: &'a str,
    input: &'a DFSchema,
}

impl Call<'_> {
    async fn plain(&self) -> Result<Expr> {
        self.check_options(&[])?;
        if let Some(chosen) = self.function.arguments.iter().find_map(choice) {
            return Err(unsupported(format!(
                "the function '{}' with the argument {chosen} is not supported",
                self.declared
            )));
        }
        from_scalar_function(self.reader, self.function, self.input).await
    }

    /// DataFusion's `concat` skips NULLs; in the standard that is an option.
    async fn concat(&self) -> Result<Expr> {
        if self.requests("null_handling", "IGNORE_NULLS") {
            self.check_options(&["null_handling"])?;
            return from_scalar_function(self.reader, self.function, self.input).await;
        }
        self.check_options(&[])?;
        let joined = self.arguments().await?.into_iter().reduce(|left, right| {
            let op = Operator::StringConcat;
            Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
        });
        joined.ok_or_else(|| self.misused("takes one or more texts"))
    }

    /// The part of a date or time: `extract(YEAR, x)`.
    async fn extract(&self) -> Result<Expr> {
        self.check_options(&[])?;
        let arguments = &self.function.arguments;
        let choices: Vec<&str> = arguments.iter().filter_map(choice).collect();
        let values: Vec<FunctionArgument> = arguments
            .iter()
            .filter(|argument| choice(argument).is_none())
            .cloned()
            .collect();
        let mut values = from_substrait_func_args(self.reader, &values, self.input).await?;
        let (component, from_zero) = match choices.as_slice() {
            // Some producers write the component as a text.
            [] if values.len() == 2 => (text(&values.remove(0)), false),
            [component] | [component, "ONE"] => (Some((*component).to_owned()), false),
            [component, "ZERO"] => (Some((*component).to_owned()), true),
            _ => (None, false),
        };
        let component = component.ok_or_else(|| self.misused("takes a component and a time"))?;
        let [of] = values.as_slice() else {
            return Err(self.misused("is supported with a component and a time alone"));
        };
        let part = datafusion_part(&component).ok_or_else(|| {
            unsupported(format!(
                "the function '{}' with the argument {component} is not supported",
                self.declared
            ))
        })?;
        let part = cast(own::date_part(lit(part), of.clone()), DataType::Int64);
        Ok(if from_zero { part - lit(1_i64) } else { part })
    }

    /// DataFusion's `least` and `greatest` skip NULLs; those of the standard do not.
    async fn null_if_any_null(&self, of: fn(Vec<Expr>) -> Expr) -> Result<Expr> {
        self.check_options(&[])?;
        let arguments = self.arguments().await?;
        let no_null = arguments
            .iter()
            .map(|argument| argument.clone().is_not_null())
            .reduce(Expr::and);
        let no_null = no_null.ok_or_else(|| self.misused("takes one or more values"))?;
        when(no_null, of(arguments)).end()
    }

    async fn like(&self) -> Result<Expr> {
        if !self.requests("case_sensitivity", "CASE_INSENSITIVE") {
            return self.plain().await;
        }
        self.check_options(&["case_sensitivity"])?;
        match <[Expr; 2]>::try_from(self.arguments().await?) {
            Ok([value, pattern]) => Ok(Expr::Like(Like::new(
                false,
                Box::new(value),
                Box::new(pattern),
                None,
                true,
            ))),
            Err(_) => Err(self.misused("takes a text and a pattern")),
        }
    }

    async fn arguments(&self) -> Result<Vec<Expr>> {
        from_substrait_func_args(self.reader, &self.function.arguments, self.input).await
    }

    /// Whether the first preference for an option is `value`.
    fn requests(&self, name: &str, value: &str) -> bool {
        let options = &self.function.options;
        options
            .iter()
            .any(|option| option.name == name && option.preference.first().is_some_and(|it| it == value))
    }

    fn check_options(&self, honoured: &[&str]) -> Result<()> {
        let options = &self.function.options;
        options
            .iter()
            .filter(|option| !honoured.contains(&option.name.as_str()))
            .try_for_each(|option| check_option(self.declared, &option.name, &option.preference))
    }

    fn misused(&self, how: &str) -> datafusion::error::DataFusionError {
        invalid(format!("the function '{}' of the Substrait plan {how}", self.declared))
    }
}

/// The text of a literal.
fn text(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Literal(ScalarValue::Utf8(text), _) => text.clone(),
        _ => None,
    }
}

/// DataFusion's name for a component of a time, where it has one of the same meaning.
fn datafusion_part(component: &str) -> Option<&'static str> {
    Some(match component.to_uppercase().as_str() {
        "YEAR" => "year",
        "QUARTER" => "quarter",
        "MONTH" => "month",
        "DAY" => "day",
        "DAY_OF_YEAR" => "doy",
        "ISO_WEEK" => "week",
        "HOUR" => "hour",
        "MINUTE" => "minute",
        "SECOND" => "second",
        _ => return None,
    })
}
