"""DataLoader with and without workers, however they are started; StatefulDataLoader; states; nothing is left behind."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jetbridge as jb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from jetbridge.client import Client
from jetbridge.scan import Dataset
from jetbridge.torch._packs import MAX_BATCHES, PACK_BYTES, batches_of_pack
from torch.utils.data import DataLoader

from conftest import TOTAL, Left, flat, quiet, settle
from harness.server import Server

OPTIONS: dict[str, Any] = {"batch_size": 64, "shuffle": True, "shuffle_buffer": 3, "seed": 3}
METHODS = ("fork", "spawn", "forkserver")


def make(rows: Dataset, **options: Any) -> Any:
    return jb.torch.IterableDataset(rows, **(OPTIONS | options))


def numbers(data: Any) -> list[list[int]]:
    return [batch["n"].tolist() for batch in data]


def context(method: str, workers: int) -> dict[str, Any]:
    return {"num_workers": workers, "multiprocessing_context": method if workers else None}


@pytest.fixture(scope="module")
def whole(server: Server) -> list[list[int]]:
    """The batches of an epoch as they come in one process."""
    with jb.connect(server.flight_uri) as client:
        return numbers(make(client.dataset("/lake/rows")))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("workers", [0, 2, 4])
def test_a_plain_dataloader_gives_the_same_batches(
    rows: Dataset, whole: list[list[int]], workers: int, method: str
) -> None:
    data = make(rows)
    # Threads and connections that there are already must not disturb those of the workers.
    assert next(iter(data))["n"].tolist() == whole[0]
    loader = DataLoader(data, batch_size=None, **context(method, workers))
    assert numbers(loader) == whole
    assert len(loader) == len(whole)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_persistent_workers_see_the_epoch(rows: Dataset, whole: list[list[int]], method: str) -> None:
    data = make(rows)
    loader = DataLoader(data, batch_size=None, persistent_workers=True, **context(method, 2))
    epochs = []
    for epoch in (0, 1, 2, 0):
        data.set_epoch(epoch)
        epochs.append(numbers(loader))
    assert epochs[0] == epochs[3] == whole
    assert epochs[1] != epochs[2]
    assert epochs[1] != whole
    assert all(sorted(flat(epoch)) == list(range(TOTAL)) for epoch in epochs)


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("workers", [0, 2, 3])
def test_our_dataloader_counts_what_the_loop_was_handed(
    rows: Dataset, whole: list[list[int]], workers: int, persistent: bool
) -> None:
    options = {"num_workers": workers, "persistent_workers": persistent and workers > 0}
    loader = jb.torch.DataLoader(make(rows), **options)
    batches = iter(loader)
    got = [next(batches)["n"].tolist() for _ in range(11)]
    state = json.loads(json.dumps(loader.state_dict()))
    del batches
    assert state["taken"] == [[1, 64, 11]]
    assert got == whole[:11]
    for others in (0, 2, 4):
        resumed = jb.torch.DataLoader(make(rows), num_workers=others)
        resumed.load_state_dict(state)
        assert len(resumed) == len(whole) - 11
        assert numbers(resumed) == whole[11:]
        assert numbers(resumed) == whole, "the loop after the resumed one is a whole one"


def assert_alike(ours: Any, other: Any) -> None:
    """Two batches, or parts of them."""
    assert type(ours) is type(other)
    if isinstance(ours, torch.Tensor):
        assert ours.dtype == other.dtype
        assert torch.equal(ours, other)
    elif isinstance(ours, dict):
        assert ours.keys() == other.keys()
        for name, value in ours.items():
            assert_alike(value, other[name])
    elif isinstance(ours, tuple):
        assert len(ours) == len(other)
        for mine, theirs in zip(ours, other, strict=True):
            assert_alike(mine, theirs)
    else:
        assert ours == other


@pytest.mark.parametrize("method", METHODS)
def test_packs_of_workers_have_all_kinds_of_values(client: Client, folder: Path, method: str) -> None:
    count = 3_000
    numbers = range(count)
    table = pa.table(
        {
            "n": pa.array(numbers),
            "small": pa.array([number % 100 if number % 7 else None for number in numbers], pa.int8()),
            "even": pa.array([number % 2 == 0 for number in numbers]),
            "text": pa.array([f"row {number}" if number % 5 else None for number in numbers]),
            "pair": pa.array([[number, number + 1] for number in numbers], pa.list_(pa.float32(), 2)),
            "list": pa.array([[number] * (number % 4) for number in numbers], pa.list_(pa.int64())),
            "nothing": pa.array([[] for _ in numbers], pa.list_(pa.int16())),
            "part": pa.array([{"x": number / 4, "y": str(number)} for number in numbers]),
        }
    )
    (folder / "kinds").mkdir(exist_ok=True)
    pq.write_table(table, folder / "kinds" / "a.parquet", row_group_size=400)
    client.refresh("/lake")
    options = {"batch_size": 25, "nulls": "mask", "shuffle": True, "seed": 4}
    data = jb.torch.IterableDataset(client.dataset("/lake/kinds"), **options)
    here = [*jb.torch.DataLoader(data)]
    loader = jb.torch.DataLoader(data, num_workers=2, multiprocessing_context=method)
    assert (loader._pack or 0) > 1, "several batches come at a time"
    assert len(loader) == len(here) == count // 25
    batches = [*loader]
    assert len(batches) == len(here)
    for ours, other in zip(batches, here, strict=True):
        assert_alike(ours, other)
    # Each tensor is the loop's own, whatever else came in the same memory.
    others = {name: value.clone() for name, value in batches[1].items() if isinstance(value, torch.Tensor)}
    for value in batches[0].values():
        if isinstance(value, torch.Tensor):
            value.zero_()
    for name, value in others.items():
        assert torch.equal(batches[1][name], value)
    # For autograd, too: what was saved for a backward pass is not changed by a write beside it.
    assert {value._version for value in batches[1].values() if isinstance(value, torch.Tensor)} == {0}


def test_packs_are_bounded_in_bytes_and_leave_every_worker_several() -> None:
    """``batches_of_pack`` of batches of so many bytes, an epoch's steps, workers, and packs that each has ready."""
    assert batches_of_pack(64 << 10, 10_000, 2, 2) == PACK_BYTES // (64 << 10)
    assert batches_of_pack(64 << 10, 10_000, 2, 32) == PACK_BYTES // (64 << 10) // 16
    assert batches_of_pack(64 << 10, 80, 2, 2) == 10
    assert batches_of_pack(1, 10**9, 2, 2) == MAX_BATCHES
    assert batches_of_pack(1 << 30, 10_000, 2, 2) == batches_of_pack(1, 3, 8, 2) == 1


