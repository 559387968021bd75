//! What a batch weighs, and how to make it weigh no more than its rows.
//!
//! Arrays share buffers: a slice of ten rows may keep a gigabyte alive, and a string view array keeps every buffer that
//! any of its ancestors had. A store that keeps such batches would hold far more than it charges for, and the IPC
//! encoder, which cuts plain buffers to the slice, sends the buffers of views whole.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayData, ArrayRef, AsArray, ByteView, FixedSizeListArray, GenericByteViewArray,
    GenericListArray, MapArray, MutableArrayData, OffsetSizeTrait, RecordBatch, RecordBatchOptions,
    StructArray, make_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{ByteViewType, DataType};
use arrow::error::ArrowError;

/// So little waste is not worth a copy.
const SLACK_BYTES: usize = 16 * 1024;

/// Bytes of the rows of `batch`, however much its buffers hold besides.
pub(crate) fn sliced_bytes(batch: &RecordBatch) -> usize {
    batch
        .columns()
        .iter()
        .map(|column| array_bytes(column))
        .sum()
}

/// Bytes that `batch` keeps alive, each shared buffer counted once.
pub(crate) fn held_bytes(batch: &RecordBatch) -> usize {
    let mut seen = HashSet::new();
    let columns = batch.columns().iter();
    columns
        .map(|column| buffer_bytes(&column.to_data(), &mut seen))
        .sum()
}

/// The same rows, in buffers that hold at most about as much again.
pub(crate) fn compact(batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    let batch = compact_views(batch)?;
    if held_bytes(&batch) <= 2 * sliced_bytes(&batch) + SLACK_BYTES {
        return Ok(batch);
    }
    let columns = batch.columns().iter();
    let columns = columns.map(copy).collect::<Result<_, _>>()?;
    with_columns(&batch, columns)
}

/// The same rows; the buffers of string and binary views hold little else, wherever they are nested.
pub(crate) fn compact_views(batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    let fields = batch.schema_ref().fields();
    if !fields.iter().any(|field| has_views(field.data_type())) {
        return Ok(batch);
    }
    let columns = batch.columns().iter();
    let columns = columns.map(with_compact_views).collect::<Result<_, _>>()?;
    with_columns(&batch, columns)
}

/// `columns` in place of those of `batch`; without columns, its row count stays.
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
        _ => {
            let data = array.to_data();
            data.get_slice_memory_size()
                .unwrap_or_else(|_| data.get_buffer_memory_size())
        }
    };
    nulls + values
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
    let buffers = data
        .buffers()
        .iter()
        .chain(data.nulls().map(|nulls| nulls.buffer()));
    let mut bytes = 0;
    for buffer in buffers {
        if seen.insert(buffer.data_ptr().addr().get()) {
            bytes += buffer.capacity();
        }
    }
    let children = data.child_data().iter();
    bytes
        + children
            .map(|child| buffer_bytes(child, seen))
            .sum::<usize>()
}

fn copy(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let data = array.to_data();
    let mut rows = MutableArrayData::new(vec![&data], false, data.len());
    rows.try_extend(0, 0, data.len())?;
    Ok(make_array(rows.freeze()))
}

fn has_views(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8View | DataType::BinaryView => true,
        DataType::Struct(fields) => fields.iter().any(|field| has_views(field.data_type())),
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => has_views(field.data_type()),
        DataType::Dictionary(_, values) => has_views(values),
        _ => false,
    }
}

fn with_compact_views(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    if !has_views(array.data_type()) {
        return Ok(Arc::clone(array));
    }
    Ok(match array.data_type() {
        DataType::Utf8View => compact_view(array.as_string_view()).unwrap_or(Arc::clone(array)),
        DataType::BinaryView => compact_view(array.as_binary_view()).unwrap_or(Arc::clone(array)),
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns().iter();
            Arc::new(StructArray::try_new_with_length(
                fields.clone(),
                columns.map(with_compact_views).collect::<Result<_, _>>()?,
                array.nulls().cloned(),
                array.len(),
            )?)
        }
        DataType::List(_) => compact_list(array.as_list::<i32>())?,
        DataType::LargeList(_) => compact_list(array.as_list::<i64>())?,
        DataType::FixedSizeList(field, size) => {
            let values = with_compact_views(array.as_fixed_size_list().values())?;
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
                from_zero(map.offsets()),
                with_compact_views(&entries)?.as_struct().clone(),
                map.nulls().cloned(),
                *ordered,
            )?)
        }
        _ => match array.as_any_dictionary_opt() {
            Some(dictionary) => dictionary.with_values(with_compact_views(dictionary.values())?),
            None => Arc::clone(array),
        },
    })
}

