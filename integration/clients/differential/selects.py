"""SELECT with expressions, DISTINCT, scalar subqueries and windows."""

import conditions
import expressions
import known
import relations
from scope import PLAIN, Query, Value


def select(make, depth, query):
    """A SELECT of expressions over a source; `query(make, depth)` makes derived tables."""
    source = relations.source(make, depth, query)
    inner = make.over(source.columns)
    shown = [_shown(inner) for _ in range(make.pick((1, 2, 3, 4, 5)))]
    if make.odds(0.2):
        shown += [found for found in (_nested_column(inner),) if found]
    distinct = "DISTINCT " if make.odds(0.2) else ""
    return finish(f"SELECT {distinct}", inner, shown, f"{source.sql}{where(make, inner)}", source.rows)


def windows(make, depth, query):
    """A SELECT with window functions; frames of rows stand only over a total order."""
    source = relations.source(make, depth, query)
    inner = make.over(source.columns)
    shown = list(source.identity) or [_shown(inner)]
    shown += [_window(inner, source.identity) for _ in range(make.pick((1, 2, 3)))]
    qualify = f" QUALIFY {_window(inner, source.identity).sql} IS NOT NULL" if make.odds(0.1) else ""
    return finish("SELECT ", inner, shown, f"{source.sql}{where(make, inner)}{qualify}", source.rows)


def first_of_each(make, depth, query):
    """SELECT DISTINCT ON: one row of each group, the first in a total order."""
    source = relations.source(make, depth, query)
    inner = make.over(source.columns)
    if not source.identity:
        return select(make, depth, query)
    key = _key(inner)
    keys = [known.order(value.sql, make) for value in (key, _key(inner), *source.identity)]
    start = f"SELECT DISTINCT ON ({key.sql}) "
    rest = f"{source.sql}{where(make, inner)} ORDER BY {', '.join(keys)}"
    found = finish(start, inner, [key, *source.identity, _key(inner)], rest, source.rows)
    return Query(f"SELECT * FROM ({found.sql}) AS {make.name('o')}", found.columns, found.rows)


def finish(start, make, values, rest, rows):
    """The query that gives these values under new names."""
    columns = [value.named(make.name("c")) for value in values]
    listed = ", ".join(f"{value.sql} AS {column.sql}" for value, column in zip(values, columns))
    return Query(f"{start}{listed} FROM {rest}", columns, rows)


def where(make, inner):
    """A WHERE clause, most of the time."""
    if make.odds(0.25):
        return ""
    return f" WHERE {conditions.condition(inner, make.pick((0, 1, 2, 3)), subqueries=True)}"


def _shown(make):
    kind = make.pick(make.kinds())
    if make.odds(0.06) and kind in ("int", "text", "date", "dec"):
        sql = conditions.scalar(make, kind)
        if sql:
            return Value(sql, kind, 65, wild=True, raw=True)
    return expressions.value(make, kind, make.pick((0, 1, 1, 2, 3)))


def _nested_column(make):
    return make.column(make.pick(("list", "struct")))


def _window(make, identity):
    partition = f"PARTITION BY {_key(make).sql} " if make.odds(0.6) else ""
    if identity and make.odds(0.65):
        return _over_total_order(make, partition, identity)
    key = _key(make)
    order = known.order(key.sql, make)
    if key.kind == "int" and key.bits <= 32 and make.odds(0.5):
        call, kind, bits = _framed(make)
        order = known.order(known.bigint(key) if key.wild else key.sql, make)
        return Value(f"{call} OVER ({partition}ORDER BY {order} {_range_frame(make)})", kind, bits, True, True, 38)
    if make.odds(0.5):
        call, kind, bits = _framed(make)
        ordered = f"ORDER BY {order}" if make.odds(0.6) else ""
        return Value(f"{call} OVER ({partition}{ordered})", kind, bits, True, True, 38)
    function = make.pick(("rank", "dense_rank", "percent_rank", "cume_dist"))
    kind = "int" if "rank" in function and function != "percent_rank" else "double"
    return Value(f"{function}() OVER ({partition}ORDER BY {order})", kind, 15, kind == "double", True)


def _key(make):
    """A key by which a window is ordered: a column of any plain kind."""
    return make.pick([column for column in make.columns if column.kind in PLAIN] or [expressions.literal(make, "int")])


def _over_total_order(make, partition, identity):
    keys = [known.order(value.sql, make) for value in (_key(make), *identity)]
    order = f"{partition}ORDER BY {', '.join(keys)}"
    form = make.weighted((2, "number"), (3, "neighbour"), (2, "edge"), (4, "frame"))
    if form == "number":
        function = make.pick(("row_number()", "rank()", "dense_rank()", f"ntile({make.pick((1, 3, 10))})"))
        return Value(f"{function} OVER ({order})", "int", 15, raw=True)
    if form == "frame":
        call, kind, bits = _framed(make)
        filtered = f" FILTER (WHERE {conditions.condition(make, 0)})" if make.odds(0.1) else ""
        return Value(f"{call}{filtered} OVER ({order} {_rows_frame(make)})", kind, bits, True, True, 38)
    column = _key(make)
    if form == "neighbour":
        offset = make.pick(("", ", 1", ", 2", ", 0"))
        sql = f"{make.pick(('lag', 'lead'))}({column.sql}{offset}) OVER ({order})"
    else:
        function = make.pick((f"first_value({column.sql})", f"last_value({column.sql})", f"nth_value({column.sql}, 2)"))
        sql = f"{function} OVER ({order}{make.pick(('', f' {_rows_frame(make)}'))})"
    return Value(sql, column.kind, column.bits, column.wild, True, column.digits, column.scale)


def _framed(make):
    """An aggregate for a frame: its call, its kind and its bits."""
    column = _key(make)
    if column.kind in ("int", "double") and column.bits <= 35 and not column.wild and make.odds(0.6):
        function = make.pick(("sum", "avg"))
        return f"{function}({column.sql})", "double" if function == "avg" else column.kind, column.bits + 15
    if make.odds(0.4) or column.kind == "bool":
        return f"count({make.pick(('*', column.sql))})", "int", 15
    return f"{make.pick(('min', 'max'))}({column.sql})", column.kind, column.bits


_STARTS = ("UNBOUNDED PRECEDING", "2 PRECEDING", "CURRENT ROW", "1 FOLLOWING")
_ENDS = ("UNBOUNDED FOLLOWING", "3 FOLLOWING", "CURRENT ROW", "1 PRECEDING")


def _rows_frame(make):
    while True:
        start, end = make.pick(_STARTS), make.pick(_ENDS)
        if not (end == "1 PRECEDING" and start in ("CURRENT ROW", "1 FOLLOWING")) and (start, end) != (
            "1 FOLLOWING", "CURRENT ROW",
        ):
            return f"{make.pick(('ROWS', 'ROWS', 'GROUPS'))} BETWEEN {start} AND {end}"


def _range_frame(make):
    start = make.pick(("UNBOUNDED PRECEDING", "2 PRECEDING", "10 PRECEDING", "CURRENT ROW"))
    end = make.pick(("UNBOUNDED FOLLOWING", "3 FOLLOWING", "100 FOLLOWING", "CURRENT ROW"))
    return f"RANGE BETWEEN {start} AND {end}"