def test_persistent_workers_of_our_loader_see_the_epoch(rows: Dataset, whole: list[list[int]]) -> None:
    data = make(rows)
    loader = jb.torch.DataLoader(data, num_workers=2, persistent_workers=True)
    epochs = []
    for epoch in (0, 1, 0):
        data.set_epoch(epoch)
        epochs.append(numbers(loader))
    assert epochs[0] == epochs[2] == whole
    assert epochs[1] != whole
    assert sorted(flat(epochs[1])) == list(range(TOTAL))


def test_a_dataset_of_ones_own_may_give_what_it_likes(rows: Dataset) -> None:
    loader = jb.torch.DataLoader(Pairs(rows, batch_size=100), num_workers=2, multiprocessing_context="fork")
    assert [(first, second.item()) for first, second in loader] == [(100, 100 * number) for number in range(50)]


def test_what_a_loader_cannot_do_is_refused(rows: Dataset) -> None:
    for batch_size in (0, 1):
        with pytest.raises(jb.InvalidRequestError, match="batch_size is an argument of the dataset"):
            jb.torch.DataLoader(make(rows), batch_size=batch_size)
    jb.torch.DataLoader(make(rows), batch_size=None, shuffle=False, drop_last=False)
    with pytest.raises(jb.InvalidRequestError, match="in_order"):
        jb.torch.DataLoader(make(rows), num_workers=2, in_order=False)


class Pairs(jb.torch.IterableDataset):
    """Gives a tuple in place of a dict."""

    def __iter__(self) -> Any:
        return ((len(batch["n"]), batch["n"][0]) for batch in super().__iter__())


