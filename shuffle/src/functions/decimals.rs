//! Arithmetic of decimals without checks, where the operands are so small that none can fail.
//!
//! Arrow's kernels check each result, which takes a call for each row where one side is a constant, and a multiplication of
//! 128 bits with an overflow is 2 to 4 times as slow as one without.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Datum, Decimal128Array};
use datafusion::arrow::compute::binary;
use datafusion::arrow::datatypes::{DECIMAL128_MAX_PRECISION, DECIMAL128_MAX_SCALE, DataType};
use datafusion::logical_expr::Operator;

/// 2^126 is less than 10^38, so that numbers of so many bits have at most 38 digits.
pub(super) const SAFE_BITS: u32 = 126;

/// `left operator right` of two decimals of 128 bits, in the type that Arrow gives it; none where a result could overflow, and
/// of other operands.
pub(super) fn unchecked(operator: Operator, left: &dyn Datum, right: &dyn Datum) -> Option<ArrayRef> {
    let ((left, left_is_constant), (right, right_is_constant)) = (left.get(), right.get());
    let (DataType::Decimal128(left_precision, left_scale), DataType::Decimal128(right_precision, right_scale)) =
        (left.data_type(), right.data_type())
    else {
        return None;
    };
    let (left_digits, right_digits) = (i16::from(*left_precision), i16::from(*right_precision));
    let (left_scale, right_scale) = (i16::from(*left_scale), i16::from(*right_scale));
    let left = Operand::new(left, left_is_constant);
    let right = Operand::new(right, right_is_constant);
    if operator == Operator::Multiply {
        let data_type = decimal(left_digits + right_digits + 1, left_scale + right_scale)?;
        return match left.bits + right.bits <= SAFE_BITS {
            true => apply(|left, right| left.wrapping_mul(right), left, right, data_type),
            false => None,
        };
    }
    let sign = match operator {
        Operator::Plus => 1,
        Operator::Minus => -1,
        _ => return None,
    };
    let scale = left_scale.max(right_scale);
    let digits = (left_digits - left_scale).max(right_digits - right_scale) + scale + 1;
    let data_type = decimal(digits, scale)?;
    let factor = |own: i16| 10_i128.checked_pow(u32::try_from(scale - own).ok()?);
    let (left_factor, right_factor) = (factor(left_scale)?, factor(right_scale)?);
    if (left.bits + bits(left_factor)).max(right.bits + bits(right_factor)) + 1 > SAFE_BITS {
        return None;
    }
    let right_factor = sign * right_factor;
    let sum = |left: i128, right: i128| {
        left.wrapping_mul(left_factor)
            .wrapping_add(right.wrapping_mul(right_factor))
    };
    apply(sum, left, right, data_type)
}

/// One side of an operator.
struct Operand<'a> {
    values: &'a Decimal128Array,
    /// Whether its one value stands for as many rows as the other side has.
    is_constant: bool,
    bits: u32,
}

impl<'a> Operand<'a> {
    fn new(values: &'a dyn Array, is_constant: bool) -> Self {
        let values = values.as_primitive();
        Self {
            values,
            is_constant,
            bits: used_bits(values),
        }
    }

    /// The constant; none of NULL.
    fn constant(&self) -> Option<i128> {
        (self.values.len() == 1 && self.values.is_valid(0)).then(|| self.values.value(0))
    }
}

/// The type of a result that needs so many digits; none of a scale that no decimal has.
fn decimal(digits: i16, scale: i16) -> Option<DataType> {
    let precision = u8::try_from(digits.min(i16::from(DECIMAL128_MAX_PRECISION))).ok()?;
    let scale = i8::try_from(scale)
        .ok()
        .filter(|scale| *scale <= DECIMAL128_MAX_SCALE)?;
    Some(DataType::Decimal128(precision, scale))
}

/// Computes each row; none where lengths differ, or a constant is NULL.
fn apply(
    operation: impl Fn(i128, i128) -> i128,
    left: Operand<'_>,
    right: Operand<'_>,
    data_type: DataType,
) -> Option<ArrayRef> {
    let result: Decimal128Array = match (left.is_constant, right.is_constant) {
        (false, false) => binary(left.values, right.values, operation).ok()?,
        (true, _) => {
            let left = left.constant()?;
            right.values.unary(|right| operation(left, right))
        }
        (false, true) => {
            let right = right.constant()?;
            left.values.unary(|left| operation(left, right))
        }
    };
    Some(Arc::new(result.with_data_type(data_type)))
}

