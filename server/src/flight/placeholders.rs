//! `?` placeholders become `$1`, `$2`, ... before planning, because DataFusion takes every `?` for the same parameter.
//!
//! The tokenizer of DataFusion's own parser says what a placeholder is, so strings, quoted identifiers, comments and
//! the operators of other dialects stay as they are.

use std::borrow::Cow;

use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use squadron_proto::Failure;

use super::status::invalid;

/// The statement with every `?` numbered from the left.
///
/// # Errors
/// When the statement has both `?` and `$1`: which values they share would be a guess.
pub(super) fn numbered<'a>(sql: &'a str, dialect: &dyn Dialect) -> Result<Cow<'a, str>, Failure> {
    if !sql.contains('?') {
        return Ok(Cow::Borrowed(sql));
    }
    // A text that is no sequence of tokens is left to the parser, whose error says where.
    let Ok(tokens) = Tokenizer::new(dialect, sql).tokenize_with_location() else {
        return Ok(Cow::Borrowed(sql));
    };
    let mut places = Vec::new();
    let mut named = false;
    for token in &tokens {
        match &token.token {
            Token::Placeholder(name) if name == "?" => {
                places.push((token.span.start.line, token.span.start.column));
            }
            Token::Placeholder(_) => named = true,
            _ => (),
        }
    }
    if named && !places.is_empty() {
        return Err(invalid(
            "the statement mixes ? with numbered placeholders; use one of the two forms",
        ));
    }
    Ok(rewritten(sql, &places))
}

/// `places` are lines and columns of `?` characters, in the order of the text.
fn rewritten<'a>(sql: &'a str, places: &[(u64, u64)]) -> Cow<'a, str> {
    if places.is_empty() {
        return Cow::Borrowed(sql);
    }
    let mut output = String::with_capacity(sql.len() + 2 * places.len());
    let mut number = 0;
    let (mut line, mut column) = (1, 1);
    for character in sql.chars() {
        if character == '?' && places.get(number) == Some(&(line, column)) {
            number += 1;
            output.push_str(&format!("${number}"));
        } else {
            output.push(character);
        }
        if character == '\n' {
            (line, column) = (line + 1, 1);
        } else {
            column += 1;
        }
    }
    Cow::Owned(output)
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::{GenericDialect, PostgreSqlDialect};
    use proptest::prelude::*;

    fn numbered(sql: &str) -> String {
        super::numbered(sql, &GenericDialect {}).unwrap().into_owned()
    }

    #[test]
    fn placeholders_are_numbered_from_the_left() {
        for (sql, expected) in [
            ("SELECT 1", "SELECT 1"),
            ("SELECT ?", "SELECT $1"),
            ("SELECT ?, ? + ?", "SELECT $1, $2 + $3"),
            ("SELECT\n  ?,\n?", "SELECT\n  $1,\n$2"),
            ("SELECT (?)=?", "SELECT ($1)=$2"),
            ("SELECT 'é', ?", "SELECT 'é', $1"),
            ("INSERT INTO t VALUES (?,?)", "INSERT INTO t VALUES ($1,$2)"),
        ] {
            assert_eq!(numbered(sql), expected);
        }
    }

    #[test]
    fn what_is_no_placeholder_is_untouched() {
        for (sql, expected) in [
            ("SELECT '?', ?", "SELECT '?', $1"),
            ("SELECT 'it''s ?', ?", "SELECT 'it''s ?', $1"),
            (r#"SELECT "a?b", ?"#, r#"SELECT "a?b", $1"#),
            ("SELECT `a?b`, ?", "SELECT `a?b`, $1"),
            ("SELECT ? -- why?\n, ?", "SELECT $1 -- why?\n, $2"),
            ("SELECT /* ? /* ? */ ? */ ?", "SELECT /* ? /* ? */ ? */ $1"),
            ("SELECT $$ ? $$, ?", "SELECT $$ ? $$, $1"),
        ] {
            assert_eq!(numbered(sql), expected);
        }
    }

    #[test]
    fn the_operators_of_postgres_stay() {
        let sql = "SELECT a ?| b";
        assert_eq!(super::numbered(sql, &PostgreSqlDialect {}).unwrap().as_ref(), sql);
    }

    #[test]
    fn an_unfinished_string_is_left_to_the_parser() {
        assert_eq!(numbered("SELECT ? 'open"), "SELECT ? 'open");
    }

    #[test]
    fn two_forms_in_one_statement_are_refused() {
        let error = super::numbered("SELECT ?, $1", &GenericDialect {}).unwrap_err();
        assert!(error.message.contains("mixes"));
    }

    proptest! {
        #[test]
        fn only_question_marks_change(sql in "[?'\"`$a1 \n/*é-]{0,40}") {
            if let Ok(output) = super::numbered(&sql, &GenericDialect {}) {
                let outside = |text: &str| text.matches('?').count();
                prop_assert!(outside(&output) <= outside(&sql));
                if !sql.contains('?') {
                    prop_assert_eq!(output.as_ref(), sql.as_str());
                }
            }
        }
    }
}
