//! What a few rows tell of a column: how many different values it has, and which come most often.
//!
//! Rows are read from several places of a table, and rows of one place are often alike: files are sorted, or were written day by
//! day. So what counts is not how often a value was seen but in how many places. Values seen in one place alone, and those seen
//! in two, tell how many were not seen at all (Chao, "Estimating the Population Size for Capture-Recapture Data with Unequal
//! Catchability", 1987). Where places have no values in common, each value stands in as many rows for each row that was read.
//! One place is divided into several, unless equal values stand together in it: then it is in order, and tells of no other.

use std::collections::{HashMap, HashSet};

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::compute::concat;
use datafusion::arrow::row::{OwnedRow, RowConverter, SortField};
use datafusion::common::{Result, ScalarValue};

/// Into how many parts one place is divided.
const PARTS: usize = 8;

/// How many of the most common values are kept.
const MOST_COMMON: usize = 16;

/// The least part of the rows that a common value has: several times what chance gives a value in a sample.
const COMMON: f64 = 0.01;

/// A common value is kept if it has no more bytes.
const VALUE_BYTES: usize = 256;

/// What is known of a column from a few of its rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sketch {
    /// How many rows were read.
    pub(crate) sampled: usize,
    /// About how many different values all rows have.
    pub(crate) distinct: f64,
    /// The part of the rows that is NULL, from 0 to 1.
    pub(crate) nulls: f64,
    /// Values that come in many places of the table, with their part of all rows, the most common one first.
    pub(crate) common: Vec<(ScalarValue, f64)>,
}

/// Where a value was seen.
#[derive(Default)]
struct Seen {
    first: usize,
    times: usize,
    places: usize,
    last_place: usize,
}

impl Sketch {
    /// The sketch of a column of `rows` rows of which `places` were read.
    ///
    /// # Errors
    /// Where values of the type cannot be compared.
    pub(super) fn of(places: &[ArrayRef], rows: f64) -> Result<Self> {
        let arrays: Vec<&dyn Array> = places.iter().map(AsRef::as_ref).collect();
        let Some(first) = arrays.first() else {
            return Ok(Self::default());
        };
        let all = concat(&arrays)?;
        let is_all = all.len() as f64 >= rows;
        let converter = RowConverter::new(vec![SortField::new(first.data_type().clone())])?;
        let places = match places {
            [place] if !is_in_order(place, &converter)? => divided(place),
            places => places.to_vec(),
        };
        let seen = seen(&places, &converter)?;
        let nulls = all.logical_null_count();
        let part = |count: usize| count as f64 / all.len().max(1) as f64;
        let is_everywhere = |value: &Seen| is_all || places.len() > 1 && 2 * value.places > places.len();
        let mut common: Vec<&Seen> = seen
            .values()
            .filter(|value| part(value.times) >= COMMON && is_everywhere(value))
            .collect();
        common.sort_by_key(|value| (usize::MAX - value.times, value.first));
        let common = common.into_iter().take(MOST_COMMON).map(|value| {
            let scalar = ScalarValue::try_from_array(&all, value.first)?;
            Ok((scalar, part(value.times)))
        });
        let mut common: Vec<_> = common.collect::<Result<_>>()?;
        common.retain(|(value, _)| value.size() <= VALUE_BYTES);
        Ok(Self {
            sampled: all.len(),
            distinct: match is_all {
                true => seen.len() as f64,
                false => distinct(&seen, all.len() - nulls, places.len(), rows * (1.0 - part(nulls))),
            },
            nulls: part(nulls),
            common,
        })
    }

    /// Bytes that are kept of it.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.common.iter().map(|(value, _)| value.size()).sum::<usize>()
    }
}

/// Whether equal values stand together.
fn is_in_order(place: &ArrayRef, converter: &RowConverter) -> Result<bool> {
    let values = converter.convert_columns(std::slice::from_ref(place))?;
    let (mut runs, mut different) = (0, HashSet::new());
    let mut last = None;
    for value in &values {
        if last != Some(value) {
            runs += 1;
            different.insert(value);
        }
        last = Some(value);
    }
    Ok(runs == different.len())
}

/// The parts of a place.
fn divided(place: &ArrayRef) -> Vec<ArrayRef> {
    let rows = place.len().div_ceil(PARTS);
    let firsts = (0..place.len()).step_by(rows.max(1));
    firsts
        .map(|first| place.slice(first, rows.min(place.len() - first)))
        .collect()
}

/// All values but NULL.
fn seen(places: &[ArrayRef], converter: &RowConverter) -> Result<HashMap<OwnedRow, Seen>> {
    let mut seen: HashMap<OwnedRow, Seen> = HashMap::new();
    let mut place = 0;
    for (number, rows) in (1..).zip(places) {
        let nulls = rows.logical_nulls();
        let values = converter.convert_columns(std::slice::from_ref(rows))?;
        for (row, value) in values.iter().enumerate() {
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                continue;
            }
            let known = seen.entry(value.owned()).or_insert_with(|| Seen {
                first: place + row,
                ..Seen::default()
            });
            known.times += 1;
            known.places += usize::from(known.last_place != number);
            known.last_place = number;
        }
        place += rows.len();
    }
    Ok(seen)
}

