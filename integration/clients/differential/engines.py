"""Squadron and DuckDB behind one face: SQL in, an Arrow table or a `Refused` out."""

from pathlib import Path

import adbc_driver_flightsql.dbapi
import adbc_driver_manager
import duckdb

import known


class Refused(Exception):
    """The engine answered with an error."""


class Squadron:
    """A Squadron server."""

    def __init__(self, url):
        self._connection = adbc_driver_flightsql.dbapi.connect(url, autocommit=True)

    def run(self, sql):
        """The answer as an Arrow table."""
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetch_arrow_table()
        except adbc_driver_manager.Error as error:
            raise Refused(str(error)) from error


class DuckDB:
    """A DuckDB of this process that has read the tables."""

    def __init__(self, folder):
        self._connection = duckdb.connect()
        for setting in known.DUCKDB_SETTINGS:
            self._connection.sql(setting)
        for table in sorted(path for path in Path(folder).iterdir() if path.is_dir()):
            self._connection.sql(f"CREATE TABLE {table.name} AS FROM read_parquet('{table}/*.parquet')")

    def run(self, sql):
        """The answer as an Arrow table."""
        try:
            return self._connection.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            raise Refused(str(error)) from error
