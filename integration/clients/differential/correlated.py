"""Correlated subqueries of any shape, in any place: what a planner has to turn into joins."""

import conditions
import known
import relations
from scope import Query, Value

_KINDS = ("int", "text", "date")


def correlated(make):
    """A query over one table, or a join of two, whose subqueries name columns of it."""
    source = _source(make)
    outer = make.over(source.columns)
    place = make.weighted((3, "select"), (4, "where"), (3, "lateral"), (1, "on"), (1, "having"), (1, "order"))
    drawn = [outer.column(kind) for kind in _KINDS if make.odds(0.5)]
    shown = [*source.identity, *[column for column in drawn if column]]
    if place == "select":
        values = [_asked(outer) for _ in range(make.pick((1, 1, 2)))]
        return _finished(make, [*shown, *values], source.sql)
    if place == "where":
        sign = make.pick((" AND ", " AND ", " OR "))
        tests = sign.join(_asked(outer).sql for _ in range(make.pick((1, 1, 2))))
        return _finished(make, shown, f"{source.sql} WHERE {make.pick(('', '', 'NOT '))}({tests})")
    if place == "lateral":
        alias = make.name("y")
        rows = _rows(outer)
        columns = [column.named(f"{alias}.{column.sql}") for column in rows.columns]
        how = make.pick(("CROSS JOIN LATERAL {}", "LEFT JOIN LATERAL {} ON true"))
        joined = how.format(f"({rows.sql}) AS {alias}")
        return _finished(make, [*source.identity, *columns], f"{source.sql} {joined}")
    if place == "on":
        other = relations.table(make)
        asked = _asked(make.over(other.columns)).sql
        key, its = make.over(source.columns).column("int"), make.over(other.columns).column("int")
        how = make.pick(("JOIN", "LEFT JOIN"))
        joined = f"{source.sql} {how} {other.sql} ON {key.sql} = {its.sql} AND {asked}"
        return _finished(make, [*source.identity, *other.identity], joined)
    key = outer.column("int")
    if place == "having":
        grouped = make.over([key])
        rest = f"{source.sql} GROUP BY {key.sql} HAVING {_asked(grouped).sql}"
        return _finished(make, [key, Value("count(*)", "int", 15)], rest)
    alias = make.name("o")
    keys = [f"{_scalar(outer).sql} NULLS LAST", *[f"{column.sql} NULLS LAST" for column in source.identity]]
    inner = _finished(make, source.identity, f"{source.sql} ORDER BY {', '.join(keys)} LIMIT {make.pick((1, 5, 20))}")
    return Query(f"SELECT * FROM ({inner.sql}) AS {alias}", inner.columns, inner.rows)


def _source(make):
    """Few rows: subqueries are computed for each of them by some engines."""
    first = _small(make)
    if make.odds(0.7):
        return first
    second = _small(make)
    columns = [*first.columns, *second.columns]
    keys = make.over(first.columns).column("int"), make.over(second.columns).column("int")
    first.sql = f"{first.sql} {make.pick(('JOIN', 'LEFT JOIN'))} {second.sql} ON {keys[0].sql} = {keys[1].sql}"
    return type(first)(first.sql, columns, first.rows, [*first.identity, *second.identity])


def _small(make):
    while True:
        source = relations.table(make)
        if source.rows <= 300:
            return source


def _finished(make, values, rest):
    columns = [value.named(make.name("c")) for value in values]
    listed = ", ".join(f"{value.sql} AS {column.sql}" for value, column in zip(values, columns))
    return Query(f"SELECT {listed or '1 AS one'} FROM {rest}", columns, 100)


def _asked(make):
    """A condition with a subquery, as a value."""
    form = make.weighted((3, "exists"), (3, "in"), (3, "scalar"), (2, "quantified"), (1, "null"))
    rows = _rows(make)
    column = rows.columns[0]
    tested = make.column(column.kind)
    if form == "exists" or not tested:
        return Value(f"{make.pick(('', 'NOT '))}EXISTS ({rows.sql})", "bool")
    if form == "in":
        return Value(f"({tested.sql} {make.pick(('', 'NOT '))}IN (SELECT {column.sql} FROM ({rows.sql}) AS {make.name('q')}))", "bool")
    sign = make.pick(conditions.COMPARISONS)
    if form == "quantified":
        quantifier = make.pick(("ANY", "ALL"))
        return Value(f"({tested.sql} {sign} {quantifier} (SELECT {column.sql} FROM ({rows.sql}) AS {make.name('q')}))", "bool")
    value = _scalar(make)
    if form == "null" or value.kind != column.kind:
        return Value(f"({value.sql} IS {make.pick(('', 'NOT '))}NULL)", "bool")
    return Value(f"({tested.sql} {sign} {value.sql})", "bool")


def _scalar(make):
    """A scalar subquery."""
    rows = _rows(make)
    column = rows.columns[0]
    name = make.name("q")
    form = make.weighted((3, "aggregate"), (2, "count"), (1, "having"), (1, "outer"))
    if form == "count":
        return Value(f"(SELECT count(*) FROM ({rows.sql}) AS {name})", "int", 15)
    call = f"{make.pick(('min', 'max'))}({column.sql})"
    if form == "having":
        having = make.pick(("count(*) > 0", "count(*) = 0", "count(*) > 2"))
        return Value(f"(SELECT {call} FROM ({rows.sql}) AS {name} HAVING {having})", column.kind)
    own = make.column(column.kind)
    if form == "outer" and own:
        return Value(f"(SELECT coalesce({call}, {own.sql}) FROM ({rows.sql}) AS {name})", column.kind)
    return Value(f"(SELECT {call} FROM ({rows.sql}) AS {name})", column.kind)


