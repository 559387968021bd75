//! Conditions whose parts fail on rows that another part excludes, and casts that round.

use tonic::Code;

use super::{Trap, check_traps, error, exactly};

/// `SELECT count(*)` of the facts of which `id % 4` is `n` and its text `t`, `x` for zero.
fn counted(why: &'static str, condition: &str, count: &str) -> Trap {
    let sql = format!(
        "SELECT count(*) FROM (SELECT id % 4 AS n, CASE id % 4 WHEN 0 THEN 'x' ELSE (id % 4)::TEXT END AS t FROM facts \
         WHERE id < 400) WHERE {condition}"
    );
    exactly(why, &sql, &[[count]])
}

#[test]
fn what_may_fail_is_evaluated_of_the_rows_that_are_left() {
    check_traps(vec![
        counted("a divisor", "n <> 0 AND 6 / n > 2", "200"),
        counted("in the other order", "6 / n > 2 AND n <> 0", "200"),
        counted("OR", "n = 0 OR 6 / n > 2", "300"),
        counted("NOT", "NOT (n = 0 OR 6 / n > 2)", "100"),
        counted("a cast", "t <> 'x' AND t::INT >= 2", "200"),
        counted("two that fail", "6 / n > 2 AND t::INT >= 2 AND n > 0", "100"),
        counted(
            "beside a subquery",
            "n <= (SELECT max(id) FROM facts) AND 6 / n > 2 AND n <> 0",
            "200",
        ),
        counted(
            "with a subquery",
            "n <> 0 AND 6 / n > (SELECT min(id) + 2 FROM facts)",
            "200",
        ),
        counted(
            "a cast and a division by it",
            "(n < 0 OR 6 / t::INT > 2 AND t::INT > 1) AND t <> 'x'",
            "100",
        ),
        counted("a remainder", "(n = 0 OR 6 % n = 0) AND n < 3", "300"),
        exactly(
            "a narrow cast",
            "SELECT count(*) FROM (SELECT id::BIGINT * 100 AS wide FROM facts WHERE id < 400) \
             WHERE wide < 100 OR (wide < 30000 AND wide::SMALLINT > 100)",
            &[["299"]],
        ),
        exactly(
            "CASE of a boolean",
            "SELECT count(*) FROM facts WHERE id < 400 AND CASE WHEN id % 4 > 0 THEN 6 / (id % 4) > 2 ELSE true END",
            &[["300"]],
        ),
        exactly(
            "a condition of a view below and one of its reader above",
            "SELECT count(*) FROM (SELECT id, 10 / (id % 4) AS q FROM facts WHERE id % 4 <> 0) WHERE q > 4 AND id < 400",
            &[["200"]],
        ),
        exactly(
            "three values in the select list",
            "SELECT id, n <> 0 AND 6 / n > 2, n = 0 OR 6 / n > 2 FROM \
             (SELECT id, CASE id WHEN 0 THEN 0 WHEN 1 THEN NULL ELSE id END AS n FROM facts WHERE id < 4) ORDER BY id",
            &[
                ["0", "false", "true"],
                ["1", "", ""],
                ["2", "true", "true"],
                ["3", "false", "false"],
            ],
        ),
        exactly(
            "the condition of an outer join",
            "SELECT count(*), count(b.id) FROM (SELECT id FROM facts WHERE id < 8) a LEFT JOIN \
             (SELECT id, id % 4 AS n FROM facts WHERE id < 8) b ON a.id = b.id AND n <> 0 AND 6 / n > a.id - 3",
            &[["8", "4"]],
        ),
        exactly(
            "a filter of an aggregate",
            "SELECT count(*) FILTER (WHERE id % 4 <> 0 AND 6 / (id % 4) > 2) FROM facts WHERE id < 400",
            &[["200"]],
        ),
        exactly(
            "a condition that has no column once it is moved, above grouping sets",
            "SELECT count(*) FROM (SELECT CAST((CAST(NULL AS DATE) + INTERVAL '1 day')::DATE - CASE WHEN c >= -1 THEN DATE \
             '1950-03-01' END AS VARCHAR) AS d FROM (SELECT grouping(g) AS c FROM facts GROUP BY CUBE (g))) WHERE d <= 'a'",
            &[["0"]],
        ),
        exactly(
            "the same above an aggregate of all rows",
            "SELECT count(*) FROM (SELECT n, nullif(1, 1) + n AS x FROM (SELECT count(*) AS n FROM facts)) WHERE x > 0",
            &[["0"]],
        ),
        exactly(
            "partition columns",
            "SELECT count(*) FROM hive WHERE 10 / (month - 1) > 1 AND month <> 1",
            &[["48"]],
        ),
        error(
            "a row that no condition excludes",
            "SELECT count(*) FROM facts WHERE id < 400 AND 6 / (id % 4) > 2",
            Code::InvalidArgument,
            "ivide by zero",
        ),
    ]);
}

#[test]
fn casts_to_integers_round() {
    check_traps(vec![
        exactly(
            "doubles, of two the even one",
            "SELECT id, (id + 0.5::DOUBLE)::INT, (-id - 0.5::DOUBLE)::BIGINT FROM facts WHERE id < 4 ORDER BY id",
            &[["0", "0", "0"], ["1", "2", "-2"], ["2", "2", "-2"], ["3", "4", "-4"]],
        ),
        exactly(
            "decimals, of two the one further from zero",
            "SELECT id, (id + 0.5::DECIMAL(2, 1))::INT, (-id - 0.5::DECIMAL(2, 1))::SMALLINT, \
             try_cast(id + 0.4::DECIMAL(2, 1) AS BIGINT) FROM facts WHERE id < 3 ORDER BY id",
            &[["0", "1", "-1", "0"], ["1", "2", "-2", "1"], ["2", "3", "-3", "2"]],
        ),
        exactly(
            "numbers that are written down",
            "SELECT 2.5::INT, -2.5::INT, 2.4::BIGINT, 99.9::DECIMAL(3, 1)::TINYINT, 2.5::DOUBLE::INT",
            &[["3", "-3", "2", "100", "2"]],
        ),
        exactly(
            "a comparison with a cast",
            "SELECT count(*) FROM facts WHERE id < 4 AND (id + 0.75::DOUBLE)::INT = 2",
            &[["1"]],
        ),
        error(
            "a number that does not fit once it is rounded",
            "SELECT max((id + 127.5::DOUBLE)::TINYINT) FROM facts WHERE id = 0",
            Code::InvalidArgument,
            "128",
        ),
    ]);
}
