//! `sum` that fails where the result does not fit its type.
//!
//! DataFusion 55.2 adds integers and decimals in the type of the result and wraps around (apache/datafusion#3520, #21318).
//! Here they are added in a wider type, which also is the type of the partial sums between workers, and the sum is
//! brought back at the end: neither the order of rows nor their distribution decides whether a sum overflows.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Debug;
use std::hash::Hash;
use std::mem::{size_of, size_of_val};
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, ArrowNativeTypeOp, ArrowNumericType, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray,
};
use datafusion::arrow::compute::{not, nullif, prep_null_mask_filter};
use datafusion::arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, Decimal32Type, Decimal64Type, Decimal128Type,
    Decimal256Type, DecimalType, DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType,
    DurationSecondType, Field, FieldRef, Int64Type, TimeUnit, UInt64Type,
};
use datafusion::arrow::error::ArrowError;
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, internal_datafusion_err};
use datafusion::error::DataFusionError;
use datafusion::functions_aggregate::sum::{Sum, sum_udaf};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator, ReversedUDAF,
    SetMonotonicity, Signature,
};
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::accumulate::NullState;

use super::sliding::FloatFrame;

/// A number that sums are made of, and the type in which they are made.
trait Summed: ArrowNumericType<Native: Into<<Self::Wide as ArrowPrimitiveType>::Native>> + Debug + Send {
    /// The type of unfinished sums.
    type Wide: ArrowNumericType<Native: Eq + Hash> + Debug + Send;

    /// The sum in its own type, if it fits that.
    fn narrow(sum: <Self::Wide as ArrowPrimitiveType>::Native, data_type: &DataType) -> Option<Self::Native>;
}

macro_rules! summed {
    ($wide:ty, $($type:ty: $fits:expr),+) => {
        $(impl Summed for $type {
            type Wide = $wide;

            fn narrow(sum: <$wide as ArrowPrimitiveType>::Native, data_type: &DataType) -> Option<Self::Native> {
                let fits: fn(Self::Native, &DataType) -> bool = $fits;
                sum.try_into().ok().filter(|sum| fits(*sum, data_type))
            }
        })+
    };
}

/// Whether a decimal has no more digits than its type.
fn has_digits<T: DecimalType>(sum: T::Native, data_type: &DataType) -> bool {
    match data_type {
        DataType::Decimal32(precision, _)
        | DataType::Decimal64(precision, _)
        | DataType::Decimal128(precision, _)
        | DataType::Decimal256(precision, _) => T::is_valid_decimal_precision(sum, *precision),
        _ => false,
    }
}

summed!(Decimal128Type, Int64Type: |_, _| true, UInt64Type: |_, _| true);
summed!(Decimal128Type, DurationSecondType: |_, _| true, DurationMillisecondType: |_, _| true);
summed!(Decimal128Type, DurationMicrosecondType: |_, _| true, DurationNanosecondType: |_, _| true);
summed!(Decimal128Type, Decimal32Type: has_digits::<Self>, Decimal64Type: has_digits::<Self>);
summed!(Decimal128Type, Decimal128Type: has_digits::<Self>);
summed!(Decimal256Type, Decimal256Type: has_digits::<Self>);

type Wide<T> = <<T as Summed>::Wide as ArrowPrimitiveType>::Native;

/// Calls a generic constructor with the type of the sums, if sums of that type are made here.
macro_rules! for_type {
    ($data_type:expr, $new:ident) => {
        match $data_type {
            DataType::Int64 => Some($new!(Int64Type)),
            DataType::UInt64 => Some($new!(UInt64Type)),
            DataType::Decimal32(..) => Some($new!(Decimal32Type)),
            DataType::Decimal64(..) => Some($new!(Decimal64Type)),
            DataType::Decimal128(..) => Some($new!(Decimal128Type)),
            DataType::Decimal256(..) => Some($new!(Decimal256Type)),
            DataType::Duration(TimeUnit::Second) => Some($new!(DurationSecondType)),
            DataType::Duration(TimeUnit::Millisecond) => Some($new!(DurationMillisecondType)),
            DataType::Duration(TimeUnit::Microsecond) => Some($new!(DurationMicrosecondType)),
            DataType::Duration(TimeUnit::Nanosecond) => Some($new!(DurationNanosecondType)),
            _ => None,
        }
    };
}

