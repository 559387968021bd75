//! Valid SQL that DataFusion 55.2 refuses, or fails to plan.

use tonic::Code;

use super::{check_traps, error, exactly};

#[test]
fn groups_of_every_form() {
    check_traps(vec![
        exactly("HAVING true", "SELECT 1 FROM facts HAVING true", &[["1"]]),
        exactly(
            "HAVING false",
            "SELECT count(*) FROM (SELECT 1 FROM facts HAVING 1 > 2)",
            &[["0"]],
        ),
        exactly(
            "GROUP BY ()",
            "SELECT count(*) FROM facts WHERE id < 9 GROUP BY ()",
            &[["9"]],
        ),
        exactly(
            "ROLLUP within GROUPING SETS",
            "SELECT g, count(*) FROM facts WHERE g = 3 GROUP BY GROUPING SETS (ROLLUP (g), (g)) ORDER BY g NULLS LAST",
            &[["3", "923"], ["3", "923"], ["", "923"]],
        ),
        exactly(
            "CUBE of two within GROUPING SETS",
            "SELECT a, b, count(*) FROM (SELECT id % 2 AS a, 7 AS b FROM facts WHERE id < 4) \
             GROUP BY GROUPING SETS (CUBE (a, b)) ORDER BY a NULLS LAST, b NULLS LAST, 3",
            &[
                ["0", "7", "2"],
                ["0", "", "2"],
                ["1", "7", "2"],
                ["1", "", "2"],
                ["", "7", "4"],
                ["", "", "4"],
            ],
        ),
        exactly(
            "numbers of columns",
            "SELECT id % 2, count(*) FROM facts WHERE id < 4 GROUP BY ROLLUP (1) ORDER BY 1 NULLS LAST",
            &[["0", "2"], ["1", "2"], ["", "4"]],
        ),
        exactly(
            "a condition that may fail as a key",
            "SELECT count(*) FROM facts WHERE id < 8 GROUP BY ROLLUP (id + 1 > 4 AND 8 / (id + 1) > 0) ORDER BY 1",
            &[["4"], ["4"], ["8"]],
        ),
        error(
            "a number that is no column",
            "SELECT count(*) FROM facts GROUP BY ROLLUP (3)",
            Code::InvalidArgument,
            "GROUP BY 3",
        ),
        exactly(
            "keys that differ by a cast",
            "SELECT g, g::BIGINT, count(*) FROM facts WHERE g = 3 GROUP BY g, g::BIGINT",
            &[["3", "3", "923"]],
        ),
        exactly(
            "the same by number",
            "SELECT g, CAST(g AS DOUBLE), count(*) FROM facts WHERE g = 3 GROUP BY 1, 2",
            &[["3", "3.0", "923"]],
        ),
        exactly(
            "the same within ROLLUP",
            "SELECT g, g::BIGINT, count(*) FROM facts WHERE g = 3 GROUP BY ROLLUP (g, g::BIGINT) \
             ORDER BY 1 NULLS LAST, 2 NULLS LAST",
            &[["3", "3", "923"], ["3", "", "923"], ["", "", "923"]],
        ),
        exactly(
            "a cast that is compared beside such keys",
            "SELECT g, g::BIGINT, count(*) FROM (SELECT 3 AS g, (1 + id * 0.01)::DECIMAL(8, 2) AS x FROM facts WHERE id < 3) \
             WHERE x::DECIMAL(8, 1) = 1.0 GROUP BY g, g::BIGINT",
            &[["3", "3", "3"]],
        ),
        exactly(
            "aggregates that differ by a cast",
            "SELECT sum(id), sum(id::DOUBLE), count(*), count(CAST(1 AS DOUBLE)) FROM facts WHERE id < 4",
            &[["6", "6.0", "4", "4"]],
        ),
        exactly(
            "groups and distinct rows of intervals by length",
            &"SELECT count(*), count(DISTINCT i), (SELECT count(*) FROM (SELECT DISTINCT i, g FROM {i})), \
             (SELECT string_agg(n::TEXT, ' ' ORDER BY n) FROM (SELECT count(*) AS n FROM {i} GROUP BY i)) FROM {i}"
                .replace(
                    "{i}",
                    "(SELECT 1 AS g, CASE id % 3 WHEN 0 THEN INTERVAL '24 hours' WHEN 1 THEN INTERVAL '1 day' \
                     ELSE INTERVAL '40 days' END AS i FROM facts WHERE id < 9)",
                ),
            &[["9", "2", "2", "3 6"]],
        ),
        exactly(
            "a group shows one of its intervals",
            "SELECT i FROM (SELECT CASE id WHEN 0 THEN INTERVAL '1 day' ELSE INTERVAL '40 days' END AS i FROM facts \
             WHERE id < 9) GROUP BY i ORDER BY i",
            &[["1 days"], ["40 days"]],
        ),
        exactly(
            "set operations of intervals and of nested floats",
            "SELECT (SELECT count(*) FROM (SELECT INTERVAL '24 hours' AS i, [0.0::DOUBLE] AS l FROM facts INTERSECT \
             SELECT INTERVAL '1 day', [-0.0::DOUBLE] FROM facts)), \
             (SELECT count(*) FROM (SELECT INTERVAL '24 hours' AS i, [0.0::DOUBLE] AS l FROM facts EXCEPT \
             SELECT INTERVAL '1 day', [-0.0::DOUBLE] FROM facts))",
            &[["1", "0"]],
        ),
        exactly(
            "membership and USING of intervals",
            "SELECT (SELECT count(*) FROM facts WHERE id < 3 AND CASE id WHEN 0 THEN INTERVAL '1 day' ELSE INTERVAL '2 days' END \
             IN (SELECT INTERVAL '48 hours' FROM facts WHERE id < 2)), (SELECT count(*) FROM (SELECT INTERVAL '24 hours' AS i) a JOIN \
             (SELECT INTERVAL '1 day' AS i) b USING (i))",
            &[["2", "1"]],
        ),
    ]);
}

