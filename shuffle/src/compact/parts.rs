//! List views, unions and run-ends: arrays whose slices keep all of their children.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, GenericListViewArray, OffsetSizeTrait, PrimitiveArray, RunArray, UnionArray,
    make_array,
};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{ArrowNativeType, DataType, Int16Type, Int32Type, Int64Type, RunEndIndexType, UnionFields};
use arrow::error::ArrowError;

/// The parts of an array, its children cut to the range that its rows cover.
pub(super) struct Parts<'a> {
    array: &'a dyn Array,
    /// Bytes without those of the children.
    pub(super) own_bytes: usize,
    /// In the order in which the type lists them.
    pub(super) children: Vec<ArrayRef>,
}

/// The parts of a list view, a union or a run-end encoded array; none of other arrays.
pub(super) fn take_apart(array: &dyn Array) -> Option<Parts<'_>> {
    let rows = array.len();
    let (own_bytes, children) = match array.data_type() {
        DataType::ListView(_) => (rows * 8, vec![values(array.as_list_view::<i32>())]),
        DataType::LargeListView(_) => (rows * 16, vec![values(array.as_list_view::<i64>())]),
        DataType::Union(fields, _) => {
            let union = array.as_union();
            let offset_bytes = union.offsets().map_or(0, |_| rows * 4);
            (rows + offset_bytes, members(union, fields))
        }
        DataType::RunEndEncoded(ends, _) => (
            0,
            match ends.data_type() {
                DataType::Int16 => runs::<Int16Type>(array)?,
                DataType::Int32 => runs::<Int32Type>(array)?,
                _ => runs::<Int64Type>(array)?,
            },
        ),
        _ => return None,
    };
    Some(Parts {
        array,
        own_bytes,
        children,
    })
}

impl Parts<'_> {
    /// Builds the array from its parts, in buffers of its own, with `change` applied to each child.
    pub(super) fn with_children(
        &self,
        change: impl Fn(&ArrayRef) -> Result<ArrayRef, ArrowError>,
    ) -> Result<ArrayRef, ArrowError> {
        let children = self.children.iter().map(change).collect::<Result<Vec<_>, _>>()?;
        match self.array.data_type() {
            DataType::ListView(_) => list_view(self.array.as_list_view::<i32>(), children),
            DataType::LargeListView(_) => list_view(self.array.as_list_view::<i64>(), children),
            DataType::Union(fields, _) => union(self.array.as_union(), fields, children),
            data_type => {
                let children = children.iter().map(|child| child.to_data()).collect();
                let data = ArrayData::builder(data_type.clone())
                    .len(self.array.len())
                    .child_data(children);
                Ok(make_array(data.build()?))
            }
        }
    }
}

fn values<O: OffsetSizeTrait>(list: &GenericListViewArray<O>) -> ArrayRef {
    let (start, end) = value_extent(list);
    list.values().slice(start, end - start)
}

/// Start and end of the values that rows refer to.
fn value_extent<O: OffsetSizeTrait>(list: &GenericListViewArray<O>) -> (usize, usize) {
    let rows = list
        .offsets()
        .iter()
        .zip(list.sizes())
        .filter(|(_, size)| **size > O::zero());
    let extents = rows.map(|(start, size)| (start.as_usize(), (*start + *size).as_usize()));
    let together = extents.reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)));
    together.unwrap_or_default()
}

fn list_view<O: OffsetSizeTrait>(
    list: &GenericListViewArray<O>,
    mut children: Vec<ArrayRef>,
) -> Result<ArrayRef, ArrowError> {
    let (DataType::ListView(field) | DataType::LargeListView(field)) = list.data_type() else {
        return Ok(Arc::new(list.clone()));
    };
    let (first, _) = value_extent(list);
    let rows = list.offsets().iter().zip(list.sizes());
    let offsets = rows.map(|(start, size)| match *size > O::zero() {
        true => *start - O::usize_as(first),
        false => O::zero(),
    });
    Ok(Arc::new(GenericListViewArray::try_new(
        Arc::clone(field),
        offsets.collect(),
        list.sizes().clone(),
        children.swap_remove(0),
        list.nulls().cloned(),
    )?))
}

fn members(union: &UnionArray, fields: &UnionFields) -> Vec<ArrayRef> {
    let extents = extents(union);
    let cut = |id| match &extents {
        None => Arc::clone(union.child(id)),
        Some(extents) => {
            let (first, end) = extents.get(&id).copied().unwrap_or_default();
            union.child(id).slice(first, end - first)
        }
    };
    fields.iter().map(|(id, _)| cut(id)).collect()
}

/// Start and end of the rows of each child that a dense union uses; a sparse union uses as many as it has rows.
fn extents(union: &UnionArray) -> Option<HashMap<i8, (usize, usize)>> {
    let mut extents = HashMap::new();
    for (id, offset) in union.type_ids().iter().zip(union.offsets()?) {
        let row = offset.as_usize();
        let (first, end) = extents.entry(*id).or_insert((row, row + 1));
        *first = row.min(*first);
        *end = (row + 1).max(*end);
    }
    Some(extents)
}

fn union(union: &UnionArray, fields: &UnionFields, children: Vec<ArrayRef>) -> Result<ArrayRef, ArrowError> {
    let moved = extents(union).zip(union.offsets()).map(|(extents, offsets)| {
        let rows = union.type_ids().iter().zip(offsets);
        let first = |id| extents.get(id).map_or(0, |(first, _)| *first);
        rows.map(|(id, offset)| i32::usize_as(offset.as_usize() - first(id)))
            .collect::<ScalarBuffer<i32>>()
    });
    let type_ids = union.type_ids().clone();
    Ok(Arc::new(UnionArray::try_new(
        fields.clone(),
        type_ids,
        moved,
        children,
    )?))
}

/// Run ends from the first row of the slice, and the values of those runs.
fn runs<R: RunEndIndexType>(array: &dyn Array) -> Option<Vec<ArrayRef>> {
    let runs = array.as_any().downcast_ref::<RunArray<R>>()?;
    let ends = PrimitiveArray::<R>::from_iter_values(runs.run_ends().sliced_values());
    Some(vec![Arc::new(ends), runs.values_slice()])
}
