//! Times that a number of nanoseconds can tell, from 1677 to 2262, and times of a day.
//!
//! DataFusion 55.2 makes 2262-04-11 of later ones in `to_timestamp`, 1970-01-01 of NaN, NULL in `date_bin`, and a time that
//! cannot be shown of `'23:59:60'`.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array};
use datafusion::arrow::compute::kernels::cmp::gt_eq;
use datafusion::arrow::compute::{cast, nullif};
use datafusion::arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::ScalarUDF;

use super::same::same;

const NANOSECONDS_OF_SECOND: i64 = 1_000_000_000;

const SECONDS_OF_DAY: i64 = 86_400;

/// `in_range(x)` is `x`, a timestamp, a time or a number of seconds; an error for those out of range.
pub fn in_range() -> Arc<ScalarUDF> {
    same("in_range", of_array)
}

/// `within_day(x)` is the time `x`, and NULL for one beyond its day.
pub fn within_day() -> Arc<ScalarUDF> {
    same("within_day", |values| Ok(nullif(values, &beyond_day(values)?)?))
}

/// Which times are none of a day.
fn beyond_day(times: &ArrayRef) -> Result<BooleanArray> {
    let (DataType::Time32(unit) | DataType::Time64(unit)) = times.data_type() else {
        return exec_err!("a day has times, and no {}", times.data_type());
    };
    let day = SECONDS_OF_DAY * units_of_second(*unit);
    let number = match unit {
        TimeUnit::Second | TimeUnit::Millisecond => DataType::Int32,
        _ => DataType::Int64,
    };
    let times = cast(&cast(times, &number)?, &DataType::Int64)?;
    Ok(gt_eq(&times, &Int64Array::new_scalar(day))?)
}

fn units_of_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => NANOSECONDS_OF_SECOND,
    }
}

fn of_array(values: &ArrayRef) -> Result<ArrayRef> {
    if matches!(values.data_type(), DataType::Time32(_) | DataType::Time64(_)) {
        return match beyond_day(values)?.has_true() {
            true => exec_err!("a time is beyond 23:59:59.999999999, the last of a day"),
            false => Ok(Arc::clone(values)),
        };
    }
    let is_far = match values.data_type() {
        DataType::Timestamp(unit, _) => {
            let last = i64::MAX / (NANOSECONDS_OF_SECOND / units_of_second(*unit));
            let times = cast(values, &DataType::Int64)?;
            let mut times = times.as_primitive::<Int64Type>().iter().flatten();
            times.any(|time| time > last || time < -last)
        }
        number if number.is_floating() => {
            let last = (i64::MAX / NANOSECONDS_OF_SECOND) as f64;
            let seconds = cast(values, &DataType::Float64)?;
            let mut seconds = seconds.as_primitive::<Float64Type>().iter().flatten();
            seconds.any(|seconds| seconds.is_nan() || seconds.abs() > last)
        }
        _ => false,
    };
    match is_far {
        true => exec_err!(
            "a time is not between the years 1677 and 2262, which a TIMESTAMP in nanoseconds can tell; \
             to_timestamp_seconds(CAST(x AS BIGINT)) and date_trunc reach further"
        ),
        false => Ok(Arc::clone(values)),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Float64Array, Time64NanosecondArray, TimestampMicrosecondArray};

    use super::*;

    #[test]
    fn only_times_in_range_pass() {
        let seconds = |seconds: f64| of_array(&(Arc::new(Float64Array::from(vec![seconds])) as ArrayRef));
        let micros = |micros: i64| of_array(&(Arc::new(TimestampMicrosecondArray::from(vec![micros])) as ArrayRef));
        assert!(seconds(1.5e9).is_ok() && seconds(-9.2e9).is_ok());
        assert!(seconds(1e10).is_err() && seconds(f64::NAN).is_err());
        assert!(micros(1_700_000_000_000_000).is_ok());
        assert!(micros(253_402_214_400_000_000).is_err());
    }

    #[test]
    fn a_day_ends() {
        let time = |time: i64| of_array(&(Arc::new(Time64NanosecondArray::from(vec![time])) as ArrayRef));
        assert!(time(86_399_999_999_999).is_ok());
        assert!(time(86_400_000_000_000).is_err());
        let times: ArrayRef = Arc::new(Time64NanosecondArray::from(vec![
            Some(1),
            Some(86_400_000_000_000),
            None,
        ]));
        assert_eq!(
            beyond_day(&times).unwrap(),
            BooleanArray::from(vec![Some(false), Some(true), None])
        );
    }
}
