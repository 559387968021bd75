//! Equality of two values.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type};

/// How much two floats may differ, relative to the larger: sums over differently cut data round differently.
const TOLERANCE: f64 = 1e-9;

/// The same for single precision, whose own rounding is coarser than [`TOLERANCE`].
const SINGLE_TOLERANCE: f64 = 1e-6;

/// Below this, floats are rounding noise around zero (the variance of equal values), where no relative bound holds.
const NOISE: f64 = 1e-12;

/// Whether values of a type are compared within a tolerance, since there are floats in them.
pub(super) fn holds_floats(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => holds_floats(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| holds_floats(field.data_type())),
        other => other.is_floating(),
    }
}

/// Whether row `i` of `left` equals row `j` of `right`.
pub(super) fn rows_equal(left: &[ArrayRef], i: usize, right: &[ArrayRef], j: usize) -> bool {
    left.iter().zip(right).all(|(left, right)| equal(left, i, right, j))
}

/// Whether value `i` of `left` equals value `j` of `right`, both of one type.
pub(super) fn equal(left: &ArrayRef, i: usize, right: &ArrayRef, j: usize) -> bool {
    match (left.is_null(i), right.is_null(j)) {
        (true, true) => return true,
        (false, false) => {}
        _ => return false,
    }
    let lists = |a: ArrayRef, b: ArrayRef| a.len() == b.len() && (0..a.len()).all(|k| equal(&a, k, &b, k));
    match left.data_type() {
        DataType::Float64 => {
            let (a, b) = (left.as_primitive::<Float64Type>(), right.as_primitive::<Float64Type>());
            close(a.value(i), b.value(j), TOLERANCE)
        }
        DataType::Float32 => {
            let (a, b) = (left.as_primitive::<Float32Type>(), right.as_primitive::<Float32Type>());
            close(a.value(i).into(), b.value(j).into(), SINGLE_TOLERANCE)
        }
        DataType::Float16 => {
            let (a, b) = (left.as_primitive::<Float16Type>(), right.as_primitive::<Float16Type>());
            close(a.value(i).to_f64(), b.value(j).to_f64(), SINGLE_TOLERANCE)
        }
        DataType::List(_) => lists(left.as_list::<i32>().value(i), right.as_list::<i32>().value(j)),
        DataType::LargeList(_) => lists(left.as_list::<i64>().value(i), right.as_list::<i64>().value(j)),
        DataType::FixedSizeList(_, _) => lists(left.as_fixed_size_list().value(i), right.as_fixed_size_list().value(j)),
        DataType::Struct(_) => rows_equal(left.as_struct().columns(), i, right.as_struct().columns(), j),
        DataType::Map(_, _) => {
            let (a, b) = (left.as_map().value(i), right.as_map().value(j));
            a.len() == b.len() && (0..a.len()).all(|k| rows_equal(a.columns(), k, b.columns(), k))
        }
        _ => left.slice(i, 1).to_data() == right.slice(j, 1).to_data(),
    }
}

fn close(a: f64, b: f64, tolerance: f64) -> bool {
    let bound = (tolerance * a.abs().max(b.abs())).max(NOISE);
    // An infinity is close to itself only.
    a == b || (a.is_nan() && b.is_nan()) || (bound.is_finite() && (a - b).abs() <= bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_agree_within_tolerance() {
        for (a, b) in [
            (1.0, 1.0 + 1e-10),
            (1e300, 1e300 * (1.0 + 5e-10)),
            (0.0, -0.0),
            (0.0, 1e-17),
            (f64::NAN, -f64::NAN),
            (f64::INFINITY, f64::INFINITY),
        ] {
            assert!(close(a, b, TOLERANCE), "{a} {b}");
        }
        for (a, b) in [
            (1.0, 1.0 + 1e-8),
            (0.0, 1e-9),
            (1.0, -1.0),
            (f64::NAN, 0.0),
            (f64::INFINITY, f64::NEG_INFINITY),
            (f64::INFINITY, f64::MAX),
        ] {
            assert!(!close(a, b, TOLERANCE), "{a} {b}");
        }
    }
}