def test_a_loader_of_texts_alone_and_one_with_a_function_of_its_own(rows: Dataset, whole: list[list[int]]) -> None:
    data = jb.torch.IterableDataset(rows.select("text"), batch_size=64)
    texts = [text for batch in jb.torch.DataLoader(data, num_workers=2) for text in batch["text"]]
    assert texts == [f"row {number}" for number in range(TOTAL)]
    loader = jb.torch.DataLoader(make(rows), num_workers=2, collate_fn=lambda batch: batch["n"] + 1)
    assert [batch.tolist() for batch in loader] == [[n + 1 for n in batch] for batch in whole]


def test_a_plain_dataloader_with_workers_does_not_guess(rows: Dataset) -> None:
    data = make(rows)
    for _ in DataLoader(data, batch_size=None, num_workers=2):
        break
    with pytest.raises(jb.ClosedError, match="come out of DataLoader workers"):
        data.state_dict()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("steps", [1, 10, 45])
def test_stateful_dataloader_resumes(rows: Dataset, whole: list[list[int]], workers: int, steps: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")
    loader = stateful.StatefulDataLoader(make(rows), batch_size=None, num_workers=workers)
    batches = iter(loader)
    got = [next(batches)["n"].tolist() for _ in range(steps)]
    state = copy.deepcopy(loader.state_dict())
    del batches
    resumed = stateful.StatefulDataLoader(make(rows), batch_size=None, num_workers=workers)
    resumed.load_state_dict(state)
    assert got + numbers(resumed) == whole
    # The same state, for another number of workers and of ranks.
    merged = jb.torch.latest_state(state)
    others = jb.torch.DataLoader(make(rows), num_workers=3)
    others.load_state_dict(merged)
    assert numbers(others) == whole[steps:]
    ranks = [make(rows, rank=rank, world_size=2) for rank in range(2)]
    for rank in ranks:
        rank.load_state_dict(merged)
    left = sorted(flat(whole[steps:]))
    shared = sorted(n for rank in ranks for batch in numbers(rank) for n in batch)
    assert len(left) - len(shared) == len(left) % 2
    assert set(shared) <= set(left)


def test_a_second_resumption_goes_on_too(rows: Dataset, whole: list[list[int]]) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")
    got: list[list[int]] = []
    state = None
    for _ in range(4):
        loader = stateful.StatefulDataLoader(make(rows), batch_size=None, num_workers=2)
        if state is not None:
            loader.load_state_dict(state)
        batches = iter(loader)
        got += [next(batches)["n"].tolist() for _ in range(7)]
        state = copy.deepcopy(loader.state_dict())
        del batches
    assert got == whole[:28]


def ranked(rank: int, world: int, uri: str, port: int, results: Any) -> None:
    """One process of a group, which knows its rank from the group alone."""
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    with jb.connect(uri) as client:
        data = make(client.dataset("/lake/rows"))
        loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="spawn")
        results.put((rank, numbers(loader)))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_ranks_come_from_the_process_group(server: Server, rows: Dataset) -> None:
    from harness.ports import free_port

    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    port = free_port()
    group = [spawn.Process(target=ranked, args=(rank, 2, server.flight_uri, port, results)) for rank in range(2)]
    for process in group:
        process.start()
    found = dict(results.get(timeout=120) for _ in group)
    for process in group:
        process.join(60)
        assert process.exitcode == 0
    assert found == {rank: numbers(make(rows, rank=rank, world_size=2)) for rank in range(2)}


