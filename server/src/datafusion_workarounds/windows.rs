//! Window functions whose frames DataFusion 55.2 gets wrong.
//!
//! A `RANGE` frame with an offset is found by adding the offset to the key. Keys of narrow and unsigned types overflow, and
//! the frame then ends at a row that exists, or takes the NULLs in; so keys are compared in a wider type. Over times of a
//! day it finds no frame; those of the first day of 1970 have the same order.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result, not_impl_err, plan_err};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction};
use datafusion::logical_expr::{
    Expr, ExprSchemable, LogicalPlan, WindowFrame, WindowFrameBound, WindowFrameUnits, cast,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::scalar::ScalarValue;

use crate::plan_limits::expressions::{input_schema, rewrite_named};

/// Widens the keys of frames, and refuses what has no right frame.
#[derive(Debug)]
pub(crate) struct WidenFrames;

impl AnalyzerRule for WidenFrames {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_down_with_subqueries(|node| {
            if !matches!(node, LogicalPlan::Window(_)) {
                return Ok(Transformed::no(node));
            }
            let schema = input_schema(&node);
            let mut wide = None;
            node.apply_expressions(|expression| {
                expression.apply(|part| {
                    if let Expr::WindowFunction(function) = part {
                        wide = wide.take().or(needed_type(function, &schema)?);
                    }
                    Ok(TreeNodeRecursion::Continue)
                })
            })?;
            let Some(wide) = wide else {
                return Ok(Transformed::no(node));
            };
            rewrite_functions(node, |function| widen(*function, &wide))
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "widen_frames"
    }
}

/// Makes timestamps of times that `RANGE` frames with an offset are ordered by, before types are looked at.
#[derive(Debug)]
pub(crate) struct TimesAsTimestamps;

impl AnalyzerRule for TimesAsTimestamps {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_down_with_subqueries(|node| {
            let LogicalPlan::Window(window) = &node else {
                return Ok(Transformed::no(node));
            };
            let schema = input_schema(&node);
            let is_affected = window.window_expr.iter().any(|expression| {
                let found = expression.exists(|part| match part {
                    Expr::WindowFunction(function) => {
                        let frame = &function.params.window_frame;
                        let has_range = frame.units == WindowFrameUnits::Range && has_offset(frame);
                        Ok(has_range && is_ordered_by_time(function, &schema))
                    }
                    _ => Ok(false),
                });
                found.unwrap_or(false)
            });
            if !is_affected {
                return Ok(Transformed::no(node));
            }
            rewrite_functions(node, |function| Ok(order_by_timestamp(function)))
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "times_as_timestamps"
    }
}

/// Rewrites all functions of a node, which have one order.
fn rewrite_functions(
    node: LogicalPlan,
    rewrite: impl Fn(Box<WindowFunction>) -> Result<Expr>,
) -> Result<Transformed<LogicalPlan>> {
    rewrite_named(node, |expression| {
        expression.transform_up(|part| match part {
            Expr::WindowFunction(function) => rewrite(function).map(Transformed::yes),
            other => Ok(Transformed::no(other)),
        })
    })
}

fn is_ordered_by_time(function: &WindowFunction, schema: &DFSchema) -> bool {
    match function.params.order_by.as_slice() {
        [key] => key.expr.get_type(schema).is_ok_and(|data_type| is_time(&data_type)),
        _ => false,
    }
}

fn order_by_timestamp(mut function: Box<WindowFunction>) -> Expr {
    for key in &mut function.params.order_by {
        let time = cast(std::mem::take(&mut key.expr), DataType::Time64(TimeUnit::Nanosecond));
        key.expr = cast(
            cast(time, DataType::Int64),
            DataType::Timestamp(TimeUnit::Nanosecond, None),
        );
    }
    Expr::WindowFunction(function)
}

fn is_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Time32(_) | DataType::Time64(_))
}

/// The type that the key of a function's frame needs, if its own is too narrow.
fn needed_type(function: &WindowFunction, schema: &DFSchema) -> Result<Option<DataType>> {
    refuse_far_lead(function)?;
    refuse_cut_default(function, schema)?;
    let frame = &function.params.window_frame;
    match (frame.units, function.params.order_by.as_slice()) {
        (WindowFrameUnits::Range, [key]) if has_offset(frame) => {
            check_offsets(frame)?;
            wide_type(&key.expr.get_type(schema)?)
        }
        _ => Ok(None),
    }
}

fn widen(mut function: WindowFunction, wide: &DataType) -> Result<Expr> {
    for key in &mut function.params.order_by {
        key.expr = cast(key.expr.clone(), wide.clone());
    }
    let frame = &mut function.params.window_frame;
    for bound in [&mut frame.start_bound, &mut frame.end_bound] {
        if let WindowFrameBound::Preceding(offset) | WindowFrameBound::Following(offset) = bound
            && frame.units == WindowFrameUnits::Range
        {
            *offset = offset.cast_to(wide)?;
        }
    }
    Ok(Expr::from(function))
}

fn has_offset(frame: &WindowFrame) -> bool {
    [&frame.start_bound, &frame.end_bound]
        .into_iter()
        .any(|bound| offset(bound).is_some())
}

fn offset(bound: &WindowFrameBound) -> Option<&ScalarValue> {
    match bound {
        WindowFrameBound::Preceding(value) | WindowFrameBound::Following(value) if !value.is_null() => Some(value),
        _ => None,
    }
}

fn check_offsets(frame: &WindowFrame) -> Result<()> {
    let is_negative = |offset: &ScalarValue| match offset {
        ScalarValue::IntervalMonthDayNano(Some(offset)) => {
            offset.months < 0 || offset.days < 0 || offset.nanoseconds < 0
        }
        ScalarValue::Utf8(Some(text)) => text.trim_start().starts_with('-'),
        _ => false,
    };
    let mut offsets = [&frame.start_bound, &frame.end_bound].into_iter().filter_map(offset);
    match offsets.any(is_negative) {
        true => plan_err!("the offset of a RANGE frame must not be negative"),
        false => Ok(()),
    }
}

/// A type in which no key plus an offset overflows; none where the key's own type does.
fn wide_type(key: &DataType) -> Result<Option<DataType>> {
    match key {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => {
            Ok(Some(DataType::Int64))
        }
        DataType::Int64 | DataType::UInt64 => Ok(Some(DataType::Decimal128(38, 0))),
        _ => Ok(None),
    }
}

/// `lead(x, 2) IGNORE NULLS`, and `lag(x, -2)`, which is the same, miss rows behind a gap (apache/datafusion#25471).
fn refuse_far_lead(function: &WindowFunction) -> Result<()> {
    let ignores_nulls = function.params.null_treatment == Some(NullTreatment::IgnoreNulls);
    let is_one = |offset: &Expr| matches!(offset, Expr::Literal(value, _) if value.to_string() == "1");
    let is_far = function.params.args.get(1).is_some_and(|offset| !is_one(offset));
    let is_ahead = match function.fun.name() {
        "lead" => is_far,
        "lag" => function.params.args.get(1).is_some_and(is_negative),
        _ => false,
    };
    if ignores_nulls && is_ahead {
        return not_impl_err!(
            "lead with an offset, or lag with a negative one, and IGNORE NULLS is not supported; nth_value(x, n) IGNORE NULLS OVER (... ROWS BETWEEN 1 FOLLOWING \
             AND UNBOUNDED FOLLOWING) gives the same row"
        );
    }
    Ok(())
}

/// The default of `lag(x, 1, 2.5)` is cast to the type of `x`, and loses its fraction in an integer.
fn refuse_cut_default(function: &WindowFunction, schema: &DFSchema) -> Result<()> {
    let name = function.fun.name();
    let ([value, _, default], "lag" | "lead") = (function.params.args.as_slice(), name) else {
        return Ok(());
    };
    let has_fraction = |value: &ScalarValue| match value {
        ScalarValue::Float64(Some(value)) => value.fract() != 0.0,
        _ => false,
    };
    let is_cut = matches!(default, Expr::Literal(value, _) if has_fraction(value));
    if is_cut && value.get_type(schema)?.is_integer() {
        return plan_err!(
            "the default of {name} has a fraction, and its values are integers; cast them: {name}(CAST(x AS DOUBLE), 1, 2.5)"
        );
    }
    Ok(())
}

/// Whether a written offset is negative.
fn is_negative(offset: &Expr) -> bool {
    match offset {
        Expr::Negative(_) => true,
        Expr::Literal(value, _) => value.to_string().starts_with('-'),
        Expr::Cast(cast) => is_negative(&cast.expr),
        _ => false,
    }
}
