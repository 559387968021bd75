//! Fast conditions keep the rows that DataFusion's keep.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringViewArray};
use datafusion::arrow::compute::{filter_record_batch, prep_null_mask_filter};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, lit,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::prelude::{SessionContext, col};
use proptest::prelude::*;

use super::{fast, with_fast_conditions};

/// Texts on both sides of the 12 bytes that a view holds, some alike in their first four or twelve bytes.
const TEXTS: [&str; 8] = [
    "",
    "a",
    "abcd",
    "abcde",
    "abcdefghijkl",
    "abcdefghijklm",
    "abcdefghijkz",
    "zürich",
];

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::Int64, true),
        Field::new("t", DataType::Utf8View, true),
        Field::new("u", DataType::Utf8View, true),
    ]))
}

/// A literal as the planner leaves it: of the column's type.
fn view(text: &str) -> Expr {
    lit(ScalarValue::Utf8View(Some(text.to_owned())))
}

fn physical(condition: Expr) -> Arc<dyn PhysicalExpr> {
    let schema = DFSchema::try_from(schema()).unwrap();
    SessionContext::new().create_physical_expr(condition, &schema).unwrap()
}

/// The rows of `batch` that a filter with `condition` keeps.
fn kept(condition: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> RecordBatch {
    let mask = condition.evaluate(batch).unwrap().into_array(batch.num_rows()).unwrap();
    let mask = match mask.null_count() {
        0 => mask.as_boolean().clone(),
        _ => prep_null_mask_filter(mask.as_boolean()),
    };
    filter_record_batch(batch, &mask).unwrap()
}

fn texts() -> impl Strategy<Value = Option<&'static str>> {
    prop::option::weighted(0.9, prop::sample::select(TEXTS.to_vec()))
}

fn numbers() -> impl Strategy<Value = Option<i64>> {
    prop::option::weighted(0.9, 0..10_i64)
}

/// A batch that starts in the middle of its arrays.
fn batches() -> impl Strategy<Value = RecordBatch> {
    let rows = prop::collection::vec((numbers(), numbers(), texts(), texts()), 1..200);
    (rows, 0..8_usize).prop_map(|(rows, skipped)| {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|row| row.2).collect::<StringViewArray>()),
            Arc::new(rows.iter().map(|row| row.3).collect::<StringViewArray>()),
        ];
        let batch = RecordBatch::try_new(schema(), columns).unwrap();
        let skipped = skipped.min(rows.len());
        batch.slice(skipped, rows.len() - skipped)
    })
}

fn comparisons() -> impl Strategy<Value = Expr> {
    let text = || prop::sample::select(vec!["t", "u"]).prop_map(col);
    let short_or_long = || prop::sample::select(TEXTS.to_vec()).prop_map(view);
    prop_oneof![
        (prop::sample::select(vec!["a", "b"]), 0..10_i64).prop_map(|(column, number)| col(column).lt(lit(number))),
        (prop::sample::select(vec!["a", "b"]), 0..10_i64).prop_map(|(column, number)| col(column).eq(lit(number))),
        Just(col("a").lt_eq(col("b"))),
        Just(col("a").is_null()),
        Just(lit(true)),
        (text(), short_or_long()).prop_map(|(column, text)| column.eq(text)),
        (text(), short_or_long()).prop_map(|(column, text)| text.not_eq(column)),
        (text(), prop::collection::vec(short_or_long(), 1..12), any::<bool>())
            .prop_map(|(column, texts, negated)| column.in_list(texts, negated)),
        Just(col("t").eq(col("u"))),
    ]
}

