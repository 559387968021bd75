"""The ADBC driver beyond plain queries: objects by filters, fetch methods, cancel, timeouts, session options, refusals,
and the low-level handles below the DB-API."""

import threading
import time
import warnings

import adbc_driver_flightsql
import adbc_driver_flightsql.dbapi
import adbc_driver_manager
import pyarrow

import suite

REGIONS = ["AFRICA", "AMERICA", "ASIA", "EUROPE", "MIDDLE EAST"]

# Billions of rows: both run longer than any test.
ENDLESS_ROWS = "SELECT a.l_comment, b.l_comment FROM lineitem a CROSS JOIN lineitem b"
ENDLESS_WORK = "SELECT sum(length(a.l_comment) * length(b.l_comment)) FROM lineitem a CROSS JOIN lineitem b"

OPTIONS = adbc_driver_flightsql.StatementOptions


def connect(url, **options):
    return adbc_driver_flightsql.dbapi.connect(url, autocommit=True, **options)


def answers(connection):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchall() == [(1,)]


def paths(connection, depth, **filters):
    """The result of get_objects, as one tuple of names for each deepest object."""
    found = []
    for catalog in connection.adbc_get_objects(depth=depth, **filters).read_all().to_pylist():
        schemas = catalog["catalog_db_schemas"]
        if schemas is None:
            found.append((catalog["catalog_name"],))
        for schema in schemas or []:
            tables = schema["db_schema_tables"]
            if tables is None:
                found.append((catalog["catalog_name"], schema["db_schema_name"]))
            for table in tables or []:
                columns = table["table_columns"]
                names = [None] if columns is None else [column["column_name"] for column in columns]
                for name in names:
                    path = (catalog["catalog_name"], schema["db_schema_name"], table["table_name"], name)
                    found.append(tuple(part for part in path if part is not None))
    return found


def test_objects_by_catalog(url):
    with connect(url) as connection:
        catalogs = paths(connection, "catalogs")
        assert ("datafusion",) in catalogs and catalogs == sorted(catalogs)
        assert paths(connection, "catalogs", catalog_filter="datafusion") == [("datafusion",)]
        assert paths(connection, "catalogs", catalog_filter="nowhere") == []


def test_objects_by_schema(url):
    with connect(url) as connection:
        assert ("datafusion", "public") in paths(connection, "db_schemas")
        assert paths(connection, "db_schemas", db_schema_filter="pub%") == [("datafusion", "public")]
        assert paths(connection, "db_schemas", db_schema_filter="publi_") == [("datafusion", "public")]
        assert ("datafusion", "public") not in paths(connection, "db_schemas", db_schema_filter="nowhere")


def test_objects_by_table(url):
    with connect(url) as connection:
        part = [("datafusion", "public", "part"), ("datafusion", "public", "partsupp")]
        assert paths(connection, "tables", table_name_filter="part%", db_schema_filter="public") == part
        assert paths(connection, "tables", table_name_filter="_egion") == [("datafusion", "public", "region")]
        assert paths(connection, "tables", table_name_filter="nowhere", db_schema_filter="public") == []
        tables = paths(connection, "tables", table_types_filter=["TABLE"], table_name_filter="region")
        assert tables == [("datafusion", "public", "region")]
        assert paths(connection, "tables", table_types_filter=["VIEW"], table_name_filter="region") == []


def test_objects_by_column(url):
    with connect(url) as connection:
        where = {"table_name_filter": "nation", "db_schema_filter": "public"}
        names = [path[3] for path in paths(connection, "columns", **where)]
        assert names == ["n_nationkey", "n_name", "n_regionkey", "n_comment"]
        assert paths(connection, "all", **where) == paths(connection, "columns", **where)
        keys = paths(connection, "columns", column_name_filter="%key", **where)
        assert [path[3] for path in keys] == ["n_nationkey", "n_regionkey"], keys


def test_columns_have_their_types(url):
    with connect(url) as connection:
        rows = connection.adbc_get_objects(depth="columns", table_name_filter="lineitem").read_all().to_pylist()
        tables = [
            table for row in rows for schema in row["catalog_db_schemas"] for table in schema["db_schema_tables"]
        ]
        (table,) = tables
        columns = {column["column_name"]: column for column in table["table_columns"]}
        assert len(columns) == 16
        assert [columns[name]["ordinal_position"] for name in columns] == list(range(1, 17))
        assert columns["l_extendedprice"]["xdbc_type_name"], columns["l_extendedprice"]


