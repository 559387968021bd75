"""Compares the rows of a plan with those of SQL."""

import decimal


def assert_same(plan, sql):
    """The same rows in any order; fractions may differ in their last digits, since each producer divides and averages
    with its own number of digits."""
    assert len(plan) == len(sql), f"{len(plan)} rows instead of {len(sql)}"
    for left, right in zip(sorted(plan, key=key), sorted(sql, key=key)):
        assert len(left) == len(right), f"{len(left)} columns instead of {len(right)}"
        for one, other in zip(left, right):
            assert same(one, other), f"{left}\ninstead of\n{right}"


def same(one, other):
    if number(one) and number(other):
        one, other = float(one), float(other)
        return abs(one - other) <= 1e-4 * max(1.0, abs(other)) if one != other else True
    return one == other


def number(value):
    return isinstance(value, (int, float, decimal.Decimal)) and not isinstance(value, bool)


def key(row):
    """Sorts by texts and dates first, so that rows that differ only in fractions stay together."""
    words = tuple(str(value) for value in row if not number(value))
    return words, tuple(round(float(value), 2) for value in row if number(value))
