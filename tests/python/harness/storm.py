"""An overwrite storm: writers change objects, readers read them, every answer is held against the log of the writes.

An answer must be one version whole, and one that the object had within the time that its mount's freshness allows: from
the last write that had ended when that time began, to the last that had begun when the answer was there.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight

from harness.changes import Change, Log
from harness.errors import ANSWERED, kind_of
from harness.flight import act, by_scan, fetch, fetch_ticket
from harness.places import Place
from harness.versions import NUMBERS_AN_OBJECT, Ask, Shape, file_of, numbers_in, random_ask, random_shape

OBJECTS = 6
READERS = 4
WRITERS = 2
# How old an answer of the `aged` mount may be.
MAX_AGE_S = 1.0
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.002, 0.05
TICKETS_KEPT = 40
OLD_TICKET_SHARE = 0.3
FOLDER_SHARE = 0.06
REFRESH_SHARE = 0.03
POLL_INTERVAL_S = 0.02


@dataclass(frozen=True)
class Mount:
    """A way into the place, and how old its answers may be; none where only a refresh makes it look."""

    path: str
    freshness: str
    max_age_s: float | None


@dataclass(frozen=True)
class Kept:
    """Tickets that were redeemed once, and the version that they gave."""

    name: str
    tickets: tuple[flight.Ticket, ...]
    ask: Ask
    number: int


@dataclass
class Tally:
    """What was done, of one thread or of all."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, what: str) -> None:
        self.counts[what] += 1


class BrokenPromiseError(AssertionError):
    """An answer that no promise allows."""


