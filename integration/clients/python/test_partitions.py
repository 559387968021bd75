"""Results with several endpoints: ADBC's partitions, at once and incrementally, and pyarrow at workers' locations."""

import adbc_driver_flightsql
import adbc_driver_flightsql.dbapi
import adbc_driver_manager
import pyarrow
from pyarrow import flight

import suite
from test_pyarrow import connect, statement

LINEITEMS = 60_175
REUSE = b"arrow-flight-reuse-connection://?"
INCREMENTAL = "adbc.statement.exec.incremental"
SLOW = "SELECT l_orderkey, l_orderkey * n_nationkey FROM lineitem CROSS JOIN nation CROSS JOIN region"


def parallel(url):
    connection = adbc_driver_flightsql.dbapi.connect(url, autocommit=True)
    with connection.cursor() as cursor:
        cursor.execute("SET squadron.endpoints = parallel")
    return connection


def read(connection, partitions):
    tables = []
    for partition in partitions:
        with connection.cursor() as cursor:
            cursor.adbc_read_partition(partition)
            tables.append(cursor.fetch_arrow_table())
    return pyarrow.concat_tables(tables)


def test_all_partitions_are_read(url):
    with parallel(url) as connection, connection.cursor() as cursor:
        partitions, schema = cursor.adbc_execute_partitions("SELECT * FROM lineitem")
        assert len(partitions) > 1
        for _ in range(2):
            table = read(connection, partitions)
            assert table.num_rows == LINEITEMS and table.schema.names == schema.names
        keys = set(zip(table.column("l_orderkey").to_pylist(), table.column("l_linenumber").to_pylist()))
        assert len(keys) == LINEITEMS, "each row once"


def test_partitions_are_read_on_another_connection(url):
    with parallel(url) as one, one.cursor() as cursor, parallel(url) as other:
        partitions, _ = cursor.adbc_execute_partitions("SELECT l_orderkey FROM lineitem")
        assert read(other, partitions).num_rows == LINEITEMS


def test_ordinary_fetch_reads_all_endpoints(url):
    with parallel(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM lineitem")
        assert cursor.fetch_arrow_table().num_rows == LINEITEMS
        cursor.execute("SELECT l_orderkey FROM lineitem ORDER BY l_orderkey DESC LIMIT 3")
        assert [row[0] for row in cursor.fetchall()] == [60_000, 60_000, 60_000]
        cursor.execute("SELECT count(*) FROM lineitem WHERE l_orderkey = ?", (7,))
        assert cursor.fetchone() == (7,)
        cursor.execute("SELECT * FROM lineitem WHERE false")
        assert cursor.fetch_arrow_table().schema.names[0] == "l_orderkey"


def read_incrementally(url, sql, several):
    with parallel(url) if several else adbc_driver_flightsql.dbapi.connect(url, autocommit=True) as connection:
        with adbc_driver_manager.AdbcStatement(connection.adbc_connection) as running:
            running.set_options(**{INCREMENTAL: "true"})
            running.set_sql_query(sql)
            partitions, answers, progress = [], 0, []
            while True:
                new, _, _ = running.execute_partitions()
                if not new:
                    break
                answers += 1
                partitions += new
                progress.append(running.get_option_float("adbc.statement.exec.progress"))
            assert progress == sorted(progress), progress
            return read(connection, partitions), len(partitions)


def test_partitions_are_read_incrementally(url):
    table, partitions = read_incrementally(url, SLOW, True)
    assert (table.num_rows, partitions) == (LINEITEMS * 125, 2)
    table, partitions = read_incrementally(url, "SELECT * FROM lineitem", True)
    assert table.num_rows == LINEITEMS and partitions > 1
    table, partitions = read_incrementally(url, "SELECT * FROM lineitem", False)
    assert (table.num_rows, partitions) == (LINEITEMS, 1)


def test_failure_reaches_incremental_reader(url):
    suite.raises(
        adbc_driver_manager.Error,
        lambda: read_incrementally(url, "SELECT sum(1 / (60000 - l_orderkey)) FROM lineitem", True),
        "zero",
    )


def start_parallel(client, sql):
    client.do_get(client.get_flight_info(statement("SET squadron.endpoints = parallel")).endpoints[0].ticket).read_all()
    return client.get_flight_info(statement(sql))


def test_pyarrow_reads_at_the_locations(url):
    with connect(url) as client:
        info = start_parallel(client, "SELECT * FROM lineitem")
        assert len(info.endpoints) > 1 and not info.ordered
        rows, places = 0, set()
        for endpoint in info.endpoints:
            worker, server = endpoint.locations
            assert server.uri == REUSE and endpoint.expiration_time is not None
            places.add(worker.uri)
            with flight.connect(worker) as there:
                table = there.do_get(endpoint.ticket).read_all()
            assert table.schema.equals(info.schema, check_metadata=True)
            assert client.do_get(endpoint.ticket).read_all().num_rows == table.num_rows
            rows += table.num_rows
        assert rows == LINEITEMS and len(places) == 2
        renewed = client.renew_flight_endpoint(info.endpoints[0]) if hasattr(client, "renew_flight_endpoint") else None
        assert renewed is None or renewed.expiration_time >= info.endpoints[0].expiration_time


def test_pyarrow_lists_tables_as_flights(url):
    with connect(url) as client:
        flights = list(client.list_flights())
        assert len(flights) == 8
        (region,) = client.list_flights(b"reg%")
        assert region.schema.names == ["r_regionkey", "r_name", "r_comment"]
        info = client.get_flight_info(region.descriptor)
        assert client.do_get(info.endpoints[0].ticket).read_all().num_rows == 5
        assert client.get_schema(region.descriptor).schema.equals(region.schema, check_metadata=True)


if __name__ == "__main__":
    suite.main(dict(globals()))
