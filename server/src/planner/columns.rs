//! The metadata that drivers read about a column, in its field.
//!
//! `format/FlightSql.proto` defines the keys, for the schema of a statement's rows as for the schema of a table. JDBC
//! and ODBC have no other source for precision, scale and origin of a column.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, TimeUnit};
use datafusion::common::TableReference;

/// The prefix of each key.
const PREFIX: &str = "ARROW:FLIGHT:SQL:";

/// Columns of wider schemas are not described: the schema of ten thousand columns would be more than the 4 MiB that
/// many clients read.
const MAX_DESCRIBED_COLUMNS: usize = 1_000;

/// The metadata keys under which file formats and their writers store a column's comment.
const COMMENT_KEYS: [&str; 4] = ["comment", "description", "avro.doc", "ARROW:FLIGHT:SQL:REMARKS"];

/// Describes each column of `schema`; `origin` gives the table of the column with an index.
pub fn describe<'a>(schema: &Schema, origin: impl Fn(usize) -> Option<&'a TableReference>) -> Schema {
    if schema.fields().len() > MAX_DESCRIBED_COLUMNS {
        return schema.clone();
    }
    let fields = schema.fields().iter().enumerate();
    let fields: Vec<FieldRef> = fields
        .map(|(index, field)| Arc::new(describe_field(field, origin(index))))
        .collect();
    Schema::new_with_metadata(fields, schema.metadata().clone())
}

fn describe_field(field: &Field, origin: Option<&TableReference>) -> Field {
    let mut metadata = field.metadata().clone();
    let comment = COMMENT_KEYS.iter().find_map(|key| metadata.get(*key).cloned());
    // Metadata in a file describes the table that the file was written from, not this one.
    metadata.retain(|key, _| !key.starts_with(PREFIX));
    let data_type = field.data_type();
    let digits = digits(data_type);
    let flag = |value: bool| Some(if value { "1" } else { "0" }.to_owned());
    let entries = [
        (
            "CATALOG_NAME",
            origin.and_then(TableReference::catalog).map(str::to_owned),
        ),
        (
            "SCHEMA_NAME",
            origin.and_then(TableReference::schema).map(str::to_owned),
        ),
        ("TABLE_NAME", origin.map(|origin| origin.table().to_owned())),
        ("TYPE_NAME", Some(type_name(data_type).to_owned())),
        ("PRECISION", digits.precision.map(|digits| digits.to_string())),
        ("SCALE", digits.scale.map(|digits| digits.to_string())),
        ("IS_AUTO_INCREMENT", flag(false)),
        ("IS_CASE_SENSITIVE", flag(is_text(data_type))),
        ("IS_READ_ONLY", flag(false)),
        ("IS_SEARCHABLE", flag(!data_type.is_nested())),
        ("REMARKS", comment),
    ];
    let known = entries
        .into_iter()
        .filter_map(|(key, value)| Some((format!("{PREFIX}{key}"), value?)));
    metadata.extend(known);
    field.clone().with_metadata(metadata)
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// The SQL name of a type, as `CREATE EXTERNAL TABLE` and `CAST` take it where SQL has the type.
pub fn type_name(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Null => "NULL",
        DataType::Boolean => "BOOLEAN",
        DataType::Int8 => "TINYINT",
        DataType::Int16 => "SMALLINT",
        DataType::Int32 => "INTEGER",
        DataType::Int64 => "BIGINT",
        DataType::UInt8 => "TINYINT UNSIGNED",
        DataType::UInt16 => "SMALLINT UNSIGNED",
        DataType::UInt32 => "INTEGER UNSIGNED",
        DataType::UInt64 => "BIGINT UNSIGNED",
        DataType::Float16 | DataType::Float32 => "REAL",
        DataType::Float64 => "DOUBLE",
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            "DECIMAL"
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "VARCHAR",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => "BYTEA",
        DataType::Date32 | DataType::Date64 => "DATE",
        DataType::Time32(_) | DataType::Time64(_) => "TIME",
        DataType::Timestamp(_, None) => "TIMESTAMP",
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP WITH TIME ZONE",
        DataType::Duration(_) | DataType::Interval(_) => "INTERVAL",
        DataType::List(_)
        | DataType::LargeList(_)
        | DataType::FixedSizeList(..)
        | DataType::ListView(_)
        | DataType::LargeListView(_) => "ARRAY",
        DataType::Struct(_) => "STRUCT",
        DataType::Map(..) => "MAP",
        DataType::Union(..) => "UNION",
        DataType::Dictionary(_, values) => type_name(values),
        DataType::RunEndEncoded(_, values) => type_name(values.data_type()),
    }
}

/// How many digits the values of a type have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digits {
    /// Decimal digits of a number, characters of a date or time, bytes of a value of fixed size.
    pub precision: Option<i32>,
    /// Digits behind the point.
    pub scale: Option<i32>,
}

