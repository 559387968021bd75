"""Numbers: literals and expressions of integers, doubles and decimals that stay in their ranges."""

import known
from scope import Value

MOST_BITS = 60
ZERO = "CAST(0 AS DOUBLE)"
_DECIMALS = ((5, 2, "1.50"), (9, 2, "-0.01"), (18, 4, "1234.5678"), (3, 0, "7"), (4, 3, "0.000"))
_NEEDLES = ("'a'", "'b'", "' '", "'\u00e9'", "'it'")


def literal(make, kind):
    """A literal of a numeric kind."""
    if kind == "int":
        number = make.pick((0, 1, -1, 2, 3, 7, -5, 10, 50, 100, 1000))
        return Value(f"({number})" if number < 0 else str(number), "int", 10, raw=True)
    if kind == "double":
        number = make.pick(("0", "1", "-1", "0.5", "2.25", "-100.125", "1000"))
        return Value(f"CAST({number} AS DOUBLE)", "double", 13)
    digits, scale, number = make.pick(_DECIMALS)
    return Value(f"CAST('{number}' AS DECIMAL({digits}, {scale}))", "dec", digits=digits, scale=scale)


def make_number(make, kind, depth, value):
    """An expression of a numeric kind; `value(make, kind, depth)` gives its parts."""
    return {"int": _integer, "double": _double, "dec": _decimal}[kind](make, depth, value)


def tame(make, kind, depth, value, bits):
    """A number within that many bits, with which one may compute."""
    for _ in range(3):
        found = value(make, kind, depth)
        if found.bits <= bits and not found.wild:
            return found
    return literal(make, kind)


def _integer(make, depth, value):
    form = make.weighted(
        (5, "arithmetic"), (2, "divide"), (1, "bits"), (1, "abs"), (1, "length"), (2, "part"), (1, "cast"),
        (1, "position"), (1, "gcd"), (1, "bool"), (1, "days"), (1, "round"),
    )
    if form in ("arithmetic", "divide", "bits", "abs", "gcd"):
        left, right = tame(make, "int", depth, value, 30), tame(make, "int", depth, value, 28)
        return _integer_arithmetic(make, form, left, right)
    if form == "cast":
        whole = make.pick(("SMALLINT", "INTEGER", "BIGINT"))
        part = tame(make, "int", depth, value, 15)
        return Value(f"CAST({part.sql} AS {whole})", "int", 16, raw=True)
    if form == "bool":
        return Value(f"CAST({value(make, 'bool', depth).sql} AS INTEGER)", "int", 1, raw=True)
    if form == "round":
        part = tame(make, "double", depth, value, MOST_BITS)
        return Value(f"CAST({part.sql} AS BIGINT)", "int", max(part.bits, 4))
    if form == "days":
        days = [value(make, "date", depth) for _ in range(2)]
        if any(day.wild for day in days):
            return literal(make, "int")
        return Value(f"({days[0].sql} - {days[1].sql})", "int", 23, raw=True)
    return _integer_of(make, form, depth, value)


def _integer_arithmetic(make, form, left, right):
    first, second, bits = known.bigint(left), known.bigint(right), max(left.bits, right.bits)
    match form:
        case "divide":
            return Value(f"({first} {make.pick('/%')} {known.divisor(second)})", "int", left.bits)
        case "bits":
            return Value(f"({first} {make.pick('&|')} {second})", "int", bits + 1)
        case "abs":
            return Value(f"{make.pick(('abs', '-'))}({first})", "int", left.bits)
        case "gcd":
            return Value(f"gcd({first}, {second})", "int", bits)
        case _:
            sign = make.pick("+-*")
            return Value(f"({first} {sign} {second})", "int", left.bits + right.bits if sign == "*" else bits + 1)


def _integer_of(make, form, depth, value):
    if form == "length":
        return Value(f"{make.pick(('length', 'char_length'))}({value(make, 'text', depth).sql})", "int", 9, raw=True)
    if form == "position":
        return Value(f"strpos({value(make, 'text', depth).sql}, {make.pick(_NEEDLES)})", "int", 9, raw=True)
    kind = make.pick(("date", "ts", "tstz"))
    parts = ["year", "month", "day", "dow", "doy", "week", "quarter"] + (["hour", "minute"] if kind != "date" else [])
    return Value(f"extract({make.pick(parts)} FROM {value(make, kind, depth).sql})", "int", 14, raw=True)


def _double(make, depth, value):
    form = make.weighted((5, "arithmetic"), (2, "divide"), (2, "whole"), (2, "smooth"), (1, "cast"), (1, "round"))
    if form == "cast":
        part = tame(make, make.pick(("int", "dec")), depth, value, 40)
        return Value(f"CAST({part.sql} AS DOUBLE)", "double", part.bits + 3, wild=part.kind == "dec")
    left, right = tame(make, "double", depth, value, 25), tame(make, "double", depth, value, 22)
    first, second = known.double(left), known.double(right)
    match form:
        case "arithmetic":
            sign = make.pick("+-*")
            # The bits of products count eighths, so that they bound the digits behind the point too.
            bits = left.bits + right.bits if sign == "*" else max(left.bits, right.bits) + 4
            return Value(f"({first} {sign} {second})", "double", bits)
        case "divide":
            return Value(f"({first} / {known.divisor(second, ZERO)})", "double", wild=True)
        case "whole":
            return Value(f"{make.pick(('floor', 'ceil', 'round', 'trunc', 'abs'))}({first})", "double", left.bits + 1)
        case "round":
            return Value(f"round({first}, {make.pick((0, 1, 2))})", "double", wild=True)
        case _:
            # The last digits of these functions depend on the library.
            function = make.pick(("sqrt(abs({}))", "sin({})", "cos({})", "atan({})", "ln(1 + abs({}))", "cbrt({})"))
            return Value(f"round({function.format(first)}, 6)", "double", wild=True)


def _decimal(make, depth, value):
    form = make.weighted((4, "arithmetic"), (1, "abs"), (1, "cast"), (1, "text"), (1, "whole"), (1, "rest"))
    if form == "cast":
        part = tame(make, "int", depth, value, 25)
        return Value(f"CAST({part.sql} AS DECIMAL(18, 3))", "dec", digits=18, scale=3)
    if form == "text":
        number = tame(make, "int", depth, value, 25)
        return Value(f"CAST(CAST({number.sql} AS VARCHAR) AS DECIMAL(15, 2))", "dec", digits=15, scale=2)
    left, right = (tame(make, "dec", depth, value, 0) for _ in range(2))
    if form == "abs":
        return Value(f"{make.pick(('abs', '-'))}({left.sql})", "dec", digits=left.digits, scale=left.scale)
    if form == "whole":
        function = make.pick(("floor", "ceil", "round", "trunc"))
        return Value(f"{function}({left.sql})", "dec", digits=left.digits + 1, scale=left.scale)
    scale = max(left.scale, right.scale)
    digits = max(left.digits - left.scale, right.digits - right.scale) + scale + 1
    if form == "rest" and digits <= known.DECIMAL_DIGITS:
        return Value(f"({left.sql} % {known.divisor(right.sql)})", "dec", digits=digits, scale=scale)
    sign = make.pick("+-*")
    if sign == "*":
        digits, scale = left.digits + right.digits, left.scale + right.scale
    if digits > known.DECIMAL_DIGITS:
        return left
    return Value(f"({left.sql} {sign} {right.sql})", "dec", digits=digits, scale=scale)
