"""Third-party producers of Substrait plans, over the tables of a running server."""

import glob
import os
import re

TABLES = "part supplier partsupp customer orders lineitem nation region".split()
FOLDER = os.path.dirname(os.path.abspath(__file__))
QUERIES = os.path.join(FOLDER, "..", "..", "queries")


def queries(scale=0.01):
    """The 22 TPC-H queries, by their numbers."""
    for number in range(1, 23):
        with open(os.path.join(QUERIES, f"q{number:02}.sql")) as file:
            sql = file.read().replace(":fraction", f"{0.0001 / scale:g}")
        yield number, sql.strip().rstrip(";")


def tables(cursor):
    """Name and rows of each TPC-H table, as the server gives them."""
    for name in TABLES:
        cursor.execute(f"SELECT * FROM {name}")
        yield name, cursor.fetch_arrow_table()


class DataFusion:
    """datafusion-python: the server's engine, with its own producer of Substrait plans."""

    def __init__(self, cursor):
        import datafusion

        self.context = datafusion.SessionContext()
        for name, rows in tables(cursor):
            self.context.register_record_batches(name, [rows.to_batches()])

    def plan(self, sql):
        from datafusion.substrait import Serde

        return bytes(Serde.serialize_bytes(sql, self.context))


class DuckDB:
    """DuckDB's extension, from the package of its last release for Python."""

    def __init__(self, cursor):
        import duckdb

        site = os.path.dirname(os.path.dirname(duckdb.__file__))
        pattern = os.path.join(site, "duckdb_extension_substrait", "**", "*.duckdb_extension")
        [extension] = glob.glob(pattern, recursive=True)
        self.connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
        self.connection.execute(f"LOAD '{extension}'")
        with open(os.path.join(FOLDER, "tpch.sql")) as file:
            self.connection.execute(file.read())
        # With rows, since the optimizer folds scans of empty tables away.
        for name, rows in tables(cursor):
            self.connection.register("rows_of_table", rows)
            self.connection.execute(f"INSERT INTO {name} SELECT * FROM rows_of_table")

    def plan(self, sql):
        sql = re.sub("^--.*$", "", sql, flags=re.MULTILINE)
        return self.connection.execute("CALL get_substrait(?)", [sql]).fetchone()[0]
