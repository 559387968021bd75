"""Expressions of any kind, up to a depth."""

from dataclasses import replace

import conditions
import known
import numeric
import texts
from scope import Value

NUMBERS = ("int", "double", "dec")
TIMES = ("date", "ts", "tstz")


def literal(make, kind, nulls=True):
    """A literal of a kind; sometimes NULL, where that is wanted."""
    if kind in NUMBERS:
        found = numeric.literal(make, kind)
    elif kind == "bool":
        found = Value(make.pick(("true", "false")), "bool")
    else:
        found = texts.literal(make, kind)
    if nulls and make.odds(0.06):
        return replace(found, sql=f"CAST(NULL AS {_NAMES[kind]})")
    return found


_NAMES = {
    "int": "BIGINT", "double": "DOUBLE", "dec": "DECIMAL(18, 4)", "bool": "BOOLEAN", "text": "VARCHAR", "date": "DATE",
    "ts": "TIMESTAMP", "tstz": "TIMESTAMP WITH TIME ZONE",
}


def value(make, kind, depth):
    """An expression of a kind with at most `depth` levels."""
    column = make.column(kind)
    if depth <= 0 or (column and make.odds(0.3)):
        return column if column and make.odds(0.85) else literal(make, kind)
    if make.odds(0.25):
        return _chosen(make, kind, depth - 1)
    nested = _nested(make, kind) if make.odds(0.15) else None
    if nested:
        return nested
    if kind in NUMBERS:
        return numeric.make_number(make, kind, depth - 1, value)
    if kind == "bool":
        return Value(conditions.condition(make, depth - 1), "bool")
    if kind == "text":
        return texts.make_text(make, depth - 1, value)
    return texts.make_time(make, kind, depth - 1, value)


def _chosen(make, kind, depth):
    """CASE, COALESCE, NULLIF, GREATEST or LEAST over values of one kind."""
    parts = [value(make, kind, depth) for _ in range(2)]
    first, second = (part.sql for part in parts)
    form = make.weighted((3, "case"), (1, "simple"), (2, "coalesce"), (2, "nullif"), (1, "greatest"))
    if form == "greatest" and kind == "bool":
        form = "coalesce"
    match form:
        case "case":
            when = conditions.condition(make, depth)
            otherwise = f" ELSE {second}" if make.odds(0.7) else ""
            sql = f"CASE WHEN {when} THEN {first}{otherwise} END"
        case "simple":
            subject = make.column("int") or literal(make, "int")
            sql = f"CASE {subject.sql} WHEN 1 THEN {first} WHEN 2 THEN {second} END"
        case "coalesce":
            sql = f"COALESCE({first}, {second})"
        case "nullif":
            sql = f"NULLIF({first}, {second})"
        case _:
            sql = f"{make.pick(('greatest', 'least'))}({first}, {second})"
    return _both(sql, kind, parts)


def _both(sql, kind, parts):
    """A value that may be either part."""
    whole = max(part.digits - part.scale for part in parts)
    scale = max(part.scale for part in parts)
    return Value(
        sql, kind, max(part.bits for part in parts), any(part.wild for part in parts),
        any(part.raw for part in parts), whole + scale, scale,
    )


def _nested(make, kind):
    """A part of a nested column, if there is one."""
    listed, struct = make.column("list"), make.column("struct")
    if kind == "int" and listed:
        place = make.pick((f"[{make.pick((1, 2, -1))}]", ""))
        sql = f"{listed.sql}{place}" if place else f"{make.pick(('array_length', 'cardinality'))}({listed.sql})"
        return Value(sql, "int", 32, raw=True)
    if kind == "text" and listed and make.odds(0.3):
        return Value(known.listed(listed.sql), "text", 40)
    if kind == "bool" and listed:
        return Value(f"array_has({listed.sql}, {make.pick((1, 2, 9))})", "bool")
    if kind == "int" and struct:
        return Value(f"{struct.sql}['a']", "int", 3, raw=True)
    if kind == "text" and struct:
        return Value(f"{struct.sql}['b']", "text", 20)
    return None
