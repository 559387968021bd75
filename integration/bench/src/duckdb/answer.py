"""Answers SQL with DuckDB: reads one JSON object a line, {"sql": ...}, and writes one, {"rows": ...} or {"error": ...}.

Arguments: the number of threads, and a JSON object that gives each table its Parquet files.
Ends when standard input does.
"""

import json
import os
import sys

import duckdb
import pyarrow  # noqa: F401  Results are taken as Arrow, as clients of Squadron take them.

# What DuckDB itself prints, such as the progress of long queries, goes to standard error.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

connection = duckdb.connect()
connection.execute("SET enable_progress_bar = false")
connection.execute(f"SET threads = {int(sys.argv[1])}")
for table, files in json.loads(sys.argv[2]).items():
    quoted = files.replace("'", "''")
    connection.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{quoted}')")
print(json.dumps({"version": duckdb.__version__}), file=answers, flush=True)
for line in sys.stdin:
    try:
        answer = {"rows": connection.sql(json.loads(line)["sql"]).to_arrow_table().num_rows}
    except Exception as error:  # Any failure is an answer: the harness reports it and goes on.
        answer = {"error": str(error)}
    print(json.dumps(answer), file=answers, flush=True)
