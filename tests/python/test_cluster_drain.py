"""Workers that are asked to stop: named by nobody before their ports close, streams under way end whole, and a rolling
restart of all moves nothing and fails nobody."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from harness import files
from harness.cluster import Cluster, Node, Read, info, locations, read, until
from harness.compare import assert_same
from harness.flight import chunks, mount
from harness.owners import epoch, named_first, owners

WORKERS = 3
# Files large enough that a stream does not fit the buffers of its connection.
FILES = 24
ROWS_OF_A_FILE = 200_000
DATA = "/data"
LOOK_INTERVAL_S = 0.02
# A machine that stands still for the half second that the others are given shows nothing.
TRIES = 3


@pytest.fixture(scope="module")
def expected() -> pa.Table:
    """The rows."""
    return files.numbers(FILES * ROWS_OF_A_FILE)


@pytest.fixture(scope="module")
def cluster(expected: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three workers and some files, read once."""
    folder = tmp_path_factory.mktemp("drain")
    for number in range(FILES):
        part = expected.slice(number * ROWS_OF_A_FILE, ROWS_OF_A_FILE)
        files.write(folder / "data" / f"{number:03}.parquet", part)
    with Cluster.start(folder, {}, WORKERS, args=["--file-root", str(folder)]) as running:
        with running.coordinator.connect() as client:
            mount(client, DATA, f"file://{folder / 'data'}", freshness="immutable")
        read(running.coordinator.uri, DATA)
        yield running


def test_a_worker_that_stops_is_not_named_before_its_port_closes(cluster: Cluster) -> None:
    """From the coordinator and another worker: at the last look with the port open, nobody names it first any more."""
    assert any(is_unnamed_in_time(cluster) for _ in range(TRIES)), "it was still named when its port had closed"


def is_unnamed_in_time(cluster: Cluster) -> bool:
    """Whether both saw a worker that stops unnamed before they saw its port closed; it is there again afterwards."""
    leaving = cluster.workers[0]
    in_time = []
    with PortWatch(cluster.coordinator, leaving) as one, PortWatch(cluster.workers[1], leaving) as other:
        for watch in (one, other):
            watch.wait_for_looks(3)
        began = time.monotonic()
        leaving.terminate()
        code = leaving.wait_until_ended()
        ended_s = time.monotonic() - began
        for watch in (one, other):
            closed_s, unnamed_s = watch.finish(began)
            print(f"unnamed after {unnamed_s:.2f} s, port closed after {closed_s:.2f} s, ended after {ended_s:.2f} s")
            in_time.append(unnamed_s < closed_s)
    assert code == 0
    leaving.start()
    cluster.wait_for_seats(WORKERS)
    return all(in_time)


def test_streams_under_way_end_whole(cluster: Cluster, expected: pa.Table) -> None:
    """Every stream of a worker is open when SIGTERM comes, and read on once its port is closed; exit code 0."""
    leaving = cluster.workers[1]
    wait_until_named(cluster, leaving)
    with cluster.coordinator.connect() as client:
        endpoints = info(client, DATA).endpoints
    mine = [at for at, endpoint in enumerate(endpoints) if locations(endpoint)[0] == leaving.uri]
    assert mine, "it owns nothing"
    with leaving.connect() as client:
        readers = {at: chunks(client.do_get(endpoints[at].ticket)) for at in mine}
        parts = {at: [next(reader).data] for at, reader in readers.items()}
        leaving.terminate()
        until(lambda: not is_open(leaving), "its port is closed")
        with ThreadPoolExecutor(len(mine)) as pool:
            rest = {at: pool.submit(lambda reader: [chunk.data for chunk in reader], readers[at]) for at in mine}
            for at in mine:
                parts[at] += rest[at].result()
    assert leaving.wait_until_ended() == 0
    with cluster.coordinator.connect() as client:
        others = {at: client.do_get(endpoints[at].ticket).read_all() for at in range(len(endpoints)) if at not in parts}
    whole = [pa.Table.from_batches(parts[at]) if at in parts else others[at] for at in range(len(endpoints))]
    assert_same(pa.concat_tables(whole), expected)
    batches = sum(len(part) for part in parts.values())
    print(f"{len(mine)} streams of {batches} batches ended whole after SIGTERM")
    assert batches > 2 * len(mine)
    leaving.start()
    cluster.wait_for_seats(WORKERS)


def test_a_rolling_restart_moves_nothing_and_fails_nobody(cluster: Cluster, expected: pa.Table) -> None:
    """Each worker stopped and started in turn, under readers that try next locations: reads whole, epoch same."""
    for worker in cluster.workers:
        wait_until_named(cluster, worker)
    with cluster.coordinator.connect() as client:
        before = owners(client, DATA)
    asked = cluster.store_requests()
    done = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        reads: list[Read] = []
        readers = [pool.submit(read_until, done, cluster.coordinator.uri, expected, reads) for _ in range(2)]
        try:
            for worker in cluster.workers:
                asked -= worker.total("jetbridge_store_requests_total")
                assert worker.stop() == 0
                worker.start()
                wait_until_named(cluster, worker)
                with cluster.coordinator.connect() as client:
                    assert owners(client, DATA) == before
            until(lambda: len(reads) > WORKERS or any(reader.done() for reader in readers), "there are reads enough")
        finally:
            done.set()
        for reader in readers:
            reader.result()
    with cluster.coordinator.connect() as client:
        assert epoch(info(client, DATA)) == before.epoch
    failed_over = sum(one.failures > 0 for one in reads)
    requests = cluster.store_requests() - asked
    print(f"{len(reads)} reads whole, {failed_over} of them failed over; {requests:.0f} requests to storage meanwhile")
    assert len(reads) > WORKERS


class PortWatch:
    """Looks again and again whether a worker is named first and whether its port takes connections, in a thread."""

    def __init__(self, asked: Node, worker: Node) -> None:
        self._asked, self._worker = asked, worker
        # When a look began, whether the worker was named in it, and whether its port was open after it.
        self.looks: list[tuple[float, bool, bool]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def __enter__(self) -> PortWatch:
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def wait_for_looks(self, count: int) -> None:
        """Until it has looked so often, and seen the worker named."""
        until(lambda: len(self.looks) >= count and self.looks[-1][1:] == (True, True), "it is named to begin with")

    def finish(self, began: float) -> tuple[float, float]:
        """Seconds after `began` of the first look that found the port closed, and of the first that did not find it
        named."""
        until(lambda: not self.looks[-1][2], "the port is seen closed")
        closed = [at for at, _, is_open in self.looks if not is_open]
        unnamed = [at for at, is_named, _ in self.looks if at >= began and not is_named]
        return closed[0] - began, (unnamed[0] - began if unnamed else float("inf"))

    def _look(self) -> None:
        with self._asked.connect() as client:
            while not self._done.wait(LOOK_INTERVAL_S):
                at = time.monotonic()
                is_named = self._worker.uri in named_first(client, DATA)
                self.looks.append((at, is_named, is_open(self._worker)))


def is_open(node: Node) -> bool:
    """Whether its port takes connections."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", node.port)) == 0


def read_until(done: threading.Event, uri: str, expected: pa.Table, reads: list[Read]) -> None:
    """Reads, and compares, again and again."""
    while not done.is_set():
        one = read(uri, DATA)
        assert_same(one.table, expected)
        reads.append(one)


def wait_until_named(cluster: Cluster, worker: Node) -> None:
    """Until the coordinator names it first for something."""
    with cluster.coordinator.connect() as client:
        until(lambda: worker.uri in named_first(client, DATA), f"{worker.folder.name} is named")
