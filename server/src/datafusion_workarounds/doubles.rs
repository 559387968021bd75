//! What is computed of a double and a decimal is a double.
//!
//! DataFusion 55.2 casts the double to a decimal with 15 digits behind the point: 1e-20 becomes 0, and 1e25 and NaN an
//! error (apache/datafusion#14272). PostgreSQL and DuckDB cast the decimal. A number that is written down, such as 0.05,
//! is a decimal there, so it is still taken for one where it has no more digits than that.
//!
//! `ceil` and `floor` of a decimal fail where the result has a digit more; here they get room for it.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, Result, ScalarValue, internal_err};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::{Between, InList, ScalarFunction};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, Projection, Union, cast};
use datafusion::optimizer::AnalyzerRule;

use crate::plan_limits::expressions::{rewrite_node, rewrite_types};

/// Functions whose result is one of their arguments, or that compare them.
const CHOOSING: [&str; 6] = ["coalesce", "nvl", "nullif", "greatest", "least", "nvl2"];

/// Casts the decimals beside doubles.
#[derive(Debug)]
pub(crate) struct DoublesBesideDecimals;

impl AnalyzerRule for DoublesBesideDecimals {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        rewrite_types(plan, |node| {
            let node = rewrite_node(node, |expression, schema| {
                expression.transform_up(|part| with_doubles(part, schema))
            })?;
            node.transform_data(union_of_doubles)
        })
    }

    fn name(&self) -> &'static str {
        "doubles_beside_decimals"
    }
}

fn with_doubles(part: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    match part {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_numeric(op) => {
            let (operands, is_new) = alike(vec![*left, *right], schema);
            let Ok([left, right]) = <[Expr; 2]>::try_from(operands) else {
                return internal_err!("two operands stay two");
            };
            let both = BinaryExpr::new(Box::new(left), op, Box::new(right));
            Ok(Transformed::new_transformed(Expr::BinaryExpr(both), is_new))
        }
        Expr::Between(between) => {
            let (operands, is_new) = alike(vec![*between.expr, *between.low, *between.high], schema);
            let Ok([expr, low, high]) = <[Expr; 3]>::try_from(operands) else {
                return internal_err!("three operands stay three");
            };
            let between = Between::new(Box::new(expr), between.negated, Box::new(low), Box::new(high));
            Ok(Transformed::new_transformed(Expr::Between(between), is_new))
        }
        Expr::InList(InList { expr, list, negated }) => {
            let operands = std::iter::once(*expr).chain(list).collect();
            let (mut operands, is_new) = alike(operands, schema);
            let expr = Box::new(operands.remove(0));
            let list = InList::new(expr, operands, negated);
            Ok(Transformed::new_transformed(Expr::InList(list), is_new))
        }
        Expr::ScalarFunction(ScalarFunction { func, args }) if CHOOSING.contains(&func.name()) => {
            let (args, is_new) = alike(args, schema);
            let call = ScalarFunction::new_udf(func, args);
            Ok(Transformed::new_transformed(Expr::ScalarFunction(call), is_new))
        }
        Expr::ScalarFunction(call) if matches!(call.name(), "ceil" | "floor") => Ok(with_room(call, schema)),
        Expr::Case(mut case) => {
            let results = case.when_then_expr.iter_mut().map(|(_, then)| then);
            let results: Vec<_> = results
                .chain(&mut case.else_expr)
                .map(|result| result.as_mut())
                .collect();
            let mut is_new = replace_alike(results, schema);
            if let Some(base) = &mut case.expr {
                let whens = case.when_then_expr.iter_mut().map(|(when, _)| when.as_mut());
                is_new |= replace_alike(std::iter::once(base.as_mut()).chain(whens).collect(), schema);
            }
            Ok(Transformed::new_transformed(Expr::Case(case), is_new))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// `ceil` and `floor` of a decimal with one more digit, which 99.9 needs.
fn with_room(mut call: ScalarFunction, schema: &DFSchema) -> Transformed<Expr> {
    let data_type = call.args.first().and_then(|value| value.get_type(schema).ok());
    match data_type {
        Some(DataType::Decimal128(precision, scale)) if precision < DECIMAL128_MAX_PRECISION && scale > 0 => {
            let wide = DataType::Decimal128(precision + 1, scale);
            call.args = call.args.into_iter().map(|value| cast(value, wide.clone())).collect();
            Transformed::yes(Expr::ScalarFunction(call))
        }
        _ => Transformed::no(Expr::ScalarFunction(call)),
    }
}

fn is_numeric(op: Operator) -> bool {
    op.supports_propagation()
        || matches!(
            op,
            Operator::Plus
                | Operator::Minus
                | Operator::Multiply
                | Operator::Divide
                | Operator::Modulo
                | Operator::IsDistinctFrom
                | Operator::IsNotDistinctFrom
        )
}

fn replace_alike(places: Vec<&mut Expr>, schema: &DFSchema) -> bool {
    let expressions = places.iter().map(|place| (**place).clone()).collect();
    let (alike, is_new) = alike(expressions, schema);
    if is_new {
        for (place, expression) in places.into_iter().zip(alike) {
            *place = expression;
        }
    }
    is_new
}

/// The expressions with decimals cast to doubles if one of them is a double.
fn alike(expressions: Vec<Expr>, schema: &DFSchema) -> (Vec<Expr>, bool) {
    let types: Vec<_> = expressions.iter().map(|one| one.get_type(schema).ok()).collect();
    let is_decimal = |data_type: &Option<DataType>| data_type.as_ref().is_some_and(DataType::is_decimal);
    let is_double = |(expression, data_type): (&Expr, &Option<DataType>)| {
        data_type.as_ref().is_some_and(DataType::is_floating) && !is_written_decimal(expression)
    };
    if !types.iter().any(is_decimal) || !expressions.iter().zip(&types).any(is_double) {
        return (expressions, false);
    }
    let alike = expressions
        .into_iter()
        .zip(&types)
        .map(|(expression, data_type)| match is_decimal(data_type) {
            true => cast(expression, DataType::Float64),
            false => expression,
        });
    (alike.collect(), true)
}

/// Whether the expression is made of numbers that are written down with few enough digits for the decimals that
/// DataFusion makes of doubles.
fn is_written_decimal(expression: &Expr) -> bool {
    match expression {
        Expr::Literal(ScalarValue::Float64(Some(value)), _) => {
            let digits = value.abs().to_string();
            let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, ""));
            value.is_finite() && whole.len() <= 15 && fraction.len() <= 15
        }
        Expr::Literal(value, _) => value.is_null() || value.data_type().is_integer(),
        Expr::Alias(alias) => is_written_decimal(&alias.expr),
        Expr::Negative(inner) => is_written_decimal(inner),
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Plus | Operator::Minus | Operator::Multiply,
            right,
        }) => is_written_decimal(left) && is_written_decimal(right),
        _ => false,
    }
}

