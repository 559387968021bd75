//! Local times and instants, as PostgreSQL takes one for the other.
//!
//! A local time that a zone skips is read with the offset before the change, and one that it has twice is the later
//! instant. DataFusion 55.2 refuses both, and its `AT TIME ZONE` makes no local time of an instant (apache/datafusion#25165,
//! #25175).

use std::sync::Arc;

use datafusion::arrow::array::timezone::Tz;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray, StringArray};
use datafusion::arrow::compute::kernels::zip::zip;
use datafusion::arrow::compute::{CastOptions, cast_with_options, is_not_null, nullif};
use datafusion::arrow::datatypes::{
    ArrowTimestampType, DataType, FieldRef, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_datafusion_err, exec_err, not_impl_err, plan_err};
use datafusion::config::ConfigOptions;
use datafusion::functions::datetime::to_local_time::adjust_to_local_time;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::arguments::array;
use super::same::same;
use super::strict_field;

/// `$body` with `$type` for the unit of a timestamp.
macro_rules! by_unit {
    ($data_type:expr, $type:ident => $body:expr) => {{
        let moved: ArrayRef = match $data_type {
            DataType::Timestamp(TimeUnit::Second, _) => {
                type $type = TimestampSecondType;
                Arc::new($body)
            }
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                type $type = TimestampMillisecondType;
                Arc::new($body)
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                type $type = TimestampMicrosecondType;
                Arc::new($body)
            }
            _ => {
                type $type = TimestampNanosecondType;
                Arc::new($body)
            }
        };
        moved
    }};
}

/// The name of [`at_time_zone`].
pub const AT_TIME_ZONE: &str = "at_time_zone";

/// `at_time_zone(t, zone)` is `t AT TIME ZONE zone`: the local time of an instant, or the instant of a local time, in the
/// zone of the session.
pub fn at_time_zone() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(AtTimeZone {
        session: Arc::from("UTC"),
        signature: Signature::user_defined(Volatility::Immutable),
    }))
}

/// `in_zone(t, zone, unit)` is the instant of a local time, or of a text, in a zone that is written down; texts are read in
/// the unit `s`, `ms`, `us` or `ns`.
pub fn in_zone() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(InZone {
        signature: Signature::any(3, Volatility::Immutable),
    }))
}

/// `start_of_minute(t)` is the instant at which the local minute of `t` began. DataFusion 55.2 takes the minute in UTC, which
/// differs where the offset of a zone has seconds, as before 1900.
pub fn start_of_minute() -> Arc<ScalarUDF> {
    same("start_of_minute", minutes)
}