#[test]
fn subqueries_and_names_of_every_form() {
    check_traps(vec![
        exactly(
            "a WITH query that hides one around it",
            "WITH x AS (SELECT id FROM facts WHERE id = 1) SELECT y.id, x.id FROM \
             (WITH x AS (SELECT id + 1 AS id FROM x) SELECT x.id FROM x) y, x",
            &[["2", "1"]],
        ),
        exactly(
            "three of them",
            "WITH x AS (SELECT 1 AS v) SELECT (WITH x AS (SELECT v + 1 AS v FROM x), y AS (SELECT v FROM x) \
             SELECT (WITH x AS (SELECT v + 1 AS v FROM y) SELECT x.v FROM x) FROM x), v FROM x",
            &[["3", "1"]],
        ),
        exactly(
            "one within another",
            "WITH x AS (SELECT 1 AS v) SELECT v, (WITH y AS (SELECT v FROM x), x AS (SELECT v + 5 AS v FROM y) SELECT x.v FROM x) FROM \
             (WITH x AS (SELECT v + 1 AS v FROM x) SELECT * FROM (WITH x AS (SELECT v + 10 AS v FROM x) SELECT v FROM x) a) b",
            &[["12", "6"]],
        ),
        exactly(
            "a recursive one",
            "WITH x AS (SELECT 100 AS n) SELECT (WITH RECURSIVE x AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM x WHERE n < 3) \
             SELECT sum(x.n) FROM x), n FROM x",
            &[["6", "100"]],
        ),
        exactly(
            "a value with the name of the column that its condition compares",
            "SELECT id, (SELECT max(b.g) AS id FROM facts b WHERE b.id = a.id), \
             (SELECT b.id FROM facts b WHERE b.id = a.id ORDER BY b.id LIMIT 1), (SELECT b.id FROM facts b WHERE b.id = a.id LIMIT 1) \
             FROM facts a WHERE id = 16",
            &[["16", "3", "16", "16"]],
        ),
        exactly(
            "an aggregate with FILTER of one without groups",
            "SELECT max(5) FILTER (WHERE x > 0), count(*), count(*) FILTER (WHERE x > 20000) \
             FROM (SELECT count(*) AS x FROM facts) d",
            &[["5", "1", "0"]],
        ),
        exactly(
            "an order above UNION ALL of constants and of one column twice",
            "SELECT a, b FROM (SELECT 5 AS a, 3 AS b FROM facts WHERE id < 2 UNION ALL SELECT id, id FROM facts WHERE id < 7) \
             ORDER BY a, b DESC LIMIT 7 OFFSET 4",
            &[["4", "4"], ["5", "5"], ["5", "3"], ["5", "3"], ["6", "6"]],
        ),
        exactly(
            "windows of one float under two names",
            "SELECT max(n) FROM (SELECT row_number() OVER (PARTITION BY a, b, c) AS n FROM \
             (SELECT id % 3 * 0.5::DOUBLE AS a, id % 3 * 0.5::DOUBLE AS b, id % 2 AS c FROM facts WHERE id < 60))",
            &[["10"]],
        ),
        error(
            "EXCLUDE in a frame",
            "SELECT sum(id) OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW EXCLUDE CURRENT ROW) FROM facts",
            Code::InvalidArgument,
            "EXCLUDE of a window frame is not supported",
        ),
        error(
            "a default of lag that is a column",
            "SELECT lag(id, 2, id) OVER (ORDER BY id) FROM facts",
            Code::Unimplemented,
            "CASE WHEN row_number()",
        ),
    ]);
}

