//! What the parser of sqlparser 0.62 reads otherwise than the standard, rewritten in the text of a statement.
//!
//! | as written | the parser reads | becomes |
//! |---|---|---|
//! | `1_000` | `1 AS _000` | `1000` |
//! | `a IS DISTINCT FROM b AND c` | `a IS DISTINCT FROM (b AND c)` (apache/datafusion#23692) | an operator, [`DISTINCT`] |

use std::borrow::Cow;
use std::ops::Range;

use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect, PostgreSqlDialect};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

/// The operators in place of IS DISTINCT FROM and IS NOT DISTINCT FROM.
pub(super) const DISTINCT: &str = "distinct";
pub(super) const NOT_DISTINCT: &str = "not_distinct";
const DISTINCT_TEXT: &str = "OPERATOR(squadron.distinct)";
const NOT_DISTINCT_TEXT: &str = "OPERATOR(squadron.not_distinct)";

/// The text of an expression with what this module put into it taken back.
pub(super) fn as_written(text: String) -> String {
    match text.contains("OPERATOR(squadron.") {
        true => text
            .replace(DISTINCT_TEXT, "IS DISTINCT FROM")
            .replace(NOT_DISTINCT_TEXT, "IS NOT DISTINCT FROM"),
        false => text,
    }
}

/// A text in the place of another.
struct Edit {
    place: Range<usize>,
    text: &'static str,
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
    let places = Places::of(&sql);
    let mut edits = underscores(&tokens, &places);
    if dialect.is::<GenericDialect>() || dialect.is::<PostgreSqlDialect>() {
        edits.extend(operators(&tokens, &places));
    }
    if edits.is_empty() {
        return sql;
    }
    edits.sort_by_key(|edit| (edit.place.start, edit.place.end));
    let mut output = String::with_capacity(sql.len() + 2 * edits.len());
    let mut copied = 0;
    for edit in edits {
        output.push_str(&sql[copied..edit.place.start]);
        output.push_str(edit.text);
        copied = edit.place.end;
    }
    output.push_str(&sql[copied..]);
    Cow::Owned(output)
}

fn may_need_edits(sql: &str) -> bool {
    let bytes = sql.as_bytes();
    let has_number = bytes.windows(2).any(|pair| pair[0].is_ascii_digit() && pair[1] == b'_');
    has_number || bytes.windows(8).any(|word| word.eq_ignore_ascii_case(b"distinct"))
}

/// Where lines and columns are in a text, in bytes.
struct Places<'a> {
    sql: &'a str,
    lines: Vec<usize>,
}

impl<'a> Places<'a> {
    fn of(sql: &'a str) -> Self {
        let ends = sql.match_indices('\n').map(|(end, _)| end + 1);
        Self {
            sql,
            lines: [0].into_iter().chain(ends).collect(),
        }
    }

    fn byte(&self, location: Location) -> Option<usize> {
        let line = usize::try_from(location.line).ok()?.checked_sub(1)?;
        let column = usize::try_from(location.column).ok()?.checked_sub(1)?;
        let start = *self.lines.get(line)?;
        let rest = &self.sql[start..];
        let offset = rest.char_indices().nth(column).map_or(rest.len(), |(offset, _)| offset);
        Some(start + offset)
    }
}

/// Removes the underscores between the digits of numbers.
fn underscores(tokens: &[TokenWithSpan], places: &Places<'_>) -> Vec<Edit> {
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
        let Some(start) = places.byte(pair[1].span.start) else {
            continue;
        };
        edits.extend(digits.match_indices('_').map(|(offset, _)| Edit {
            place: start + offset..start + offset + 1,
            text: "",
        }));
    }
    edits
}

/// Writes IS [NOT] DISTINCT FROM as an operator, whose operands end where they should.
fn operators(tokens: &[TokenWithSpan], places: &Places<'_>) -> Vec<Edit> {
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
        let place = places.byte(first.span.start).zip(places.byte(last.span.end));
        if is(first, Keyword::IS)
            && let Some((start, end)) = place
        {
            edits.push(Edit {
                place: start..end,
                text,
            });
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
