//! Test helpers of several modules: batches of every type, attempt keys, and stores in temporary folders.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryViewArray, BooleanArray, Decimal128Array, DictionaryArray, FixedSizeBinaryArray, Int32Array,
    Int64Array, Int64Builder, LargeBinaryArray, ListBuilder, ListViewArray, MapBuilder, NullArray, RecordBatch,
    RecordBatchOptions, StringArray, StringBuilder, StringDictionaryBuilder, StringViewArray, StringViewBuilder,
    StructArray, TimestampMicrosecondArray, UnionArray,
};
use arrow::datatypes::{DataType, Field, Int8Type, Int32Type, Schema, UnionFields};
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool, UnboundedMemoryPool};
use squadron_proto::{AttemptKey, AttemptNumber, QueryId, StageId, TaskId};
use tempfile::TempDir;

use crate::{Store, StoreOptions};

pub(crate) fn key(stage: u32, task: u32) -> AttemptKey {
    AttemptKey {
        query: QueryId::from_u128(1),
        stage: StageId(stage),
        task: TaskId(task),
        attempt: AttemptNumber(0),
    }
}

/// A store in a temporary folder, removed with it.
pub(crate) struct TestStore {
    pub(crate) store: Store,
    pub(crate) folder: TempDir,
    pub(crate) pool: Arc<dyn MemoryPool>,
}

/// A store with a memory pool of `pool_bytes`, none for no limit.
pub(crate) fn store(pool_bytes: Option<usize>) -> TestStore {
    let pool: Arc<dyn MemoryPool> = match pool_bytes {
        Some(bytes) => Arc::new(GreedyMemoryPool::new(bytes)),
        None => Arc::new(UnboundedMemoryPool::default()),
    };
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        spill_dir: folder.path().to_path_buf(),
        streamed_bytes: 64 * 1024,
        max_spill_bytes: 1 << 30,
    };
    TestStore {
        store: Store::new(Arc::clone(&pool), options).unwrap(),
        folder,
        pool,
    }
}

/// Rows `start..start + rows` of a number and a text that is too long to be inlined in a view.
pub(crate) fn number_rows(start: i64, rows: usize) -> RecordBatch {
    let numbers = start..start + rows as i64;
    let texts = numbers.clone().map(|n| format!("text of row number {n:012}"));
    RecordBatch::try_from_iter([
        ("number", Arc::new(Int64Array::from_iter_values(numbers)) as ArrayRef),
        ("text", Arc::new(StringArray::from_iter_values(texts))),
    ])
    .unwrap()
}

/// The `number` column of some batches.
pub(crate) fn numbers(batches: &[RecordBatch]) -> Vec<i64> {
    let columns = batches.iter().map(|batch| batch.column(0));
    columns
        .flat_map(|column| {
            let column = column.as_any().downcast_ref::<Int64Array>().unwrap();
            column.values().to_vec()
        })
        .collect()
}

/// Rows without columns.
pub(crate) fn without_columns(rows: usize) -> RecordBatch {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap()
}

