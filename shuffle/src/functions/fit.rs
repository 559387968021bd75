//! Numbers of JSON, brought to the types of their columns.
//!
//! The reader of DataFusion 55.2 cuts what does not fit a column: 1.9 is 1 in a BIGINT, 12.345 is 12.34 in a DECIMAL(5, 2)
//! (apache/arrow-rs#10265). So whole numbers and decimals are read with more digits, and then fitted: a fraction of a whole
//! number is an error, and a decimal is rounded.
//!
//! A text with more digits than a decimal of 256 bits has wraps around (apache/arrow-rs#10665); here it is an error.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, GenericListArray, MapArray, OffsetSizeTrait, StructArray,
};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, Decimal128Type, DecimalType, FieldRef,
};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::arguments::array;
use super::strict_field;

/// How many digits behind the point of a whole number are looked at.
const FRACTION_DIGITS: i8 = 15;

/// How many more digits of a decimal are read than it has.
const MORE_DIGITS: u8 = 20;

/// `fit(x, t)` is `x`, read with [`wide`] types, in the type of the value `t`.
pub fn fit() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(Fit {
        signature: Signature::any(2, Volatility::Immutable),
    }))
}

/// The type in which numbers for a column of a type are read.
pub fn wide(data_type: &DataType) -> DataType {
    let wide_field = |field: &FieldRef| {
        let wide = wide(field.data_type());
        Arc::new(field.as_ref().clone().with_data_type(wide))
    };
    match data_type {
        number if number.is_integer() => DataType::Decimal128(DECIMAL128_MAX_PRECISION, FRACTION_DIGITS),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale) => {
            let room = DECIMAL256_MAX_PRECISION - precision;
            DataType::Decimal256(DECIMAL256_MAX_PRECISION, scale + room.min(MORE_DIGITS) as i8)
        }
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(wide_field).collect()),
        DataType::List(field) => DataType::List(wide_field(field)),
        DataType::LargeList(field) => DataType::LargeList(wide_field(field)),
        DataType::FixedSizeList(field, size) => DataType::FixedSizeList(wide_field(field), *size),
        DataType::Map(field, is_sorted) => DataType::Map(wide_field(field), *is_sorted),
        other => other.clone(),
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Fit {
    signature: Signature,
}

