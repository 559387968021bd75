//! One schema for the files of a table: by name, each column in a type that holds the values of all files as they are.
//!
//! | files | table |
//! |---|---|
//! | integers | the narrowest integer that holds both; `DECIMAL(20, 0)` for BIGINT with BIGINT UNSIGNED |
//! | FLOAT, DOUBLE, and integers up to INT | DOUBLE |
//! | decimals, and integers with them | a decimal with the places of both, up to 76 digits |
//! | DATE, TIMESTAMP in seconds to microseconds | TIMESTAMP in microseconds |
//! | timestamps of one zone, times | in the finer unit |
//! | texts, bytes | in the longer form |
//! | lists, structs | of what their parts become |
//! | a column that a file lacks, or that is NULL alone | that of the others, which may be NULL |
//!
//! What does not fit the wider type all the same (a time of the year 9999 in nanoseconds) is an error when it is read.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, TimeUnit};
use datafusion::common::plan_err;
use datafusion::error::Result;

/// The columns of all files, which have names for the error.
///
/// # Errors
/// When a column has types in two files that no type holds both of; names the files.
pub(super) fn merge(files: &[(String, Schema)], numbers: Numbers) -> Result<Schema> {
    let mut merged: Vec<(FieldRef, &str)> = Vec::new();
    for (file, schema) in files {
        for field in schema.fields() {
            let Some((known, first)) = merged.iter_mut().find(|(known, _)| known.name() == field.name()) else {
                merged.push((Arc::clone(field), file));
                continue;
            };
            match common_field(known, field, numbers) {
                Some(wide) => *known = wide,
                None => {
                    return plan_err!(
                        "the column {} is {} in {first} and {} in {file}, and no type holds the values of both; give \
                         each its own folder",
                        field.name(),
                        known.data_type(),
                        field.data_type()
                    );
                }
            }
        }
    }
    let fields = merged.into_iter().map(|(field, _)| {
        let is_everywhere = files.iter().all(|(_, schema)| schema.index_of(field.name()).is_ok());
        match is_everywhere || field.is_nullable() {
            true => field,
            false => Arc::new(field.as_ref().clone().with_nullable(true)),
        }
    });
    Ok(Schema::new(fields.collect::<Vec<_>>()))
}

/// What numbers of the files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbers {
    /// As they are declared: a BIGINT may have more digits than a DOUBLE.
    Declared,
    /// As the values of a text seemed: a number without a fraction may be of a column with fractions.
    Guessed,
}

fn common_field(one: &FieldRef, other: &FieldRef, numbers: Numbers) -> Option<FieldRef> {
    if one.data_type() == other.data_type() && (one.is_nullable() || !other.is_nullable()) {
        return Some(Arc::clone(one));
    }
    let data_type = common(one.data_type(), other.data_type(), numbers)?;
    let is_nullable = one.is_nullable() || other.is_nullable() || *one.data_type() == DataType::Null;
    let wide = one
        .as_ref()
        .clone()
        .with_data_type(data_type)
        .with_nullable(is_nullable);
    Some(Arc::new(wide))
}

/// A type with the values of both.
fn common(one: &DataType, other: &DataType, numbers: Numbers) -> Option<DataType> {
    use DataType as T;
    if one == other {
        return Some(one.clone());
    }
    if let (Some(one), Some(other)) = (Integer::of(one), Integer::of(other)) {
        return Some(one.with(other));
    }
    Some(match (one, other) {
        (T::Null, wide) | (wide, T::Null) => wide.clone(),
        (T::Dictionary(_, values), other) | (other, T::Dictionary(_, values)) => common(values, other, numbers)?,
        (T::Float16 | T::Float32 | T::Float64, T::Float16 | T::Float32 | T::Float64) => wider_float(one, other),
        (float, integer) | (integer, float) if float.is_floating() && integer.is_integer() => {
            let is_exact = Integer::of(integer)?.bits <= 32;
            (is_exact || numbers == Numbers::Guessed).then_some(T::Float64)?
        }
        (float, decimal) | (decimal, float)
            if numbers == Numbers::Guessed && float.is_floating() && decimal.is_decimal() =>
        {
            T::Float64
        }
        (one, other) if one.is_decimal() || other.is_decimal() => common_decimal(one, other)?,
        (T::Date32, T::Timestamp(unit, None)) | (T::Timestamp(unit, None), T::Date32)
            if *unit != TimeUnit::Nanosecond =>
        {
            T::Timestamp(TimeUnit::Microsecond, None)
        }
        (T::Timestamp(one, zone), T::Timestamp(other, of)) if zone == of => {
            T::Timestamp(finer(*one, *other), zone.clone())
        }
        (T::Time32(one) | T::Time64(one), T::Time32(other) | T::Time64(other)) => time(finer(*one, *other)),
        (one, other) if is_text(one) && is_text(other) => longer(one, other, &[T::Utf8View, T::LargeUtf8])?,
        (one, other) if is_bytes(one) && is_bytes(other) => {
            longer(one, other, &[T::BinaryView, T::LargeBinary, T::Binary]).unwrap_or(T::Binary)
        }
        (T::List(one), T::List(other)) => T::List(common_field(one, other, numbers)?),
        (T::LargeList(one), T::LargeList(other)) => T::LargeList(common_field(one, other, numbers)?),
        (T::Struct(one), T::Struct(other)) => T::Struct(common_fields(one, other, numbers)?),
        _ => return None,
    })
}

