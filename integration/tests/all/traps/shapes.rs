//! Shapes of queries and of rows: no table, no column, no row, deep, wide and nested.

use super::data::BIG_CELL_BYTES;
use super::{check_traps, exactly, in_order, same};

#[test]
fn empty_shapes_match_the_reference() {
    check_traps(vec![
        exactly(
            "SELECT without FROM",
            "SELECT 1 AS one, 'a' AS letter, NULL AS nothing",
            &[["1", "a", ""]],
        ),
        same(
            "an expression alone",
            "SELECT 1 + 1, upper('a'), DATE '2024-02-29', TIMESTAMP '2024-01-01T00:00:00', INTERVAL '1 day'",
        ),
        same("without FROM, without a row", "SELECT 1 WHERE false"),
        same("VALUES", "VALUES (1, 'a'), (2, NULL), (3, 'c')"),
        same(
            "VALUES joined",
            "SELECT f.id, x.name FROM facts f JOIN (VALUES (1, 'a'), (2, 'b'), (9999, 'z')) AS x(id, name) \
             ON f.id = x.id",
        ),
        exactly(
            "only a count",
            "SELECT count(*) FROM (SELECT 1 FROM facts)",
            &[["12000"]],
        ),
        exactly(
            "no column survives a join",
            "SELECT count(*) FROM facts f CROSS JOIN tiny",
            &[["36000"]],
        ),
        exactly(
            "no column survives a union",
            "SELECT count(*) FROM (SELECT id FROM facts UNION ALL SELECT id FROM other)",
            &[["15000"]],
        ),
        exactly(
            "no column survives a sort",
            "SELECT count(1) FROM (SELECT id FROM facts ORDER BY v LIMIT 50)",
            &[["50"]],
        ),
        same("a constant for each row", "SELECT 1 FROM other"),
        same("all columns of nothing", "SELECT * FROM nothing"),
        same("a filter that nothing passes", "SELECT * FROM facts WHERE id < 0"),
        same("a filter that is false", "SELECT id, s FROM facts WHERE false"),
        same("all columns", "SELECT * FROM facts"),
        same("all columns of one row", "SELECT * FROM one"),
        same("only NULL", "SELECT NULL FROM tiny"),
        same("series", "SELECT value FROM generate_series(1, 5000)"),
        exactly(
            "a series counted",
            "SELECT count(*) FROM generate_series(1, 5000)",
            &[["5000"]],
        ),
        same(
            "a series joined",
            "SELECT count(*), sum(f.v) FROM generate_series(0, 100) AS s(x) JOIN facts f ON f.id = s.x",
        ),
        same("one time a query", "SELECT count(DISTINCT now()) FROM facts"),
        same(
            "quoted and foreign names",
            "SELECT id AS \"Größe\", v AS \"two words\", s AS \"Ünï\" FROM tiny",
        ),
        same("two columns of one name", "SELECT a.id, b.id FROM tiny a, one b"),
    ]);
}

/// `item` of each number below `count`, joined by `separator`.
fn join_numbered(count: usize, separator: &str, item: impl Fn(usize) -> String) -> String {
    (0..count).map(item).collect::<Vec<_>>().join(separator)
}

