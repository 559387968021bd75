//! Values that DataFusion 55.2 reads or writes otherwise than PostgreSQL and DuckDB.
//!
//! | as written | in DataFusion | becomes |
//! |---|---|---|
//! | `x::VARCHAR(2)` | all of `x` | `left(x, 2)` |
//! | `TIMESTAMP '2024-01-01 10:00'` | refused | `... 10:00:00` |
//! | `to_char(t, 'YYYY-MM-DD')` | the text `YYYY-MM-DD` | `to_char(t, '%Y-%m-%d')` |
//! | `0.1::DECIMAL(38, 20)`, `'1e3'::DECIMAL` | the digits of a double; refused | `'0.1'::DECIMAL(38, 20)`, `'1000'::DECIMAL` |
//! | `t AT TIME ZONE 'Asia/Tokyo'` | an instant, also of an instant | `at_time_zone(t, 'Asia/Tokyo')` |
//! | `regexp_replace(x, 'a', '$1\&')` | `$1` is a group, `\&` is no match | `regexp_replace(x, 'a', '$$1\0')` |
//! | `from_unixtime(n)` | a time without a zone | `at_time_zone(from_unixtime(n), 'UTC')` |

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    CastKind, CharacterLength, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments,
    UnaryOperator, Value,
};
use squadron_proto::{Failure, FailureKind};

use squadron_shuffle::functions::AT_TIME_ZONE;

use super::{call, null};

/// Rewrites one expression.
pub(super) fn rewrite_value(expression: &mut Expr) -> ControlFlow<Failure> {
    match expression {
        Expr::Cast {
            kind: CastKind::Cast | CastKind::DoubleColon,
            expr,
            data_type,
            ..
        } => {
            if is_decimal(data_type) {
                digits_as_text(expr);
            }
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
        Expr::AtTimeZone { timestamp, time_zone } => {
            let [time, zone] = [timestamp, time_zone].map(|part| std::mem::replace(part.as_mut(), null()));
            *expression = call(AT_TIME_ZONE, vec![time, zone]);
            ControlFlow::Continue(())
        }
        Expr::Function(function) if is_unix_time(function) => {
            let utc = Expr::Value(Value::SingleQuotedString("UTC".to_owned()).into());
            *expression = call(AT_TIME_ZONE, vec![expression.clone(), utc]);
            ControlFlow::Continue(())
        }
        Expr::Function(function) => {
            write_replacement(function);
            translate_format(function)
        }
        _ => ControlFlow::Continue(()),
    }
}

fn is_decimal(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Decimal(_) | DataType::Numeric(_) | DataType::Dec(_)
    )
}

/// Writes a number as a text, of which no digit is lost.
fn digits_as_text(number: &mut Expr) {
    match number {
        Expr::Nested(inner) => digits_as_text(inner),
        Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr,
        } => {
            if let Expr::Value(value) = expr.as_ref()
                && let Value::Number(digits, _) = &value.value
                && let Some(digits) = without_exponent(digits)
            {
                *number = Expr::Value(Value::SingleQuotedString(format!("-{digits}")).into());
            }
        }
        Expr::Value(value) => {
            let digits = match &value.value {
                Value::Number(digits, _) if digits.len() > EXACT_DIGITS || digits.contains(['.', 'e', 'E']) => digits,
                Value::SingleQuotedString(digits) if digits.contains(['e', 'E']) => digits,
                _ => return,
            };
            if let Some(digits) = without_exponent(digits) {
                value.value = Value::SingleQuotedString(digits);
            }
        }
        _ => {}
    }
}

/// So many digits are an integer in DataFusion.
const EXACT_DIGITS: usize = 18;

/// Exponents above this are left to the cast, which refuses them.
const MAX_EXPONENT: i32 = 100;

/// `1.5e2` as `150`; none for a text that is no number.
fn without_exponent(number: &str) -> Option<String> {
    let number = number.trim();
    let (sign, number) = match number.strip_prefix('-') {
        Some(number) => ("-", number),
        None => ("", number.strip_prefix('+').unwrap_or(number)),
    };
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let exponent: i32 = exponent
        .parse()
        .ok()
        .filter(|exponent: &i32| exponent.abs() <= MAX_EXPONENT)?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let point = i32::try_from(whole.len()).ok()? + exponent;
    let mut digits = format!("{whole}{fraction}");
    if point < 0 {
        let zeros = "0".repeat(point.unsigned_abs() as usize);
        return Some(format!("{sign}0.{zeros}{digits}"));
    }
    let point = point as usize;
    if point >= digits.len() {
        digits.push_str(&"0".repeat(point - digits.len()));
        return Some(format!("{sign}{digits}"));
    }
    let (whole, fraction) = digits.split_at(point);
    let whole = if whole.is_empty() { "0" } else { whole };
    Some(format!("{sign}{whole}.{fraction}"))
}

/// Writes the replacement of `regexp_replace` so that a dollar is one, and `\&` is the whole match.
fn write_replacement(function: &mut Function) {
    let is_replace =
        matches!(function.name.0.as_slice(), [name] if name.to_string().eq_ignore_ascii_case("regexp_replace"));
    let FunctionArguments::List(arguments) = &mut function.args else {
        return;
    };
    let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(replacement))) = arguments.args.get_mut(2) else {
        return;
    };
    if !is_replace {
        return;
    }
    if let Expr::Value(value) = replacement {
        if let Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) = &mut value.value {
            *text = text.replace('$', "$$").replace("\\&", "\\0");
        }
        return;
    }
    for (from, to) in [("$", "$$"), ("\\&", "\\0")] {
        let text = |text: &str| Expr::Value(Value::SingleQuotedString(text.to_owned()).into());
        let of = std::mem::replace(replacement, null());
        *replacement = call("replace", vec![of, text(from), text(to)]);
    }
}

/// Whether the function is `from_unixtime` without a zone.
fn is_unix_time(function: &Function) -> bool {
    let has_name =
        matches!(function.name.0.as_slice(), [name] if name.to_string().eq_ignore_ascii_case("from_unixtime"));
    has_name && matches!(&function.args, FunctionArguments::List(arguments) if arguments.args.len() == 1)
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
    fn exponents_become_digits() {
        for (number, expected) in [
            ("1e3", Some("1000")),
            ("-1.25e1", Some("-12.5")),
            ("+12.5E-3", Some("0.0125")),
            ("1.5e-1", Some("0.15")),
            (".5", Some("0.5")),
            ("7", Some("7")),
            ("12345678901234567.89", Some("12345678901234567.89")),
            ("1e999", None),
            ("e3", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(without_exponent(number).as_deref(), expected, "{number}");
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
