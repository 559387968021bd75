"""Compares two answers as multisets of rows, by value."""

import datetime
import decimal
import math
from collections import Counter, defaultdict

import pyarrow

TOLERANCE = 1e-9
UTC = datetime.timezone.utc


def rows_of(table, other):
    """The rows of an answer, with values as both answers can hold them."""
    columns = [_cells(mine, its.type) for mine, its in zip(table.columns, other.columns)]
    return list(zip(*columns)) if columns else [()] * table.num_rows


def difference(squadron, duckdb, order):
    """What differs between two answers (Arrow tables), or None."""
    if squadron.num_columns != duckdb.num_columns:
        return f"{squadron.num_columns} and {duckdb.num_columns} columns"
    if squadron.num_rows != duckdb.num_rows:
        return f"{squadron.num_rows} and {duckdb.num_rows} rows"
    left, right = rows_of(squadron, duckdb), rows_of(duckdb, squadron)
    if not _same_rows(left, right):
        return "other rows"
    return _disorder(left, order)


def apart(left, right):
    """The rows of the first list that the second one lacks, or all where they differ in their order alone."""
    rest = Counter(map(_rounded, right))
    missing = []
    for row in left:
        if rest[_rounded(row)] > 0:
            rest[_rounded(row)] -= 1
        else:
            missing.append(row)
    return missing or left


def _same_rows(left, right):
    """Whether two lists hold the same rows. Floats are no part of the key, as they may differ in their last digits."""
    if Counter(map(_rounded, left)) == Counter(map(_rounded, right)):
        return True
    groups = defaultdict(lambda: ([], []))
    for side, rows in enumerate((left, right)):
        for row in rows:
            groups[tuple(None if isinstance(cell, float) else cell for cell in row)][side].append(row)
    return all(_same_floats(*pair) for pair in groups.values())


def _rounded(row):
    return tuple(f"{cell:.9e}" if isinstance(cell, float) else cell for cell in row)


def _same_floats(left, right):
    """Whether rows that agree in all other cells agree in their floats."""
    if len(left) != len(right):
        return False
    rest = list(right)
    for row in left:
        place = next((place for place, other in enumerate(rest) if all(map(_close, row, other))), None)
        if place is None:
            return False
        del rest[place]
    return True


def _close(left, right):
    if isinstance(left, float) and isinstance(right, float):
        both_nan = math.isnan(left) and math.isnan(right)
        return both_nan or math.isclose(left, right, rel_tol=TOLERANCE, abs_tol=1e-300)
    return left == right


def _disorder(rows, order):
    """The first pair of rows that ORDER BY puts the other way round, or None."""
    for before, after in zip(rows, rows[1:]):
        for place, descending, nulls_first in order:
            sign = _sign(before[place], after[place], descending, nulls_first)
            if sign > 0:
                return f"wrong order: {before} before {after}"
            if sign < 0:
                break
    return None


def _sign(left, right, descending, nulls_first):
    if left is None or right is None:
        sign = (left is not None) - (right is not None)
        return sign if nulls_first else -sign
    first, second = ((isinstance(cell, float) and math.isnan(cell), cell) for cell in (left, right))
    if first[0] or second[0]:
        sign = first[0] - second[0]
    else:
        sign = (first[1] > second[1]) - (first[1] < second[1])
    return -sign if descending else sign


def _cells(column, other):
    """The cells of a column, so that equal values of the other answer's type are equal in Python."""
    kind = column.type
    if pyarrow.types.is_timestamp(kind) and kind.unit == "ns":
        column = column.cast(pyarrow.timestamp("us", kind.tz))
    cells = column.to_pylist()
    if pyarrow.types.is_floating(kind) or pyarrow.types.is_floating(other):
        # 0.0 stands for -0.0 too.
        return [None if cell is None else float(cell) + 0.0 for cell in cells]
    as_moment = pyarrow.types.is_timestamp(kind) or pyarrow.types.is_timestamp(other)
    return [_cell(cell, as_moment) for cell in cells]


def _cell(cell, as_moment=False):
    if isinstance(cell, bool):
        return str(cell)
    if isinstance(cell, decimal.Decimal):
        return int(cell) if cell == cell.to_integral_value() else cell
    if isinstance(cell, datetime.datetime):
        return cell.astimezone(UTC).replace(tzinfo=None) if cell.tzinfo else cell
    if isinstance(cell, datetime.date) and as_moment:
        return datetime.datetime(cell.year, cell.month, cell.day)
    if isinstance(cell, list):
        return tuple(_cell(part) for part in cell)
    if isinstance(cell, dict):
        return tuple((name, _cell(part)) for name, part in cell.items())
    return cell