class Storm:
    """The objects, their log, and the threads that write and read them."""

    def __init__(self, place: Place, connect: Callable[[], flight.FlightClient], name: str, seed: int) -> None:
        self._place, self._connect, self._seed = place, connect, seed
        self.names = [f"o{index}.parquet" for index in range(OBJECTS)]
        self._logs = {name: Log() for name in self.names}
        self._numbers = {name: itertools.count((at + 1) * NUMBERS_AN_OBJECT) for at, name in enumerate(self.names)}
        self._shapes: dict[int, Shape] = {}
        self._sizes: dict[str, int] = {}
        self._refreshed_s = 0.0
        self._stop = threading.Event()
        self._left = threading.Semaphore(0)
        self._failures: list[str] = []
        self.tally = Tally()
        self.mounts = [
            Mount(f"/{name}-always", "always", 0.0),
            Mount(f"/{name}-aged", f"max-age={MAX_AGE_S:.0f}s", MAX_AGE_S),
            Mount(f"/{name}-fixed", "immutable", None),
        ]

    def begin(self, client: flight.FlightClient) -> None:
        """Writes a first version of each object and mounts the place."""
        rng = random.Random(self._seed)
        for name in self.names:
            self._write(name, random_shape(rng), Tally())
        for mount in self.mounts:
            options = {**self._place.options, "freshness": mount.freshness}
            act(client, "mount.add", {"path": mount.path, "uri": self._place.uri, "options": options})

    def run(self, reads: int, beside: Sequence[Callable[[Tally], None]] = ()) -> None:
        """Reads that often while the writers write; `beside` is done over and over meanwhile."""
        self._left = threading.Semaphore(reads)
        tallies = [Tally() for _ in range(WRITERS + READERS + len(beside))]
        works: list[Callable[[Tally], None]] = [self._writer(number) for number in range(WRITERS)]
        works += [self._again(work) for work in beside]
        others = [threading.Thread(target=self._guarded, args=pair) for pair in zip(works, tallies, strict=False)]
        readers = [
            threading.Thread(target=self._guarded, args=(self._reader(number), tally))
            for number, tally in enumerate(tallies[len(works) :])
        ]
        for thread in (*others, *readers):
            thread.start()
        for thread in readers:
            thread.join()
        self._stop.set()
        for thread in others:
            thread.join()
        for tally in tallies:
            self.tally.counts.update(tally.counts)
        if self._failures:
            raise BrokenPromiseError("\n".join(self._failures))

    def settle(self, client: flight.FlightClient) -> None:
        """Nothing is written any more: every mount gives the last versions, as soon as it promises."""
        for mount in self.mounts:
            if mount.max_age_s is None:
                act(client, "dataset.refresh", {"path": mount.path})
            deadline_s = time.monotonic() + (mount.max_age_s or 0.0)
            for name in self.names:
                self._settle_one(client, f"{mount.path}/{name}", name, deadline_s)

    def _settle_one(self, client: flight.FlightClient, path: str, name: str, deadline_s: float) -> None:
        """Reads until the last version comes; a read that begins after the deadline must give it."""
        began_s = time.monotonic()
        while not self._is_last(client, path, name):
            if began_s > deadline_s:
                raise BrokenPromiseError(f"{path} does not become version {self._logs[name].last.number}")
            time.sleep(POLL_INTERVAL_S)
            began_s = time.monotonic()

    def _is_last(self, client: flight.FlightClient, path: str, name: str) -> bool:
        number = self._logs[name].last.number
        try:
            table = fetch(client, by_scan(path)).table
        except ANSWERED as error:
            return number is None and kind_of(error) == "NOT_FOUND"
        return number is not None and self._is(table, Ask(), number)

    # Writing.

    def _writer(self, number: int) -> Callable[[Tally], None]:
        rng = random.Random(self._seed * 1_000 + number)
        mine = self.names[number::WRITERS]

        def work(tally: Tally) -> None:
            while not self._stop.wait(rng.uniform(SHORTEST_PAUSE_S, LONGEST_PAUSE_S)):
                self._change(rng.choice(mine), rng, tally)

        return work

    def _change(self, name: str, rng: random.Random, tally: Tally) -> None:
        number = self._logs[name].last.number
        if number is None:
            tally.add("recreated")
            return self._write(name, random_shape(rng), tally)
        before = self._shapes[number]
        match rng.choice(("same", "same", "smaller", "larger", "any", "deleted")):
            case "deleted":
                self._logs[name].begin(None)
                self._place.delete(name)
                self._logs[name].end()
                return tally.add("deleted")
            case "same":
                shape = before
            case "smaller":
                shape = random_shape(rng, max(1, before.rows // 2))
            case "larger":
                shape = random_shape(rng, before.rows + rng.randint(1, 400))
            case _:
                shape = random_shape(rng)
        return self._write(name, shape, tally, in_place=rng.random() < 0.3)

    def _write(self, name: str, shape: Shape, tally: Tally, in_place: bool = False) -> None:
        log, number = self._logs[name], next(self._numbers[name])
        content = file_of(number, shape)
        self._shapes[number] = shape
        log.begin(number, torn=in_place)
        torn = False
        if in_place:
            torn = self._place.rewrite(name, content)
        else:
            self._place.replace(name, content)
        log.end()
        size = self._sizes.get(name, len(content))
        self._sizes[name] = len(content)
        tally.add("written")
        tally.add("same size" if size == len(content) else "shrunk" if size > len(content) else "grown")
        if torn:
            tally.add("written in place")

    # Reading.

    def _reader(self, number: int) -> Callable[[Tally], None]:
        rng = random.Random(self._seed * 1_000 + 500 + number)
        kept: deque[Kept] = deque(maxlen=TICKETS_KEPT)
        client = self._connect()

        def work(tally: Tally) -> None:
            with client:
                while not self._stop.is_set() and self._left.acquire(blocking=False):
                    tally.add("reads")
                    self._read_once(client, rng, kept, tally)

        return work

    def _read_once(self, client: flight.FlightClient, rng: random.Random, kept: deque[Kept], tally: Tally) -> None:
        if kept and rng.random() < OLD_TICKET_SHARE:
            return self._read_again(client, rng.choice(kept), tally)
        mount = rng.choice(self.mounts)
        if mount.max_age_s is None and rng.random() < REFRESH_SHARE:
            began_s = time.monotonic()
            act(client, "dataset.refresh", {"path": mount.path})
            self._refreshed_s = max(self._refreshed_s, began_s)
            tally.add("refreshes")
        if rng.random() < FOLDER_SHARE:
            return self._read_folder(client, mount, rng, tally)
        return self._read_object(client, mount, rng, kept, tally)

    def _read_object(
        self, client: flight.FlightClient, mount: Mount, rng: random.Random, kept: deque[Kept], tally: Tally
    ) -> None:
        name, ask = rng.choice(self.names), random_ask(rng)
        since_s = self._since(mount)
        try:
            answer = fetch(client, by_scan(f"{mount.path}/{name}", **ask.spec))
        except ANSWERED as error:
            return self._check_error(error, self._logs[name].possible(since_s, time.monotonic()), tally)
        possible = self._logs[name].possible(since_s, time.monotonic())
        number = self._check_answer(answer.table, ask, possible, f"{mount.path}/{name}")
        tally.add("whole")
        for source in answer.sources:
            tally.add(f"from {source}")
        if number is not None:
            kept.append(Kept(name, tuple(endpoint.ticket for endpoint in answer.info.endpoints), ask, number))
        return None

    def _read_again(self, client: flight.FlightClient, known: Kept, tally: Tally) -> None:
        tally.add("old tickets")
        since_s = time.monotonic()
        try:
            tables = [fetch_ticket(client, ticket) for ticket in known.tickets]
        except ANSWERED as error:
            possible = self._logs[known.name].possible(since_s, time.monotonic())
            if is_stale(error) or (is_gone(error) and any(change.number is None for change in possible)):
                return tally.add("stale, old ticket")
            raise
        table = pa.concat_tables(tables)
        if not self._is(table, known.ask, known.number):
            raise BrokenPromiseError(f"a ticket of version {known.number} gave {shown(table)} for {known.ask}")
        return tally.add("whole, old ticket")

    def _read_folder(self, client: flight.FlightClient, mount: Mount, rng: random.Random, tally: Tally) -> None:
        ask = random_ask(rng, whole=True)
        since_s = self._since(mount)
        try:
            table = fetch(client, by_scan(mount.path, **ask.spec)).table
        except ANSWERED as error:
            until_s = time.monotonic()
            changes = [change for log in self._logs.values() for change in log.possible(since_s, until_s)]
            return self._check_error(error, changes, tally)
        until_s = time.monotonic()
        at = 0
        for index, name in enumerate(self.names, 1):
            possible = self._logs[name].possible(since_s, until_s)
            numbers = {change.number for change in possible if change.number is not None}
            found = [number for number in numbers_in(table.slice(at)) if number // NUMBERS_AN_OBJECT == index]
            if not found:
                if all(change.number is not None for change in possible):
                    raise BrokenPromiseError(f"{mount.path} gave nothing of {name}, which is there: {possible}")
                continue
            rows = self._shapes[found[0]].rows
            if len(found) > 1 or found[0] not in numbers or not self._is(table.slice(at, rows), ask, found[0]):
                raise BrokenPromiseError(f"{mount.path}: {name} is {found} in an answer where it may be {possible}")
            at += rows
        if at != table.num_rows:
            raise BrokenPromiseError(f"{mount.path} gave {table.num_rows - at} rows that belong to nothing")
        return tally.add("whole folders")

    def _since(self, mount: Mount) -> float:
        """When an answer to a request that is made now may have been true."""
        return self._refreshed_s if mount.max_age_s is None else time.monotonic() - mount.max_age_s

    def _check_error(self, error: BaseException, possible: Sequence[Change], tally: Tally) -> None:
        kind, absent = kind_of(error), any(change.number is None for change in possible)
        allowed = {
            "NOT_FOUND": absent,
            "ABORTED": len(possible) > 1 and (is_stale(error) or (is_gone(error) and absent)),
            "DATA_LOSS": any(change.torn for change in possible),
        }
        if not allowed.get(kind, False):
            raise error
        tally.add({"NOT_FOUND": "not found", "ABORTED": "stale", "DATA_LOSS": "half written"}[kind])

    def _check_answer(self, table: pa.Table, ask: Ask, possible: Sequence[Change], where: str) -> int | None:
        """The version that the answer is; none where nothing is in it, which must be right for some version."""
        if table.num_rows == 0:
            numbers = [change.number for change in possible if change.number is not None]
            if not any(self._is(table, ask, number) for number in numbers):
                raise BrokenPromiseError(f"{where} gave no rows for {ask}, right for none of {possible}")
            return None
        numbers = numbers_in(table)
        if len(numbers) != 1:
            raise BrokenPromiseError(f"{where} gave a mixture of versions {numbers} for {ask}")
        (number,) = numbers
        if number not in self._shapes or not self._is(table, ask, number):
            raise BrokenPromiseError(f"{where} gave {shown(table)} for {ask}, which is not version {number}")
        if all(change.number != number for change in possible):
            raise BrokenPromiseError(f"{where} gave version {number} where only these are recent enough: {possible}")
        return number

    def _is(self, table: pa.Table, ask: Ask, number: int) -> bool:
        """Whether the rows are the right answer, where the object is at this version."""
        return table.equals(ask.of(number, self._shapes[number].rows))

    # Threads.

    def _again(self, work: Callable[[Tally], None]) -> Callable[[Tally], None]:
        def works(tally: Tally) -> None:
            while not self._stop.is_set():
                work(tally)

        return works

    def _guarded(self, work: Callable[[Tally], None], tally: Tally) -> None:
        try:
            work(tally)
        except Exception as error:
            self._failures.append(f"{type(error).__name__}: {error}")
            self._stop.set()


def is_stale(error: BaseException) -> bool:
    """Whether the answer was that the object is another version now."""
    return kind_of(error) == "ABORTED" and "STALE" in str(error)


def is_gone(error: BaseException) -> bool:
    """Whether the answer was that the object, planned to be read, is no more."""
    return kind_of(error) == "ABORTED" and any(words in str(error) for words in ("No such file", "404"))


def shown(table: pa.Table) -> dict[str, Any]:
    """The beginning and the length of an answer."""
    return {"rows": table.num_rows, "first": table.slice(0, 3).to_pylist()}
