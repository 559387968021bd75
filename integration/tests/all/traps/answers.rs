//! Values that DataFusion 55.2 shows, compares, computes or casts otherwise than PostgreSQL and DuckDB: under NULL, in
//! frames that move, in zones, within nested values. The rows are written down.

use tonic::Code;

use super::{Tables, check_traps, error, exactly, start};
use crate::callers::Caller;
use crate::support::{Mismatches, bounded, minutes};

#[test]
fn nothing_under_null_is_shown() {
    check_traps(vec![
        exactly(
            "fields of a NULL struct of an Arrow file",
            "SELECT id, point['x'], point['l'] FROM hidden WHERE id < 3 ORDER BY id",
            &[["0", "0", "[0]"], ["1", "", ""], ["2", "2", "[2]"]],
        ),
        exactly(
            "elements of a NULL list of an Arrow file",
            "SELECT id, array_append(items, 7), array_concat(items, items) FROM hidden WHERE id < 3 ORDER BY id",
            &[["0", "[0, 7]", "[0, 0]"], ["1", "[7]", ""], ["2", "[2, 7]", "[2, 2]"]],
        ),
        exactly(
            "unnested lists and structs of an Arrow file",
            "SELECT sum(i), count(i) FROM (SELECT unnest(items) AS i FROM hidden WHERE id < 4)",
            &[["2", "2"]],
        ),
        exactly(
            "a filter by a field of an Arrow file",
            "SELECT count(*) FROM hidden WHERE point['x'] = id",
            &[["250"]],
        ),
        exactly(
            "nullif of a struct",
            "SELECT id, nullif(s, s)['a'], nullif(s, named_struct('a', 1))['a'] FROM \
             (SELECT id, named_struct('a', id) AS s FROM facts WHERE id < 2) ORDER BY id",
            &[["0", "", "0"], ["1", "", ""]],
        ),
        exactly(
            "CASE of a struct and of a list",
            "SELECT id, (CASE WHEN id > 0 THEN s END)['a'], array_append(CASE WHEN id > 0 THEN l END, 9) FROM \
             (SELECT id, named_struct('a', id) AS s, [id] AS l FROM facts WHERE id < 2) ORDER BY id",
            &[["0", "", "[9]"], ["1", "1", "[1, 9]"]],
        ),
        exactly(
            "nullif of a list",
            "SELECT array_repeat(nullif(l, [1]), 2), array_prepend(5, nullif(l, [1])) FROM \
             (SELECT id, [id] AS l FROM facts WHERE id < 2) ORDER BY id",
            &[["[[0], [0]]", "[5, 0]"], ["[, ]", "[5]"]],
        ),
        exactly(
            "unnest of nullif",
            "SELECT id, unnest(nullif(s, named_struct('a', 1))) FROM \
             (SELECT id, named_struct('a', id) AS s FROM facts WHERE id < 2) ORDER BY id",
            &[["0", "0"], ["1", ""]],
        ),
    ]);
}

/// Rows 0 to 5 with x: 1, NaN, infinity, 2, 1e300 and 3.
fn floats(select: &str) -> String {
    format!(
        "SELECT id, {select} FROM (SELECT id, CASE id WHEN 0 THEN 1.0 WHEN 1 THEN 'NaN'::DOUBLE WHEN 2 THEN 'inf'::DOUBLE \
         WHEN 3 THEN 2.0 WHEN 4 THEN 1e300 ELSE 3.0 END AS x FROM facts WHERE id < 7) \
         WINDOW w AS (ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) ORDER BY id"
    )
}

