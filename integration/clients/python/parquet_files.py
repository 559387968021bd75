"""Parquet files of other writers, read as pyarrow reads them.

parquet_files.py --make DATA writes the files; a server then serves DATA, and parquet_files.py URL DATA compares every
table with pyarrow's reading of its file, whole and with filters.
"""

import datetime
import decimal
import pathlib
import sys

import adbc_driver_flightsql.dbapi
import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption

import suite

ROWS = 1_000


def _ids(rows=ROWS):
    return pa.array(range(rows), pa.int64())


def _every_third_null(values):
    return [None if at % 3 == 1 else value for at, value in enumerate(values)]


def _common():
    """Columns of the usual types, with NULLs."""
    numbers = range(ROWS)
    return pa.table(
        {
            "id": _ids(),
            "i": pa.array(_every_third_null(numbers), pa.int32()),
            "l": pa.array(_every_third_null([n * n * 1_000_003 - 5 for n in numbers]), pa.int64()),
            "f": pa.array(_every_third_null([n / 8 for n in numbers]), pa.float32()),
            "d": pa.array(_every_third_null([n / 7 for n in numbers]), pa.float64()),
            "b": pa.array(_every_third_null([n % 5 == 0 for n in numbers]), pa.bool_()),
            "s": pa.array(_every_third_null([f"text {n % 40:03}" for n in numbers]), pa.string()),
            "y": pa.array(_every_third_null([bytes([n % 256, 0, 255]) for n in numbers]), pa.binary()),
            "e": pa.array(_every_third_null([bytes([n % 256] * 4) for n in numbers]), pa.binary(4)),
        }
    )


def _times():
    moments = [datetime.datetime(1677, 9, 22) + datetime.timedelta(days=120 * n, microseconds=n) for n in range(ROWS)]
    return pa.array(_every_third_null(moments), pa.timestamp("us"))


