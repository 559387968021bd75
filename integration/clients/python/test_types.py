"""Every Arrow type through ADBC, compared with the file that the server reads.

Usage: test_types.py grpc://HOST:PORT TYPES.arrow
"""

import sys

import adbc_driver_flightsql
import adbc_driver_flightsql.dbapi
import pyarrow
import pyarrow.compute
import pyarrow.ipc

import suite

FILE = sys.argv[2]


def connect(url, **options):
    return adbc_driver_flightsql.dbapi.connect(url, autocommit=True, db_kwargs=options)


def expected():
    with pyarrow.ipc.open_file(FILE) as reader:
        return reader.read_all()


def comparable(column):
    """The values of a column in a form that does not depend on its encoding."""
    column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    kind = column.type
    if pyarrow.types.is_run_end_encoded(kind):
        return comparable(pyarrow.chunked_array([pyarrow.compute.run_end_decode(column)]))
    # Python's own dates end before Arrow's do.
    if pyarrow.types.is_timestamp(kind) or pyarrow.types.is_duration(kind):
        return column.cast(pyarrow.int64()).to_pylist()
    if pyarrow.types.is_time64(kind) or pyarrow.types.is_date64(kind):
        return column.cast(pyarrow.int64()).to_pylist()
    # NaN does not equal itself.
    return repr(column.to_pylist())


def same(wanted, got):
    try:
        return comparable(wanted) == comparable(got)
    except (KeyError, NotImplementedError):
        # Two of the three intervals have neither a type nor values in Python.
        return wanted.equals(got)


def test_every_type_arrives(url):
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM types ORDER BY id")
        got = cursor.fetch_arrow_table()
    wanted = expected()
    assert got.column_names == wanted.column_names
    differing = [name for name in wanted.column_names if not same(wanted[name], got[name])]
    assert not differing, [(name, str(wanted[name]), str(got[name])) for name in differing]


def test_types_that_clients_know_keep_their_names(url):
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM types")
        schema = cursor.fetch_arrow_table().schema
    kept = ["int8", "uint64", "float64", "decimal256", "utf8", "large_utf8", "timestamp_ns_berlin", "interval_mdn"]
    for name in kept:
        assert schema.field(name).type == expected().schema.field(name).type, name
    for name, kind in [
        ("utf8_view", pyarrow.string()),
        ("binary_view", pyarrow.binary()),
        ("float16", pyarrow.float32()),
        ("decimal32", pyarrow.decimal128(9, 2)),
        ("dictionary_int8", pyarrow.string()),
        ("runs_int32", pyarrow.int64()),
    ]:
        assert schema.field(name).type == kind, (name, schema.field(name).type)


def test_schemas_are_the_same_everywhere(url):
    with connect(url) as connection, connection.cursor() as cursor:
        told = cursor.adbc_execute_schema("SELECT * FROM types")
        cursor.execute("SELECT * FROM types")
        assert cursor.fetch_arrow_table().schema.equals(told, check_metadata=True)
        table = connection.adbc_get_table_schema("types")
    assert table.names == told.names
    assert table.types == told.types


def test_large_cell_needs_driver_option(url):
    sql = "SELECT repeat('x', 20000000) AS cell"
    with connect(url) as connection, connection.cursor() as cursor:
        try:
            cursor.execute(sql)
            cursor.fetch_arrow_table()
            raise AssertionError("a message above the driver's own limit was read")
        except adbc_driver_flightsql.dbapi.Error as error:
            assert "larger than max" in str(error), error
    option = adbc_driver_flightsql.DatabaseOptions.WITH_MAX_MSG_SIZE.value
    with connect(url, **{option: str(64 * 1024 * 1024)}) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        assert len(cursor.fetchone()[0]) == 20_000_000


if __name__ == "__main__":
    suite.main(dict(globals()))
