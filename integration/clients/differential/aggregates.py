"""GROUP BY: aggregates, HAVING and grouping sets."""

import conditions
import expressions
import known
import relations
import selects
from scope import Value


def aggregate(make, depth, query):
    """A SELECT with aggregates, with or without GROUP BY."""
    source = relations.source(make, depth, query)
    inner = make.over(source.columns)
    keys = _keys(inner)
    calls = [_call(inner, source.identity) for _ in range(make.pick((1, 2, 3, 4)))]
    grouped, markers = _grouping(make, keys)
    having = f" HAVING {_having(inner)}" if make.odds(0.3) else ""
    rest = f"{source.sql}{selects.where(make, inner)}{grouped}{having}"
    shown = keys[1:] if len(keys) > 1 and make.odds(0.1) else keys
    if keys and make.odds(0.1):
        calls.append(_over_groups(make, keys[0]))
    return selects.finish("SELECT ", make, [*shown, *markers, *calls], rest, source.rows)


def _over_groups(make, key):
    """A window function over the groups."""
    order = known.order(key.sql, make)
    call = make.pick((f"sum(count(*)) OVER (PARTITION BY {key.sql})", f"rank() OVER (ORDER BY count(*), {order})",
                      "count(*) OVER ()", "max(count(*)) OVER ()"))
    return Value(call, "int", 15, raw=True)


def _keys(make):
    keys = []
    for _ in range(make.pick((0, 1, 1, 2, 3))):
        kind = make.pick(make.kinds())
        key = expressions.value(make, kind, make.pick((0, 0, 0, 1, 2)))
        # A key without a column would be read as the number of an output column.
        if any(column.sql in key.sql for column in make.columns) and key.sql not in [other.sql for other in keys]:
            keys.append(key)
    return keys


def _grouping(make, keys):
    """GROUP BY and the values of grouping()."""
    if not keys:
        return "", []
    listed = ", ".join(key.sql for key in keys)
    form = make.weighted((6, "plain"), (1, "ROLLUP"), (1, "CUBE"), (1, "sets"))
    columns = all(key.sql.replace(".", "").isalnum() for key in keys)
    if form == "plain" or not columns:
        return f" GROUP BY {listed}", []
    markers = [Value(f"grouping({key.sql})", "int", 1, raw=True) for key in keys if make.odds(0.6)]
    if form != "sets":
        return f" GROUP BY {form}({listed})", markers
    sets = [f"({', '.join(key.sql for key in keys if make.odds(0.5))})" for _ in range(make.pick((1, 2, 3)))]
    return f" GROUP BY GROUPING SETS (({listed}), {', '.join(sets)})", markers


def _having(make):
    if make.odds(0.1):
        return f"count(*) {make.pick(conditions.COMPARISONS)} (SELECT count(*) FROM tiny AS {make.name('t')}) / 10"
    if make.odds(0.5):
        return f"count(*) {make.pick(conditions.COMPARISONS)} {make.pick((0, 1, 2, 5, 20))}"
    column = make.column(make.pick([kind for kind in make.kinds() if kind != "bool"] or ["int"]))
    if not column:
        return "count(*) > 1"
    literal = expressions.literal(make, column.kind)
    return f"{make.pick(('min', 'max'))}({column.sql}) {make.pick(conditions.COMPARISONS)} {literal.sql}"


def _call(make, identity):
    call = _plain_call(make, identity)
    if make.odds(0.2) and not call.sql.startswith("round"):
        filtered = f"{call.sql} FILTER (WHERE {conditions.condition(make, 1)})"
        return Value(filtered, call.kind, call.bits, call.wild, True, call.digits, call.scale)
    return call


def _plain_call(make, identity):
    kind = make.pick(make.kinds())
    value = expressions.value(make, kind, make.pick((0, 0, 1, 2)))
    computed = not value.wild and value.bits <= 35
    form = make.weighted(
        (2, "rows"), (2, "count"), (2, "distinct"), (4, "extreme"), (6 if computed else 0, kind), (1, "list"),
    )
    match form:
        case "rows":
            return Value("count(*)", "int", 15, raw=True)
        case "count":
            return Value(f"count({value.sql})", "int", 15, raw=True)
        case "distinct":
            return Value(f"count(DISTINCT {value.sql})", "int", 15, raw=True)
        case "bool":
            return Value(f"{make.pick(('bool_and', 'bool_or'))}({value.sql})", "bool")
        case "int":
            return _over_integers(make, value)
        case "double":
            return _over_doubles(make, value)
        case "dec":
            return _over_decimals(make, value)
        case "list" if identity:
            order = ", ".join(f"{unique.sql} NULLS LAST" for unique in identity)
            if kind == "text":
                return Value(f"string_agg({value.sql}, ',' ORDER BY {order})", "text", 10_000, True)
            simple = [column for column in make.columns if column.kind in ("int", "text", "date")]
            column = make.pick(simple or identity)
            return Value(f"array_agg({column.sql} ORDER BY {order})", "array")
        case _ if kind != "bool":
            function = make.pick(("min", "max"))
            return Value(f"{function}({value.sql})", kind, value.bits, value.wild, True, value.digits, value.scale)
        case _:
            return Value(f"count({value.sql})", "int", 15, raw=True)


def _over_integers(make, value):
    function = make.pick(("sum", "sum", "sum", "avg", "bit_and", "bit_or", "bit_xor"))
    if function == "avg":
        return Value(f"avg({value.sql})", "double", wild=True)
    if function == "sum":
        return Value(f"sum({make.pick(('', 'DISTINCT '))}{value.sql})", "int", value.bits + 15, raw=True)
    return Value(f"{function}({known.bigint(value)})", "int", value.bits + 1, raw=True)


def _over_doubles(make, value):
    function = make.pick(("sum", "sum", "avg", "median", "stddev", "var_pop"))
    if function == "sum":
        return Value(f"sum({make.pick(('', 'DISTINCT '))}{value.sql})", "double", value.bits + 15)
    if function in ("stddev", "var_pop"):
        return Value(f"round({function}({known.double(value)}), 3)", "double", wild=True)
    return Value(f"{function}({known.double(value)})", "double", wild=True)


def _over_decimals(make, value):
    if make.odds(0.4):
        return Value(f"avg({known.double(value)})", "double", wild=True)
    if value.digits > 28:
        return Value(f"max({value.sql})", "dec", digits=value.digits, scale=value.scale)
    return Value(f"sum({value.sql})", "dec", digits=38, scale=value.scale, wild=True)
