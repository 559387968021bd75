"""Texts, dates and timestamps: literals and expressions."""

import known
from scope import Value

LONGEST = 200
_TEXTS = (
    "''", "' '", "'a'", "'abc'", "'ABC'", "'it''s'", "'50%'", "'a_b'", "'\u00e9t\u00e9'", "'zebra'", "'red'", "'Red'",
)
_SEPARATORS = ("' '", "'b'", "'_'", "'%'")
_DATES = ("1970-01-01", "2000-02-29", "1999-12-31", "2010-06-15", "2024-02-29", "1950-03-01")
_TIMES = ("1970-01-01 00:00:00", "2000-02-29 12:30:45.123456", "1999-12-31 23:59:59.999999", "2015-01-01 06:00:00")
_INTERVALS = ("1 day", "-3 days", "1 month", "-1 month", "1 year", "13 months", "40 days")


def literal(make, kind):
    """A literal of text or time."""
    if kind == "text":
        return Value(make.pick(_TEXTS), "text", 6)
    if kind == "date":
        return Value(f"DATE '{make.pick(_DATES)}'", "date")
    if kind == "ts":
        return Value(f"TIMESTAMP '{make.pick(_TIMES)}'", "ts")
    return Value(f"CAST('{make.pick(_TIMES)}+00:00' AS TIMESTAMP WITH TIME ZONE)", "tstz")


def make_text(make, depth, value):
    """An expression of text."""
    part = value(make, "text", depth)
    count = make.pick((0, 1, 2, 3, 5))
    form = make.weighted(
        (3, "join"), (2, "case"), (2, "trim"), (3, "part"), (1, "pad"), (1, "replace"), (1, "repeat"), (2, "cast"),
        (1, "reverse"), (1, "split"), (1, "translate"), (1, "linked"),
    )
    match form:
        case "join":
            return _joined(make, part, value(make, "text", depth))
        case "case":
            return Value(f"{make.pick(('upper', 'lower'))}({part.sql})", "text", part.bits)
        case "trim":
            return Value(f"{make.pick(('trim', 'ltrim', 'rtrim'))}({part.sql})", "text", part.bits)
        case "part":
            start = make.pick((1, 2, 3))
            made = make.pick((f"substr({part.sql}, {start}, {count})", f"left({part.sql}, {count})",
                              f"right({part.sql}, {count})", f"substr({part.sql}, {start})",
                              f"left({part.sql}, -{count + 1})"))
            return Value(made, "text", part.bits)
        case "pad":
            return Value(f"{make.pick(('lpad', 'rpad'))}({part.sql}, {count + 2}, '*-')", "text", 8)
        case "replace" | "translate":
            searched = make.pick(("'a'", "'ab'", "'e'"))
            return Value(f"{form}({part.sql}, {searched}, 'xy')", "text", part.bits * 2)
        case "repeat" if part.bits * 3 <= LONGEST:
            return Value(f"repeat({part.sql}, {min(count, 3)})", "text", part.bits * 3)
        case "cast":
            kind = make.pick(("int", "date", "bool", "int"))
            return Value(f"CAST({value(make, kind, depth).sql} AS VARCHAR)", "text", 21)
        case "split":
            return Value(f"split_part({part.sql}, {make.pick(_SEPARATORS)}, {make.pick((1, 2))})", "text", part.bits)
        case "linked":
            return Value(f"concat_ws('-', {part.sql}, {value(make, 'text', 0).sql})", "text", part.bits + 21)
        case _:
            return Value(f"reverse({part.sql})", "text", part.bits)


def _joined(make, left, right):
    if left.bits + right.bits > LONGEST:
        return left
    made = make.pick((f"({left.sql} || {right.sql})", f"concat({left.sql}, {right.sql})"))
    return Value(made, "text", left.bits + right.bits)


def make_time(make, kind, depth, value):
    """An expression of date or timestamp, from columns that are not far away."""
    part = value(make, kind, depth)
    if part.wild:
        return part
    interval = f"INTERVAL '{make.pick(_INTERVALS)}'"
    unit = make.pick(("year", "quarter", "month", "week", "day"))
    match kind, make.chance.randrange(3):
        case "date", 0:
            return Value(f"CAST({part.sql} + {interval} AS DATE)", "date")
        case "date", 1:
            return Value(f"CAST(date_trunc('{unit}', {part.sql}) AS DATE)", "date")
        case "date", _:
            return Value(f"CAST({value(make, 'ts', depth).sql} AS DATE)", "date")
        case "ts", 0:
            day = value(make, "date", depth)
            return part if day.wild else Value(known.timestamp(f"{day.sql} + {interval}"), "ts")
        case _, 1:
            unit = make.pick((unit, "hour", "minute", "second"))
            return Value(f"date_trunc('{unit}', {part.sql})", kind)
        case _:
            return Value(f"({part.sql} {make.pick('+-')} {interval})", kind)
