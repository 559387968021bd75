"""The ADBC Flight SQL driver through its DB-API."""

import datetime
import decimal
import threading

import adbc_driver_flightsql.dbapi
import adbc_driver_manager
import pyarrow

import suite

LINEITEMS = 60_175


def connect(url):
    return adbc_driver_flightsql.dbapi.connect(url, autocommit=True)


def test_execute_and_fetch(url):
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT r_regionkey, r_name FROM region ORDER BY r_regionkey")
        assert [column[0] for column in cursor.description] == ["r_regionkey", "r_name"]
        assert cursor.fetchone() == (0, "AFRICA")
        assert cursor.fetchmany(2) == [(1, "AMERICA"), (2, "ASIA")]
        assert cursor.fetchall() == [(3, "EUROPE"), (4, "MIDDLE EAST")]
        assert cursor.fetchone() is None


def test_statement_of_two_megabytes(url):
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT length('{'x' * 2_000_000}')")
        assert cursor.fetchall() == [(2_000_000,)]


def test_fetch_arrow_table(url):
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM lineitem")
        table = cursor.fetch_arrow_table()
        assert table.num_rows == LINEITEMS
        assert table.schema.field("l_extendedprice").type == pyarrow.decimal128(15, 2)
        assert table.schema.field("l_comment").type == pyarrow.string()
        assert table.schema.field("l_shipdate").type == pyarrow.date32()


def test_fetch_record_batch(url):
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT l_orderkey, l_comment FROM lineitem")
        reader = cursor.fetch_record_batch()
        assert reader.schema.names == ["l_orderkey", "l_comment"]
        assert sum(batch.num_rows for batch in reader) == LINEITEMS


def test_empty_result_has_schema(url):
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT l_orderkey, l_comment FROM lineitem WHERE false")
        table = cursor.fetch_arrow_table()
        assert table.num_rows == 0 and table.schema.names == ["l_orderkey", "l_comment"]


def test_distributed_aggregate(url):
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT l_returnflag, count(*), sum(l_quantity) FROM lineitem GROUP BY l_returnflag ORDER BY 1"
        )
        rows = cursor.fetchall()
        assert [row[0] for row in rows] == ["A", "N", "R"]
        assert sum(row[1] for row in rows) == LINEITEMS


def test_types_arrive_as_python_values(url):
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT 1, 'text', 1.5::double, true, NULL, DATE '2024-02-29', CAST(1.25 AS DECIMAL(10, 2)), "
            "TIMESTAMP '2024-01-02 03:04:05'"
        )
        (row,) = cursor.fetchall()
        assert row == (
            1,
            "text",
            1.5,
            True,
            None,
            datetime.date(2024, 2, 29),
            decimal.Decimal("1.25"),
            datetime.datetime(2024, 1, 2, 3, 4, 5),
        )


def test_parameters(url):
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT n_name FROM nation WHERE n_nationkey = ? OR n_name = ? ORDER BY 1", (3, "FRANCE"))
        assert cursor.fetchall() == [("CANADA",), ("FRANCE",)]
        cursor.execute("SELECT n_name FROM nation WHERE n_nationkey = $1", (6,))
        assert cursor.fetchall() == [("FRANCE",)]
        cursor.execute("SELECT '?' AS question, $1 AS answer", ("yes",))
        assert cursor.fetchall() == [("?", "yes")]


def test_statement_is_reused(url):
    with connect(url) as connection, connection.cursor() as cursor:
        for key in range(5):
            cursor.execute("SELECT count(*) FROM nation WHERE n_regionkey = ?", (key,))
            assert cursor.fetchall() == [(5,)]


def test_ddl_runs_exactly_once(url):
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE VIEW adbc_view AS SELECT r_name FROM region")
        # The DDL has run exactly once: without a run there would be no view, and a second run would have failed.
        cursor.execute("SELECT count(*) FROM adbc_view")
        assert cursor.fetchall() == [(5,)]
        suite.raises(
            adbc_driver_manager.Error,
            lambda: cursor.execute("CREATE VIEW adbc_view AS SELECT 1"),
            "adbc_view",
        )
        cursor.execute("DROP VIEW adbc_view")
        suite.raises(
            adbc_driver_manager.Error, lambda: cursor.execute("SELECT * FROM adbc_view"), "adbc_view"
        )


def test_update_through_executescript(url):
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.executescript("CREATE VIEW script_view AS SELECT 1 AS one")
        cursor.execute("SELECT one FROM script_view")
        assert cursor.fetchall() == [(1,)]
        cursor.executescript("DROP VIEW script_view")


