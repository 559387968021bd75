//! Constructs for which the parser recurses without counting: EXPLAIN, INTERVAL, and types within types.

use datafusion::common::plan_err;
use datafusion::error::Result as DataFusionResult;
use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

/// How deeply each may stand in itself.
const MAX_DEPTH: usize = 100;
/// The names of types that have other types in brackets, in one dialect or another.
const TYPES_OF_TYPES: [&str; 9] = [
    "array",
    "list",
    "lowcardinality",
    "map",
    "nested",
    "nullable",
    "struct",
    "tuple",
    "union",
];

/// Refuses what the parser recurses for without counting.
pub(super) fn refuse_recursion(sql: &str, dialect: &dyn Dialect) -> DataFusionResult<()> {
    let words = sql.split(|sign: char| !sign.is_alphanumeric());
    let suspicious = words.filter(|word| is(word, "explain") || is(word, "interval") || is_type_of_types(word));
    if suspicious.count() <= MAX_DEPTH && sql.matches("[").count() <= MAX_DEPTH {
        return Ok(());
    }
    // All of them may stand in quotes or in a list. What cannot be tokenised is for the parser to refuse.
    let tokens = Tokenizer::new(dialect, sql).tokenize().unwrap_or_default();
    let mut recursion = Recursion::default();
    for token in tokens.iter().filter(|token| !matches!(token, Token::Whitespace(_))) {
        recursion.read(token);
    }
    match recursion.deepest {
        (_, depth) if depth <= MAX_DEPTH => Ok(()),
        (what, depth) => plan_err!("{depth} {what} stand in each other; at most {MAX_DEPTH} can"),
    }
}

fn is(word: &str, other: &str) -> bool {
    word.eq_ignore_ascii_case(other)
}

fn is_type_of_types(word: &str) -> bool {
    TYPES_OF_TYPES.iter().any(|name| is(word, name))
}

/// How deeply the parser recurses for constructs that it does not count.
#[derive(Default)]
struct Recursion {
    explains: usize,
    /// Words INTERVAL that follow each other.
    intervals: usize,
    /// Pairs of brackets that follow each other, as in INT[][].
    brackets: usize,
    /// For each open bracket, whether it is one of a type.
    open: Vec<bool>,
    /// How many of the open brackets are those of types.
    types: usize,
    /// Whether the last token was the name of a type that has others in brackets.
    is_after_type: bool,
    is_after_bracket: bool,
    deepest: (&'static str, usize),
}

impl Recursion {
    fn read(&mut self, token: &Token) {
        let word = match token {
            Token::Word(word) if word.quote_style.is_none() => word.value.as_str(),
            _ => "",
        };
        match token {
            Token::Lt | Token::LParen => {
                self.open.push(self.is_after_type);
                self.types += usize::from(self.is_after_type);
            }
            Token::RParen => self.close(),
            Token::Gt if self.is_in_type() => self.close(),
            Token::ShiftRight if self.is_in_type() => {
                self.close();
                self.close();
            }
            _ => {}
        }
        self.is_after_type = is_type_of_types(word);
        self.explains += usize::from(is(word, "explain"));
        self.intervals = if is(word, "interval") { self.intervals + 1 } else { 0 };
        match token {
            Token::RBracket if self.is_after_bracket => self.brackets += 1,
            Token::LBracket => {}
            _ => self.brackets = 0,
        }
        self.is_after_bracket = matches!(token, Token::LBracket);
        let found = [
            ("EXPLAINs", self.explains),
            ("INTERVALs", self.intervals),
            ("types", self.types + self.brackets),
        ];
        for (what, depth) in found {
            if depth > self.deepest.1 {
                self.deepest = (what, depth);
            }
        }
    }

    /// A `<` that is a comparison has no end; the end of a type or parenthesis around it ends it too.
    fn close(&mut self) {
        let was_type = self.open.pop().unwrap_or(false);
        self.types -= usize::from(was_type);
    }

    fn is_in_type(&self) -> bool {
        self.open.last().copied().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    use super::*;

    fn is_refused(sql: &str) -> bool {
        refuse_recursion(sql, &GenericDialect {}).is_err()
    }

    #[test]
    fn constructs_in_themselves_are_refused_beyond_the_limit() {
        let nested: [(&str, &str, &str); 7] = [
            ("EXPLAIN ", "SELECT 1", ""),
            ("explain /* x */ ", "SELECT 1", ""),
            ("INTERVAL ", "'1 day'", ""),
            ("ARRAY<", "INT", ">"),
            ("Struct < a ", "INT", " >"),
            ("Map(INT, ", "INT", ")"),
            ("", "INT", "[]"),
        ];
        for (start, inner, end) in nested {
            let nest = |depth| format!("{}{inner}{}", start.repeat(depth), end.repeat(depth));
            assert!(!is_refused(&nest(MAX_DEPTH)), "{start}{inner}{end}");
            assert!(is_refused(&nest(MAX_DEPTH + 1)), "{start}{inner}{end}");
            assert!(is_refused(&nest(50_000)), "{start}{inner}{end}");
        }
        let shifted = format!("{}INT{}", "ARRAY<ARRAY<".repeat(100), ">>".repeat(100));
        assert!(is_refused(&shifted));
    }

    #[test]
    fn constructs_beside_each_other_are_not_counted() {
        for part in [
            "('explain', \"interval\", 1), ",
            "CAST(x AS ARRAY<INT>) < 1 AND ",
            "INTERVAL '1 day' + ",
            "x[1] + [][1] + ",
            "array[1] < 2 AND struct(1) > 2, ",
            "f(x < 1), map([1], [2]), ",
        ] {
            assert!(!is_refused(&format!("SELECT {}1", part.repeat(1000))), "{part}");
        }
    }
}