/// The union with decimals cast where another input has doubles in the same place.
fn union_of_doubles(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Union(Union { inputs, schema }) = node else {
        return Ok(Transformed::no(node));
    };
    let columns = inputs.first().map_or(0, |input| input.schema().fields().len());
    let has = |column: usize, is_one: &dyn Fn(&LogicalPlan, &DataType) -> bool| {
        let has = |input: &Arc<LogicalPlan>| {
            let field = input.schema().fields().get(column);
            field.is_some_and(|field| is_one(input, field.data_type()))
        };
        inputs.iter().any(has)
    };
    let is_mixed = |column: usize| {
        let is_double =
            |input: &LogicalPlan, data_type: &DataType| data_type.is_floating() && !is_written_column(input, column);
        has(column, &|_, data_type| data_type.is_decimal()) && has(column, &is_double)
    };
    let mixed: Vec<_> = (0..columns).filter(|column| is_mixed(*column)).collect();
    if mixed.is_empty() {
        return Ok(Transformed::no(LogicalPlan::Union(Union { inputs, schema })));
    }
    let inputs = inputs.into_iter().map(|input| with_double_columns(input, &mixed));
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    Ok(Transformed::yes(LogicalPlan::Union(Union::try_new_with_loose_types(
        inputs,
    )?)))
}

fn is_written_column(input: &LogicalPlan, column: usize) -> bool {
    match input {
        LogicalPlan::Projection(projection) => projection.expr.get(column).is_some_and(is_written_decimal),
        _ => false,
    }
}

fn with_double_columns(input: Arc<LogicalPlan>, mixed: &[usize]) -> Result<Arc<LogicalPlan>> {
    let is_decimal = |column: &usize| input.schema().field(*column).data_type().is_decimal();
    if !mixed.iter().any(is_decimal) {
        return Ok(input);
    }
    let expressions = input.schema().iter().enumerate().map(|(index, (qualifier, field))| {
        let column = Expr::Column(Column::from((qualifier, field)));
        match mixed.contains(&index) && field.data_type().is_decimal() {
            true => cast(column, DataType::Float64).alias_qualified(qualifier.cloned(), field.name()),
            false => column,
        }
    });
    let expressions = expressions.collect();
    Ok(Arc::new(LogicalPlan::Projection(Projection::try_new(
        expressions,
        input,
    )?)))
}
