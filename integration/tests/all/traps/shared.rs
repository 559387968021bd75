//! Parts of a query that occur twice and are computed once: their readers read all of it, some of it, or nothing.

use super::{check_traps, in_order, same};

#[test]
fn shared_parts_give_every_reader_all_rows() {
    check_traps(vec![
        same(
            "groups that are joined with themselves",
            "WITH g AS (SELECT k, count(*) AS n, sum(v) AS s FROM facts GROUP BY k) \
             SELECT a.k, b.n, a.s FROM g a JOIN g b ON a.k = b.k + 1",
        ),
        same(
            "groups, and the greatest of them",
            "WITH g AS (SELECT k, sum(v) AS s FROM facts GROUP BY k) SELECT k, s FROM g WHERE s = (SELECT max(s) FROM g)",
        ),
        same(
            "each reader has a filter of its own, and NULL keys match nothing",
            "WITH g AS (SELECT k, count(v) AS n FROM facts GROUP BY k) \
             SELECT a.k, b.k FROM g a LEFT JOIN g b ON a.k = b.k AND b.n > 100 WHERE a.n < 2000",
        ),
        same(
            "three readers",
            "WITH d AS (SELECT DISTINCT k FROM other) \
             SELECT count(*) FROM d a JOIN d b ON a.k = b.k JOIN d c ON b.k = c.k + 1",
        ),
        same(
            "both sides of UNION ALL",
            "WITH g AS (SELECT k, sum(id) AS s FROM facts GROUP BY k) SELECT * FROM g UNION ALL SELECT k + 1, s FROM g",
        ),
        same(
            "the anti-join of a part with itself",
            "WITH g AS (SELECT k, sum(id) AS s FROM facts GROUP BY k) \
             SELECT k FROM g a WHERE NOT EXISTS (SELECT 1 FROM g b WHERE b.s > a.s)",
        ),
        same(
            "a full join of a part with itself",
            "WITH g AS (SELECT k, sum(id) AS s FROM facts GROUP BY k) \
             SELECT a.k, b.s FROM g a FULL JOIN g b ON a.k = b.k + 3",
        ),
        same(
            "an empty part",
            "WITH g AS (SELECT id, count(*) AS n FROM nothing GROUP BY id) SELECT a.n FROM g a FULL JOIN g b ON a.id = b.id",
        ),
        same(
            "one row without groups",
            "WITH g AS (SELECT sum(id) AS s FROM facts) SELECT a.s + b.s FROM g a CROSS JOIN g b",
        ),
        same(
            "a reader within a part that is read twice",
            "WITH g AS (SELECT k, sum(id) AS s FROM facts GROUP BY k), \
             h AS (SELECT g.s % 3 AS m, count(*) AS n FROM g JOIN g o ON g.k = o.k GROUP BY g.s % 3) \
             SELECT a.m, b.n FROM h a JOIN h b ON a.m = b.m",
        ),
        same(
            "windows over groups, a row and the one before it",
            "WITH w AS (SELECT k, row_number() OVER (ORDER BY k NULLS LAST) AS place FROM facts GROUP BY k) \
             SELECT a.k, b.k FROM w a JOIN w b ON a.place = b.place + 1",
        ),
        in_order(
            "a reader that stops early",
            "WITH g AS (SELECT id, count(*) AS n FROM facts GROUP BY id) \
             SELECT id FROM (SELECT id FROM g WHERE n = 1 ORDER BY id LIMIT 3) UNION ALL \
             SELECT count(*) FROM g ORDER BY id",
        ),
        same(
            "a reader that finds nothing to join",
            "WITH g AS (SELECT k, count(*) AS n FROM facts GROUP BY k) \
             SELECT count(*) FROM nothing x JOIN g a ON x.id = a.k JOIN g b ON a.n = b.n",
        ),
        same(
            "the first rows of groups, twice",
            "WITH g AS (SELECT k, min(id) AS least FROM facts GROUP BY k ORDER BY least LIMIT 4) \
             SELECT count(*), min(a.least) FROM g a JOIN g b ON a.least >= b.least",
        ),
        same(
            "within a recursion, which runs whole",
            "WITH RECURSIVE g AS (SELECT k, count(*) AS n FROM facts WHERE k < 20 GROUP BY k), \
             r AS (SELECT 1 AS x UNION ALL \
             SELECT x + 1 FROM r JOIN g a ON r.x = a.k JOIN g b ON a.k = b.k AND a.n = b.n WHERE x < 5) SELECT x FROM r",
        ),
        same(
            "beside a recursion and within it",
            "WITH RECURSIVE g AS (SELECT k, count(*) AS n FROM facts WHERE k < 20 GROUP BY k), \
             r AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM r JOIN g ON r.x = g.k AND g.n > 0 WHERE x < 5) \
             SELECT r.x, a.n, b.k FROM r JOIN g a ON a.k = r.x JOIN g b ON b.n = a.n",
        ),
        same(
            "in a subquery of each branch",
            "SELECT id FROM tiny WHERE id IN (SELECT k FROM facts GROUP BY k HAVING count(*) > 10) UNION ALL \
             SELECT k FROM dims WHERE k IN (SELECT k FROM facts GROUP BY k HAVING count(*) > 10)",
        ),
    ]);
}
