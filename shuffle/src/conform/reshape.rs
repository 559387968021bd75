//! Converts an array to another type with the same values.
//!
//! ```text
//! Utf8View, BinaryView, ListView      -> Utf8, Binary, List        arrow's cast
//! Dictionary, RunEndEncoded           -> their values, unpack    arrow's cast
//! Struct, List, Map, Union of those   -> the same of the others    this module, child by child
//! ```
//!
//! Arrow's own cast does not support unions, matches the fields of structs by name, and converts even the values of a
//! list that no row covers; this module matches fields by position, and converts the covered values alone.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, GenericListArray, MapArray, OffsetSizeTrait, StructArray, UnionArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, FieldRef, Fields, UnionFields};
use arrow::error::ArrowError;

/// Converts `array` to the type `to`.
///
/// # Errors
/// When a value has no form in `to`, or a null stands where `to` allows none.
pub(super) fn reshape(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    if array.data_type() == to {
        return Ok(Arc::clone(array));
    }
    match (array.data_type(), to) {
        (DataType::Struct(from), DataType::Struct(fields)) if from.len() == fields.len() => {
            Ok(Arc::new(reshape_struct(array.as_struct(), fields)?))
        }
        (DataType::List(_), DataType::List(item)) => reshape_list(array.as_list::<i32>(), item),
        (DataType::LargeList(_), DataType::LargeList(item)) => reshape_list(array.as_list::<i64>(), item),
        (DataType::FixedSizeList(_, from), DataType::FixedSizeList(item, size)) if from == size => {
            reshape_fixed_size_list(array.as_fixed_size_list(), item, *size)
        }
        (DataType::Map(_, _), DataType::Map(entries, ordered)) => reshape_map(array.as_map(), entries, *ordered),
        (DataType::Union(from, of), DataType::Union(fields, mode)) if of == mode && has_same_members(from, fields) => {
            reshape_union(array.as_union(), fields)
        }
        // Unpacked first, so that the values are reshaped, not cast.
        (DataType::Dictionary(_, values), _) => unpack(array, values, to),
        (DataType::RunEndEncoded(_, values), _) => unpack(array, values.data_type(), to),
        (DataType::ListView(item), DataType::List(_)) => unpack(array, &DataType::List(Arc::clone(item)), to),
        (DataType::LargeListView(item), DataType::LargeList(_)) => {
            unpack(array, &DataType::LargeList(Arc::clone(item)), to)
        }
        _ => cast(array, to),
    }
}

fn unpack(array: &ArrayRef, to: &DataType, then: &DataType) -> Result<ArrayRef, ArrowError> {
    reshape(&cast(array, to)?, then)
}

fn cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(array, to, &options)
}

fn reshape_struct(array: &StructArray, fields: &Fields) -> Result<StructArray, ArrowError> {
    let columns = array.columns().iter().zip(fields);
    let columns = columns.map(|(column, field)| reshape(column, field.data_type()));
    StructArray::try_new_with_length(
        fields.clone(),
        columns.collect::<Result<_, _>>()?,
        array.nulls().cloned(),
        array.len(),
    )
}

fn reshape_list<O: OffsetSizeTrait>(array: &GenericListArray<O>, item: &FieldRef) -> Result<ArrayRef, ArrowError> {
    let (offsets, values) = cut_to_rows(array.offsets(), array.values());
    let values = reshape(&values, item.data_type())?;
    Ok(Arc::new(GenericListArray::try_new(
        Arc::clone(item),
        offsets,
        values,
        array.nulls().cloned(),
    )?))
}

fn reshape_fixed_size_list(array: &FixedSizeListArray, item: &FieldRef, size: i32) -> Result<ArrayRef, ArrowError> {
    Ok(Arc::new(FixedSizeListArray::try_new_with_length(
        Arc::clone(item),
        size,
        reshape(array.values(), item.data_type())?,
        array.nulls().cloned(),
        array.len(),
    )?))
}

fn reshape_map(array: &MapArray, entries: &FieldRef, ordered: bool) -> Result<ArrayRef, ArrowError> {
    let of_map: ArrayRef = Arc::new(array.entries().clone());
    let (offsets, values) = cut_to_rows(array.offsets(), &of_map);
    Ok(Arc::new(MapArray::try_new(
        Arc::clone(entries),
        offsets,
        reshape(&values, entries.data_type())?.as_struct().clone(),
        array.nulls().cloned(),
        ordered,
    )?))
}

fn reshape_union(array: &UnionArray, fields: &UnionFields) -> Result<ArrayRef, ArrowError> {
    let children = fields.iter();
    let children = children.map(|(id, field)| reshape(array.child(id), field.data_type()));
    Ok(Arc::new(UnionArray::try_new(
        fields.clone(),
        array.type_ids().clone(),
        array.offsets().cloned(),
        children.collect::<Result<_, _>>()?,
    )?))
}

fn has_same_members(one: &UnionFields, other: &UnionFields) -> bool {
    let ids = |fields: &UnionFields| fields.iter().map(|(id, _)| id).collect::<Vec<_>>();
    ids(one) == ids(other)
}

/// Offsets that begin at zero, and the values that they cover.
fn cut_to_rows<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>, values: &ArrayRef) -> (OffsetBuffer<O>, ArrayRef) {
    let (first, last) = (offsets[0].as_usize(), offsets[offsets.len() - 1].as_usize());
    if first == 0 && last == values.len() {
        return (offsets.clone(), Arc::clone(values));
    }
    let from_zero = OffsetBuffer::from_lengths(offsets.lengths());
    (from_zero, values.slice(first, last - first))
}
