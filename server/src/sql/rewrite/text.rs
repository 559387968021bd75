//! What the parser of sqlparser 0.62 reads otherwise than the standard, rewritten in the text of a statement.
//!
//! | as written | the parser reads | becomes |
//! |---|---|---|
//! | `1_000` | `1 AS _000` | `1000` |
//! | `a IS DISTINCT FROM b AND c` | `a IS DISTINCT FROM (b AND c)` (apache/datafusion#23692) | `a IS DISTINCT FROM (b) AND c` |

use std::borrow::Cow;
use std::ops::Range;

use datafusion::sql::sqlparser::dialect::{Dialect, Precedence};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

/// How many operands of DISTINCT FROM are looked for.
const MAX_OPERANDS: usize = 1000;

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
    edits.extend(operands(&tokens, &places, dialect));
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

/// Puts the right operands of DISTINCT FROM in brackets.
fn operands(tokens: &[TokenWithSpan], places: &Places<'_>, dialect: &dyn Dialect) -> Vec<Edit> {
    let words: Vec<_> = tokens
        .iter()
        .enumerate()
        .filter(|(_, token)| !matches!(token.token, Token::Whitespace(_)))
        .collect();
    let is = |index: usize, keyword| {
        let word = words.get(index).map(|(_, token)| &token.token);
        matches!(word, Some(Token::Word(word)) if word.keyword == keyword)
    };
    let starts = (2..words.len()).filter(|index| {
        is(index - 2, Keyword::DISTINCT)
            && is(index - 1, Keyword::FROM)
            && (index.checked_sub(3).is_some_and(|before| is(before, Keyword::IS))
                || index.checked_sub(4).is_some_and(|before| is(before, Keyword::IS)))
    });
    let edits = starts.take(MAX_OPERANDS).filter_map(|index| {
        let (first, start) = words[index];
        let mut parser = Parser::new(dialect).with_tokens_with_locations(tokens[first..].to_vec());
        parser.parse_subexpr(dialect.prec_value(Precedence::Is)).ok()?;
        let last = tokens.get(first + parser.index() - 1)?;
        let (start, end) = (places.byte(start.span.start)?, places.byte(last.span.end)?);
        let open = Edit {
            place: start..start,
            text: "(",
        };
        Some([
            open,
            Edit {
                place: end..end,
                text: ")",
            },
        ])
    });
    edits.flatten().collect()
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;

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
    fn operands_of_distinct_from_end_before_and() {
        for (sql, expected) in [
            (
                "SELECT a IS DISTINCT FROM b AND c FROM t",
                "SELECT a IS DISTINCT FROM (b) AND c FROM t",
            ),
            (
                "SELECT x AND a is not distinct from b + 1 OR c",
                "SELECT x AND a is not distinct from (b + 1) OR c",
            ),
            ("SELECT DISTINCT a FROM t", "SELECT DISTINCT a FROM t"),
            (
                "SELECT a IS DISTINCT FROM b IS DISTINCT FROM c",
                "SELECT a IS DISTINCT FROM (b) IS DISTINCT FROM (c)",
            ),
        ] {
            assert_eq!(rewritten(sql), expected);
        }
    }
}
