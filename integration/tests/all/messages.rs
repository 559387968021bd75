//! What users are told of statements that are wrong or not supported: sentences, never the insides of the planner.

use std::fs;

use squadron_integration::cluster::cluster;
use tempfile::TempDir;
use tonic::Code;

use crate::support::{Mismatches, bounded, failure_of, minutes};

/// What no message has: syntax trees, names of Arrow's types, and apologies of libraries.
const INSIDES: [&str; 20] = [
    " { ",
    "Ident",
    "Some(",
    "None",
    "Span(",
    "<subquery>",
    "Utf8",
    "Int64",
    "Float64",
    "Timestamp(",
    "Date32",
    "Boolean",
    "OneOf",
    "UserDefined",
    "Internal error",
    "internal error",
    "bug in DataFusion",
    "sqltorel",
    "__correlated",
    "Error during planning",
];

/// Statements that are wrong, and words of their messages.
const WRONG: &[(&str, &str)] = &[
    // Names.
    (
        "SELECT kk FROM a",
        "column kk not found at Line: 1, Column: 8; did you mean k?",
    ),
    ("SELECT z.k FROM a", "FROM has no z"),
    ("SELECT b.* FROM a", "FROM has no b, so there is no b.*"),
    ("SELECT k FROM a, b", "the column k is ambiguous"),
    ("SELECT * FROM a t, b t", "t.k comes twice"),
    ("SELECT k FROM a LIMIT k", "no column can be used in this place"),
    ("SELECT rank() FROM a", "rank is a window function"),
    ("SELECT * FROM upper('x')", "SELECT upper(...)"),
    ("SELECT CAST(1 AS nosuchtype)", "the type nosuchtype is not supported"),
    // Types and numbers of arguments.
    (
        "SELECT upper(1, 2)",
        "upper(bigint, bigint) is not defined; there is upper(text)",
    ),
    ("SELECT upper()", "upper() is not defined; there is upper(text)"),
    ("SELECT substr('a')", "Substring without for/from is not valid"),
    ("SELECT round('x')", "round(text) is not defined"),
    ("SELECT sum(s) FROM a", "sum(text) is not defined"),
    ("SELECT avg(true)", "avg(boolean) is not defined"),
    ("SELECT abs('x')", "abs(text) is not defined; there is abs(number)"),
    ("SELECT sqrt('x')", "sqrt(text) is not defined"),
    (
        "SELECT date_trunc(1, now())",
        "date_trunc(bigint, timestamp with time zone) is not defined",
    ),
    ("SELECT coalesce(1, now())", "SHOW FUNCTIONS LIKE 'coalesce'"),
    (
        "SELECT greatest(1, now())",
        "greatest(bigint, timestamp with time zone)",
    ),
    ("SELECT [1, now()]", "make_array(bigint, timestamp with time zone)"),
    (
        "SELECT lpad('a', 'x')",
        "lpad(text, text) is not defined; there is lpad(text, bigint)",
    ),
    ("SELECT array_length(1)", "array_length(bigint) is not defined"),
    ("SELECT k[1] FROM a", "array_element(bigint, bigint) is not defined"),
    (
        "SELECT percentile_cont(0.5) FROM a",
        "percentile_cont(double precision) is not defined",
    ),
    (
        "SELECT ntile('x') OVER (ORDER BY k) FROM a",
        "ntile(text) is not defined",
    ),
    ("SELECT 1 + 'x'", "bigint + text"),
    ("SELECT 1 = true", "bigint = boolean"),
    ("SELECT k FROM a WHERE k", "bigint"),
    ("SELECT k FROM a WHERE k IN (1, now())", "timestamp with time zone"),
    (
        "SELECT k FROM a WHERE k BETWEEN 1 AND now()",
        "bigint and timestamp with time zone",
    ),
    ("SELECT 'a' LIKE 1", "text and bigint"),
    (
        "SELECT CASE WHEN true THEN 1 ELSE now() END",
        "timestamp with time zone",
    ),
    ("SELECT k FROM a UNION SELECT now()", "timestamp with time zone"),
    ("SELECT * FROM a JOIN b ON a.k", "bigint"),
    // Literals.
    ("SELECT CAST('x' AS INT)", "integer"),
    ("SELECT DATE '2024-13-01'", "date"),
    ("SELECT CAST(300 AS TINYINT)", "tinyint"),
    ("SELECT TIMESTAMP 'yesterday'", "yesterday"),
    ("VALUES (1), (1, 2)", "row 2 of VALUES has 2 values, and not 1"),
    (
        "VALUES (1), (now())",
        "value 1 in row 2 of VALUES is timestamp with time zone",
    ),
    ("INSERT INTO a VALUES (1, 2)", "row 1 of VALUES has 2 values, and not 3"),
    ("SELECT @variable", "variables such as @variable are not supported"),
    ("SELECT :name", "write ? or $1"),
    // Aggregates and groups.
    ("SELECT k, count(*) FROM a", "the column a.k must stand in GROUP BY"),
    (
        "SELECT k FROM a HAVING count(*) > 1",
        "the column a.k must stand in GROUP BY",
    ),
    (
        "SELECT k, x, count(*) FROM a GROUP BY GROUPING SETS ((1), (7))",
        "GROUP BY 7 is no expression of the select list",
    ),
    (
        "SELECT i FROM (VALUES (INTERVAL '1 day')) t(i) GROUP BY ROLLUP (i)",
        "group by a number: extract(epoch FROM x)",
    ),
    ("SELECT count(*) FROM a WHERE count(*) > 1", "HAVING"),
    ("SELECT sum(sum(k)) FROM a", "nested"),
    // Windows.
    ("SELECT sum(k) OVER () FROM a WHERE sum(k) OVER () > 1", "QUALIFY"),
    ("SELECT sum(k) OVER w FROM a", "window w"),
    (
        "SELECT lag(k, 2, x) OVER (ORDER BY k) FROM a",
        "argument 3 of a window function must be a literal; CASE WHEN",
    ),
    (
        "SELECT count(*) OVER (ORDER BY k ROWS BETWEEN 1 PRECEDING AND CURRENT ROW EXCLUDE CURRENT ROW) FROM a",
        "EXCLUDE of a window frame is not supported",
    ),
    // Subqueries.
    (
        "SELECT count(*) FROM a t WHERE EXISTS (SELECT 1 FROM (SELECT k, x AS t FROM a) s WHERE s.k = t.k)",
        "give the table another alias",
    ),
    (
        "SELECT k FROM a WHERE EXISTS (SELECT y FROM b WHERE b.k = a.k GROUP BY ROLLUP (y))",
        "grouping sets over the rows of a correlated condition are not supported; write a join",
    ),
    (
        "SELECT k FROM (SELECT k FROM a LIMIT 1) q WHERE (SELECT count(*) FROM b WHERE b.k < q.k) > 0",
        "store the rows that have q.k in a table first",
    ),
    (
        "SELECT a.k FROM a LEFT JOIN b ON EXISTS (SELECT 1 FROM c WHERE c.k = a.k)",
        "compute its value in a subquery of FROM",
    ),
    (
        "SELECT (SELECT count(*) FROM b WHERE b.k = a.k LIMIT a.k) FROM a",
        "LIMIT",
    ),
    ("SELECT (SELECT k, x FROM a)", "gives one column, and not a.k, a.x"),
    // Clauses and operators.
    (
        "SELECT * FROM a ASOF JOIN b MATCH_CONDITION (a.k >= b.k)",
        "AS OF is not supported",
    ),
    ("SELECT * FROM a CROSS APPLY b", "CROSS APPLY is not supported"),
    ("SELECT * FROM a, TABLE(f(1))", "TABLE(f(1)) is not supported"),
    (
        "SELECT * FROM JSON_TABLE('[]', '$' COLUMNS (x INT PATH '$'))",
        "JSON_TABLE",
    ),
    ("SELECT k FROM a WHERE k OVERLAPS 2", "OVERLAPS is not supported"),
    (
        "SELECT MATCH (s) AGAINST ('x') FROM a",
        "MATCH (s) AGAINST ('x') is not supported",
    ),
    ("SELECT s IS NORMALIZED FROM a", "s IS NORMALIZED is not supported"),
    ("SELECT 5 DIV 2", "DIV"),
    ("SELECT 2 ^ 3", "power(x, y) computes powers, x # y the exclusive or"),
    ("SELECT struct(1).c0.x", "c0"),
    ("SELECT TOP 3 k FROM a", "TOP is not supported; write LIMIT"),
    (
        "SELECT * FROM a PIVOT (sum(x) FOR k IN (1, 2))",
        "PIVOT is not supported",
    ),
    // Other statements.
    ("SET TIME ZONE 'UTC'", "datafusion.execution.time_zone"),
    ("SHOW nothing", "SHOW ALL lists the options"),
    (
        "SELECT k FROM a CONNECT BY k = 1",
        "CONNECT BY is not supported; WITH RECURSIVE",
    ),
    ("VACUUM", "VACUUM is not supported"),
    (
        "ALTER TABLE a ADD COLUMN z INT",
        "ALTER TABLE a ADD COLUMN z INT is not supported",
    ),
    ("CREATE SEQUENCE q", "CREATE SEQUENCE q is not supported"),
    (
        "CREATE FUNCTION f() RETURNS INT RETURN 1",
        "CREATE FUNCTION is not supported",
    ),
    (
        "CREATE EXTERNAL TABLE z STORED AS NOSUCH LOCATION '/'",
        "there is no file format NOSUCH; there are PARQUET",
    ),
    ("COPY a TO '/tmp/x.nosuch'", "there is no file format nosuch"),
];

#[test]
fn messages_are_sentences() {
    bounded(minutes(5), async {
        let folder = TempDir::with_prefix("squadron-messages-").unwrap();
        for (name, text) in [
            ("a.csv", "k,x,s\n1,2,u\n2,3,v\n"),
            ("b.csv", "k,y\n1,5\n2,6\n"),
            ("c.csv", "k\n1\n"),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let cluster = cluster().data(folder.path()).start().await;
        let client = cluster.client().await;
        let mut mismatches = Mismatches::default();
        for (sql, says) in WRONG {
            let status = failure_of(&client, sql).await;
            let message = status.message();
            let outcome = match INSIDES.iter().find(|inside| message.contains(**inside)) {
                _ if !matches!(
                    status.code(),
                    Code::InvalidArgument | Code::NotFound | Code::Unimplemented
                ) =>
                {
                    Err(format!("the code is {:?}: {message}", status.code()))
                }
                Some(inside) => Err(format!("shows \"{inside}\": {message}")),
                None if !message.contains(says) => Err(format!("does not say \"{says}\": {message}")),
                None => Ok(()),
            };
            mismatches.note(sql, outcome);
        }
        mismatches.assert_none();
    });
}