#[test]
fn what_leaves_a_frame_leaves_nothing_behind() {
    check_traps(vec![
        exactly(
            "sum and avg",
            &floats("sum(x) OVER w, avg(x) OVER w"),
            &[
                ["0", "1.0", "1.0"],
                ["1", "NaN", "NaN"],
                ["2", "NaN", "NaN"],
                ["3", "inf", "inf"],
                ["4", "1e300", "5e299"],
                ["5", "1e300", "5e299"],
                ["6", "6.0", "3.0"],
            ],
        ),
        exactly(
            "variance and covariance",
            "SELECT id, var_pop(x) OVER w, covar_pop(x, x) OVER w, regr_count(x, x) OVER w FROM \
             (SELECT id, CASE id WHEN 1 THEN 'NaN'::DOUBLE ELSE id::DOUBLE END AS x FROM facts WHERE id < 5) \
             WINDOW w AS (ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) ORDER BY id",
            &[
                ["0", "0.0", "0.0", "1"],
                ["1", "NaN", "NaN", "2"],
                ["2", "NaN", "NaN", "2"],
                ["3", "0.25", "0.25", "2"],
                ["4", "0.25", "0.25", "2"],
            ],
        ),
        exactly(
            "a frame around the row, with NULLs and groups",
            "SELECT id, sum(x) OVER (PARTITION BY id % 2 ORDER BY id ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING) FROM \
             (SELECT id, CASE WHEN id = 2 THEN 'NaN'::DOUBLE WHEN id <> 4 THEN id / 2.0 END AS x FROM facts WHERE id < 10) \
             ORDER BY id",
            &[
                ["0", "NaN"],
                ["1", "2.0"],
                ["2", "NaN"],
                ["3", "4.5"],
                ["4", "NaN"],
                ["5", "7.5"],
                ["6", "7.0"],
                ["7", "10.5"],
                ["8", "7.0"],
                ["9", "8.0"],
            ],
        ),
        exactly(
            "aggregates that give nothing back",
            "SELECT id, bool_and(id <> 2) OVER w, bit_or(id) OVER w, string_agg(id::VARCHAR, '-') OVER w FROM facts \
             WHERE id < 5 WINDOW w AS (ORDER BY id ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING) ORDER BY id",
            &[
                ["0", "true", "1", "0-1"],
                ["1", "false", "3", "0-1-2"],
                ["2", "false", "3", "1-2-3"],
                ["3", "false", "7", "2-3-4"],
                ["4", "true", "7", "3-4"],
            ],
        ),
        error(
            "lag with a negative offset that ignores NULLs",
            "SELECT id, lag(v, -2) IGNORE NULLS OVER (ORDER BY id) FROM facts",
            Code::Unimplemented,
            "nth_value",
        ),
        error(
            "a default that would be cut",
            "SELECT lag(v, 1, 2.5) OVER (ORDER BY id) FROM facts",
            Code::InvalidArgument,
            "DOUBLE",
        ),
    ]);
}

#[test]
fn zeros_and_nan_within_values_are_equal() {
    let signed = |select: &str| {
        format!(
            "SELECT {select} FROM (SELECT id, CASE WHEN id = 0 THEN 0.0 ELSE -0.0 END AS z FROM facts WHERE id < 2)"
        )
    };
    check_traps(vec![
        exactly(
            "lists and structs are compared",
            &signed(
                "count(*) FILTER (WHERE [z] = [0.0]), count(*) FILTER (WHERE (z, 1) = (0.0, 1)), \
                     count(*) FILTER (WHERE [-(0.0 / z)] = ['NaN'::DOUBLE])",
            ),
            &[["2", "2", "2"]],
        ),
        exactly(
            "elements are found",
            &signed(
                "sum(array_position([1.0, z], -0.0)), count(*) FILTER (WHERE array_has([z], 0.0)), \
                     max(array_to_string(array_replace_all([z, 0.0], -0.0, 2.0), ' '))",
            ),
            &[["4", "2", "2 2"]],
        ),
        exactly("groups of lists", &signed("count(DISTINCT [z])"), &[["1"]]),
        exactly(
            "GROUP BY and DISTINCT",
            &format!(
                "SELECT count(*) FROM (SELECT DISTINCT l FROM ({})) UNION ALL \
                 SELECT count(*) FROM (SELECT l, count(*) FROM ({}) GROUP BY l)",
                signed("[z] AS l"),
                signed("[z] AS l")
            ),
            &[["1"], ["1"]],
        ),
        exactly(
            "DISTINCT ON",
            &signed("DISTINCT ON (z) id").replace("WHERE id < 2)", "WHERE id < 2) ORDER BY z, id"),
            &[["0"]],
        ),
    ]);
}