def test_table_schema(url):
    with connect(url) as connection:
        for filters in ({}, {"db_schema_filter": "public"}, {"catalog_filter": "datafusion"}):
            schema = connection.adbc_get_table_schema("region", **filters)
            assert schema.names == ["r_regionkey", "r_name", "r_comment"]
            assert schema.field("r_name").type == pyarrow.string()
        error = adbc_driver_manager.Error
        suite.raises(error, lambda: connection.adbc_get_table_schema("nowhere"))
        suite.raises(error, lambda: connection.adbc_get_table_schema("region", db_schema_filter="nowhere"))


def test_info(url):
    with connect(url) as connection:
        info = connection.adbc_get_info()
        assert info["vendor_name"] == "Squadron"
        assert info["vendor_version"] and info["vendor_arrow_version"]
        assert info["driver_name"] == "ADBC Flight SQL Driver - Go", info


def test_every_fetch_method_returns_rows(url):
    with connect(url) as connection, connection.cursor() as cursor:

        def executed():
            cursor.execute("SELECT r_name FROM region ORDER BY r_name")
            return cursor

        assert executed().fetchone() == ("AFRICA",)
        assert cursor.rownumber == 1
        assert cursor.fetchmany(2) == [("AMERICA",), ("ASIA",)]
        assert cursor.fetchmany(10) == [("EUROPE",), ("MIDDLE EAST",)]
        assert cursor.fetchone() is None and cursor.fetchall() == []
        assert [row[0] for row in executed()] == REGIONS
        assert executed().fetch_arrow_table().column(0).to_pylist() == REGIONS
        assert executed().fetchallarrow().column(0).to_pylist() == REGIONS
        assert pyarrow.table(executed().fetch_arrow()).column(0).to_pylist() == REGIONS
        assert executed().fetch_df()["r_name"].tolist() == REGIONS
        assert executed().fetch_polars()["r_name"].to_list() == REGIONS
        batches = list(executed().fetch_record_batch())
        assert [name for batch in batches for name in batch.column(0).to_pylist()] == REGIONS


def test_half_read_cursor_can_be_reused(url):
    with connect(url) as connection, connection.cursor() as cursor:
        for _ in range(3):
            cursor.execute("SELECT * FROM lineitem")
            assert cursor.fetchone() is not None
        cursor.execute("SELECT 7")
        assert cursor.fetchall() == [(7,)]


def cancel_during(url, work, cancel_after=0.3):
    """Runs `work(cursor)` and cancels the cursor from another thread again and again, until the work has ended."""
    with connect(url) as connection:
        with connection.cursor() as cursor:
            ended = threading.Event()

            def cancel():
                while not ended.wait(cancel_after):
                    cursor.adbc_cancel()

            thread = threading.Thread(target=cancel)
            thread.start()
            try:
                suite.raises((adbc_driver_manager.Error, OSError), lambda: work(cursor), "cancel")
            finally:
                ended.set()
                thread.join()
        answers(connection)


def test_cancel_while_rows_come(url):
    def work(cursor):
        cursor.execute(ENDLESS_ROWS)
        for _ in cursor.fetch_record_batch():
            pass

    cancel_during(url, work)


def test_cancel_before_the_first_row(url):
    def work(cursor):
        cursor.execute(ENDLESS_WORK)
        cursor.fetchall()

    cancel_during(url, work)


def test_timeouts(url):
    with connect(url) as connection:
        with connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**{OPTIONS.TIMEOUT_FETCH.value: 0.5})
            start = time.monotonic()

            def work():
                cursor.execute(ENDLESS_WORK)
                cursor.fetchall()

            suite.raises(adbc_driver_manager.OperationalError, work, "DeadlineExceeded")
            assert time.monotonic() - start < 60
        with connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**{OPTIONS.TIMEOUT_QUERY.value: 0.5})
            # EXPLAIN ANALYZE runs in GetFlightInfo, which this option limits. The deadline passes on both sides at once,
            # so that the error is the driver's or the server's.
            error = suite.raises(
                adbc_driver_manager.OperationalError, lambda: cursor.execute("EXPLAIN ANALYZE " + ENDLESS_WORK)
            )
            assert "DeadlineExceeded" in str(error) or "Timeout expired" in str(error), error
        answers(connection)