def _decimals(digits, scale):
    context = decimal.Context(prec=80)
    step = decimal.Decimal(10 ** (digits - 4))
    values = [context.scaleb(step * (n - ROWS // 2), -scale) for n in range(ROWS)]
    kind = pa.decimal256 if digits > 38 else pa.decimal128
    return pa.array(_every_third_null(values), kind(digits, scale))


def _unsigned():
    columns = {"id": _ids()}
    for bits, kind in ((8, pa.uint8()), (16, pa.uint16()), (32, pa.uint32()), (64, pa.uint64())):
        top = 2**bits - 1
        columns[f"u{bits}"] = pa.array(_every_third_null([top - n % 200 for n in range(ROWS)]), kind)
    return pa.table(columns)


def _nested():
    numbers = range(ROWS)
    return pa.table(
        {
            "id": _ids(),
            "a": pa.array(_every_third_null([list(range(n % 4)) for n in numbers]), pa.list_(pa.int32())),
            "t": pa.array(
                _every_third_null([{"x": n, "y": None if n % 2 else str(n)} for n in numbers]),
                pa.struct([("x", pa.int64()), ("y", pa.string())]),
            ),
        }
    )


def make(folder):
    """Writes one file for each table."""
    folder = pathlib.Path(folder)

    def write(name, table, **options):
        options.setdefault("row_group_size", 300)
        pq.write_table(table, folder / f"{name}.parquet", **options)

    common = _common()
    for codec in ("none", "snappy", "gzip", "brotli", "zstd", "lz4"):
        write(f"codec_{codec}", common, compression=codec)
    write("pages_v2", common, data_page_version="2.0")
    write("pages_small", common, data_page_size=256, write_page_index=True)
    write("plain", common, use_dictionary=False)
    write("no_statistics", common, write_statistics=False)
    write("checksums", common, write_page_checksum=True)
    write("version_1", common, version="1.0")
    encodings = {
        "delta": {"i": "DELTA_BINARY_PACKED", "l": "DELTA_BINARY_PACKED", "s": "DELTA_BYTE_ARRAY", "y": "DELTA_LENGTH_BYTE_ARRAY"},
        "split": {name: "BYTE_STREAM_SPLIT" for name in ("i", "l", "f", "d", "e")},
        "run_lengths": {"b": "RLE"},
    }
    for name, encoding in encodings.items():
        write(f"encoding_{name}", common, use_dictionary=False, column_encoding=encoding, data_page_version="2.0")
    times = pa.table({"id": _ids(), "t": _times(), "day": _times().cast(pa.date32(), safe=False)})
    write("int96", times, use_deprecated_int96_timestamps=True)
    write("microseconds", times)
    write("milliseconds", times, coerce_timestamps="ms", allow_truncated_timestamps=True)
    nanoseconds = pa.array(_every_third_null([n * 86_400_000_000_007 for n in range(ROWS)]), pa.timestamp("ns"))
    write("nanoseconds", pa.table({"id": _ids(), "t": nanoseconds}))
    zoned = nanoseconds.cast(pa.timestamp("us"), safe=False).cast(pa.timestamp("us", "UTC"))
    write("zoned", pa.table({"id": _ids(), "t": zoned}))
    clock = pa.array(_every_third_null([n * 86_000_000_007 % 86_400_000_000_000 for n in range(ROWS)]), pa.time64("ns"))
    write("clock", pa.table({"id": _ids(), "t": clock}))
    write("unsigned", _unsigned())
    for digits, scale in ((9, 2), (18, 4), (38, 10), (50, 10)):
        decimals = pa.table({"id": _ids(), "v": _decimals(digits, scale)})
        write(f"decimal_{digits}_bytes", decimals)
        if digits <= 18:
            write(f"decimal_{digits}_integer", decimals, store_decimal_as_integer=True)
    write("nested", _nested())
    write("nested_old_names", _nested(), use_compliant_nested_type=False)
    write("without_arrow_schema", common, store_schema=False)
    categories = pa.table({"id": _ids(), "s": common["s"].combine_chunks().dictionary_encode()})
    write("categories", categories)
    with pq.ParquetWriter(folder / "empty_groups.parquet", common.schema) as writer:
        for part in (common[:0], common[:10], common[:0], common[10:], common[:0]):
            writer.write_table(part, row_group_size=400)
    write("no_rows", common[:0])
    long = pa.array(["a" * 3_000 + str(n) for n in range(ROWS)])
    write("long_texts", pa.table({"id": _ids(), "s": long}))
    _make_with_duckdb(folder)
    _make_encrypted(folder, common)


def _make_with_duckdb(folder):
    database = duckdb.connect()
    rows = (
        "SELECT n AS id, CASE WHEN n % 3 <> 1 THEN n::INT END AS i, n * 1.25::DECIMAL(12, 2) AS v, "
        "'text ' || (n % 40) AS s, TIMESTAMP '2020-01-01' + INTERVAL (n) HOUR AS t, "
        "(n * 7)::UBIGINT AS u, [n, n + 1] AS a, {'x': n, 'y': 'z'} AS r, n::HUGEINT AS h, "
        "DATE '2020-01-01' + n::INT AS day, (n / 3.0)::DOUBLE AS d FROM range(1000) t(n)"
    )
    for name, options in (
        ("duckdb", "ROW_GROUP_SIZE 2048"),
        ("duckdb_zstd", "COMPRESSION zstd"),
        ("duckdb_v2", "PARQUET_VERSION v2"),
        ("duckdb_lz4", "COMPRESSION lz4_raw"),
    ):
        database.execute(f"COPY ({rows}) TO '{folder / name}.parquet' (FORMAT parquet, {options})")


class _Keys(encryption.KmsClient):
    """Keeps the keys in the file, as a test may."""

    def wrap_key(self, key_bytes, master_key_identifier):
        return key_bytes.hex()

    def unwrap_key(self, wrapped_key, master_key_identifier):
        return bytes.fromhex(wrapped_key)


def _make_encrypted(folder, table):
    factory = encryption.CryptoFactory(lambda config: _Keys())
    for name, plaintext in (("encrypted", False), ("encrypted_columns", True)):
        config = encryption.EncryptionConfiguration(
            footer_key="footer", column_keys={"column": ["s"]}, plaintext_footer=plaintext
        )
        properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), config)
        path = folder / f"{name}.parquet"
        with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
            writer.write_table(table)


def _plain(column):
    """The values in a form that depends neither on encodings nor on units."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_timestamp(kind):
        factor = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[kind.unit]
        return [value if value is None else value * factor for value in column.cast(pa.int64()).to_pylist()]
    if pa.types.is_time(kind):
        return [str(value) for value in column.cast(pa.time64("ns")).cast(pa.int64()).to_pylist()]
    return [repr(value) for value in column.to_pylist()]


def _query(cursor, sql):
    cursor.execute(sql)
    return cursor.fetch_arrow_table()


def _files(folder):
    return sorted(path for path in pathlib.Path(folder).glob("*.parquet") if not path.stem.startswith("encrypted"))


def _same(name, wanted, got):
    assert got.column_names == wanted.column_names, (name, got.column_names)
    assert got.num_rows == wanted.num_rows, (name, got.num_rows, wanted.num_rows)
    for column in wanted.column_names:
        one, other = _plain(wanted[column]), _plain(got[column])
        differing = [at for at in range(len(one)) if one[at] != other[at]]
        assert not differing, (name, column, wanted[column].type, got[column].type, differing[:3], one[differing[0]], other[differing[0]])


def test_whole_files_are_read_as_pyarrow_reads_them(url):
    with adbc_driver_flightsql.dbapi.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
        wrong = []
        for path in _files(sys.argv[2]):
            wanted = pq.read_table(path)
            try:
                _same(path.stem, wanted, _query(cursor, f"SELECT * FROM {path.stem} ORDER BY id"))
            except Exception as error:
                wrong.append(f"{path.stem}: {error!r:.600}")
        assert not wrong, "\n".join(wrong)


def _filters(table):
    """Conditions over the columns, each with the rows that it should find."""
    for column in table.column_names:
        values = table[column]
        if pa.types.is_nested(values.type) or table.num_rows == 0:
            continue
        yield f"{column} IS NULL", pc.is_null(values)
        known = values.drop_null()
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
            known = values.drop_null()
        if len(known) == 0:
            continue
        value = known[len(known) // 2]
        text = _literal(value)
        if text is None:
            continue
        for sign, compare in (("=", pc.equal), (">", pc.greater), ("<=", pc.less_equal), ("<>", pc.not_equal)):
            yield f"{column} {sign} {text}", compare(values, value)


def _literal(value):
    kind = value.type
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return str(value.as_py())
    if pa.types.is_string(kind):
        return f"'{value.as_py()}'"
    if pa.types.is_decimal(kind):
        return f"arrow_cast('{value.as_py():f}', 'Decimal{256 if kind.precision > 38 else 128}({kind.precision}, {kind.scale})')"
    if pa.types.is_timestamp(kind) and kind.unit != "ns" and kind.tz is None:
        return f"arrow_cast({value.value}, 'Timestamp({'µs' if kind.unit == 'us' else kind.unit})')"
    if pa.types.is_date(kind):
        return f"DATE '{value.as_py()}'"
    if pa.types.is_floating(kind):
        return f"arrow_cast({value.as_py()!r}, 'Float{kind.bit_width}')"
    return None


def test_filters_find_the_rows_that_pyarrow_finds(url):
    with adbc_driver_flightsql.dbapi.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
        wrong = []
        for path in _files(sys.argv[2]):
            table = pq.read_table(path)
            # The pages are the same under every codec.
            if path.stem.startswith("codec_"):
                table = table.select(["id", "s"])
            for condition, found in _filters(table):
                wanted = table.filter(found)["id"].to_pylist()
                try:
                    got = _query(cursor, f"SELECT id FROM {path.stem} WHERE {condition} ORDER BY id")["id"].to_pylist()
                    if got != wanted:
                        wrong.append(f"{path.stem}: {condition:.80}: {len(got)} rows instead of {len(wanted)}")
                except Exception as error:
                    wrong.append(f"{path.stem}: {condition:.80}: {error!r:.300}")
        assert not wrong, "\n".join(wrong)


def _bounds(values):
    """The least and greatest value, or nothing where pyarrow has none or Python's values would lose digits."""
    kind = values.type
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind):
        return None
    bounds = pc.min_max(values)
    return [_plain(pa.chunked_array([pa.array([bounds[side].as_py()], kind)])) for side in ("min", "max")]


