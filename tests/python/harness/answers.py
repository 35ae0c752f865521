"""Answers of two SQL engines side by side: the same rows, whatever the types that they come in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

# Where one engine gives a float, the other may give a decimal of six places: a unit of the last one, and some room for
# sums of floats in another order. Everything else has to be equal.
ABSOLUTE, RELATIVE = 1e-6, 1e-9

Row = tuple[Any, ...]


def assert_same_rows(got: Sequence[Row], expected: Sequence[Row], keys: Sequence[int] | None = None) -> None:
    """The same rows in the same order; where only columns `keys` are sorted by, rows that tie may change places."""
    assert len(got) == len(expected), f"{len(got)} rows, not {len(expected)}"
    if keys is not None:
        _assert_equal(
            [tuple(row[key] for key in keys) for row in got], [tuple(row[key] for key in keys) for row in expected]
        )
        got, expected = sorted(got, key=_sortable), sorted(expected, key=_sortable)
    _assert_equal(got, expected)


def same(left: Any, right: Any) -> bool:
    """Equal values, floats within the tolerance."""
    if isinstance(left, float) or isinstance(right, float):
        if left is None or right is None:
            return left is right
        return math.isclose(left, right, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    if isinstance(left, Decimal | int) and isinstance(right, Decimal | int):
        return Decimal(left) == Decimal(right)
    return bool(left == right)


def _assert_equal(got: Sequence[Row], expected: Sequence[Row]) -> None:
    for number, (left, right) in enumerate(zip(got, expected, strict=True)):
        assert len(left) == len(right), f"{len(left)} columns, not {len(right)}"
        differing = [at for at, pair in enumerate(zip(left, right, strict=True)) if not same(*pair)]
        assert not differing, f"row {number}, columns {differing}: {left} is not {right}"


def _sortable(row: Row) -> list[tuple[bool, str]]:
    # Floats take no part: they may differ in their last digits.
    return [(value is None, str(value)) for value in row if not isinstance(value, float)]
