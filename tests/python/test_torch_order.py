"""The order of an epoch, its ranks and resumptions: the extension module against `harness/order.py`, and the promises.

No torch and no server: what is read is the plan, row by row.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jetbridge import _native
from jetbridge.errors import InvalidRequestError, StaleError
from jetbridge.torch import _core, _shared
from jetbridge.torch._core import Epochs, Settings
from jetbridge.torch._state import latest_state
from jetbridge.torch._units import Units

from harness import order
from harness.order import How, Row, Taken

VECTORS = Path(__file__).parents[2] / "python" / "testdata" / "order.json"
EXAMPLES = settings(max_examples=150, deadline=None)


@dataclass(frozen=True)
class Run:
    """An epoch as some ranks go through it."""

    units: Sequence[int]
    how: How = field(default_factory=How)
    before: Sequence[Taken] = ()
    world: int = 1
    batch_size: int = 4
    even: str = "drop"
    drop_last: bool = False

    def course(self, rank: int = 0, worker: int = 0, workers: int = 1, run: int = 1) -> _native.EpochCourse:
        """What one reader does."""
        request = {
            "units": [(0, number, rows, 8 * rows) for number, rows in enumerate(self.units)],
            "seed": self.how.seed,
            "epoch": self.how.epoch,
            "shuffle_buffer": self.how.buffer,
            "before": list(self.before),
            "world": self.world,
            "rank": rank,
            "batch_size": self.batch_size,
            "even": self.even,
            "drop_last": self.drop_last,
            "worker": worker,
            "workers": workers,
            "run": run,
        }
        return _native.EpochCourse(json.dumps(request))

    def ranks(self) -> list[list[list[Row]]]:
        """The batches of each rank."""
        return [list(batches(self.course(rank))) for rank in range(self.world)]

    def expected(self) -> list[list[list[Row]]]:
        """The same by the other implementation."""
        left = order.after(order.epoch(self.units, self.how), self.before)
        return order.steps(left, self.world, self.batch_size, self.even, self.drop_last)

    def left(self) -> list[Row]:
        """What of the epoch was not handed out before."""
        return order.after(order.epoch(self.units, self.how), self.before)


def batches(course: _native.EpochCourse) -> Iterator[list[Row]]:
    """All batches of one reader."""
    for number in itertools.count():
        batch = course.batch(number)
        if batch is None:
            return
        yield batch


def rows(ranks: Sequence[Sequence[Sequence[Row]]]) -> list[Row]:
    """All rows that some ranks were handed."""
    return [row for rank in ranks for batch in rank for row in batch]


numbers = st.integers(0, 2**64 - 1)
hows = st.builds(How, numbers, st.integers(0, 2**40), st.none() | st.integers(1, 5))
unit_lists = st.lists(st.integers(1, 12), min_size=1, max_size=12)
takens = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(0, 4)), max_size=3)
runs = st.builds(
    Run,
    units=unit_lists,
    how=hows,
    before=takens,
    world=st.integers(1, 5),
    batch_size=st.integers(1, 7),
    even=st.sampled_from(["drop", "pad"]),
    drop_last=st.booleans(),
)


@EXAMPLES
@given(run=runs)
def test_both_implementations_give_the_same_batches(run: Run) -> None:
    assert run.ranks() == run.expected()


@EXAMPLES
@given(run=runs)
def test_every_row_comes_once_or_as_drop_and_pad_say(run: Run) -> None:
    ranks = run.ranks()
    left, given_rows = Counter(run.left()), Counter(rows(ranks))
    assert len({len(rank) for rank in ranks}) == 1, "every rank makes as many steps"
    sizes = [[len(batch) for batch in rank] for rank in ranks]
    assert all(size == sizes[0] for size in sizes), "of as many rows"
    assert given_rows.keys() <= left.keys()
    missing = left.total() - (given_rows & left).total()
    repeated = given_rows.total() - (given_rows & left).total()
    if run.even == "drop":
        assert repeated == 0
        assert missing < run.world * (run.batch_size if run.drop_last else 1)
    else:
        assert repeated < run.world
        assert missing == 0 or (run.drop_last and missing < run.world * run.batch_size)


@EXAMPLES
@given(run=runs, workers=st.integers(1, 5))
def test_workers_taken_in_turn_give_their_ranks_batches(run: Run, workers: int) -> None:
    for rank in range(run.world):
        readers = [batches(run.course(rank, worker, workers)) for worker in range(workers)]
        assert list(in_turn(readers)) == list(batches(run.course(rank)))


@EXAMPLES
@given(run=runs, workers=st.integers(1, 5), length=st.integers(1, 6))
def test_packs_taken_in_turn_give_their_ranks_batches(run: Run, workers: int, length: int) -> None:
    for rank in range(run.world):
        readers = [packs(batches(run.course(rank, worker, workers, length)), length) for worker in range(workers)]
        assert list(itertools.chain.from_iterable(in_turn(readers))) == list(batches(run.course(rank)))


def packs(reader: Iterator[Any], length: int) -> Iterator[list[Any]]:
    """So many batches at a time, as DataLoader's worker takes them."""
    while pack := list(itertools.islice(reader, length)):
        yield pack


