"""pyarrow.flight with the messages of Flight SQL encoded field by field (FlightSql.proto)."""

import pyarrow
from pyarrow import flight

import suite


def varint(number):
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number, value):
    """A length-delimited field of a protobuf message."""
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def fields(message):
    """The length-delimited fields of a message, by number."""
    found, at = {}, 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = number()
        if key & 7 == 2:
            length = number()
            found[key >> 3] = message[at : at + length]
            at += length
        else:
            number()
    return found


def wrapped(name, *message):
    return field(1, f"type.googleapis.com/arrow.flight.protocol.sql.{name}") + field(2, b"".join(message))


def descriptor(name, *message):
    return flight.FlightDescriptor.for_command(wrapped(name, *message))


def statement(sql):
    return descriptor("CommandStatementQuery", field(1, sql))


def connect(url):
    return flight.connect(url.replace("grpc://", "grpc+tcp://"))


def rows(client, info):
    (endpoint,) = info.endpoints
    table = client.do_get(endpoint.ticket).read_all()
    assert table.schema.equals(info.schema, check_metadata=True), "DoGet has another schema than its FlightInfo"
    return table


def test_statement(url):
    with connect(url) as client:
        info = client.get_flight_info(statement("SELECT r_regionkey, r_name FROM region ORDER BY r_regionkey"))
        assert info.total_records == -1
        assert len(info.app_metadata) == 36, "the query id"
        table = rows(client, info)
        assert table.column("r_name").to_pylist() == ["AFRICA", "AMERICA", "ASIA", "EUROPE", "MIDDLE EAST"]


def test_statement_of_two_megabytes(url):
    with connect(url) as client:
        info = client.get_flight_info(statement(f"SELECT length('{'x' * 2_000_000}') AS n"))
        assert rows(client, info).column("n").to_pylist() == [2_000_000]


def test_stream_in_chunks(url):
    with connect(url) as client:
        info = client.get_flight_info(statement("SELECT * FROM orders"))
        reader = client.do_get(info.endpoints[0].ticket)
        assert sum(chunk.data.num_rows for chunk in reader) == 15_000


def test_schema_is_the_same_everywhere(url):
    sql = "SELECT count(*) AS n, min(o_orderdate) AS first, max(o_comment) AS last FROM orders"
    with connect(url) as client:
        asked = client.get_schema(statement(sql)).schema
        info = client.get_flight_info(statement(sql))
        assert asked.equals(info.schema, check_metadata=True)
        rows(client, info)


def test_result_is_read_once(url):
    with connect(url) as client:
        info = client.get_flight_info(statement("SELECT 1 AS one"))
        rows(client, info)
        suite.raises(pyarrow.lib.ArrowKeyError, lambda: rows(client, info))


def test_prepared_statement(url):
    with connect(url) as client:
        action = flight.Action(
            "CreatePreparedStatement",
            wrapped("ActionCreatePreparedStatementRequest", field(1, "SELECT $1 + 1 AS next")),
        )
        (result,) = client.do_action(action)
        created = fields(fields(result.body.to_pybytes())[2])
        handle = created[1]
        assert pyarrow.ipc.read_schema(pyarrow.py_buffer(created[2])).names == ["next"]
        parameters = pyarrow.ipc.read_schema(pyarrow.py_buffer(created[3]))
        assert len(parameters) == 1

        query = descriptor("CommandPreparedStatementQuery", field(1, handle))
        for value in (1, 41):
            batch = pyarrow.record_batch([pyarrow.array([value], parameters.field(0).type)], schema=parameters)
            writer, metadata = client.do_put(query, parameters)
            writer.write_batch(batch)
            writer.done_writing()
            answer = fields(metadata.read().to_pybytes())
            assert answer.get(1), "a bind answers a handle"
            writer.close()
            info = client.get_flight_info(descriptor("CommandPreparedStatementQuery", field(1, answer[1])))
            assert rows(client, info).column("next").to_pylist() == [value + 1]
        request = wrapped("ActionClosePreparedStatementRequest", field(1, handle))
        assert list(client.do_action(flight.Action("ClosePreparedStatement", request))) == []
        suite.raises(pyarrow.lib.ArrowKeyError, lambda: client.get_flight_info(query))