#[test]
fn doubles_and_decimals_keep_their_digits() {
    check_traps(vec![
        exactly(
            "a small double",
            "SELECT coalesce(x, price), x + price, CASE WHEN id < 0 THEN price ELSE x END FROM \
             (SELECT id, 1e-20::DOUBLE AS x, 0::DECIMAL(3, 1) AS price FROM facts WHERE id = 1)",
            &[["1e-20", "1e-20", "1e-20"]],
        ),
        exactly(
            "a large double and NaN",
            "SELECT count(*) FROM (SELECT CASE WHEN id = 0 THEN 1e25 ELSE 'NaN'::DOUBLE END AS x, price FROM facts WHERE id < 2) \
             WHERE x > 0::DECIMAL(3, 1)",
            &[["2"]],
        ),
        exactly(
            "a union",
            "SELECT max(x) FROM (SELECT 1e-20::DOUBLE AS x FROM facts WHERE id = 1 UNION ALL \
             SELECT -1::DECIMAL(3, 1) FROM facts WHERE id = 1)",
            &[["1e-20"]],
        ),
        exactly(
            "numbers that are written down are decimals beside decimals",
            "SELECT count(*) FROM (SELECT CAST(id AS DECIMAL(12, 2)) / 100 AS d FROM facts WHERE id < 10) \
             WHERE d BETWEEN 0.06 - 0.01 AND 0.06 + 0.01",
            &[["3"]],
        ),
        exactly(
            "literals",
            "SELECT 12345678901234567.89::DECIMAL(19, 2), CAST(-0.1 AS DECIMAL(38, 20)), 1.005::DECIMAL(9, 2), \
             '1e3'::DECIMAL(10, 2), 12345678901234567890123::DECIMAL(38, 0)",
            &[[
                "12345678901234567.89",
                "-0.10000000000000000000",
                "1.01",
                "1000.00",
                "12345678901234567890123",
            ]],
        ),
        exactly(
            "a digit more",
            "SELECT ceil(d), floor(-d) FROM (SELECT 999.9::DECIMAL(4, 1) + id * 0::DECIMAL(1, 0) AS d FROM facts WHERE id = 1)",
            &[["1000.0", "-1000.0"]],
        ),
        error(
            "a time that nanoseconds cannot tell",
            "SELECT max(to_timestamp(id * 1e10)) FROM facts",
            Code::InvalidArgument,
            "1677",
        ),
        error(
            "a text with too many digits",
            "SELECT max(arrow_cast(repeat('9', 60) || id, 'Decimal256(76, 17)')) FROM facts",
            Code::InvalidArgument,
            "does not fit",
        ),
        exactly(
            "a dollar in a replacement",
            "SELECT regexp_replace('ab' || id, 'a', '$1'), regexp_replace('ab', '(a)', '\\1\\1$'), \
             regexp_replace('ab', 'a', '[\\&]') FROM facts WHERE id = 1",
            &[["$1b1", "aa$b", "[a]b"]],
        ),
    ]);
}

#[test]
fn groups_and_orders_are_those_of_the_statement() {
    check_traps(vec![
        exactly(
            "a condition on a random key",
            "SELECT DISTINCT k FROM (SELECT random() < 0.5 AS k, count(*) FROM facts GROUP BY random() < 0.5) WHERE k",
            &[["true"]],
        ),
        exactly(
            "grouping sets of a constant",
            "SELECT g, count(*) FROM facts WHERE g = 3 GROUP BY CUBE(g) ORDER BY g NULLS LAST",
            &[["3", "923"], ["", "923"]],
        ),
        exactly(
            "the same with LIMIT",
            "SELECT g FROM facts WHERE g = 3 GROUP BY ROLLUP(g) ORDER BY g NULLS FIRST LIMIT 1",
            &[[""]],
        ),
        exactly(
            "grouping() of them",
            "SELECT g, grouping(g) FROM facts WHERE g = 3 GROUP BY CUBE(g) ORDER BY grouping(g)",
            &[["3", "0"], ["", "1"]],
        ),
        exactly(
            "a name in an expression of ORDER BY is a column of the table",
            "SELECT -id AS g, g AS h FROM facts WHERE id IN (3, 5, 16) ORDER BY g + 0, id",
            &[["-3", "3"], ["-16", "3"], ["-5", "5"]],
        ),
        exactly(
            "a name alone is one of the result",
            "SELECT -id AS g FROM facts WHERE id IN (3, 5) ORDER BY g",
            &[["-5"], ["-3"]],
        ),
        error(
            "a random query that is used twice",
            "WITH x AS (SELECT random() AS r FROM facts) SELECT count(*) FROM x a JOIN x b ON a.r = b.r",
            Code::Unimplemented,
            "computed anew",
        ),
        exactly(
            "intervals have a length",
            "SELECT count(*) FILTER (WHERE i = INTERVAL '1 day'), count(*) FILTER (WHERE i + INTERVAL '30 days' > INTERVAL '1 month') \
             FROM (SELECT INTERVAL '24 hours' AS i FROM facts WHERE id < 5)",
            &[["5", "5"]],
        ),
        exactly(
            "intervals in order",
            "SELECT i FROM (SELECT CASE id WHEN 0 THEN INTERVAL '40 days' WHEN 1 THEN INTERVAL '1 month' \
             ELSE INTERVAL '100 hours' END AS i FROM facts WHERE id < 3) ORDER BY i",
            &[["100 hours"], ["1 mons"], ["40 days"]],
        ),
    ]);
}

