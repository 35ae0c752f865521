"""Numbers that a dataset and its copies in DataLoader workers share: the epoch, and who has taken up a loaded state.

They lie in memory that the workers inherit, whichever way they are started, and that has no name in the file system: a
worker that is killed leaves nothing behind. Workers that outlive an epoch (``persistent_workers=True``) see a new epoch
there, where an attribute of the dataset would be that of their own copy.

Processes that a program starts itself, as ranks are, inherit the memory all the same. They are no workers of the one
that started them, so each takes numbers of its own before it changes any.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from multiprocessing.context import get_spawning_popen
from multiprocessing.sharedctypes import RawArray
from typing import Any

#: DataLoader workers whose part in a resumption can be told apart.
MAX_WORKERS = 1024

_EPOCH, _LOADED, _OUTSIDE, _FIRST = 0, 1, 2, 3


class Shared:
    """The numbers of one dataset and its copies."""

    def __init__(self, values: Sequence[int] = ()) -> None:
        self._owner = os.getpid()
        self._values: Any = RawArray("q", _FIRST + MAX_WORKERS)
        for place, value in enumerate(values):
            self._values[place] = value

    @property
    def is_own(self) -> bool:
        """Whether this process made it."""
        return self._owner == os.getpid()

    def copy(self) -> Shared:
        """The same numbers, as this process's own."""
        return Shared(self._values[:_OUTSIDE])

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration goes through."""
        return int(self._values[_EPOCH])

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._values[_EPOCH] = epoch

    @property
    def loaded(self) -> int:
        """How often a state was loaded in the process that made this."""
        return int(self._values[_LOADED])

    def count_loaded(self) -> int:
        """Counts one more, and gives its number."""
        self._values[_LOADED] += 1
        return self.loaded

    @property
    def is_read_outside(self) -> bool:
        """Whether DataLoader workers have begun to read since the last state was loaded or epoch set."""
        return bool(self._values[_OUTSIDE])

    @is_read_outside.setter
    def is_read_outside(self, value: bool) -> None:
        self._values[_OUTSIDE] = int(value)

    def take_up(self, worker: int, number: int) -> bool:
        """Whether a worker of this number is the first to take up this loaded state; from then on it is not."""
        if worker >= MAX_WORKERS:
            raise ValueError(f"a DataLoader of more than {MAX_WORKERS} workers cannot resume")
        is_first = int(self._values[_FIRST + worker]) != number
        self._values[_FIRST + worker] = number
        return is_first

    def __getstate__(self) -> dict[str, Any]:
        if get_spawning_popen() is not None:
            return {"_owner": self._owner, "_values": self._values}
        # Pickled for something else than a worker of this process: numbers of its own from then on.
        return {"copied": list(self._values[:_OUTSIDE])}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "copied" in state:
            self.__init__(state["copied"])  # type: ignore[misc]
        else:
            self._owner, self._values = state["_owner"], state["_values"]
