"""Entries of FROM: tables, derived tables and joins."""

import conditions
import rowsets
import tables
from scope import Source, Value

# No join gives more rows than this, by the estimate of the generator.
MOST_ROWS = 20_000


def table(make):
    """One table under an alias of its own."""
    name = make.weighted((3, "tiny"), (3, "small"), (3, "middle"), (3, "wide"), (2, "many"), (2, "large"))
    alias = make.name("t")
    columns = []
    for column in tables.columns(name):
        digits, scale = (column.arrow.precision, column.arrow.scale) if column.kind == "dec" else (0, 0)
        raw = column.kind in ("int", "double")
        columns.append(
            Value(f"{alias}.{column.name}", column.kind, column.bits, column.wild, raw, digits, scale)
        )
    return Source(f"{name} AS {alias}", columns, tables.TABLES[name][0], [columns[0]])


def derived(make, query):
    """A query as an entry of FROM, sometimes cut by ORDER BY and LIMIT."""
    alias = make.name("d")
    cut = rowsets.cut(make, query) if make.odds(0.15) else ""
    return Source(f"({query.sql}{cut}) AS {alias}", named(query, alias), query.rows)


def named(query, alias):
    """The columns of a query under an alias."""
    return [column.named(f"{alias}.{column.sql}") for column in query.columns]


def source(make, depth, query):
    """A table, a derived table or a join; `query(make, depth)` makes derived tables."""
    if depth > 0 and make.odds(0.2):
        return derived(make, query(make, depth - 1))
    if make.odds(0.04):
        return rowsets.literal_rows(make)
    found = table(make)
    if make.odds(0.04):
        return rowsets.lateral(make, found)
    while make.odds(0.35) and found.sql.count("JOIN") < 3 and "USING" not in found.sql:
        other = derived(make, query(make, depth - 1)) if depth > 0 and make.odds(0.2) else table(make)
        found = _join(make, found, other)
    return found


def _join(make, left, right):
    both = [*left.columns, *right.columns]
    identity = [*left.identity, *right.identity] if left.identity and right.identity else []
    if left.rows * right.rows <= 6000 and make.odds(0.3):
        return Source(f"{left.sql} CROSS JOIN {right.sql}", both, left.rows * right.rows, identity)
    pairs = _keys(left, right)
    if not pairs:
        return left
    first, second, spread = make.pick(pairs)
    rows = max(left.rows * right.rows // spread, left.rows, right.rows)
    if rows > MOST_ROWS:
        return left
    how = make.weighted((4, "JOIN"), (3, "LEFT JOIN"), (2, "RIGHT JOIN"), (2, "FULL JOIN"))
    name = first.sql.split(".")[1]
    if _is_using(left, right, name) and second.sql.endswith(f".{name}") and make.odds(0.3):
        return _using(how, left, right, name, identity, rows)
    extra = ""
    if make.odds(0.35):
        extra = f" AND {_extra(make, left, right)}"
    sign = "IS NOT DISTINCT FROM" if make.odds(0.05) and rows * 3 < MOST_ROWS else "="
    return Source(f"{left.sql} {how} {right.sql} ON ({first.sql} {sign} {second.sql}){extra}", both, rows, identity)


def _is_using(left, right, name):
    return all(sum(column.sql.endswith(f".{name}") for column in side.columns) == 1 for side in (left, right))


def _using(how, left, right, name, identity, rows):
    """A join by USING, whose common column stands without an alias."""
    common = next(column for column in left.columns if column.sql.endswith(f".{name}"))
    rest = [column for column in (*left.columns, *right.columns) if not column.sql.endswith(f".{name}")]
    unique = [column for column in identity if column in rest]
    return Source(
        f"{left.sql} {how} {right.sql} USING ({name})", [common.named(name), *rest], rows,
        unique if len(unique) == len(identity) else [],
    )


# Columns by which tables are joined, and how many values they have at least.
_SPREADS = {"k": 6, "k2": 150, "id": 50}


def _keys(left, right):
    pairs = []
    for first in left.columns:
        for second in right.columns:
            names = [column.sql.rpartition(".")[2] for column in (first, second)]
            if all(name in _SPREADS for name in names) and all("." in column.sql for column in (first, second)):
                spread = max(_SPREADS[name] for name in names)
                sides = max(left.rows, right.rows) // 8 if "k" in names and "k2" not in names else spread
                pairs.append((first, second, max(spread, sides)))
    return pairs


def _extra(make, left, right):
    """A further condition of a join: between both sides, or on one of them."""
    makers = make.over(left.columns), make.over(right.columns)
    kinds = conditions.kinds_shared(*makers)
    if kinds and make.odds(0.6):
        kind = make.pick(kinds)
        signs = conditions.COMPARISONS
        return f"{makers[0].column(kind).sql} {make.pick(signs)} {makers[1].column(kind).sql}"
    return conditions.condition(make.pick(makers), 1)
