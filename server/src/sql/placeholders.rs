//! `?` placeholders become `$1`, `$2`, ... before planning, because DataFusion treats every `?` as the same parameter.
//!
//! The tokenizer of DataFusion's own parser finds the placeholders, so strings, quoted identifiers, comments and the
//! operators of other dialects stay unchanged.

use std::borrow::Cow;

use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};
use squadron_proto::{Failure, FailureKind};

use super::edits::{self, Edit};

/// Numbers every `?` of a statement from the left.
///
/// # Errors
/// `Invalid` when the statement has both `?` and `$1`: which values they share would be a guess.
pub(super) fn number<'a>(sql: &'a str, dialect: &dyn Dialect) -> Result<Cow<'a, str>, Failure> {
    if !sql.contains('?') {
        return Ok(Cow::Borrowed(sql));
    }
    // A text that cannot be tokenized is left to the parser, whose error has the position.
    let Ok(tokens) = Tokenizer::new(dialect, sql).tokenize_with_location() else {
        return Ok(Cow::Borrowed(sql));
    };
    let is_question = |token: &TokenWithSpan| matches!(&token.token, Token::Placeholder(name) if name == "?");
    let is_other = |token: &TokenWithSpan| matches!(&token.token, Token::Placeholder(name) if name != "?");
    let questions = tokens.iter().filter(|token| is_question(token));
    let edits: Vec<_> = (1..)
        .zip(questions)
        .map(|(number, token)| Edit::of(token.span, format!("${number}")))
        .collect();
    if edits.is_empty() {
        return Ok(Cow::Borrowed(sql));
    }
    if tokens.iter().any(is_other) {
        let mixed = "the statement mixes ? with numbered placeholders; use one of the two forms";
        return Err(Failure::new(FailureKind::Invalid, mixed));
    }
    Ok(Cow::Owned(edits::apply(sql, edits)))
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::{GenericDialect, PostgreSqlDialect};
    use proptest::prelude::*;

    fn number(sql: &str) -> String {
        super::number(sql, &GenericDialect {}).unwrap().into_owned()
    }

    #[test]
    fn placeholders_are_numbered_from_left() {
        for (sql, expected) in [
            ("SELECT 1", "SELECT 1"),
            ("SELECT ?", "SELECT $1"),
            ("SELECT ?, ? + ?", "SELECT $1, $2 + $3"),
            ("SELECT\n  ?,\n?", "SELECT\n  $1,\n$2"),
            ("SELECT (?)=?", "SELECT ($1)=$2"),
            ("SELECT 'é', ?", "SELECT 'é', $1"),
            ("INSERT INTO t VALUES (?,?)", "INSERT INTO t VALUES ($1,$2)"),
        ] {
            assert_eq!(number(sql), expected);
        }
    }

    #[test]
    fn quoted_question_marks_stay_unchanged() {
        for (sql, expected) in [
            ("SELECT '?', ?", "SELECT '?', $1"),
            ("SELECT 'it''s ?', ?", "SELECT 'it''s ?', $1"),
            (r#"SELECT "a?b", ?"#, r#"SELECT "a?b", $1"#),
            ("SELECT `a?b`, ?", "SELECT `a?b`, $1"),
            ("SELECT ? -- why?\n, ?", "SELECT $1 -- why?\n, $2"),
            ("SELECT /* ? /* ? */ ? */ ?", "SELECT /* ? /* ? */ ? */ $1"),
            ("SELECT $$ ? $$, ?", "SELECT $$ ? $$, $1"),
        ] {
            assert_eq!(number(sql), expected);
        }
    }

    #[test]
    fn postgres_operators_stay_unchanged() {
        let sql = "SELECT a ?| b";
        assert_eq!(super::number(sql, &PostgreSqlDialect {}).unwrap().as_ref(), sql);
    }

    #[test]
    fn unfinished_string_stays_unchanged() {
        assert_eq!(number("SELECT ? 'open"), "SELECT ? 'open");
    }

    #[test]
    fn mixed_placeholder_forms_are_refused() {
        let error = super::number("SELECT ?, $1", &GenericDialect {}).unwrap_err();
        assert!(error.message.contains("mixes"));
    }

    proptest! {
        #[test]
        fn only_question_marks_change(sql in "[?'\"`$a1 \n/*é-]{0,40}") {
            if let Ok(output) = super::number(&sql, &GenericDialect {}) {
                let outside = |text: &str| text.matches('?').count();
                prop_assert!(outside(&output) <= outside(&sql));
                if !sql.contains('?') {
                    prop_assert_eq!(output.as_ref(), sql.as_str());
                }
            }
        }
    }
}