fn compact_view<T: ByteViewType + ?Sized>(array: &GenericByteViewArray<T>) -> Option<ArrayRef> {
    let used = array.total_buffer_bytes_used();
    // Stricter than for whole batches: after a hash in two parts, each would send the texts of both.
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
        from_zero(list.offsets()),
        with_compact_views(&list.values().slice(start, length))?,
        list.nulls().cloned(),
    )?))
}

fn from_zero<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>) -> OffsetBuffer<O> {
    OffsetBuffer::from_lengths(offsets.lengths())
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray, StringViewArray};
    use arrow::datatypes::{Field, Int32Type};

    use super::*;

    fn long(number: usize) -> String {
        format!("a string that does not fit into a view {number:010}")
    }

    fn batch_of(array: ArrayRef) -> RecordBatch {
        RecordBatch::try_from_iter([("c", array)]).unwrap()
    }

    fn views(rows: usize) -> ArrayRef {
        Arc::new(StringViewArray::from_iter_values((0..rows).map(long)))
    }

    fn nested(rows: usize) -> Vec<ArrayRef> {
        let values = views(rows * 2);
        let field = Arc::new(Field::new("item", DataType::Utf8View, true));
        let offsets = OffsetBuffer::from_lengths(vec![2; rows]);
        let list =
            GenericListArray::<i32>::new(Arc::clone(&field), offsets, Arc::clone(&values), None);
        let fixed = FixedSizeListArray::new(Arc::clone(&field), 2, Arc::clone(&values), None);
        let structure = StructArray::from(vec![(field, views(rows))]);
        let entries = StructArray::from(vec![
            (
                Arc::new(Field::new("keys", DataType::Int64, false)),
                Arc::new(Int64Array::from_iter_values(0..2 * rows as i64)) as ArrayRef,
            ),
            (
                Arc::new(Field::new("values", DataType::Utf8View, true)),
                values,
            ),
        ]);
        let field = Arc::new(Field::new("entries", entries.data_type().clone(), false));
        let map = MapArray::new(
            field,
            OffsetBuffer::from_lengths(vec![2; rows]),
            entries,
            None,
            false,
        );
        vec![
            Arc::new(list),
            Arc::new(fixed),
            Arc::new(structure),
            Arc::new(map),
        ]
    }

    #[test]
    fn a_slice_weighs_its_rows() {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100_000));
        let text: ArrayRef = Arc::new(StringArray::from_iter_values((0..100_000).map(long)));
        for array in [numbers, text, views(100_000)] {
            let whole = batch_of(array);
            let slice = whole.slice(500, 10);
            assert!(sliced_bytes(&slice) < 1_000, "{}", sliced_bytes(&slice));
            assert!(held_bytes(&slice) > 500_000, "{}", held_bytes(&slice));
            let compacted = compact(slice.clone()).unwrap();
            assert_eq!(compacted, slice);
            assert!(held_bytes(&compacted) < 5_000, "{}", held_bytes(&compacted));
        }
    }

    #[test]
    fn a_batch_that_fits_is_handed_on_as_it_is() {
        let batch = batch_of(Arc::new(Int64Array::from_iter_values(0..100_000)));
        let same = compact(batch.clone()).unwrap();
        assert!(Arc::ptr_eq(batch.column(0), same.column(0)));
    }

    #[test]
    fn shared_buffers_count_once() {
        let array: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
        let batch = RecordBatch::try_from_iter([("a", Arc::clone(&array)), ("b", array)]).unwrap();
        assert!(held_bytes(&batch) < 9_000);
    }

    #[test]
    fn nested_views_are_compacted() {
        for array in nested(5_000) {
            let name = array.data_type().to_string();
            let slice = batch_of(array).slice(100, 10);
            let compacted = compact_views(slice.clone()).unwrap();
            assert_eq!(compacted, slice, "{name}");
            compacted.column(0).to_data().validate_full().unwrap();
            let views_kept = held_bytes(&compacted) < held_bytes(&slice) / 2;
            assert!(views_kept, "{name}: {}", held_bytes(&compacted));
            assert!(
                sliced_bytes(&slice) < 4_000,
                "{name}: {}",
                sliced_bytes(&slice)
            );
        }
    }

    #[test]
    fn the_values_of_a_dictionary_are_compacted() {
        let keys = arrow::array::PrimitiveArray::<Int32Type>::from(vec![0, 1, 0]);
        let values = views(10_000).slice(10, 2);
        let array = arrow::array::DictionaryArray::new(keys, values);
        let batch = batch_of(Arc::new(array));
        let compacted = compact_views(batch.clone()).unwrap();
        assert_eq!(compacted, batch);
        assert!(held_bytes(&compacted) < 5_000);
    }
}
