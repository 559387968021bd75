//! The size of a batch, and its compaction to the size of its rows.
//!
//! Arrays share buffers: a slice of ten rows may keep a gigabyte alive, and a string view array keeps every buffer that
//! any of its ancestors had. A store of such batches would hold far more than it charges for. The IPC encoder cuts
//! plain buffers to the slice, but sends the buffers of views and the children of list views and dense unions whole.

mod parts;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    AnyDictionaryArray, Array, ArrayData, ArrayRef, AsArray, BooleanArray, ByteView, FixedSizeListArray,
    GenericByteViewArray, GenericListArray, MapArray, MutableArrayData, OffsetSizeTrait, RecordBatch,
    RecordBatchOptions, StructArray, UInt64Array, make_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{cast, filter};
use arrow::datatypes::{ByteViewType, DataType, UnionMode};
use arrow::error::ArrowError;

/// Waste of up to this many bytes is not worth a copy.
const SLACK_BYTES: usize = 16 * 1024;

/// Bytes of the rows of `batch`, without what its buffers hold beside them.
pub(crate) fn sliced_bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(|column| array_bytes(column)).sum()
}

/// Bytes that `batch` keeps alive, each shared buffer counted once.
pub(crate) fn held_bytes(batch: &RecordBatch) -> usize {
    let mut seen = HashSet::new();
    let columns = batch.columns().iter();
    columns.map(|column| buffer_bytes(&column.to_data(), &mut seen)).sum()
}

/// The same rows, in buffers of at most about twice their size.
pub(crate) fn compact(batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    let batch = compact_shared(batch)?;
    if held_bytes(&batch) <= 2 * sliced_bytes(&batch) + SLACK_BYTES {
        return Ok(batch);
    }
    let columns = batch.columns().iter();
    let columns = columns.map(copy).collect::<Result<_, _>>()?;
    with_columns(&batch, columns)
}

/// The same rows, where the parts that the encoder sends whole (the buffers of views, the children of list views and
/// dense unions, at any depth) hold little else.
pub(crate) fn compact_shared(batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    let fields = batch.schema_ref().fields();
    if !fields.iter().any(|field| has_shared_parts(field.data_type())) {
        return Ok(batch);
    }
    let columns = batch.columns().iter();
    let columns = columns.map(compact_shared_parts).collect::<Result<_, _>>()?;
    with_columns(&batch, columns)
}

/// `batch` with other `columns`; without columns it keeps its row count.
fn with_columns(batch: &RecordBatch, columns: Vec<ArrayRef>) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options)
}

fn array_bytes(array: &dyn Array) -> usize {
    let nulls = array.nulls().map_or(0, |_| array.len().div_ceil(8));
    let values = match array.data_type() {
        DataType::Utf8View => view_bytes(array.as_string_view()),
        DataType::BinaryView => view_bytes(array.as_binary_view()),
        DataType::Struct(_) => {
            let columns = array.as_struct().columns().iter();
            columns.map(|column| array_bytes(column)).sum()
        }
        DataType::List(_) => list_bytes(array.as_list::<i32>()),
        DataType::LargeList(_) => list_bytes(array.as_list::<i64>()),
        DataType::FixedSizeList(_, _) => array_bytes(array.as_fixed_size_list().values()),
        DataType::Map(_, _) => {
            let map = array.as_map();
            let (start, length) = extent(map.offsets());
            map.len() * size_of::<i32>() + array_bytes(&map.entries().slice(start, length))
        }
        DataType::Dictionary(_, _) => dictionary_bytes(array.as_any_dictionary()),
        _ => match parts::take_apart(array) {
            Some(parts) => {
                let children = parts.children.iter();
                parts.own_bytes + children.map(|child| array_bytes(child)).sum::<usize>()
            }
            None => {
                let data = array.to_data();
                data.get_slice_memory_size()
                    .unwrap_or_else(|_| data.get_buffer_memory_size())
            }
        },
    };
    nulls + values
}

/// Counts no more values than there are rows: compaction drops the others.
fn dictionary_bytes(array: &dyn AnyDictionaryArray) -> usize {
    let (rows, values) = (array.keys().len(), array.values().len());
    let value_bytes = array_bytes(array.values());
    let used = match rows < values {
        true => value_bytes / values * rows,
        false => value_bytes,
    };
    array_bytes(array.keys()) + used
}

fn view_bytes<T: ByteViewType + ?Sized>(array: &GenericByteViewArray<T>) -> usize {
    // Views may share their bytes, as those of one dictionary page do.
    let texts = array.total_buffer_bytes_used().min(data_bytes(array));
    array.len() * size_of::<ByteView>() + texts
}

fn data_bytes<T: ByteViewType + ?Sized>(array: &GenericByteViewArray<T>) -> usize {
    array.data_buffers().iter().map(|buffer| buffer.len()).sum()
}

fn list_bytes<O: OffsetSizeTrait>(list: &GenericListArray<O>) -> usize {
    let (start, length) = extent(list.offsets());
    list.len() * size_of::<O>() + array_bytes(&list.values().slice(start, length))
}

/// Start and length of the child values that a list's offsets cover.
fn extent<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>) -> (usize, usize) {
    let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
    (first.as_usize(), (last - first).as_usize())
}