def test_autocommit_stays_on(url):
    # Autocommit cannot be turned off: the driver warns, and everything works as with autocommit.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        connection = adbc_driver_flightsql.dbapi.connect(url)
    with connection:
        assert any("autocommit" in str(warning.message) for warning in caught), caught
        answers(connection)
        connection.commit()
        connection.rollback()
        with connection.cursor() as cursor:
            cursor.execute("CREATE VIEW adbc_uncommitted AS SELECT 1 AS one")
        with connect(url) as other, other.cursor() as cursor:
            cursor.execute("DROP VIEW adbc_uncommitted")


def test_statistics_are_refused_by_the_driver(url):
    # Flight SQL has no message for statistics; the driver itself refuses.
    with connect(url) as connection:
        refused = adbc_driver_manager.NotSupportedError
        suite.raises(refused, lambda: connection.adbc_get_statistics(table_name_filter="region"), "Statistics")
        suite.raises(refused, connection.adbc_get_statistic_names, "Statistics")
        answers(connection)


def test_ingestion_names_an_alternative(url):
    with connect(url) as connection, connection.cursor() as cursor:
        table = pyarrow.table({"a": [1, 2, 3]})
        for mode in ("create", "append", "replace", "create_append"):
            suite.raises(
                adbc_driver_manager.NotSupportedError,
                lambda: cursor.adbc_ingest("adbc_ingested", table, mode=mode),
                "CREATE EXTERNAL TABLE",
            )
        suite.raises(adbc_driver_manager.Error, lambda: cursor.execute("SELECT * FROM adbc_ingested"), "adbc_ingested")


def test_session_options(url):
    with connect(url) as connection:
        assert connection.adbc_current_catalog == "datafusion"
        assert connection.adbc_current_db_schema == "public"
        connection.adbc_current_db_schema = "public"

        def leave():
            connection.adbc_current_db_schema = "nowhere"

        suite.raises(adbc_driver_manager.Error, leave, "schema")
        assert connection.adbc_current_db_schema == "public"
        prefix = adbc_driver_flightsql.ConnectionOptions.OPTION_SESSION_OPTION_PREFIX.value
        option = prefix + "datafusion.execution.batch_size"
        connection.adbc_connection.set_options(**{option: "4321"})
        assert connection.adbc_connection.get_option(option) == "4321"
        with connection.cursor() as cursor:
            cursor.execute("SHOW datafusion.execution.batch_size")
            assert cursor.fetchall()[0][1] == "4321"
        suite.raises(
            adbc_driver_manager.Error,
            lambda: connection.adbc_connection.set_options(**{prefix + "no.such.option": "1"}),
            "no.such.option",
        )


def test_headers_and_cookie_are_accepted(url):
    prefix = adbc_driver_flightsql.DatabaseOptions.RPC_CALL_HEADER_PREFIX.value
    cookies = adbc_driver_flightsql.DatabaseOptions.WITH_COOKIE_MIDDLEWARE.value
    options = {prefix + "x-request-source": "suite", cookies: "true"}
    with connect(url, db_kwargs=options) as connection:
        for _ in range(3):
            answers(connection)


def test_clones_are_separate_connections(url):
    with connect(url) as connection:
        with connection.adbc_clone() as clone:
            answers(clone)
        answers(connection)


def test_low_level_handles(url):
    with adbc_driver_flightsql.connect(url) as database:
        with adbc_driver_manager.AdbcConnection(database) as connection:
            with adbc_driver_manager.AdbcStatement(connection) as statement:
                statement.set_sql_query("SELECT r_name FROM region ORDER BY r_name")
                handle, count = statement.execute_query()
                assert count == -1, "not known before the rows have come"
                reader = pyarrow.RecordBatchReader._import_from_c(handle.address)
                assert reader.read_all().column(0).to_pylist() == REGIONS
                statement.set_sql_query("CREATE VIEW adbc_low_level AS SELECT 1 AS one")
                assert statement.execute_update() in (0, -1)
                statement.set_sql_query("DROP VIEW adbc_low_level")
                statement.execute_update()
                statement.set_sql_query("SELECT n_name FROM nation WHERE n_nationkey = ?")
                statement.prepare()
                parameters = pyarrow.record_batch([pyarrow.array([6], pyarrow.int64())], names=["1"])
                statement.bind(parameters)
                handle, _ = statement.execute_query()
                reader = pyarrow.RecordBatchReader._import_from_c(handle.address)
                assert reader.read_all().column(0).to_pylist() == ["FRANCE"]


if __name__ == "__main__":
    suite.main(dict(globals()))
