//! Aggregate and window functions, and the arguments of all functions.

use datafusion::error::Result;
use datafusion_substrait::substrait::proto::expression::WindowFunction;
use datafusion_substrait::substrait::proto::function_argument::ArgType;
use datafusion_substrait::substrait::proto::{AggregateFunction, AggregationPhase, Expression, FunctionArgument};

use super::limits::Walk;
use crate::planner::substrait::declarations::is_distinct;
use crate::planner::substrait::errors::{invalid, unsupported};

impl Walk<'_> {
    pub(super) fn check_aggregate_function(&mut self, function: &mut AggregateFunction) -> Result<()> {
        #[expect(deprecated, reason = "older producers write arguments here")]
        settle_arguments(&mut function.arguments, &mut function.args);
        self.declarations.settle_aggregate(function)?;
        self.check_phase(function.phase, function.function_reference)?;
        self.check_sorts(&mut function.sorts)?;
        self.check_arguments(&mut function.arguments)
    }

    /// Refuses a step of an aggregation: the server parts aggregations into steps itself.
    fn check_phase(&self, phase: i32, function: u32) -> Result<()> {
        match AggregationPhase::try_from(phase) {
            Ok(AggregationPhase::Unspecified | AggregationPhase::InitialToResult) => Ok(()),
            other => Err(unsupported(format!(
                "the aggregate function '{}' in the phase {} is not supported; send the whole aggregation",
                self.declarations.function(function)?,
                other.map_or("unknown", |phase| phase.as_str_name())
            ))),
        }
    }

    pub(super) fn check_window_function(&mut self, function: &mut WindowFunction) -> Result<()> {
        #[expect(deprecated, reason = "older producers write arguments here")]
        settle_arguments(&mut function.arguments, &mut function.args);
        let name = self.declarations.function(function.function_reference)?;
        if is_distinct(function.invocation) {
            return Err(unsupported(format!(
                "the window function '{name}' over distinct values is not supported"
            )));
        }
        self.check_phase(function.phase, function.function_reference)?;
        self.check_sorts(&mut function.sorts)?;
        self.check_expressions(&mut function.partitions)?;
        self.check_arguments(&mut function.arguments)
    }

    pub(super) fn check_arguments(&mut self, arguments: &mut [FunctionArgument]) -> Result<()> {
        arguments
            .iter_mut()
            .try_for_each(|argument| match argument.arg_type.as_mut() {
                Some(ArgType::Value(value)) => self.check_expression(value),
                Some(ArgType::Type(of)) => self.check_type(of),
                Some(ArgType::Enum(_)) => Ok(()),
                None => Err(invalid("the Substrait plan has a function argument without a value")),
            })
    }
}

/// Moves arguments to the field where newer producers write them: releases before 0.8 wrote expressions into `old`.
pub(super) fn settle_arguments(arguments: &mut Vec<FunctionArgument>, old: &mut Vec<Expression>) {
    if arguments.is_empty() {
        let values = std::mem::take(old).into_iter();
        arguments.extend(values.map(|value| FunctionArgument {
            arg_type: Some(ArgType::Value(value)),
        }));
    }
}