#[test]
fn deep_and_wide_queries_match() {
    let nested = |open: &str, close: &str| format!("{}id{}", open.repeat(200), close.repeat(200));
    let sum = join_numbered(200, " + ", |number| number.to_string());
    let list = join_numbered(1_500, ", ", |number| (number * 7).to_string());
    let columns = join_numbered(300, ", ", |number| format!("id + {number} AS c{number}"));
    let sums = join_numbered(300, ", ", |number| format!("sum(v + {number})"));
    let branches = join_numbered(60, " UNION ALL ", |number| {
        format!("SELECT id + {number} AS x FROM tiny")
    });
    let cases = (0..200).fold("0".to_owned(), |inner, number| {
        format!("CASE WHEN id % 211 = {number} THEN {number} ELSE {inner} END")
    });
    check_traps(vec![
        // Deeper than a plan can be decoded from bytes. Calls take DataFusion seconds to plan, brackets do not.
        same(
            "200 calls deep, grouped",
            format!("SELECT {} AS x, count(*) FROM tiny GROUP BY x", nested("abs(", ")")),
        ),
        same(
            "200 brackets deep",
            format!("SELECT id, {} FROM other", nested("(1 - ", ")")),
        ),
        same(
            "200 brackets deep in a filter",
            format!("SELECT count(*), sum(v) FROM facts WHERE {} > 50", nested("(2 - ", ")")),
        ),
        same(
            "200 brackets deep in a join",
            format!(
                "SELECT count(*) FROM facts f JOIN other o ON f.id = o.id AND {} > o.v",
                nested("(2 - ", ")").replace("id", "f.id")
            ),
        ),
        same(
            "200 brackets deep below an exchange",
            format!("SELECT k, sum({}) FROM facts GROUP BY k", nested("(v - ", ")")),
        ),
        same("200 terms in a row", format!("SELECT id, v + {sum} FROM other")),
        same("200 cases deep", format!("SELECT sum({cases}) FROM other")),
        same(
            "a list of 1,500",
            format!("SELECT count(*), sum(v) FROM facts WHERE id IN ({list})"),
        ),
        same("300 columns", format!("SELECT {columns} FROM other")),
        same("300 groups of columns", format!("SELECT {sums} FROM other GROUP BY k")),
        same("60 branches", branches),
        same(
            "eight joins",
            "SELECT count(*) FROM tiny a JOIN tiny b ON a.id = b.id JOIN tiny c ON b.id = c.id \
             JOIN tiny d ON c.id = d.id JOIN tiny e ON d.id = e.id JOIN tiny f ON e.id = f.id \
             JOIN tiny g ON f.id = g.id JOIN other h ON g.id = h.id",
        ),
    ]);
}

#[test]
fn nested_types_match_the_reference() {
    check_traps(vec![
        same("as they are", "SELECT * FROM nested"),
        same(
            "a field and an item",
            "SELECT id, point['x'], point['y'], items[1], array_length(items) FROM nested",
        ),
        same("unnested", "SELECT id, unnest(items) FROM nested"),
        same(
            "unnested and grouped",
            "SELECT item, count(*) FROM (SELECT unnest(items) AS item FROM nested) GROUP BY item",
        ),
        same("a list as key", "SELECT items, count(*) FROM nested GROUP BY items"),
        same("a struct as key", "SELECT point, count(*) FROM nested GROUP BY point"),
        same("in DISTINCT", "SELECT DISTINCT items FROM nested"),
        same(
            "carried through a join",
            "SELECT n.id, n.items, n.point, f.s FROM nested n JOIN facts f ON n.id = f.id",
        ),
        in_order(
            "carried through a sort",
            "SELECT id, items, point FROM nested ORDER BY id DESC LIMIT 50",
        ),
        same(
            "made and shipped",
            "SELECT k, array_agg(DISTINCT s) IS NULL, named_struct('a', k, 'n', count(*)) FROM facts GROUP BY k",
        ),
        same(
            "a list of structs",
            "SELECT g, array_agg(named_struct('id', id, 's', s) ORDER BY id) FILTER (WHERE id < 60) FROM facts \
             GROUP BY g",
        ),
        same("a map", "SELECT id, MAP {'id': id, 'v': v} FROM tiny"),
    ]);
}

