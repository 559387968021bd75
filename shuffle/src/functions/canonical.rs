//! Floats of which equal ones have equal bits.
//!
//! In SQL -0.0 equals 0.0, and one NaN another. DataFusion 55.2 compares bits where it sorts, where it looks values up
//! in lists and tables of windows (apache/datafusion#22826, #25186), and in nested values (#22835). A division of zero by
//! zero gives a NaN with a sign, which then is the least of all numbers and not the greatest.
//!
//! Intervals are as long as PostgreSQL and DuckDB take them to be, a month being 30 days and a day 24 hours; DataFusion
//! compares their months, days and nanoseconds in turn (apache/datafusion#8468).

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::{
    DataType, Float32Type, Float64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit,
};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::ScalarUDF;

use super::same::{same, with_parts};

/// `canonical(x)` is `x`, but 0.0 for -0.0, and the one NaN for each, also within lists, structs and maps; and for an
/// interval the one of the same length with whole months and days.
pub fn canonical() -> Arc<ScalarUDF> {
    same("canonical", of_array)
}

/// Whether values of the type are, or contain, floats.
pub fn has_floats(data_type: &DataType) -> bool {
    match data_type {
        DataType::Float64 | DataType::Float32 | DataType::Float16 => true,
        DataType::Struct(fields) => fields.iter().any(|field| has_floats(field.data_type())),
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => has_floats(field.data_type()),
        _ => false,
    }
}

fn of_array(values: &ArrayRef) -> Result<ArrayRef> {
    macro_rules! canonical {
        ($type:ty, $nan:expr, $zero:expr) => {{
            let values = values.as_primitive::<$type>();
            let canonical = values.unary::<_, $type>(|value| match value {
                _ if value.is_nan() => $nan,
                // -0.0 + 0.0 is 0.0.
                _ => value + $zero,
            });
            Ok(Arc::new(canonical) as ArrayRef)
        }};
    }
    match values.data_type() {
        DataType::Float64 => canonical!(Float64Type, f64::NAN, 0.0),
        DataType::Float32 => canonical!(Float32Type, f32::NAN, 0.0),
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let values = values.as_primitive::<IntervalMonthDayNanoType>();
            let canonical = values.try_unary::<_, IntervalMonthDayNanoType, _>(justified)?;
            Ok(Arc::new(canonical))
        }
        _ => with_parts(values, of_array),
    }
}

const NANOSECONDS_OF_DAY: i128 = 86_400_000_000_000;
const DAYS_OF_MONTH: i128 = 30;

/// The interval of the same length whose days are below 30, and whose nanoseconds are below a day, none of them negative.
fn justified(interval: IntervalMonthDayNano) -> Result<IntervalMonthDayNano> {
    let days = i128::from(interval.months) * DAYS_OF_MONTH + i128::from(interval.days);
    let length = days * NANOSECONDS_OF_DAY + i128::from(interval.nanoseconds);
    let days = length.div_euclid(NANOSECONDS_OF_DAY);
    let parts = (
        i32::try_from(days.div_euclid(DAYS_OF_MONTH)),
        i32::try_from(days.rem_euclid(DAYS_OF_MONTH)),
        i64::try_from(length.rem_euclid(NANOSECONDS_OF_DAY)),
    );
    match parts {
        (Ok(months), Ok(days), Ok(nanoseconds)) => Ok(IntervalMonthDayNano::new(months, days, nanoseconds)),
        _ => exec_err!("an interval is too long to be compared"),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Float64Array, ListArray, StructArray};
    use datafusion::arrow::datatypes::Field;

    use super::*;

    #[test]
    fn intervals_of_equal_length_are_equal() {
        let justified = |months, days, hours: i64| {
            justified(IntervalMonthDayNano::new(months, days, hours * 3_600_000_000_000)).unwrap()
        };
        assert_eq!(justified(0, 0, 24), justified(0, 1, 0));
        assert_eq!(justified(0, 40, 0), justified(1, 9, 24));
        assert_eq!(justified(1, -30, 0), justified(0, 0, 0));
        assert!(justified(0, -1, 0) < justified(0, 0, -23));
        assert!(justified(0, 29, 23) < justified(1, 0, 0));
    }

    #[test]
    fn zeros_within_nested_values_lose_their_sign() {
        let lists = ListArray::from_iter_primitive::<Float64Type, _, _>([Some([Some(-0.0), Some(-f64::NAN)]), None]);
        let field = Arc::new(Field::new("l", lists.data_type().clone(), true));
        let rows: ArrayRef = Arc::new(StructArray::from(vec![(field, Arc::new(lists) as ArrayRef)]));
        let canonical = of_array(&rows).unwrap();
        let lists = canonical.as_struct().column(0).as_list::<i32>();
        let values: &Float64Array = lists.values().as_primitive();
        assert_eq!(values.value(0).to_bits(), 0.0_f64.to_bits());
        assert_eq!(values.value(1).to_bits(), f64::NAN.to_bits());
        assert!(lists.is_null(1));
        assert!(has_floats(rows.data_type()));
    }
}
