//! Answers of the SQL standard, PostgreSQL and DuckDB where DataFusion 55.2 gives others, and valid SQL that it refuses.
//! The rows are written down, for the reference plans as Squadron does.

use tonic::Code;

use super::{Tables, check_traps, error, exactly, start};
use crate::support::{Mismatches, bounded, minutes};

#[test]
fn arithmetic_fails_where_results_do_not_fit() {
    let refused = |why, sql: &str, says| error(why, sql, Code::InvalidArgument, says);
    check_traps(vec![
        refused(
            "addition",
            "SELECT max(id + 9223372036854775000) FROM facts",
            "overflow",
        ),
        refused(
            "subtraction",
            "SELECT min(-9223372036854775000 - id) FROM facts",
            "overflow",
        ),
        refused(
            "multiplication",
            "SELECT max(id * 1000000000000000000) FROM facts",
            "overflow",
        ),
        refused(
            "operators that differ",
            "SELECT max(id * 2 - 1 + 9223372036854775000) FROM facts",
            "overflow",
        ),
        refused(
            "negation",
            "SELECT max(-x) FROM (SELECT CASE WHEN id = 7 THEN -9223372036854775808 ELSE 0 END AS x FROM facts)",
            "overflow",
        ),
        refused(
            "unsigned difference",
            "SELECT max(arrow_cast(g, 'UInt8') - arrow_cast(200, 'UInt8')) FROM facts",
            "overflow",
        ),
        refused(
            "sum of BIGINT",
            "SELECT sum(9000000000000000000 + g * 0) FROM facts",
            "does not fit",
        ),
        refused(
            "sum in groups",
            "SELECT g, sum(9000000000000000000 + id * 0) FROM facts GROUP BY g",
            "does not fit",
        ),
        refused(
            "decimals of 38 digits",
            "SELECT max(CAST('99999999999999999999999999999999999999' AS DECIMAL(38, 0)) + g) FROM facts WHERE g > 0",
            "verflow",
        ),
        refused(
            "an operand of a cast that is compared",
            "SELECT count(*) FROM facts WHERE CAST(id + 9223372036854775000 AS INT) = 7",
            "overflow",
        ),
        refused(
            "a condition that a rule ties to a column",
            "SELECT count(*) FROM facts HAVING (SELECT max(id) FROM facts) + 9223372036854775000 > 0",
            "overflow",
        ),
        refused("constants", "SELECT 9223372036854775807 + 1", "overflow"),
        refused(
            "a constant that a rule moves",
            "SELECT x + 1 FROM (SELECT 9223372036854775807 AS x)",
            "overflow",
        ),
        exactly(
            "only the final sum must fit",
            "SELECT sum(CASE id WHEN 0 THEN 9223372036854775807 WHEN 1 THEN 5 WHEN 11999 THEN -5 ELSE 0 END) FROM facts",
            &[["9223372036854775807"]],
        ),
        exactly(
            "rows that WHERE removes are not computed",
            "SELECT count(q), max(q) FROM (SELECT id, 10 / (id - 5) AS q FROM facts WHERE id <> 5)",
            &[["11999", "10"]],
        ),
        exactly(
            "the same below a filter that needs no other column",
            "SELECT id, 9223372036854775802 + id FROM facts WHERE id = 5",
            &[["5", "9223372036854775807"]],
        ),
        exactly(
            "dates are subtracted and compared",
            "SELECT count(*) FROM facts WHERE (day - DATE '1970-01-01') < 0",
            &[["0"]],
        ),
    ]);
}

/// Two rows each: `o` has (0, 0) and (1, 1), `i` has (1, 0) and (NULL, 1).
fn with_two_tables(sql: &str) -> String {
    format!(
        "WITH o AS (SELECT id, g FROM facts WHERE id < 2), \
         i AS (SELECT CASE id WHEN 0 THEN 1 END AS x, id AS gg FROM facts WHERE id < 2) {sql}"
    )
}

