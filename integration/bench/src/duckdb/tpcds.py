"""Writes the tables of TPC-DS as Parquet and its 99 queries as SQL, with DuckDB's extension.

Arguments: the scale, and a folder that exists.
"""

import pathlib
import sys

import duckdb
import duckdb_extension_tpcds

folder = pathlib.Path(sys.argv[2])
connection = duckdb.connect()
extension = next(pathlib.Path(duckdb_extension_tpcds.__file__).parent.rglob("*.duckdb_extension"))
connection.execute(f"LOAD '{extension}'")
connection.execute(f"CALL dsdgen(sf = {float(sys.argv[1])})")
for (table,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall():
    connection.execute(f"COPY {table} TO '{folder / table}.parquet' (FORMAT parquet, ROW_GROUP_SIZE 65536)")
(folder / "queries").mkdir()
for number, sql in connection.execute("SELECT query_nr, query FROM tpcds_queries()").fetchall():
    (folder / "queries" / f"q{number:02}.sql").write_text(sql)
