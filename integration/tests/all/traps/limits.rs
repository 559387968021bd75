//! LIMIT and OFFSET with and without ORDER BY, and sorts.

use super::{check_traps, exactly, in_order, same, some_of};

const FACTS: &str = "SELECT id, s FROM facts";

#[test]
fn unordered_limits_return_enough_rows() {
    check_traps(vec![
        some_of("any ten", FACTS, "LIMIT 10", 10),
        some_of("none", FACTS, "LIMIT 0", 0),
        some_of("more than there are", "SELECT id FROM tiny", "LIMIT 100", 3),
        some_of("skipping nearly all", FACTS, "OFFSET 11995", 5),
        some_of("skipping all", FACTS, "LIMIT 10 OFFSET 12000", 0),
        some_of("across files", FACTS, "LIMIT 7000 OFFSET 100", 7000),
        some_of("with a filter", "SELECT id FROM facts WHERE v > 900", "LIMIT 20", 20),
        some_of(
            "of a union",
            "SELECT id FROM tiny UNION ALL SELECT id FROM other",
            "LIMIT 5",
            5,
        ),
        some_of(
            "of a join",
            "SELECT f.id, o.v FROM facts f JOIN other o ON f.id = o.id",
            "LIMIT 9",
            9,
        ),
        some_of(
            "of a cross join",
            "SELECT f.id, t.id FROM facts f, tiny t",
            "LIMIT 11",
            11,
        ),
        some_of("of groups", "SELECT k, count(*) FROM facts GROUP BY k", "LIMIT 3", 3),
        some_of(
            "of distinct rows",
            "SELECT DISTINCT id FROM facts",
            "LIMIT 12 OFFSET 3",
            12,
        ),
        exactly(
            "inside, counted",
            "SELECT count(*) FROM (SELECT id FROM facts LIMIT 100)",
            &[["100"]],
        ),
        exactly(
            "with an offset inside, counted",
            "SELECT count(*) FROM (SELECT id FROM facts LIMIT 100 OFFSET 11950)",
            &[["50"]],
        ),
        exactly(
            "a limit on each side",
            "SELECT count(*) FROM (SELECT id FROM facts LIMIT 7) AS a, (SELECT id FROM other LIMIT 3) AS b",
            &[["21"]],
        ),
        exactly(
            "a limit in the build side of a join",
            "SELECT count(*) FROM (SELECT id FROM tiny LIMIT 1) t CROSS JOIN (SELECT id FROM facts LIMIT 40) f",
            &[["40"]],
        ),
        exactly(
            "two limits, the inner is smaller",
            "SELECT count(*) FROM (SELECT * FROM (SELECT id FROM facts LIMIT 5) LIMIT 50)",
            &[["5"]],
        ),
        exactly(
            "two limits, the outer is smaller",
            "SELECT count(*) FROM (SELECT * FROM (SELECT id FROM facts LIMIT 50) LIMIT 5)",
            &[["5"]],
        ),
    ]);
}

#[test]
fn ordered_limits_match_the_reference() {
    check_traps(vec![
        in_order("the first", "SELECT id, v FROM facts ORDER BY id LIMIT 10"),
        in_order("the last", "SELECT id, v FROM facts ORDER BY id DESC LIMIT 10"),
        in_order(
            "from the middle",
            "SELECT id FROM facts ORDER BY id LIMIT 10 OFFSET 5995",
        ),
        in_order("the end", "SELECT id FROM facts ORDER BY id OFFSET 11990"),
        in_order("ties broken by id", "SELECT v, id FROM facts ORDER BY v, id LIMIT 50"),
        in_order(
            "NULLs first",
            "SELECT v, id FROM facts ORDER BY v NULLS FIRST, id LIMIT 20",
        ),
        in_order(
            "NULLs last, downwards",
            "SELECT v, id FROM facts ORDER BY v DESC NULLS LAST, id DESC LIMIT 20",
        ),
        in_order(
            "text and a number",
            "SELECT s, id FROM facts ORDER BY s DESC, id LIMIT 100 OFFSET 3000",
        ),
        in_order("everything sorted", "SELECT id, v, s FROM facts ORDER BY v DESC, s, id"),
        in_order(
            "by an expression that is not shown",
            "SELECT id FROM facts ORDER BY abs(v) % 17, id LIMIT 30",
        ),
        in_order(
            "of groups",
            "SELECT k, count(*) AS n FROM facts GROUP BY k ORDER BY n DESC, k LIMIT 5",
        ),
        in_order(
            "of a union",
            "SELECT id FROM other UNION ALL SELECT id FROM tiny ORDER BY id DESC LIMIT 6",
        ),
        in_order(
            "of a join",
            "SELECT f.id, o.v FROM facts f JOIN other o ON f.id = o.id ORDER BY o.v DESC NULLS LAST, f.id LIMIT 15",
        ),
        same(
            "a TopK inside",
            "SELECT sum(v), count(*) FROM (SELECT v, id FROM facts ORDER BY v DESC NULLS LAST, id LIMIT 77)",
        ),
        in_order(
            "a sort below a limit below a sort",
            "SELECT * FROM (SELECT id, v FROM facts ORDER BY v NULLS LAST, id LIMIT 20) ORDER BY id DESC",
        ),
        in_order("nothing", "SELECT id FROM nothing ORDER BY id LIMIT 3"),
        in_order("one row", "SELECT id FROM one ORDER BY id LIMIT 3"),
    ]);
}

#[test]
fn limits_over_ordered_input_match() {
    check_traps(vec![
        // DataFusion #24272: the limit prunes the row group with the first keys.
        exactly(
            "a limit over an ordered file with a filter",
            "SELECT key FROM sorted WHERE key >= 1 ORDER BY key LIMIT 5",
            &[["1"], ["2"], ["3"], ["4"], ["5"]],
        ),
        in_order("an ordered file", "SELECT key FROM sorted ORDER BY key"),
        in_order(
            "an ordered file, downwards",
            "SELECT key FROM sorted ORDER BY key DESC LIMIT 7",
        ),
        in_order(
            "an ordered file with an offset",
            "SELECT key FROM sorted ORDER BY key LIMIT 5 OFFSET 98",
        ),
        same(
            "groups of an ordered file",
            "SELECT key / 10, count(*) FROM sorted GROUP BY key / 10",
        ),
        same(
            "an ordered file in a join",
            "SELECT count(*), sum(f.v) FROM sorted s JOIN facts f ON s.key = f.id",
        ),
        // DataFusion #24927: a limit moves below the final grouping.
        exactly(
            "DISTINCT under ORDER BY and LIMIT",
            "WITH s(x) AS (VALUES (0), (1), (2) ORDER BY 1 LIMIT 3), \
             t AS (SELECT * FROM s UNION ALL SELECT * FROM s UNION ALL SELECT * FROM s) \
             SELECT DISTINCT x FROM t ORDER BY x LIMIT 3",
            &[["0"], ["1"], ["2"]],
        ),
        exactly(
            "DISTINCT of an ordered file",
            "SELECT DISTINCT key FROM (SELECT key FROM sorted UNION ALL SELECT key FROM sorted) ORDER BY key LIMIT 3",
            &[["0"], ["1"], ["2"]],
        ),
        // DataFusion #25065: a plan that is optimised twice loses the fetch of its merge.
        exactly(
            "groups of the first two",
            "SELECT b FROM (SELECT a, b FROM pairs ORDER BY a LIMIT 2) GROUP BY b ORDER BY b",
            &[["10"], ["20"]],
        ),
    ]);
}
