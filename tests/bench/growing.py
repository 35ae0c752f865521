"""GetFlightInfo at a coordinator as the workers grow from 1 to 1,500, of which all but one are only written down.

Each cluster is a coordinator, a worker, and members that live at that worker's address under names of their own: the
coordinator has a connection to each, and is answered, by one process for all. Then all of them move to where nothing
listens: what a cluster costs whose workers are gone before their leases are.

What grows is the answer and the asking. An endpoint ends where the owner changes, so one dataset has more endpoints the
more workers there are, up to one a split; and each worker that is named is asked what it has, in one call. The number
of members by itself costs little, while the owners serve; for a split whose owner does not, all slots are ranked.

Clusters of every size run side by side and take turns, so that what else the machine does meets all of them.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.flight as flight

import plan
import report
from harness.cluster import Cluster, metadata, until
from harness.fake_members import FakeMembers
from harness.flight import by_path, chunks
from harness.ports import free_port
from harness.tpch import lineitem

WORKERS = (1, 10, 100, 1_500)
FILES = 2_000
LINEITEM, MANY = "/lineitem", "/many"
DATASETS = {LINEITEM: "lineitem", MANY: f"{FILES:,} small files"}
ANSWERING, GONE = "all answer", "all but one unreachable"
PEER_FAILURES = "jetbridge_peer_failures_total"
CALLS = 40
UNCOUNTED_CALLS = 5
MAX_WARM_READS = 10
SETTLE_TIMEOUT_S = 120.0
# The dataset stays decoded on the one worker.
WORKER_ARGS = ["--memory", str(3 << 30)]
TITLE = (
    "GetFlightInfo as workers grow, warm: one coordinator, one worker, all others records in the metadata store. "
    "What grows: endpoints, as one ends where the owner changes, and calls that ask each named worker what it has"
)


@dataclass
class Fleet:
    """A cluster of some size, and what its coordinator was measured at."""

    size: int
    cluster: Cluster
    members: FakeMembers
    client: flight.FlightClient
    series: dict[tuple[str, str], Series] = field(default_factory=dict)


@dataclass
class Series:
    """The calls for one dataset: how long they took, in each round, and what was answered."""

    rounds: list[list[float]] = field(default_factory=list)
    coordinator_s: float = 0.0
    worker_s: float = 0.0
    endpoints: int = 0
    nodes: int = 0
    info_bytes: int = 0
    # How often a member that was asked did not answer in time.
    failures: float = 0.0

    @property
    def p50s(self) -> list[float]:
        """Of each round."""
        return [statistics.median(times) for times in self.rounds]

    @property
    def p99(self) -> float:
        """Of all rounds."""
        return statistics.quantiles(itertools.chain(*self.rounds), n=100)[98]

    @property
    def calls(self) -> int:
        return sum(map(len, self.rounds))


def run(work_dir: Path, scale_factor: float, rounds: int) -> tuple[list[report.Line], list[report.Table]]:
    """Every size in turn, first with members that answer, then with members that are gone."""
    mounts = {LINEITEM: lineitem(work_dir, scale_factor), MANY: plan.many_files(work_dir, FILES)}
    with contextlib.ExitStack() as stack:
        fleets = [stack.enter_context(started(work_dir, mounts, size)) for size in WORKERS]
        measure(fleets, ANSWERING, rounds)
        for fleet in fleets:
            fleet.members.move(f"grpc://127.0.0.1:{free_port()}")
        measure(fleets, GONE, rounds)
    lines = [line(fleets, fleet, ANSWERING, path) for path in DATASETS for fleet in fleets]
    return lines, [table(fleets)]


@contextlib.contextmanager
def started(work_dir: Path, mounts: dict[str, Path], size: int) -> Iterator[Fleet]:
    """A cluster whose one worker has everything decoded, and which has grown to its size since."""
    folder = work_dir / f"fleet-{size}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    uris = {path: f"file://{place}" for path, place in mounts.items()}
    with contextlib.ExitStack() as stack:
        cluster = Cluster.start(folder, uris, workers=1, worker_args=WORKER_ARGS)
        stack.callback(cluster.close)
        client = stack.enter_context(cluster.coordinator.connect())
        for path in mounts:
            warm(cluster, client, path)
        members = stack.enter_context(contextlib.closing(FakeMembers(cluster.coordinator)))
        # The part before the @ keeps their connections apart, as those of different hosts are.
        host = cluster.workers[0].uri.removeprefix("grpc://")
        began = time.perf_counter()
        members.join([f"grpc://worker-{number}@{host}" for number in range(1, size)])
        until(lambda: len(cluster.seated()) == size, f"{size} seats", SETTLE_TIMEOUT_S)
        print(f"bench: cluster: {size} workers seated in {time.perf_counter() - began:.1f} s", flush=True)
        yield Fleet(size, cluster, members, client)


def warm(cluster: Cluster, client: flight.FlightClient, path: str) -> None:
    """Reads all until the worker has it as columns."""
    with cluster.workers[0].connect() as worker:
        for _ in range(MAX_WARM_READS):
            endpoints = client.get_flight_info(by_path(path)).endpoints
            if all(metadata(endpoint)["cached"] == "decoded" for endpoint in endpoints):
                return
            for endpoint in endpoints:
                assert sum(chunk.data.num_rows for chunk in chunks(worker.do_get(endpoint.ticket)))
    raise AssertionError(f"{path} is not decoded after {MAX_WARM_READS} reads")


def measure(fleets: Sequence[Fleet], members: str, rounds: int) -> None:
    """Calls at every cluster for every dataset, in turns."""
    for fleet, path in itertools.product(fleets, DATASETS):
        series = fleet.series[members, path] = Series()
        if members == ANSWERING:
            until(lambda fleet=fleet, path=path: is_warm(fleet, path), f"all of {path} decoded", SETTLE_TIMEOUT_S)
        for _ in range(UNCOUNTED_CALLS):
            info = fleet.client.get_flight_info(by_path(path))
        said = [metadata(endpoint) for endpoint in info.endpoints]
        series.endpoints, series.info_bytes = len(said), len(info.serialize())
        series.nodes = len({one["node"] for one in said})
    for number in range(rounds):
        for fleet, path in itertools.product(fleets, DATASETS):
            fleet.members.keep_alive()
            call(fleet, path, fleet.series[members, path])
        told = ", ".join(f"{fleet.size}: {fleet.series[members, LINEITEM].p50s[-1] * 1e3:.1f} ms" for fleet in fleets)
        print(f"bench: cluster: {members}, round {number + 1} of {rounds}, p50 of lineitem: {told}", flush=True)


def is_warm(fleet: Fleet, path: str) -> bool:
    """Whether every member says that it has its part, and none is held for unreachable.

    When the connections to very many are opened at once, some of them come too late.
    """
    endpoints = fleet.client.get_flight_info(by_path(path)).endpoints
    states = {member["state"] for member in fleet.cluster.members()["members"]}
    return all(metadata(endpoint)["cached"] == "decoded" for endpoint in endpoints) and states == {"serving"}


def call(fleet: Fleet, path: str, series: Series) -> None:
    """A round of calls at one cluster."""
    daemons = (fleet.cluster.coordinator.daemon, fleet.cluster.workers[0].daemon)
    before = [daemon.cpu_seconds() for daemon in daemons]
    failures = fleet.cluster.coordinator.total(PEER_FAILURES)
    times = []
    for _ in range(CALLS):
        start_s = time.perf_counter()
        fleet.client.get_flight_info(by_path(path))
        times.append(time.perf_counter() - start_s)
    used = [daemon.cpu_seconds() - start_s for daemon, start_s in zip(daemons, before, strict=True)]
    series.failures += fleet.cluster.coordinator.total(PEER_FAILURES) - failures
    series.rounds.append(times)
    series.coordinator_s += used[0]
    series.worker_s += used[1]


def line(fleets: Sequence[Fleet], fleet: Fleet, members: str, path: str) -> report.Line:
    """The median of one size by that of one worker."""
    series, alone = fleet.series[members, path], fleets[0].series[members, path]
    by_one = f", {series.p99 / alone.p99:.1f} times that of 1 worker" if fleet.size > 1 else ""
    note = (
        f"p99 {series.p99 * 1e3:.1f} ms{by_one}; endpoints {series.endpoints}, workers named and asked {series.nodes}"
    )
    what = f"GetFlightInfo, {DATASETS[path]}, {fleet.size:,} worker{'s' * (fleet.size > 1)}, p50 (plain: 1 worker)"
    return report.Line(what, series.p50s, alone.p50s if fleet.size > 1 else (), note=note)


def table(fleets: Sequence[Fleet]) -> report.Table:
    """Everything, those that are gone as well."""
    head = ["dataset", "members", "workers", "p50 ms", "p99 ms", "p50 by 1 worker's", "endpoints", "workers named"]
    head += [
        "FlightInfo KiB",
        "coordinator CPU ms a call",
        "worker CPU ms a call",
        "members that did not answer",
        "calls",
    ]
    rows = []
    for path, members, fleet in itertools.product(DATASETS, (ANSWERING, GONE), fleets):
        series, alone = fleet.series[members, path], fleets[0].series[members, path]
        p50 = statistics.median(series.p50s)
        by_one = statistics.median(ours / base for ours, base in zip(series.p50s, alone.p50s, strict=True))
        figures = [f"{p50 * 1e3:.2f}", f"{series.p99 * 1e3:.2f}", f"{by_one:.2f}", f"{series.endpoints}"]
        figures += [f"{series.nodes}", f"{series.info_bytes / 1024:.0f}"]
        figures += [f"{cpu_s / series.calls * 1e3:.2f}" for cpu_s in (series.coordinator_s, series.worker_s)]
        rows.append([DATASETS[path], members, f"{fleet.size:,}", *figures, f"{series.failures:.0f}", f"{series.calls}"])
    return report.Table(TITLE, head, rows)
