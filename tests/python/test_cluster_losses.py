"""Workers that are lost in the middle of reads: killed, or stopped in their tracks. Clients that try an endpoint's next
location get all their rows; the lost worker is soon not named first, and comes back with its cache and its splits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.cluster import REUSE, Cluster, Node, Read, info, locations, metadata, read, until
from harness.compare import assert_same
from harness.flight import mount
from harness.jobs import columns
from harness.owners import epoch, named_first, owners

WORKERS = 3
READS = 20
# Enough of a row to be wrong, and little enough that twenty reads fit two cores.
COLUMNS = ["l_orderkey", "l_shipmode"]
# Within so long a lost worker is not listed first.
NOTICED_S = 10.0
# A client gives up on a call after this: a stopped worker answers nothing at all. One that was killed is known to be
# gone, and the others take a while for so many reads.
CALL_TIMEOUT_S, PATIENT_TIMEOUT_S = 15.0, 60.0
# Part of all endpoints that were read when the worker is lost.
LOST_AT = 0.25
PLAIN, REPLICATED = "/plain", "/replicated"


@pytest.fixture(scope="module")
def expected(lineitem_sf1: Path) -> pa.Table:
    """The columns as pyarrow reads them."""
    return pa.concat_tables([pq.ParquetFile(file).read(COLUMNS) for file in sorted(lineitem_sf1.glob("*.parquet"))])


@pytest.fixture(scope="module")
def cluster(lineitem_sf1: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three workers that lose one after the other and get it back; what is read is cached already."""
    folder = tmp_path_factory.mktemp("cluster")
    uri = f"file://{lineitem_sf1}"
    with Cluster.start(folder, {}, WORKERS, args=["--file-root", str(lineitem_sf1)]) as running:
        with running.coordinator.connect() as client:
            mount(client, PLAIN, uri, freshness="immutable")
            mount(client, REPLICATED, uri, freshness="immutable", replicas="2")
            read(running.coordinator.uri, PLAIN, columns=COLUMNS)
            # What was read is kept a while later.
            until(lambda: is_held(columns(client, PLAIN)), "it is kept")
        yield running


def is_held(held: dict[str, dict[str, Any]]) -> bool:
    """Whether all bytes of the columns that are read are on disk."""
    return all(held[name]["raw_bytes"] >= held[name]["bytes"] for name in COLUMNS)


@pytest.fixture(autouse=True)
def whole(cluster: Cluster) -> None:
    """All workers serve, before each test."""
    for worker in cluster.workers:
        if not worker.is_running():
            worker.start()
    wait_until_all_serve(cluster)


@pytest.mark.parametrize("path", [PLAIN, REPLICATED])
def test_reads_survive_a_killed_worker_that_comes_back_with_all_it_had(
    cluster: Cluster, expected: pa.Table, path: str
) -> None:
    """kill -9 in the middle of 20 reads, then the same worker again: id, cache, splits, epoch."""
    victim = cluster.workers[0]
    with cluster.coordinator.connect() as client:
        before, node_id = owners(client, path), victim.id
    assert_replicas_are_named(cluster, path, replicas=2 if path == REPLICATED else 1)
    loss = read_while_lost(cluster, path, victim, victim.kill, PATIENT_TIMEOUT_S)
    assert_all_whole(loss, expected, f"kill -9, {path}")
    # With a replica, the next location is that; without one, it is the connection to the coordinator.
    by_coordinator = sum(one.served_by[cluster.coordinator.uri] for one in loss.reads)
    assert (by_coordinator == 0) == (path == REPLICATED), f"{by_coordinator} endpoints came from the coordinator"
    until(lambda: state(cluster, node_id) == "lost", "its lease lapses")
    lost_s = time.monotonic() - loss.at_s
    with cluster.coordinator.connect() as client:
        assert epoch(info(client, path)) == before.epoch
        assert victim.uri not in named_first(client, path)
    victim.start()
    back_s = wait_until_all_serve(cluster)
    assert victim.id == node_id
    with cluster.coordinator.connect() as client:
        assert owners(client, path) == before
        until(lambda: victim.uri in named_first(client, path), "the worker is named again")
    asked = cluster.store_requests()
    again = read(cluster.coordinator.uri, path, columns=COLUMNS)
    assert_same(again.table, expected)
    assert again.failures == 0
    assert again.served_by[victim.uri] > 0
    print(f"lost within {lost_s:.1f} s; it serves again {back_s:.1f} s after it is ready")
    # The new process counts from nothing.
    assert cluster.store_requests() == asked
    assert victim.total("jetbridge_store_read_bytes_total") == 0


