"""Queries from a seed and a number: every run of a number writes the same SQL."""

import random
from dataclasses import dataclass, replace

import aggregates
import correlated
import expressions
import known
import relations
import risks
import rowsets
import selects
from scope import PLAIN, Maker, Query


@dataclass(frozen=True)
class Generated:
    """SQL, and by which output columns its rows are ordered, as (index, descending, nulls first)."""

    sql: str
    order: tuple = ()


def generate(seed, number, form=None):
    """The query of that number; with the form "correlated", one with subqueries that name columns around them."""
    make = Maker(random.Random(f"{seed}/{number}"))
    if form == "correlated" or make.odds(0.08):
        return Generated(correlated.correlated(make).sql)
    if make.odds(0.05):
        return Generated(risks.risky(make).sql)
    if make.odds(0.12):
        return _with_ctes(make)
    if make.odds(0.01):
        start, query = rowsets.recursive(make)
        ordered = _ordered(make, query)
        return replace(ordered, sql=f"{start} {ordered.sql}")
    return _ordered(make, _query(make, 2))


def _query(make, depth):
    """A query without ORDER BY."""
    form = make.weighted((5, "select"), (4, "aggregate"), (2, "window"), (2 if depth else 0, "set"), (0.3, "first"))
    if form == "set":
        return _set_operation(make)
    return _SHAPES[form](make, depth, _query)


_SHAPES = {
    "select": selects.select,
    "aggregate": aggregates.aggregate,
    "window": selects.windows,
    "first": selects.first_of_each,
}


def _set_operation(make):
    """UNION, INTERSECT or EXCEPT of queries that give the same kinds."""
    kinds = [make.pick(PLAIN[:-1]) for _ in range(make.pick((1, 2, 3)))]
    parts = [_of_kinds(make, kinds) for _ in range(make.pick((2, 2, 2, 3)))]
    sql = parts[0].sql
    for part in parts[1:]:
        operator = make.pick(("UNION", "UNION ALL", "INTERSECT", "INTERSECT ALL", "EXCEPT", "EXCEPT ALL"))
        sql = f"({sql}) {operator} ({part.sql})"
    columns = [_either(of) for of in zip(*(part.columns for part in parts))]
    return Query(f"SELECT * FROM ({sql}) AS {make.name('u')}", columns, sum(part.rows for part in parts))


def _of_kinds(make, kinds):
    source = relations.table(make)
    inner = make.over(source.columns)
    shown = [inner.column(kind) or expressions.value(inner, kind, 1) for kind in kinds]
    return selects.finish("SELECT ", inner, shown, f"{source.sql}{selects.where(make, inner)}", source.rows)


def _either(columns):
    """The column of a set operation: any value of its parts."""
    whole = max(column.digits - column.scale for column in columns)
    scale = max(column.scale for column in columns)
    return replace(
        columns[0], bits=max(column.bits for column in columns), wild=any(column.wild for column in columns), raw=True,
        digits=whole + scale, scale=scale,
    )


def _with_ctes(make):
    """WITH: one or two named queries, used once or twice."""
    parts, sources = [], []
    for _ in range(make.pick((1, 2))):
        query, name = _query(make, 1), make.name("w")
        parts.append(f"{name} AS ({query.sql})")
        sources.append((name, query))
    name, query = make.pick(sources)
    alias = make.name("v")
    inner = make.over(relations.named(query, alias))
    rest = f"{name} AS {alias}{selects.where(make, inner)}"
    plain = [column for column in inner.columns if column.kind in PLAIN]
    if not plain or make.odds(0.4):
        main = selects.finish("SELECT ", make, inner.columns, rest, query.rows)
    else:
        key = make.pick(plain)
        main = Query(f"SELECT {key.sql} AS c, count(*) AS n FROM {rest} GROUP BY {key.sql}", [key.named("c")], 1)
    twice = f" UNION ALL {main.sql}" if make.odds(0.15) else ""
    return Generated(f"WITH {', '.join(parts)} {main.sql}{twice}")


def _ordered(make, query):
    """The query, sometimes with ORDER BY all columns, and then sometimes with LIMIT and OFFSET."""
    if any(column.kind not in PLAIN for column in query.columns) or make.odds(0.6):
        return Generated(query.sql)
    places = list(range(len(query.columns)))
    make.chance.shuffle(places)
    keys = [known.order(query.columns[place].sql, make) for place in places]
    limit = f" LIMIT {make.pick((0, 1, 5, 20, 100))}" if make.odds(0.5) else ""
    offset = f" OFFSET {make.pick((0, 1, 7, 50))}" if make.odds(0.25) else ""
    order = tuple((place, " DESC" in key, key.endswith("FIRST")) for place, key in zip(places, keys))
    return Generated(f"{query.sql} ORDER BY {', '.join(keys)}{limit}{offset}", order)
