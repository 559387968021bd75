//! Correlated subqueries of every shape. The rows are those of the standard; DuckDB gives the same.

use tonic::Code;

use super::{check_traps, error, exactly, same};

/// The query over two small tables, `{a}` and `{b}`, and `{c}`, which is `{b}` under another name.
fn over(sql: &str) -> String {
    const A: &str = "(VALUES (1, 10), (2, 20), (3, 30), (NULL, 40), (3, NULL)) AS a(k, x)";
    const B: &str = "(VALUES (1, 5), (1, 7), (2, 20), (3, NULL), (NULL, 1), (4, 9)) AS b(k, y)";
    let sql = sql.replace("{a}", A).replace("{b}", B);
    sql.replace("{c}", &B.replace("AS b", "AS c"))
}

#[test]
fn correlated_subqueries_of_every_shape_are_right() {
    check_traps(vec![
        exactly(
            "a scalar subquery with an inequality",
            &over(
                "SELECT a.k, a.x, (SELECT max(b.y) FROM {b} WHERE b.k < a.k) FROM {a} ORDER BY 1 NULLS LAST, 2 NULLS LAST, 3 NULLS LAST",
            ),
            &[
                ["1", "10", ""],
                ["2", "20", "7"],
                ["3", "30", "20"],
                ["3", "", "20"],
                ["", "40", ""],
            ],
        ),
        exactly(
            "a count with an inequality is never NULL",
            &over(
                "SELECT a.k, a.x, (SELECT count(*) FROM {b} WHERE b.k > a.k) FROM {a} ORDER BY 1 NULLS LAST, 2 NULLS LAST, 3 NULLS LAST",
            ),
            &[
                ["1", "10", "3"],
                ["2", "20", "2"],
                ["3", "30", "1"],
                ["3", "", "1"],
                ["", "40", "0"],
            ],
        ),
        exactly(
            "an expression of both sides",
            &over(
                "SELECT a.k, a.x, (SELECT sum(a.x + b.y) FROM {b} WHERE b.k = a.k) FROM {a} ORDER BY 1 NULLS LAST, 2 NULLS LAST, 3 NULLS LAST",
            ),
            &[
                ["1", "10", "32"],
                ["2", "20", "40"],
                ["3", "30", ""],
                ["3", "", ""],
                ["", "40", ""],
            ],
        ),
        exactly(
            "the first row in an order",
            &over(
                "SELECT a.k, a.x, (SELECT b.y FROM {b} WHERE b.k <= a.k ORDER BY b.y DESC NULLS LAST, b.k LIMIT 1) FROM {a} ORDER BY 1 NULLS LAST, 2 NULLS LAST, 3 NULLS LAST",
            ),
            &[
                ["1", "10", "7"],
                ["2", "20", "20"],
                ["3", "30", "20"],
                ["3", "", "20"],
                ["", "40", ""],
            ],
        ),
        exactly(
            "the second row in an order",
            &over(
                "SELECT a.k, a.x, (SELECT b.y FROM {b} WHERE b.k <= a.k ORDER BY b.y DESC NULLS LAST, b.k LIMIT 1 OFFSET 1) FROM {a} ORDER BY 1 NULLS LAST, 2 NULLS LAST, 3 NULLS LAST",
            ),
            &[
                ["1", "10", "5"],
                ["2", "20", "7"],
                ["3", "30", "7"],
                ["3", "", "7"],
                ["", "40", ""],
            ],
        ),
        exactly(
            "DISTINCT below an aggregate",
            &over(
                "SELECT a.k, a.x, (SELECT count(*) FROM (SELECT DISTINCT b.k FROM {b} WHERE b.y < a.x) q) FROM {a} ORDER BY 1 NULLS LAST, 2 NULLS LAST, 3 NULLS LAST",
            ),
            &[
                ["1", "10", "3"],
                ["2", "20", "3"],
                ["3", "30", "4"],
                ["3", "", "0"],
                ["", "40", "4"],
            ],
        ),
        exactly(
            "groups below an aggregate",
            &over(
                "SELECT a.k, a.x, (SELECT max(n) FROM (SELECT count(*) AS n FROM {b} WHERE b.y < a.x GROUP BY b.k) q) FROM {a} ORDER BY 1 NULLS LAST, 2 NULLS LAST, 3 NULLS LAST",
            ),
            &[
                ["1", "10", "2"],
                ["2", "20", "2"],
                ["3", "30", "2"],
                ["3", "", ""],
                ["", "40", "2"],
            ],
        ),
        exactly(
            "UNION below an aggregate",
            &over(
                "SELECT a.k, a.x, (SELECT sum(v) FROM (SELECT b.y AS v FROM {b} WHERE b.k = a.k UNION ALL SELECT a.x) q) FROM {a} ORDER BY 1 NULLS LAST, 2 NULLS LAST, 3 NULLS LAST",
            ),
            &[
                ["1", "10", "22"],
                ["2", "20", "40"],
                ["3", "30", "30"],
                ["3", "", ""],
                ["", "40", "40"],
            ],
        ),
        exactly(
            "EXCEPT below an aggregate",
            &over(
                "SELECT a.k, a.x, (SELECT count(*) FROM (SELECT b.y FROM {b} WHERE b.k = a.k EXCEPT SELECT a.x) q) FROM {a} ORDER BY 1 NULLS LAST, 2 NULLS LAST, 3 NULLS LAST",
            ),
            &[
                ["1", "10", "2"],
                ["2", "20", "0"],
                ["3", "30", "1"],
                ["3", "", "0"],
                ["", "40", "0"],
            ],
        ),
        exactly(
            "an outer join whose condition is correlated",
            &over(
                "SELECT a.k, a.x, (SELECT count(c.y) FROM {b} LEFT JOIN {c} ON b.k = c.k AND c.y < a.x WHERE b.k >= a.k) FROM {a} ORDER BY 1 NULLS LAST, 2 NULLS LAST, 3 NULLS LAST",
            ),
            &[
                ["1", "10", "5"],
                ["2", "20", "1"],
                ["3", "30", "1"],
                ["3", "", "0"],
                ["", "40", "0"],
            ],
        ),
        exactly(
            "a full join with a correlated side",
            &over(
                "SELECT a.k, a.x, (SELECT count(*) FROM (SELECT b.k FROM {b} WHERE b.y < a.x) p FULL JOIN {c} ON p.k = c.k) FROM {a} ORDER BY 1 NULLS LAST, 2 NULLS LAST, 3 NULLS LAST",
            ),
            &[
                ["1", "10", "9"],
                ["2", "20", "9"],
                ["3", "30", "9"],
                ["3", "", "6"],
                ["", "40", "9"],
            ],
        ),
        exactly(
            "a window function over correlated rows",
            &over(
                "SELECT a.k, a.x, (SELECT sum(n) FROM (SELECT row_number() OVER (ORDER BY b.y, b.k) AS n FROM {b} WHERE b.k <= a.k) q WHERE n <= 2) FROM {a} ORDER BY 1 NULLS LAST, 2 NULLS LAST, 3 NULLS LAST",
            ),
            &[
                ["1", "10", "3"],
                ["2", "20", "3"],
                ["3", "30", "3"],
                ["3", "", "3"],
                ["", "40", ""],
            ],
        ),
        exactly(
            "HAVING over the aggregate of all rows",
            &over(
                "SELECT a.k, a.x, (SELECT count(*) FROM {b} WHERE b.k = a.k HAVING count(*) <> 1) FROM {a} ORDER BY 1 NULLS LAST, 2 NULLS LAST, 3 NULLS LAST",
            ),
            &[
                ["1", "10", "2"],
                ["2", "20", ""],
                ["3", "30", ""],
                ["3", "", ""],
                ["", "40", "0"],
            ],
        ),
        exactly(
            "EXISTS with HAVING",
            &over(
                "SELECT a.k, a.x FROM {a} WHERE EXISTS (SELECT count(*) FROM {b} WHERE b.k = a.k HAVING count(*) = 0) ORDER BY 1 NULLS LAST, 2 NULLS LAST",
            ),
            &[["", "40"]],
        ),
        exactly(
            "EXISTS with LIMIT and OFFSET",
            &over(
                "SELECT a.k, a.x FROM {a} WHERE EXISTS (SELECT 1 FROM {b} WHERE b.k = a.k ORDER BY b.y LIMIT 1 OFFSET 1) ORDER BY 1 NULLS LAST, 2 NULLS LAST",
            ),
            &[["1", "10"]],
        ),
        exactly(
            "EXISTS that reaches over two levels",
            &over(
                "SELECT a.k, a.x FROM {a} WHERE EXISTS (SELECT 1 FROM {b} WHERE EXISTS (SELECT 1 FROM {c} WHERE c.k = a.k AND c.y < b.y)) ORDER BY 1 NULLS LAST, 2 NULLS LAST",
            ),
            &[["1", "10"]],
        ),
        exactly(
            "NOT EXISTS below NOT EXISTS",
            &over(
                "SELECT a.k, a.x FROM {a} WHERE NOT EXISTS (SELECT 1 FROM {b} WHERE b.k = a.k AND NOT EXISTS (SELECT 1 FROM {c} WHERE c.y < a.x AND c.y < b.y)) ORDER BY 1 NULLS LAST, 2 NULLS LAST",
            ),
            &[["1", "10"], ["2", "20"], ["", "40"]],
        ),
        exactly(
            "IN with an inequality",
            &over(
                "SELECT a.k, a.x FROM {a} WHERE a.k IN (SELECT b.k FROM {b} WHERE b.y < a.x) ORDER BY 1 NULLS LAST, 2 NULLS LAST",
            ),
            &[["1", "10"]],
        ),
        exactly(
            "NOT IN over a UNION",
            &over(
                "SELECT a.k, a.x FROM {a} WHERE a.k NOT IN (SELECT b.k FROM {b} WHERE b.y < a.x AND b.k IS NOT NULL UNION SELECT 2) ORDER BY 1 NULLS LAST, 2 NULLS LAST",
            ),
            &[["3", "30"], ["3", ""]],
        ),
        exactly(
            "ALL in SELECT",
            &over(
                "SELECT a.k, a.x, a.x > ALL (SELECT b.y FROM {b} WHERE b.k = a.k) FROM {a} ORDER BY 1 NULLS LAST, 2 NULLS LAST, 3 NULLS LAST",
            ),
            &[
                ["1", "10", "true"],
                ["2", "20", "false"],
                ["3", "30", ""],
                ["3", "", ""],
                ["", "40", "true"],
            ],
        ),
        exactly(
            "ANY in SELECT",
            &over(
                "SELECT a.k, a.x, a.x < ANY (SELECT b.y + 5 FROM {b} WHERE b.k <= a.k) FROM {a} ORDER BY 1 NULLS LAST, 2 NULLS LAST, 3 NULLS LAST",
            ),
            &[
                ["1", "10", "true"],
                ["2", "20", "true"],
                ["3", "30", ""],
                ["3", "", ""],
                ["", "40", "false"],
            ],
        ),
        exactly(
            "LATERAL with an inequality",
            &over(
                "SELECT a.k, a.x, l.y FROM {a}, LATERAL (SELECT b.y FROM {b} WHERE b.y < a.x) l ORDER BY 1 NULLS LAST, 2 NULLS LAST, 3 NULLS LAST",
            ),
            &[
                ["1", "10", "1"],
                ["1", "10", "5"],
                ["1", "10", "7"],
                ["1", "10", "9"],
                ["2", "20", "1"],
                ["2", "20", "5"],
                ["2", "20", "7"],
                ["2", "20", "9"],
                ["3", "30", "1"],
                ["3", "30", "5"],
                ["3", "30", "7"],
                ["3", "30", "9"],
                ["3", "30", "20"],
                ["", "40", "1"],
                ["", "40", "5"],
                ["", "40", "7"],
                ["", "40", "9"],
                ["", "40", "20"],
            ],
        ),
        exactly(
            "LATERAL with LIMIT",
            &over(
                "SELECT a.k, a.x, l.y FROM {a} LEFT JOIN LATERAL (SELECT b.y FROM {b} WHERE b.k <= a.k ORDER BY b.y LIMIT 2) l ON true ORDER BY 1 NULLS LAST, 2 NULLS LAST, 3 NULLS LAST",
            ),
            &[
                ["1", "10", "5"],
                ["1", "10", "7"],
                ["2", "20", "5"],
                ["2", "20", "7"],
                ["3", "30", "5"],
                ["3", "30", "7"],
                ["3", "", "5"],
                ["3", "", "7"],
                ["", "40", ""],
            ],
        ),
        exactly(
            "LATERAL of constants",
            &over(
                "SELECT a.k, l.z FROM {a}, LATERAL (SELECT a.k + 1 AS z UNION ALL SELECT a.x) l ORDER BY 1 NULLS LAST, 2 NULLS LAST",
            ),
            &[
                ["1", "2"],
                ["1", "10"],
                ["2", "3"],
                ["2", "20"],
                ["3", "4"],
                ["3", "4"],
                ["3", "30"],
                ["3", ""],
                ["", "40"],
                ["", ""],
            ],
        ),
        exactly(
            "LATERAL after LATERAL",
            &over(
                "SELECT a.k, l.m, n.o FROM {a}, LATERAL (SELECT max(b.y) AS m FROM {b} WHERE b.k < a.k) l, LATERAL (SELECT l.m + a.k AS o) n ORDER BY 1 NULLS LAST, 2 NULLS LAST, 3 NULLS LAST",
            ),
            &[
                ["1", "", ""],
                ["2", "7", "9"],
                ["3", "20", "23"],
                ["3", "20", "23"],
                ["", "", ""],
            ],
        ),
        exactly(
            "LATERAL with HAVING",
            &over(
                "SELECT a.k, a.x, l.n FROM {a}, LATERAL (SELECT count(*) AS n FROM {b} WHERE b.k = a.k HAVING count(*) > 0) l ORDER BY 1 NULLS LAST, 2 NULLS LAST, 3 NULLS LAST",
            ),
            &[["1", "10", "2"], ["2", "20", "1"], ["3", "30", "1"], ["3", "", "1"]],
        ),
        exactly(
            "in ON of an inner join",
            &over(
                "SELECT a.k, b.y FROM {a} JOIN {b} ON a.k = b.k AND EXISTS (SELECT 1 FROM {c} WHERE c.k > a.k AND c.y < b.y) ORDER BY 1 NULLS LAST, 2 NULLS LAST",
            ),
            &[["2", "20"]],
        ),
        exactly(
            "in ON, about the optional side",
            &over(
                "SELECT a.k, b.y FROM {a} LEFT JOIN {b} ON a.k = b.k AND EXISTS (SELECT 1 FROM {c} WHERE c.k > b.k AND c.y < b.y) ORDER BY 1 NULLS LAST, 2 NULLS LAST",
            ),
            &[["1", ""], ["2", "20"], ["3", ""], ["3", ""], ["", ""]],
        ),
        exactly(
            "in HAVING",
            &over(
                "SELECT a.k, count(*) FROM {a} GROUP BY a.k HAVING count(*) < (SELECT count(*) FROM {b} WHERE b.k > a.k) ORDER BY 1 NULLS LAST, 2 NULLS LAST",
            ),
            &[["1", "1"], ["2", "1"]],
        ),
        exactly(
            "in an aggregate",
            &over("SELECT sum((SELECT count(*) FROM {b} WHERE b.k > a.k)) FROM {a} ORDER BY 1 NULLS LAST"),
            &[["7"]],
        ),
        exactly(
            "rows in a list of rows",
            &over(
                "SELECT a.k, a.x FROM {a} WHERE (a.k, a.x) IN (SELECT b.k, b.y FROM {b}) ORDER BY 1 NULLS LAST, 2 NULLS LAST",
            ),
            &[["2", "20"]],
        ),
        exactly(
            "rows in no list of rows",
            &over(
                "SELECT a.k, a.x FROM {a} WHERE (a.k, a.x) NOT IN (SELECT b.k, b.y FROM {b}) ORDER BY 1 NULLS LAST, 2 NULLS LAST",
            ),
            &[["1", "10"]],
        ),
        exactly(
            "rows by order",
            &over("SELECT a.k, a.x FROM {a} WHERE (a.k, a.x) < (2, 25) ORDER BY 1 NULLS LAST, 2 NULLS LAST"),
            &[["1", "10"], ["2", "20"]],
        ),
        error(
            "a second row",
            &over("SELECT (SELECT b.y FROM {b} WHERE b.k <= a.k) FROM {a}"),
            Code::InvalidArgument,
            "row",
        ),
    ]);
}

