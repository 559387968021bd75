"""Data frames and engines that read through ADBC: Polars, pandas, DuckDB."""

from urllib.parse import urlparse

import adbc_driver_flightsql.dbapi
import adbc_driver_manager
import duckdb
import pandas
import polars

import suite

LINEITEMS = 60_175


def connect(url):
    return adbc_driver_flightsql.dbapi.connect(url, autocommit=True)


def test_polars_reads_over_connection(url):
    with connect(url) as connection:
        frame = polars.read_database("SELECT r_regionkey, r_name FROM region ORDER BY 1", connection)
        assert frame.schema == {"r_regionkey": polars.Int64, "r_name": polars.String}
        assert frame["r_name"].to_list() == ["AFRICA", "AMERICA", "ASIA", "EUROPE", "MIDDLE EAST"]
        empty = polars.read_database("SELECT l_orderkey, l_shipdate FROM lineitem WHERE false", connection)
        assert empty.schema == {"l_orderkey": polars.Int64, "l_shipdate": polars.Date}


def test_polars_with_parameters(url):
    with connect(url) as connection:
        frame = polars.read_database(
            "SELECT n_name FROM nation WHERE n_nationkey = ?", connection, execute_options={"parameters": [6]}
        )
        assert frame.rows() == [("FRANCE",)]


def test_polars_in_batches(url):
    with connect(url) as connection:
        frames = polars.read_database("SELECT * FROM lineitem", connection, iter_batches=True, batch_size=10_000)
        assert sum(frame.height for frame in frames) == LINEITEMS


def test_polars_by_uri(url):
    # The scheme names the driver; without `transport=tcp` the driver speaks TLS.
    uri = f"flightsql://{urlparse(url).netloc}?transport=tcp"
    frame = polars.read_database_uri("SELECT count(*) AS n FROM lineitem", uri, engine="adbc")
    assert frame.rows() == [(LINEITEMS,)]


def test_polars_cannot_write(url):
    with connect(url) as connection:
        frame = polars.DataFrame({"a": [1]})
        suite.raises(
            adbc_driver_manager.NotSupportedError,
            lambda: frame.write_database("polars_table", connection, engine="adbc"),
            "CREATE EXTERNAL TABLE",
        )


def test_pandas_read_sql(url):
    with connect(url) as connection:
        frame = pandas.read_sql("SELECT * FROM region ORDER BY r_regionkey", connection)
        assert frame.columns.tolist() == ["r_regionkey", "r_name", "r_comment"]
        assert frame["r_regionkey"].tolist() == [0, 1, 2, 3, 4]
        indexed = pandas.read_sql("SELECT * FROM region", connection, index_col="r_regionkey")
        assert sorted(indexed.index) == [0, 1, 2, 3, 4]
        arrow = pandas.read_sql("SELECT * FROM lineitem", connection, dtype_backend="pyarrow")
        assert len(arrow) == LINEITEMS
        assert str(arrow.dtypes["l_extendedprice"]) == "decimal128(15, 2)[pyarrow]"


def test_pandas_read_sql_table(url):
    with connect(url) as connection:
        assert len(pandas.read_sql_table("nation", connection)) == 25
        assert len(pandas.read_sql_table("nation", connection, schema="public")) == 25


def test_pandas_cannot_write(url):
    with connect(url) as connection:
        frame = pandas.DataFrame({"a": [1]})
        error = suite.raises(pandas.errors.DatabaseError, lambda: frame.to_sql("pandas_table", connection))
        assert "CREATE EXTERNAL TABLE" in str(error.__cause__), error.__cause__


def test_duckdb_reads_stream(url):
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM lineitem")
        rows = cursor.fetch_record_batch()
        assert rows.schema.names[0] == "l_orderkey"
        found = duckdb.sql("SELECT l_returnflag, count(*) FROM rows GROUP BY ALL ORDER BY 1").fetchall()
        assert [flag for flag, _ in found] == ["A", "N", "R"]
        assert sum(count for _, count in found) == LINEITEMS


def test_duckdb_joins_two_results(url):
    with connect(url) as connection:
        tables = {}
        for name in ("nation", "region"):
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT * FROM {name}")
                tables[name] = cursor.fetch_arrow_table()
        nation, region = tables["nation"], tables["region"]
        assert nation.num_rows == 25 and region.num_rows == 5
        found = duckdb.sql(
            "SELECT r_name, count(*) FROM nation JOIN region ON n_regionkey = r_regionkey GROUP BY ALL"
        ).fetchall()
        assert sorted(count for _, count in found) == [5] * 5


if __name__ == "__main__":
    suite.main(dict(globals()))
