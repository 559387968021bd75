//! Errors of planning, said so that a user can mend the statement: what is wrong, and where.

use datafusion::common::{Location, SchemaError};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use squadron_proto::{Failure, FailureKind};
use squadron_shuffle::failure;
use squadron_shuffle::sentences::sentence;

use super::hints::{about_column, about_lost_column};
use crate::planner::schema::DUPLICATE_MARK;

/// The same error with the place in the statement, where DataFusion knows it and its message does not say it.
pub(crate) fn locate(error: DataFusionError) -> DataFusionError {
    let Some(span) = error.diagnostic().and_then(|diagnostic| diagnostic.span) else {
        return error;
    };
    let mut failure = failure_of(&error);
    if !failure.message.contains("Column: ") {
        let Location { line, column } = span.start;
        // What is wrong, the place, and then what works.
        let (wrong, advice) = match failure.message.find("; ") {
            Some(at) => failure.message.split_at(at),
            None => (failure.message.as_str(), ""),
        };
        failure.message = format!("{wrong} at Line: {line}, Column: {column}{advice}");
    }
    failure::into_datafusion(failure)
}

/// The error of a statement whose names are looked up: a column that is not found is not known.
pub(crate) fn of_names(error: DataFusionError) -> DataFusionError {
    match locate(error) {
        error if matches!(error.find_root(), DataFusionError::SchemaError(..)) => {
            failure::into_datafusion(failure_of(&error))
        }
        error => error,
    }
}

/// Whether the planner found one name for two expressions.
pub(crate) fn says_equal_names(error: &DataFusionError) -> bool {
    match error.find_root() {
        DataFusionError::SchemaError(about, _) => matches!(
            about.as_ref(),
            SchemaError::DuplicateQualifiedField { .. } | SchemaError::DuplicateUnqualifiedField { .. }
        ),
        DataFusionError::Plan(message) => message.contains("require unique expression names"),
        _ => false,
    }
}

/// The parser says of an unfinished statement only that it ends; its end is a place too.
pub(crate) fn with_end_of(sql: &str, mut failure: Failure) -> Failure {
    if failure.kind == FailureKind::Invalid && failure.message.ends_with("found: EOF") {
        let line = sql.lines().count().max(1);
        let column = sql.lines().last().map_or(0, |last| last.chars().count()) + 1;
        failure.message = format!("{} at Line: {line}, Column: {column}", failure.message);
    }
    failure
}

/// While a statement is planned nothing of it runs: an error of another library, such as that of a regular expression,
/// speaks of what the statement says.
pub(crate) fn planned<T>(result: DataFusionResult<T>) -> Result<T, Failure> {
    result.map_err(|error| planning_failure(&error))
}

fn planning_failure(error: &DataFusionError) -> Failure {
    let mut failure = match error.find_root() {
        DataFusionError::Internal(message) if is_about_arguments(message) => {
            Failure::new(FailureKind::Invalid, sentence(message))
        }
        DataFusionError::Internal(message) => {
            tracing::warn!("a statement cannot be planned: {message}");
            unplanned("for a reason that the server's log tells")
        }
        // The names of the statement were found: what the planner looks for is its own.
        DataFusionError::SchemaError(about, _) => unplanned(&about_lost_column(about)),
        _ => failure::of(error),
    };
    failure.message = without_marks(&failure.message);
    if failure.kind == FailureKind::Internal && matches!(error.find_root(), DataFusionError::External(_)) {
        failure.kind = FailureKind::Invalid;
    }
    failure
}

/// What the planner cannot do with a statement: if that is a bug of DataFusion, another statement goes around it.
fn unplanned(why: &str) -> Failure {
    let told = format!(
        "this statement cannot be planned, {why}; another form of it may work, such as a join in the place of a subquery, or an \
         expression computed in a WITH query"
    );
    Failure::new(FailureKind::Unsupported, told)
}

/// Whether DataFusion calls its own error what is wrong with the types of arguments.
fn is_about_arguments(message: &str) -> bool {
    [
        "coerce",
        "No function matches",
        "RANGE",
        "range queries",
        "Unsupported data type",
        "argument",
    ]
    .iter()
    .any(|word| message.contains(word))
}

/// The failure behind an error, with the names that the statement got wrong.
fn failure_of(error: &DataFusionError) -> Failure {
    match error.find_root() {
        DataFusionError::SchemaError(about, _) => Failure::new(FailureKind::Invalid, about_column(about)),
        _ => failure::of(error),
    }
}

/// A message without the marks of columns whose name comes twice.
fn without_marks(message: &str) -> String {
    let mut parts = message.split(DUPLICATE_MARK);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + part.trim_start_matches(|c: char| c.is_ascii_digit())
    })
}