#[test]
fn correlated_subqueries_over_files_match_the_reference() {
    check_traps(vec![
        same(
            "an inequality below an aggregate",
            "SELECT d.name, (SELECT count(*) FROM other o WHERE o.k < d.k) FROM dims d",
        ),
        same(
            "the first rows in an order",
            "SELECT d.name, (SELECT o.id FROM other o WHERE o.k = d.k ORDER BY o.v DESC NULLS LAST, o.id LIMIT 1 OFFSET 2) \
             FROM dims d",
        ),
        same(
            "a window function",
            "SELECT d.name, (SELECT sum(n) FROM (SELECT rank() OVER (ORDER BY o.v, o.id) AS n FROM other o WHERE o.k = d.k) q \
             WHERE n < 5) FROM dims d",
        ),
        same(
            "a set operation",
            "SELECT d.name, (SELECT count(*) FROM (SELECT o.v FROM other o WHERE o.k = d.k EXCEPT SELECT t.v FROM tiny t \
             WHERE t.id < d.k) q) FROM dims d",
        ),
        same(
            "two levels",
            "SELECT d.name FROM dims d WHERE NOT EXISTS (SELECT 1 FROM tiny t WHERE NOT EXISTS (SELECT 1 FROM other o \
             WHERE o.k = d.k AND o.id > t.id))",
        ),
        same(
            "in the facts' filter",
            "SELECT count(*), sum(id) FROM facts f WHERE f.v > (SELECT avg(o.v) FROM other o WHERE o.k <> f.k AND o.id < 50)",
        ),
        same(
            "LATERAL with LIMIT",
            "SELECT d.name, l.id FROM dims d LEFT JOIN LATERAL (SELECT f.id FROM facts f WHERE f.k = d.k ORDER BY f.v, f.id \
             LIMIT 3) l ON true",
        ),
        same(
            "in ORDER BY, by a column that the select list leaves out",
            "SELECT d.name FROM dims d ORDER BY (SELECT count(*) FROM other o WHERE o.k < d.k), d.name LIMIT 5",
        ),
    ]);
}

