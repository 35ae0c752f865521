"""Where an epoch is: what was handed out of it, as a dict that can be kept. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jetbridge.errors import InvalidRequestError, StaleError

VERSION = 1

#: Ranks, rows of a batch, and steps that were handed out.
Taken = tuple[int, int, int]


@dataclass(frozen=True)
class Order:
    """What an epoch's order follows from, besides its number. A position means something within one order only."""

    snapshot: str
    filter: str | None
    seed: int
    #: None where nothing is shuffled.
    shuffle_buffer: int | None


@dataclass(frozen=True)
class Worker:
    """One DataLoader worker's part: its number, of how many, and how many batches it has given."""

    id: int
    of: int
    batches: int


@dataclass(frozen=True)
class Position:
    """How far a rank is in an epoch."""

    epoch: int
    #: What was handed out before this iteration.
    before: tuple[Taken, ...] = ()
    #: What this iteration has handed out, to the rank's trainer by all its workers.
    now: Taken | None = None
    #: Whose position it is, if a DataLoader worker's.
    worker: Worker | None = None

    @property
    def taken(self) -> tuple[Taken, ...]:
        """All that was handed out of the epoch."""
        if self.now is None or self.now[2] == 0:
            return self.before
        world, batch_size, steps = self.now
        if self.before and self.before[-1][:2] == (world, batch_size):
            return (*self.before[:-1], (world, batch_size, self.before[-1][2] + steps))
        return (*self.before, self.now)


def saved(order: Order, position: Position) -> dict[str, Any]:
    """A state as a dict of plain values."""
    state = {"version": VERSION, **asdict(order), "epoch": position.epoch, "taken": [list(t) for t in position.taken]}
    if position.worker is not None:
        state["worker"] = {**asdict(position.worker), "before": [list(taken) for taken in position.before]}
    return state


def loaded(order: Order, state: Mapping[str, Any], worker: tuple[int, int] | None) -> tuple[Position, int]:
    """The position that a state says, and how many batches this worker (its number, of how many) has given after it.

    Raises:
        StaleError: the state is of another version of the data.
        InvalidRequestError: it is of another order, or no state.
    """
    _check(order, state)
    epoch, part = int(state["epoch"]), state.get("worker")
    if part is not None and worker == (part["id"], part["of"]):
        return Position(epoch, _taken(part["before"])), int(part["batches"])
    return Position(epoch, _taken(state["taken"])), 0


def latest_state(state: Any) -> dict[str, Any]:
    """The state of the rank, out of all that a StatefulDataLoader keeps: what its workers have given together.

    Load it into a dataset to go on with another number of ranks or DataLoader workers; the state of any rank will do,
    since all ranks have made as many steps.
    """
    found = list(_states(state))
    if not found:
        raise InvalidRequestError("there is no state of a jetbridge dataset in it")
    latest = max(found, key=lambda one: (one["epoch"], sum(steps for _, _, steps in one["taken"])))
    return {key: value for key, value in latest.items() if key != "worker"}


def _states(state: Any) -> Iterator[dict[str, Any]]:
    if isinstance(state, Mapping):
        if {"version", "snapshot", "taken"} <= state.keys():
            yield dict(state)
        else:
            for value in state.values():
                yield from _states(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _states(value)


def _check(order: Order, state: Mapping[str, Any]) -> None:
    if state.get("version") != VERSION:
        raise InvalidRequestError(f"this is no state of version {VERSION} of a jetbridge dataset: {_shown(state)}")
    if state.get("snapshot") != order.snapshot:
        words = f"the state is of the version {state.get('snapshot')} of the data, which is {order.snapshot} now"
        raise StaleError(words, hint="a position in other data means nothing; begin a new epoch, or read the old data")
    for name, value in asdict(order).items():
        if state.get(name) != value:
            words = f"the state is of an epoch with {name}={state.get(name)!r}, and this dataset has {name}={value!r}"
            raise InvalidRequestError(words)


def _taken(pairs: Any) -> tuple[Taken, ...]:
    try:
        taken = tuple((int(world), int(batch_size), int(steps)) for world, batch_size, steps in pairs)
    except (TypeError, ValueError):
        raise InvalidRequestError(f"what the state says was handed out cannot be read: {_shown(pairs)}") from None
    if any(world < 1 or batch_size < 1 or steps < 0 for world, batch_size, steps in taken):
        raise InvalidRequestError(f"what the state says was handed out cannot be: {_shown(pairs)}")
    return taken


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