#[test]
fn conditions_have_three_values() {
    let two = with_two_tables;
    check_traps(vec![
        exactly(
            "NOT IN, correlated",
            &two("SELECT id FROM o WHERE 3 NOT IN (SELECT x FROM i WHERE i.gg = o.g)"),
            &[["0"]],
        ),
        exactly(
            "IN and NOT IN in the list",
            &two("SELECT id, id IN (SELECT x FROM i), id NOT IN (SELECT x FROM i) FROM o ORDER BY id"),
            &[["0", "", ""], ["1", "true", "false"]],
        ),
        exactly(
            "NOT IN under OR",
            &two("SELECT id FROM o WHERE id NOT IN (SELECT x FROM i) OR id = 1"),
            &[["1"]],
        ),
        exactly(
            "IN that is NULL",
            &two("SELECT id FROM o WHERE (id IN (SELECT x FROM i)) IS NULL"),
            &[["0"]],
        ),
        exactly(
            "a constant NOT IN",
            &two("SELECT id FROM o WHERE 7 NOT IN (SELECT x FROM i)"),
            &[] as &[[&str; 1]],
        ),
        exactly(
            "an expression NOT IN",
            &two("SELECT id FROM o WHERE nullif(id, 1) NOT IN (SELECT gg + 5 FROM i)"),
            &[["0"]],
        ),
        exactly(
            "EXISTS in the list, without an equality",
            &two("SELECT id, EXISTS (SELECT 1 FROM i WHERE i.x > o.id) FROM o ORDER BY id"),
            &[["0", "true"], ["1", "false"]],
        ),
        exactly(
            "EXISTS over an aggregate of all rows",
            &two("SELECT count(*) FROM o WHERE EXISTS (SELECT count(*) FROM i WHERE i.gg = o.id AND i.gg > 9)"),
            &[["2"]],
        ),
        exactly(
            "EXISTS with OFFSET",
            &two("SELECT id FROM o WHERE EXISTS (SELECT 1 FROM facts f WHERE f.g = o.g AND f.id < 14 OFFSET 1)"),
            &[["0"]],
        ),
        exactly(
            "a list with NULL beside another list",
            "SELECT count(*) FROM facts WHERE id IN (1, 2, 3) AND id NOT IN (2, NULL)",
            &[["0"]],
        ),
        exactly(
            "lists of a NULL",
            &two("SELECT count(*) FROM i WHERE x NOT IN (7, 8) OR x NOT IN (8, 9)"),
            &[["1"]],
        ),
        exactly(
            "a pattern that matches all but NULL",
            &two("SELECT count(*) FROM i WHERE NOT (CAST(x AS VARCHAR) ~ '.*')"),
            &[["0"]],
        ),
        exactly(
            "IS DISTINCT FROM before AND",
            "SELECT count(*) FROM facts WHERE id IS DISTINCT FROM 5 AND id < 10",
            &[["9"]],
        ),
        exactly(
            "a cast that rounds is compared as it is",
            "SELECT count(*) FROM facts WHERE CAST(CAST(id AS DECIMAL(12, 2)) / 100 AS DECIMAL(12, 0)) = 7",
            &[["100"]],
        ),
        exactly(
            "a cast that fails gives NULL",
            "SELECT count(*) FROM facts WHERE TRY_CAST(id AS TINYINT) < 1000",
            &[["128"]],
        ),
        exactly(
            "a constant NULL above an aggregate of all rows",
            "SELECT n FROM (SELECT count(*) AS n FROM facts) v WHERE n < 99999 AND NOT (n NOT IN (CAST(NULL AS BIGINT)))",
            &[] as &[[&str; 1]],
        ),
        exactly(
            "HAVING without a column",
            "SELECT count(*) FROM facts HAVING (SELECT max(id) FROM facts) > 99999",
            &[] as &[[&str; 1]],
        ),
    ]);
}