def in_turn(readers: Sequence[Iterator[Any]]) -> Iterator[Any]:
    """As DataLoader takes from its workers: one after the other, passing over those at their end."""
    open_readers = list(readers)
    while open_readers:
        for reader in list(open_readers):
            batch = next(reader, None)
            if batch is None:
                open_readers.remove(reader)
            else:
                yield batch


@EXAMPLES
@given(run=runs, steps=st.integers(0, 20))
def test_stopping_and_going_on_changes_nothing(run: Run, steps: int) -> None:
    whole = run.ranks()
    steps = min(steps, len(whole[0]))
    resumed = replace(run, before=(*run.before, (run.world, run.batch_size, steps))).ranks()
    if steps < len(whole[0]):
        assert resumed == [rank[steps:] for rank in whole]
    else:
        # Of a finished epoch only what was left out is left; with `pad`, nothing.
        assert len(rows(resumed)) == 0 or run.even == "drop" or run.drop_last


@EXAMPLES
@given(run=runs, steps=st.integers(0, 20), world=st.integers(1, 5), batch_size=st.integers(1, 7))
def test_going_on_with_other_ranks_gives_what_is_left(run: Run, steps: int, world: int, batch_size: int) -> None:
    run = replace(run, even="drop", drop_last=False)
    whole = run.ranks()
    taken = rows([rank[:steps] for rank in whole])
    steps = min(steps, len(whole[0]))
    before = (*run.before, (run.world, run.batch_size, steps))
    resumed = replace(run, before=before, world=world, batch_size=batch_size)
    both = Counter(taken) + Counter(rows(resumed.ranks()))
    assert both <= Counter(run.left()), "no row twice"
    # What a finished epoch left out stays left out.
    left_out = run.world - 1 if steps == len(whole[0]) else 0
    assert Counter(run.left()).total() - both.total() <= left_out + world - 1


@EXAMPLES
@given(units=unit_lists, how=hows)
def test_clumps_hold_whole_units(units: list[int], how: How) -> None:
    positions = rows(Run(units, how, batch_size=1).ranks())
    size = how.buffer or 1
    found, start = [], 0
    while start < len(positions):
        clump = []
        for unit, _ in positions[start:]:
            if unit not in clump:
                if len(clump) == size:
                    break
                clump.append(unit)
        count = sum(units[unit] for unit in clump)
        assert {unit for unit, _ in positions[start : start + count]} == set(clump)
        found += clump
        start += count
    assert sorted(found) == list(range(len(units)))


def test_epochs_and_seeds_differ() -> None:
    units = [20] * 10
    seen = {
        json.dumps(Run(units, How(seed, epoch, 3)).ranks()) for seed, epoch in itertools.product(range(5), range(5))
    }
    assert len(seen) == 25
    assert Run(units, How(1, 2, None)).ranks() == Run(units, How(3, 4, None)).ranks()


