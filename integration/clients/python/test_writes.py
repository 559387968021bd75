"""Writes and parameters through the ADBC Flight SQL driver: counts, batches, and the rows that are read back."""

import datetime
import decimal
import pathlib
import tempfile

import adbc_driver_flightsql.dbapi
import adbc_driver_manager
import pyarrow
import pyarrow.parquet

import suite


def connect(url):
    return adbc_driver_flightsql.dbapi.connect(url, autocommit=True)


def create_table(cursor, name, columns):
    """Creates an empty folder table; gives its folder."""
    folder = tempfile.TemporaryDirectory(prefix="squadron-")
    cursor.execute(f"CREATE OR REPLACE EXTERNAL TABLE {name} ({columns}) STORED AS PARQUET LOCATION '{folder.name}/'")
    return folder


def rows(cursor, sql):
    cursor.execute(sql)
    return cursor.fetchall()


def test_insert_reports_rowcount(url):
    with connect(url) as connection, connection.cursor() as cursor:
        with create_table(cursor, "py_counts", "id BIGINT, name VARCHAR"):
            cursor.execute("INSERT INTO py_counts VALUES (1, 'a'), (2, 'b'), (3, NULL)")
            assert cursor.rowcount == 3, cursor.rowcount
            cursor.execute("INSERT INTO py_counts VALUES (?, ?)", (4, "d"))
            assert cursor.rowcount == 1
            cursor.execute("INSERT INTO py_counts SELECT 5, 'e' WHERE false")
            assert cursor.rowcount == 0
            assert rows(cursor, "SELECT count(*), max(id) FROM py_counts") == [(4, 4)]


def test_executemany_is_one_statement(url):
    with connect(url) as connection, connection.cursor() as cursor:
        with create_table(cursor, "py_many", "id BIGINT, name VARCHAR, price DECIMAL(10, 2), day DATE") as folder:
            many = [
                (n, f"name {n}" if n % 3 else None, decimal.Decimal(n) / 4, datetime.date(2024, 1, 1 + n % 28))
                for n in range(5000)
            ]
            cursor.executemany("INSERT INTO py_many VALUES (?, ?, ?, ?)", many)
            assert cursor.rowcount == 5000, cursor.rowcount
            assert len(list(pathlib.Path(folder).rglob("*.parquet"))) == 1
            assert sorted(rows(cursor, "SELECT * FROM py_many")) == sorted(many, key=lambda row: row[0])


def test_executemany_with_bad_row_writes_nothing(url):
    with connect(url) as connection, connection.cursor() as cursor:
        with create_table(cursor, "py_bad", "id BIGINT") as folder:
            many = pyarrow.record_batch({"1": pyarrow.array(["1", "2", "three"])})
            suite.raises(
                adbc_driver_manager.Error,
                lambda: cursor.executemany("INSERT INTO py_bad VALUES (?)", many),
                "three",
            )
            assert rows(cursor, "SELECT count(*) FROM py_bad") == [(0,)]
            assert list(pathlib.Path(folder).rglob("*.parquet")) == []


def test_executemany_of_no_rows_inserts_nothing(url):
    """Without rows the driver sends no parameters at all, which the server refuses."""
    with connect(url) as connection, connection.cursor() as cursor:
        with create_table(cursor, "py_none", "id BIGINT"):
            none = pyarrow.record_batch({"1": pyarrow.array([], pyarrow.int64())})
            suite.raises(
                adbc_driver_manager.Error,
                lambda: cursor.executemany("INSERT INTO py_none VALUES (?)", none),
                "none is bound",
            )
            assert rows(cursor, "SELECT count(*) FROM py_none") == [(0,)]


def test_dictionaries_views_and_nested_values_are_bound(url):
    with connect(url) as connection, connection.cursor() as cursor:
        with create_table(cursor, "py_types", "word VARCHAR, view VARCHAR, at TIMESTAMP, flag BOOLEAN, blob BYTEA"):
            at = datetime.datetime(2024, 2, 29, 12, 30)
            values = pyarrow.record_batch(
                {
                    "1": pyarrow.array(["x", "y", "x", None]).dictionary_encode(),
                    "2": pyarrow.array(
                        ["a", "b", "a view that is too long to be inlined", None], pyarrow.string_view()
                    ),
                    "3": pyarrow.array([at, None, at, at], pyarrow.timestamp("us")),
                    "4": pyarrow.array([True, None, False, True]),
                    "5": pyarrow.array([b"\0", None, b"", b"z"]),
                }
            )
            cursor.executemany("INSERT INTO py_types VALUES (?, ?, ?, ?, ?)", values)
            assert rows(cursor, "SELECT word, count(*) FROM py_types GROUP BY word ORDER BY word NULLS LAST") == [
                ("x", 2),
                ("y", 1),
                (None, 1),
            ]
            late = "SELECT count(*) FROM py_types WHERE at = TIMESTAMP '2024-02-29 12:30:00' AND view IS NULL"
            assert rows(cursor, late) == [(1,)]
        lists = pyarrow.record_batch({"1": pyarrow.array([[1, 2, 3]], pyarrow.list_(pyarrow.int64()))})
        cursor.execute("SELECT array_length(?)", lists)
        assert cursor.fetchall() == [(3,)]


def test_query_runs_once_for_each_row(url):
    with connect(url) as connection, connection.cursor() as cursor:
        keys = pyarrow.record_batch({"1": pyarrow.array([3, 0, 3], pyarrow.int64())})
        cursor.execute("SELECT r_name FROM region WHERE r_regionkey = ?", keys)
        assert cursor.fetchall() == [("EUROPE",), ("AFRICA",), ("EUROPE",)]


def test_executescript_and_copy(url):
    with connect(url) as connection, connection.cursor() as cursor:
        with tempfile.TemporaryDirectory(prefix="squadron-") as folder:
            cursor.executescript(f"COPY (SELECT * FROM nation) TO '{folder}/nation.parquet'")
            read = pyarrow.parquet.read_table(f"{folder}/nation.parquet")
            assert read.num_rows == 25
            assert read.schema.field("n_name").type == pyarrow.string()
            cursor.execute(
                f"COPY (SELECT * FROM lineitem) TO '{folder}/lineitem/' STORED AS PARQUET "
                "OPTIONS ('compression' 'zstd(3)')"
            )
            assert cursor.rowcount == 60_175
            assert pyarrow.parquet.read_table(f"{folder}/lineitem").num_rows == 60_175
            assert sorted(path.name for path in pathlib.Path(folder).iterdir()) == ["lineitem", "nation.parquet"]


if __name__ == "__main__":
    suite.main(dict(globals()))