def of_epoch(data: Any, epoch: int, barrier: Any, results: Any) -> None:
    """One of several processes over one dataset, each in an epoch of its own."""
    data.set_epoch(epoch)
    barrier.wait(120)
    results.put((epoch, numbers(DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork"))))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_that_are_no_workers_have_epochs_of_their_own(rows: Dataset, method: str) -> None:
    data = make(rows)
    own = multiprocessing.get_context(method)
    results, barrier = own.Queue(), own.Barrier(2)
    group = [own.Process(target=of_epoch, args=(data, epoch, barrier, results)) for epoch in (1, 2)]
    for process in group:
        process.start()
    found = dict(results.get(timeout=120) for _ in group)
    for process in group:
        process.join(60)
        assert process.exitcode == 0
    assert data.epoch == 0
    for epoch in (1, 2):
        data.set_epoch(epoch)
        assert found[epoch] == numbers(data)


def test_fifty_starts_and_stops_leave_nothing(rows: Dataset) -> None:
    data = make(rows)
    next(iter(data))
    before = None
    for turn in range(50):
        loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context=METHODS[0])
        for number, _ in enumerate(loader):
            if number == turn % 5:
                break
        del loader
        if turn == 4:
            before = quiet()
    assert before is not None
    after = settle(before)
    assert not after.exceeds(before), f"{after} where there was {before}"


def test_iterations_in_this_process_leave_nothing(rows: Dataset) -> None:
    for _ in range(3):
        numbers(make(rows))
    before = quiet()
    for turn in range(50):
        data = make(rows)
        for number, _ in enumerate(data):
            if number == turn % 5:
                break
        del data
    after = settle(before)
    assert not after.exceeds(before), f"{after} where there was {before}"


def test_a_dataset_used_before_a_fork_is_used_in_the_child(rows: Dataset, whole: list[list[int]]) -> None:
    data = make(rows)
    batches = iter(data)
    assert next(batches)["n"].tolist() == whole[0]
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        # No test framework in the child: what went wrong is its exit code.
        code = 1
        try:
            try:
                next(batches)
            except jb.ClosedError:
                code = 0 if numbers(data) == whole else 2
            os.write(write, b".")
        finally:
            os._exit(code)
    os.close(write)
    assert os.waitstatus_to_exitcode(waited(child)) == 0
    os.close(read)
    assert [whole[0], *numbers(batches)] == whole, "the parent goes on"


def waited(child: int) -> int:
    """The status of a child that ends within a minute; killed where it does not."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


KILLED = """
import os, signal, sys
import jetbridge as jb
from torch.utils.data import DataLoader
data = jb.torch.IterableDataset(jb.connect(sys.argv[1]).dataset("/lake/rows"), batch_size=1)
batches = iter(DataLoader(data, batch_size=None, num_workers=2))
next(batches)
os.kill(batches._workers[0].pid, signal.SIGKILL)
for _ in batches:
    pass
print("the loop came to its end", flush=True)
"""


def test_a_killed_worker_process_is_an_error_and_leaves_nothing(server: Server) -> None:
    before = Left.now()
    # In a process of its own: torch raises from a signal's handler, wherever the process is by then.
    done = subprocess.run(
        [sys.executable, "-c", KILLED, server.flight_uri], capture_output=True, text=True, timeout=180, check=False
    )
    # What torch raises depends on where the loop was: that a worker is dead, or that its connection is.
    assert done.returncode != 0
    assert "came to its end" not in done.stdout
    after = settle(before)
    assert after.children <= before.children
    assert after.segments <= before.segments


INTERRUPTED = """
import os, signal, sys, threading
import jetbridge as jb
# A shell that runs the tests behind itself has them ignore interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
data = jb.torch.IterableDataset(jb.connect(sys.argv[1]).dataset("/lake/rows"), batch_size=1, shuffle=True)
batches, seen = iter(data), []
seen.append(next(batches)["n"].item())
try:
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    while True:
        seen.append(next(batches)["n"].item())
        threading.Event().wait(0.001)
except KeyboardInterrupt:
    pass
seen += [batch["n"].item() for batch in batches]
assert sorted(seen) == sorted(set(seen)), "a row twice"
print(len(seen), flush=True)
"""


def test_an_interrupted_loop_can_go_on(server: Server) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, server.flight_uri], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    # The interrupt may have come between a batch and the list.
    assert int(done.stdout) >= TOTAL - 1


def test_pin_memory_and_collate_work(rows: Dataset, whole: list[list[int]]) -> None:
    loader = DataLoader(make(rows), batch_size=None, num_workers=1, collate_fn=lambda batch: batch["n"] + 1)
    assert [batch.tolist() for batch in loader] == [[n + 1 for n in batch] for batch in whole]