#[test]
fn times_and_lists_of_every_form() {
    check_traps(vec![
        exactly(
            "a frame over times of a day",
            "SELECT count(*) OVER (ORDER BY t RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW) FROM \
             (SELECT ('0' || id || ':00')::TIME AS t FROM facts WHERE id IN (1, 2, 4)) ORDER BY t",
            &[["1"], ["2"], ["1"]],
        ),
        exactly(
            "timestamps of the year 9999",
            "SELECT count(*) FILTER (WHERE t = '9999-12-31'), count(*) FILTER (WHERE t < DATE '9999-12-31'), \
             count(*) FILTER (WHERE t BETWEEN TIMESTAMP '2024-01-01' AND '9999-12-31'), \
             count(*) FILTER (WHERE t IN ('9999-12-31', '2024-05-06 07:08:09.123456')) FROM \
             (SELECT CASE id WHEN 0 THEN arrow_cast('9999-12-31', 'Timestamp(Microsecond, None)') \
             ELSE arrow_cast('2024-05-06 07:08:09.123456', 'Timestamp(Microsecond, None)') END AS t FROM facts WHERE id < 3)",
            &[["1", "2", "3", "3"]],
        ),
        exactly(
            "two functions, one with a frame over times of a day",
            "SELECT row_number() OVER (ORDER BY t), count(*) OVER (ORDER BY t RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND \
             CURRENT ROW) FROM (SELECT ('0' || id || ':00')::TIME AS t FROM facts WHERE id IN (1, 2, 4)) ORDER BY t",
            &[["1", "1"], ["2", "2"], ["3", "1"]],
        ),
        exactly(
            "times with more digits than the column has",
            "SELECT count(*) FILTER (WHERE t = '2024-05-06 07:08:09.5'), count(*) FILTER (WHERE t < '2024-05-06 07:08:09.5'), \
             count(*) FILTER (WHERE t > TIMESTAMP '2024-05-06 07:08:08.123456789'), count(*) FILTER (WHERE d < TIMESTAMP \
             '2024-05-06 07:08:09') FROM (SELECT arrow_cast('2024-05-06 07:08:09', 'Timestamp(Second, None)') AS t, \
             DATE '2024-05-06' AS d FROM facts WHERE id < 3)",
            &[["0", "3", "3", "3"]],
        ),
        exactly(
            "dates of the year 9999",
            "SELECT count(*) FROM (SELECT CASE id WHEN 0 THEN DATE '9999-12-31' ELSE DATE '2024-05-06' END AS d FROM facts \
             WHERE id < 3) WHERE d > TIMESTAMP '2024-05-06 00:00:00'",
            &[["1"]],
        ),
        exactly(
            "TRY_CAST of a time beyond its day",
            "SELECT try_cast('23:59:6' || id AS TIME), try_cast('23:59:5' || id AS TIME) FROM facts WHERE id = 0",
            &[["", "23:59:50"]],
        ),
        error(
            "a time beyond its day",
            "SELECT max(('23:59:6' || id)::TIME) FROM facts WHERE id = 0",
            Code::InvalidArgument,
            "23:59:59",
        ),
        exactly(
            "a minute of an offset with seconds",
            "SELECT date_trunc('minute', arrow_cast('1880-06-15T07:09:30Z', 'Timestamp(Second, Some(\"Europe/Berlin\"))')) \
             AT TIME ZONE 'Europe/Berlin' FROM facts WHERE id = 0",
            &[["1880-06-15T08:02:00"]],
        ),
        exactly(
            "lists of NULL",
            "SELECT make_array(n), make_array(n, NULL) FROM (SELECT NULL AS n FROM facts WHERE id < 2)",
            &[["[]", "[, ]"], ["[]", "[, ]"]],
        ),
        exactly(
            "an element beside NULL",
            "SELECT array_has([i, 1], 2), array_has([i, 1], 1), array_has([NULL, 1], 2) FROM \
             (SELECT nullif(id, 0) AS i FROM facts WHERE id IN (0, 2)) ORDER BY i",
            &[["true", "true", "false"], ["false", "true", "false"]],
        ),
    ]);
}
