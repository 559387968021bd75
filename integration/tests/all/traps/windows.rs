//! Windows, with and without PARTITION BY; FILTER and IGNORE NULLS, which do not survive being sent.

use super::{check_traps, in_order, same};

#[test]
fn partitioned_windows_match_the_reference() {
    check_traps(vec![
        same(
            "numbers",
            "SELECT id, row_number() OVER (PARTITION BY g ORDER BY id) FROM facts",
        ),
        same(
            "ranks with ties",
            "SELECT id, rank() OVER (PARTITION BY g ORDER BY v), dense_rank() OVER (PARTITION BY g ORDER BY v) \
             FROM facts",
        ),
        same(
            "a running sum",
            "SELECT id, sum(v) OVER (PARTITION BY k ORDER BY id) FROM facts",
        ),
        same(
            "the whole partition",
            "SELECT id, count(*) OVER (PARTITION BY k), max(v) OVER (PARTITION BY k) FROM facts",
        ),
        same(
            "two partitionings in one query",
            "SELECT id, row_number() OVER (PARTITION BY g ORDER BY id), sum(v) OVER (PARTITION BY b ORDER BY id) \
             FROM facts",
        ),
        same(
            "lag, lead and bounds of frames",
            "SELECT id, lag(v, 2) OVER w, lead(s, 1, 'end') OVER w, first_value(v) OVER w, nth_value(v, 3) OVER w \
             FROM facts WINDOW w AS (PARTITION BY g ORDER BY id)",
        ),
        same(
            "a moving frame",
            "SELECT id, avg(q) OVER (PARTITION BY g ORDER BY id ROWS BETWEEN 3 PRECEDING AND 1 FOLLOWING) FROM facts",
        ),
        same(
            "a frame of values",
            "SELECT id, count(*) OVER (PARTITION BY g ORDER BY id RANGE BETWEEN 50 PRECEDING AND 50 FOLLOWING) \
             FROM facts",
        ),
        same(
            "shares",
            "SELECT id, ntile(5) OVER (PARTITION BY g ORDER BY id), percent_rank() OVER (PARTITION BY g ORDER BY id) \
             FROM facts",
        ),
        same(
            "the first three of each",
            "SELECT * FROM (SELECT g, id, row_number() OVER (PARTITION BY g ORDER BY v DESC NULLS LAST, id) AS n \
             FROM facts) WHERE n <= 3",
        ),
        same(
            "over a join",
            "SELECT o.id, sum(o.v) OVER (PARTITION BY d.name ORDER BY o.id) FROM dims d \
             JOIN other o ON d.k = o.k AND o.id < 2000",
        ),
        same(
            "over groups",
            "SELECT k, count(*), rank() OVER (ORDER BY count(*) DESC, k) FROM facts GROUP BY k",
        ),
        same(
            "of nothing",
            "SELECT id, row_number() OVER (PARTITION BY s ORDER BY id) FROM nothing",
        ),
    ]);
}

#[test]
fn unpartitioned_windows_match_the_reference() {
    check_traps(vec![
        same("numbers", "SELECT id, row_number() OVER (ORDER BY id) FROM facts"),
        same("a running sum", "SELECT id, sum(v) OVER (ORDER BY id) FROM facts"),
        same("all rows", "SELECT id, count(*) OVER (), sum(v) OVER () FROM other"),
        in_order(
            "under a limit",
            "SELECT id, row_number() OVER (ORDER BY v DESC NULLS LAST, id) AS n FROM facts ORDER BY n LIMIT 20",
        ),
        in_order(
            "two orders",
            "SELECT id, row_number() OVER (ORDER BY id) AS up, row_number() OVER (ORDER BY id DESC) AS down FROM other \
             ORDER BY id",
        ),
        same(
            "one row",
            "SELECT id, row_number() OVER (), lag(id) OVER (ORDER BY id) FROM one",
        ),
    ]);
}

#[test]
fn filter_and_ignore_nulls_survive() {
    check_traps(vec![
        same(
            "FILTER with PARTITION BY",
            "SELECT id, count(*) FILTER (WHERE b) OVER (PARTITION BY g ORDER BY id) FROM facts",
        ),
        same(
            "FILTER without",
            "SELECT id, sum(v) FILTER (WHERE v > 0) OVER (ORDER BY id) FROM other",
        ),
        same(
            "lag IGNORE NULLS",
            "SELECT id, lag(v) IGNORE NULLS OVER (PARTITION BY g ORDER BY id) FROM facts",
        ),
        same(
            "first, last and nth IGNORE NULLS",
            "SELECT id, first_value(v) IGNORE NULLS OVER w, last_value(s) IGNORE NULLS OVER w, \
             nth_value(v, 2) IGNORE NULLS OVER w FROM facts WINDOW w AS (PARTITION BY k ORDER BY id)",
        ),
        same(
            "beside windows that can be sent",
            "SELECT id, lead(v) IGNORE NULLS OVER (ORDER BY id), row_number() OVER (PARTITION BY k ORDER BY id) \
             FROM other",
        ),
        same(
            "below a join and a grouping",
            "SELECT d.name, sum(x.last) FROM dims d JOIN (SELECT k, lag(v) IGNORE NULLS OVER (PARTITION BY k \
             ORDER BY id) AS last FROM other) x ON d.k = x.k GROUP BY d.name",
        ),
        same(
            "in two branches of a union",
            "SELECT id, lag(v) IGNORE NULLS OVER (ORDER BY id) FROM other UNION ALL \
             SELECT id, count(*) FILTER (WHERE v > 0) OVER (ORDER BY id) FROM tiny",
        ),
    ]);
}