fn conditions() -> impl Strategy<Value = Expr> {
    comparisons().prop_recursive(4, 16, 2, |inner| {
        prop_oneof![
            4 => (inner.clone(), inner.clone()).prop_map(|(left, right)| left.and(right)),
            1 => (inner.clone(), inner.clone()).prop_map(|(left, right)| left.or(right)),
            1 => inner.prop_map(|inner| !inner),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn same_rows_are_kept(batch in batches(), condition in conditions()) {
        let condition = physical(condition);
        let fast = fast(&condition, &schema()).unwrap();
        prop_assert_eq!(kept(&fast, &batch), kept(&condition, &batch), "{}", condition);
    }
}

/// Is true of every number, and counts the rows it was asked about.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Counted {
    signature: Signature,
    counter: Counter,
}

#[derive(Debug, Clone, Default)]
struct Counter(Arc<AtomicUsize>);

impl PartialEq for Counter {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Counter {}

impl std::hash::Hash for Counter {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl ScalarUDFImpl for Counted {
    fn name(&self) -> &'static str {
        "counted"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.counter.0.fetch_add(args.number_rows, Ordering::Relaxed);
        Ok(ColumnarValue::Array(Arc::new(BooleanArray::from(vec![
            true;
            args.number_rows
        ]))))
    }
}

/// Rows on which the second condition of `first AND counted(a)` is evaluated, of a hundred.
fn rows_asked_after(first: Expr, volatility: Volatility) -> usize {
    let counter = Counter::default();
    let counted = ScalarUDF::from(Counted {
        signature: Signature::exact(vec![DataType::Int64], volatility),
        counter: counter.clone(),
    });
    let condition = physical(first.and(counted.call(vec![col("a")])));
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
    let texts: ArrayRef = Arc::new(StringViewArray::from(vec!["x"; 100]));
    let columns = vec![Arc::clone(&numbers), numbers, Arc::clone(&texts), texts];
    let batch = RecordBatch::try_new(schema(), columns).unwrap();
    fast(&condition, &schema()).unwrap().evaluate(&batch).unwrap();
    counter.0.load(Ordering::Relaxed)
}

#[test]
fn condition_is_evaluated_on_the_rows_that_are_left_where_they_are_few() {
    let rows_after = |first| rows_asked_after(first, Volatility::Immutable);
    assert_eq!(rows_after(col("b").lt(lit(25_i64))), 25);
    assert_eq!(rows_after(col("b").lt(lit(26_i64))), 100);
    assert_eq!(rows_after(col("b").lt(lit(50_i64)).and(col("b").gt(lit(40_i64)))), 9);
    assert_eq!(rows_after(col("b").lt(lit(0_i64))), 0);
    assert_eq!(rows_after(col("t").eq(view("y"))), 0);
}

#[test]
fn volatile_condition_is_left_to_datafusion() {
    assert_eq!(rows_asked_after(col("b").lt(lit(25_i64)), Volatility::Volatile), 100);
}

#[test]
fn filters_are_found_anywhere_in_a_plan_and_read_as_before() {
    let scan: Arc<dyn ExecutionPlan> = Arc::new(EmptyExec::new(schema()));
    let lower = FilterExec::try_new(physical(col("t").eq(view("a"))), scan).unwrap();
    let both = col("a").lt(col("b")).and(col("u").not_eq(view("b")));
    let upper: Arc<dyn ExecutionPlan> = Arc::new(FilterExec::try_new(physical(both), Arc::new(lower)).unwrap());
    let fast = with_fast_conditions(Arc::clone(&upper)).unwrap();
    let again = with_fast_conditions(Arc::clone(&fast)).unwrap();
    let shown = |plan: &Arc<dyn ExecutionPlan>| {
        datafusion::physical_plan::displayable(plan.as_ref())
            .indent(true)
            .to_string()
    };
    assert_eq!(shown(&fast), shown(&upper));
    let debug = |plan: &Arc<dyn ExecutionPlan>| format!("{:?}", plan.downcast_ref::<FilterExec>().unwrap().predicate());
    assert!(debug(&fast).starts_with("Conjunction"), "{}", debug(&fast));
    assert!(
        debug(fast.children()[0]).starts_with("OneOf"),
        "{}",
        debug(fast.children()[0])
    );
    assert!(debug(&again).starts_with("Conjunction"), "{}", debug(&again));
}
