//! Addition, subtraction, multiplication and negation that fail where the result does not fit its type.
//!
//! DataFusion 55.2 wraps around: `9223372036854775807 + 1` is a negative number (apache/datafusion#3520; its plans have no
//! way to ask for anything else). The planner replaces the operators on integers, decimals, durations and intervals by
//! these functions, so that a sum is computed by the same rule where constants are folded, on a worker and in a file's
//! reader.
//!
//! Most batches hold values so small that no result can overflow. One pass over the bits of the operands proves that, and
//! the faster kernels without checks do the rest (`decimals` has those of decimals); otherwise Arrow's checked kernels do.

use std::any::Any;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, Datum, PrimitiveArray};
use datafusion::arrow::compute::kernels::numeric;
use datafusion::arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, Decimal128Type, Decimal256Type, FieldRef, Int8Type,
    Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use datafusion::arrow::error::ArrowError;
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::interval_arithmetic::{Interval, apply_operator};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility, lit,
};
use datafusion::physical_expr_common::datum::apply;

use super::{decimals, strict_field};

/// Whether calls take the place of `operator`; not of operators that cannot overflow or check for it themselves.
pub fn is_operator_checked(operator: Operator) -> bool {
    checked_name(operator).is_some()
}

/// One call that takes `steps` in turn from `first`, which is its result without any.
///
/// Each operator of a step is one that is checked, and has operands of the types that it computes with.
pub fn calculation(first: Expr, steps: Vec<(Operator, Expr)>) -> Expr {
    let Some((operator, _)) = steps.first() else {
        return first;
    };
    let operator = Some(*operator).filter(|operator| steps.iter().all(|(other, _)| other == operator));
    let mut args = Vec::with_capacity(steps.len() + 2);
    if operator.is_none() {
        let operators: String = steps.iter().map(|(operator, _)| operator.to_string()).collect();
        args.push(lit(operators));
    }
    args.push(first);
    args.extend(steps.into_iter().map(|(_, operand)| operand));
    let function = Arc::new(ScalarUDF::new_from_impl(Checked::new(operator)));
    Expr::ScalarFunction(ScalarFunction::new_udf(function, args))
}

/// The operands of a [`calculation`]; none where the call is another.
pub fn operands_of(call: &ScalarFunction) -> Option<&[Expr]> {
    let checked = (call.func.inner().as_ref() as &dyn Any).downcast_ref::<Checked>()?;
    call.args.get(checked.leading()..)
}

/// A [`calculation`] with one step more.
///
/// It is done in place, so that long chains are made in a time that grows with their length.
pub fn with_step(mut call: ScalarFunction, operator: Operator, operand: Expr) -> Expr {
    let only = (call.func.inner().as_ref() as &dyn Any)
        .downcast_ref::<Checked>()
        .and_then(|checked| checked.operator);
    match (only, call.args.first_mut()) {
        (Some(only), _) if only != operator => {
            let operators = only.to_string().repeat(call.args.len() - 1) + &operator.to_string();
            call.args.insert(0, lit(operators));
            call.func = Arc::new(ScalarUDF::new_from_impl(Checked::new(None)));
        }
        (None, Some(Expr::Literal(ScalarValue::Utf8(Some(operators)), _))) => {
            operators.push_str(&operator.to_string());
        }
        _ => {}
    }
    call.args.push(operand);
    Expr::ScalarFunction(call)
}

/// A call that takes the place of `-x`.
pub fn negation(operand: Expr) -> Expr {
    let function = Arc::new(ScalarUDF::new_from_impl(Negate::default()));
    Expr::ScalarFunction(ScalarFunction::new_udf(function, vec![operand]))
}

/// The name of the function that takes the place of `operator`.
fn checked_name(operator: Operator) -> Option<&'static str> {
    match operator {
        Operator::Plus => Some("add"),
        Operator::Minus => Some("subtract"),
        Operator::Multiply => Some("multiply"),
        _ => None,
    }
}

