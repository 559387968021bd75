"""Plans of several producers, sent by the ADBC driver.

The arguments are the server's address and, where there is one, a folder of plans that Isthmus made.
"""

import glob
import os
import sys

import adbc_driver_flightsql
import adbc_driver_flightsql.dbapi
import adbc_driver_manager
import pyarrow

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "python"))

import producers
import suite
from rows import assert_same

# Queries for which a producer makes no plan, with a word of its error.
CANNOT = {
    "DataFusion": {},
    "DuckDB": {
        2: "DELIM_JOIN",
        4: "DELIM_JOIN",
        16: "join type MARK",
        17: "DELIM_JOIN",
        20: "DELIM_JOIN",
        21: "DELIM_JOIN",
        22: "DELIM_JOIN",
    },
}

# Plans that differ from their query, with the words that the producer exchanges.
SAYS = {"DuckDB": {13: ("not like", "<>")}}


def connect(url):
    return adbc_driver_flightsql.dbapi.connect(url, autocommit=True)


def rows_of(cursor, statement):
    cursor.execute(statement)
    return cursor.fetchall()


def check_tpch(url, producer):
    """Each query becomes a plan that gives the rows of its SQL, or the producer itself refuses it."""
    cannot = CANNOT[producer.__name__]
    says = SAYS.get(producer.__name__, {})
    with connect(url) as connection, connection.cursor() as cursor:
        producer = producer(cursor)
        wrong = []
        for number, sql in producers.queries():
            try:
                plan = producer.plan(sql)
            except Exception as error:
                assert number in cannot and cannot[number] in str(error), f"query {number}: {error}"
                continue
            assert number not in cannot, f"query {number} is a plan now"
            if number in says:
                assert says[number][0] in sql, f"query {number} has no {says[number][0]}"
                sql = sql.replace(*says[number])
            try:
                assert_same(rows_of(cursor, plan), rows_of(cursor, sql))
            except Exception as error:
                wrong.append(f"query {number}: {error}")
        assert not wrong, "\n".join(wrong)


def test_datafusion_python(url):
    check_tpch(url, producers.DataFusion)


def test_duckdb(url):
    check_tpch(url, producers.DuckDB)


def test_isthmus(url):
    folder = sys.argv[2]
    with connect(url) as connection, connection.cursor() as cursor:
        wrong = []
        for number, sql in producers.queries():
            with open(os.path.join(folder, f"q{number:02}.plan"), "rb") as file:
                plan = file.read()
            try:
                assert_same(rows_of(cursor, plan), rows_of(cursor, sql))
            except Exception as error:
                wrong.append(f"query {number}: {error}")
        assert not wrong, "\n".join(wrong)
        assert len(glob.glob(os.path.join(folder, "*.plan"))) == 22


ARITHMETIC = "extension:io.substrait:functions_arithmetic"
DECIMALS = "extension:io.substrait:functions_arithmetic_decimal"
COMPARISON = "extension:io.substrait:functions_comparison"
BOOLEAN = "extension:io.substrait:functions_boolean"
DATES = "extension:io.substrait:functions_datetime"
COUNTS = "extension:io.substrait:functions_aggregate_generic"


class Builder:
    """The package `substrait`: plans without SQL."""

    def __init__(self):
        from substrait.builders import extended_expression, plan, type
        from substrait.extension_registry import ExtensionRegistry

        self.expressions, self.plans, self.types = extended_expression, plan, type
        self.registry = ExtensionRegistry(load_default_extensions=True)

    def table(self, name, columns):
        names = [column for column, _ in columns]
        struct = self.types.struct([of for _, of in columns], nullable=False)
        return self.plans.read_named_table(name, self.types.named_struct(names, struct))

    def call(self, urn, name, *arguments, alias=None):
        return self.expressions.scalar_function(urn, name, expressions=list(arguments), alias=alias)

    def measure(self, urn, name, *arguments, alias=None):
        return self.expressions.aggregate_function(urn, name, expressions=list(arguments), alias=alias)

    def bytes(self, plan):
        return plan(self.registry).SerializeToString()


def builder_query_6(builder):
    """Query 6 by hand."""
    column, literal = builder.expressions.column, builder.expressions.literal
    money, date = builder.types.decimal(2, 15, nullable=False), builder.types.date(nullable=False)
    lineitem = builder.table(
        "lineitem",
        [("l_quantity", money), ("l_extendedprice", money), ("l_discount", money), ("l_shipdate", date)],
    )
    wanted = [
        builder.call(DATES, "gte", column("l_shipdate"), literal(8766, date)),
        builder.call(DATES, "lt", column("l_shipdate"), literal(9131, date)),
        builder.call(COMPARISON, "gte", column("l_discount"), literal("0.05", money)),
        builder.call(COMPARISON, "lte", column("l_discount"), literal("0.07", money)),
        builder.call(COMPARISON, "lt", column("l_quantity"), literal("24.00", money)),
    ]
    rows = lineitem
    for condition in wanted:
        rows = builder.plans.filter(rows, condition)
    product = builder.call(DECIMALS, "multiply", column("l_extendedprice"), column("l_discount"), alias="product")
    rows = builder.plans.select(rows, [product])
    total = builder.measure(DECIMALS, "sum", column("product"), alias="revenue")
    return builder.bytes(builder.plans.aggregate(rows, [], [total]))


