//! One column of every Arrow type, in an Arrow IPC file.
//!
//! Each column has six rows: the two ends of its range, NULL, a value between, and one value twice.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, BinaryArray, BinaryDictionaryBuilder, BooleanArray, FixedSizeBinaryArray,
    FixedSizeListArray, Float32Array, GenericListViewArray, Int32Array, Int64Array, LargeListArray, ListArray,
    MapArray, NullArray, OffsetSizeTrait, PrimitiveArray, RecordBatch, StringArray, StructArray, UnionArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{cast, take};
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DecimalType,
    DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType, Field, FieldRef,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, IntervalDayTime, IntervalDayTimeType,
    IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalYearMonthType, Schema, Time32MillisecondType,
    Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type, UnionFields,
};
use arrow::ipc::writer::FileWriter;

/// Rows of the table.
pub(super) const ROWS: usize = 6;

/// The columns by name: `id`, then one for each type.
pub(super) fn columns() -> Vec<(String, ArrayRef)> {
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values(0..ROWS as i64));
    let kinds = [
        numbers(),
        decimals(),
        texts(),
        times(),
        timestamps(),
        intervals(),
        nested(),
        encoded(),
        unions(),
    ];
    std::iter::once(("id".to_owned(), id))
        .chain(kinds.into_iter().flatten())
        .collect()
}