/// The function that takes the place of `-x`.
const NEGATE: &str = "negate";

/// The function for operators that differ: `calculate('+-', a, b, c)` is `a + b - c`.
const CALCULATE: &str = "calculate";

/// Whether the functions compute with operands of these types; others, such as a date and an interval, have rules of
/// their own.
pub fn is_checked(left: &DataType, right: &DataType) -> bool {
    let same_kind = |is: fn(&DataType) -> bool| is(left) && is(right);
    same_kind(DataType::is_integer)
        || same_kind(|data_type| matches!(data_type, DataType::Decimal128(..) | DataType::Decimal256(..)))
        || (left == right && is_span(left))
}

/// Whether `-x` of this type can overflow.
pub fn is_negation_checked(data_type: &DataType) -> bool {
    data_type.is_signed_integer() || is_span(data_type)
}

fn is_span(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Interval(_) | DataType::Duration(_))
}

/// Operands with one operator between any two, or, for [`CALCULATE`], with the operators that a text lists. The leftmost
/// is applied first.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Checked {
    /// None for [`CALCULATE`].
    operator: Option<Operator>,
    name: &'static str,
    signature: Signature,
}

impl Checked {
    /// All functions of this kind.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let operators = [
            Some(Operator::Plus),
            Some(Operator::Minus),
            Some(Operator::Multiply),
            None,
        ];
        operators.into_iter().map(Self::new)
    }

    fn new(operator: Option<Operator>) -> Self {
        Self {
            operator,
            name: operator.and_then(checked_name).unwrap_or(CALCULATE),
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }

    /// The number of arguments before the operands.
    fn leading(&self) -> usize {
        usize::from(self.operator.is_none())
    }

    /// The operator before the operand of this number, from 1; an error where there are not as many operators.
    fn operator(&self, operators: &str, number: usize) -> Result<Operator> {
        if let Some(operator) = self.operator {
            return Ok(operator);
        }
        match operators.as_bytes().get(number - 1) {
            Some(b'+') => Ok(Operator::Plus),
            Some(b'-') => Ok(Operator::Minus),
            Some(b'*') => Ok(Operator::Multiply),
            _ => plan_err!(
                "{} takes a text of +, - and *, one for each operand after the first",
                self.name
            ),
        }
    }

    fn show(&self, args: &[Expr], show: impl Fn(&Expr) -> String) -> String {
        let operators = match args.first() {
            Some(Expr::Literal(ScalarValue::Utf8(Some(operators)), _)) => operators.as_str(),
            _ => "",
        };
        let mut shown = String::new();
        for (number, operand) in args.iter().skip(self.leading()).enumerate() {
            if number > 0 {
                let operator = self.operator(operators, number).unwrap_or(Operator::Plus);
                shown.push_str(&format!(" {operator} "));
            }
            shown.push_str(&show(operand));
        }
        shown
    }

    /// The type of the result, from the types of all arguments.
    fn result_type(&self, types: &[DataType], operators: &str) -> Result<DataType> {
        let Some((first, others)) = types.get(self.leading()..).and_then(|operands| operands.split_first()) else {
            return plan_err!("{} takes operands", self.name);
        };
        let mut result = first.clone();
        for (number, operand) in (1..).zip(others) {
            let operator = self.operator(operators, number)?;
            result = BinaryTypeCoercer::new(&result, &operator, operand).get_result_type()?;
        }
        Ok(result)
    }
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &str {
        self.name
    }

    // Columns keep the names that the operators give them.
    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(self.show(args, ToString::to_string))
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(self.show(args, |arg| arg.schema_name().to_string()))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let (leading, operands) = types.split_at(self.leading().min(types.len()));
        let mut coerced = leading.to_vec();
        match operands {
            [left, right] if !is_checked(left, right) => {
                let operator = self.operator.unwrap_or(Operator::Plus);
                let (left, right) = BinaryTypeCoercer::new(left, &operator, right).get_input_types()?;
                coerced.extend([left, right]);
            }
            [_, _, ..] => coerced.extend_from_slice(operands),
            _ => return plan_err!("{} takes two operands or more", self.name),
        }
        Ok(coerced)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.result_type(types, "")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let operators = match args.scalar_arguments.first() {
            Some(Some(ScalarValue::Utf8(Some(operators)))) => operators.as_str(),
            _ => "",
        };
        strict_field(self.name, &args, |types| self.result_type(types, operators))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let operators = match args.args.first() {
            Some(ColumnarValue::Scalar(ScalarValue::Utf8(Some(operators)))) => operators.clone(),
            _ => String::new(),
        };
        let mut operands = args.args.into_iter().skip(self.leading());
        let Some(mut result) = operands.next() else {
            return exec_err!("{} takes operands", self.name);
        };
        for (number, operand) in (1..).zip(operands) {
            let operator = self.operator(&operators, number)?;
            result = apply(&result, &operand, |left, right| compute(operator, left, right))?;
        }
        Ok(result)
    }

    fn evaluate_bounds(&self, inputs: &[&Interval]) -> Result<Interval> {
        match (self.operator, inputs) {
            (Some(operator), [first, others @ ..]) => {
                let first = Interval::clone(first);
                others
                    .iter()
                    .try_fold(first, |bounds, other| apply_operator(&operator, &bounds, other))
            }
            _ => Interval::make_unbounded(&DataType::Null),
        }
    }

    // A result that does not fit is an error, never a smaller value, so rows in the order of the operands stay in order.
    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        let orders = inputs.iter().map(|input| input.sort_properties);
        Ok(match self.operator {
            Some(Operator::Plus) => orders.reduce(|left, right| left.add(&right)).unwrap_or_default(),
            Some(Operator::Minus) => orders.reduce(|left, right| left.sub(&right)).unwrap_or_default(),
            _ if orders.clone().all(|order| order == SortProperties::Singleton) => SortProperties::Singleton,
            _ => SortProperties::Unordered,
        })
    }
}

