"""A Squadron client in Python, with the ADBC driver for Flight SQL.

    cargo run --release -- serve --tpch 0.1
    pip install adbc-driver-flightsql pyarrow
    python examples/python_client.py [grpc://HOST:PORT]
"""

import sys

import adbc_driver_flightsql.dbapi as flightsql

CUSTOMERS = """
    SELECT n_name, count(*) AS customers, sum(c_acctbal) AS balance
    FROM customer JOIN nation ON c_nationkey = n_nationkey
    GROUP BY n_name ORDER BY balance DESC LIMIT 3"""

NATIONS_OF_REGION = """
    SELECT n_name FROM nation JOIN region ON n_regionkey = r_regionkey
    WHERE r_name = ? AND n_name > ? ORDER BY n_name"""

ALL_PAIRS = "SELECT a.l_comment, b.l_comment FROM lineitem a CROSS JOIN lineitem b"

RECENT_QUERIES = """
    SELECT state, elapsed_ms, rows, statement
    FROM system.queries ORDER BY created_at DESC LIMIT 5"""


def query(cursor):
    """A result as an Arrow table. fetchone, fetchall and fetch_record_batch read it row by row or batch by batch."""
    cursor.execute(CUSTOMERS)
    table = cursor.fetch_arrow_table()
    print("columns:", ", ".join(f"{field.name} {field.type}" for field in table.schema))
    for row in table.to_pylist():
        print(row)


def prepared_statement(cursor):
    """The driver prepares a statement once and executes it again as long as the cursor gets the same text."""
    parameters = cursor.adbc_prepare(NATIONS_OF_REGION)
    print("parameters:", ", ".join(str(field.type) for field in parameters))
    for region in ("ASIA", "EUROPE"):
        cursor.execute(NATIONS_OF_REGION, (region, "G"))
        print(region, [name for (name,) in cursor.fetchall()])


def cancel(connection):
    """A cursor that is closed before its last row stops its query on all workers."""
    with connection.cursor() as cursor:
        cursor.execute(ALL_PAIRS)
        print("first of very many rows:", cursor.fetchone())


def queries(cursor):
    """What the server has done for this user."""
    cursor.execute(RECENT_QUERIES)
    for state, elapsed_ms, rows, statement in cursor.fetchall():
        print(f"{state:10} {elapsed_ms:8.1f} ms {rows:6} rows  {' '.join(statement.split())[:60]}")


def main():
    url = sys.argv[1] if len(sys.argv) > 1 else "grpc://127.0.0.1:50051"
    with flightsql.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
        query(cursor)
        prepared_statement(cursor)
        cancel(connection)
        queries(cursor)


if __name__ == "__main__":
    main()