/// The digits of a type; none where the number of digits is not fixed.
pub fn digits(data_type: &DataType) -> Digits {
    let of = |precision: i32, scale: i32| Digits {
        precision: Some(precision),
        scale: Some(scale),
    };
    let approximate = |precision: i32| Digits {
        precision: Some(precision),
        scale: None,
    };
    match data_type {
        DataType::Boolean => of(1, 0),
        DataType::Int8 | DataType::UInt8 => of(3, 0),
        DataType::Int16 | DataType::UInt16 => of(5, 0),
        DataType::Int32 | DataType::UInt32 => of(10, 0),
        DataType::Int64 => of(19, 0),
        DataType::UInt64 => of(20, 0),
        DataType::Float16 => approximate(3),
        DataType::Float32 => approximate(7),
        DataType::Float64 => approximate(15),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => of((*precision).into(), (*scale).into()),
        DataType::FixedSizeBinary(bytes) => approximate(*bytes),
        DataType::Date32 | DataType::Date64 => of(10, 0),
        DataType::Time32(unit) | DataType::Time64(unit) => time_digits(8, *unit),
        DataType::Timestamp(unit, _) => time_digits(19, *unit),
        DataType::Dictionary(_, values) => digits(values),
        DataType::RunEndEncoded(_, values) => digits(values.data_type()),
        DataType::Null
        | DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::Duration(_)
        | DataType::Interval(_)
        | DataType::List(_)
        | DataType::LargeList(_)
        | DataType::FixedSizeList(..)
        | DataType::ListView(_)
        | DataType::LargeListView(_)
        | DataType::Struct(_)
        | DataType::Map(..)
        | DataType::Union(..) => Digits::default(),
    }
}

/// The digits of a time of `characters`, followed by a point and the fraction of `unit`.
fn time_digits(characters: i32, unit: TimeUnit) -> Digits {
    let fraction = match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    };
    let point = i32::from(fraction > 0);
    Digits {
        precision: Some(characters + point + fraction),
        scale: Some(fraction),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn describe_column(field: Field, origin: Option<TableReference>) -> Vec<(String, String)> {
        let schema = describe(&Schema::new(vec![field]), |_| origin.as_ref());
        let mut metadata: Vec<_> = schema.field(0).metadata().clone().into_iter().collect();
        metadata.sort();
        metadata
    }

    #[test]
    fn column_metadata_has_origin_and_digits() {
        let field = Field::new("total", DataType::Decimal128(15, 2), false)
            .with_metadata([("comment".to_owned(), "in euros".to_owned())].into());
        let origin = TableReference::full("c", "s", "t");
        let expected = [
            ("ARROW:FLIGHT:SQL:CATALOG_NAME", "c"),
            ("ARROW:FLIGHT:SQL:IS_AUTO_INCREMENT", "0"),
            ("ARROW:FLIGHT:SQL:IS_CASE_SENSITIVE", "0"),
            ("ARROW:FLIGHT:SQL:IS_READ_ONLY", "0"),
            ("ARROW:FLIGHT:SQL:IS_SEARCHABLE", "1"),
            ("ARROW:FLIGHT:SQL:PRECISION", "15"),
            ("ARROW:FLIGHT:SQL:REMARKS", "in euros"),
            ("ARROW:FLIGHT:SQL:SCALE", "2"),
            ("ARROW:FLIGHT:SQL:SCHEMA_NAME", "s"),
            ("ARROW:FLIGHT:SQL:TABLE_NAME", "t"),
            ("ARROW:FLIGHT:SQL:TYPE_NAME", "DECIMAL"),
            ("comment", "in euros"),
        ];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(describe_column(field, Some(origin)), expected);
    }

    #[test]
    fn origin_in_file_metadata_is_dropped() {
        let field = Field::new("name", DataType::Utf8, true)
            .with_metadata([("ARROW:FLIGHT:SQL:TABLE_NAME".to_owned(), "elsewhere".to_owned())].into());
        let metadata = describe_column(field, None);
        assert!(
            !metadata.iter().any(|(key, _)| key.ends_with("TABLE_NAME")),
            "{metadata:?}"
        );
    }

    #[test]
    fn time_digits_follow_the_unit() {
        for (data_type, precision, scale) in [
            (DataType::Time32(TimeUnit::Second), 8, 0),
            (DataType::Time64(TimeUnit::Nanosecond), 18, 9),
            (DataType::Timestamp(TimeUnit::Millisecond, None), 23, 3),
            (DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), 26, 6),
        ] {
            let expected = Digits {
                precision: Some(precision),
                scale: Some(scale),
            };
            assert_eq!(digits(&data_type), expected, "{data_type}");
        }
    }

    #[test]
    fn wide_schema_is_not_described() {
        let fields = (0..=MAX_DESCRIBED_COLUMNS).map(|n| Field::new(format!("c{n}"), DataType::Int64, true));
        let wide = Schema::new(fields.collect::<Vec<_>>());
        assert_eq!(describe(&wide, |_| None), wide);
    }
}