def test_update(url):
    with connect(url) as client:
        for sql in ("CREATE VIEW by_hand AS SELECT 1 AS one", "DROP VIEW by_hand"):
            command = descriptor("CommandStatementUpdate", field(1, sql))
            writer, metadata = client.do_put(command, pyarrow.schema([]))
            writer.done_writing()
            assert metadata.read() is not None, "an update answers a count"
            writer.close()


def test_metadata(url):
    with connect(url) as client:
        catalogs = rows(client, client.get_flight_info(descriptor("CommandGetCatalogs")))
        assert catalogs.schema.names == ["catalog_name"] and catalogs.num_rows >= 1
        schemas = rows(client, client.get_flight_info(descriptor("CommandGetDbSchemas")))
        assert "public" in schemas.column("db_schema_name").to_pylist()
        kinds = rows(client, client.get_flight_info(descriptor("CommandGetTableTypes")))
        assert kinds.schema.names == ["table_type"]
        pattern = field(3, "n%")
        tables = rows(client, client.get_flight_info(descriptor("CommandGetTables", pattern)))
        assert tables.column("table_name").to_pylist() == ["nation"]
        with_schema = rows(client, client.get_flight_info(descriptor("CommandGetTables", pattern, b"\x28\x01")))
        schema = pyarrow.ipc.read_schema(pyarrow.py_buffer(with_schema.column("table_schema")[0].as_py()))
        assert schema.names == ["n_nationkey", "n_name", "n_regionkey", "n_comment"]
        for column in schema:
            assert b"ARROW:FLIGHT:SQL:TYPE_NAME" in column.metadata, column
        info = rows(client, client.get_flight_info(descriptor("CommandGetSqlInfo")))
        served = set(info.column("info_name").to_pylist())
        wanted = set(range(12)) | {100, 101} | set(range(500, 577))
        assert wanted <= served, f"missing: {sorted(wanted - served)}"


def test_handshake_and_headers(url):
    with connect(url) as client:
        header, value = client.authenticate_basic_token("someone", "secret")
        assert header == b"authorization" and value.startswith(b"Bearer ")
        long = [(f"x-header-{number}".encode(), b"x" * 100) for number in range(60)]
        options = flight.FlightCallOptions(headers=[(header, value), *long])
        info = client.get_flight_info(statement("SELECT 1 AS one"), options)
        assert client.do_get(info.endpoints[0].ticket, options).read_all().num_rows == 1


def test_actions_are_listed(url):
    with connect(url) as client:
        names = {action.type for action in client.list_actions()}
        assert {"CreatePreparedStatement", "ClosePreparedStatement"} <= names, names


def test_errors(url):
    with connect(url) as client:
        wrong, missing = statement("SELEC 1"), statement("SELECT * FROM regoin")
        suite.raises(pyarrow.lib.ArrowInvalid, lambda: client.get_flight_info(wrong), "Line: 1", "Column: 1")
        suite.raises(pyarrow.lib.ArrowKeyError, lambda: client.get_flight_info(missing), "region")
        suite.raises(
            pyarrow.lib.ArrowKeyError,
            lambda: client.get_flight_info(flight.FlightDescriptor.for_path("no", "such")),
        )


def test_reader_is_there_while_the_query_computes(url):
    sql = "SELECT count(*) AS n FROM orders a, orders b, orders c WHERE a.o_comment || b.o_comment < c.o_comment"
    with connect(url) as client:
        info = client.get_flight_info(statement(sql))
        reader = client.do_get(info.endpoints[0].ticket, flight.FlightCallOptions(timeout=120))
        assert reader.schema.equals(info.schema, check_metadata=True)
        reader.cancel()
        suite.raises(pyarrow.lib.ArrowException, reader.read_chunk)
        states = statement(f"SELECT state FROM system.queries WHERE query_id = '{info.app_metadata.decode()}'")
        while rows(client, client.get_flight_info(states)).column("state").to_pylist() != ["cancelled"]:
            pass


def test_disconnected_client_leaves_server_usable(url):
    sql = "SELECT a.o_comment, b.o_comment FROM orders a CROSS JOIN orders b"
    for _ in range(3):
        with connect(url) as client:
            info = client.get_flight_info(statement(sql))
            reader = client.do_get(info.endpoints[0].ticket)
            assert reader.read_chunk().data.num_rows > 0
            reader.cancel()
    with connect(url) as client:
        assert rows(client, client.get_flight_info(statement("SELECT 1 AS one"))).num_rows == 1


if __name__ == "__main__":
    suite.main(dict(globals()))