/// About how many different values `rows` rows have, of which `sampled` were seen.
fn distinct(seen: &HashMap<OwnedRow, Seen>, sampled: usize, places: usize, rows: f64) -> f64 {
    if seen.is_empty() {
        return 0.0;
    }
    let found = seen.len() as f64;
    // Each value in as many rows as within its place.
    let within: usize = seen.values().map(|value| value.places).sum();
    let most = (rows * within as f64 / sampled as f64).max(found);
    let in_places = |count: usize| seen.values().filter(|value| value.places == count).count();
    // Where rows are in order, the last value of a place is often the first one of the next.
    let twice = in_places(2).saturating_sub(places - 1) as f64;
    let once = in_places(1) as f64;
    if once == 0.0 {
        return found;
    }
    let is_shared = seen.values().any(|value| value.places > 2) || twice > 0.0;
    if !is_shared {
        return most;
    }
    let part = (places - 1) as f64 / places as f64;
    let unseen = match twice > 0.0 {
        true => part * once * once / (2.0 * twice),
        false => part * once * (once - 1.0) / 2.0,
    };
    (found + unseen).clamp(found, most)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{Int64Array, StringArray};

    use super::*;

    const PLACES: i64 = 8;
    const ROWS: i64 = 512;

    /// Rows from eight places of a table of a million rows, whose values are computed from their numbers.
    fn sketch(value: impl Fn(i64) -> Option<i64>) -> Sketch {
        let place = |number: i64| -> ArrayRef {
            let first = number * 1_000_000 / PLACES;
            let numbers: Int64Array = (first..first + ROWS).map(&value).collect();
            Arc::new(numbers)
        };
        let places: Vec<_> = (0..PLACES).map(place).collect();
        Sketch::of(&places, 1e6).unwrap()
    }

    /// A number that looks random.
    fn mixed(row: i64) -> i64 {
        let mut bits = (row as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        bits = (bits ^ (bits >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((bits ^ (bits >> 29)) >> 8) as i64
    }

    #[test]
    fn different_values_are_estimated_within_a_factor_of_two() {
        for (what, of, expected) in [
            ("unique", (|row| Some(row)) as fn(i64) -> Option<i64>, 1e6),
            ("one", |_| Some(3), 1.0),
            ("few", |row| Some(row % 7), 7.0),
            ("hundreds", |row| Some(mixed(row) % 300), 300.0),
            ("thousands", |row| Some(mixed(row) % 5_000), 5_000.0),
            ("sorted, four rows each", |row| Some(row / 4), 250_000.0),
            (
                "sorted, and half is NULL",
                |row| (row % 2 == 0).then_some(row / 4),
                250_000.0,
            ),
            ("only NULL", |_| None, 0.0),
        ] {
            let found = sketch(of).distinct;
            assert!((expected / 2.0..=expected * 2.0).contains(&found), "{what}: {found}");
        }
    }

    #[test]
    fn one_place_tells_of_others_unless_it_is_in_order() {
        let sketch = |value: fn(i64) -> Option<i64>| {
            let rows: Int64Array = (0..4_096).map(value).collect();
            Sketch::of(&[Arc::new(rows)], 1e6).unwrap()
        };
        let mixed_values = sketch(|row| Some(mixed(row) % 30));
        assert_eq!((mixed_values.distinct, mixed_values.common.len()), (30.0, 16));
        // The rows of one day.
        let of_one_day = sketch(|_| Some(3));
        assert!((of_one_day.distinct - 1e6 / 4_096.0).abs() < 1.0, "{of_one_day:?}");
        assert!(of_one_day.common.is_empty());
        assert!((sketch(|row| Some(row / 4)).distinct - 250_000.0).abs() < 1.0);
    }

    #[test]
    fn values_are_common_if_they_are_in_many_places() {
        let value = |row: i64| match mixed(row) % 10 {
            0..6 => Some(7),
            6 => None,
            // All rows of one place have the same value.
            7 => Some(1_000 + row / 125_000),
            _ => Some(mixed(row) % 1_000_000),
        };
        let found = sketch(value);
        assert_eq!(found.sampled, 4_096);
        assert!((0.05..0.15).contains(&found.nulls), "{found:?}");
        let [(common, part)] = &found.common[..] else {
            panic!("{found:?}");
        };
        assert_eq!(common, &ScalarValue::Int64(Some(7)));
        assert!((0.55..0.65).contains(part), "{found:?}");
    }

    #[test]
    fn all_rows_of_a_small_table_are_counted() {
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some("b"), None, Some("a")]));
        let found = Sketch::of(&[texts], 4.0).unwrap();
        assert_eq!((found.distinct, found.nulls, found.sampled), (2.0, 0.25, 4));
        let common: Vec<_> = found
            .common
            .iter()
            .map(|(value, part)| (value.to_string(), *part))
            .collect();
        assert_eq!(common, [("a".to_owned(), 0.5), ("b".to_owned(), 0.25)]);
        assert_eq!(Sketch::of(&[], 0.0).unwrap(), Sketch::default());
    }
}