#[test]
fn subqueries_and_joins_follow_the_standard() {
    let two = with_two_tables;
    let using = |sql: &str| {
        format!(
            "WITH a AS (SELECT id AS k, g AS x FROM facts WHERE id < 3), \
             b AS (SELECT id AS k, g AS y FROM facts WHERE id BETWEEN 2 AND 3) {sql}"
        )
    };
    check_traps(vec![
        exactly(
            "a scalar subquery with ORDER BY and LIMIT",
            &two(
                "SELECT id, (SELECT f.id FROM facts f WHERE f.g = o.g AND f.id > 20 ORDER BY f.id LIMIT 1) FROM o ORDER BY id",
            ),
            &[["0", "26"], ["1", "27"]],
        ),
        exactly(
            "a scalar subquery without a row",
            "SELECT coalesce((SELECT id FROM facts WHERE id < 0), -1), (SELECT id FROM facts WHERE id < 0) IS NULL",
            &[["-1", "true"]],
        ),
        error(
            "a scalar subquery of several rows",
            "SELECT (SELECT id FROM facts)",
            Code::InvalidArgument,
            "more than one row",
        ),
        exactly(
            "FULL JOIN USING",
            &using("SELECT k, x, y FROM a FULL JOIN b USING (k) ORDER BY k"),
            &[["0", "0", ""], ["1", "1", ""], ["2", "2", "2"], ["3", "", "3"]],
        ),
        exactly(
            "all columns of RIGHT JOIN USING",
            &using("SELECT * FROM a RIGHT JOIN b USING (k) ORDER BY k"),
            &[["2", "2", "2"], ["3", "", "3"]],
        ),
        exactly(
            "the merged column in WHERE",
            "SELECT count(*) FROM facts JOIN other USING (id) WHERE id < 50",
            &[["10"]],
        ),
        exactly(
            "NULLs of one join equal, those of the next do not",
            "SELECT count(*) FROM dims t1 JOIN dims t3 ON t1.k = t3.k JOIN one t9 ON t1.k IS NOT DISTINCT FROM t3.k",
            &[["98"]],
        ),
        exactly(
            "a count with LIMIT",
            &two("SELECT id, (SELECT count(*) FROM i WHERE i.gg = o.id + 7 LIMIT 1) FROM o ORDER BY id"),
            &[["0", "0"], ["1", "0"]],
        ),
        exactly(
            "EXISTS over an aggregate with HAVING",
            &two("SELECT id FROM o WHERE EXISTS (SELECT count(*) FROM i WHERE i.gg = o.id + 1 HAVING count(*) = 0)"),
            &[["1"]],
        ),
        exactly(
            "a filter on the side that is filled up",
            "SELECT count(*) FROM (SELECT * FROM facts WHERE id > 11990) a RIGHT JOIN facts b ON a.id = b.id \
             WHERE a.id IS NULL",
            &[["11991"]],
        ),
        exactly(
            "EXCEPT ALL",
            "SELECT count(*) FROM (SELECT g FROM facts WHERE id < 39 EXCEPT ALL SELECT g FROM facts WHERE id < 26)",
            &[["13"]],
        ),
        exactly(
            "INTERSECT ALL",
            "SELECT count(*) FROM (SELECT g FROM facts WHERE id < 39 INTERSECT ALL SELECT g FROM facts WHERE id < 26)",
            &[["26"]],
        ),
        exactly(
            "greatest values of an expression and of a column",
            "SELECT max(id + 0), max(g) FROM facts",
            &[["11999", "12"]],
        ),
    ]);
}

#[test]
fn windows_and_floats_follow_the_standard() {
    check_traps(vec![
        exactly(
            "a window that extends a named one",
            "SELECT count(*) FROM (SELECT count(*) OVER (w ORDER BY id) AS n FROM facts WINDOW w AS (PARTITION BY g)) \
             WHERE n > 900",
            &[["300"]],
        ),
        exactly(
            "RANGE over unsigned keys",
            "SELECT x, count(*) OVER (ORDER BY x RANGE BETWEEN 5 PRECEDING AND 2 PRECEDING) \
             FROM (SELECT arrow_cast(id, 'UInt8') AS x FROM facts WHERE id < 3) ORDER BY x",
            &[["0", "0"], ["1", "0"], ["2", "1"]],
        ),
        exactly(
            "both zeros are one",
            "SELECT count(DISTINCT f), max(r), max(n), sum(CASE f WHEN 0 THEN 1 ELSE 0 END) FROM \
             (SELECT f, rank() OVER (ORDER BY f) AS r, count(*) OVER (PARTITION BY f) AS n FROM \
             (SELECT CASE id WHEN 0 THEN 0e0 ELSE CAST('-0' AS DOUBLE) END AS f FROM facts WHERE id < 2))",
            &[["1", "1", "2", "2"]],
        ),
        exactly(
            "NaN is the greatest",
            "SELECT g, max(f), min(f) FROM (SELECT g, CASE WHEN id < 13 THEN CAST('NaN' AS DOUBLE) ELSE 1e0 END AS f \
             FROM facts WHERE id < 25) GROUP BY g HAVING g IN (0, 12) ORDER BY g",
            &[["0", "NaN", "1.0"], ["12", "NaN", "NaN"]],
        ),
        exactly(
            "a division makes the NaN that all others equal",
            "SELECT count(*) FROM (SELECT (q - q) / (q - q) AS n FROM facts WHERE q IS NOT NULL) \
             WHERE n <> CAST('NaN' AS DOUBLE)",
            &[["0"]],
        ),
        error(
            "a volatile operand",
            "SELECT count(*) FROM facts WHERE random() BETWEEN 0 AND 1",
            Code::Unimplemented,
            "subquery",
        ),
        error(
            "lead behind a gap",
            "SELECT lead(v, 2) IGNORE NULLS OVER (ORDER BY id) FROM facts",
            Code::Unimplemented,
            "nth_value",
        ),
    ]);
}

