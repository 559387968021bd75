//! Joins: small builds, every type, NULL keys, empty sides, same-named columns.

use super::{check_traps, exactly, in_order, same};

/// Join types and the columns of their rows.
const TYPES: [(&str, &str); 8] = [
    ("INNER", "dims.name, other.id, other.v"),
    ("LEFT", "dims.name, other.id, other.v"),
    ("RIGHT", "dims.name, other.id, other.v"),
    ("FULL", "dims.name, other.id, other.v"),
    ("LEFT SEMI", "dims.name, dims.w"),
    ("LEFT ANTI", "dims.name, dims.w"),
    ("RIGHT SEMI", "other.id, other.v"),
    ("RIGHT ANTI", "other.id, other.v"),
];

#[test]
fn small_build_joins_match_the_reference() {
    let mut traps = Vec::new();
    for (kind, columns) in TYPES {
        traps.push(same(
            "collect-left: unmatched build rows come once, not once a task",
            format!("SELECT {columns} FROM dims {kind} JOIN other ON dims.k = other.k"),
        ));
        traps.push(same(
            "collect-left with a filter that is no key",
            format!("SELECT {columns} FROM dims {kind} JOIN other ON dims.k = other.k AND dims.w < other.v"),
        ));
        traps.push(same(
            "nested loop: no key at all",
            format!("SELECT {columns} FROM dims {kind} JOIN other ON dims.w < other.v - 900"),
        ));
        traps.push(same(
            "collect-left of nothing: a probe dropped unread is no failure",
            format!(
                "SELECT {columns} FROM dims {kind} JOIN (SELECT * FROM other WHERE v > 5000) AS other \
                 ON dims.k = other.k"
            ),
        ));
        traps.push(same(
            "an empty build",
            format!(
                "SELECT {columns} FROM (SELECT * FROM dims WHERE w > 5000) AS dims {kind} JOIN other \
                 ON dims.k = other.k"
            ),
        ));
    }
    check_traps(traps);
}

#[test]
fn large_joins_match_the_reference() {
    let mut traps = Vec::new();
    for kind in ["INNER", "LEFT", "RIGHT", "FULL"] {
        traps.push(same(
            "many files on both sides, ids that only one side has",
            format!("SELECT facts.id, other.id, facts.v, other.s FROM facts {kind} JOIN other ON facts.id = other.id"),
        ));
        traps.push(same(
            "a skewed key with NULLs, aggregated",
            format!(
                "SELECT facts.k, count(*), sum(other.v), count(other.id) FROM facts {kind} JOIN other \
                 ON facts.k = other.k AND facts.id % 97 = 3 AND other.id % 5 = 0 GROUP BY facts.k"
            ),
        ));
        traps.push(same(
            "two keys, one of them text",
            format!(
                "SELECT facts.id, other.id FROM facts {kind} JOIN other ON facts.id = other.id AND facts.s = other.s"
            ),
        ));
    }
    traps.extend([
        same(
            "keys of different types",
            "SELECT count(*), sum(o.v) FROM facts f JOIN other o ON f.g = o.k",
        ),
        same(
            "a decimal against a number",
            "SELECT count(*), min(f.id) FROM facts f JOIN other o ON f.price = o.v",
        ),
        same(
            "NULL equals NULL when asked so",
            "SELECT d.name, count(*) FROM dims d JOIN other o ON d.k IS NOT DISTINCT FROM o.k GROUP BY d.name",
        ),
        same(
            "USING gives one column",
            "SELECT k, name, id FROM dims JOIN other USING (k)",
        ),
        same(
            "NATURAL",
            "SELECT count(*), sum(id) FROM facts NATURAL JOIN (SELECT id, g FROM facts WHERE v > 0) AS positive",
        ),
        same(
            "outer joins in a chain",
            "SELECT d.name, o.id, t.v FROM dims d LEFT JOIN other o ON d.k = o.k AND o.id < 700 \
             LEFT JOIN tiny t ON o.id = t.id FULL JOIN one ON t.id = one.id",
        ),
        same(
            "a join that only counts: no column is left",
            "SELECT count(*) FROM facts f JOIN other o ON f.id = o.id",
        ),
        same(
            "mark join: EXISTS beside another condition",
            "SELECT count(*), sum(id) FROM other o WHERE o.v > 900 OR EXISTS (SELECT 1 FROM dims d WHERE d.k = o.k)",
        ),
        same(
            "a limit inside the build side",
            "SELECT count(*) FROM other o JOIN (SELECT k FROM dims WHERE k IS NOT NULL ORDER BY k, name LIMIT 5) d \
             ON o.k = d.k",
        ),
    ]);
    check_traps(traps);
}

