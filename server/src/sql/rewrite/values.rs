//! Values that DataFusion 55.2 reads or writes otherwise than PostgreSQL and DuckDB.
//!
//! | as written | in DataFusion | becomes |
//! |---|---|---|
//! | `x::VARCHAR(2)` | all of `x` | `left(x, 2)` |
//! | `TIMESTAMP '2024-01-01 10:00'` | refused | `... 10:00:00` |
//! | `to_char(t, 'YYYY-MM-DD')` | the text `YYYY-MM-DD` | `to_char(t, '%Y-%m-%d')` |

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    CastKind, CharacterLength, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Value,
};
use squadron_proto::{Failure, FailureKind};

use super::call;

/// Rewrites one expression.
pub(super) fn rewrite_value(expression: &mut Expr) -> ControlFlow<Failure> {
    match expression {
        Expr::Cast {
            kind: CastKind::Cast | CastKind::DoubleColon,
            data_type,
            ..
        } => {
            if let Some(length) = without_length(data_type) {
                let text = expression.clone();
                *expression = call(
                    "left",
                    vec![text, Expr::Value(Value::Number(length.to_string(), false).into())],
                );
            }
            ControlFlow::Continue(())
        }
        Expr::TypedString(typed) => {
            if matches!(typed.data_type, DataType::Timestamp(..) | DataType::Datetime(_))
                && let Value::SingleQuotedString(text) = &mut typed.value.value
                && ends_with_minutes(text)
            {
                text.push_str(":00");
            }
            ControlFlow::Continue(())
        }
        Expr::Function(function) => translate_format(function),
        _ => ControlFlow::Continue(()),
    }
}

/// Takes the length from a type of text.
fn without_length(data_type: &mut DataType) -> Option<u64> {
    let (DataType::Varchar(length) | DataType::CharVarying(length) | DataType::CharacterVarying(length)) = data_type
    else {
        return None;
    };
    match length.take()? {
        CharacterLength::IntegerLength { length, .. } => Some(length),
        CharacterLength::Max => None,
    }
}

/// Whether a time of day ends after its minutes.
fn ends_with_minutes(text: &str) -> bool {
    let Some((_, time)) = text.trim_end().rsplit_once([' ', 'T']) else {
        return false;
    };
    let mut parts = time.split(':');
    let is_number = |part: Option<&str>| part.is_some_and(|part| part.len() == 2 && part.parse::<u8>().is_ok());
    is_number(parts.next()) && is_number(parts.next()) && parts.next().is_none()
}

/// Writes the format of `to_char` in the signs that DataFusion knows.
fn translate_format(function: &mut Function) -> ControlFlow<Failure> {
    let is_to_char = matches!(function.name.0.as_slice(), [name] if name.to_string().eq_ignore_ascii_case("to_char"));
    let FunctionArguments::List(arguments) = &mut function.args else {
        return ControlFlow::Continue(());
    };
    let [_, FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(format)))] = arguments.args.as_mut_slice() else {
        return ControlFlow::Continue(());
    };
    let Value::SingleQuotedString(format) = &mut format.value else {
        return ControlFlow::Continue(());
    };
    if !is_to_char || format.contains('%') {
        return ControlFlow::Continue(());
    }
    match translated(format) {
        Some(translated) => {
            *format = translated;
            ControlFlow::Continue(())
        }
        None => ControlFlow::Break(Failure::new(
            FailureKind::Unsupported,
            format!(
                "the format '{format}' of to_char has parts that are not supported; write it with the signs of strftime, such as \
                 '%Y-%m-%d %H:%M:%S'"
            ),
        )),
    }
}

/// The parts of PostgreSQL's formats, longer ones before those that they begin with.
const PARTS: [(&str, &str); 21] = [
    ("YYYY", "%Y"),
    ("YY", "%y"),
    ("Month", "%B"),
    ("Mon", "%b"),
    ("MM", "%m"),
    ("MI", "%M"),
    ("MS", "%3f"),
    ("DDD", "%j"),
    ("DD", "%d"),
    ("Day", "%A"),
    ("Dy", "%a"),
    ("HH24", "%H"),
    ("HH12", "%I"),
    ("HH", "%I"),
    ("SS", "%S"),
    ("US", "%6f"),
    ("AM", "%p"),
    ("PM", "%p"),
    ("TZ", "%Z"),
    ("IYYY", "%G"),
    ("IW", "%V"),
];

fn translated(format: &str) -> Option<String> {
    let mut output = String::new();
    let mut rest = format;
    while let Some(sign) = rest.chars().next() {
        if let Some((part, sign)) = PARTS.iter().find(|(part, _)| rest.starts_with(part)) {
            output.push_str(sign);
            rest = &rest[part.len()..];
        } else if let Some(quoted) = rest.strip_prefix('"') {
            let (text, after) = quoted.split_once('"')?;
            output.push_str(text);
            rest = after;
        } else if sign.is_alphanumeric() {
            return None;
        } else {
            output.push(sign);
            rest = &rest[sign.len_utf8()..];
        }
    }
    Some(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_translated_or_refused() {
        for (format, expected) in [
            ("YYYY-MM-DD", Some("%Y-%m-%d")),
            ("HH24:MI:SS.MS", Some("%H:%M:%S.%3f")),
            ("Mon DD, YYYY HH12 AM", Some("%b %d, %Y %I %p")),
            ("YYYY\"T\"HH24", Some("%YT%H")),
            ("FM999", None),
            ("Q", None),
        ] {
            assert_eq!(translated(format).as_deref(), expected, "{format}");
        }
    }

    #[test]
    fn only_times_without_seconds_are_completed() {
        for (text, expected) in [
            ("2024-01-01 10:00", true),
            ("2024-01-01T10:00", true),
            ("2024-01-01 10:00:00", false),
            ("2024-01-01", false),
            ("10:00", false),
            ("2024-01-01 10:00+02", false),
        ] {
            assert_eq!(ends_with_minutes(text), expected, "{text}");
        }
    }
}