def objects(connection, depth, **filters):
    return connection.adbc_get_objects(depth=depth, **filters).read_all().to_pylist()


def test_get_objects_at_every_depth(url):
    with connect(url) as connection:
        catalogs = objects(connection, "catalogs")
        assert len(catalogs) >= 1 and all(row["catalog_name"] for row in catalogs)

        schemas = objects(connection, "db_schemas")
        names = {schema["db_schema_name"] for row in schemas for schema in row["catalog_db_schemas"]}
        assert "public" in names, names

        def tables(rows):
            return {
                table["table_name"]: table
                for row in rows
                for schema in row["catalog_db_schemas"]
                for table in schema["db_schema_tables"]
            }

        found = tables(objects(connection, "tables"))
        assert {"lineitem", "orders", "region"} <= set(found), set(found)

        found = tables(objects(connection, "all", table_name_filter="region"))
        assert set(found) == {"region"}, set(found)
        columns = found["region"]["table_columns"]
        assert [column["column_name"] for column in columns] == ["r_regionkey", "r_name", "r_comment"]
        assert [column["ordinal_position"] for column in columns] == [1, 2, 3]


def test_table_schema_and_types(url):
    with connect(url) as connection:
        schema = connection.adbc_get_table_schema("nation")
        assert schema.names == ["n_nationkey", "n_name", "n_regionkey", "n_comment"]
        assert "TABLE" in " ".join(connection.adbc_get_table_types()).upper()
        info = connection.adbc_get_info()
        assert "squadron" in info["vendor_name"].lower(), info


def test_schema_without_execution(url):
    with connect(url) as connection, connection.cursor() as cursor:
        schema = cursor.adbc_execute_schema("SELECT l_orderkey, l_tax FROM lineitem")
        assert schema.names == ["l_orderkey", "l_tax"]


def test_prepared_statement_describes_its_parameters(url):
    with connect(url) as connection, connection.cursor() as cursor:
        schema = cursor.adbc_prepare("SELECT n_name FROM nation WHERE n_nationkey = $1 AND n_name LIKE $2")
        assert len(schema) == 2, schema


def test_partitions_can_be_read(url):
    with connect(url) as connection, connection.cursor() as cursor:
        partitions, schema = cursor.adbc_execute_partitions("SELECT r_name FROM region")
        assert schema.names == ["r_name"]
        rows = 0
        for partition in partitions:
            cursor.adbc_read_partition(partition)
            rows += cursor.fetch_arrow_table().num_rows
        assert rows == 5


def test_errors_name_the_mistake(url):
    with connect(url) as connection, connection.cursor() as cursor:
        suite.raises(adbc_driver_manager.Error, lambda: cursor.execute("SELEC 1"), "SELEC")
        suite.raises(adbc_driver_manager.Error, lambda: cursor.execute("SELECT * FROM lineitems"), "lineitem")

        def divide():
            cursor.execute("SELECT 1 / (r_regionkey - r_regionkey) FROM region")
            cursor.fetchall()

        suite.raises(adbc_driver_manager.Error, divide, "zero")
        cursor.execute("SELECT 1")
        assert cursor.fetchall() == [(1,)]


def test_many_cursors_on_one_connection(url):
    with connect(url) as connection:
        cursors = [connection.cursor() for _ in range(8)]
        for number, cursor in enumerate(cursors):
            cursor.execute(f"SELECT {number}, * FROM orders")
        # The last cursor is read first; the others are still open and unread.
        for number, cursor in reversed(list(enumerate(cursors))):
            row = cursor.fetchone()
            assert row[0] == number
        for cursor in cursors:
            cursor.close()


def test_many_connections_at_once(url):
    failures = []

    def work(number):
        try:
            with connect(url) as connection, connection.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM lineitem WHERE l_linenumber = ?", (number % 7 + 1,))
                assert cursor.fetchone()[0] > 0
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def test_cancel_leaves_the_connection_usable(url):
    with connect(url) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT a.l_comment, b.l_comment FROM lineitem a CROSS JOIN lineitem b")
        assert cursor.fetchone() is not None
        cursor.close()
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            assert cursor.fetchall() == [(1,)]


def test_user_and_password(url):
    options = {"username": "someone", "password": "secret"}
    with adbc_driver_flightsql.dbapi.connect(url, db_kwargs=options, autocommit=True) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            assert cursor.fetchall() == [(1,)]


if __name__ == "__main__":
    suite.main(dict(globals()))