#[test]
fn local_times_are_those_of_the_zone() {
    bounded(minutes(5), async {
        let tables = Tables::write();
        let mut mismatches = Mismatches::default();
        for workers in [0, 2] {
            let cluster = start(&tables, workers, 1).await;
            let caller = Caller::connect(cluster.url()).await;
            for (zone, sql, expected) in ZONES {
                let set = format!("SET TIME ZONE = '{zone}'");
                caller
                    .value(&set)
                    .await
                    .unwrap_or_else(|status| panic!("{set}: {status}"));
                let outcome = match caller.value(sql).await {
                    Ok(value) if value == expected => Ok(()),
                    Ok(value) => Err(format!("{value} instead of {expected}")),
                    Err(status) => Err(status.to_string()),
                };
                mismatches.note(&format!("{workers} workers, {zone}: {sql}"), outcome);
            }
        }
        mismatches.assert_none();
    });
}

/// Zone of the session, statement, value.
const ZONES: [(&str, &str, &str); 12] = [
    (
        "UTC",
        "SELECT ('2024-07-01T18:00:00Z'::timestamptz AT TIME ZONE 'America/Denver')::timestamp",
        "2024-07-01T12:00:00",
    ),
    (
        "UTC",
        "SELECT max(arrow_cast(t, 'Timestamp(Microsecond, Some(\"UTC\"))') AT TIME ZONE 'Asia/Tokyo') FROM facts WHERE id = 1",
        "2023-11-15T08:13:20",
    ),
    (
        "UTC",
        "SELECT TIMESTAMP '2024-07-01 12:00:00' AT TIME ZONE 'America/Denver'",
        "2024-07-01T18:00:00Z",
    ),
    (
        "UTC",
        "SELECT TIMESTAMP '2024-07-01 12:00:00' AT TIME ZONE 'UTC' AT TIME ZONE 'Asia/Tokyo'",
        "2024-07-01T21:00:00",
    ),
    (
        "America/Denver",
        "SELECT ('2024-07-01T18:00:00Z'::timestamptz)::timestamp",
        "2024-07-01T12:00:00",
    ),
    (
        "America/Denver",
        "SELECT ('2024-07-01T03:00:00Z'::timestamptz)::date",
        "2024-06-30",
    ),
    (
        "America/Denver",
        "SELECT c FROM (VALUES (timestamp '2024-07-01 12:00:00'), (timestamp '2024-07-01 18:00:00')) t(c) \
         WHERE c = '2024-07-01T18:00:00Z'::timestamptz",
        "2024-07-01T12:00:00",
    ),
    (
        "America/Denver",
        "SELECT count(*) FROM facts WHERE t = '2023-11-14T22:13:20-07:00'::timestamptz",
        "1",
    ),
    // Clocks skip this time,
    (
        "America/Denver",
        "SELECT '2024-03-10 02:30:00'::timestamptz",
        "2024-03-10T03:30:00-06:00",
    ),
    // and show this one twice.
    (
        "America/Denver",
        "SELECT TIMESTAMP '2024-11-03 01:30:00'::timestamptz",
        "2024-11-03T01:30:00-07:00",
    ),
    ("America/Denver", "SELECT from_unixtime(0)", "1969-12-31T17:00:00-07:00"),
    (
        "America/Denver",
        "SELECT max(t::timestamptz) FROM facts WHERE id = 1",
        "2023-11-14T23:13:20-07:00",
    ),
];