/// Writes the table.
pub(super) fn write(file: &Path) {
    let batch = batch();
    let mut writer = FileWriter::try_new(File::create(file).unwrap(), &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
}

/// The table.
pub(super) fn batch() -> RecordBatch {
    let columns = columns();
    let fields: Vec<_> = columns
        .iter()
        .map(|(name, column)| Field::new(name, column.data_type().clone(), name != "id"))
        .collect();
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// Least, greatest, NULL, between, and one value twice.
fn six_values<T: ArrowPrimitiveType>(
    least: T::Native,
    greatest: T::Native,
    between: T::Native,
    twice: T::Native,
) -> ArrayRef {
    let values = [
        Some(least),
        Some(greatest),
        None,
        Some(between),
        Some(twice),
        Some(twice),
    ];
    Arc::new(PrimitiveArray::<T>::from_iter(values))
}

fn name_columns(columns: impl IntoIterator<Item = (&'static str, ArrayRef)>) -> Vec<(String, ArrayRef)> {
    columns
        .into_iter()
        .map(|(name, column)| (name.to_owned(), column))
        .collect()
}

fn numbers() -> Vec<(String, ArrayRef)> {
    let halves = Float32Array::from(vec![
        Some(-65504.0),
        Some(65504.0),
        None,
        Some(f32::NEG_INFINITY),
        Some(0.5),
        Some(0.5),
    ]);
    let booleans = vec![Some(false), Some(true), None, Some(true), Some(false), Some(false)];
    name_columns([
        ("null_", Arc::new(NullArray::new(ROWS)) as ArrayRef),
        ("boolean", Arc::new(BooleanArray::from(booleans))),
        ("int8", six_values::<Int8Type>(i8::MIN, i8::MAX, 0, 7)),
        ("int16", six_values::<Int16Type>(i16::MIN, i16::MAX, 0, 7)),
        ("int32", six_values::<Int32Type>(i32::MIN, i32::MAX, 0, 7)),
        ("int64", six_values::<Int64Type>(i64::MIN, i64::MAX, 0, 7)),
        ("uint8", six_values::<UInt8Type>(0, u8::MAX, 1, 7)),
        ("uint16", six_values::<UInt16Type>(0, u16::MAX, 1, 7)),
        ("uint32", six_values::<UInt32Type>(0, u32::MAX, 1, 7)),
        ("uint64", six_values::<UInt64Type>(0, u64::MAX, 1, 7)),
        ("float16", cast(&halves, &DataType::Float16).unwrap()),
        (
            "float32",
            six_values::<Float32Type>(f32::MIN, f32::MAX, f32::INFINITY, 0.25),
        ),
        ("float64", six_values::<Float64Type>(f64::MIN, f64::MAX, f64::NAN, 0.25)),
    ])
}

/// Decimals up to the largest number of this precision.
fn decimal_values<T: DecimalType>(precision: u8, scale: i8) -> ArrayRef {
    let digits = "9".repeat(precision.into());
    let value = |digits: &str| {
        let text = StringArray::from(vec![digits]);
        let number = cast(&text, &T::TYPE_CONSTRUCTOR(precision, 0)).unwrap();
        number.as_any().downcast_ref::<PrimitiveArray<T>>().unwrap().value(0)
    };
    let values = [
        Some(value(&format!("-{digits}"))),
        Some(value(&digits)),
        None,
        Some(value("0")),
        Some(value("150")),
        Some(value("150")),
    ];
    let array = PrimitiveArray::<T>::from_iter(values);
    Arc::new(array.with_precision_and_scale(precision, scale).unwrap())
}

fn decimals() -> Vec<(String, ArrayRef)> {
    name_columns([
        ("decimal32", decimal_values::<Decimal32Type>(9, 2)),
        ("decimal64", decimal_values::<Decimal64Type>(18, 6)),
        ("decimal128", decimal_values::<Decimal128Type>(38, 10)),
        ("decimal256", decimal_values::<Decimal256Type>(76, 38)),
    ])
}

/// Empty, long, NULL, unusual, and one value twice.
fn text() -> ArrayRef {
    Arc::new(StringArray::from(vec![
        Some(""),
        Some("a text that is longer than the sixteen bytes of a view"),
        None,
        Some("\u{0}\u{1F980} ü\n\"'"),
        Some("same"),
        Some("same"),
    ]))
}

fn binary() -> ArrayRef {
    let long = [7_u8; 50];
    let values: Vec<Option<&[u8]>> = vec![
        Some(b""),
        Some(&long),
        None,
        Some(&[0, 0xff, 0xfe]),
        Some(b"same"),
        Some(b"same"),
    ];
    Arc::new(BinaryArray::from(values))
}

fn texts() -> Vec<(String, ArrayRef)> {
    let fixed = [
        Some([0; 3]),
        Some([0xff; 3]),
        None,
        Some([1, 2, 3]),
        Some([5; 3]),
        Some([5; 3]),
    ];
    let fixed = FixedSizeBinaryArray::try_from_sparse_iter_with_size(fixed.into_iter(), 3).unwrap();
    name_columns([
        ("utf8", text()),
        ("large_utf8", cast(&text(), &DataType::LargeUtf8).unwrap()),
        ("utf8_view", cast(&text(), &DataType::Utf8View).unwrap()),
        ("binary", binary()),
        ("large_binary", cast(&binary(), &DataType::LargeBinary).unwrap()),
        ("binary_view", cast(&binary(), &DataType::BinaryView).unwrap()),
        ("fixed_size_binary", Arc::new(fixed)),
    ])
}

fn times() -> Vec<(String, ArrayRef)> {
    const DAY: i64 = 86_400;
    name_columns([
        ("date32", six_values::<Date32Type>(-719_162, 2_932_896, 0, 19_782)),
        (
            "date64",
            six_values::<Date64Type>(-719_162 * DAY * 1000, 2_932_896 * DAY * 1000, 0, 19_782 * DAY * 1000),
        ),
        ("time32_s", six_values::<Time32SecondType>(0, 86_399, 1, 45_296)),
        (
            "time32_ms",
            six_values::<Time32MillisecondType>(0, 86_399_999, 1, 45_296_789),
        ),
        (
            "time64_us",
            six_values::<Time64MicrosecondType>(0, DAY * 1_000_000 - 1, 1, 45_296_789_012),
        ),
        (
            "time64_ns",
            six_values::<Time64NanosecondType>(0, DAY * 1_000_000_000 - 1, 1, 45_296_789_012_345),
        ),
        ("duration_s", six_values::<DurationSecondType>(-DAY, DAY * 365, 0, 5)),
        (
            "duration_ms",
            six_values::<DurationMillisecondType>(-DAY, DAY * 365, 0, 5),
        ),
        (
            "duration_us",
            six_values::<DurationMicrosecondType>(i64::MIN, i64::MAX, 0, 5),
        ),
        (
            "duration_ns",
            six_values::<DurationNanosecondType>(i64::MIN, i64::MAX, 0, 5),
        ),
    ])
}

fn timestamps() -> Vec<(String, ArrayRef)> {
    // From the year 1 to the year 9999 where the unit reaches that far.
    let (first, last, leap) = (-62_135_596_800, 253_402_300_799, 1_709_210_096);
    let naive = [
        ("s", six_values::<TimestampSecondType>(first, last, 0, leap)),
        (
            "ms",
            six_values::<TimestampMillisecondType>(first * 1_000, last * 1_000 + 999, -1, leap * 1_000 + 789),
        ),
        (
            "us",
            six_values::<TimestampMicrosecondType>(
                first * 1_000_000,
                last * 1_000_000 + 999_999,
                -1,
                leap * 1_000_000 + 789_012,
            ),
        ),
        (
            "ns",
            six_values::<TimestampNanosecondType>(i64::MIN + 1, i64::MAX, -1, leap * 1_000_000_000 + 789_012_345),
        ),
    ];
    let mut columns = Vec::new();
    let zones = [None, Some("UTC"), Some("Europe/Berlin"), Some("+05:30")];
    for (unit, array) in naive {
        for (zone, suffix) in zones.iter().zip(["", "_utc", "_berlin", "_offset"]) {
            let DataType::Timestamp(of, _) = array.data_type() else {
                unreachable!("it is one")
            };
            let data = array
                .to_data()
                .into_builder()
                .data_type(DataType::Timestamp(*of, zone.map(Into::into)));
            columns.push((
                format!("timestamp_{unit}{suffix}"),
                arrow::array::make_array(data.build().unwrap()),
            ));
        }
    }
    columns
}

fn intervals() -> Vec<(String, ArrayRef)> {
    let days = |days, milliseconds| IntervalDayTime { days, milliseconds };
    let all = |months, days, nanoseconds| IntervalMonthDayNano {
        months,
        days,
        nanoseconds,
    };
    name_columns([
        ("interval_ym", six_values::<IntervalYearMonthType>(-14, 1200, 0, 14)),
        (
            "interval_dt",
            six_values::<IntervalDayTimeType>(days(-3, -5), days(999, 86_399_999), days(0, 0), days(1, 500)),
        ),
        (
            "interval_mdn",
            six_values::<IntervalMonthDayNanoType>(all(-1, -2, -3), all(1200, 31, 1 << 40), all(0, 0, 0), all(1, 2, 3)),
        ),
    ])
}

fn item(values: &ArrayRef) -> FieldRef {
    Arc::new(Field::new("item", values.data_type().clone(), true))
}

/// Lengths of the six lists: empty, one value, NULL, two values with a NULL, and twice the same list.
fn lengths() -> [usize; ROWS] {
    [0, 1, 0, 2, 1, 1]
}

/// The values inside the lists.
fn list_values(values: &ArrayRef) -> ArrayRef {
    take(values, &Int32Array::from(vec![1, 2, 3, 4, 5]), None).unwrap()
}

fn validity() -> Option<NullBuffer> {
    Some(vec![true, true, false, true, true, true].into())
}

fn list(values: &ArrayRef) -> ArrayRef {
    let values = list_values(values);
    Arc::new(ListArray::new(
        item(&values),
        OffsetBuffer::from_lengths(lengths()),
        values,
        validity(),
    ))
}

fn large_list(values: &ArrayRef) -> ArrayRef {
    let values = list_values(values);
    Arc::new(LargeListArray::new(
        item(&values),
        OffsetBuffer::from_lengths(lengths()),
        values,
        validity(),
    ))
}

fn list_view<O: OffsetSizeTrait>(values: &ArrayRef) -> ArrayRef {
    let values = list_values(values);
    let starts: Vec<O> = [0, 0, 0, 1, 3, 4].map(O::usize_as).to_vec();
    let sizes: Vec<O> = lengths().map(O::usize_as).to_vec();
    Arc::new(GenericListViewArray::<O>::new(
        item(&values),
        starts.into(),
        sizes.into(),
        values,
        validity(),
    ))
}

fn structure() -> ArrayRef {
    let field = |name: &str, array: &ArrayRef| Arc::new(Field::new(name, array.data_type().clone(), true));
    let (number, text) = (
        six_values::<Int32Type>(i32::MIN, i32::MAX, 0, 7),
        cast(&text(), &DataType::Utf8View).unwrap(),
    );
    let lists = list(&text);
    let fields = vec![field("number", &number), field("text", &text), field("lists", &lists)];
    Arc::new(StructArray::new(fields.into(), vec![number, text, lists], validity()))
}

fn map() -> ArrayRef {
    let keys: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c", "d", "d"]));
    let values = list_values(&cast(&text(), &DataType::Utf8View).unwrap());
    let fields = vec![
        Arc::new(Field::new("keys", DataType::Utf8, false)),
        Arc::new(Field::new("values", DataType::Utf8View, true)),
    ];
    let entries = StructArray::new(fields.into(), vec![keys, values], None);
    let field = Arc::new(Field::new("entries", entries.data_type().clone(), false));
    Arc::new(MapArray::new(
        field,
        OffsetBuffer::from_lengths(lengths()),
        entries,
        validity(),
        false,
    ))
}

fn nested() -> Vec<(String, ArrayRef)> {
    let numbers = six_values::<Int32Type>(i32::MIN, i32::MAX, 0, 7);
    let pairs = take(
        &numbers,
        &Int32Array::from(vec![0, 1, 2, 3, 4, 5, 0, 0, 1, 1, 1, 1]),
        None,
    )
    .unwrap();
    let pairs = FixedSizeListArray::new(item(&pairs), 2, pairs, validity());
    let views = cast(&text(), &DataType::Utf8View).unwrap();
    name_columns([
        ("list", list(&numbers)),
        ("list_of_views", list(&views)),
        ("list_of_lists", list(&list(&views))),
        ("list_of_structs", list(&structure())),
        ("large_list", large_list(&views)),
        ("fixed_size_list", Arc::new(pairs)),
        ("list_view", list_view::<i32>(&views)),
        ("large_list_view", list_view::<i64>(&numbers)),
        ("struct", structure()),
        ("map", map()),
    ])
}

fn encoded() -> Vec<(String, ArrayRef)> {
    let dictionary = |keys: DataType, values: &ArrayRef| {
        cast(
            values,
            &DataType::Dictionary(Box::new(keys), Box::new(values.data_type().clone())),
        )
        .unwrap()
    };
    let runs = |ends: DataType, values: &ArrayRef| {
        let ends = Arc::new(Field::new("run_ends", ends, false));
        let field = Arc::new(Field::new("values", values.data_type().clone(), true));
        cast(values, &DataType::RunEndEncoded(ends, field)).unwrap()
    };
    let numbers = six_values::<Int64Type>(i64::MIN, i64::MAX, 0, 7);
    let mut bytes = BinaryDictionaryBuilder::<Int8Type>::new();
    for value in [
        Some(&b""[..]),
        Some(b"one"),
        None,
        Some(b"two"),
        Some(b"same"),
        Some(b"same"),
    ] {
        bytes.append_option(value);
    }
    name_columns([
        ("dictionary_int8", dictionary(DataType::Int8, &text())),
        ("dictionary_uint32", dictionary(DataType::UInt32, &text())),
        ("dictionary_int64", dictionary(DataType::Int64, &numbers)),
        ("dictionary_binary", Arc::new(bytes.finish()) as ArrayRef),
        ("runs_int16", runs(DataType::Int16, &text())),
        ("runs_int32", runs(DataType::Int32, &numbers)),
        ("list_of_dictionaries", list(&dictionary(DataType::Int32, &text()))),
    ])
}

fn unions() -> Vec<(String, ArrayRef)> {
    let (numbers, texts) = (
        six_values::<Int32Type>(i32::MIN, i32::MAX, 0, 7),
        cast(&text(), &DataType::Utf8View).unwrap(),
    );
    let field = |name: &str, array: &ArrayRef| Arc::new(Field::new(name, array.data_type().clone(), true));
    let fields = || UnionFields::try_new([0, 3], [field("number", &numbers), field("text", &texts)]).unwrap();
    let children = || vec![Arc::clone(&numbers), Arc::clone(&texts)];
    let ids = || vec![0_i8, 3, 0, 3, 3, 3].into();
    let offsets = vec![0, 1, 2, 3, 4, 4].into();
    let dense = UnionArray::try_new(fields(), ids(), Some(offsets), children()).unwrap();
    let sparse = UnionArray::try_new(fields(), ids(), None, children()).unwrap();
    name_columns([
        ("union_dense", Arc::new(dense) as ArrayRef),
        ("union_sparse", Arc::new(sparse)),
    ])
}
