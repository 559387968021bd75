"""flightsql-dbapi, which Superset uses: it reads the first endpoint only."""

from urllib.parse import urlparse

import pyarrow
from flightsql import FlightSQLClient, connect

import suite


def client(url):
    address = urlparse(url)
    # Without TLS, and without metadata that only its vendor's server knows.
    return FlightSQLClient(host=address.hostname, port=address.port, insecure=True)


def table(client, info):
    return client.do_get(info.endpoints[0].ticket).read_all()


def test_client_execute(url):
    server = client(url)
    info = server.execute("SELECT r_name FROM region ORDER BY r_name")
    assert table(server, info).column("r_name").to_pylist()[0] == "AFRICA"
    assert table(server, server.execute("SELECT * FROM lineitem")).num_rows == 60_175


def test_statement_of_two_megabytes(url):
    server = client(url)
    info = server.execute(f"SELECT length('{'x' * 2_000_000}') AS n")
    assert table(server, info).column("n").to_pylist() == [2_000_000]


def test_cursor(url):
    cursor = connect(client(url)).cursor()
    cursor.execute("SELECT n_nationkey, n_name FROM nation ORDER BY n_nationkey LIMIT 3")
    assert [column[0] for column in cursor.description] == ["n_nationkey", "n_name"]
    assert [tuple(row) for row in cursor.fetchall()] == [(0, "ALGERIA"), (1, "ARGENTINA"), (2, "BRAZIL")]
    cursor.execute("SELECT n_name FROM nation WHERE n_nationkey = ?", (6,))
    assert [tuple(row) for row in cursor.fetchall()] == [("FRANCE",)]


def test_update(url):
    server = client(url)
    server.execute_update("CREATE VIEW dbapi_view AS SELECT 1 AS one")
    assert table(server, server.execute("SELECT one FROM dbapi_view")).num_rows == 1
    server.execute_update("DROP VIEW dbapi_view")


def test_metadata(url):
    server = client(url)
    assert table(server, server.get_catalogs()).num_rows >= 1
    assert "public" in table(server, server.get_db_schemas()).column("db_schema_name").to_pylist()
    assert table(server, server.get_table_types()).num_rows >= 1
    names = table(server, server.get_tables(table_name_filter_pattern="region")).column("table_name").to_pylist()
    assert names == ["region"]
    with_schema = table(server, server.get_tables(include_schema=True, table_name_filter_pattern="region"))
    assert with_schema.num_rows == 1 and "table_schema" in with_schema.schema.names
    assert table(server, server.get_sql_info([0, 1, 2])).num_rows == 3


def test_prepared_statement(url):
    server = client(url)
    with server.prepare("SELECT n_name FROM nation WHERE n_nationkey = $1") as statement:
        binding = pyarrow.record_batch([pyarrow.array([6], pyarrow.int64())], names=["$1"])
        info = statement.execute(binding)
        assert table(server, info).column("n_name").to_pylist() == ["FRANCE"]


def test_errors(url):
    server = client(url)
    suite.raises(pyarrow.lib.ArrowInvalid, lambda: server.execute("SELEC 1"), "SELEC")


if __name__ == "__main__":
    suite.main(dict(globals()))
