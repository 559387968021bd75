//! Replaces parts of a statement's text, in one walk over it.

use datafusion::sql::sqlparser::tokenizer::{Location, Span};

/// A text in the place of tokens.
#[derive(Debug)]
pub(super) struct Edit {
    /// Where the replaced part begins.
    pub(super) start: Location,
    /// Where what stays goes on.
    pub(super) end: Location,
    /// What stands there instead.
    pub(super) text: String,
}

impl Edit {
    pub(super) fn of(span: Span, text: impl Into<String>) -> Self {
        Self {
            start: span.start,
            end: span.end,
            text: text.into(),
        }
    }
}

/// The text with `edits`, which are in its order and do not overlap.
pub(super) fn apply(sql: &str, edits: Vec<Edit>) -> String {
    let mut output = String::with_capacity(sql.len() + 16 * edits.len());
    let mut edits = edits.into_iter().peekable();
    let mut replaced_until = None;
    let mut here = Location::new(1, 1);
    for character in sql.chars() {
        if replaced_until == Some(here) {
            replaced_until = None;
        }
        if let Some(edit) = edits.next_if(|edit| edit.start == here) {
            output.push_str(&edit.text);
            replaced_until = Some(edit.end);
        }
        if replaced_until.is_none() {
            output.push(character);
        }
        here = match character {
            '\n' => Location::new(here.line + 1, 1),
            _ => Location::new(here.line, here.column + 1),
        };
    }
    output
}