def test_builder_query_6(url):
    builder = Builder()
    sql = dict(producers.queries())[6]
    with connect(url) as connection, connection.cursor() as cursor:
        assert_same(rows_of(cursor, builder_query_6(builder)), rows_of(cursor, sql))
        assert [column[0] for column in cursor.description] == ["revenue"]


def test_builder_join_sort_and_limit(url):
    builder = Builder()
    column, literal = builder.expressions.column, builder.expressions.literal
    whole, text = builder.types.i64(nullable=False), builder.types.string(nullable=False)
    nation = builder.table("nation", [("n_nationkey", whole), ("n_name", text), ("n_regionkey", whole)])
    region = builder.table("region", [("r_regionkey", whole), ("r_name", text)])
    joined = builder.plans.join(
        nation,
        region,
        builder.call(COMPARISON, "equal", column("n_regionkey"), column("r_regionkey")),
        builder_join_type("JOIN_TYPE_INNER"),
    )
    count = builder.measure(COUNTS, "count", column("n_name"), alias="n")
    counted = builder.plans.aggregate(joined, [column("r_name")], [count])
    sorted_ = builder.plans.sort(counted, [column("r_name")])
    plan = builder.bytes(builder.plans.fetch(sorted_, literal(1, whole), literal(2, whole)))
    sql = (
        "SELECT r_name, count(n_name) AS n FROM nation JOIN region ON n_regionkey = r_regionkey "
        "GROUP BY r_name ORDER BY r_name LIMIT 2 OFFSET 1"
    )
    with connect(url) as connection, connection.cursor() as cursor:
        assert rows_of(cursor, plan) == rows_of(cursor, sql)


def builder_join_type(name):
    import substrait.algebra_pb2 as algebra

    return getattr(algebra.JoinRel, name)


def parameterized(builder):
    """nation with a key that is a parameter."""
    whole, text = builder.types.i64(nullable=False), builder.types.string(nullable=False)
    nation = builder.table("nation", [("n_nationkey", whole), ("n_name", text)])
    key = builder.expressions.dynamic_parameter(0, builder.types.i64(), alias="key")
    wanted = builder.call(COMPARISON, "equal", builder.expressions.column("n_nationkey"), key)
    return builder.bytes(builder.plans.filter(nation, wanted))


def test_parameters(url):
    plan = parameterized(Builder())
    with connect(url) as connection, connection.cursor() as cursor:
        schema = cursor.adbc_prepare(plan)
        assert schema.types == [pyarrow.int64()], schema
        for key, name in [(0, "ALGERIA"), (24, "UNITED STATES")]:
            cursor.execute(plan, (key,))
            assert cursor.fetchall() == [(key, name)]


def test_low_level(url):
    """A plan without preparing it: GetFlightInfo, GetSchema and DoPut."""
    plan = builder_query_6(Builder())
    with adbc_driver_flightsql.connect(url) as database:
        with adbc_driver_manager.AdbcConnection(database) as connection:
            with adbc_driver_manager.AdbcStatement(connection) as statement:
                statement.set_substrait_plan(plan)
                schema = statement.execute_schema()
                told = pyarrow.Schema._import_from_c(schema.address)
                stream, _ = statement.execute_query()
                reader = pyarrow.RecordBatchReader._import_from_c(stream.address)
                assert reader.schema.equals(told, check_metadata=True), f"{reader.schema}\n{told}"
                assert reader.read_all().num_rows == 1
                assert statement.execute_update() == -1


def test_info(url):
    # ADBC_INFO_VENDOR_SUBSTRAIT, its oldest and its newest version
    with adbc_driver_flightsql.connect(url) as database:
        with adbc_driver_manager.AdbcConnection(database) as connection:
            stream = connection.get_info([4, 5, 6])
            rows = pyarrow.RecordBatchReader._import_from_c(stream.address).read_all().to_pylist()
    info = {row["info_name"]: row["info_value"] for row in rows}
    assert info[4] is True, info
    oldest, newest = [[int(part) for part in info[code].split(".")] for code in (5, 6)]
    assert oldest <= [0, 53, 0] <= newest, info


def test_errors_name_the_mistake(url):
    builder = Builder()
    whole = builder.types.i64(nullable=False)
    table = builder.table("natoin", [("n_nationkey", whole)])
    missing = builder.table("nation", [("n_key", whole)])
    refused = adbc_driver_manager.Error
    with connect(url) as connection, connection.cursor() as cursor:
        suite.raises(refused, lambda: cursor.execute(builder.bytes(table)), "natoin", "nation")
        suite.raises(refused, lambda: cursor.execute(builder.bytes(missing)), "n_key", "nation")
        suite.raises(refused, lambda: cursor.execute(b'{"relations": []}'), "JSON")
        suite.raises(refused, lambda: cursor.execute(b"\xff\xff"), "not a Substrait plan")
        assert rows_of(cursor, "SELECT 1") == [(1,)]


if __name__ == "__main__":
    tests = dict(globals())
    if len(sys.argv) < 3:
        del tests["test_isthmus"]
    suite.main(tests)