/// `-x`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Negate {
    signature: Signature,
}

impl Default for Negate {
    fn default() -> Self {
        Self {
            signature: Signature::any(1, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for Negate {
    fn name(&self) -> &str {
        NEGATE
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.iter().map(|arg| format!("(- {arg})")).collect())
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.iter().map(|arg| format!("(- {})", arg.schema_name())).collect())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [data_type] if data_type.is_numeric() || is_span(data_type) => Ok(data_type.clone()),
            _ => plan_err!("negate takes a number or an interval"),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        strict_field(NEGATE, &args, |types| self.return_type(types))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [ColumnarValue::Array(values)] => Ok(ColumnarValue::Array(numeric::neg(values)?)),
            [ColumnarValue::Scalar(value)] => Ok(ColumnarValue::Scalar(value.arithmetic_negate()?)),
            other => exec_err!("negate takes one argument, not {}", other.len()),
        }
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        Ok(match inputs {
            [input] => -input.sort_properties,
            _ => SortProperties::Unordered,
        })
    }
}

/// `left operator right`, or `ArithmeticOverflow` for a row whose result does not fit.
fn compute(operator: Operator, left: &dyn Datum, right: &dyn Datum) -> Result<ArrayRef, ArrowError> {
    if let Some(result) = decimals::unchecked(operator, left, right) {
        return Ok(result);
    }
    let may_overflow = may_overflow(operator, left.get().0, right.get().0);
    let result = match (operator, may_overflow) {
        (Operator::Plus, true) => numeric::add(left, right),
        (Operator::Plus, false) => numeric::add_wrapping(left, right),
        (Operator::Minus, true) => numeric::sub(left, right),
        (Operator::Minus, false) => numeric::sub_wrapping(left, right),
        (_, true) => numeric::mul(left, right),
        (_, false) => numeric::mul_wrapping(left, right),
    }?;
    check_precision(&result)?;
    Ok(result)
}

/// Whether a result can lie outside of the type, judged by the bits that the operands use.
fn may_overflow(operator: Operator, left: &dyn Array, right: &dyn Array) -> bool {
    let Some((left, right, signed, width)) = used_bits(left, right) else {
        return true;
    };
    match operator {
        Operator::Plus => left.max(right) >= width,
        Operator::Minus => !signed || left.max(right) >= width,
        // The least negative number has a magnitude of a bit more.
        _ if signed => left + right >= width,
        _ => left + right > width,
    }
}

/// The bits that the magnitudes of both sides use, whether the type has a sign, and how many bits a magnitude may use.
fn used_bits(left: &dyn Array, right: &dyn Array) -> Option<(u32, u32, bool, u32)> {
    macro_rules! signed {
        ($type:ty, $native:ty) => {{
            let bits = |array: &PrimitiveArray<$type>| {
                let values = array.values().iter();
                let used = values.fold(0, |used, value| used | (value ^ (value >> (<$native>::BITS - 1))));
                <$native>::BITS - used.leading_zeros()
            };
            Some((
                bits(left.as_primitive()),
                bits(right.as_primitive()),
                true,
                <$native>::BITS - 1,
            ))
        }};
    }
    macro_rules! unsigned {
        ($type:ty, $native:ty) => {{
            let bits = |array: &PrimitiveArray<$type>| {
                let used = array.values().iter().fold(0, |used, value| used | value);
                <$native>::BITS - used.leading_zeros()
            };
            Some((
                bits(left.as_primitive()),
                bits(right.as_primitive()),
                false,
                <$native>::BITS,
            ))
        }};
    }
    if left.data_type() != right.data_type() {
        return None;
    }
    match left.data_type() {
        DataType::Int8 => signed!(Int8Type, i8),
        DataType::Int16 => signed!(Int16Type, i16),
        DataType::Int32 => signed!(Int32Type, i32),
        DataType::Int64 => signed!(Int64Type, i64),
        DataType::UInt8 => unsigned!(UInt8Type, u8),
        DataType::UInt16 => unsigned!(UInt16Type, u16),
        DataType::UInt32 => unsigned!(UInt32Type, u32),
        DataType::UInt64 => unsigned!(UInt64Type, u64),
        _ => None,
    }
}

/// A decimal of the largest precision has bits for more digits than it may have.
fn check_precision(result: &ArrayRef) -> Result<(), ArrowError> {
    match result.data_type() {
        DataType::Decimal128(DECIMAL128_MAX_PRECISION, _) => {
            let result = result.as_primitive::<Decimal128Type>();
            if decimals::used_bits(result) <= decimals::SAFE_BITS {
                return Ok(());
            }
            validated(result, |result| {
                result.validate_decimal_precision(DECIMAL128_MAX_PRECISION)
            })
        }
        DataType::Decimal256(DECIMAL256_MAX_PRECISION, _) => {
            let result = result.as_primitive::<Decimal256Type>();
            validated(result, |result| {
                result.validate_decimal_precision(DECIMAL256_MAX_PRECISION)
            })
        }
        _ => Ok(()),
    }
}

fn validated<T: ArrowPrimitiveType>(
    result: &PrimitiveArray<T>,
    validate: impl Fn(&PrimitiveArray<T>) -> Result<(), ArrowError>,
) -> Result<(), ArrowError> {
    validate(result).map_err(|error| {
        ArrowError::ArithmeticOverflow(format!("a result does not fit {}: {error}", result.data_type()))
    })
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Decimal128Array, Int8Array, Int64Array, UInt32Array};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn steps_are_added_in_place() {
        let operands = || (0..5).map(lit);
        let operators = [Operator::Plus, Operator::Plus, Operator::Minus, Operator::Multiply];
        let steps: Vec<_> = operators.into_iter().zip(operands().skip(1)).collect();
        for first_steps in 1..=steps.len() {
            let begun = calculation(lit(0), steps[..first_steps].to_vec());
            let done = steps[first_steps..].iter().fold(begun, |done, (operator, operand)| {
                let Expr::ScalarFunction(call) = done else {
                    panic!("no call: {done}")
                };
                with_step(call, *operator, operand.clone())
            });
            assert_eq!(done, calculation(lit(0), steps.clone()));
            let Expr::ScalarFunction(call) = done else {
                panic!("no call: {done}")
            };
            assert_eq!(operands_of(&call).unwrap(), operands().collect::<Vec<_>>());
        }
    }

