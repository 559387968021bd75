"""The documented differences between Squadron and DuckDB, and how each is kept out of the comparison.

Where SQL can be written so that it means one thing, a function here writes it so.
"""

from dataclasses import dataclass

# DuckDB as the standard and PostgreSQL have it.
DUCKDB_SETTINGS = (
    # `7 / 2` is 3.
    "SET integer_division = true",
    # It evaluates conditions in its own order: what another condition excludes must be no error.
    "SET error_on_division_by_zero = false",
    # Timestamps with a zone are shown and taken apart in UTC, Squadron's default.
    "SET TimeZone = 'UTC'",
)

DECIMAL_DIGITS = 18


@dataclass(frozen=True)
class Difference:
    """A difference that is no bug: why it is there, and how it is avoided."""

    name: str
    reason: str
    avoided: str


DIFFERENCES = (
    Difference(
        "division by zero",
        "PostgreSQL refuses it, Squadron for integers and decimals; DuckDB gives inf, NULL or an error",
        "`divisor`: every divisor passes through NULLIF",
    ),
    Difference(
        "decimal division and avg",
        "DuckDB computes them as DOUBLE; Squadron as DECIMAL with four more digits",
        "`double`: operands are cast to DOUBLE",
    ),
    Difference(
        "texts with a fraction as integers",
        "DuckDB rounds the text '12.5' to 13; PostgreSQL and Squadron refuse it",
        "`whole`: texts with a point are NULL before they are cast to integers",
    ),
    Difference(
        "narrow and unsigned arithmetic",
        "DuckDB keeps the type of a column beside a literal, Squadron widens it to that of the literal",
        "`bigint`: operands of arithmetic are cast to BIGINT, or both have one type",
    ),
    Difference(
        "sum of integers",
        "DuckDB sums in 128 bits; Squadron in 64 and refuses to overflow, as for `+`",
        "only bounded integers are summed",
    ),
    Difference(
        "offsets of RANGE",
        "DuckDB refuses a frame whose bound does not fit the type of the key; PostgreSQL and Squadron do not",
        "keys with extremes are cast to BIGINT",
    ),
    Difference(
        "digits of decimals",
        "DuckDB refuses results of more than 18 digits where both operands have fewer; PostgreSQL and Squadron do not",
        "`DECIMAL_DIGITS`: larger results are not computed",
    ),
    Difference(
        "text of an empty list",
        "array_to_string of a list without values is NULL in DuckDB, '' in PostgreSQL and Squadron",
        "`listed`: NULL becomes ''",
    ),
    Difference(
        "date plus interval",
        "a TIMESTAMP in DuckDB and PostgreSQL, a DATE in Squadron",
        "`timestamp`: the sum is cast to TIMESTAMP",
    ),
    Difference(
        "texts of doubles and timestamps",
        "the shortest text of a double, and the `T` between date and time, are the product's choice",
        "only integers, decimals, booleans and dates are cast to text",
    ),
    Difference(
        "LIKE without ESCAPE",
        "the escape character is a backslash in Squadron and PostgreSQL; DuckDB has none",
        "no pattern holds a backslash",
    ),
    Difference(
        "NULLs in ORDER BY",
        "DuckDB puts them last by default; PostgreSQL and Squadron first where the order is descending",
        "NULLS FIRST or LAST is written out",
    ),
    Difference(
        "NULLs in rows",
        "DuckDB compares rows as values in which NULL equals NULL; PostgreSQL and Squadron find NULL where a NULL decides",
        "rows are compared where they have no NULL",
    ),
)

# Forms that Squadron refuses as not implemented; the generator does not write them.
REFUSED = (
    "FROM t CROSS JOIN unnest(t.l)",
    "LIKE ... ESCAPE with another character than the backslash",
)


def bigint(value):
    """An integer as BIGINT."""
    return f"CAST({value.sql} AS BIGINT)" if value.raw else value.sql


def double(value):
    """A number as DOUBLE."""
    return value.sql if value.kind == "double" and not value.raw else f"CAST({value.sql} AS DOUBLE)"


def divisor(sql, zero="0"):
    """A divisor that is never zero."""
    return f"NULLIF({sql}, {zero})"


def whole(sql):
    """A text that is cast to an integer, without those that have a fraction."""
    return f"CASE WHEN {sql} NOT LIKE '%.%' THEN {sql} END"


def timestamp(sql):
    """A date or timestamp as TIMESTAMP."""
    return f"CAST({sql} AS TIMESTAMP)"


def listed(sql):
    """The values of a list as text."""
    return f"COALESCE(array_to_string({sql}, ','), '')"


def order(sql, make):
    """A key of ORDER BY that says where its NULLs go."""
    return f"{sql} {make.pick(('ASC', 'DESC'))} NULLS {make.pick(('FIRST', 'LAST'))}"
