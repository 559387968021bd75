//! CommandGetXdbcTypeInfo: the SQL types, under the numbers of ODBC and JDBC.
//!
//! One name may have several numbers, since drivers look up a column's type by either. Arrays, structs, maps and unions
//! have no number in ODBC and JDBC.

use std::sync::LazyLock;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::sql::metadata::{XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder};
use arrow_flight::sql::{Nullable, Searchable, XdbcDataType, XdbcDatetimeSubcode};
use squadron_proto::Failure;

use super::failure::from_builder;

/// The most digits of a decimal.
const MAX_DIGITS: i32 = 76;

/// The length that programs reserve for a text or for bytes without a declared length; values may be longer.
const MAX_LENGTH: i32 = 65_536;

/// The schema of CommandGetXdbcTypeInfo.
pub(super) fn xdbc_schema() -> SchemaRef {
    XdbcTypeInfoDataBuilder::new().schema()
}

/// All types, or those with a given number.
pub(super) fn xdbc_rows(data_type: Option<i32>) -> Result<RecordBatch, Failure> {
    XDBC_TYPES.record_batch(data_type).map_err(from_builder)
}

static XDBC_TYPES: LazyLock<XdbcTypeInfoData> = LazyLock::new(|| {
    let mut builder = XdbcTypeInfoDataBuilder::new();
    let all = exact_types().into_iter().chain(quoted_types());
    for info in all.chain([interval()]) {
        builder.append(info);
    }
    builder.build().expect("every row has every required field")
});