fn common_fields(one: &Fields, other: &Fields, numbers: Numbers) -> Option<Fields> {
    let mut merged: Vec<FieldRef> = Vec::new();
    let nullable = |field: &FieldRef| Arc::new(Field::clone(field).with_nullable(true));
    for field in one {
        merged.push(match other.find(field.name()) {
            Some((_, same)) => common_field(field, same, numbers)?,
            None => nullable(field),
        });
    }
    let added = other.iter().filter(|field| one.find(field.name()).is_none());
    merged.extend(added.map(nullable));
    Some(merged.into())
}

/// A type of whole numbers.
#[derive(Clone, Copy)]
struct Integer {
    bits: u8,
    is_signed: bool,
}

impl Integer {
    fn of(data_type: &DataType) -> Option<Self> {
        let bits = data_type.is_integer().then(|| data_type.primitive_width()).flatten()? * 8;
        Some(Self {
            bits: bits as u8,
            is_signed: data_type.is_signed_integer(),
        })
    }

    fn with(self, other: Self) -> DataType {
        if !self.is_signed && !other.is_signed {
            return match self.bits.max(other.bits) {
                0..=8 => DataType::UInt8,
                9..=16 => DataType::UInt16,
                17..=32 => DataType::UInt32,
                _ => DataType::UInt64,
            };
        }
        // A signed type needs one bit more than an unsigned one.
        let needed = |integer: Self| integer.bits + u8::from(!integer.is_signed);
        match needed(self).max(needed(other)) {
            0..=8 => DataType::Int8,
            9..=16 => DataType::Int16,
            17..=32 => DataType::Int32,
            33..=64 => DataType::Int64,
            _ => DataType::Decimal128(20, 0),
        }
    }

    fn digits(self) -> u8 {
        match (self.bits, self.is_signed) {
            (8, _) => 3,
            (16, _) => 5,
            (32, _) => 10,
            (_, true) => 19,
            (_, false) => 20,
        }
    }
}

fn wider_float(one: &DataType, other: &DataType) -> DataType {
    match one.primitive_width() < other.primitive_width() {
        true => other.clone(),
        false => one.clone(),
    }
}

/// A decimal with the digits of both, before and behind the point.
fn common_decimal(one: &DataType, other: &DataType) -> Option<DataType> {
    let places = |data_type: &DataType| match data_type {
        DataType::Decimal32(digits, scale)
        | DataType::Decimal64(digits, scale)
        | DataType::Decimal128(digits, scale)
        | DataType::Decimal256(digits, scale) => Some((i16::from(*digits), i16::from(*scale))),
        other => Some((i16::from(Integer::of(other)?.digits()), 0)),
    };
    let ((one, one_scale), (other, other_scale)) = (places(one)?, places(other)?);
    let scale = one_scale.max(other_scale);
    let digits = (one - one_scale).max(other - other_scale) + scale;
    let (digits, scale) = (u8::try_from(digits).ok()?, i8::try_from(scale).ok()?);
    match digits {
        0..=38 => Some(DataType::Decimal128(digits, scale)),
        39..=76 => Some(DataType::Decimal256(digits, scale)),
        _ => None,
    }
}

