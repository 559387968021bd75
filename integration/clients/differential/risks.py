"""Queries whose values may not fit: both sides must refuse them or agree."""

from dataclasses import replace

import known
import relations
import selects
from scope import Value

_CASTS = {
    "int": (
        "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "BOOLEAN", "VARCHAR", "DECIMAL(5, 2)", "DECIMAL(20, 0)", "DOUBLE",
    ),
    "text": ("INTEGER", "BIGINT", "DOUBLE", "DECIMAL(10, 2)", "DATE", "BOOLEAN"),
    "dec": ("DECIMAL(5, 1)", "DECIMAL(9, 0)", "DOUBLE", "VARCHAR"),
    "bool": ("INTEGER", "TINYINT", "VARCHAR"),
    "date": ("VARCHAR", "TIMESTAMP"),
    "ts": ("DATE", "TIMESTAMP WITH TIME ZONE"),
    "tstz": ("DATE", "TIMESTAMP"),
}
# Texts that both engines read alike, and that some types cannot hold.
_TEXTS = {
    "TINYINT": ("12", "-0", "+5", " 7 ", "", "128", "-128", "-129", "abc"),
    "BIGINT": ("9223372036854775807", "9223372036854775808", "-9223372036854775808", "", "1 2", "NULL"),
    "DOUBLE": ("nan", "Infinity", "-inf", "1.", ".5", " 2.5 ", "1e-3", "1e400", "", "1,5", "e"),
    "DECIMAL(5, 2)": ("1.005", "-1.005", ".5", "999.99", "999.999", "-1000", "", "1.2.3"),
    "DATE": ("2024-02-29", "2023-02-29", "2024-2-9", "2024-13-01", "0001-01-01", "9999-12-31", "", "today is"),
    "BOOLEAN": ("t", "TRUE", "0", "1", "no", "f", "", "maybe"),
    "TIMESTAMP": ("2024-02-09", "2024-02-09 10:11:12.123456", "2024-02-09 25:00:00", "2024-02-30 00:00:00", ""),
}
_INTEGERS = ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "n", "k")


def risky(make):
    """A cast or an arithmetic operation at the edge, over one table; no other clause evaluates it."""
    source = relations.table(make)
    inner = make.over([column for column in source.columns if column.kind in _CASTS and not _is_far(column)])
    values = [source.columns[0], _overflow(inner) if make.odds(0.5) else _cast(inner)]
    # Nothing is computed with these values.
    shown = [replace(value, wild=True) for value in values]
    column = source.columns[0].sql
    some = f" WHERE {column} % {make.pick((3, 50, 400))} = {make.pick((1, 2))}"
    return selects.finish("SELECT ", make, shown, f"{source.sql}{some}", source.rows)


def _is_far(column):
    return column.kind == "date" and column.wild


def _overflow(make):
    columns = [column for column in make.columns if column.sql.partition(".")[2] in _INTEGERS]
    column, other = make.pick(columns), make.pick(columns)
    bigint = f"CAST({column.sql} AS BIGINT)"
    return Value(
        make.pick((
            f"{bigint} {make.pick('+-*')} CAST({other.sql} AS BIGINT)",
            f"{bigint} {make.pick('+-')} CAST(9223372036854775807 AS BIGINT)",
            f"{bigint} * CAST(4611686018427387904 AS BIGINT)",
            f"-{bigint}",
            f"abs({bigint})",
            f"{column.sql} {make.pick('+-*')} {column.sql}",
        )),
        "int", 65,
    )


def _cast(make):
    if make.odds(0.4):
        target = make.pick(_TEXTS)
        return Value(f"{make.pick(('CAST', 'TRY_CAST'))}('{make.pick(_TEXTS[target])}' AS {target})", "text")
    column = make.pick(make.columns)
    value, target = column.sql, make.pick(_CASTS[column.kind])
    if column.kind == "text" and target in ("INTEGER", "BIGINT"):
        value = known.whole(value)
    return Value(f"{make.pick(('CAST', 'CAST', 'TRY_CAST'))}({value} AS {target})", "text")
