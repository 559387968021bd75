//! Scalar and correlated subqueries, common table expressions, recursion.

use tonic::Code;

use super::{check_traps, error, exactly, in_order, same};

#[test]
fn scalar_subqueries_match_the_reference() {
    check_traps(vec![
        same("in SELECT", "SELECT id, (SELECT max(v) FROM facts) FROM tiny"),
        same(
            "in WHERE",
            "SELECT id, v FROM facts WHERE v = (SELECT max(v) FROM facts)",
        ),
        same(
            "in HAVING",
            "SELECT k, count(*) FROM facts GROUP BY k HAVING count(*) > (SELECT avg(id) / 100 FROM other)",
        ),
        same(
            "in ORDER BY",
            "SELECT id FROM tiny ORDER BY id + (SELECT min(id) FROM other)",
        ),
        same(
            "in CASE",
            "SELECT id, CASE WHEN v > (SELECT avg(v) FROM other) THEN 'above' ELSE (SELECT s FROM one) END FROM tiny",
        ),
        same(
            "in a join condition",
            "SELECT count(*) FROM dims d JOIN other o ON d.k = o.k AND o.v > (SELECT avg(v) FROM facts)",
        ),
        same(
            "inside an aggregate",
            "SELECT sum(v - (SELECT min(v) FROM facts)) FROM other",
        ),
        same(
            "two of them",
            "SELECT (SELECT count(*) FROM facts) AS x, (SELECT count(*) FROM other) AS y, id FROM one",
        ),
        same(
            "one in another",
            "SELECT (SELECT max(v) FROM other WHERE id > (SELECT min(id) FROM tiny)) AS x",
        ),
        same(
            "in a branch of a union",
            "SELECT id FROM tiny WHERE id < (SELECT max(id) FROM other) UNION ALL SELECT (SELECT min(id) FROM facts)",
        ),
        same(
            "in a window",
            "SELECT id, sum(v + (SELECT max(id) FROM one)) OVER (ORDER BY id) FROM tiny",
        ),
        same(
            "below and above an exchange",
            "SELECT k, sum(v) + (SELECT max(v) FROM other) FROM facts WHERE v > (SELECT min(v) FROM other) GROUP BY k",
        ),
        exactly("of no row is NULL", "SELECT (SELECT id FROM nothing) AS x", &[[""]]),
        exactly(
            "of no row compares to nothing",
            "SELECT count(*) FROM facts WHERE v = (SELECT v FROM nothing)",
            &[["0"]],
        ),
        error(
            "of two rows is an error",
            "SELECT id FROM facts WHERE v > (SELECT v FROM tiny WHERE v IS NOT NULL)",
            Code::InvalidArgument,
            "row",
        ),
        error(
            "of two rows without a table is an error",
            "SELECT (SELECT id FROM tiny) AS x",
            Code::InvalidArgument,
            "row",
        ),
    ]);
}

#[test]
fn correlated_subqueries_match_the_reference() {
    check_traps(vec![
        same(
            "an aggregate a row",
            "SELECT d.name, (SELECT sum(o.v) FROM other o WHERE o.k = d.k) FROM dims d",
        ),
        same(
            "a count a row is never NULL",
            "SELECT d.name, (SELECT count(*) FROM other o WHERE o.k = d.k) FROM dims d",
        ),
        same(
            "in WHERE",
            "SELECT count(*), sum(id) FROM facts f WHERE v > (SELECT avg(v) FROM facts x WHERE x.g = f.g)",
        ),
        same(
            "EXISTS",
            "SELECT name FROM dims d WHERE EXISTS (SELECT 1 FROM facts f WHERE f.k = d.k)",
        ),
        same(
            "NOT EXISTS",
            "SELECT name FROM dims d WHERE NOT EXISTS (SELECT 1 FROM facts f WHERE f.k = d.k)",
        ),
        same(
            "IN",
            "SELECT count(*) FROM facts f WHERE f.v IN (SELECT o.v FROM other o WHERE o.k = f.k)",
        ),
        same(
            "one in another",
            "SELECT d.name FROM dims d WHERE EXISTS (SELECT 1 FROM other o WHERE o.k = d.k AND EXISTS (SELECT 1 \
             FROM tiny t WHERE t.id = o.id))",
        ),
    ]);
}

#[test]
fn common_tables_match_the_reference() {
    check_traps(vec![
        same(
            "used twice",
            "WITH sums AS (SELECT k, sum(v) AS total FROM facts GROUP BY k) SELECT a.k, b.total FROM sums a \
             JOIN sums b ON a.k = b.k",
        ),
        same(
            "in a chain",
            "WITH a AS (SELECT k, id FROM facts WHERE v > 0), b AS (SELECT k, count(*) AS n FROM a GROUP BY k) \
             SELECT b.n, d.name FROM b JOIN dims d ON b.k = d.k",
        ),
        in_order("a view", "SELECT k, n, total FROM busy ORDER BY n DESC, k LIMIT 10"),
        same(
            "a view joined to its table",
            "SELECT o.id, busy.n FROM other o JOIN busy ON o.k = busy.k",
        ),
    ]);
}

#[test]
fn recursive_queries_match_the_reference() {
    check_traps(vec![
        in_order(
            "numbers",
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 100) SELECT x FROM n ORDER BY x",
        ),
        same(
            "starting from a table",
            "WITH RECURSIVE n AS (SELECT id, 0 AS depth FROM tiny UNION ALL SELECT id * 2, depth + 1 FROM n \
             WHERE depth < 6) SELECT id, depth FROM n",
        ),
        same(
            "joined to a table afterwards",
            "WITH RECURSIVE n(x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM n WHERE x < 40) SELECT n.x, count(f.id) \
             FROM n LEFT JOIN facts f ON n.x = f.k GROUP BY n.x",
        ),
        same(
            "joined to a table in every step",
            "WITH RECURSIVE n AS (SELECT id, v FROM tiny UNION ALL SELECT o.id, o.v FROM n \
             JOIN other o ON o.id = n.id * 5 + 5 AND n.id < 100) SELECT count(*), sum(id) FROM n",
        ),
        same(
            "grouped",
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x * 2 FROM n WHERE x < 1000) SELECT count(*), sum(x), \
             max(x) FROM n",
        ),
    ]);
}