fn finer(one: TimeUnit, other: TimeUnit) -> TimeUnit {
    let units = [TimeUnit::Nanosecond, TimeUnit::Microsecond, TimeUnit::Millisecond];
    let finest = units.into_iter().find(|unit| *unit == one || *unit == other);
    finest.unwrap_or(TimeUnit::Second)
}

fn time(unit: TimeUnit) -> DataType {
    match unit {
        TimeUnit::Second | TimeUnit::Millisecond => DataType::Time32(unit),
        TimeUnit::Microsecond | TimeUnit::Nanosecond => DataType::Time64(unit),
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_bytes(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_)
    )
}

/// The first of `types` that is one of both.
fn longer(one: &DataType, other: &DataType, types: &[DataType]) -> Option<DataType> {
    types.iter().find(|longer| *longer == one || *longer == other).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_widened_where_no_value_is_lost() {
        use DataType as T;
        let timestamp = |unit| T::Timestamp(unit, None);
        for (one, other, expected) in [
            (T::Int32, T::Int64, Some(T::Int64)),
            (T::UInt32, T::Int32, Some(T::Int64)),
            (T::UInt8, T::UInt32, Some(T::UInt32)),
            (T::UInt8, T::Int8, Some(T::Int16)),
            (T::UInt64, T::Int64, Some(T::Decimal128(20, 0))),
            (T::Float32, T::Float64, Some(T::Float64)),
            (T::Int32, T::Float64, Some(T::Float64)),
            (T::Int32, T::Float32, Some(T::Float64)),
            (T::Int64, T::Float64, None),
            (T::Decimal128(5, 2), T::Decimal128(9, 4), Some(T::Decimal128(9, 4))),
            (T::Decimal128(38, 0), T::Decimal128(9, 4), Some(T::Decimal256(42, 4))),
            (T::Decimal256(76, 0), T::Decimal128(9, 4), None),
            (T::Int64, T::Decimal128(5, 2), Some(T::Decimal128(21, 2))),
            (T::Float64, T::Decimal128(5, 2), None),
            (
                T::Date32,
                timestamp(TimeUnit::Millisecond),
                Some(timestamp(TimeUnit::Microsecond)),
            ),
            (T::Date32, timestamp(TimeUnit::Nanosecond), None),
            (
                timestamp(TimeUnit::Second),
                timestamp(TimeUnit::Nanosecond),
                Some(timestamp(TimeUnit::Nanosecond)),
            ),
            (
                timestamp(TimeUnit::Second),
                T::Timestamp(TimeUnit::Second, Some("UTC".into())),
                None,
            ),
            (T::Utf8, T::Utf8View, Some(T::Utf8View)),
            (T::FixedSizeBinary(3), T::FixedSizeBinary(4), Some(T::Binary)),
            (T::Null, T::Boolean, Some(T::Boolean)),
            (T::Int64, T::Utf8, None),
        ] {
            assert_eq!(common(&one, &other, Numbers::Declared), expected, "{one} {other}");
            assert_eq!(common(&other, &one, Numbers::Declared), expected, "{other} {one}");
        }
        assert_eq!(common(&T::Int64, &T::Float64, Numbers::Guessed), Some(T::Float64));
    }

    #[test]
    fn columns_that_a_file_lacks_may_be_null() {
        let schema = |names: &[&str]| {
            Schema::new(
                names
                    .iter()
                    .map(|name| Field::new(*name, DataType::Int32, false))
                    .collect::<Vec<_>>(),
            )
        };
        let files = [
            ("1".to_owned(), schema(&["a", "b"])),
            ("2".to_owned(), schema(&["c", "a"])),
        ];
        let merged = merge(&files, Numbers::Declared).unwrap();
        let columns = merged
            .fields()
            .iter()
            .map(|field| (field.name().as_str(), field.is_nullable()));
        assert_eq!(columns.collect::<Vec<_>>(), [("a", false), ("b", true), ("c", true)]);
    }

    #[test]
    fn error_names_column_and_files() {
        let of = |data_type| Schema::new(vec![Field::new("n", data_type, true)]);
        let files = [
            ("a.pq".to_owned(), of(DataType::Int64)),
            ("b.pq".to_owned(), of(DataType::Utf8)),
        ];
        let error = merge(&files, Numbers::Declared).unwrap_err().to_string();
        for part in ["column n", "a.pq", "b.pq", "Int64", "Utf8"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
