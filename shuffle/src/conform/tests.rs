//! Tests of [`super::conform`].

use arrow::array::{
    Array, AsArray, DictionaryArray, FixedSizeListArray, Int32Array, ListArray, ListViewArray, NullArray, RunArray,
    StringViewArray, StructArray, UnionArray,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, UnionFields, UnionMode};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use squadron_proto::FailureKind;

use super::*;

fn batch() -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable([
        ("a", Arc::new(Int32Array::from(vec![1, 2])) as ArrayRef, true),
        ("b", Arc::new(StringViewArray::from(vec!["x", "y"])), true),
        ("c", Arc::new(NullArray::new(2)), true),
    ])
    .unwrap()
}

fn schema(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}

#[test]
fn equal_schema_changes_nothing() {
    let batch = batch();
    let same = conform(batch.clone(), &Arc::new(batch.schema().as_ref().clone())).unwrap();
    assert!(Arc::ptr_eq(batch.column(1), same.column(1)));
}

#[test]
fn batch_takes_the_declared_schema() {
    let wanted = schema(vec![
        Field::new("k", DataType::Int64, false).with_metadata([("unit".to_string(), "m".to_string())].into()),
        Field::new("name", DataType::Utf8, true),
        Field::new("none", DataType::Int32, true),
    ]);
    let conformed = conform(batch(), &wanted).unwrap();
    assert_eq!(conformed.schema(), wanted);
    assert_eq!(conformed.column(1).as_string::<i32>().value(1), "y");
    assert_eq!(conformed.column(2).null_count(), 2);
}

#[test]
fn null_in_required_column_fails() {
    let wanted = schema(vec![
        Field::new("a", DataType::Int32, true),
        Field::new("b", DataType::Utf8View, true),
        Field::new("c", DataType::Int32, false),
    ]);
    let failure = conform(batch(), &wanted).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Internal);
}

#[test]
fn columnless_batch_keeps_row_count() {
    let options = RecordBatchOptions::new().with_row_count(Some(7));
    let batch = RecordBatch::try_new_with_options(schema(vec![]), vec![], &options).unwrap();
    let wanted = Arc::new(Schema::empty().with_metadata([("a".into(), "b".into())].into()));
    assert_eq!(conform(batch, &wanted).unwrap().num_rows(), 7);
}

#[test]
fn different_column_count_fails() {
    assert!(conform(batch(), &schema(vec![])).is_err());
}

/// The array and slices of it, whose offsets do not begin at zero.
fn slices(array: &ArrayRef) -> Vec<ArrayRef> {
    vec![
        Arc::clone(array),
        array.slice(1, array.len() - 1),
        array.slice(1, 1),
        array.slice(0, 0),
    ]
}

fn reshape_valid(array: &ArrayRef, to: &DataType) -> ArrayRef {
    let reshaped = reshape::reshape(array, to).unwrap();
    assert_eq!(reshaped.data_type(), to);
    reshaped.to_data().validate_full().unwrap();
    reshaped
}

fn format(array: &ArrayRef) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let formatter = ArrayFormatter::try_new(array, &options).unwrap();
    (0..array.len()).map(|row| formatter.value(row).to_string()).collect()
}

fn item(data_type: DataType) -> Arc<Field> {
    Arc::new(Field::new("item", data_type, true))
}

/// Three rows of text in views: one too long to be inlined, a null, and a short one.
fn texts() -> ArrayRef {
    Arc::new(StringViewArray::from(vec![
        Some("a text that is longer than a view"),
        None,
        Some("x"),
    ]))
}

#[test]
fn nested_arrays_reshape_at_any_depth() {
    let structure: ArrayRef = Arc::new(StructArray::from(vec![(item(DataType::Utf8View), texts())]));
    let plain = DataType::Struct(vec![item(DataType::Utf8)].into());
    let offsets = || OffsetBuffer::<i32>::from_lengths([1, 0, 2]);
    let list = ListArray::new(
        item(structure.data_type().clone()),
        offsets(),
        Arc::clone(&structure),
        None,
    );
    let fixed = FixedSizeListArray::new(item(DataType::Utf8View), 1, texts(), None);
    let keys = Int32Array::from(vec![Some(2), None, Some(0)]);
    let dictionary = DictionaryArray::new(keys, texts());
    let runs = RunArray::<Int32Type>::try_new(&Int32Array::from(vec![2, 3, 4]), &texts()).unwrap();
    let view = ListViewArray::new(
        item(DataType::Utf8View),
        vec![1, 0, 0].into(),
        vec![2, 0, 2].into(),
        texts(),
        Some(vec![true, false, true].into()),
    );
    for (array, to) in [
        (structure, plain.clone()),
        (Arc::new(list) as ArrayRef, DataType::new_list(plain, true)),
        (Arc::new(fixed), DataType::FixedSizeList(item(DataType::Utf8), 1)),
        (Arc::new(dictionary), DataType::Utf8),
        (Arc::new(runs), DataType::Utf8),
        (Arc::new(view), DataType::new_list(DataType::Utf8, true)),
    ] {
        for slice in slices(&array) {
            assert_eq!(format(&reshape_valid(&slice, &to)), format(&slice), "{to}");
        }
    }
}

#[test]
fn unions_keep_their_members() {
    let field = |name: &str, data_type| Arc::new(Field::new(name, data_type, true));
    let fields = |texts| UnionFields::try_new([3, 5], [field("n", DataType::Int32), field("t", texts)]).unwrap();
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3]));
    let children = || vec![Arc::clone(&numbers), texts()];
    let type_ids = || ScalarBuffer::from(vec![5_i8, 3, 5]);
    let offsets = ScalarBuffer::from(vec![2, 0, 1]);
    for offsets in [None, Some(offsets)] {
        let mode = if offsets.is_some() {
            UnionMode::Dense
        } else {
            UnionMode::Sparse
        };
        let union = UnionArray::try_new(fields(DataType::Utf8View), type_ids(), offsets, children());
        let union: ArrayRef = Arc::new(union.unwrap());
        let to = DataType::Union(fields(DataType::Utf8), mode);
        for slice in slices(&union) {
            assert_eq!(format(&reshape_valid(&slice, &to)), format(&slice), "{mode:?}");
        }
    }
}

#[test]
fn struct_fields_match_by_position() {
    let numbers = |number| Arc::new(Int32Array::from(vec![number])) as ArrayRef;
    let field = |name: &str, data_type| Arc::new(Field::new(name, data_type, true));
    let twice: ArrayRef = Arc::new(StructArray::from(vec![
        (field("a", DataType::Int32), numbers(1)),
        (field("b", DataType::Int32), numbers(2)),
    ]));
    let to = DataType::Struct(vec![field("b", DataType::Int64), field("a", DataType::Int64)].into());
    assert_eq!(format(&reshape_valid(&twice, &to)), ["{b: 1, a: 2}"]);
}