#[test]
fn cross_joins_match_the_reference() {
    check_traps(vec![
        same("small by small", "SELECT d.name, t.id FROM dims d CROSS JOIN tiny t"),
        same(
            "the left side whole for every task",
            "SELECT t.id, o.id FROM tiny t CROSS JOIN other o",
        ),
        same(
            "large by small, counted",
            "SELECT count(*), sum(f.v + t.v) FROM facts f, tiny t",
        ),
        same("with nothing on one side", "SELECT * FROM dims CROSS JOIN nothing"),
        same(
            "with one row",
            "SELECT count(*), max(f.id + one.id) FROM facts f CROSS JOIN one",
        ),
        same(
            "under a union, whose partitions are not those of the join",
            "SELECT id FROM tiny UNION ALL SELECT d.w FROM dims d CROSS JOIN tiny UNION ALL SELECT id FROM other",
        ),
        same(
            "three in a row",
            "SELECT count(*), count(DISTINCT a.id * 100 + b.id * 10 + c.id) FROM tiny a, tiny b, tiny c",
        ),
    ]);
}

#[test]
fn same_named_columns_stay_distinct() {
    check_traps(vec![
        same(
            "a self-join shows both",
            "SELECT a.id, b.id, a.v, b.v, a.k, b.k FROM other a JOIN other b ON a.id = b.id + 5 WHERE b.v > a.v",
        ),
        same(
            "a self-join on another column",
            "SELECT a.id, b.id FROM facts a JOIN facts b ON a.id = b.k WHERE b.id % 11 = 0",
        ),
        same(
            "three of one name",
            "SELECT a.v, b.v, c.v FROM other a JOIN other b ON a.id = b.id JOIN facts c ON b.id = c.id WHERE c.v > 990",
        ),
        // DataFusion #25244: the filter of the outer join lands on `ta.id`, and the row is lost.
        exactly(
            "a dynamic filter on the second of two columns named id",
            "SELECT s.id, a.id, b.id FROM tb s JOIN (SELECT a.id AS id, b.id AS bid FROM ta a \
             LEFT JOIN tb b ON a.ty = b.id) a ON s.id = a.bid JOIN tb b ON b.id = a.bid",
            &[["x1", "a1", "x1"]],
        ),
        exactly(
            "the same without renaming",
            "SELECT s.id, a.id, b.id FROM tb s JOIN ta a ON s.id = a.ty JOIN tb b ON a.ty = b.id \
             JOIN tb c ON b.id = c.id",
            &[["x1", "a1", "x1"]],
        ),
        // DataFusion #25262.
        exactly(
            "through a filter that projects",
            "SELECT s.id AS sid, x.aid, x.bid FROM tb s JOIN (SELECT a.id AS aid, b.id AS bid FROM ta a LEFT JOIN tb b \
             ON a.ty = b.id WHERE a.id <> b.id) x ON s.id = x.bid",
            &[["x1", "a1", "x1"]],
        ),
        // DataFusion #25264.
        exactly(
            "through an aggregate with two groups named id",
            "SELECT s.id, x.n FROM tb s JOIN (SELECT a.id AS one, b.id AS two, count(*) AS n FROM ta a LEFT JOIN tb b \
             ON a.ty = b.id GROUP BY a.id, b.id) x ON s.id = x.two",
            &[["x1", "1"]],
        ),
        // DataFusion #25296: the threshold of the TopK lands on `orders.amount`; the wrong answer is 100, 30.
        exactly(
            "a TopK threshold on the second of two columns named amount",
            "SELECT o.amount, p.amount FROM orders o JOIN payments p ON o.id = p.id JOIN customers c ON p.id = c.id \
             ORDER BY p.amount LIMIT 1",
            &[["300", "10"]],
        ),
        in_order(
            "a TopK over a self-join",
            "SELECT a.v, b.v, a.id FROM facts a JOIN facts b ON a.id = b.id JOIN other c ON b.id = c.id \
             ORDER BY b.v DESC NULLS LAST, a.id LIMIT 7",
        ),
    ]);
}

#[test]
fn not_in_and_exists_handle_nulls() {
    check_traps(vec![
        exactly(
            "NOT IN a set with NULL keeps nothing",
            "SELECT id FROM other WHERE k NOT IN (SELECT k FROM dims)",
            &[] as &[[&str; 1]],
        ),
        same(
            "NOT IN a set without NULL drops NULL",
            "SELECT count(*), sum(id) FROM other WHERE k NOT IN (SELECT k FROM dims WHERE k IS NOT NULL)",
        ),
        same(
            "NOT IN the empty set keeps everything, NULL too",
            "SELECT count(*), sum(id) FROM other WHERE k NOT IN (SELECT id FROM nothing)",
        ),
        same(
            "IN with NULLs on both sides",
            "SELECT count(*), sum(id) FROM other WHERE k IN (SELECT k FROM dims)",
        ),
        same(
            "NOT EXISTS is not NOT IN",
            "SELECT count(*), sum(id) FROM other o WHERE NOT EXISTS (SELECT 1 FROM dims d WHERE d.k = o.k)",
        ),
        same(
            "NOT IN of a large set",
            "SELECT count(*), sum(id) FROM dims, one WHERE dims.k NOT IN (SELECT k FROM facts WHERE k IS NOT NULL)",
        ),
        same(
            "EXISTS with an inequality",
            "SELECT d.name FROM dims d WHERE EXISTS (SELECT 1 FROM other o WHERE o.k = d.k AND o.v > d.w)",
        ),
    ]);
}
