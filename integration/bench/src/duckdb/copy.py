"""Copies Parquet tables into files that DuckDB writes, one for each table, with row groups of 65,536 rows.

Arguments: a JSON object that gives each table its Parquet files, and a folder that exists.
"""

import json
import sys

import duckdb

connection = duckdb.connect()
for table, files in json.loads(sys.argv[1]).items():
    quoted = files.replace("'", "''")
    connection.execute(
        f"COPY (SELECT * FROM read_parquet('{quoted}')) TO '{sys.argv[2]}/{table}.parquet' "
        "(FORMAT parquet, ROW_GROUP_SIZE 65536)"
    )