/// Numbers and booleans. Sizes of numbers are decimal digits.
fn exact_types() -> Vec<XdbcTypeInfo> {
    [
        ("BOOLEAN", XdbcDataType::XdbcBit, 1),
        ("TINYINT", XdbcDataType::XdbcTinyint, 3),
        ("TINYINT UNSIGNED", XdbcDataType::XdbcTinyint, 3),
        ("SMALLINT", XdbcDataType::XdbcSmallint, 5),
        ("SMALLINT UNSIGNED", XdbcDataType::XdbcSmallint, 5),
        ("INTEGER", XdbcDataType::XdbcInteger, 10),
        ("INTEGER UNSIGNED", XdbcDataType::XdbcInteger, 10),
        ("BIGINT", XdbcDataType::XdbcBigint, 19),
        ("BIGINT UNSIGNED", XdbcDataType::XdbcBigint, 20),
        ("FLOAT", XdbcDataType::XdbcFloat, 7),
        ("REAL", XdbcDataType::XdbcReal, 7),
        ("DOUBLE", XdbcDataType::XdbcDouble, 15),
        ("DECIMAL", XdbcDataType::XdbcDecimal, MAX_DIGITS),
        ("NUMERIC", XdbcDataType::XdbcNumeric, MAX_DIGITS),
    ]
    .into_iter()
    .map(|(name, data_type, size)| {
        let is_number = data_type != XdbcDataType::XdbcBit;
        let is_decimal = matches!(data_type, XdbcDataType::XdbcDecimal | XdbcDataType::XdbcNumeric);
        XdbcTypeInfo {
            create_params: is_decimal.then(|| vec!["precision".into(), "scale".into()]),
            unsigned_attribute: is_number.then_some(name.ends_with("UNSIGNED")),
            auto_increment: is_number.then_some(false),
            minimum_scale: is_decimal.then_some(0),
            maximum_scale: is_decimal.then_some(MAX_DIGITS),
            num_prec_radix: is_number.then_some(10),
            ..base_type(name, data_type, size)
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
        ("CHAR", XdbcDataType::XdbcChar, MAX_LENGTH, "'", None),
        ("VARCHAR", XdbcDataType::XdbcVarchar, MAX_LENGTH, "'", None),
        ("TEXT", XdbcDataType::XdbcLongvarchar, MAX_LENGTH, "'", None),
        ("VARCHAR", XdbcDataType::XdbcWvarchar, MAX_LENGTH, "'", None),
        ("BYTEA", XdbcDataType::XdbcBinary, MAX_LENGTH, "X'", None),
        ("BYTEA", XdbcDataType::XdbcVarbinary, MAX_LENGTH, "X'", None),
        ("BYTEA", XdbcDataType::XdbcLongvarbinary, MAX_LENGTH, "X'", None),
        ("DATE", XdbcDataType::XdbcDate, 10, "DATE '", date),
        ("TIME", XdbcDataType::XdbcTime, 18, "TIME '", time),
        ("TIMESTAMP", XdbcDataType::XdbcTimestamp, 29, "TIMESTAMP '", timestamp),
        (
            "TIMESTAMP WITH TIME ZONE",
            XdbcDataType::XdbcTimestamp,
            35,
            "TIMESTAMPTZ '",
            timestamp,
        ),
    ]
    .into_iter()
    .map(|(name, data_type, size, prefix, subcode)| XdbcTypeInfo {
        literal_prefix: Some(prefix.into()),
        literal_suffix: Some("'".into()),
        case_sensitive: prefix == "'",
        minimum_scale: (size > 10 && subcode.is_some()).then_some(0),
        maximum_scale: (size > 10 && subcode.is_some()).then_some(9),
        sql_data_type: if subcode.is_some() {
            XdbcDataType::XdbcDatetime
        } else {
            data_type
        },
        datetime_subcode: subcode,
        ..base_type(name, data_type, size)
    })
    .collect()
}

/// An interval of months, days and nanoseconds together, which has no subcode.
fn interval() -> XdbcTypeInfo {
    XdbcTypeInfo {
        literal_prefix: Some("INTERVAL '".into()),
        literal_suffix: Some("'".into()),
        datetime_subcode: Some(XdbcDatetimeSubcode::XdbcSubcodeUnknown),
        ..base_type("INTERVAL", XdbcDataType::XdbcInterval, MAX_LENGTH)
    }
}

fn base_type(name: &str, data_type: XdbcDataType, size: i32) -> XdbcTypeInfo {
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
    use arrow::array::{AsArray, RecordBatch};
    use arrow::datatypes::{DataType, Int32Type, IntervalUnit, TimeUnit};
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::planner::columns::type_name;

    fn names(batch: &RecordBatch) -> Vec<&str> {
        batch.column(0).as_string::<i32>().iter().flatten().collect()
    }

    #[test]
    fn type_info_is_sorted_and_filtered() {
        let all = xdbc_rows(None).unwrap();
        assert_eq!(all.schema(), xdbc_schema());
        let numbers = all.column(1).as_primitive::<Int32Type>().values();
        let keys: Vec<_> = numbers.iter().zip(names(&all)).collect();
        assert!(keys.is_sorted(), "{keys:?}");
        let integers = xdbc_rows(Some(XdbcDataType::XdbcInteger.into())).unwrap();
        assert_eq!(names(&integers), ["INTEGER", "INTEGER UNSIGNED"]);
        assert_eq!(xdbc_rows(Some(9999)).unwrap().num_rows(), 0);
    }

    #[test]
    fn columns_and_type_info_share_names() {
        let all = xdbc_rows(None).unwrap();
        for data_type in [
            DataType::Boolean,
            DataType::Int64,
            DataType::UInt8,
            DataType::Float32,
            DataType::Float64,
            DataType::Decimal256(76, 2),
            DataType::Utf8View,
            DataType::Date32,
            DataType::Time64(TimeUnit::Nanosecond),
            DataType::Timestamp(TimeUnit::Nanosecond, None),
            DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
            DataType::Interval(IntervalUnit::MonthDayNano),
            DataType::Binary,
        ] {
            assert!(names(&all).contains(&type_name(&data_type)), "{data_type}");
        }
    }

    #[tokio::test]
    async fn every_type_name_casts_in_sql() {
        let context = SessionContext::new();
        for name in names(&xdbc_rows(None).unwrap()) {
            let sql = format!("SELECT CAST(NULL AS {name})");
            assert!(context.sql(&sql).await.is_ok(), "{sql}");
        }
    }
}
