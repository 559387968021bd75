use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::prelude::SessionContext;
use squadron_proto::FailureKind;

use super::*;
use crate::failure;

const MAX_VALUE: u64 = 1024 * 1024;
const POOL: usize = 16 * 1024 * 1024;

/// A context whose functions are bounded.
fn context() -> (SessionContext, Arc<dyn MemoryPool>) {
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(POOL));
    let context = SessionContext::new();
    let mut state = context.state();
    register(&mut state, MAX_VALUE, &pool).unwrap();
    (SessionContext::new_with_state(state), pool)
}

async fn outcome(context: &SessionContext, sql: &str) -> Result<usize> {
    let batches = context.sql(sql).await?.collect().await?;
    Ok(batches.iter().map(|batch| batch.num_rows()).sum())
}

#[tokio::test]
async fn large_values_are_refused_before_they_are_made() {
    let (context, pool) = context();
    for (function, of_constants) in [
        ("repeat('x', n)", "repeat('x', 2000000000)"),
        ("lpad('x', n)", "lpad('x', 2000000000)"),
        ("rpad('x', n, 'ab')", "rpad('x', 2000000000, 'ab')"),
        (
            "replace(repeat('x', 1000000), 'x', repeat('y', n / 100))",
            "replace(repeat('x', 1000), 'x', repeat('y', 1000000))",
        ),
        (
            "concat(repeat('x', 1000000), repeat('x', n / 2))",
            "concat(repeat('x', 1000000), repeat('y', 2000000))",
        ),
        (
            "\"||\"(repeat('x', 1000000), repeat('x', n / 2))",
            "\"||\"(repeat('x', 1000000), repeat('y', 2000000))",
        ),
        (
            "regexp_replace(repeat('x', 1000000), 'x', repeat('y', n / 100), 'g')",
            "regexp_replace(repeat('x', 1000), 'x', repeat('y', 1000000), 'g')",
        ),
        (
            "array_concat(range(100000), range(100000), range(n / 20))",
            "array_concat(range(100000), range(100000))",
        ),
        ("array_repeat(1, n)", "array_repeat(1, 2000000000)"),
        ("array_resize([1], n, 0)", "array_resize([1], 2000000000, 0)"),
        ("range(n)", "range(1, 1000000000000)"),
        ("generate_series(0, n, 1)", "generate_series(1000000000000, 0, -1)"),
    ] {
        for sql in [
            format!("SELECT {function} FROM (VALUES (2000000)) AS t(n)"),
            format!("SELECT {of_constants}"),
        ] {
            let error = outcome(&context, &sql).await.expect_err(&sql);
            let failure = failure::of(&error);
            assert_eq!(failure.kind, FailureKind::Exhausted, "{sql}: {failure}");
            assert!(failure.message.contains("--max-value-bytes"), "{sql}: {failure}");
        }
        assert_eq!(pool.reserved(), 0);
    }
}

#[tokio::test]
async fn values_of_a_batch_are_charged_to_the_pool() {
    let (context, pool) = context();
    let rows = "(SELECT * FROM generate_series(1, 100)) AS t(n)";
    let few = format!("SELECT repeat('x', 1000 + n) FROM {rows}");
    assert_eq!(outcome(&context, &few).await.unwrap(), 100);
    let many = format!("SELECT repeat('x', 500000 + n) FROM {rows}");
    let failure = failure::of(&outcome(&context, &many).await.unwrap_err());
    assert_eq!(failure.kind, FailureKind::Exhausted, "{failure}");
    assert!(failure.message.contains("values of repeat"), "{failure}");
    assert_eq!(pool.reserved(), 0);
}

/// Matches are counted where a value could be large: one that is not is made.
#[tokio::test]
async fn replacement_without_matches_is_small() {
    let (context, pool) = context();
    let sql = "SELECT regexp_replace(repeat('x', 500000), 'y', repeat('z', 1000), 'g') FROM (VALUES (1), (2)) AS t(n)";
    assert_eq!(outcome(&context, sql).await.unwrap(), 2);
    assert_eq!(pool.reserved(), 0);
}

#[tokio::test]
async fn joined_texts_equal_those_of_the_operator() {
    let (context, _) = context();
    for data_type in ["Utf8", "LargeUtf8", "Utf8View"] {
        let rows = format!(
            "(SELECT arrow_cast(a, '{data_type}') AS a, arrow_cast(b, '{data_type}') AS b FROM (VALUES ('aä', 'b'), \
             ('', 'x'), (NULL, 'y'), ('z', NULL)) AS t(a, b))"
        );
        let constant = format!("arrow_cast('-', '{data_type}')");
        for (operator, function) in [
            ("a || b || a".to_owned(), "\"||\"(a, b, a)".to_owned()),
            (format!("a || {constant} || b"), format!("\"||\"(a, {constant}, b)")),
            (
                format!("a || {constant} || NULL"),
                format!("\"||\"(a, {constant}, arrow_cast(NULL, '{data_type}'))"),
            ),
            (
                format!("{constant} || {constant}"),
                format!("\"||\"({constant}, {constant})"),
            ),
        ] {
            let sql =
                |expression: &str| format!("SELECT {expression} AS x, arrow_typeof({expression}) AS t FROM {rows}");
            let read = async |sql: String| context.sql(&sql).await.unwrap().to_string().await.unwrap();
            assert_eq!(
                read(sql(&function)).await,
                read(sql(&operator)).await,
                "{data_type}: {operator}"
            );
        }
    }
}

#[tokio::test]
async fn bounded_functions_give_the_same_values() {
    let (bounded, _) = context();
    let plain = SessionContext::new();
    for expression in [
        "repeat(s, n)",
        "repeat(s, CAST(NULL AS BIGINT))",
        "lpad(s, abs(n), 'ab')",
        "rpad(s, abs(n))",
        "replace(s, 'a', 'bb')",
        "concat(s, n, NULL, 'x')",
        "concat_ws(',', s, s)",
        "overlay(coalesce(s, 'abc') placing 'xyz' from 1)",
        "regexp_replace(s, 'a|b', '<\\0>')",
        "regexp_replace(s, '.', repeat('x', 1000), 'g')",
        "regexp_replace(repeat(s, 3000), '(A)(.)', '\\2\\1', 'gi')",
        "array_concat([n], [1, NULL], range(n))",
        "array_repeat(s, n)",
        "array_repeat([n], 2)",
        "array_resize([n, 2], abs(n), 0)",
        "range(n)",
        "generate_series(n, 1, -2)",
        "range(DATE '2024-01-01', DATE '2024-01-09', INTERVAL '2 days')",
    ] {
        let sql = format!("SELECT {expression} FROM (VALUES ('aä', 5), ('', 0), (NULL, -3), ('b', NULL)) AS t(s, n)");
        let expected = plain.sql(&sql).await.unwrap().to_string().await.unwrap();
        let found = bounded.sql(&sql).await.unwrap().to_string().await.unwrap();
        assert_eq!(found, expected, "{expression}");
    }
}
