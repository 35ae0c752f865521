"""Fixtures of the torch tests: one server, a dataset of small row groups, and what checks that nothing is left."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jetbridge as jb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jetbridge.client import Client
from jetbridge.scan import Dataset

from harness.leftovers import children_of
from harness.server import Options, Server

FILES = 5
ROWS = 1_000
GROUP_ROWS = 130
TOTAL = FILES * ROWS
# Threads that idle are gone in less than this; what was let go of may take longer on a busy machine.
QUIET_S, SETTLE_S = 5.0, 60.0
# Less than one a turn of fifty.
FEW = 10


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files whose column `n` numbers the rows."""
    found = tmp_path_factory.mktemp("lake")
    (found / "rows").mkdir()
    for number in range(FILES):
        write(found / "rows" / f"{number}.parquet", number * ROWS, ROWS)
    return found


def write(path: Path, start: int, rows: int) -> None:
    """One file of numbers, in small row groups."""
    numbers = range(start, start + rows)
    table = pa.table(
        {
            "n": pa.array(numbers, pa.int64()),
            "x": pa.array([number / 2 for number in numbers], pa.float32()),
            "even": pa.array([number % 2 == 0 for number in numbers]),
            "text": pa.array([f"row {number}" for number in numbers]),
        }
    )
    pq.write_table(table, path, row_group_size=GROUP_ROWS)


@pytest.fixture(scope="session")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that do not end it."""
    running = Server(tmp_path_factory.mktemp("server") / "data", Options(mounts={"/lake": f"file://{folder}"}))
    yield running
    assert running.stop() == 0, running.daemon.log_tail


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A client of it."""
    with jb.connect(server.flight_uri) as connected:
        yield connected


@pytest.fixture
def rows(client: Client) -> Dataset:
    """The dataset of numbers."""
    return client.dataset("/lake/rows")


def flat(batches: Iterable[list[int]]) -> list[int]:
    """The rows of all batches."""
    return [row for batch in batches for row in batch]


@dataclass(frozen=True)
class Left:
    """What a process holds: threads, children, descriptors, and segments with a name."""

    threads: int
    children: int
    descriptors: int
    segments: int

    @classmethod
    def now(cls) -> Left:
        gc.collect()
        own = Path("/proc/self")
        return cls(
            len(list(own.joinpath("task").iterdir())),
            len(children_of(os.getpid())),
            len(list(own.joinpath("fd").iterdir())),
            len(os.listdir("/dev/shm")),
        )

    def exceeds(self, before: Left) -> bool:
        """Whether there is more of anything; of descriptors a few, since connections are made when they are needed."""
        more = {name: value - getattr(before, name) for name, value in vars(self).items()}
        return more.pop("descriptors") > FEW or any(value > 0 for value in more.values())


def quiet() -> Left:
    """What is there after a while without work."""
    gc.collect()
    time.sleep(QUIET_S)
    return Left.now()


def settle(before: Left) -> Left:
    """What is left after a while, or as soon as it is no more than before."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        now = Left.now()
        if not now.exceeds(before) or time.monotonic() > deadline:
            return now
        threading.Event().wait(0.05)


@pytest.fixture
def start_own(folder: Path, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers of the test's own."""
    started: list[Server] = []

    def start(*args: str) -> Server:
        options = Options(mounts={"/lake": f"file://{folder}"}, args=args)
        started.append(Server(tmp_path / f"own-{len(started)}", options))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def pytest_configure(config: pytest.Config) -> None:
    """Warnings are errors here, but those that torch and Python give to whoever does what these tests must do."""
    for ignored in (
        # More workers than this machine has processors.
        "ignore:This DataLoader will create:UserWarning",
        # A loop over a whole epoch after one that was resumed, whose length was asked for.
        "ignore:Length of IterableDataset:UserWarning",
        # Forks beside threads, which is what is tried.
        "ignore:This process .* is multi-threaded:DeprecationWarning",
        # A thread of a queue of torchdata's that ends while a later loader forks.
        "ignore:Exception ignored in thread started by.*QueueFeederThread:pytest.PytestUnraisableExceptionWarning",
        # torchdata, which is not developed any more, with a newer torch.
        "ignore:'set_vital' is deprecated:UserWarning",
    ):
        config.addinivalue_line("filterwarnings", ignored)
