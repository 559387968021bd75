//! Functions whose result is their argument, in the form that DataFusion 55.2 needs to see: [`canonical`](super::canonical)
//! and [`clean`](super::clean).

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, GenericListArray, MapArray, OffsetSizeTrait, StructArray,
};
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// The function `name(x)`, which is named as `x` is in results.
pub(super) fn same(name: &'static str, of_array: fn(&ArrayRef) -> Result<ArrayRef>) -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(Same {
        name,
        of_array,
        signature: Signature::any(1, Volatility::Immutable),
    }))
}

/// The same array with each array within it replaced by what `each` makes of it.
pub(super) fn with_parts(array: &ArrayRef, each: fn(&ArrayRef) -> Result<ArrayRef>) -> Result<ArrayRef> {
    fn list<O: OffsetSizeTrait>(
        array: &ArrayRef,
        field: &FieldRef,
        each: fn(&ArrayRef) -> Result<ArrayRef>,
    ) -> Result<ArrayRef> {
        let lists = array.as_list::<O>();
        let values = each(lists.values())?;
        if Arc::ptr_eq(&values, lists.values()) {
            return Ok(Arc::clone(array));
        }
        let offsets = lists.offsets().clone();
        let lists = GenericListArray::<O>::try_new(Arc::clone(field), offsets, values, lists.nulls().cloned())?;
        Ok(Arc::new(lists))
    }
    match array.data_type() {
        DataType::Struct(fields) => {
            let rows = array.as_struct();
            let columns = rows.columns().iter().map(each).collect::<Result<Vec<_>>>()?;
            if columns
                .iter()
                .zip(rows.columns())
                .all(|(new, old)| Arc::ptr_eq(new, old))
            {
                return Ok(Arc::clone(array));
            }
            let nulls = rows.nulls().cloned();
            let rows = StructArray::try_new_with_length(fields.clone(), columns, nulls, rows.len())?;
            Ok(Arc::new(rows))
        }
        DataType::List(field) => list::<i32>(array, field, each),
        DataType::LargeList(field) => list::<i64>(array, field, each),
        DataType::FixedSizeList(field, size) if *size > 0 => {
            let lists = array.as_fixed_size_list();
            let values = each(lists.values())?;
            if Arc::ptr_eq(&values, lists.values()) {
                return Ok(Arc::clone(array));
            }
            let lists = FixedSizeListArray::try_new(Arc::clone(field), *size, values, lists.nulls().cloned())?;
            Ok(Arc::new(lists))
        }
        DataType::Map(field, is_sorted) => {
            let maps = array.as_map();
            let entries: ArrayRef = Arc::new(maps.entries().clone());
            let new = each(&entries)?;
            if Arc::ptr_eq(&new, &entries) {
                return Ok(Arc::clone(array));
            }
            let offsets = maps.offsets().clone();
            let entries = new.as_struct().clone();
            let maps = MapArray::try_new(Arc::clone(field), offsets, entries, maps.nulls().cloned(), *is_sorted)?;
            Ok(Arc::new(maps))
        }
        _ => Ok(Arc::clone(array)),
    }
}

#[derive(Debug)]
struct Same {
    name: &'static str,
    of_array: fn(&ArrayRef) -> Result<ArrayRef>,
    signature: Signature,
}

impl PartialEq for Same {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Same {}

impl Hash for Same {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Same {
    fn name(&self) -> &str {
        self.name
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.iter().map(ToString::to_string).collect())
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.iter().map(|arg| arg.schema_name().to_string()).collect())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [data_type] => Ok(data_type.clone()),
            _ => plan_err!("{} takes one argument", self.name),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        match args.arg_fields {
            // Without the name of its column: calls of columns that are equal are equal too, as sorts and windows need it.
            [field] => Ok(Arc::new(field.as_ref().clone().with_name(self.name))),
            _ => plan_err!("{} takes one argument", self.name),
        }
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [ColumnarValue::Array(values)] => Ok(ColumnarValue::Array((self.of_array)(values)?)),
            [ColumnarValue::Scalar(value)] => {
                let one = (self.of_array)(&value.to_array_of_size(1)?)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&one, 0)?))
            }
            other => exec_err!("{} takes one argument, not {}", self.name, other.len()),
        }
    }

    // But for NaN with a sign, which files may hold, the order of values is that of their bits.
    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        Ok(match inputs {
            [input] if input.sort_properties == SortProperties::Singleton => SortProperties::Singleton,
            _ => SortProperties::Unordered,
        })
    }
}