def _rows(make, depth=1):
    """Rows of one or two plain columns that depend on the columns of `make`."""
    shape = make.weighted(
        (4, "plain"), (2, "first"), (2, "distinct"), (2, "groups"), (2, "set"), (2, "window"), (2, "join"),
        (2 if depth else 0, "nested"), (1, "values"),
    )
    return _SHAPES[shape](make, depth)


def _plain(make, _depth):
    source, inner = _inner(make)
    return _of(make, [_column(inner)], f"{source.sql}{_where(make, inner)}")


def _first(make, _depth):
    source, inner = _inner(make)
    keys = [known.order(column.sql, make) for column in (_column(inner), *source.identity)]
    skip = make.pick(("", "", " OFFSET 1"))
    rows = _of(make, [_column(inner)], f"{source.sql}{_where(make, inner)}")
    return Query(f"{rows.sql} ORDER BY {', '.join(keys)} LIMIT {make.pick((1, 1, 3))}{skip}", rows.columns, 3)


def _distinct(make, _depth):
    source, inner = _inner(make)
    rows = _of(make, [_column(inner)], f"{source.sql}{_where(make, inner)}")
    return Query(rows.sql.replace("SELECT", "SELECT DISTINCT", 1), rows.columns, rows.rows)


def _groups(make, _depth):
    source, inner = _inner(make)
    key, value = _column(inner), _column(inner)
    having = make.pick(("", "", " HAVING count(*) > 1"))
    call = Value(f"{make.pick(('min', 'max'))}({value.sql})", value.kind)
    return _of(make, [call], f"{source.sql}{_where(make, inner)} GROUP BY {key.sql}{having}")


def _set(make, depth):
    kind = make.pick(_KINDS)
    parts = []
    for _ in range(2):
        source, inner = _inner(make)
        column = inner.column(kind) or Value("NULL", kind)
        parts.append(f"SELECT {column.sql} AS v FROM {source.sql}{_where(make, inner)}")
    operator = make.pick(("UNION", "UNION ALL", "INTERSECT", "EXCEPT"))
    name = make.name("u")
    return _of(make, [Value(f"{name}.v", kind)], f"({parts[0]} {operator} {parts[1]}) AS {name}")


def _window(make, _depth):
    source, inner = _inner(make)
    column, key, name = _column(inner), _column(inner), make.name("w")
    order = ", ".join(known.order(value.sql, make) for value in source.identity)
    partition = f"PARTITION BY {key.sql} " if make.odds(0.5) else ""
    numbered = f"SELECT {column.sql} AS v, row_number() OVER ({partition}ORDER BY {order}) AS n"
    rest = f"({numbered} FROM {source.sql}{_where(make, inner)}) AS {name} WHERE {name}.n <= {make.pick((1, 2, 5))}"
    return _of(make, [Value(f"{name}.v", column.kind)], rest)


def _join(make, _depth):
    left, first = _inner(make)
    right, second = _inner(make)
    keys = first.column("int"), second.column("int")
    how = make.pick(("JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"))
    extra = f" AND {_tie(make, second)}" if how == "LEFT JOIN" and make.odds(0.5) else ""
    shown = make.pick((_column(first), _column(second)))
    joined = f"{left.sql} {how} {right.sql} ON {keys[0].sql} = {keys[1].sql}{extra}"
    where = _where(make, make.pick((first, second)))
    return _of(make, [shown], f"{joined}{where}")


def _nested(make, depth):
    source, inner = _inner(make)
    both = make.over([*inner.columns, *make.columns])
    where = f"{_where(make, inner)} AND {make.pick(('', 'NOT '))}EXISTS ({_rows(both, depth - 1).sql})"
    return _of(make, [_column(inner)], f"{source.sql}{where}")


def _values(make, _depth):
    columns = [column for column in make.columns if column.kind in _KINDS]
    if not columns:
        return _plain(make, 0)
    column, name = make.pick(columns), make.name("l")
    return _of(make, [Value(f"{name}.v", column.kind)], f"(VALUES ({column.sql}), ({column.sql}), (NULL)) AS {name}(v)")


_SHAPES = {
    "plain": _plain, "first": _first, "distinct": _distinct, "groups": _groups, "set": _set, "window": _window,
    "join": _join, "nested": _nested, "values": _values,
}


def _inner(make):
    source = _small(make)
    return source, make.over(source.columns)


def _column(inner):
    return inner.column(inner.pick([kind for kind in _KINDS if inner.column(kind)]))


def _of(make, values, rest):
    columns = [value.named(make.name("v")) for value in values]
    listed = ", ".join(f"{value.sql} AS {column.sql}" for value, column in zip(values, columns))
    return Query(f"SELECT {listed} FROM {rest}", columns, 100)


def _where(make, inner):
    """WHERE that compares columns of the subquery with those around it, and sometimes more."""
    parts = [_tie(make, inner) for _ in range(make.pick((1, 1, 2)))]
    if make.odds(0.3):
        parts.append(conditions.condition(inner, 0))
    return f" WHERE {' AND '.join(parts)}"


def _tie(make, inner):
    """A condition between the rows of a subquery and the rows around it."""
    kinds = [kind for kind in conditions.kinds_shared(make, inner) if kind in _KINDS]
    if not kinds:
        return conditions.condition(inner, 0)
    kind = make.pick(kinds)
    sign = make.weighted((6, "="), (1, "<"), (1, ">="), (1, "<>"), (1, "IS NOT DISTINCT FROM"))
    return f"{inner.column(kind).sql} {sign} {make.column(kind).sql}"
