"""What an object was when: the log that answers are held against."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Change:
    """One change of an object; `number` is none where it was deleted."""

    number: int | None
    began_s: float
    ended_s: float | None
    # Whether the object was seen in pieces while it lasted.
    torn: bool = False


class Log:
    """The changes of one object, in order; one writer, many readers."""

    def __init__(self) -> None:
        self._changes: list[Change] = []

    def begin(self, number: int | None, torn: bool = False) -> None:
        self._changes.append(Change(number, time.monotonic(), None, torn))

    def end(self) -> None:
        self._changes[-1] = replace(self._changes[-1], ended_s=time.monotonic())

    def possible(self, since_s: float, until_s: float) -> list[Change]:
        """What the object may have been at any time in between."""
        found: list[Change] = []
        for change in reversed(list(self._changes)):
            if change.began_s <= until_s:
                found.append(change)
                if change.ended_s is not None and change.ended_s <= since_s:
                    break
        return found

    @property
    def last(self) -> Change:
        return self._changes[-1]