/// The function in place of DataFusion's of the same name, which still sums floats and intervals.
pub(super) fn checked_sum() -> AggregateUDF {
    AggregateUDF::new_from_impl(CheckedSum {
        inner: sum_udaf(),
        signature: Sum::new().signature().clone(),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedSum {
    inner: Arc<AggregateUDF>,
    signature: Signature,
}

impl AggregateUDFImpl for CheckedSum {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match own_accumulator(&args) {
            Some(accumulator) => Ok(accumulator),
            None => self.inner.accumulator(args),
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match own_accumulator(&args) {
            Some(accumulator) => Ok(accumulator),
            None if *args.return_field.data_type() == DataType::Float64 && !args.is_distinct => {
                Ok(Box::new(FloatFrame::sum()))
            }
            None => self.inner.inner().create_sliding_accumulator(args),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let Some(wide) = wide_type(args.return_type()) else {
            return self.inner.inner().state_fields(args);
        };
        let field = match args.is_distinct {
            true => Field::new_list(
                format_state_name(args.name, "sum distinct"),
                Field::new_list_field(wide, true),
                false,
            ),
            false => Field::new(format_state_name(args.name, "sum"), wide, true),
        };
        Ok(vec![field.into()])
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.inner.inner().groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        macro_rules! groups {
            ($type:ty) => {
                Box::new(SumOfGroups::<$type>::new(args.return_field.data_type())) as Box<dyn GroupsAccumulator>
            };
        }
        match for_type!(args.return_field.data_type(), groups) {
            Some(accumulator) => Ok(accumulator),
            None => self.inner.inner().create_groups_accumulator(args),
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.inner().set_monotonicity(data_type)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// The type of unfinished sums, none where DataFusion makes the sums. A state holds more than the digits of its type where
/// it must.
fn wide_type(sum: &DataType) -> Option<DataType> {
    match sum {
        DataType::Int64 | DataType::UInt64 | DataType::Duration(_) => {
            Some(DataType::Decimal128(DECIMAL128_MAX_PRECISION, 0))
        }
        DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) | DataType::Decimal128(_, scale) => {
            Some(DataType::Decimal128(DECIMAL128_MAX_PRECISION, *scale))
        }
        DataType::Decimal256(_, scale) => Some(DataType::Decimal256(DECIMAL256_MAX_PRECISION, *scale)),
        _ => None,
    }
}

fn wide_type_of(sum: &DataType) -> Result<DataType> {
    wide_type(sum).ok_or_else(|| internal_datafusion_err!("sums of {sum} are not made here"))
}

/// Brings sums back to the type of the result.
fn finished<T: Summed>(sums: &PrimitiveArray<T::Wide>, data_type: &DataType) -> Result<PrimitiveArray<T>> {
    let narrow = |sum| T::narrow(sum, data_type).ok_or_else(|| overflow(data_type));
    let finished: PrimitiveArray<T> = sums.try_unary(narrow)?;
    Ok(finished.with_data_type(data_type.clone()))
}

fn overflow(data_type: &DataType) -> DataFusionError {
    exec_datafusion_err!("a sum does not fit {data_type}; sum a wider type, e.g. sum(CAST(x AS DECIMAL(38, 0)))")
}

/// A value in the type of unfinished sums.
fn widened<T: Summed>(value: T::Native) -> Wide<T> {
    value.into()
}

fn add<T: Summed>(sum: Wide<T>, value: Wide<T>, data_type: &DataType) -> Result<Wide<T>> {
    sum.add_checked(value).map_err(|_| overflow(data_type))
}

/// None for sums that DataFusion makes.
fn own_accumulator(args: &AccumulatorArgs) -> Option<Box<dyn Accumulator>> {
    macro_rules! accumulator {
        ($type:ty) => {
            accumulator::<$type>(args.return_field.data_type(), args.is_distinct)
        };
    }
    for_type!(args.return_field.data_type(), accumulator)
}

fn accumulator<T: Summed>(data_type: &DataType, is_distinct: bool) -> Box<dyn Accumulator> {
    let data_type = data_type.clone();
    match is_distinct {
        true => Box::new(DistinctSum::<T> {
            times: HashMap::new(),
            data_type,
        }),
        false => Box::new(WideSum::<T> {
            sum: T::Wide::default_value(),
            values: 0,
            data_type,
        }),
    }
}

/// The sum of one group, which can also give values back.
#[derive(Debug)]
struct WideSum<T: Summed> {
    sum: Wide<T>,
    /// How many values were added. Without any the sum is NULL.
    values: usize,
    data_type: DataType,
}

impl<T: Summed> WideSum<T> {
    /// The sum as an array of one row.
    fn unfinished(&self) -> PrimitiveArray<T::Wide> {
        match self.values {
            0 => PrimitiveArray::new_null(1),
            _ => PrimitiveArray::from_value(self.sum, 1),
        }
    }

    fn update(
        &mut self,
        values: &ArrayRef,
        change: impl Fn(Wide<T>, Wide<T>) -> Result<Wide<T>, ArrowError>,
    ) -> Result<usize> {
        let values = values.as_primitive::<T>();
        let mut sum = self.sum;
        let mut add = |value: T::Native| -> Result<()> {
            sum = change(sum, widened::<T>(value)).map_err(|_| overflow(&self.data_type))?;
            Ok(())
        };
        match values.null_count() {
            0 => values.values().iter().copied().try_for_each(&mut add)?,
            _ => values.iter().flatten().try_for_each(&mut add)?,
        }
        self.sum = sum;
        Ok(values.len() - values.null_count())
    }
}

impl<T: Summed> Accumulator for WideSum<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.values += self.update(&values[0], |sum, value| sum.add_checked(value))?;
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.values -= self.update(&values[0], |sum, value| sum.sub_checked(value))?;
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for sum in states[0].as_primitive::<T::Wide>().iter().flatten() {
            self.sum = add::<T>(self.sum, sum, &self.data_type)?;
            self.values += 1;
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let sum = finished::<T>(&self.unfinished(), &self.data_type)?;
        ScalarValue::try_from_array(&sum, 0)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let sum = self.unfinished().with_data_type(wide_type_of(&self.data_type)?);
        Ok(vec![ScalarValue::try_from_array(&sum, 0)?])
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// The sum of the different values of one group, which can also give values back.
#[derive(Debug)]
struct DistinctSum<T: Summed> {
    /// How many times each value is there.
    times: HashMap<Wide<T>, usize>,
    data_type: DataType,
}

impl<T: Summed> Accumulator for DistinctSum<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in values[0].as_primitive::<T>().iter().flatten() {
            *self.times.entry(widened::<T>(value)).or_default() += 1;
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in values[0].as_primitive::<T>().iter().flatten() {
            if let Entry::Occupied(mut times) = self.times.entry(widened::<T>(value)) {
                *times.get_mut() -= 1;
                if *times.get() == 0 {
                    times.remove();
                }
            }
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for values in states[0].as_list::<i32>().iter().flatten() {
            for value in values.as_primitive::<T::Wide>().iter().flatten() {
                *self.times.entry(value).or_default() += 1;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut sum = T::Wide::default_value();
        for value in self.times.keys() {
            sum = add::<T>(sum, *value, &self.data_type)?;
        }
        let sum = match self.times.len() {
            0 => PrimitiveArray::new_null(1),
            _ => PrimitiveArray::from_value(sum, 1),
        };
        ScalarValue::try_from_array(&finished::<T>(&sum, &self.data_type)?, 0)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let wide = wide_type_of(&self.data_type)?;
        let values = PrimitiveArray::<T::Wide>::from_iter_values(self.times.keys().copied());
        let values = Arc::new(values.with_data_type(wide));
        Ok(vec![SingleRowListArrayBuilder::new(values).build_list_scalar()])
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.times.capacity() * size_of::<(Wide<T>, usize)>()
    }
}

/// The sums of many groups.
#[derive(Debug)]
struct SumOfGroups<T: Summed> {
    sums: Vec<Wide<T>>,
    /// The groups without a value, whose sum is NULL.
    nulls: NullState,
    data_type: DataType,
}

impl<T: Summed> SumOfGroups<T> {
    fn new(data_type: &DataType) -> Self {
        Self {
            sums: Vec::new(),
            nulls: NullState::new(),
            data_type: data_type.clone(),
        }
    }

    fn add<V: ArrowNumericType + Send>(
        &mut self,
        values: &PrimitiveArray<V>,
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
        widened: impl Fn(V::Native) -> Wide<T> + Send + Sync,
    ) -> Result<()> {
        self.sums.resize(total, T::Wide::default_value());
        let mut fits = true;
        self.nulls.accumulate(groups, values, filter, total, |group, value| {
            match self.sums[group].add_checked(widened(value)) {
                Ok(sum) => self.sums[group] = sum,
                Err(_) => fits = false,
            }
        });
        match fits {
            true => Ok(()),
            false => Err(overflow(&self.data_type)),
        }
    }

    fn emit(&mut self, emit_to: EmitTo) -> PrimitiveArray<T::Wide> {
        let sums = emit_to.take_needed(&mut self.sums);
        PrimitiveArray::new(sums.into(), self.nulls.build(emit_to))
    }
}

impl<T: Summed> GroupsAccumulator for SumOfGroups<T> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.add(values[0].as_primitive::<T>(), groups, filter, total, widened::<T>)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.add(states[0].as_primitive::<T::Wide>(), groups, None, total, |sum| sum)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = self.emit(emit_to);
        Ok(Arc::new(finished::<T>(&sums, &self.data_type)?))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let wide = wide_type_of(&self.data_type)?;
        Ok(vec![Arc::new(self.emit(emit_to).with_data_type(wide))])
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let values = match filter {
            // Rows that the filter drops count as NULL.
            Some(filter) if filter.null_count() > 0 => nullif(&values[0], &not(&prep_null_mask_filter(filter))?)?,
            Some(filter) => nullif(&values[0], &not(filter)?)?,
            None => Arc::clone(&values[0]),
        };
        let wide = values.as_primitive::<T>().unary::<_, T::Wide>(widened::<T>);
        Ok(vec![Arc::new(wide.with_data_type(wide_type_of(&self.data_type)?))])
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<Wide<T>>() + self.nulls.size()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Decimal128Array, Int64Array, UInt64Array};

    use super::*;

    const MOST: i64 = i64::MAX;

    fn values(values: &[Option<i64>]) -> ArrayRef {
        Arc::new(Int64Array::from(values.to_vec()))
    }

    fn of_one_group(values: &ArrayRef) -> Result<ScalarValue> {
        let mut sum = accumulator::<Int64Type>(&DataType::Int64, false);
        sum.update_batch(std::slice::from_ref(values))?;
        sum.evaluate()
    }

    /// The sum by way of partial sums, one for each value.
    fn of_groups(values: &ArrayRef) -> Result<ScalarValue> {
        let groups = vec![0; values.len()];
        let partial =
            SumOfGroups::<Int64Type>::new(&DataType::Int64).convert_to_state(std::slice::from_ref(values), None)?;
        let mut sum = SumOfGroups::<Int64Type>::new(&DataType::Int64);
        sum.merge_batch(&partial, &groups, 1)?;
        ScalarValue::try_from_array(&sum.evaluate(EmitTo::All)?, 0)
    }

    #[test]
    fn only_the_final_sum_must_fit() {
        for (column, expected) in [
            (values(&[Some(MOST), Some(1), Some(-5)]), Some(Some(MOST - 4))),
            (values(&[Some(MOST), Some(1)]), None),
            (values(&[Some(i64::MIN), Some(-1)]), None),
            (values(&[None, None]), Some(None)),
            (values(&[None, Some(3)]), Some(Some(3))),
        ] {
            for sum in [of_one_group(&column), of_groups(&column)] {
                assert_eq!(sum.ok(), expected.map(ScalarValue::Int64), "{column:?}");
            }
        }
    }

    #[test]
    fn filtered_rows_are_not_added() {
        let filter = BooleanArray::from(vec![Some(true), Some(false), None]);
        let column = [values(&[Some(1), Some(20), Some(300)])];
        let mut sum = SumOfGroups::<Int64Type>::new(&DataType::Int64);
        let states = sum.convert_to_state(&column, Some(&filter)).unwrap();
        assert_eq!(states[0].null_count(), 2);
        sum.update_batch(&column, &[0, 0, 1], Some(&filter), 2).unwrap();
        let sums = sum.evaluate(EmitTo::All).unwrap();
        assert_eq!(sums.as_primitive::<Int64Type>(), &Int64Array::from(vec![Some(1), None]));
    }

    #[test]
    fn leaving_rows_are_taken_back() {
        for is_distinct in [false, true] {
            let mut sum = accumulator::<Int64Type>(&DataType::Int64, is_distinct);
            sum.update_batch(&[values(&[Some(MOST), Some(7), Some(7)])]).unwrap();
            sum.retract_batch(&[values(&[Some(MOST), Some(7)])]).unwrap();
            assert_eq!(sum.evaluate().unwrap(), ScalarValue::Int64(Some(7)));
            sum.retract_batch(&[values(&[Some(7)])]).unwrap();
            assert_eq!(sum.evaluate().unwrap(), ScalarValue::Int64(None));
        }
    }

    #[test]
    fn distinct_states_are_merged_row_by_row() {
        let mut parts: Vec<_> = [1, 2].map(|_| accumulator::<Int64Type>(&DataType::Int64, true)).into();
        parts[0].update_batch(&[values(&[Some(1), Some(2)])]).unwrap();
        parts[1].update_batch(&[values(&[Some(2), Some(40)])]).unwrap();
        let states = parts.iter_mut().map(|part| part.state().unwrap().remove(0));
        let states = ScalarValue::iter_to_array(states).unwrap();
        let mut sum = accumulator::<Int64Type>(&DataType::Int64, true);
        // One state alone, as a slice of both.
        sum.merge_batch(&[states.slice(1, 1)]).unwrap();
        assert_eq!(sum.evaluate().unwrap(), ScalarValue::Int64(Some(42)));
        sum.merge_batch(&[states.slice(0, 1)]).unwrap();
        assert_eq!(sum.evaluate().unwrap(), ScalarValue::Int64(Some(43)));
    }

    #[test]
    fn unsigned_and_decimal_sums_keep_their_limits() {
        let mut unsigned = accumulator::<UInt64Type>(&DataType::UInt64, false);
        unsigned
            .update_batch(&[Arc::new(UInt64Array::from(vec![u64::MAX]))])
            .unwrap();
        assert_eq!(unsigned.evaluate().unwrap(), ScalarValue::UInt64(Some(u64::MAX)));
        unsigned.update_batch(&[Arc::new(UInt64Array::from(vec![1]))]).unwrap();
        assert!(unsigned.evaluate().is_err());

        let wide = DataType::Decimal128(38, 0);
        let half = 60_000_000_000_000_000_000_000_000_000_000_000_000_i128;
        let column = Decimal128Array::from(vec![half, half])
            .with_precision_and_scale(38, 0)
            .unwrap();
        let mut decimal = accumulator::<Decimal128Type>(&wide, false);
        decimal.update_batch(&[Arc::new(column)]).unwrap();
        let error = decimal.evaluate().unwrap_err();
        assert!(error.to_string().contains("does not fit"), "{error}");
    }
}
