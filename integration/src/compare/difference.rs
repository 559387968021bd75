//! The description of a difference.

use std::fmt;

use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::Table;

/// Rows of each kind that a difference lists.
pub(super) const MAX_LISTED_ROWS: usize = 5;

/// Characters of one value that a difference shows.
const MAX_VALUE_CHARS: usize = 60;

/// How a result differs from the expected one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference(String);

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Difference {}

impl Difference {
    pub(super) fn unreadable(error: ArrowError) -> Self {
        Self(format!("the rows cannot be compared: {error}"))
    }

    pub(super) fn schema(expected: &[String], actual: &[String]) -> Self {
        let mut text = String::from("the schemas differ:");
        for index in 0..expected.len().max(actual.len()) {
            let line = match (expected.get(index), actual.get(index)) {
                (Some(expected), Some(actual)) if expected == actual => continue,
                (Some(expected), Some(actual)) => format!("is {actual}, expected {expected}"),
                (Some(expected), None) => format!("is missing, expected {expected}"),
                (None, actual) => {
                    format!("is {}, expected none", actual.map_or("", String::as_str))
                }
            };
            text.push_str(&format!("\n  column {} {line}", index + 1));
        }
        Self(text)
    }

    pub(super) fn rows(expected: &Table, missing: &[usize], actual: &Table, unexpected: &[usize]) -> Self {
        let mut text = format!("the rows differ: {} rows, expected {}", actual.rows, expected.rows);
        for (kind, table, rows) in [("missing", expected, missing), ("unexpected", actual, unexpected)] {
            for row in rows.iter().take(MAX_LISTED_ROWS) {
                text.push_str(&format!("\n  {kind}: {}", format_row(table, *row)));
            }
            if rows.len() > MAX_LISTED_ROWS {
                text.push_str(&format!("\n  and more {kind} rows"));
            }
        }
        Self(text)
    }

    pub(super) fn order(expected: &Table, actual: &Table, column: usize, row: usize) -> Self {
        Self(format!(
            "the rows are in another order: {} of row {} is {}, expected {}",
            expected.schema.field(column).name(),
            row + 1,
            format_cell(actual, column, row),
            format_cell(expected, column, row),
        ))
    }
}

fn format_row(table: &Table, row: usize) -> String {
    let cells = (0..table.columns.len()).map(|column| {
        let name = table.schema.field(column).name();
        format!("{name}={}", format_cell(table, column, row))
    });
    cells.collect::<Vec<_>>().join(", ")
}

fn format_cell(table: &Table, column: usize, row: usize) -> String {
    let options = FormatOptions::new().with_null("NULL").with_display_error(true);
    let text = match ArrayFormatter::try_new(&table.columns[column], &options) {
        Ok(formatter) => formatter.value(row).to_string(),
        Err(error) => format!("({error})"),
    };
    match text.char_indices().nth(MAX_VALUE_CHARS) {
        Some((end, _)) => format!("{}.. ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}