/// Batches of every type, some of them slices.
pub(crate) fn samples() -> Vec<(&'static str, RecordBatch)> {
    let flat = RecordBatch::try_from_iter_with_nullable([
        (
            "int",
            Arc::new(Int32Array::from(vec![Some(1), None, Some(3)])) as ArrayRef,
            true,
        ),
        (
            "bool",
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
            true,
        ),
        ("decimal", Arc::new(Decimal128Array::from(vec![1, 2, 3])), true),
        (
            "time",
            Arc::new(TimestampMicrosecondArray::from(vec![1, 2, 3]).with_timezone("UTC")),
            true,
        ),
        (
            "text",
            Arc::new(StringArray::from(vec![Some(""), None, Some("x")])),
            true,
        ),
        (
            "binary",
            Arc::new(LargeBinaryArray::from(vec![&b"a"[..], b"", b"c"])),
            true,
        ),
        (
            "fixed",
            Arc::new(FixedSizeBinaryArray::try_from_iter([b"ab", b"cd", b"ef"].iter()).unwrap()),
            true,
        ),
        ("null", Arc::new(NullArray::new(3)), true),
    ])
    .unwrap();
    let one = |array: ArrayRef| RecordBatch::try_from_iter_with_nullable([("c", array, true)]).unwrap();
    let huge = "x".repeat(5_000_000);
    vec![
        ("flat", flat.clone()),
        ("slice", flat.slice(1, 1)),
        ("numbered", number_rows(0, 10_000)),
        ("slice of many", number_rows(0, 10_000).slice(5_000, 3)),
        ("views", one(views(1000))),
        ("slice of views", one(views(100_000)).slice(70_000, 20)),
        (
            "binary views",
            one(Arc::new(BinaryViewArray::from_iter_values([&b"a"[..], &[7; 100]]))),
        ),
        ("dictionaries", dictionaries(["a", "b"])),
        ("other dictionaries", dictionaries(["c", "d"])),
        ("lists", one(lists())),
        ("slice of lists", one(lists()).slice(1, 2)),
        ("maps", one(maps())),
        ("structs", one(structs())),
        ("list views", one(list_views())),
        ("slice of list views", one(list_views()).slice(1, 2)),
        ("dense union", one(union(true))),
        ("slice of dense union", one(union(true)).slice(1, 2)),
        ("sparse union", one(union(false))),
        ("slice of sparse union", one(union(false)).slice(1, 2)),
        ("without columns", without_columns(123_456)),
        ("5 MB cell", one(Arc::new(StringArray::from(vec!["a", &huge, "b"])))),
        ("5 MB view", one(Arc::new(StringViewArray::from(vec!["a", &huge, "b"])))),
    ]
}

fn list_views() -> ArrayRef {
    let item = Arc::new(Field::new("item", DataType::Utf8View, true));
    let sizes = vec![2, 0, 3].into();
    let nulls = Some(vec![true, false, true].into());
    Arc::new(ListViewArray::new(item, vec![4, 0, 1].into(), sizes, views(8), nulls))
}

fn union(dense: bool) -> ArrayRef {
    let field = |name: &str, data_type| Arc::new(Field::new(name, data_type, true));
    let fields = [field("n", DataType::Int32), field("t", DataType::Utf8View)];
    let fields = UnionFields::try_new([0, 3], fields).unwrap();
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3]));
    let offsets = dense.then(|| vec![2, 0, 1].into());
    let union = UnionArray::try_new(fields, vec![3, 0, 3].into(), offsets, vec![numbers, views(3)]);
    Arc::new(union.unwrap())
}

fn views(rows: usize) -> ArrayRef {
    let texts = (0..rows).map(|n| (n % 7 != 0).then(|| format!("a rather long text, number {n}")));
    Arc::new(texts.collect::<StringViewArray>())
}

/// Two dictionary columns of two key types, one of them inside a struct.
fn dictionaries(values: [&str; 2]) -> RecordBatch {
    let mut first = StringDictionaryBuilder::<Int32Type>::new();
    let mut second = StringDictionaryBuilder::<Int8Type>::new();
    for row in 0..100 {
        first.append_value(values[row % 2]);
        second.append_option((row % 3 > 0).then(|| values[row % 2].repeat(2)));
    }
    let second: DictionaryArray<Int8Type> = second.finish();
    let field = Arc::new(Field::new_dictionary("inner", DataType::Int8, DataType::Utf8, true));
    let inner = StructArray::from(vec![(field, Arc::new(second) as ArrayRef)]);
    RecordBatch::try_from_iter_with_nullable([
        ("first", Arc::new(first.finish()) as ArrayRef, true),
        ("second", Arc::new(inner), true),
    ])
    .unwrap()
}

fn lists() -> ArrayRef {
    let mut lists = ListBuilder::new(StringViewBuilder::new());
    for row in 0..4 {
        for item in 0..row {
            lists
                .values()
                .append_value(format!("item {item} of the list in row {row}"));
        }
        lists.append(row != 2);
    }
    Arc::new(lists.finish())
}

fn maps() -> ArrayRef {
    let mut maps = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    for row in 0..3 {
        for entry in 0..row {
            maps.keys().append_value(format!("key {entry}"));
            maps.values().append_value(entry);
        }
        maps.append(true).unwrap();
    }
    Arc::new(maps.finish())
}

fn structs() -> ArrayRef {
    let field = Arc::new(Field::new("list", lists().data_type().clone(), true));
    Arc::new(StructArray::from(vec![(field, lists())]))
}
