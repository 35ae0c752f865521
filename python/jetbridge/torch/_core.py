"""Epochs over a scan: what is common to whoever reads them. Imports no torch, so that all of it is tested without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from multiprocessing.context import get_spawning_popen
from typing import TYPE_CHECKING, Any, Literal

from jetbridge import _native
from jetbridge.errors import ClosedError, InvalidRequestError
from jetbridge.torch._nulls import check_columns, check_fill, in_json
from jetbridge.torch._ranks import Ranks, is_told, ranks
from jetbridge.torch._shared import Shared
from jetbridge.torch._state import Order, Position, Taken, Worker, loaded, saved
from jetbridge.torch._units import Units, dumped, units_of

if TYPE_CHECKING:
    from jetbridge.scan import Scan

Even = Literal["drop", "pad", "error"]
Nulls = Literal["error", "fill", "mask"]
#: A column as the extension module gives it: name, kind, content and mask.
Columns = list[tuple[str, str, Any, Any]]

#: A DataLoader worker's number, and of how many.
WorkerOf = tuple[int, int]


@dataclass(frozen=True)
class Settings:
    """How epochs are read."""

    batch_size: int
    shuffle: bool = False
    seed: int = 0
    shuffle_buffer: int = 8
    even: Even = "drop"
    drop_last: bool = False
    writable: bool = True
    nulls: Nulls = "error"
    fill: tuple[tuple[str, float], ...] = ()
    prefetch_batches: int = 4
    prefetch_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("shuffle_buffer", 1), ("prefetch_batches", 1), ("prefetch_bytes", 0)):
            whole(name, getattr(self, name), least)
        whole("seed", self.seed, 0)
        if self.seed >= 1 << 64:
            raise InvalidRequestError("seed is a number of 64 bits")
        _one_of("even", self.even, ("drop", "pad", "error"))
        _one_of("nulls", self.nulls, ("error", "fill", "mask"))
        if self.fill and self.nulls == "error":
            raise InvalidRequestError('fill says what stands for a null: it needs nulls="fill" or nulls="mask"')
        check_fill(dict(self.fill))


class Source:
    """The units of a scan, and what reads them in this process."""

    def __init__(self, scan: Scan, settings: Settings) -> None:
        self.scan = scan
        self.settings = settings
        self.units: Units = units_of(scan._connection, scan._spec)
        if settings.nulls != "error":
            columns = _native.batch_columns(scan.schema._native)
            check_columns(columns, dict(settings.fill), settings.nulls == "mask")
        self._engine: _native.EpochEngine | None = None

    def _own_engine(self) -> _native.EpochEngine:
        """That of this process; that of the process that it was forked from is of no use to it."""
        if self._engine is None or not self._engine.is_ours():
            self._engine = _native.EpochEngine(self.scan._connection)
        return self._engine

    def _source_request(self) -> dict[str, Any]:
        settings, spec = self.settings, self.scan._spec
        scan = {
            "path": spec.path,
            "columns": None if spec.columns is None else list(spec.columns),
            "filter": spec.filter,
            "snapshot": self.units.snapshot,
        }
        return {
            "scan": scan,
            **self.units.request(),
            "batch_size": settings.batch_size,
            "even": settings.even,
            "drop_last": settings.drop_last,
            "in_place": not settings.writable,
            "nulls": settings.nulls,
            "fill": {name: in_json(value) for name, value in settings.fill},
            "ahead_bytes": settings.prefetch_bytes,
            "ahead_batches": settings.prefetch_batches,
        }

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_engine": None}


class Rows(Source):
    """The rows of a scan by their numbers."""

    _taker: _native.EpochTaker | None = None

    def take(self, numbers: list[int]) -> Columns:
        """The columns of these rows, in this order."""
        if self._taker is None or not self._taker.is_ours():
            request = self._source_request() | {"world": 1, "rank": 0, "alone": True}
            self._taker = self._own_engine().taker(dumped(request))
        return self._taker.take(numbers)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_taker": None}


class Epochs(Source):
    """The epochs of a scan, for one rank."""

    def __init__(self, scan: Scan, settings: Settings, rank: int | None, world: int | None) -> None:
        super().__init__(scan, settings)
        self._given = (rank, world)
        self._shared = Shared()
        #: A loaded state that no iteration took up yet, its number, and what this worker had given after it.
        self._resume: tuple[Position, int, int] | None = None
        self._position: Position | None = None
        #: Steps that a DataLoader worker makes before it is the next one's turn.
        self._run = 1
        #: Whether somebody counts what DataLoader workers give.
        self._is_counted = False
        self._loads_seen = 0
        self.ranks()

    @property
    def order(self) -> Order:
        """What the order of an epoch follows from."""
        settings = self.settings
        buffer = settings.shuffle_buffer if settings.shuffle else None
        return Order(self.units.snapshot, self.scan._spec.filter, settings.seed, buffer)

    @property
    def epoch(self) -> int:
        """The epoch of the next iteration."""
        return self._shared.epoch

    def set_epoch(self, epoch: int, worker: WorkerOf | None = None) -> None:
        """Has the next iteration go through another epoch, from its beginning; the same one again changes nothing."""
        whole("epoch", epoch, 0)
        if epoch >= 1 << 63:
            raise InvalidRequestError("epoch is a number of 63 bits")
        self.take_numbers(worker)
        if epoch != self._shared.epoch:
            self._shared.epoch = epoch
            self._shared.is_read_outside = False
            self._resume = self._position = None

    def ranks(self) -> Ranks:
        """Which rank this is. It is looked up anew until a process group or the environment says so."""
        found = ranks(*self._given)
        if found.world > max(1, len(self.units)):
            raise InvalidRequestError(
                f"{found.world} ranks are more than the {len(self.units)} row groups with rows that {self.scan} has: "
                "write the data in more row groups, or train on fewer ranks"
            )
        return found

    def steps(self) -> int:
        """Steps that the next iteration has on this rank, all its workers together."""
        course = _native.EpochCourse(dumped(self._request(self._start()[0], (0, 1))))
        return course.rank_steps

    def batch_bytes(self) -> int:
        """Bytes of a batch as tensors, about."""
        rows, has_masks = self.settings.batch_size, self.settings.nulls == "mask"
        columns = _native.batch_columns(self.scan.schema._native)
        # What takes a bit in Arrow takes a byte, and so does a mask.
        flags = sum(1 + (has_masks and has_mask) for _, _, has_mask in columns)
        return rows * sum(self.units.bytes) // max(1, self.units.read_rows) + rows * flags

    def in_packs_of(self, steps: int) -> Epochs:
        """The same epochs for DataLoader workers of which each makes so many steps in a row."""
        epochs = copy(self)
        epochs._run = steps
        return epochs

    def columns(self, worker: WorkerOf | None) -> Iteration:
        """The batches of the next iteration that fall to this worker; all of the rank's where it is none."""
        if self._loads_seen != self._shared.loaded and worker is not None:
            raise ClosedError(
                "a state was loaded after these DataLoader workers were started, which they cannot know of",
                hint="make a new DataLoader after load_state_dict()",
            )
        position, given = self._begin(worker)
        request = self._request(position, worker or (0, 1), given)
        return Iteration(self._own_engine().load(dumped(request)), self, position)

    def state_dict(self) -> dict[str, Any]:
        """What this process's trainer was handed; of a DataLoader worker, what this worker has given."""
        is_own = self._position is not None and (self._position.worker is not None or self._is_counted)
        if self._shared.is_read_outside and not is_own:
            raise ClosedError(
                "the batches come out of DataLoader workers, and how many the trainer took is not known here",
                hint="ask jetbridge.torch.DataLoader or StatefulDataLoader for its state_dict()",
            )
        if self._position is not None:
            return saved(self.order, self._position)
        return saved(self.order, self._start()[0])

    def load_state_dict(self, state: Mapping[str, Any], worker: WorkerOf | None) -> None:
        """Has the next iteration go on from a state."""
        position, given = loaded(self.order, state, worker)
        self.take_numbers(worker)
        self._position = None
        if worker is None:
            self._loads_seen = self._shared.count_loaded()
            self._shared.epoch = position.epoch
            self._shared.is_read_outside = False
        self._resume = (position, self._loads_seen if worker is None else 0, given)

    def begin_outside(self) -> Position:
        """The position at which DataLoader workers begin that were just started, for whoever counts what they give."""
        position = self._start()[0]
        self._resume, self._is_counted = None, True
        world = self.ranks().world
        return replace(position, before=position.taken, now=(world, self.settings.batch_size, 0), worker=None)

    def take_numbers(self, worker: WorkerOf | None = None) -> None:
        """Has numbers of its own from now on, if this is neither the process that made them nor a DataLoader worker."""
        if worker is None and not self._shared.is_own:
            self._shared = self._shared.copy()
            self._loads_seen = self._shared.loaded

    def note(self, position: Position) -> None:
        """Takes over how far the trainer is, from whoever counts."""
        self._position = position

    def _start(self) -> tuple[Position, int, int]:
        """Where the next iteration begins, the number of the loaded state that says so, and what this worker had
        given."""
        if self._resume is not None:
            position, number, given = self._resume
            if number == 0 or position.epoch == self._shared.epoch:
                return position, number, given
        return Position(self._shared.epoch), 0, 0

    def _begin(self, worker: WorkerOf | None) -> tuple[Position, int]:
        self.take_numbers(worker)
        position, number, given = self._start()
        self._resume = None
        self._shared.is_read_outside = worker is not None
        if worker is not None:
            self._is_counted = False
            if number and not self._shared.take_up(worker[0], number):
                # Another iteration of the same DataLoader, whose workers are started anew each time, took it up.
                position, given = Position(self._shared.epoch), 0
        world = self.ranks().world
        part = None if worker is None else Worker(*worker, given)
        now = (world, self.settings.batch_size, _steps(part))
        self._position = Position(position.epoch, position.taken, now, part)
        return self._position, given

    def _request(self, position: Position, worker: WorkerOf, given: int = 0) -> dict[str, Any]:
        settings, found = self.settings, self.ranks()
        return {
            **self._source_request(),
            "seed": settings.seed,
            "epoch": position.epoch,
            "shuffle_buffer": settings.shuffle_buffer if settings.shuffle else None,
            "before": position.before if position.now is not None else position.taken,
            "world": found.world,
            "rank": found.rank,
            "worker": worker[0],
            "workers": worker[1],
            "run": self._run,
            "skip": given,
        }

    def __getstate__(self) -> dict[str, Any]:
        given = self._given
        if get_spawning_popen() is not None:
            # What is started shares them with this process, and not with the one that this was started by.
            self.take_numbers()
        if given == (None, None) and get_spawning_popen() is not None and is_told():
            # A DataLoader worker is of this rank, and has no process group that says so.
            found = self.ranks()
            given = (found.rank, found.world)
        return {**super().__getstate__(), "_position": None, "_given": given}