/// They would be computed twice, with other rows the second time.
#[test]
fn correlated_subqueries_over_random_rows_are_refused() {
    let refused = |why, rows: &str| {
        let sql = format!("SELECT count(*) FROM {rows} WHERE (SELECT count(*) FROM other o WHERE o.id < a.k) > 0");
        error(
            why,
            &sql,
            Code::Unimplemented,
            "other rows when they are computed once more",
        )
    };
    check_traps(vec![
        refused("LIMIT", "(SELECT id AS k FROM facts LIMIT 10) a"),
        refused("random()", "(SELECT id * random() AS k FROM facts) a"),
        refused(
            "row_number()",
            "(SELECT row_number() OVER (ORDER BY g) AS k FROM facts) a",
        ),
        refused("a sum of floats", "(SELECT sum(q) AS k FROM facts GROUP BY g) a"),
        same(
            "the random side is not the one that is named",
            "SELECT count(*) > 0 FROM dims a CROSS JOIN (SELECT random() AS r FROM tiny) t \
             WHERE (SELECT count(*) FROM other o WHERE o.id < a.k) > 0 AND t.r >= 0",
        ),
    ]);
}

/// DataFusion makes one join of all equalities, with NULL equal to NULL in all of them.
#[test]
fn equality_stays_apart_from_is_not_distinct_from() {
    const BOTH: &str = "(VALUES (1, NULL::int), (NULL, NULL), (2, 5)) t(c, a)";
    let other = BOTH.replace("t(c, a)", "u(d, b)");
    let count = |join: &str, rest: &str| {
        format!("SELECT count(*) FROM {BOTH} {join} {other} ON t.c IS NOT DISTINCT FROM u.d {rest}")
    };
    check_traps(vec![
        exactly("alone", &count("JOIN", ""), &[["3"]]),
        exactly("in WHERE above", &count("JOIN", "WHERE t.a = u.b"), &[["1"]]),
        exactly("above an outer join", &count("LEFT JOIN", "WHERE t.a = u.b"), &[["1"]]),
        exactly("in ON beside it", &count("FULL JOIN", "AND t.a = u.b"), &[["5"]]),
        exactly(
            "of different types",
            "SELECT count(*) FROM (VALUES (1), (NULL)) t(a) JOIN (VALUES (1::bigint), (NULL)) u(b) ON a IS NOT DISTINCT FROM b",
            &[["2"]],
        ),
        exactly(
            "of the value that stands for NULL",
            "SELECT count(*) FROM (VALUES (0), (NULL)) t(a) JOIN (VALUES (0), (NULL)) u(b) ON a IS NOT DISTINCT FROM b",
            &[["2"]],
        ),
    ]);
}
