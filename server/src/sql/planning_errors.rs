//! Errors of planning, said so that a user can mend the statement: where, and which table was probably meant.

use datafusion::common::Location;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use squadron_proto::{Failure, FailureKind};
use squadron_shuffle::failure;

use crate::planner::schema::DUPLICATE_MARK;

/// The same error with the place in the statement, where DataFusion knows it and its message does not say it.
pub(crate) fn locate(error: DataFusionError) -> DataFusionError {
    let Some(span) = error.diagnostic().and_then(|diagnostic| diagnostic.span) else {
        return error;
    };
    let mut failure = failure::of(&error);
    if !failure.message.contains("Column: ") {
        let Location { line, column } = span.start;
        failure.message = format!("{} at Line: {line}, Column: {column}", failure.message);
    }
    failure::into_datafusion(failure)
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
    let mut failure = failure::of(error);
    failure.message = without_marks(&failure.message);
    let is_of_statement = match error.find_root() {
        DataFusionError::External(_) => true,
        // Types of a statement that do not fit, as in `1 BETWEEN true AND 2`.
        DataFusionError::Internal(message) => message.contains("coerce"),
        _ => false,
    };
    if is_of_statement && failure.kind == FailureKind::Internal {
        failure.kind = FailureKind::Invalid;
    }
    failure
}

/// A message without the marks of columns whose name comes twice.
fn without_marks(message: &str) -> String {
    let unknown = message
        .split_once("No field named ")
        .and_then(|(_, rest)| rest.split_once('.'));
    if let Some((name, _)) = unknown
        && message.contains(&format!("{}{DUPLICATE_MARK}", name.trim_matches('"')))
    {
        return format!("the name {name} is ambiguous: several columns have it; give each an alias of its own");
    }
    let mut parts = message.split(DUPLICATE_MARK);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + part.trim_start_matches(|c: char| c.is_ascii_digit())
    })
}

/// The name in DataFusion's "table 'x' not found", without the parts that go without saying.
pub(crate) fn unknown_table(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("table '")?;
    let (name, rest) = rest.split_once('\'')?;
    let name = name.strip_prefix("datafusion.public.").unwrap_or(name);
    rest.starts_with(" not found").then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_table_is_named_without_schema() {
        let message = "Error during planning: table 'datafusion.public.linitem' not found";
        assert_eq!(unknown_table(message).as_deref(), Some("linitem"));
        assert_eq!(unknown_table("column 'x' not found"), None);
    }
}