class Iteration:
    """One way through an epoch, or a worker's part of it; counts what was taken.

    One caller reads at a time: another, in whichever thread or signal's handler, gets a ``FailedPreconditionError``.
    """

    def __init__(self, loader: _native.EpochLoader, epochs: Epochs, position: Position) -> None:
        self._loader = loader
        self._epochs = epochs
        self._position = position

    def __iter__(self) -> Iterator[Columns]:
        return self

    def __next__(self) -> Columns:
        columns = self._loader.next()
        if columns is None:
            raise StopIteration
        self._position = _further(self._position)
        # Of two iterations at once, the one that was taken from last is the one whose position counts.
        self._epochs.note(self._position)
        return columns

    def close(self) -> None:
        """Ends the reading: whoever waits for a batch, or asks for one from then on, gets a ``ClosedError``.

        The iteration does not just end: that would say that this was the whole epoch.
        """
        self._loader.close()


def _further(position: Position) -> Position:
    """One batch on."""
    now = position.now or (1, 1, 0)
    if position.worker is None:
        return replace(position, now=(now[0], now[1], now[2] + 1))
    part = replace(position.worker, batches=position.worker.batches + 1)
    return replace(position, now=(now[0], now[1], _steps(part)), worker=part)


def _steps(worker: Worker | None) -> int:
    """Steps that the trainer was handed when it was handed a worker's last batch: DataLoader takes from its workers in
    turn."""
    if worker is None or worker.batches == 0:
        return 0
    return (worker.batches - 1) * worker.of + worker.id + 1


def whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidRequestError(f"{name} is a whole number, {least} or more, and not {value!r}")


def _one_of(name: str, value: str, words: tuple[str, ...]) -> None:
    if value not in words:
        raise InvalidRequestError(f"{name} is one of {', '.join(words)}, and not {value!r}")


__all__ = ["Columns", "Epochs", "Even", "Iteration", "Nulls", "Settings", "Taken", "WorkerOf"]
