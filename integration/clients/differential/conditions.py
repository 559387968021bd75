"""Conditions: comparisons, lists, patterns, three-valued logic and subqueries."""

import expressions
import known
import relations
from scope import PLAIN

COMPARISONS = ("=", "<>", "<", "<=", ">", ">=")
_PATTERNS = ("'%a%'", "'a%'", "'%c'", "'_'", "'___'", "'%'", "''", "'%''%'", "'\u00e9_%'", "'% %'", "'A%'", "'%%b%%'")


def condition(make, depth, subqueries=False):
    """A condition with at most `depth` levels of AND, OR and NOT; with subqueries where they are allowed."""
    if depth > 0:
        form = make.weighted((3, "AND"), (3, "OR"), (2, "NOT"), (5, "leaf"))
        if form == "NOT":
            return f"(NOT {condition(make, depth - 1, subqueries)})"
        if form != "leaf":
            return f"({condition(make, depth - 1, subqueries)} {form} {condition(make, depth - 1, subqueries)})"
    if subqueries and make.odds(0.35):
        return f"({_subquery(make)})"
    return f"({_leaf(make, min(depth, 1))})"


def _leaf(make, depth):
    kind = make.pick(make.kinds())
    tested = expressions.value(make, kind, depth)
    form = make.weighted(
        (6, "compare"), (2, "null"), (3, "in"), (2, "between"), (2, "distinct"), (3 if kind == "text" else 0, "like"),
        (2 if kind == "bool" else 0, "is"), (1, "mixed"), (1 if make.columns else 0, "row"),
        (2 if kind == "int" and make.columns else 0, "guard"),
    )
    match form:
        case "null":
            return f"{tested.sql} IS {_negated(make)}NULL"
        case "in":
            return _in_list(make, tested)
        case "between":
            low, high = (expressions.value(make, kind, 0).sql for _ in range(2))
            return f"{tested.sql} {_negated(make)}BETWEEN {low} AND {high}"
        case "distinct":
            return f"{tested.sql} IS {_negated(make)}DISTINCT FROM {expressions.value(make, kind, depth).sql}"
        case "like":
            return f"{tested.sql} {_negated(make)}{make.pick(('LIKE', 'LIKE', 'ILIKE'))} {make.pick(_PATTERNS)}"
        case "is":
            return f"({tested.sql}) IS {_negated(make)}{make.pick(('TRUE', 'FALSE'))}"
        case "mixed" if kind in expressions.NUMBERS:
            other = expressions.value(make, make.pick(("int", "double")), 0)
            return f"{tested.sql} {make.pick(COMPARISONS)} {other.sql}"
        case "guard" if (guarded := _guarded(make)) is not None:
            return guarded
        case "row":
            first, second, third, fourth = parts = [make.column(of).sql for of in _row_kinds(make) for _ in range(2)]
            known = " AND ".join(f"{part} IS NOT NULL" for part in dict.fromkeys(parts))
            return f"(({first}, {third}) {make.pick(('=', '<>', '<', '>='))} ({second}, {fourth}) AND {known})"
        case _:
            return f"{tested.sql} {make.pick(COMPARISONS)} {expressions.value(make, kind, depth).sql}"


def _guarded(make):
    """A division that fails unless another condition keeps it from the rows whose divisor is zero."""
    column = make.column("int")
    if column is None or column.wild:
        return None
    number = known.bigint(column)
    test = f"{make.pick((7, 10, 100))} % {number} {make.pick(COMPARISONS)} {make.pick((0, 1, 3))}"
    return make.pick((f"({number} <> 0 AND {test})", f"({number} = 0 OR {test})", f"({test} AND {number} > 0)"))


def _row_kinds(make):
    """The kinds of two columns."""
    return [make.pick([column.kind for column in make.columns]) for _ in range(2)]


def _negated(make):
    return make.pick(("", "", "NOT "))


def _in_list(make, tested):
    entries = [expressions.literal(make, tested.kind).sql for _ in range(make.pick((1, 2, 4)))]
    if make.odds(0.25):
        entries.append("NULL")
    return f"{tested.sql} {_negated(make)}IN ({', '.join(entries)})"


def _subquery(make):
    """EXISTS, IN or a comparison with a scalar subquery, correlated or not."""
    kind = make.pick([kind for kind in make.kinds() if kind in ("int", "text", "date", "dec")] or ["int"])
    tested = make.column(kind) or expressions.literal(make, kind)
    form = make.weighted((3, "exists"), (4, "in"), (3, "scalar"), (1, "some"))
    source = relations.table(make)
    inner = make.over(source.columns)
    where = _inner_condition(make, inner, 0.9 if form in ("exists", "in") else 1)
    if form == "exists":
        return f"{_negated(make)}EXISTS (SELECT 1 FROM {source.sql}{where})"
    found = inner.column(kind)
    if not found:
        return f"EXISTS (SELECT * FROM {source.sql}{where})"
    if form == "in":
        return f"{tested.sql} {_negated(make)}IN (SELECT {found.sql} FROM {source.sql}{where})"
    if form == "some":
        quantifier = make.pick(("ANY", "ALL"))
        return f"{tested.sql} {make.pick(COMPARISONS)} {quantifier} (SELECT {found.sql} FROM {source.sql}{where})"
    return f"{tested.sql} {make.pick(COMPARISONS)} ({_single(make, found.sql, source, where)})"


def scalar(make, kind):
    """A scalar subquery over a table, correlated or not, or None where no table drawn has the kind."""
    source = relations.table(make)
    inner = make.over(source.columns)
    found = inner.column(kind)
    if not found:
        return None
    return f"({_single(make, found.sql, source, _inner_condition(make, inner, 1))})"


def _single(make, sql, source, where):
    """A subquery of one row: an aggregate, or the first row of a total order."""
    if source.identity and make.odds(0.25):
        return f"SELECT {sql} FROM {source.sql}{where} ORDER BY {source.identity[0].sql} NULLS LAST LIMIT 1"
    return f"SELECT {make.pick(('min', 'max'))}({sql}) FROM {source.sql}{where}"


def _inner_condition(make, inner, equal):
    """WHERE of a subquery: compares its columns with outer ones half of the time, with `equal` odds by `=`."""
    parts = []
    if make.odds(0.6):
        for _ in range(make.pick((1, 1, 2))):
            kind = make.pick(make.kinds())
            column, outer = inner.column(kind), make.column(kind)
            if column and outer:
                sign = "=" if make.odds(equal) else make.pick(COMPARISONS)
                parts.append(f"{column.sql} {sign} {outer.sql}")
    if not parts or make.odds(0.4):
        parts.append(condition(inner, 1, subqueries=make.odds(0.15)))
    return f" WHERE {' AND '.join(parts)}"


def kinds_shared(left, right):
    """The kinds of which both makers have columns."""
    return [kind for kind in PLAIN if left.column(kind) and right.column(kind)]