    const OPERATORS: [Operator; 3] = [Operator::Plus, Operator::Minus, Operator::Multiply];

    fn exact(operator: Operator, left: i128, right: i128) -> i128 {
        match operator {
            Operator::Plus => left + right,
            Operator::Minus => left - right,
            _ => left * right,
        }
    }

    #[test]
    fn every_pair_of_small_integers_is_exact_or_an_error() {
        for operator in OPERATORS {
            for left in i8::MIN..=i8::MAX {
                for right in i8::MIN..=i8::MAX {
                    let computed = compute(operator, &Int8Array::from(vec![left]), &Int8Array::from(vec![right]));
                    let expected = i8::try_from(exact(operator, left.into(), right.into())).ok();
                    let computed = computed.ok().map(|array| array.as_primitive::<Int8Type>().value(0));
                    assert_eq!(computed, expected, "{left} {operator} {right}");
                }
            }
        }
    }

    #[test]
    fn nulls_and_what_is_below_them_overflow_nothing() {
        let left = PrimitiveArray::<Int64Type>::new(vec![i64::MAX, 1].into(), Some(vec![false, true].into()));
        let sum = compute(Operator::Plus, &left, &Int64Array::new_scalar(1)).unwrap();
        assert_eq!(sum.as_primitive::<Int64Type>(), &Int64Array::from(vec![None, Some(2)]));
    }

