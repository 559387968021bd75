//! What the parser of sqlparser 0.62 reads otherwise than the standard, rewritten in the text of a statement.
//!
//! | as written | the parser reads | becomes |
//! |---|---|---|
//! | `1_000` | `1 AS _000` | `1000` |
//! | `a IS DISTINCT FROM b AND c` | `a IS DISTINCT FROM (b AND c)` (apache/datafusion#23692) | an operator, [`DISTINCT`] |

use std::borrow::Cow;

use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect, PostgreSqlDialect};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan, Tokenizer};

use crate::sql::edits::{self, Edit};

/// The operators in place of IS DISTINCT FROM and IS NOT DISTINCT FROM.
pub(super) const DISTINCT: &str = "distinct";
pub(super) const NOT_DISTINCT: &str = "not_distinct";
const DISTINCT_TEXT: &str = "OPERATOR(squadron.distinct)";
const NOT_DISTINCT_TEXT: &str = "OPERATOR(squadron.not_distinct)";

/// The text of an expression with what this module put into it taken back.
pub(in crate::sql) fn as_written(text: String) -> String {
    match text.contains("OPERATOR(squadron.") {
        true => text
            .replace(DISTINCT_TEXT, "IS DISTINCT FROM")
            .replace(NOT_DISTINCT_TEXT, "IS NOT DISTINCT FROM"),
        false => text,
    }
}

/// Rewrites the text of a statement.
pub(in crate::sql) fn rewrite_text<'a>(sql: Cow<'a, str>, dialect: &dyn Dialect) -> Cow<'a, str> {
    if !may_need_edits(&sql) {
        return sql;
    }
    // A text that cannot be tokenized is left to the parser, whose error has the position.
    let Ok(tokens) = Tokenizer::new(dialect, &sql).tokenize_with_location() else {
        return sql;
    };
    let mut edits = underscores(&tokens);
    if dialect.is::<GenericDialect>() || dialect.is::<PostgreSqlDialect>() {
        edits.extend(operators(&tokens));
    }
    if edits.is_empty() {
        return sql;
    }
    edits.sort_by_key(|edit| edit.start);
    Cow::Owned(edits::apply(&sql, edits))
}

fn may_need_edits(sql: &str) -> bool {
    let bytes = sql.as_bytes();
    let has_number = bytes.windows(2).any(|pair| pair[0].is_ascii_digit() && pair[1] == b'_');
    has_number || bytes.windows(8).any(|word| word.eq_ignore_ascii_case(b"distinct"))
}

/// Removes the underscores between the digits of numbers.
fn underscores(tokens: &[TokenWithSpan]) -> Vec<Edit> {
    let mut edits = Vec::new();
    for pair in tokens.windows(2) {
        let (Token::Number(..), Token::Word(word)) = (&pair[0].token, &pair[1].token) else {
            continue;
        };
        let digits = &word.value;
        let is_number = word.quote_style.is_none()
            && digits.starts_with('_')
            && !digits.ends_with('_')
            && !digits.contains("__")
            && digits.bytes().all(|byte| byte == b'_' || byte.is_ascii_digit());
        if !is_number || pair[0].span.end != pair[1].span.start {
            continue;
        }
        edits.push(Edit::of(pair[1].span, digits.replace('_', "")));
    }
    edits
}

/// Writes IS [NOT] DISTINCT FROM as an operator, whose operands end where they should.
fn operators(tokens: &[TokenWithSpan]) -> Vec<Edit> {
    let is_space = |token: &&TokenWithSpan| matches!(token.token, Token::Whitespace(_));
    let words: Vec<_> = tokens.iter().filter(|token| !is_space(token)).collect();
    let is = |token: &TokenWithSpan, keyword| matches!(&token.token, Token::Word(word) if word.keyword == keyword);
    let mut edits = Vec::new();
    for (index, first) in words.iter().enumerate() {
        let rest = &words[index + 1..];
        let (text, last) = match rest {
            [distinct, from, ..] if is(distinct, Keyword::DISTINCT) && is(from, Keyword::FROM) => (DISTINCT_TEXT, from),
            [no, distinct, from, ..]
                if is(no, Keyword::NOT) && is(distinct, Keyword::DISTINCT) && is(from, Keyword::FROM) =>
            {
                (NOT_DISTINCT_TEXT, from)
            }
            _ => continue,
        };
        if is(first, Keyword::IS) {
            edits.push(Edit::of(Span::new(first.span.start, last.span.end), text));
        }
    }
    edits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(sql: &str) -> String {
        rewrite_text(Cow::Borrowed(sql), &GenericDialect {}).into_owned()
    }

    #[test]
    fn underscores_in_numbers_are_removed() {
        for (sql, expected) in [
            ("SELECT 1_000", "SELECT 1000"),
            ("SELECT 1_000_000 + 2_5", "SELECT 1000000 + 25"),
            ("SELECT 1 _000", "SELECT 1 _000"),
            (
                "SELECT 1_a, '1_000', \"1_0\", t1_0 FROM t",
                "SELECT 1_a, '1_000', \"1_0\", t1_0 FROM t",
            ),
            ("SELECT 1__0, 1_", "SELECT 1__0, 1_"),
            ("SELECT 'é',\n 1_0", "SELECT 'é',\n 10"),
        ] {
            assert_eq!(rewritten(sql), expected);
        }
    }

    #[test]
    fn distinct_from_becomes_an_operator() {
        for (sql, expected) in [
            (
                "SELECT a IS DISTINCT FROM b AND c FROM t",
                "SELECT a OPERATOR(squadron.distinct) b AND c FROM t",
            ),
            (
                "SELECT x AND a is not  distinct\nfrom b + 1 OR c",
                "SELECT x AND a OPERATOR(squadron.not_distinct) b + 1 OR c",
            ),
            ("SELECT DISTINCT a FROM t", "SELECT DISTINCT a FROM t"),
            ("SELECT 'is distinct from'", "SELECT 'is distinct from'"),
        ] {
            assert_eq!(rewritten(sql), expected);
        }
    }
}