@pytest.mark.parametrize("stopped_s", [12.0, pytest.param(30.0, marks=pytest.mark.long)])
def test_reads_survive_a_stopped_worker(cluster: Cluster, expected: pa.Table, stopped_s: float) -> None:
    """SIGSTOP in the middle of 20 reads, SIGCONT later: what waits for it is read elsewhere after a timeout."""
    victim = cluster.workers[1]
    with cluster.coordinator.connect() as client:
        before = owners(client, PLAIN)
    try:
        loss = read_while_lost(cluster, PLAIN, victim, victim.freeze, CALL_TIMEOUT_S)
        assert_all_whole(loss, expected, "SIGSTOP")
        # Reads that begin now do not even try it.
        fresh = read(cluster.coordinator.uri, PLAIN, CALL_TIMEOUT_S, columns=COLUMNS)
        assert_same(fresh.table, expected)
        assert fresh.failures == 0
        assert fresh.served_by[victim.uri] == 0
        time.sleep(max(0.0, loss.at_s + stopped_s - time.monotonic()))
    finally:
        victim.thaw()
    back_s = wait_until_all_serve(cluster)
    with cluster.coordinator.connect() as client:
        assert owners(client, PLAIN) == before
        until(lambda: victim.uri in named_first(client, PLAIN), "the worker is named again")
    assert victim.is_running()
    again = read(cluster.coordinator.uri, PLAIN, columns=COLUMNS)
    assert_same(again.table, expected)
    print(f"it serves again {back_s:.1f} s after SIGCONT")
    assert again.failures == 0
    assert again.served_by[victim.uri] > 0


@dataclass(frozen=True)
class Loss:
    """A worker that was lost, the reads that it was lost in, and when no node listed it first any more."""

    reads: list[Read]
    at_s: float
    not_first_s: float


def read_while_lost(cluster: Cluster, path: str, victim: Node, lose: Callable[[], None], timeout_s: float) -> Loss:
    """20 reads at once through the coordinator; the worker is lost once they have read a quarter."""
    with cluster.coordinator.connect() as client:
        endpoints = len(info(client, path, columns=COLUMNS).endpoints)
    due = threading.Semaphore(0)

    def one(_: int) -> Read:
        return read(cluster.coordinator.uri, path, timeout_s, lambda _: due.release(), columns=COLUMNS)

    with ThreadPoolExecutor(READS) as pool:
        reading = [pool.submit(one, number) for number in range(READS)]
        for _ in range(int(LOST_AT * endpoints * READS)):
            assert due.acquire(timeout=60), "the reads do not go on"
        assert not any(done.done() for done in reading), "a read was over before the worker was lost"
        at_s = time.monotonic()
        lose()
        not_first_s = seconds_until_not_first(cluster, path, victim)
        return Loss([done.result() for done in reading], at_s, not_first_s)


def assert_all_whole(loss: Loss, expected: pa.Table, what: str) -> None:
    """All of them are right, and some met the loss."""
    failed_over = sum(read.failures > 0 for read in loss.reads)
    assert len(loss.reads) == READS
    for done in loss.reads:
        assert_same(done.table, expected)
    print(f"{what}: {READS} reads whole, {failed_over} failed over; not listed first after {loss.not_first_s:.1f} s")
    assert failed_over > 0, "no read met the loss"


def seconds_until_not_first(cluster: Cluster, path: str, lost: Node) -> float:
    """Until no node that runs lists it first; fails where that takes too long."""
    running = [node for node in cluster.nodes if node is not lost]

    def listed() -> bool:
        found = False
        for node in running:
            with node.connect() as client:
                found |= lost.uri in named_first(client, path)
        return found

    return until(lambda: not listed(), f"{lost.folder.name} is not listed first", NOTICED_S)


def wait_until_all_serve(cluster: Cluster) -> float:
    """Until every node sees every worker serve; the seconds that took."""

    def all_serve() -> bool:
        views = [cluster.members(node)["members"] for node in cluster.nodes]
        serving = [sum(one["role"] == "worker" and one["state"] == "serving" for one in view) for view in views]
        return set(serving) == {WORKERS}

    return until(all_serve, "all workers serve")


def assert_replicas_are_named(cluster: Cluster, path: str, replicas: int) -> None:
    """An endpoint's locations begin with its split's owner and replicas in their order, and end with the connection in
    use; between them are the helpers of a hot split, if any."""
    ids = {worker.uri: worker.id for worker in cluster.workers}
    with cluster.coordinator.connect() as client:
        found, owned = info(client, path).endpoints, owners(client, path)
    looked_at = 0
    for endpoint in found:
        said, places = metadata(endpoint), locations(endpoint)
        assert places[-1].startswith(REUSE)
        named = tuple(ids[place] for place in places[:-1])
        assert len(named) == len(set(named)) >= replicas
        if (owner := owned.of.get((said["path"], said["row_groups"][0]))) is not None:
            assert len(owner) >= replicas
            assert named[:replicas] == owner[:replicas]
            looked_at += 1
    assert looked_at > WORKERS


def state(cluster: Cluster, node_id: str) -> str:
    """How the coordinator sees a node."""
    return next(member["state"] for member in cluster.members()["members"] if member["id"] == node_id)
