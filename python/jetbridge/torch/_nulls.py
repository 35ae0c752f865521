"""What stands for nulls, checked against the columns that there are. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from jetbridge._spec import meant
from jetbridge.errors import InvalidRequestError

#: A column of a batch: its name, whether it has texts or bytes, whether it has a mask where masks are asked for.
Column = tuple[str, bool, bool]


def check_fill(fill: Mapping[str, float]) -> None:
    """Refuses what is no number."""
    for name, value in fill.items():
        if not isinstance(value, int | float):
            raise InvalidRequestError(f'fill has a number for a column, and {value!r} of "{name}" is no int or float')


def check_columns(columns: Sequence[Column], fill: Mapping[str, float], has_masks: bool) -> None:
    """Refuses values for columns that are not there or have no numbers, and a mask that is called as a column is."""
    names = [name for name, _, _ in columns]
    texts = {name for name, has_texts, _ in columns if has_texts}
    for name in fill:
        if name not in names:
            raise InvalidRequestError(f'fill names "{name}", and there is no such column{meant(name, names)}')
        if name in texts:
            raise InvalidRequestError(f'fill names "{name}", which has texts or bytes: a null among them is None')
    for name, _, has_mask in columns:
        if has_masks and has_mask and f"{name}_mask" in names:
            raise InvalidRequestError(
                f'the mask of "{name}" would be called "{name}_mask", as another column is: leave one of the two out '
                'with select(...), or say nulls="fill"'
            )


def in_json(value: float) -> float | str:
    """A number as JSON has it, where some have no number."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
