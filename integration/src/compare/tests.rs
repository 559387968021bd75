use std::sync::Arc;

use arrow::array::{
    ArrayRef, Decimal128Array, DictionaryArray, Float64Array, Int64Array, ListArray, StringArray, StringViewArray,
};
use arrow::datatypes::{Float64Type, Int8Type};
use datafusion::prelude::SessionContext;

use super::*;

fn rows(columns: Vec<(&str, ArrayRef)>) -> Rows {
    let columns = columns.into_iter().map(|(name, array)| (name, array, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    (batch.schema(), vec![batch])
}

fn ints(values: &[Option<i64>]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn floats(values: &[f64]) -> ArrayRef {
    Arc::new(Float64Array::from(values.to_vec()))
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn difference(expected: &Rows, actual: &Rows, order: &[usize]) -> String {
    compare(expected, actual, order).unwrap_err().to_string()
}

#[test]
fn unordered_rows_compare_as_multisets() {
    let a = rows(vec![
        ("a", ints(&[Some(1), Some(2), Some(2), None])),
        ("b", texts(&["x", "y", "y", "z"])),
    ]);
    let b = rows(vec![
        ("a", ints(&[None, Some(2), Some(1), Some(2)])),
        ("b", texts(&["z", "y", "x", "y"])),
    ]);
    assert_eq!(compare(&a, &b, &[]), Ok(()));
}

#[test]
fn duplicate_row_counts_must_match() {
    let a = rows(vec![("a", ints(&[Some(1), Some(1), Some(2)]))]);
    let b = rows(vec![("a", ints(&[Some(1), Some(2), Some(2)]))]);
    let text = difference(&a, &b, &[]);
    assert!(
        text.contains("missing: a=1") && text.contains("unexpected: a=2"),
        "{text}"
    );
}

#[test]
fn missing_and_repeated_rows_are_reported() {
    let a = rows(vec![("a", ints(&[Some(1), Some(2)])), ("b", texts(&["x", "y"]))]);
    let b = rows(vec![
        ("a", ints(&[Some(1), Some(1), Some(2)])),
        ("b", texts(&["x", "x", "y"])),
    ]);
    assert_eq!(
        difference(&a, &b, &[]),
        "the rows differ: 3 rows, expected 2\n  unexpected: a=1, b=x"
    );
    assert_eq!(
        difference(&b, &a, &[]),
        "the rows differ: 2 rows, expected 3\n  missing: a=1, b=x"
    );
    let none = (Arc::clone(&a.0), Vec::new());
    assert!(difference(&a, &none, &[]).starts_with("the rows differ: 0 rows, expected 2"));
    assert_eq!(compare(&none, &none, &[]), Ok(()));
}

#[test]
fn null_differs_from_any_value() {
    let a = rows(vec![("a", ints(&[None]))]);
    let b = rows(vec![("a", ints(&[Some(0)]))]);
    assert!(difference(&a, &b, &[]).contains("missing: a=NULL"));
}

#[test]
fn batch_boundaries_do_not_matter() {
    let whole = rows(vec![("a", ints(&[Some(1), Some(2), Some(3)]))]);
    let batch = &whole.1[0];
    let cut = (
        Arc::clone(&whole.0),
        vec![batch.slice(0, 1), batch.slice(1, 0), batch.slice(1, 2)],
    );
    assert_eq!(compare(&whole, &cut, &[0]), Ok(()));
}

#[test]
fn ordered_rows_allow_permuted_ties() {
    let a = rows(vec![
        ("k", ints(&[Some(1), Some(1), Some(2)])),
        ("v", texts(&["x", "y", "z"])),
    ]);
    let tie = rows(vec![
        ("k", ints(&[Some(1), Some(1), Some(2)])),
        ("v", texts(&["y", "x", "z"])),
    ]);
    assert_eq!(compare(&a, &tie, &[0]), Ok(()));
    assert!(compare(&a, &tie, &[0, 1]).is_err());
    let wrong = rows(vec![
        ("k", ints(&[Some(1), Some(2), Some(1)])),
        ("v", texts(&["x", "z", "y"])),
    ]);
    assert_eq!(compare(&a, &wrong, &[]), Ok(()));
    assert_eq!(
        difference(&a, &wrong, &[0]),
        "the rows are in another order: k of row 2 is 2, expected 1"
    );
}

#[test]
fn floats_compare_within_a_tolerance() {
    let a = rows(vec![
        ("k", ints(&[Some(1), Some(2)])),
        ("f", floats(&[0.1 + 0.2, f64::NAN])),
    ]);
    let near = rows(vec![("k", ints(&[Some(2), Some(1)])), ("f", floats(&[f64::NAN, 0.3]))]);
    assert_eq!(compare(&a, &near, &[]), Ok(()));
    let far = rows(vec![
        ("k", ints(&[Some(1), Some(2)])),
        ("f", floats(&[0.300001, f64::NAN])),
    ]);
    assert!(difference(&a, &far, &[]).contains("unexpected: k=1, f=0.300001"));
}

#[test]
fn close_floats_pair_across_sort_order() {
    let a = rows(vec![("f", floats(&[1.0, 1.0])), ("g", floats(&[5.0, 7.0]))]);
    let b = rows(vec![("f", floats(&[1.0 + 1e-12, 1.0])), ("g", floats(&[5.0, 7.0]))]);
    assert_eq!(compare(&a, &b, &[]), Ok(()));
    let c = rows(vec![("f", floats(&[1.0 + 1e-12, 1.0])), ("g", floats(&[5.0, 8.0]))]);
    assert!(compare(&a, &c, &[]).is_err());
}

#[test]
fn nested_floats_compare_within_tolerance() {
    let list = |value: f64| -> ArrayRef {
        Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>([Some(vec![
            Some(value),
            None,
        ])]))
    };
    let a = rows(vec![("l", list(0.1 + 0.2))]);
    assert_eq!(compare(&a, &rows(vec![("l", list(0.3))]), &[]), Ok(()));
    assert!(compare(&a, &rows(vec![("l", list(0.31))]), &[]).is_err());
}

#[test]
fn decimals_must_match_exactly() {
    let decimal = |value: i128| -> ArrayRef {
        Arc::new(
            Decimal128Array::from(vec![value])
                .with_precision_and_scale(38, 10)
                .unwrap(),
        )
    };
    let a = rows(vec![("d", decimal(10_000_000_000_000))]);
    assert!(compare(&a, &rows(vec![("d", decimal(10_000_000_000_001))]), &[]).is_err());
}

#[test]
fn views_and_dictionaries_compare_by_value() {
    let views = rows(vec![
        (
            "v",
            Arc::new(StringViewArray::from(vec!["x", "a text longer than twelve bytes"])),
        ),
        (
            "d",
            Arc::new(["p", "q"].into_iter().collect::<DictionaryArray<Int8Type>>()),
        ),
    ]);
    let plain = rows(vec![
        ("v", texts(&["x", "a text longer than twelve bytes"])),
        ("d", texts(&["p", "q"])),
    ]);
    assert_eq!(compare(&views, &plain, &[0]), Ok(()));
    assert!(
        difference(&plain, &views, &[]).contains("column 1 is v: Utf8View, expected v: Utf8"),
        "clients see no views"
    );
}

#[test]
fn schemas_differ_by_name_type_count() {
    let a = rows(vec![("a", ints(&[Some(1)]))]);
    assert_eq!(
        difference(&a, &rows(vec![("b", ints(&[Some(1)]))]), &[]),
        "the schemas differ:\n  column 1 is b: Int64, expected a: Int64"
    );
    assert!(difference(&a, &rows(vec![("a", floats(&[1.0]))]), &[]).contains("is a: Float64, expected a: Int64"));
    let two = rows(vec![("a", ints(&[Some(1)])), ("b", ints(&[Some(1)]))]);
    assert!(difference(&a, &two, &[]).contains("column 2 is b: Int64, expected none"));
    assert!(difference(&two, &a, &[]).contains("column 2 is missing, expected b: Int64"));
}

#[test]
fn batch_breaking_its_schema_is_detected() {
    let announced = rows(vec![("a", ints(&[Some(1)]))]);
    let sent = rows(vec![("a", floats(&[1.0]))]);
    assert!(compare(&announced, &(Arc::clone(&announced.0), sent.1), &[]).is_err());
}

#[test]
fn rows_without_columns_are_counted() {
    let options = |rows| arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
    let empty = Arc::new(Schema::empty());
    let of = |rows| {
        let batch = RecordBatch::try_new_with_options(Arc::clone(&empty), vec![], &options(rows)).unwrap();
        (Arc::clone(&empty), vec![batch])
    };
    assert_eq!(compare(&of(3), &of(3), &[]), Ok(()));
    assert!(compare(&of(3), &of(2), &[]).is_err());
}

#[tokio::test]
async fn query_order_is_read_from_plan() {
    let context = SessionContext::new();
    context.sql("CREATE TABLE t (a INT, b INT, c INT)").await.unwrap();
    for (sql, expected) in [
        ("SELECT a, b FROM t", vec![]),
        ("SELECT a, b FROM t ORDER BY b DESC, a", vec![1, 0]),
        ("SELECT a, b FROM t ORDER BY b LIMIT 3", vec![1]),
        ("SELECT a AS x, b AS y FROM t ORDER BY y, x", vec![1, 0]),
        ("SELECT a FROM t ORDER BY a, c", vec![0]),
        ("SELECT a FROM t ORDER BY c, a", vec![]),
        ("SELECT a, sum(b) FROM t GROUP BY a ORDER BY sum(b), a", vec![1, 0]),
        ("SELECT a, b FROM t ORDER BY a + 1", vec![]),
        ("SELECT a, b FROM t ORDER BY 2", vec![1]),
    ] {
        let plan = context.sql(sql).await.unwrap().into_unoptimized_plan();
        assert_eq!(order_of(&plan), expected, "{sql}");
    }
}