    #[test]
    fn unsigned_difference_below_zero_is_an_error() {
        let compute = |left, right| {
            compute(
                Operator::Minus,
                &UInt32Array::from(vec![left]),
                &UInt32Array::from(vec![right]),
            )
        };
        assert!(compute(1, 2).is_err());
        assert!(compute(2, 1).is_ok());
    }

    #[test]
    fn decimals_have_at_most_38_digits() {
        let most = 99_999_999_999_999_999_999_999_999_999_999_999_999_i128;
        let decimal = |value| {
            Decimal128Array::from(vec![value])
                .with_precision_and_scale(38, 0)
                .unwrap()
        };
        for (operator, left, right, fits) in [
            (Operator::Plus, most, 1, false),
            (Operator::Plus, most, -1, true),
            (Operator::Minus, -most, 1, false),
            (Operator::Multiply, most, 2, false),
            (Operator::Multiply, most / 10, 10, true),
        ] {
            let computed = compute(operator, &decimal(left), &decimal(right));
            assert_eq!(computed.is_ok(), fits, "{left} {operator} {right}: {computed:?}");
        }
    }

    proptest! {
        #[test]
        fn columns_are_exact_or_an_error(
            rows in prop::collection::vec((any::<i64>(), any::<i64>(), 0..64_u32), 1..20),
            operator in prop::sample::select(OPERATORS.to_vec()),
        ) {
            let (left, right): (Vec<_>, Vec<_>) =
                rows.into_iter().map(|(left, right, shift)| (left >> shift, right >> (63 - shift))).unzip();
            let expected: Option<Vec<_>> = left
                .iter()
                .zip(&right)
                .map(|(left, right)| i64::try_from(exact(operator, (*left).into(), (*right).into())).ok())
                .collect();
            let computed = compute(operator, &Int64Array::from(left), &Int64Array::from(right));
            let computed = computed.ok().map(|array| array.as_primitive::<Int64Type>().values().to_vec());
            prop_assert_eq!(computed, expected);
        }
    }
}