fn buffer_bytes(data: &ArrayData, seen: &mut HashSet<usize>) -> usize {
    let buffers = data.buffers().iter().chain(data.nulls().map(|nulls| nulls.buffer()));
    let mut bytes = 0;
    for buffer in buffers {
        if seen.insert(buffer.data_ptr().addr().get()) {
            bytes += buffer.capacity();
        }
    }
    let children = data.child_data().iter();
    bytes + children.map(|child| buffer_bytes(child, seen)).sum::<usize>()
}

fn copy(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let data = array.to_data();
    let mut rows = MutableArrayData::new(vec![&data], false, data.len());
    rows.try_extend(0, 0, data.len())?;
    Ok(make_array(rows.freeze()))
}

fn has_shared_parts(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8View | DataType::BinaryView => true,
        DataType::Struct(fields) => fields.iter().any(|field| has_shared_parts(field.data_type())),
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => has_shared_parts(field.data_type()),
        DataType::Dictionary(_, _) => true,
        DataType::ListView(_) | DataType::LargeListView(_) => true,
        DataType::Union(_, UnionMode::Dense) => true,
        DataType::Union(fields, UnionMode::Sparse) => {
            fields.iter().any(|(_, field)| has_shared_parts(field.data_type()))
        }
        DataType::RunEndEncoded(_, values) => has_shared_parts(values.data_type()),
        _ => false,
    }
}

fn compact_shared_parts(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    if !has_shared_parts(array.data_type()) {
        return Ok(Arc::clone(array));
    }
    Ok(match array.data_type() {
        DataType::Utf8View => compact_view(array.as_string_view()).unwrap_or(Arc::clone(array)),
        DataType::BinaryView => compact_view(array.as_binary_view()).unwrap_or(Arc::clone(array)),
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns().iter();
            Arc::new(StructArray::try_new_with_length(
                fields.clone(),
                columns.map(compact_shared_parts).collect::<Result<_, _>>()?,
                array.nulls().cloned(),
                array.len(),
            )?)
        }
        DataType::List(_) => compact_list(array.as_list::<i32>())?,
        DataType::LargeList(_) => compact_list(array.as_list::<i64>())?,
        DataType::FixedSizeList(field, size) => {
            let values = compact_shared_parts(array.as_fixed_size_list().values())?;
            let field = Arc::clone(field);
            let nulls = array.nulls().cloned();
            let length = array.len();
            Arc::new(FixedSizeListArray::try_new_with_length(
                field, *size, values, nulls, length,
            )?)
        }
        DataType::Map(field, ordered) => {
            let map = array.as_map();
            let (start, length) = extent(map.offsets());
            let entries: ArrayRef = Arc::new(map.entries().slice(start, length));
            Arc::new(MapArray::try_new(
                Arc::clone(field),
                rebase(map.offsets()),
                compact_shared_parts(&entries)?.as_struct().clone(),
                map.nulls().cloned(),
                *ordered,
            )?)
        }
        _ => match (array.as_any_dictionary_opt(), parts::take_apart(array)) {
            (Some(dictionary), _) => compact_dictionary(dictionary)?,
            (None, Some(parts)) => parts.with_children(compact_shared_parts)?,
            (None, None) => Arc::clone(array),
        },
    })
}

/// Drops the values that no row uses, where there are more values than rows.
fn compact_dictionary(array: &dyn AnyDictionaryArray) -> Result<ArrayRef, ArrowError> {
    let (rows, values) = (array.keys().len(), array.values());
    if rows >= values.len() {
        return Ok(array.with_values(compact_shared_parts(values)?));
    }
    let keys = array.normalized_keys();
    let mut used = vec![false; values.len()];
    for (row, key) in keys.iter().enumerate() {
        used[*key] |= array.keys().is_valid(row);
    }
    let places: Vec<u64> = used
        .iter()
        .scan(0, |before, used| {
            let place = *before;
            *before += u64::from(*used);
            Some(place)
        })
        .collect();
    let keys = UInt64Array::new(
        keys.iter().map(|key| places[*key]).collect(),
        array.keys().logical_nulls(),
    );
    let keys = cast(&keys, array.keys().data_type())?;
    let values = filter(values, &BooleanArray::from(used))?;
    let data = keys.to_data().into_builder().data_type(array.data_type().clone());
    let data = data.add_child_data(compact_shared_parts(&values)?.to_data());
    Ok(make_array(data.build()?))
}

fn compact_view<T: ByteViewType + ?Sized>(array: &GenericByteViewArray<T>) -> Option<ArrayRef> {
    let used = array.total_buffer_bytes_used();
    // Stricter than for whole batches: after a hash into two partitions, each would send the texts of both.
    let wasteful = data_bytes(array) > used + used / 4 + SLACK_BYTES;
    wasteful.then(|| Arc::new(array.gc()) as ArrayRef)
}

fn compact_list<O: OffsetSizeTrait>(list: &GenericListArray<O>) -> Result<ArrayRef, ArrowError> {
    let (DataType::List(field) | DataType::LargeList(field)) = list.data_type() else {
        return Ok(Arc::new(list.clone()));
    };
    let (start, length) = extent(list.offsets());
    Ok(Arc::new(GenericListArray::try_new(
        Arc::clone(field),
        rebase(list.offsets()),
        compact_shared_parts(&list.values().slice(start, length))?,
        list.nulls().cloned(),
    )?))
}

/// The same lengths, with offsets that begin at zero.
fn rebase<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>) -> OffsetBuffer<O> {
    OffsetBuffer::from_lengths(offsets.lengths())
}
