//! `x SIMILAR TO pattern` as a regular expression of the whole text.
//!
//! The pattern of the standard has `%` and `_` of LIKE, and `|`, `*`, `+`, `?`, `{}`, `()` and `[]` of regular
//! expressions. DataFusion 55.2 takes it for a regular expression that may match anywhere (apache/datafusion#22263).

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Value};

/// The comparison in place of SIMILAR TO; none where the pattern is not written down.
pub(super) fn as_regular_expression(negated: bool, text: &Expr, pattern: &Expr, escape: Option<char>) -> Option<Expr> {
    let Expr::Value(pattern) = pattern else {
        return None;
    };
    let pattern = match &pattern.value {
        Value::Null => Value::Null,
        Value::SingleQuotedString(pattern) => Value::SingleQuotedString(regular_expression(pattern, escape)),
        _ => return None,
    };
    Some(Expr::BinaryOp {
        left: Box::new(text.clone()),
        op: match negated {
            true => BinaryOperator::PGRegexNotMatch,
            false => BinaryOperator::PGRegexMatch,
        },
        right: Box::new(Expr::Value(pattern.into())),
    })
}

fn regular_expression(pattern: &str, escape: Option<char>) -> String {
    let mut expression = String::from("^(?s:");
    let mut signs = pattern.chars();
    let mut is_in_set = false;
    while let Some(sign) = signs.next() {
        match sign {
            _ if Some(sign) == escape => {
                if let Some(literal) = signs.next() {
                    push_literal(&mut expression, literal);
                }
            }
            '[' => {
                is_in_set = true;
                expression.push(sign);
            }
            ']' => {
                is_in_set = false;
                expression.push(sign);
            }
            _ if is_in_set => expression.push(sign),
            '%' => expression.push_str(".*"),
            '_' => expression.push('.'),
            '.' | '^' | '$' | '\\' => push_literal(&mut expression, sign),
            _ => expression.push(sign),
        }
    }
    expression + ")$"
}

fn push_literal(expression: &mut String, sign: char) {
    if sign.is_ascii_punctuation() {
        expression.push('\\');
    }
    expression.push(sign);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_become_regular_expressions() {
        for (pattern, escape, expected) in [
            ("a%", Some('\\'), "^(?s:a.*)$"),
            ("_|(b|c)+", Some('\\'), "^(?s:.|(b|c)+)$"),
            ("a.b^$", Some('\\'), r"^(?s:a\.b\^\$)$"),
            ("100#%", Some('#'), r"^(?s:100\%)$"),
            ("[_%.]", None, "^(?s:[_%.])$"),
        ] {
            assert_eq!(regular_expression(pattern, escape), expected);
        }
    }
}
