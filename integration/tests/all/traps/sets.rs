//! UNION, INTERSECT and EXCEPT, of tables of different size and with NULLs.

use super::{Trap, check_traps, exactly, in_order, same};

#[test]
fn unions_match_the_reference() {
    let mut traps = simple_unions();
    traps.extend(combined_unions());
    check_traps(traps);
}

/// Unions of scans.
fn simple_unions() -> Vec<Trap> {
    vec![
        same(
            "ALL, many files and one",
            "SELECT id, v FROM facts UNION ALL SELECT id, v FROM tiny",
        ),
        same(
            "ALL, one row first",
            "SELECT id FROM one UNION ALL SELECT id FROM other",
        ),
        same(
            "ALL with nothing",
            "SELECT id FROM nothing UNION ALL SELECT id FROM other UNION ALL SELECT id FROM nothing",
        ),
        same(
            "not ALL",
            "SELECT k FROM facts UNION SELECT k FROM dims UNION SELECT id FROM tiny",
        ),
        same(
            "not ALL, NULLs once",
            "SELECT k, s FROM facts UNION SELECT k, s FROM other",
        ),
        same(
            "of one table twice",
            "SELECT count(*), sum(id) FROM (SELECT id FROM other UNION ALL SELECT id FROM other)",
        ),
        same(
            "types meet",
            "SELECT g AS x FROM facts UNION ALL SELECT q FROM facts UNION ALL SELECT NULL UNION ALL SELECT 1",
        ),
        same(
            "text types meet",
            "SELECT s FROM facts UNION ALL SELECT name FROM dims UNION ALL SELECT 'constant'",
        ),
        in_order(
            "constants are not carried over a union",
            "SELECT 'facts' AS source, k, count(*) AS n FROM facts GROUP BY k UNION ALL \
             SELECT 'other', k, count(*) FROM other GROUP BY k ORDER BY source, k NULLS FIRST, n",
        ),
        in_order(
            "constants under a grouping in order",
            "SELECT source, k, count(*) FROM (SELECT 'a' AS source, k FROM facts UNION ALL SELECT 'b', k FROM other \
             UNION ALL SELECT 'c', id FROM tiny) GROUP BY source, k ORDER BY source, k",
        ),
    ]
}

/// Unions of other operators, and below them.
fn combined_unions() -> Vec<Trap> {
    vec![
        same(
            "of joins",
            "SELECT d.name, o.id FROM dims d LEFT JOIN other o ON d.k = o.k AND o.id < 300 UNION ALL \
             SELECT d.name, f.id FROM dims d JOIN facts f ON d.k = f.id",
        ),
        same(
            "under a join",
            "SELECT d.name, count(*) FROM dims d JOIN (SELECT k FROM facts UNION ALL SELECT k FROM other \
             UNION ALL SELECT id FROM tiny) u ON d.k = u.k GROUP BY d.name",
        ),
        same(
            "of unlike branches: a scan, a grouping, a sort with a limit, a row of constants",
            "SELECT id AS x FROM tiny UNION ALL SELECT count(*) FROM facts UNION ALL \
             (SELECT id FROM other ORDER BY id DESC LIMIT 4) UNION ALL SELECT 42",
        ),
        same(
            "sum over a union with an empty branch",
            "SELECT sum(v), count(*) FROM (SELECT v FROM nothing UNION ALL SELECT v FROM one)",
        ),
        exactly(
            "of constants",
            "SELECT 1 AS x UNION ALL SELECT 2 UNION ALL SELECT 3 ORDER BY x",
            &[["1"], ["2"], ["3"]],
        ),
        same(
            "nested",
            "(SELECT id FROM tiny UNION SELECT id FROM one) UNION ALL (SELECT id FROM tiny INTERSECT SELECT id \
             FROM other)",
        ),
        same(
            "by name",
            "SELECT id, v FROM tiny UNION ALL BY NAME SELECT v, id FROM one",
        ),
    ]
}

#[test]
fn intersections_and_differences_match_reference() {
    check_traps(vec![
        same(
            "INTERSECT keeps NULL",
            "SELECT k FROM facts INTERSECT SELECT k FROM dims",
        ),
        same("EXCEPT removes NULL", "SELECT k FROM facts EXCEPT SELECT k FROM dims"),
        same("the other way", "SELECT k FROM dims EXCEPT SELECT k FROM facts"),
        same(
            "two columns with NULLs",
            "SELECT k, s FROM facts INTERSECT SELECT k, s FROM other",
        ),
        same(
            "two columns with NULLs, EXCEPT",
            "SELECT k, s FROM other EXCEPT SELECT k, s FROM facts",
        ),
        same("INTERSECT ALL", "SELECT k FROM other INTERSECT ALL SELECT k FROM dims"),
        same("EXCEPT ALL", "SELECT k FROM dims EXCEPT ALL SELECT k FROM other"),
        same("with nothing", "SELECT id FROM tiny EXCEPT SELECT id FROM nothing"),
        same("of nothing", "SELECT id FROM nothing INTERSECT SELECT id FROM facts"),
        same(
            "counted",
            "SELECT count(*) FROM (SELECT id FROM facts INTERSECT SELECT id FROM other)",
        ),
        same(
            "three of them",
            "SELECT k FROM facts INTERSECT SELECT k FROM other EXCEPT SELECT k FROM dims WHERE k < 10",
        ),
    ]);
}