#[test]
fn valid_syntax_runs_and_the_rest_names_another_way() {
    let refused = |sql: &str, says| error("refused", sql, Code::Unimplemented, says);
    check_traps(vec![
        exactly(
            "FETCH FIRST",
            "SELECT id FROM facts ORDER BY id OFFSET 1 ROWS FETCH FIRST 2 ROWS ONLY",
            &[["1"], ["2"]],
        ),
        exactly("FROM first", "FROM (SELECT id FROM facts WHERE id = 3)", &[["3"]]),
        exactly(
            "LIKE ANY",
            "SELECT count(*) FROM facts WHERE CAST(id AS VARCHAR) LIKE ANY ('11_99', '1199%')",
            &[["20"]],
        ),
        exactly(
            "SIMILAR TO",
            "SELECT count(*) FROM facts WHERE CAST(id AS VARCHAR) SIMILAR TO '(1|2)_'",
            &[["20"]],
        ),
        exactly(
            "DISTINCT of several columns",
            "SELECT count(DISTINCT g, id % 2) FROM facts",
            &[["26"]],
        ),
        exactly(
            "texts of a length",
            "SELECT max(CAST(s AS VARCHAR(2))), max('abc'::VARCHAR(2)) FROM facts WHERE s = 'alpha'",
            &[["al", "ab"]],
        ),
        exactly(
            "hours of dates",
            "SELECT min(day - INTERVAL '1 hour') = min(CAST(day AS TIMESTAMP)) - INTERVAL '1 hour', \
             arrow_typeof(max(day - INTERVAL '1' DAY)) FROM facts",
            &[["true", "Date32"]],
        ),
        exactly(
            "formats of PostgreSQL, and times without seconds",
            "SELECT max(to_char(t, 'YYYY-MM-DD HH24:MI')) FROM facts WHERE t < TIMESTAMP '2023-11-15 00:00'",
            &[["2023-11-14 23:13"]],
        ),
        refused("SELECT to_char(t, 'Q') FROM facts", "strftime"),
        exactly("underscores", "SELECT count(*) FROM facts WHERE id < 1_0", &[["10"]]),
        exactly(
            "SEMI JOIN",
            "SELECT count(*) FROM facts SEMI JOIN other ON facts.id = other.id",
            &[["2400"]],
        ),
        exactly(
            "equal names",
            "SELECT * FROM (SELECT id a, g a FROM facts WHERE id = 14)",
            &[["14", "1"]],
        ),
        exactly(
            "the same CASE in a group",
            "SELECT DISTINCT CASE WHEN v < g THEN 1 ELSE 1 END FROM facts",
            &[["1"]],
        ),
        refused("SELECT * FROM facts TABLESAMPLE BERNOULLI (10)", "random()"),
        refused("CREATE INDEX i ON facts (id)", "CREATE INDEX"),
        refused("SELECT s COLLATE \"de_DE\" FROM facts", "COLLATE"),
        refused(
            "SELECT id FROM facts ORDER BY id FETCH FIRST 2 ROWS WITH TIES",
            "QUALIFY",
        ),
        refused("SELECT * FROM facts PIVOT (sum(v) FOR g IN (1, 2))", "FILTER"),
    ]);
}

/// The name of each column of `sql`, as clients see them.
#[test]
fn columns_are_named_as_they_are_written() {
    bounded(minutes(5), async {
        let tables = Tables::write();
        let cluster = start(&tables, 2, 1).await;
        let client = cluster.client().await;
        let mut mismatches = Mismatches::default();
        for (sql, expected) in [
            (
                "SELECT sum(v), SUM(v), count(*) FROM facts",
                &["sum(v)", "SUM(v)", "count(*)"][..],
            ),
            (
                "SELECT (id + 1) * 2, f.g, 'x' FROM facts f LIMIT 1",
                &["(id + 1) * 2", "g", "'x'"],
            ),
            ("SELECT id, id, g AS id FROM facts LIMIT 1", &["id", "id", "id"]),
            (
                "SELECT a.id, b.id FROM facts a JOIN facts b ON a.id = b.id LIMIT 1",
                &["id", "id"],
            ),
            ("SELECT 1::float8, 1::numeric", &["1::FLOAT8", "1::NUMERIC"]),
            ("SELECT count(DISTINCT g, v) FROM facts", &["count(DISTINCT g, v)"]),
            (
                "SELECT max(id) OVER (), v FROM facts ORDER BY max(id) OVER () LIMIT 1",
                &["max(id) OVER ()", "v"],
            ),
            (
                "SELECT g IS DISTINCT FROM 1 FROM facts LIMIT 1",
                &["g IS DISTINCT FROM 1"],
            ),
            ("SELECT DISTINCT g + 1 FROM facts ORDER BY g + 1", &["g + 1"]),
        ] {
            let named = match client.query(sql).await {
                Ok((schema, _)) => schema.fields().iter().map(|field| field.name().clone()).collect(),
                Err(status) => vec![status.to_string()],
            };
            let outcome = match named == expected {
                true => Ok(()),
                false => Err(format!("{named:?} instead of {expected:?}")),
            };
            mismatches.note(sql, outcome);
        }
        mismatches.assert_none();
    });
}
