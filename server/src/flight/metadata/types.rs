//! SQL's names for Arrow's types: in the metadata of columns, and as CommandGetXdbcTypeInfo lists them.

use std::sync::LazyLock;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow_flight::sql::metadata::{XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder};
use arrow_flight::sql::{Nullable, Searchable, XdbcDataType, XdbcDatetimeSubcode};
use squadron_proto::Failure;

use super::unbuilt;

/// What a driver may read about a column, as keys below `ARROW:FLIGHT:SQL:`.
pub(super) fn column_metadata(data_type: &DataType) -> Vec<(&'static str, String)> {
    let mut metadata = vec![
        ("TYPE_NAME", type_name(data_type).to_string()),
        ("IS_AUTO_INCREMENT", "0".into()),
        ("IS_CASE_SENSITIVE", flag(is_text(data_type))),
        ("IS_READ_ONLY", "0".into()),
        ("IS_SEARCHABLE", flag(!data_type.is_nested())),
    ];
    if let DataType::Decimal32(precision, scale)
    | DataType::Decimal64(precision, scale)
    | DataType::Decimal128(precision, scale)
    | DataType::Decimal256(precision, scale) = data_type
    {
        metadata.push(("PRECISION", precision.to_string()));
        metadata.push(("SCALE", scale.to_string()));
    }
    metadata
}

fn flag(value: bool) -> String {
    if value { "1" } else { "0" }.into()
}

fn is_text(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    )
}

/// The SQL name of a type, as `CREATE TABLE` takes it where SQL has the type.
fn type_name(data_type: &DataType) -> &'static str {
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
        DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => "DECIMAL",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "VARCHAR",
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => "VARBINARY",
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

/// The schema of CommandGetXdbcTypeInfo.
pub(super) fn xdbc_schema() -> SchemaRef {
    XdbcTypeInfoDataBuilder::new().schema()
}

/// All types, or those with a given number.
pub(super) fn xdbc_rows(data_type: Option<i32>) -> Result<RecordBatch, Failure> {
    XDBC_TYPES.record_batch(data_type).map_err(unbuilt)
}

static XDBC_TYPES: LazyLock<XdbcTypeInfoData> = LazyLock::new(|| {
    let mut builder = XdbcTypeInfoDataBuilder::new();
    for info in exact_types().into_iter().chain(quoted_types()) {
        builder.append(info);
    }
    builder.build().expect("every row has every required field")
});

/// Numbers and truth values. Sizes of numbers are decimal digits.
fn exact_types() -> Vec<XdbcTypeInfo> {
    [
        ("BOOLEAN", XdbcDataType::XdbcBit, 1),
        ("TINYINT", XdbcDataType::XdbcTinyint, 3),
        ("SMALLINT", XdbcDataType::XdbcSmallint, 5),
        ("INTEGER", XdbcDataType::XdbcInteger, 10),
        ("BIGINT", XdbcDataType::XdbcBigint, 19),
        ("REAL", XdbcDataType::XdbcReal, 7),
        ("DOUBLE", XdbcDataType::XdbcDouble, 15),
        ("DECIMAL", XdbcDataType::XdbcDecimal, 38),
    ]
    .into_iter()
    .map(|(name, data_type, size)| {
        let is_number = data_type != XdbcDataType::XdbcBit;
        let is_decimal = data_type == XdbcDataType::XdbcDecimal;
        XdbcTypeInfo {
            create_params: is_decimal.then(|| vec!["precision".into(), "scale".into()]),
            unsigned_attribute: is_number.then_some(false),
            auto_increment: is_number.then_some(false),
            minimum_scale: is_decimal.then_some(0),
            maximum_scale: is_decimal.then_some(38),
            num_prec_radix: is_number.then_some(10),
            ..named(name, data_type, size)
        }
    })
    .collect()
}

/// Types whose literals are quoted: text, bytes and times. Sizes are characters or bytes.
fn quoted_types() -> Vec<XdbcTypeInfo> {
    let time = Some(XdbcDatetimeSubcode::XdbcSubcodeTime);
    let timestamp = Some(XdbcDatetimeSubcode::XdbcSubcodeTimestamp);
    // ODBC's SQL_CODE_DATE is 1, which Flight SQL calls YEAR.
    let date = Some(XdbcDatetimeSubcode::XdbcSubcodeYear);
    [
        ("VARCHAR", XdbcDataType::XdbcVarchar, 65_536, "'", None),
        ("VARBINARY", XdbcDataType::XdbcVarbinary, 65_536, "X'", None),
        ("DATE", XdbcDataType::XdbcDate, 10, "DATE '", date),
        ("TIME", XdbcDataType::XdbcTime, 18, "TIME '", time),
        (
            "TIMESTAMP",
            XdbcDataType::XdbcTimestamp,
            29,
            "TIMESTAMP '",
            timestamp,
        ),
    ]
    .into_iter()
    .map(|(name, data_type, size, prefix, subcode)| XdbcTypeInfo {
        literal_prefix: Some(prefix.into()),
        literal_suffix: Some("'".into()),
        case_sensitive: data_type == XdbcDataType::XdbcVarchar,
        sql_data_type: if subcode.is_some() {
            XdbcDataType::XdbcDatetime
        } else {
            data_type
        },
        datetime_subcode: subcode,
        ..named(name, data_type, size)
    })
    .collect()
}

fn named(name: &str, data_type: XdbcDataType, size: i32) -> XdbcTypeInfo {
    XdbcTypeInfo {
        type_name: name.into(),
        local_type_name: Some(name.into()),
        data_type,
        sql_data_type: data_type,
        column_size: Some(size),
        nullable: Nullable::NullabilityNullable,
        searchable: Searchable::Full,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;

    use super::*;

    #[test]
    fn all_types_or_one() {
        let all = xdbc_rows(None).unwrap();
        assert_eq!(all.schema(), xdbc_schema());
        assert_eq!(all.num_rows(), 13);
        let varchar = xdbc_rows(Some(XdbcDataType::XdbcVarchar.into())).unwrap();
        assert_eq!(varchar.column(0).as_string::<i32>().value(0), "VARCHAR");
        assert_eq!(xdbc_rows(Some(9999)).unwrap().num_rows(), 0);
    }

    #[test]
    fn columns_and_type_info_use_the_same_names() {
        let all = xdbc_rows(None).unwrap();
        let listed: Vec<_> = all.column(0).as_string::<i32>().iter().flatten().collect();
        for data_type in [
            DataType::Boolean,
            DataType::Int64,
            DataType::Float64,
            DataType::Decimal128(15, 2),
            DataType::Utf8View,
            DataType::Date32,
            DataType::Binary,
        ] {
            assert!(listed.contains(&type_name(&data_type)), "{data_type}");
        }
    }
}