#[test]
fn large_cells_and_types_survive() {
    check_traps(vec![
        same("five megabytes in a cell", "SELECT id, text FROM blob"),
        in_order(
            "five megabytes through an exchange",
            "SELECT text, count(*) FROM blob GROUP BY text ORDER BY text",
        ),
        same(
            "five megabytes as a key of a join",
            "SELECT a.id, b.id FROM blob a JOIN blob b ON a.text = b.text",
        ),
        exactly(
            "five megabytes arrive whole",
            "SELECT max(length(text)) FROM blob",
            &[[(BIG_CELL_BYTES / 16 * 16).to_string().as_str()]],
        ),
        same(
            "dictionaries are hidden",
            "SELECT arrow_cast(s, 'Dictionary(Int32, Utf8)') AS s, id FROM facts",
        ),
        same(
            "dictionaries as keys",
            "SELECT arrow_cast(s, 'Dictionary(Int32, Utf8)') AS word, count(*) FROM facts GROUP BY word",
        ),
        same(
            "dictionaries in a join",
            "SELECT count(*) FROM (SELECT arrow_cast(s, 'Dictionary(Int32, Utf8)') AS s FROM other) a \
             JOIN tiny b ON a.s = b.s",
        ),
        same(
            "views are hidden",
            "SELECT arrow_cast(s, 'Utf8View') AS s, id FROM facts",
        ),
        same(
            "views as keys",
            "SELECT arrow_cast(s, 'Utf8View') AS word, count(*) FROM facts GROUP BY word",
        ),
        same("large text", "SELECT arrow_cast(s, 'LargeUtf8') AS s, id FROM other"),
        same(
            "bytes",
            "SELECT encode(arrow_cast(s, 'Binary'), 'hex'), arrow_cast(s, 'Binary') AS raw FROM other",
        ),
        same(
            "times with a zone",
            "SELECT id, arrow_cast(t, 'Timestamp(Millisecond, Some(\"Europe/Berlin\"))') AS local FROM facts \
             WHERE id % 50 = 0",
        ),
        same(
            "small numbers",
            "SELECT CAST(g AS TINYINT), CAST(id AS REAL), arrow_cast(g, 'UInt16') FROM facts WHERE id % 20 = 0",
        ),
        same(
            "decimals",
            "SELECT id, price * price, price / 3, CAST(price AS DECIMAL(38, 10)) FROM facts",
        ),
        same(
            "nothing but NaN and infinity",
            "SELECT 'nan'::double AS a, 'inf'::double AS b, -0.0::double AS c FROM tiny",
        ),
        same(
            "minus zero is zero as a key",
            "SELECT x, count(*) FROM (SELECT CASE WHEN id % 2 = 0 THEN 0.0 ELSE -0.0 END AS x FROM other) GROUP BY x",
        ),
        same(
            "intervals",
            "SELECT id, t + INTERVAL '1 month' - t FROM facts WHERE id % 100 = 0",
        ),
    ]);
}

/// Chains of `||` are planned as one call: names, NULL and types stay those of the operator.
#[test]
fn joined_texts_match() {
    let chain = join_numbered(300, " || ", |number| format!("'{number}'"));
    check_traps(vec![
        same(
            "names of columns",
            "SELECT s || '-' || s, s || NULL, id || 'x', 'x' || id || s FROM facts",
        ),
        same(
            "NULL within a chain",
            "SELECT (s || nullif(s, s)) || 'x' AS a, coalesce(s || NULL, '?') AS b FROM facts",
        ),
        same("constants", "SELECT 'a' || 'b', 1 || 'b', 'a' || NULL"),
        same("binary is left alone", "SELECT id, X'01' || X'02' FROM tiny"),
        same("arrays are left alone", "SELECT [id] || [1], id || [2] FROM tiny"),
        same(
            "in a condition",
            "SELECT id FROM facts WHERE s || 'x' LIKE s || '%' AND s || 'x' IN ('ax', 'bx')",
        ),
        same(
            "in groups",
            "SELECT s || 'x', count(*), max(s || 'y') FROM facts GROUP BY s || 'x' HAVING s || 'x' > 'b'",
        ),
        same(
            "in an order",
            "SELECT s FROM (SELECT DISTINCT s FROM facts) ORDER BY s || 'x' DESC",
        ),
        same(
            "in a join",
            "SELECT a.id, b.id FROM tiny a JOIN other b ON a.s || 'x' = b.s || 'x'",
        ),
        same(
            "in a subquery that refers to the outer query",
            "SELECT id FROM tiny WHERE EXISTS (SELECT 1 FROM facts f WHERE f.s || 'x' = tiny.s || 'x')",
        ),
        same(
            "in a window",
            "SELECT id, lag(s || 'x') OVER (PARTITION BY s || 'y' ORDER BY id) FROM tiny",
        ),
        same("a long chain", format!("SELECT id, {chain} || s FROM tiny")),
    ]);
}
