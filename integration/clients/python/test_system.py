"""The tables of the schema `system`, and KILL, through the ADBC Flight SQL driver."""

import datetime

import adbc_driver_flightsql.dbapi
import adbc_driver_manager
import pyarrow

import suite

TEXT, COUNT, SHARE = pyarrow.string(), pyarrow.int64(), pyarrow.float64()
TIME = pyarrow.timestamp("us", tz="UTC")
METRICS = ["rows", "cpu_ms", "read_bytes", "shuffled_bytes", "fetched_bytes", "spilled_bytes", "peak_memory_bytes"]

# By table, its columns in their order.
TABLES = {
    "queries": [
        "query_id", "state", "user", "session_id", "statement", "tag", "priority", "resource_group", "created_at",
        "queued_at", "started_at", "delivering_at", "ended_at", "released_at", "planning_ms", "queued_ms", "elapsed_ms",
        "progress", "recoveries", "held_slots", "stages", "tasks", "finished_tasks", *METRICS, "reserved_memory_bytes",
        "failure_kind", "failure",
    ],
    "stages": [
        "query_id", "stage", "state", "tasks", "finished_tasks", "started_at", "elapsed_ms", *METRICS,
    ],
    "tasks": [
        "query_id", "stage", "task", "attempt", "state", "worker_id", "reason", "slots", "launched_at", "started_at", "ended_at",
        *METRICS,
    ],
    "workers": [
        "worker_id", "kind", "address", "state", "slots", "used_slots", "running_attempts", "stopping_attempts",
        "failures",
        "memory_bytes", "memory_used_bytes", "shuffle_bytes", "resident_bytes",
        "disk_bytes", "version",
    ],
    "sessions": ["session_id", "user", "created_at", "last_used_at", "queries"],
    "groups": ["name", "running", "queued", "held_slots", "reserved_memory_bytes"],
    "settings": ["name", "value", "default_value", "description"],
    "tables": ["schema", "name", "kind", "format", "location", "files", "bytes", "rows", "warnings"],
    "columns": [
        "schema", "table", "name", "rows", "sampled_rows", "distinct_values", "null_part", "common_values", "read_at",
    ],
}

TEXTS = {
    "query_id", "state", "user", "session_id", "statement", "tag", "resource_group", "failure_kind", "failure",
    "worker_id", "reason", "kind", "address", "version", "name", "value", "default_value", "description",
    "schema", "format", "location", "warnings", "table", "common_values",
}

ENDLESS = "SELECT a.l_comment, b.l_comment FROM lineitem a CROSS JOIN lineitem b"


def connect(url):
    return adbc_driver_flightsql.dbapi.connect(url, autocommit=True)


def rows(cursor, sql):
    cursor.execute(sql)
    return cursor.fetchall()


def type_of(column):
    if column in TEXTS:
        return TEXT
    if column.endswith("_at"):
        return TIME
    return SHARE if column.endswith("_ms") or column in ("progress", "null_part") else COUNT


def test_every_table_has_its_columns_and_types(url):
    with connect(url) as connection, connection.cursor() as cursor:
        for table, columns in TABLES.items():
            cursor.execute(f"SELECT * FROM system.{table}")
            found = cursor.fetch_arrow_table()
            expected = [(column, type_of(column)) for column in columns]
            assert [(field.name, field.type) for field in found.schema] == expected, (table, found.schema)
            assert connection.adbc_get_table_schema(table, db_schema_filter="system").names == columns
            if table not in ("stages", "tasks", "columns"):
                assert found.num_rows > 0, table


def test_system_tables_are_listed(url):
    with connect(url) as connection:
        (catalog,) = (
            row
            for row in connection.adbc_get_objects(depth="tables", db_schema_filter="system").read_all().to_pylist()
            if row["catalog_db_schemas"]
        )
        (schema,) = catalog["catalog_db_schemas"]
        assert {table["table_name"] for table in schema["db_schema_tables"]} == set(TABLES)


def test_statement_sees_itself_and_ended_ones(url):
    with connect(url) as connection, connection.cursor() as cursor:
        rows(cursor, "SET squadron.tag = 'adbc-sees'")
        assert rows(cursor, "SELECT count(*) FROM lineitem, region") == [(5 * 60_175,)]
        seen = rows(
            cursor,
            "SELECT state, statement, created_at, progress FROM system.queries WHERE tag = 'adbc-sees' "
            "AND (state = 'planning' OR statement LIKE '%lineitem, region') ORDER BY created_at",
        )
        assert [row[0] for row in seen] == ["finished", "planning"], seen
        assert "lineitem" in seen[0][1] and "system.queries" in seen[1][1], seen
        now = datetime.datetime.now(datetime.timezone.utc)
        assert all(abs(now - row[2]) < datetime.timedelta(minutes=10) for row in seen), seen
        assert (seen[0][3], seen[1][3]) == (1.0, 0.0), seen
        (tasks,) = rows(
            cursor,
            "SELECT count(*), count(t.ended_at), sum(t.rows) "
            "FROM system.tasks t JOIN system.queries q USING (query_id) "
            "WHERE q.tag = 'adbc-sees' AND q.statement LIKE '%lineitem, region'",
        )
        assert tasks[0] >= 1 and tasks[0] == tasks[1] and tasks[2] >= 1, tasks


def start_victim(connection, tag):
    """An endless query whose first row was read."""
    cursor = connection.cursor()
    rows(cursor, f"SET squadron.tag = '{tag}'")
    cursor.execute(ENDLESS)
    assert cursor.fetchone() is not None
    return cursor


def assert_stopped(cursor):
    def read_on():
        while cursor.fetchone() is not None:
            pass

    error = suite.raises(adbc_driver_manager.Error, read_on)
    assert error.status_code == adbc_driver_manager.AdbcStatusCode.CANCELLED, error


def find_running(cursor, tag):
    (found,) = rows(
        cursor,
        f"SELECT query_id, session_id FROM system.queries WHERE tag = '{tag}' AND state IN ('running', 'delivering')",
    )
    return found


def test_kill_query(url):
    with connect(url) as connection, connect(url) as other, other.cursor() as killer:
        cursor = start_victim(connection, "adbc-query")
        query, _ = find_running(killer, "adbc-query")
        killer.execute(f"KILL QUERY '{query}'")
        assert_stopped(cursor)
        cursor.close()
        with connection.cursor() as next:
            assert rows(next, "SELECT 1") == [(1,)]
        suite.raises(
            adbc_driver_manager.Error,
            lambda: killer.execute("KILL QUERY '00000000-0000-7000-8000-000000000000'"),
            "00000000-0000-7000-8000-000000000000",
        )


def test_kill_session(url):
    with connect(url) as connection, connect(url) as other, other.cursor() as killer:
        cursor = start_victim(connection, "adbc-session")
        _, session = find_running(killer, "adbc-session")
        killer.execute(f"KILL SESSION '{session}'")
        assert_stopped(cursor)
        cursor.close()
        # The next statement of the connection starts a new session.
        with connection.cursor() as next:
            assert rows(next, "SHOW squadron.tag") != [("squadron.tag", "adbc-session")]


if __name__ == "__main__":
    suite.main(dict(globals()))
