"""Rarer sources of rows: VALUES, lateral subqueries, recursion and the first rows of a total order."""

import conditions
import expressions
import known
import relations
from scope import PLAIN, Query, Source, Value


def literal_rows(make):
    """VALUES with two columns."""
    kinds = [make.pick(("int", "text", "double", "date", "bool")) for _ in range(2)]
    alias, count = make.name("l"), make.pick((1, 2, 5))
    # The first row has no NULL: it gives the columns their types.
    rows = [[_value(make, kind, row > 0) for kind in kinds] for row in range(count)]
    listed = ", ".join(f"({', '.join(row)})" for row in rows)
    columns = [Value(f"{alias}.v{place}", kind, 13, raw=True) for place, kind in enumerate(kinds)]
    return Source(f"(VALUES {listed}) AS {alias}(v0, v1)", columns, count)


def _value(make, kind, nulls):
    if nulls and make.odds(0.3):
        return "NULL"
    return expressions.literal(make, kind, nulls=False).sql


def lateral(make, left):
    """A table beside a lateral subquery that aggregates matching rows of another one."""
    right = relations.table(make)
    inner, alias = make.over(right.columns), make.name("y")
    kind = make.pick(("int", "text", "date"))
    found, key = inner.column(kind), inner.column("int")
    of = make.pick([column for column in left.columns if column.kind == "int" and column.bits <= 13])
    if not found:
        return left
    how = make.pick(("CROSS JOIN LATERAL {}", "LEFT JOIN LATERAL {} ON true"))
    where = f"{key.sql} = {of.sql} AND {conditions.condition(inner, 0)}"
    subquery = f"(SELECT {make.pick(('min', 'max'))}({found.sql}) AS m FROM {right.sql} WHERE {where}) AS {alias}"
    column = Value(f"{alias}.m", kind, found.bits, True, True)
    return Source(f"{left.sql} {how.format(subquery)}", [*left.columns, column], left.rows, left.identity)


def recursive(make):
    """WITH RECURSIVE: numbers, or a walk along the keys of a table, and the query of its rows."""
    name, most = make.name("r"), make.pick((1, 5, 40))
    union = make.pick(("UNION ALL", "UNION"))
    if make.odds(0.5):
        steps = f"SELECT level + 1, step * 2 FROM {name} WHERE level < {most}"
    else:
        table = relations.table(make)
        keys = [column for column in table.columns if column.sql.endswith(".k2") or column.sql.endswith(".k")]
        found = f"{name} JOIN {table.sql} ON {table.columns[0].sql} = step"
        steps = f"SELECT level + 1, CAST({keys[0].sql} AS BIGINT) FROM {found} WHERE level < 4"
    start = "SELECT CAST(1 AS BIGINT) AS level, CAST(1 AS BIGINT) AS step"
    columns = [Value(column, "int", 44) for column in ("level", "step")]
    query = Query(f"SELECT level, step FROM {name}", columns, most)
    return f"WITH RECURSIVE {name} AS ({start} {union} {steps})", query


def cut(make, query):
    """ORDER BY all columns and LIMIT, where all columns can be sorted."""
    if any(column.kind not in PLAIN for column in query.columns):
        return ""
    keys = [known.order(column.sql, make) for column in query.columns]
    return f" ORDER BY {', '.join(keys)} LIMIT {make.pick((1, 10, 100))}{make.pick(('', ' OFFSET 3'))}"
