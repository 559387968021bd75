//! The names of types that people read: PostgreSQL's, and those of this SQL where PostgreSQL has no such type.
//!
//! `information_schema`, DESCRIBE and messages use them; Arrow's own names (`Utf8View`, `Timestamp(ns)`) tell nobody what
//! to write in a CAST. Drivers read other names, in Flight SQL's metadata.

use std::borrow::Cow;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::sql::sqlparser::keywords::{
    ALL_KEYWORDS, ALL_KEYWORDS_INDEX, RESERVED_FOR_COLUMN_ALIAS, RESERVED_FOR_IDENTIFIER, RESERVED_FOR_TABLE_ALIAS,
};

/// The name of a type with all that belongs to it: `decimal(15,2)`, `bigint[]`.
pub fn sql_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) | DataType::LargeListView(item) => {
            format!("{}[]", sql_name(item.data_type()))
        }
        DataType::FixedSizeList(item, size) => format!("{}[{size}]", sql_name(item.data_type())),
        DataType::Struct(fields) => format!("struct({})", members(fields.iter())),
        DataType::Union(fields, _) => format!("union({})", members(fields.iter().map(|(_, field)| field))),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(columns) => {
                let columns: Vec<_> = columns.iter().map(|column| sql_name(column.data_type())).collect();
                format!("map({})", columns.join(", "))
            }
            _ => "map".to_owned(),
        },
        DataType::Dictionary(_, values) => sql_name(values),
        DataType::RunEndEncoded(_, values) => sql_name(values.data_type()),
        plain => plain_name(plain).to_owned(),
    }
}

/// The name as it stands in `information_schema`, where precision and scale have columns of their own.
pub fn catalog_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Dictionary(_, values) => catalog_name(values),
        DataType::RunEndEncoded(_, values) => catalog_name(values.data_type()),
        decimal if decimal.is_decimal() => "numeric".to_owned(),
        other => sql_name(other),
    }
}

fn plain_name(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Null => "null",
        DataType::Boolean => "boolean",
        DataType::Int8 => "tinyint",
        DataType::Int16 => "smallint",
        DataType::Int32 => "integer",
        DataType::Int64 => "bigint",
        DataType::UInt8 => "tinyint unsigned",
        DataType::UInt16 => "smallint unsigned",
        DataType::UInt32 => "integer unsigned",
        DataType::UInt64 => "bigint unsigned",
        DataType::Float16 | DataType::Float32 => "real",
        DataType::Float64 => "double precision",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => "bytea",
        DataType::Date32 | DataType::Date64 => "date",
        DataType::Time32(_) | DataType::Time64(_) => "time without time zone",
        DataType::Timestamp(_, None) => "timestamp without time zone",
        DataType::Timestamp(_, Some(_)) => "timestamp with time zone",
        DataType::Duration(_) | DataType::Interval(_) => "interval",
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            "decimal"
        }
        DataType::List(_)
        | DataType::LargeList(_)
        | DataType::ListView(_)
        | DataType::LargeListView(_)
        | DataType::FixedSizeList(..) => "array",
        DataType::Struct(_) => "struct",
        DataType::Map(..) => "map",
        DataType::Union(..) => "union",
        DataType::Dictionary(_, values) => plain_name(values),
        DataType::RunEndEncoded(_, values) => plain_name(values.data_type()),
    }
}

fn members<'a>(fields: impl Iterator<Item = &'a FieldRef>) -> String {
    let member = |field: &Field| format!("{} {}", quoted(field.name()), sql_name(field.data_type()));
    let members: Vec<_> = fields.map(|field| member(field)).collect();
    members.join(", ")
}