def test_bounds_are_those_of_the_values(url):
    with adbc_driver_flightsql.dbapi.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
        wrong = []
        for path in _files(sys.argv[2]):
            table = pq.read_table(path)
            for column in table.column_names:
                values = table[column]
                if pa.types.is_dictionary(values.type):
                    values = values.cast(values.type.value_type)
                if pa.types.is_nested(values.type) or pa.types.is_fixed_size_binary(values.type):
                    continue
                sql = f"SELECT min({column}) AS a, max({column}) AS b, count({column}) AS c FROM {path.stem}"
                try:
                    got = _query(cursor, sql)
                except Exception as error:
                    wrong.append(f"{sql}: {error!r:.300}")
                    continue
                if got["c"][0].as_py() != len(values) - values.null_count:
                    wrong.append(f"{sql}: count {got['c'][0]}")
                wanted = _bounds(values)
                if wanted and [_plain(got["a"]), _plain(got["b"])] != wanted:
                    wrong.append(f"{sql}: {got['a'][0]}, {got['b'][0]} instead of {wanted}"[:400])
        assert not wrong, "\n".join(wrong)


def test_encrypted_files_are_refused(url):
    with adbc_driver_flightsql.dbapi.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
        def read(table):
            return lambda: _query(cursor, f"SELECT s FROM {table}")

        suite.raises(Exception, read("encrypted"), "encrypted.parquet", "is encrypted")
        suite.raises(Exception, read("encrypted_columns"), "encrypted_columns.parquet")


if __name__ == "__main__":
    if sys.argv[1] == "--make":
        make(sys.argv[2])
    else:
        suite.main(globals())