/// The bits of the largest magnitude of all values, those under NULL among them: none is more than 2 to this power.
pub(super) fn used_bits(values: &Decimal128Array) -> u32 {
    let values = values.values().iter();
    let used = values.fold(0, |used, value| used | (value ^ (value >> (i128::BITS - 1))));
    i128::BITS - used.leading_zeros()
}

/// The bits of a positive number.
fn bits(number: i128) -> u32 {
    i128::BITS - number.leading_zeros()
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::Scalar;
    use datafusion::arrow::compute::kernels::numeric;
    use datafusion::arrow::datatypes::Decimal128Type;
    use proptest::prelude::*;

    use super::*;

    const OPERATORS: [Operator; 3] = [Operator::Plus, Operator::Minus, Operator::Multiply];

    fn column(values: Vec<Option<i128>>, precision: u8, scale: i8) -> Decimal128Array {
        Decimal128Array::from(values)
            .with_precision_and_scale(precision, scale)
            .unwrap()
    }

    /// What Arrow's kernel gives, none where it fails.
    fn checked(operator: Operator, left: &dyn Datum, right: &dyn Datum) -> Option<ArrayRef> {
        match operator {
            Operator::Plus => numeric::add(left, right),
            Operator::Minus => numeric::sub(left, right),
            _ => numeric::mul(left, right),
        }
        .ok()
    }

    /// Numbers of up to `precision` digits, few of which have all.
    fn numbers(precision: u8) -> impl Strategy<Value = i128> {
        let most = 10_i128.pow(u32::from(precision)) - 1;
        (-most..=most, 0..=u32::from(precision)).prop_map(|(number, digits)| number / 10_i128.pow(digits))
    }

    fn decimals() -> impl Strategy<Value = Decimal128Array> {
        (1..=DECIMAL128_MAX_PRECISION)
            .prop_flat_map(|precision| (Just(precision), 0..=i8::try_from(precision).unwrap()))
            .prop_flat_map(|(precision, scale)| {
                let values = prop::collection::vec(prop::option::weighted(0.9, numbers(precision)), 4);
                values.prop_map(move |values| column(values, precision, scale))
            })
    }

    proptest! {
        #[test]
        fn results_are_those_of_arrow(
            left in decimals(),
            right in decimals(),
            operator in prop::sample::select(OPERATORS.to_vec()),
        ) {
            let constant = |array: &Decimal128Array| Scalar::new(array.slice(0, 1));
            let (first, second) = (constant(&left), constant(&right));
            let operands: [(&dyn Datum, &dyn Datum); 4] =
                [(&left, &right), (&first, &right), (&left, &second), (&first, &second)];
            for (left, right) in operands {
                if let Some(result) = unchecked(operator, left, right) {
                    let expected = checked(operator, left, right);
                    prop_assert_eq!(Some(&result), expected.as_ref());
                    let result: &Decimal128Array = result.as_primitive();
                    prop_assert!(result.validate_decimal_precision(DECIMAL128_MAX_PRECISION).is_ok());
                }
            }
        }
    }

    #[test]
    fn operands_of_usual_size_need_no_checks() {
        let prices = column(vec![Some(9_999_999), None, Some(-1)], 15, 2);
        let one = Scalar::new(column(vec![Some(1)], 20, 0));
        let discounted = unchecked(Operator::Minus, &one, &prices).unwrap();
        assert_eq!(discounted.data_type(), &DataType::Decimal128(23, 2));
        let product = unchecked(Operator::Multiply, &prices, &discounted).unwrap();
        assert_eq!(product.data_type(), &DataType::Decimal128(38, 4));
        assert_eq!(product.as_primitive::<Decimal128Type>().value(2), -101);
        assert!(product.is_null(1));
    }

    #[test]
    fn what_could_overflow_is_left_to_the_checked_kernels() {
        let largest = column(vec![Some(i128::MAX)], 38, 0);
        let least = column(vec![Some(i128::MIN)], 38, 0);
        for operator in OPERATORS {
            assert!(unchecked(operator, &largest, &largest).is_none(), "{operator}");
            assert!(unchecked(operator, &least, &least).is_none(), "{operator}");
        }
        let wide = column(vec![Some(1)], 38, 30);
        assert!(
            unchecked(Operator::Multiply, &wide, &wide).is_none(),
            "no decimal has 60 digits of a fraction"
        );
    }
}
