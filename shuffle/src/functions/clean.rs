//! Nested values without what is hidden under NULL.
//!
//! An array may hold values where a list or struct is NULL. DataFusion 55.2 shows them: as fields of the struct, as
//! elements of the list (apache/datafusion#25120, #25293, #25222, #25223). They come out of Arrow files, of `nullif` and
//! of `CASE`.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, OffsetSizeTrait, UInt64Array};
use datafusion::arrow::buffer::NullBuffer;
use datafusion::arrow::compute::{nullif, take};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::Result;
use datafusion::logical_expr::ScalarUDF;

use super::same::{same, with_parts};

/// `clean(x)` is `x`, with NULL and with no elements below each NULL of a struct and of a list.
pub fn clean() -> Arc<ScalarUDF> {
    same("clean", of_array)
}

/// Whether values of the type may hide others.
pub fn may_hide(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Struct(_)
            | DataType::List(_)
            | DataType::LargeList(_)
            | DataType::FixedSizeList(..)
            | DataType::Map(..)
    )
}

/// Whether values of the type have required parts that stand below others which may be NULL. The reader of Parquet puts
/// any value there.
pub fn hides_required(field: &Field) -> bool {
    let parts: Vec<&FieldRef> = match field.data_type() {
        DataType::Struct(fields) => fields.iter().collect(),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => return hides_required(item),
        _ => return false,
    };
    parts
        .into_iter()
        .any(|part| (field.is_nullable() && !part.is_nullable()) || hides_required(part))
}

fn of_array(array: &ArrayRef) -> Result<ArrayRef> {
    let Some(nulls) = array.nulls().filter(|nulls| nulls.null_count() > 0) else {
        return with_parts(array, of_array);
    };
    let shown = match array.data_type() {
        DataType::Struct(_) => with_columns(array, nulls)?,
        DataType::List(_) => without_hidden::<i32>(array, array.as_list::<i32>().value_offsets(), nulls)?,
        DataType::LargeList(_) => without_hidden::<i64>(array, array.as_list::<i64>().value_offsets(), nulls)?,
        DataType::Map(..) => without_hidden::<i32>(array, array.as_map().value_offsets(), nulls)?,
        DataType::FixedSizeList(..) => {
            let visible: Vec<_> = (0..array.len() as u64)
                .map(|row| nulls.is_valid(row as usize).then_some(row))
                .collect();
            take(array, &UInt64Array::from(visible), None)?
        }
        _ => return Ok(Arc::clone(array)),
    };
    with_parts(&shown, of_array)
}

/// The struct with NULL in each column where it is NULL itself.
fn with_columns(array: &ArrayRef, nulls: &NullBuffer) -> Result<ArrayRef> {
    let rows = array.as_struct();
    let hidden = !nulls.inner();
    let hides = |column: &ArrayRef| match column.data_type() {
        // These have no NULLs of their own.
        DataType::Null | DataType::Union(..) | DataType::RunEndEncoded(..) => false,
        _ => column
            .nulls()
            .is_none_or(|shown| (&hidden & shown.inner()).count_set_bits() > 0),
    };
    if !rows.columns().iter().any(hides) {
        return Ok(Arc::clone(array));
    }
    let hidden = BooleanArray::new(hidden.clone(), None);
    let columns = rows.columns().iter().map(|column| match hides(column) {
        true => Ok(nullif(column, &hidden)?),
        false => Ok(Arc::clone(column)),
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let fields = rows.fields().clone();
    let rows = datafusion::arrow::array::StructArray::try_new(fields, columns, Some(nulls.clone()))?;
    Ok(Arc::new(rows))
}

/// The lists with no elements where they are NULL.
fn without_hidden<O: OffsetSizeTrait>(array: &ArrayRef, offsets: &[O], nulls: &NullBuffer) -> Result<ArrayRef> {
    let hides = |row: usize| nulls.is_null(row) && offsets[row] != offsets[row + 1];
    if !(0..array.len()).any(hides) {
        return Ok(Arc::clone(array));
    }
    let visible: Vec<_> = (0..array.len() as u64)
        .map(|row| nulls.is_valid(row as usize).then_some(row))
        .collect();
    Ok(take(array, &UInt64Array::from(visible), None)?)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int64Array, ListArray, StructArray};
    use datafusion::arrow::buffer::OffsetBuffer;
    use datafusion::arrow::datatypes::{Field, Fields};

    use super::*;

    /// Lists of one number each, of which the second is NULL and holds 2.
    fn lists() -> ArrayRef {
        let field = Arc::new(Field::new_list_field(DataType::Int64, true));
        let offsets = OffsetBuffer::from_lengths([1, 1, 1]);
        let values = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let nulls = NullBuffer::from(vec![true, false, true]);
        Arc::new(ListArray::new(field, offsets, values, Some(nulls)))
    }

    #[test]
    fn nothing_is_below_a_null_list() {
        let clean = of_array(&lists()).unwrap();
        let clean = clean.as_list::<i32>();
        assert_eq!(clean.values().as_ref(), &Int64Array::from(vec![1, 3]));
        assert!(clean.is_null(1));
    }

    #[test]
    fn columns_of_a_null_struct_are_null_at_any_depth() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let inner = Fields::from(vec![
            Field::new("n", DataType::Int64, false),
            Field::new("l", lists().data_type().clone(), true),
        ]);
        let inner: ArrayRef = Arc::new(StructArray::new(inner, vec![numbers, lists()], None));
        let outer = Fields::from(vec![Field::new("s", inner.data_type().clone(), false)]);
        let nulls = NullBuffer::from(vec![true, true, false]);
        let outer: ArrayRef = Arc::new(StructArray::new(outer, vec![inner], Some(nulls)));
        let clean = of_array(&outer.slice(1, 2)).unwrap();
        let inner = clean.as_struct().column(0).as_struct();
        assert!(inner.is_valid(0) && inner.is_null(1));
        let numbers = inner
            .column(0)
            .as_primitive::<datafusion::arrow::datatypes::Int64Type>();
        assert_eq!(numbers, &Int64Array::from(vec![Some(2), None]));
        let lists = inner.column(1).as_list::<i32>();
        assert!(lists.is_null(0) && lists.is_null(1));
        assert_eq!(lists.value_offsets()[2], lists.value_offsets()[0]);
    }

    #[test]
    fn what_hides_nothing_is_left_as_it_is() {
        let clean = of_array(&lists()).unwrap();
        assert!(Arc::ptr_eq(&of_array(&clean).unwrap(), &clean));
    }
}
