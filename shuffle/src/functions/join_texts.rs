//! The operator `||` of texts as a function of all texts of a chain.
//!
//! As an operator it can be neither bounded nor charged, and a chain copies what it has once for each text.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, GenericStringBuilder, OffsetSizeTrait, StringViewBuilder};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::cast::{as_generic_string_array, as_string_view_array};
use datafusion::common::{Result, ScalarValue, exec_err, internal_err, resources_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

/// Its name, as plans show it.
pub const JOIN_TEXTS: &str = "||";

/// NULL if one of the texts is, which have one type.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct JoinTexts {
    signature: Signature,
}

impl Default for JoinTexts {
    fn default() -> Self {
        Self {
            signature: Signature::variadic_any(Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for JoinTexts {
    fn name(&self) -> &str {
        JOIN_TEXTS
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [first, rest @ ..] if rest.iter().all(|other| other == first) => Ok(first.clone()),
            _ => exec_err!("|| joins texts of one type"),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let types: Vec<_> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        let is_nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(JOIN_TEXTS, self.return_type(&types)?, is_nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_constant = |column: &ColumnarValue| matches!(column, ColumnarValue::Scalar(_));
        let are_constant = args.args.iter().all(is_constant);
        let rows = if are_constant { 1 } else { args.number_rows };
        let joined = match args.return_type() {
            DataType::Utf8 => join_offsets::<i32>(&args.args, rows),
            DataType::LargeUtf8 => join_offsets::<i64>(&args.args, rows),
            DataType::Utf8View => join_views(&args.args, rows),
            other => internal_err!("|| of {other}"),
        }?;
        match are_constant {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&joined, 0)?)),
            false => Ok(ColumnarValue::Array(joined)),
        }
    }
}

/// A text for each row, or one for all.
enum Texts<A> {
    Constant(Option<String>),
    Column(A),
}

/// The arrays of one type among `columns`.
fn texts<A>(columns: &[ColumnarValue], read: impl Fn(&ArrayRef) -> Result<A>) -> Result<Vec<Texts<A>>> {
    let columns = columns.iter().map(|column| match column {
        ColumnarValue::Array(array) => read(array).map(Texts::Column),
        ColumnarValue::Scalar(value) => match value.try_as_str() {
            Some(text) => Ok(Texts::Constant(text.map(str::to_owned))),
            None => internal_err!("|| of {value}"),
        },
    });
    columns.collect()
}

/// Calls `append` with the joined text of each row.
fn join<A>(
    columns: &[Texts<A>],
    rows: usize,
    value: impl for<'array> Fn(&'array A, usize) -> Option<&'array str>,
    mut append: impl FnMut(Option<&str>) -> Result<()>,
) -> Result<()> {
    let mut joined = String::new();
    for row in 0..rows {
        joined.clear();
        let is_null = columns.iter().any(|column| {
            let text = match column {
                Texts::Constant(text) => text.as_deref(),
                Texts::Column(array) => value(array, row),
            };
            text.is_none_or(|text| {
                joined.push_str(text);
                false
            })
        });
        append((!is_null).then_some(joined.as_str()))?;
    }
    Ok(())
}

fn join_offsets<O: OffsetSizeTrait>(columns: &[ColumnarValue], rows: usize) -> Result<ArrayRef> {
    let columns = texts(columns, |array| Ok(as_generic_string_array::<O>(array)?.clone()))?;
    let mut joined = GenericStringBuilder::<O>::with_capacity(rows, 0);
    let mut bytes = 0;
    join(
        &columns,
        rows,
        |array, row| array.is_valid(row).then(|| array.value(row)),
        |text| {
            bytes += text.map_or(0, str::len);
            if O::from_usize(bytes).is_none() {
                return resources_err!(
                    "|| would make a column of more than 2 GiB; lower datafusion.execution.batch_size"
                );
            }
            joined.append_option(text);
            Ok(())
        },
    )?;
    Ok(Arc::new(joined.finish()))
}

fn join_views(columns: &[ColumnarValue], rows: usize) -> Result<ArrayRef> {
    let columns = texts(columns, |array| Ok(as_string_view_array(array)?.clone()))?;
    let mut joined = StringViewBuilder::with_capacity(rows);
    join(
        &columns,
        rows,
        |array, row| array.is_valid(row).then(|| array.value(row)),
        |text| {
            joined.append_option(text);
            Ok(())
        },
    )?;
    Ok(Arc::new(joined.finish()))
}