impl ScalarUDFImpl for Fit {
    fn name(&self) -> &str {
        "fit"
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.first().map(ToString::to_string).unwrap_or_default())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [_, data_type] => Ok(data_type.clone()),
            _ => plan_err!("fit takes two arguments"),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let field = strict_field(self.name(), &args, |types| self.return_type(types))?;
        let is_nullable = args.arg_fields.first().is_none_or(|value| value.is_nullable());
        Ok(Arc::new(field.as_ref().clone().with_nullable(is_nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(values) = args.args.first() else {
            return exec_err!("fit takes two arguments");
        };
        Ok(ColumnarValue::Array(fitted(
            &array(values)?,
            args.return_field.data_type(),
        )?))
    }
}

fn fitted(values: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    fn list<O: OffsetSizeTrait>(values: &ArrayRef, field: &FieldRef) -> Result<ArrayRef> {
        let lists = values.as_list::<O>();
        let items = fitted(lists.values(), field.data_type())?;
        let (offsets, nulls) = (lists.offsets().clone(), lists.nulls().cloned());
        Ok(Arc::new(GenericListArray::<O>::try_new(
            Arc::clone(field),
            offsets,
            items,
            nulls,
        )?))
    }
    if values.data_type() == to {
        return Ok(Arc::clone(values));
    }
    match to {
        DataType::Struct(fields) => {
            let rows = values.as_struct();
            let columns = rows.columns().iter().zip(fields);
            let columns = columns.map(|(column, field)| fitted(column, field.data_type()));
            let columns = columns.collect::<Result<Vec<_>>>()?;
            let nulls = rows.nulls().cloned();
            Ok(Arc::new(StructArray::try_new_with_length(
                fields.clone(),
                columns,
                nulls,
                rows.len(),
            )?))
        }
        DataType::List(field) => list::<i32>(values, field),
        DataType::LargeList(field) => list::<i64>(values, field),
        DataType::FixedSizeList(field, size) => {
            let lists = values.as_fixed_size_list();
            let items = fitted(lists.values(), field.data_type())?;
            Ok(Arc::new(FixedSizeListArray::try_new(
                Arc::clone(field),
                *size,
                items,
                lists.nulls().cloned(),
            )?))
        }
        DataType::Map(field, is_sorted) => {
            let maps = values.as_map();
            let entries: ArrayRef = Arc::new(maps.entries().clone());
            let entries = fitted(&entries, field.data_type())?.as_struct().clone();
            let (offsets, nulls) = (maps.offsets().clone(), maps.nulls().cloned());
            Ok(Arc::new(MapArray::try_new(
                Arc::clone(field),
                offsets,
                entries,
                nulls,
                *is_sorted,
            )?))
        }
        _ => fitted_numbers(values, to),
    }
}

fn fitted_numbers(values: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    if let DataType::Decimal256(precision, scale) = to
        && values.data_type().is_string()
    {
        refuse_long_texts(values, i32::from(*precision) - i32::from(*scale))?;
    }
    if to.is_integer() {
        let one = 10_i128.pow(u32::from(FRACTION_DIGITS.unsigned_abs()));
        let numbers = values.as_primitive::<Decimal128Type>();
        if let Some(number) = numbers.iter().flatten().find(|number| number % one != 0) {
            let number = Decimal128Type::format_decimal(number, DECIMAL128_MAX_PRECISION, FRACTION_DIGITS);
            let number = number.trim_end_matches('0');
            return exec_err!("{number} is no whole number, as {to} needs; declare the column DOUBLE or DECIMAL");
        }
    }
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    Ok(cast_with_options(values, to, &strict)?)
}

/// Refuses numbers with more digits before the point than `most`.
fn refuse_long_texts(texts: &ArrayRef, most: i32) -> Result<()> {
    let texts = cast_with_options(texts, &DataType::Utf8, &CastOptions::default())?;
    for text in texts.as_string::<i32>().iter().flatten() {
        let number = text.trim().trim_start_matches(['-', '+']).trim_start_matches('0');
        let digits = number.bytes().take_while(u8::is_ascii_digit).count();
        if i32::try_from(digits).is_ok_and(|digits| digits > most) {
            return exec_err!("{text} does not fit a decimal with {most} digits before the point");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Decimal128Array, Int64Array};
    use datafusion::arrow::datatypes::Int64Type;

    use super::*;

    fn numbers(thousandths: &[Option<i128>]) -> ArrayRef {
        let numbers = thousandths
            .iter()
            .map(|number| number.map(|number| number * 1_000_000_000_000));
        let numbers = Decimal128Array::from_iter(numbers);
        Arc::new(numbers.with_precision_and_scale(38, 15).unwrap())
    }

    #[test]
    fn whole_numbers_have_no_fraction() {
        let fit = fitted(&numbers(&[Some(7_000), None, Some(-2_000)]), &DataType::Int64).unwrap();
        assert_eq!(
            fit.as_primitive::<Int64Type>(),
            &Int64Array::from(vec![Some(7), None, Some(-2)])
        );
        let error = fitted(&numbers(&[Some(7_000), Some(1_900)]), &DataType::Int64).unwrap_err();
        assert!(error.to_string().contains("1.9 is no whole number"), "{error}");
        assert!(fitted(&numbers(&[Some(300_000)]), &DataType::Int8).is_err());
    }

    #[test]
    fn decimals_are_rounded() {
        let fit = fitted(&numbers(&[Some(12_345), Some(-12_344)]), &DataType::Decimal128(5, 2)).unwrap();
        let fit = fit.as_primitive::<Decimal128Type>();
        assert_eq!((fit.value(0), fit.value(1)), (1_235, -1_234));
    }
}