fn minutes(times: &ArrayRef) -> Result<ArrayRef> {
    let DataType::Timestamp(unit, Some(zone)) = times.data_type() else {
        return Ok(Arc::clone(times));
    };
    let minute = match unit {
        TimeUnit::Second => 60,
        TimeUnit::Millisecond => 60_000,
        TimeUnit::Microsecond => 60_000_000,
        TimeUnit::Nanosecond => 60_000_000_000,
    };
    let zone: Tz = zone.parse()?;
    Ok(by_unit!(times.data_type(), T => {
        let started = times.as_primitive::<T>().try_unary::<_, T, DataFusionError>(|time| {
            let local = adjust_to_local_time::<T>(time, zone)?;
            Ok(time - local.rem_euclid(minute))
        })?;
        started.with_data_type(times.data_type().clone())
    }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct AtTimeZone {
    session: Arc<str>,
    signature: Signature,
}

impl ScalarUDFImpl for AtTimeZone {
    fn name(&self) -> &str {
        AT_TIME_ZONE
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [time, zone] = types else {
            return plan_err!("AT TIME ZONE takes a time and a zone");
        };
        let time = match time {
            DataType::Timestamp(..) => time.clone(),
            DataType::Null => DataType::Timestamp(TimeUnit::Nanosecond, None),
            other => {
                return plan_err!(
                    "AT TIME ZONE takes a TIMESTAMP, not {other}; cast it: CAST(x AS TIMESTAMP) AT TIME ZONE 'UTC'"
                );
            }
        };
        match zone {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => {
                Ok(vec![time, DataType::Utf8])
            }
            _ => not_impl_err!("AT TIME ZONE takes a zone as text, such as 'Europe/Berlin' or '+05:30'"),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [DataType::Timestamp(unit, Some(_)), _] => Ok(DataType::Timestamp(*unit, None)),
            [DataType::Timestamp(unit, None), _] => Ok(DataType::Timestamp(*unit, Some(Arc::clone(&self.session)))),
            _ => plan_err!("AT TIME ZONE takes a TIMESTAMP"),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        strict_field(self.name(), &args, |types| self.return_type(types))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let session = config.execution.time_zone.as_deref().unwrap_or("UTC");
        Some(ScalarUDF::new_from_impl(Self {
            session: Arc::from(session),
            signature: self.signature.clone(),
        }))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let to = args.return_field.data_type();
        let is_constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [times, zones] = arrays.as_slice() else {
            return exec_err!("AT TIME ZONE takes a time and a zone");
        };
        let zones: &StringArray = zones.as_string();
        let is_local = matches!(times.data_type(), DataType::Timestamp(_, None));
        let moved = by_unit!(to, T => {
            let change = match is_local {
                true => instant_of::<T>,
                false => adjust_to_local_time::<T>,
            };
            moved::<T>(times.as_primitive(), zones, change)?.with_data_type(to.clone())
        });
        result(moved, is_constant)
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct InZone {
    signature: Signature,
}

impl ScalarUDFImpl for InZone {
    fn name(&self) -> &str {
        "in_zone"
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.first().map(ToString::to_string).unwrap_or_default())
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args
            .first()
            .map(|time| time.schema_name().to_string())
            .unwrap_or_default())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        plan_err!("in_zone takes a zone that is written down")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let text = |index: usize| {
            let value = args.scalar_arguments.get(index).copied().flatten();
            value.and_then(|value| value.try_as_str().flatten())
        };
        let (Some(zone), Some(unit)) = (text(1), text(2)) else {
            return plan_err!("in_zone takes a zone and a unit that are written down");
        };
        let unit = match unit {
            "s" => TimeUnit::Second,
            "ms" => TimeUnit::Millisecond,
            "us" => TimeUnit::Microsecond,
            _ => TimeUnit::Nanosecond,
        };
        let data_type = DataType::Timestamp(unit, Some(Arc::from(zone)));
        strict_field(self.name(), &args, |_| Ok(data_type))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let to = args.return_field.data_type();
        let (DataType::Timestamp(unit, Some(zone)), Some(times)) = (to, args.args.first()) else {
            return exec_err!("in_zone takes a time and a zone");
        };
        let is_constant = matches!(times, ColumnarValue::Scalar(_));
        let times = array(times)?;
        let known = cast_with_options(&times, to, &CastOptions::default())?;
        if known.null_count() == times.null_count() {
            return result(known, is_constant);
        }
        // What is left are times that the zone skips or repeats, and texts that are no times.
        let unknown = nullif(&times, &is_not_null(&known)?)?;
        let strict = CastOptions {
            safe: false,
            ..CastOptions::default()
        };
        let local = cast_with_options(&unknown, &DataType::Timestamp(*unit, None), &strict)?;
        let zones = StringArray::from_iter_values(std::iter::repeat_n(zone, local.len()));
        let read = by_unit!(to, T => {
            moved::<T>(local.as_primitive(), &zones, instant_of::<T>)?.with_data_type(to.clone())
        });
        result(zip(&is_not_null(&known)?, &known, &read)?, is_constant)
    }
}

fn result(values: ArrayRef, is_constant: bool) -> Result<ColumnarValue> {
    match is_constant {
        true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&values, 0)?)),
        false => Ok(ColumnarValue::Array(values)),
    }
}

/// Each time with what `change` makes of it in its zone.
fn moved<T: ArrowTimestampType>(
    times: &PrimitiveArray<T>,
    zones: &StringArray,
    change: impl Fn(i64, Tz) -> Result<i64>,
) -> Result<PrimitiveArray<T>> {
    let mut last: Option<(&str, Tz)> = None;
    let moved = times.iter().zip(zones).map(|(time, zone)| -> Result<Option<i64>> {
        let (Some(time), Some(zone)) = (time, zone) else {
            return Ok(None);
        };
        let zone = match last {
            Some((name, known)) if name == zone => known,
            _ => {
                let known: Tz = zone
                    .parse()
                    .map_err(|_| exec_datafusion_err!("there is no time zone '{zone}'"))?;
                last = Some((zone, known));
                known
            }
        };
        change(time, zone).map(Some)
    });
    moved.collect()
}

/// The instant of a local time. Of the two offsets around a change, the one before it holds in a gap, and the one after it
/// for times that come twice.
fn instant_of<T: ArrowTimestampType>(local: i64, zone: Tz) -> Result<i64> {
    let second = match T::UNIT {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    };
    let day = 86_400 * second;
    let offset_at = |time: i64| -> Result<i64> { Ok(adjust_to_local_time::<T>(time, zone)? - time) };
    let instant = |offset: i64| local.checked_sub(offset);
    let before = instant(offset_at(local.saturating_sub(day))?);
    let after = instant(offset_at(local.saturating_add(day))?);
    let is_right = |time: Option<i64>| -> Result<bool> {
        match time {
            Some(time) => Ok(adjust_to_local_time::<T>(time, zone)? == local),
            None => Ok(false),
        }
    };
    let found = if is_right(after)? { after } else { before };
    found.ok_or_else(|| exec_datafusion_err!("a timestamp is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_take_the_offset_before_and_overlaps_the_one_after() {
        let denver: Tz = "America/Denver".parse().unwrap();
        for (local, instant) in [
            // 2024-07-01 12:00
            (1_719_835_200, 1_719_856_800),
            // 2024-03-10 02:30, which clocks skip: 03:30 -06:00
            (1_710_037_800, 1_710_063_000),
            // 2024-11-03 01:30, which clocks show twice: -07:00
            (1_730_597_400, 1_730_622_600),
            // 2024-03-10 01:59:59 and 03:00
            (1_710_035_999, 1_710_061_199),
            (1_710_039_600, 1_710_061_200),
        ] {
            let found = instant_of::<TimestampSecondType>(local, denver).unwrap();
            assert_eq!(found, instant, "{local}");
        }
    }
}