/// A name as SQL takes it.
pub fn quoted(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let begins_plainly = name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_');
    match begins_plainly && name.bytes().all(is_plain) && !is_reserved(name) {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

/// A text as SQL writes it, in quotes.
pub fn text_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Whether the word means something else where a name may stand.
fn is_reserved(word: &str) -> bool {
    let upper = word.to_ascii_uppercase();
    let Ok(index) = ALL_KEYWORDS.binary_search(&upper.as_str()) else {
        return false;
    };
    let keyword = &ALL_KEYWORDS_INDEX[index];
    RESERVED_FOR_COLUMN_ALIAS.contains(keyword)
        || RESERVED_FOR_TABLE_ALIAS.contains(keyword)
        || RESERVED_FOR_IDENTIFIER.contains(keyword)
}

/// The message with SQL's names in the places of Arrow's; what stands in quotes is the user's and stays.
pub fn in_sql_names(message: &str) -> Cow<'_, str> {
    let mut text = String::new();
    let mut done = 0;
    let mut at = 0;
    let mut quote = None;
    let bytes = message.as_bytes();
    while at < bytes.len() {
        let byte = bytes[at];
        if let Some(open) = quote {
            if byte == open {
                quote = None;
            }
            at += 1;
        } else if matches!(byte, b'\'' | b'"' | b'`') && !is_word(at.checked_sub(1).map(|before| bytes[before])) {
            quote = Some(byte);
            at += 1;
        } else if byte.is_ascii_uppercase() && !is_word(at.checked_sub(1).map(|before| bytes[before])) {
            let end = at + bytes[at..].iter().take_while(|byte| is_word(Some(**byte))).count();
            match literal_at(message, at, end).or_else(|| type_at(message, at, end)) {
                Some((told, end)) => {
                    text.push_str(&message[done..at]);
                    text.push_str(&told);
                    (at, done) = (end, end);
                }
                None => at = end,
            }
        } else {
            at += 1;
        }
    }
    if done == 0 {
        return Cow::Borrowed(message);
    }
    text.push_str(&message[done..]);
    Cow::Owned(text)
}

fn is_word(byte: Option<u8>) -> bool {
    byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.') || !byte.is_ascii())
}

/// The literal that begins with the type between these places, as in `Utf8("x")`, as SQL writes it, and where it ends.
fn literal_at(message: &str, start: usize, end: usize) -> Option<(String, usize)> {
    message[start..end].parse::<DataType>().ok()?;
    let length = closing(&message[end..])?;
    let whole = end + length;
    if message[start..whole].parse::<DataType>().is_ok() {
        return None;
    }
    let value = &message[end + 1..whole - 1];
    let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    let value = quoted.map_or_else(|| value.to_owned(), text_literal);
    Some((value, whole))
}

/// The SQL name of the type whose name begins with the word between these places, and where the name ends. Words of
/// English, such as List and Map, mean types only with brackets.
fn type_at(message: &str, start: usize, end: usize) -> Option<(String, usize)> {
    let word = message[start..end].trim_end_matches('.');
    let end = start + word.len();
    let stands_alone =
        word.bytes().any(|byte| byte.is_ascii_digit()) || matches!(word, "Boolean" | "BinaryView" | "LargeBinary");
    let with_brackets = closing(&message[end..]).map(|length| end + length);
    let mut ends = [with_brackets, stands_alone.then_some(end)].into_iter().flatten();
    let named = ends.find_map(|end| {
        let data_type = message[start..end].parse::<DataType>().ok()?;
        Some((sql_name(&data_type), end))
    });
    // Without precision and scale this is no type.
    let is_decimal = matches!(word, "Decimal32" | "Decimal64" | "Decimal128" | "Decimal256");
    named.or_else(|| is_decimal.then(|| ("decimal".to_owned(), end)))
}

/// The length of a group in brackets at the start of the text.
fn closing(text: &str) -> Option<usize> {
    if !text.starts_with('(') {
        return None;
    }
    let mut depth = 0_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::datatypes::{IntervalUnit, TimeUnit};

    use super::*;

    fn list(item: DataType) -> DataType {
        DataType::new_list(item, true)
    }

    #[test]
    fn names_are_those_of_sql() {
        let pair = DataType::Struct(
            vec![
                Field::new("a", DataType::Int64, true),
                Field::new("My B", DataType::Utf8View, true),
            ]
            .into(),
        );
        let entries = DataType::Struct(
            vec![
                Field::new("key", DataType::Utf8, false),
                Field::new("value", DataType::Int64, true),
            ]
            .into(),
        );
        for (data_type, name, in_catalog) in [
            (DataType::Int32, "integer", "integer"),
            (DataType::UInt64, "bigint unsigned", "bigint unsigned"),
            (DataType::Float64, "double precision", "double precision"),
            (DataType::Decimal128(15, 2), "decimal(15,2)", "numeric"),
            (list(DataType::Decimal64(9, 0)), "decimal(9,0)[]", "decimal(9,0)[]"),
            (DataType::Utf8View, "text", "text"),
            (DataType::FixedSizeBinary(4), "bytea", "bytea"),
            (DataType::Date64, "date", "date"),
            (
                DataType::Time64(TimeUnit::Nanosecond),
                "time without time zone",
                "time without time zone",
            ),
            (DataType::Interval(IntervalUnit::DayTime), "interval", "interval"),
            (
                DataType::Timestamp(TimeUnit::Nanosecond, None),
                "timestamp without time zone",
                "timestamp without time zone",
            ),
            (
                DataType::Timestamp(TimeUnit::Second, Some("UTC".into())),
                "timestamp with time zone",
                "timestamp with time zone",
            ),
            (list(list(DataType::Int64)), "bigint[][]", "bigint[][]"),
            (
                DataType::FixedSizeList(Arc::new(Field::new("item", DataType::Float32, true)), 3),
                "real[3]",
                "real[3]",
            ),
            (
                pair,
                "struct(a bigint, \"My B\" text)",
                "struct(a bigint, \"My B\" text)",
            ),
            (
                DataType::Map(Arc::new(Field::new("entries", entries, false)), false),
                "map(text, bigint)",
                "map(text, bigint)",
            ),
            (
                DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Decimal128(5, 1))),
                "decimal(5,1)",
                "numeric",
            ),
        ] {
            assert_eq!(sql_name(&data_type), name);
            assert_eq!(catalog_name(&data_type), in_catalog);
        }
    }

    #[test]
    fn messages_name_types_of_sql() {
        for (message, told) in [
            (
                "Cannot cast string 'Int64' to value of Int64 type",
                "Cannot cast string 'Int64' to value of bigint type",
            ),
            (
                "Cannot coerce Timestamp(ns) + List(Int64), but Utf8View.",
                "Cannot coerce timestamp without time zone + bigint[], but text.",
            ),
            ("sum(Utf8, Decimal128(15, 2))", "sum(text, decimal(15,2))"),
            ("t.a + Int64(1) = Utf8(\"it's\")", "t.a + 1 = 'it''s'"),
            ("Boolean(NULL)", "NULL"),
            ("a Decimal128 of precision 5", "a decimal of precision 5"),
            ("Null in a Map is no List", "Null in a Map is no List"),
            ("no field named t.Int64", "no field named t.Int64"),
            ("it's Boolean", "it's boolean"),
            ("Interval(MonthDayNano)", "interval"),
            ("Timestamp(", "Timestamp("),
            ("größer als Float64", "größer als double precision"),
        ] {
            assert_eq!(in_sql_names(message), told);
        }
    }

    #[test]
    fn names_are_quoted_where_they_must_be() {
        for (name, told) in [
            ("a_1", "a_1"),
            ("A", "\"A\""),
            ("1a", "\"1a\""),
            ("a b", "\"a b\""),
            ("a\"b", "\"a\"\"b\""),
            ("select", "\"select\""),
            ("größe", "\"größe\""),
            ("", "\"\""),
        ] {
            assert_eq!(quoted(name), told);
        }
    }
}