def test_ranks_that_are_not_even_are_refused_if_asked_to() -> None:
    even = replace(Run([10, 2]), even="error", world=3)
    assert [len(rank) for rank in even.ranks()] == [1, 1, 1]
    with pytest.raises(InvalidRequestError, match="13 rows do not divide evenly among 3 ranks"):
        replace(even, units=[10, 3]).course()
    with pytest.raises(InvalidRequestError, match="in batches of 3"):
        replace(even, batch_size=3, drop_last=True).course()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rank": 3, "world": 3}, "rank 3 of 3"),
        ({"world": 0}, "rank 0 of 0"),
        ({"batch_size": 0}, "one row or more"),
        ({"worker": 2, "workers": 2}, "worker"),
        ({"even": "odd"}, "even must be"),
        ({"typo": 1}, "unknown field"),
        ({"units": [(0, 0, -1, 0)]}, "invalid value"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(changed: dict[str, Any], words: str) -> None:
    request = {"units": [(0, 0, 5, 40)], "world": 1, "rank": 0, "batch_size": 1, "even": "drop", "drop_last": False}
    with pytest.raises(InvalidRequestError, match=words):
        _native.EpochCourse(json.dumps(request | changed))


def test_vectors() -> None:
    """What `python/testdata/order.json` says holds for both implementations."""
    vectors = json.loads(VECTORS.read_text())
    for vector in vectors["mix"]:
        assert order.mix(int(vector["a"]), int(vector["b"])) == int(vector["mix"])
    for vector in vectors["shuffled"]:
        assert order.shuffled(vector["count"], int(vector["key"])) == vector["order"]
    assert len(vectors["epochs"]) > 5
    for vector in vectors["epochs"]:
        run = Run(
            vector["units"],
            How(int(vector["seed"]), vector["epoch"], vector["shuffle_buffer"]),
            [tuple(taken) for taken in vector["before"]],
            *(vector[name] for name in ("world", "batch_size", "even", "drop_last")),
        )
        batches_of_ranks = [[[tuple(row) for row in batch] for batch in rank] for rank in vector["ranks"]]
        assert run.ranks() == run.expected() == batches_of_ranks


# What keeps the state, over a reader that gives rows instead of columns.


@dataclass
class Loader:
    """As the extension module's, without a server."""

    batches: Iterator[list[Row]]

    def next(self) -> list[Any] | None:
        batch = next(self.batches, None)
        return None if batch is None else [("row", "objects", batch, None)]


class Engine:
    """Gives the rows that a course names."""

    def is_ours(self) -> bool:
        return True

    def load(self, request: str) -> Loader:
        course = _native.EpochCourse(request)
        return Loader(itertools.islice(batches(course), json.loads(request)["skip"], None))


@dataclass(frozen=True)
class FakeSpec:
    path: str = "/lake/set"
    columns: tuple[str, ...] | None = None
    filter: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class FakeScan:
    _spec: FakeSpec = field(default_factory=FakeSpec)
    _connection: Any = None


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the epochs of a dataset with such units."""
    return maker(monkeypatch)


def maker(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)

    def made(units: Sequence[int], rank: int = 0, world: int = 1, snapshot: str = "s", **options: Any) -> Epochs:
        found = Units(snapshot, ("a",), [0] * len(units), list(range(len(units))), list(units), list(units))
        monkeypatch.setattr(_core, "units_of", lambda *_: found)
        chosen = {"batch_size": 3, "shuffle": True, "seed": 7, "shuffle_buffer": 2} | options
        epochs = Epochs(FakeScan(), Settings(**chosen), rank, world)
        epochs._engine = Engine()
        return epochs

    return made


def taken(iteration: Any, count: int | None = None) -> list[list[Row]]:
    """The rows of so many batches, or of all that come."""
    return [columns[0][2] for columns in itertools.islice(iteration, count)]


def test_a_state_counts_what_was_taken_and_goes_on_from_there(make: Any) -> None:
    units = [5, 8, 3, 6]
    whole = taken(make(units).columns(None))
    first = make(units)
    assert first.steps() == len(whole) == 8
    begun = first.columns(None)
    assert taken(begun, 3) == whole[:3]
    state = json.loads(json.dumps(first.state_dict()))
    second = make(units)
    second.load_state_dict(state, None)
    assert second.steps() == 5
    assert second.state_dict() == state, "asked for before anything was taken, it is the same"
    assert taken(second.columns(None), 2) == whole[3:5]
    third = make(units)
    third.load_state_dict(second.state_dict(), None)
    assert taken(third.columns(None)) == whole[5:]
    assert taken(third.columns(None)) == whole, "the iteration after the resumed one is a whole one"


def test_the_state_is_the_same_on_every_rank(make: Any) -> None:
    states = []
    for rank in range(3):
        epochs = make([5, 8, 3, 6], rank, 3)
        taken(epochs.columns(None), 2)
        states.append(epochs.state_dict())
    assert states[0] == states[1] == states[2]


def test_a_finished_epoch_is_over_until_the_next_is_set(make: Any) -> None:
    epochs = make([5, 8, 3, 6])
    whole = taken(epochs.columns(None))
    resumed = make([5, 8, 3, 6])
    resumed.load_state_dict(epochs.state_dict(), None)
    resumed.set_epoch(0)
    assert taken(resumed.columns(None)) == []
    resumed.set_epoch(1)
    following = taken(resumed.columns(None))
    assert sorted(map(str, rows([following]))) == sorted(map(str, rows([whole])))
    assert following != whole


def test_another_epoch_forgets_the_position(make: Any) -> None:
    epochs = make([5, 8, 3, 6])
    taken(epochs.columns(None), 2)
    epochs.set_epoch(4)
    assert epochs.state_dict()["epoch"] == 4
    assert epochs.state_dict()["taken"] == []
    assert len(taken(epochs.columns(None))) == 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": 8}, "seed=7.*seed=8"),
        ({"shuffle": False}, "shuffle_buffer"),
        ({"shuffle_buffer": 3}, "shuffle_buffer=2.*shuffle_buffer=3"),
    ],
)
def test_a_state_of_another_order_is_refused(make: Any, options: dict[str, Any], words: str) -> None:
    state = make([5, 8]).state_dict()
    with pytest.raises(InvalidRequestError, match=words):
        make([5, 8], **options).load_state_dict(state, None)


def test_a_state_of_other_data_is_refused(make: Any) -> None:
    state = make([5, 8]).state_dict()
    with pytest.raises(StaleError, match="version s of the data, which is t now"):
        make([5, 8], snapshot="t").load_state_dict(state, None)


@pytest.mark.parametrize("state", [{}, {"version": 2}, {"epoch": 1}])
def test_what_is_no_state_is_refused(make: Any, state: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="no state of version 1"):
        make([5, 8]).load_state_dict(state, None)
    good = make([5, 8]).state_dict()
    for wrong in ([[1, 2]], [[0, 1, 1]], [[1, 1, -1]], "x", [["a", 1, 1]]):
        with pytest.raises(InvalidRequestError, match="handed out"):
            make([5, 8]).load_state_dict(good | {"taken": wrong}, None)


def test_more_ranks_than_row_groups_are_refused(make: Any) -> None:
    with pytest.raises(InvalidRequestError, match="3 ranks are more than the 2 row groups"):
        make([5, 8], 0, 3)


def test_settings_that_make_no_sense_are_refused(make: Any) -> None:
    for options, words in [
        ({"batch_size": 0}, "batch_size is a whole number, 1 or more"),
        ({"batch_size": True}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "64 bits"),
        ({"even": "odd"}, "even is one of drop, pad, error"),
        ({"nulls": "skip"}, "nulls is one of"),
        ({"fill": (("a", 1),)}, "fill says"),
    ]:
        with pytest.raises(InvalidRequestError, match=words):
            make([5, 8], **options)
    with pytest.raises(InvalidRequestError, match="rank 2 of 2"):
        make([5, 8], 2, 2)
    with pytest.raises(InvalidRequestError, match="epoch"):
        make([5, 8]).set_epoch(-1)


def test_ranks_come_from_the_environment_unless_they_are_given(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert make([5, 8], None, None).ranks() == _core.Ranks(1, 2)
    assert make([5, 8], 0, 1).ranks() == _core.Ranks(0, 1)
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(InvalidRequestError, match="WORLD_SIZE='two'"):
        make([5, 8], None, None)
    with pytest.raises(InvalidRequestError, match="belong together"):
        make([5, 8], 1, None)


@EXAMPLES
@given(
    units=unit_lists,
    workers=st.integers(1, 4),
    first=st.integers(0, 30),
    world=st.integers(1, 3),
)
def test_workers_states_resume_to_the_row(units: list[int], workers: int, first: int, world: int) -> None:
    """As StatefulDataLoader does it: each worker saves its own state with each batch, and loads it."""
    world = min(world, len(units))
    with pytest.MonkeyPatch.context() as monkeypatch:
        make = maker(monkeypatch)
        for rank in range(world):
            whole = taken(make(units, rank, world).columns(None))
            copies = [make(units, rank, world) for _ in range(workers)]
            readers = [copy.columns((worker, workers)) for worker, copy in enumerate(copies)]
            # A worker may have read further than the trainer took: its state is that of the last batch taken from it.
            states = [copy.state_dict() for copy in copies]
            got = []
            for number in range(min(first, len(whole))):
                worker = number % workers
                got += taken(readers[worker], 1)
                states[worker] = copies[worker].state_dict()
            assert got == whole[: len(got)]
            resumed = [make(units, rank, world) for _ in range(workers)]
            for worker, copy in enumerate(resumed):
                copy.load_state_dict(states[worker], (worker, workers))
            readers = [copy.columns((worker, workers)) for worker, copy in enumerate(resumed)]
            turn = len(got) % workers
            rest = [batch[0][2] for batch in in_turn(readers[turn:] + readers[:turn])]
            assert got + rest == whole
            # The whole rank's, out of theirs: for another number of workers.
            others = make(units, rank, world)
            others.load_state_dict(latest_state({"snapshots": states}), None)
            assert taken(others.columns(None)) == whole[len(got) :]


def test_workers_that_are_started_anew_resume_once(make: Any) -> None:
    """A plain DataLoader pickles the dataset for its workers each time: only the first time goes on from the state."""
    units = [5, 8, 3, 6]
    whole = taken(make(units).columns(None))
    first = make(units)
    taken(first.columns(None), 3)
    main = make(units)
    main.load_state_dict(first.state_dict(), None)
    for expected in (whole[3:], whole):
        copies = [copied(main) for _ in range(2)]
        readers = [copy.columns((worker, 2)) for worker, copy in enumerate(copies)]
        assert [batch[0][2] for batch in in_turn(readers)] == expected
    main.set_epoch(1)
    assert copied(main).state_dict()["taken"] == []


def copied(epochs: Epochs) -> Epochs:
    """As a fork copies it: another object over the same shared memory."""
    copy = Epochs.__new__(Epochs)
    copy.__dict__.update(epochs.__dict__)
    return copy


def test_what_workers_gave_is_not_guessed(make: Any) -> None:
    main = make([5, 8, 3, 6])
    taken(copied(main).columns((0, 2)), 1)
    with pytest.raises(ValueError, match="come out of DataLoader workers"):
        main.state_dict()
    position = main.begin_outside()
    main.note(position)
    assert main.state_dict()["taken"] == []
    taken(main.columns(None), 2)
    assert main.state_dict()["taken"] == [[1, 3, 2]]


def test_workers_that_run_do_not_miss_a_loaded_state(make: Any) -> None:
    main = make([5, 8, 3, 6])
    worker = copied(main)
    main.load_state_dict(main.state_dict(), None)
    with pytest.raises(ValueError, match="after these DataLoader workers were started"):
        worker.columns((0, 1))


def test_running_workers_see_a_new_epoch(make: Any) -> None:
    main = make([5, 8, 3, 6])
    worker = copied(main)
    before = taken(worker.columns((0, 1)))
    main.set_epoch(3)
    assert worker.epoch == 3
    assert taken(worker.columns((0, 1))) != before


def test_ranks_that_a_process_starts_count_for_themselves(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They inherit the dataset's memory as DataLoader workers do, whichever way they are started."""
    main = make([5, 8, 3, 6])
    taken(main.columns(None), 2)
    main.load_state_dict(main.state_dict(), None)
    rank, other = copied(main), copied(main)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(_shared, "os", SimpleNamespace(getpid=lambda: 0))
        rank.set_epoch(3)
        assert taken(rank.columns(None)) != taken(other.columns(None))
        # Its own workers are of its epoch, and know of what it has loaded.
        rank.load_state_dict(rank.state_dict(), None)
        assert copied(rank).columns((0, 1)) is not None
        assert (rank.epoch, other.epoch) == (3, 0)
    assert main.epoch == 0
    worker = copied(main)
    assert len(taken(worker.columns((0, 1)))) == 6, "the state that was loaded is nobody else's"
