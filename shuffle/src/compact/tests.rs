//! Tests of batch sizes and of compaction.

use arrow::array::{Int32Array, Int64Array, ListViewArray, RunArray, StringArray, StringViewArray, UnionArray};
use arrow::datatypes::{Field, Int32Type, UnionFields};

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
    let list = GenericListArray::<i32>::new(Arc::clone(&field), offsets, Arc::clone(&values), None);
    let fixed = FixedSizeListArray::new(Arc::clone(&field), 2, Arc::clone(&values), None);
    let structure = StructArray::from(vec![(field, views(rows))]);
    let entries = StructArray::from(vec![
        (
            Arc::new(Field::new("keys", DataType::Int64, false)),
            Arc::new(Int64Array::from_iter_values(0..2 * rows as i64)) as ArrayRef,
        ),
        (Arc::new(Field::new("values", DataType::Utf8View, true)), values),
    ]);
    let field = Arc::new(Field::new("entries", entries.data_type().clone(), false));
    let map = MapArray::new(field, OffsetBuffer::from_lengths(vec![2; rows]), entries, None, false);
    vec![Arc::new(list), Arc::new(fixed), Arc::new(structure), Arc::new(map)]
}

#[test]
fn slice_weighs_only_its_rows() {
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
fn compact_batch_is_passed_unchanged() {
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
        let compacted = compact_shared(slice.clone()).unwrap();
        assert_eq!(compacted, slice, "{name}");
        compacted.column(0).to_data().validate_full().unwrap();
        let views_kept = held_bytes(&compacted) < held_bytes(&slice) / 2;
        assert!(views_kept, "{name}: {}", held_bytes(&compacted));
        assert!(sliced_bytes(&slice) < 4_000, "{name}: {}", sliced_bytes(&slice));
    }
}

#[test]
fn dictionary_values_are_compacted() {
    let keys = arrow::array::PrimitiveArray::<Int32Type>::from(vec![0, 1, 0]);
    let values = views(10_000).slice(10, 2);
    let array = arrow::array::DictionaryArray::new(keys, values);
    let batch = batch_of(Arc::new(array));
    let compacted = compact_shared(batch.clone()).unwrap();
    assert_eq!(compacted, batch);
    assert!(held_bytes(&compacted) < 5_000);
}

/// Arrays whose children the encoder sends whole, with long texts in views.
fn shared(rows: usize) -> Vec<ArrayRef> {
    let field = Arc::new(Field::new("item", DataType::Utf8View, true));
    let starts = (0..rows as i32).rev().collect::<Vec<_>>();
    let list = ListViewArray::new(
        Arc::clone(&field),
        starts.clone().into(),
        vec![1; rows].into(),
        views(rows),
        None,
    );
    let fields = UnionFields::try_new(
        [0, 4],
        [Arc::clone(&field), Arc::new(Field::new("n", DataType::Int64, true))],
    );
    let fields = fields.unwrap();
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
    let ids = || {
        (0..rows)
            .map(|row| if row % 2 == 0 { 0_i8 } else { 4 })
            .collect::<Vec<_>>()
            .into()
    };
    let children = || vec![views(rows), Arc::clone(&numbers)];
    let dense = UnionArray::try_new(fields.clone(), ids(), Some(starts.into()), children()).unwrap();
    let sparse = UnionArray::try_new(fields, ids(), None, children()).unwrap();
    let ends = Int32Array::from_iter_values((1..=rows as i32).map(|run| 2 * run));
    let runs = RunArray::<Int32Type>::try_new(&ends, &views(rows)).unwrap();
    vec![Arc::new(list), Arc::new(dense), Arc::new(sparse), Arc::new(runs)]
}

#[test]
fn slice_keeps_only_its_children() {
    for array in shared(5_000) {
        let name = array.data_type().to_string();
        for (start, length) in [(0, 3), (1_000, 11), (4_999, 1), (17, 0)] {
            let slice = batch_of(array.slice(start, length));
            let compacted = compact_shared(slice.clone()).unwrap();
            assert_eq!(compacted.schema(), slice.schema(), "{name}");
            assert_eq!(format(&compacted), format(&slice), "{name}");
            compacted.column(0).to_data().validate_full().unwrap();
            assert!(
                held_bytes(&compacted) < held_bytes(&slice) / 2,
                "{name}: {}",
                held_bytes(&compacted)
            );
            assert!(sliced_bytes(&slice) < 4_000, "{name}: {}", sliced_bytes(&slice));
        }
    }
}

fn format(batch: &RecordBatch) -> String {
    arrow::util::pretty::pretty_format_batches(std::slice::from_ref(batch))
        .unwrap()
        .to_string()
}
