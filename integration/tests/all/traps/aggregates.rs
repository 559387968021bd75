//! Aggregates: many groups, none, grouping sets, DISTINCT, and partial states that travel.

use super::{check_traps, exactly, in_order, same};

#[test]
fn grouped_aggregates_match_the_reference() {
    check_traps(vec![
        same("12,000 groups", "SELECT id, count(*), sum(v) FROM facts GROUP BY id"),
        in_order(
            "10,000 groups in order",
            "SELECT id, max(v) FROM facts WHERE id < 10000 GROUP BY id ORDER BY id",
        ),
        same(
            "one group takes two thirds",
            "SELECT k, count(*), sum(v), min(v), max(v) FROM facts GROUP BY k",
        ),
        same(
            "NULL is a group",
            "SELECT b, s, count(*), count(v), sum(q) FROM facts GROUP BY b, s",
        ),
        same(
            "states of several fields",
            "SELECT g, avg(q), stddev(q), var_pop(q), corr(q, v), covar_samp(q, v) FROM facts GROUP BY g",
        ),
        same(
            "order-bound aggregates",
            "SELECT g, first_value(v ORDER BY id), last_value(s ORDER BY id DESC), \
             array_agg(id ORDER BY id) FILTER (WHERE id < 100), \
             string_agg(s, ',' ORDER BY id) FILTER (WHERE id < 200) FROM facts GROUP BY g",
        ),
        same(
            "FILTER of an aggregate",
            "SELECT g, count(*) FILTER (WHERE b), sum(v) FILTER (WHERE v > 0) FROM facts GROUP BY g",
        ),
        same("median", "SELECT g, median(v), count(*) FROM facts GROUP BY g"),
        same(
            "sums widen decimals",
            "SELECT g, sum(price), avg(price), min(price), max(price) FROM facts GROUP BY g",
        ),
        same(
            "booleans and bits",
            "SELECT g, bool_and(b), bool_or(b), bit_xor(id), bit_and(id) FROM facts GROUP BY g",
        ),
        same(
            "times",
            "SELECT day, min(t), max(t), count(DISTINCT date_trunc('month', t)) FROM facts GROUP BY day",
        ),
        same(
            "HAVING",
            "SELECT s, count(*) AS n FROM facts GROUP BY s HAVING count(*) > 1700 OR s IS NULL",
        ),
        same(
            "an expression as key",
            "SELECT id % 7, abs(v) % 3, count(*) FROM facts GROUP BY id % 7, abs(v) % 3",
        ),
        same(
            "a grouping of a grouping",
            "SELECT n, count(*) FROM (SELECT k, count(*) AS n FROM facts GROUP BY k) GROUP BY n",
        ),
        same(
            "groups after a join",
            "SELECT d.name, count(*), sum(f.v) FROM facts f JOIN dims d ON f.k = d.k GROUP BY d.name",
        ),
    ]);
}

#[test]
fn distinct_aggregates_match_the_reference() {
    check_traps(vec![
        same("one", "SELECT count(DISTINCT k) FROM facts"),
        same(
            "one a group",
            "SELECT g, count(DISTINCT s), count(DISTINCT k) FROM facts GROUP BY g",
        ),
        same(
            "mixed with plain ones",
            "SELECT g, count(DISTINCT v), count(v), sum(v), sum(DISTINCT v) FROM facts GROUP BY g",
        ),
        same(
            "of text with NULLs",
            "SELECT count(DISTINCT s), count(DISTINCT b), count(DISTINCT day) FROM facts",
        ),
        same("SELECT DISTINCT", "SELECT DISTINCT k, b FROM facts"),
        same(
            "DISTINCT over everything",
            "SELECT count(*) FROM (SELECT DISTINCT id, s FROM facts)",
        ),
        in_order(
            "DISTINCT ON",
            "SELECT DISTINCT ON (g) g, id, v FROM facts ORDER BY g, v DESC NULLS LAST, id",
        ),
    ]);
}

#[test]
fn grouping_sets_match_the_reference() {
    check_traps(vec![
        same(
            "ROLLUP",
            "SELECT g, b, count(*), sum(v) FROM facts GROUP BY ROLLUP (g, b)",
        ),
        same(
            "CUBE",
            "SELECT g, b, count(*), grouping(g), grouping(b) FROM facts GROUP BY CUBE (g, b)",
        ),
        same(
            "sets that share no column",
            "SELECT k, s, count(*), sum(q) FROM facts GROUP BY GROUPING SETS ((k), (s), ())",
        ),
        same(
            "the empty set alone",
            "SELECT count(*), sum(v) FROM facts GROUP BY GROUPING SETS (())",
        ),
        exactly(
            "the grand total of nothing is one row",
            "SELECT count(*), sum(v) FROM nothing GROUP BY GROUPING SETS (())",
            &[["0", ""]],
        ),
        same(
            "ROLLUP of nothing",
            "SELECT id, count(*) FROM nothing GROUP BY ROLLUP (id)",
        ),
        same(
            "a NULL key is not the NULL of a set",
            "SELECT k, count(*), grouping(k) FROM facts GROUP BY ROLLUP (k)",
        ),
        same(
            "DISTINCT inside a ROLLUP",
            "SELECT g, count(DISTINCT k) FROM facts GROUP BY ROLLUP (g)",
        ),
    ]);
}

#[test]
fn keyless_aggregates_match_the_reference() {
    check_traps(vec![
        same(
            "all rows",
            "SELECT count(*), count(v), sum(v), avg(q), min(s), max(t) FROM facts",
        ),
        exactly(
            "nothing to count",
            "SELECT count(*), sum(v), min(s) FROM nothing",
            &[["0", "", ""]],
        ),
        exactly(
            "nothing passes",
            "SELECT count(*), max(v) FROM facts WHERE v > 100000",
            &[["0", ""]],
        ),
        exactly(
            "one row",
            "SELECT count(*), min(id), max(id) FROM one",
            &[["1", "7", "7"]],
        ),
        same("groups of nothing", "SELECT id, count(*) FROM nothing GROUP BY id"),
        // DataFusion folds these over Parquet statistics into literals that are never NULL; clients compare schemas.
        exactly("counts from statistics", "SELECT count(*) FROM facts", &[["12000"]]),
        exactly(
            "bounds from statistics",
            "SELECT min(id), max(id) FROM facts",
            &[["0", "11999"]],
        ),
        same(
            "bounds of a filtered scan",
            "SELECT min(id), max(id) FROM facts WHERE id % 10 = 3",
        ),
        same(
            "counts from statistics in a union",
            "SELECT count(*) FROM facts UNION ALL SELECT count(*) FROM other UNION ALL SELECT count(*) FROM nothing",
        ),
        same(
            "a total over a total",
            "SELECT sum(n), count(*) FROM (SELECT count(*) AS n FROM facts)",
        ),
    ]);
}
