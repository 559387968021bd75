//! Every file format, hive folders, and what the catalog says of them.

use super::{check_traps, exactly, in_order, same};

#[test]
fn file_formats_match_the_reference() {
    check_traps(vec![
        same("CSV", "SELECT * FROM people"),
        same(
            "CSV, grouped",
            "SELECT name LIKE '%alpha%' AS a, count(*), avg(height) FROM people GROUP BY a",
        ),
        same(
            "a folder of CSV",
            "SELECT sensor, count(*), sum(reading) FROM readings GROUP BY sensor",
        ),
        in_order("NDJSON", "SELECT id, tag FROM events ORDER BY id"),
        same(
            "NDJSON with an object in it",
            "SELECT at['x'], count(*) FROM events GROUP BY at['x']",
        ),
        same("Arrow IPC", "SELECT * FROM trace"),
        same(
            "Arrow IPC, grouped",
            "SELECT mark, count(*), sum(id) FROM trace GROUP BY mark",
        ),
        same("Avro", "SELECT * FROM birds"),
        same(
            "Avro, grouped",
            "SELECT song, count(*), sum(id) FROM birds GROUP BY song",
        ),
        same(
            "formats in one query",
            "SELECT p.id, e.tag, t.mark, b.song FROM people p JOIN events e ON p.id = e.id JOIN trace t ON p.id = t.id \
             LEFT JOIN birds b ON p.id = b.id",
        ),
        same(
            "formats in one union",
            "SELECT id FROM people UNION ALL SELECT id FROM events UNION ALL SELECT id FROM trace UNION ALL SELECT id \
             FROM birds",
        ),
    ]);
}

#[test]
fn hive_folders_match_the_reference() {
    check_traps(vec![
        same(
            "all of it",
            "SELECT CAST(year AS BIGINT) AS y, CAST(month AS BIGINT) AS m, amount FROM hive",
        ),
        same(
            "grouped by folder",
            "SELECT CAST(year AS BIGINT) AS y, count(*), sum(amount) FROM hive GROUP BY y",
        ),
        same(
            "one folder",
            "SELECT count(*), sum(amount) FROM hive WHERE CAST(year AS BIGINT) = 2024 AND CAST(month AS BIGINT) = 1",
        ),
        same(
            "no such folder",
            "SELECT count(*) FROM hive WHERE CAST(year AS BIGINT) = 1999",
        ),
        same(
            "only the folders",
            "SELECT DISTINCT CAST(year AS BIGINT) AS y, CAST(month AS BIGINT) AS m FROM hive",
        ),
    ]);
}

#[test]
fn catalog_queries_return_known_rows() {
    check_traps(vec![
        exactly(
            "columns of a table",
            "SELECT column_name, is_nullable FROM information_schema.columns WHERE table_name = 'tiny' \
             ORDER BY ordinal_position",
            &[["id", "YES"], ["v", "YES"], ["s", "YES"]],
        ),
        exactly(
            "the catalog joined to a table",
            "SELECT t.table_name, count(*) FROM information_schema.tables t CROSS JOIN tiny \
             WHERE t.table_name IN ('one', 'busy') GROUP BY t.table_name ORDER BY t.table_name",
            &[["busy", "3"], ["one", "3"]],
        ),
    ]);
}
