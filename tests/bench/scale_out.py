"""Warm throughput of 1, 2 and 3 workers with as many clients, and what the servers' CPUs do for it.

Clusters of each size run side by side and take turns. A client is a process of its own, reads all of lineitem from the
workers that own it, and begins at another endpoint than the other clients.

Servers and clients share one machine, so its cores limit the sum: beside it stands what they would give at this cost if
they did nothing else. What more machines would give is not to be had here. Nor are the CPU figures of one worker and of
several quite alike: one has few large endpoints, several have many small ones, as an endpoint ends with its owner.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow.flight as flight

import report
from clients import KEEPING, PATH, Client
from harness.cluster import REUSE, Cluster, locations, metadata
from harness.flight import by_path, chunks
from harness.tpch import lineitem

WORKERS = (1, 2, 3)
# Enough for all of the dataset to stay decoded on one worker.
WORKER_ARGS = ["--memory", str(3 << 30)]
MAX_WARM_READS = 10
MIN_WARM_READS = 2
GB = 1e9


@dataclass(frozen=True)
class Fetched:
    """What one client read."""

    rows: int
    arrow_bytes: int
    cpu_s: float


@dataclass(frozen=True)
class Round:
    """All clients of a cluster at once."""

    seconds: float
    arrow_bytes: int
    servers_s: float
    clients_s: float

    @property
    def bytes_per_s(self) -> float:
        return self.arrow_bytes / self.seconds

    @property
    def servers_s_a_gb(self) -> float:
        return self.servers_s / self.arrow_bytes * GB

    @property
    def clients_s_a_gb(self) -> float:
        return self.clients_s / self.arrow_bytes * GB

    @property
    def limit_bytes_per_s(self) -> float:
        """What the machine's cores would give at this cost if servers and clients had all of them."""
        return (os.cpu_count() or 1) * self.arrow_bytes / (self.servers_s + self.clients_s)

    @property
    def busy_cores(self) -> float:
        return (self.servers_s + self.clients_s) / self.seconds


def run(work_dir: Path, scale_factor: float, rounds: int) -> tuple[list[report.Line], list[report.Table]]:
    """The sizes in turn; the first round is not counted."""
    folder = lineitem(work_dir, scale_factor)
    found: dict[int, list[Round]] = {size: [] for size in WORKERS}
    with contextlib.ExitStack() as stack:
        clusters = {size: stack.enter_context(started(work_dir, folder, size)) for size in WORKERS}
        clients = [stack.enter_context(contextlib.closing(Client(False, KEEPING))) for _ in range(max(WORKERS))]
        for number in range(rounds + 1):
            of_round = {size: read_all(cluster, clients[:size]) for size, cluster in clusters.items()}
            if number:
                for size, one in of_round.items():
                    found[size].append(one)
                told = ", ".join(f"{size}: {one.bytes_per_s / 2**20:.0f} MiB/s" for size, one in of_round.items())
                print(f"bench: cluster: warm reads, round {number} of {rounds}: {told}", flush=True)
    return [line for size in WORKERS for line in lines(found, size)], [table(found)]


@contextlib.contextmanager
def started(work_dir: Path, folder: Path, size: int) -> Iterator[Cluster]:
    """A cluster in which each worker has what it owns as columns."""
    place = work_dir / f"workers-{size}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    cluster = Cluster.start(place, {PATH: f"file://{folder}"}, workers=size, worker_args=WORKER_ARGS)
    try:
        warm(cluster)
        yield cluster
    finally:
        cluster.close()


def warm(cluster: Cluster) -> None:
    """Reads at least twice, and until every owner says that its part is decoded."""
    for number in range(MAX_WARM_READS):
        with cluster.coordinator.connect() as client:
            endpoints = client.get_flight_info(by_path(PATH)).endpoints
        said = Counter(metadata(endpoint)["cached"] for endpoint in endpoints)
        if number >= MIN_WARM_READS and set(said) == {"decoded"}:
            return
        fetch(cluster.coordinator.uri, 0.0)
    raise AssertionError(f"not decoded after {MAX_WARM_READS} reads: {said}")


def read_all(cluster: Cluster, clients: Sequence[Client]) -> Round:
    """One read by each client, all at once."""
    daemons = [node.daemon for node in cluster.nodes]
    before_s = sum(daemon.cpu_seconds() for daemon in daemons)
    starts = [number / len(clients) for number in range(len(clients))]
    with ThreadPoolExecutor(len(clients)) as pool:
        start_s = time.perf_counter()
        reads = [
            pool.submit(client.call, fetch, cluster.coordinator.uri, start)
            for client, start in zip(clients, starts, strict=True)
        ]
        done = [read.result() for read in reads]
        seconds = time.perf_counter() - start_s
    servers_s = sum(daemon.cpu_seconds() for daemon in daemons) - before_s
    assert len({(one.rows, one.arrow_bytes) for one in done}) == 1, "clients got different rows"
    return Round(seconds, sum(one.arrow_bytes for one in done), servers_s, sum(one.cpu_s for one in done))


def fetch(uri: str, start: float) -> Fetched:
    """GetFlightInfo, then every endpoint from the first node that it names, from some part of the list on."""
    before, rows, arrow_bytes = os.times(), 0, 0
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(flight.connect(uri))
        workers: dict[str, flight.FlightClient] = {}
        endpoints = home.get_flight_info(by_path(PATH)).endpoints
        first = int(start * len(endpoints))
        for endpoint in [*endpoints[first:], *endpoints[:first]]:
            place = locations(endpoint)[0]
            assert not place.startswith(REUSE), "an endpoint names no worker"
            if place not in workers:
                workers[place] = stack.enter_context(flight.connect(place))
            for chunk in chunks(workers[place].do_get(endpoint.ticket)):
                rows += chunk.data.num_rows
                arrow_bytes += chunk.data.nbytes
    after = os.times()
    return Fetched(rows, arrow_bytes, after.user - before.user + after.system - before.system)


def lines(found: dict[int, list[Round]], size: int) -> Sequence[report.Line]:
    """One size by one worker."""
    ours, alone = found[size], found[WORKERS[0]]
    busy, most = (statistics.median(getattr(one, name) for one in ours) for name in ("busy_cores", "limit_bytes_per_s"))
    cores = os.cpu_count()
    limit = (
        f"servers and clients share {cores} cores, which limits the sum to {most / 2**20:,.0f} MiB/s; {busy:.1f} busy"
    )
    what = f"warm lineitem, {size} worker{'s' * (size > 1)}, as many clients"
    plain = "" if size == 1 else "plain: 1 worker, 1 client; "
    rates = [one.bytes_per_s for one in ours], [one.bytes_per_s for one in alone] if size > 1 else ()
    costs = [one.servers_s_a_gb for one in ours], [one.servers_s_a_gb for one in alone] if size > 1 else ()
    clients_s = statistics.median(one.clients_s_a_gb for one in ours)
    beside = f"{plain}the clients' beside it {clients_s:.2f} s a GB"
    return [
        report.Line(f"{what}: sum of throughputs", *rates, note=plain + limit, unit=report.Unit.BYTES_PER_S),
        report.Line(f"{what}: CPU of all servers a GB", *costs, note=beside),
    ]


def table(found: dict[int, list[Round]]) -> report.Table:
    """Medians of all that was measured."""
    cores = os.cpu_count()
    title = (
        f"Scale-out: workers and as many clients, warm, on one machine. Servers and clients share its {cores} cores, "
        f"which limits the sum: it says what {cores} cores give, not what more machines would"
    )
    head = ["workers and clients", "sum MiB/s", "by 1 worker's", f"what {cores} cores could give MiB/s", "cores busy"]
    head += ["server CPU s a GB", "client CPU s a GB"]
    alone = found[WORKERS[0]]
    rows = []
    for size, ones in found.items():
        names = ("bytes_per_s", "limit_bytes_per_s", "busy_cores", "servers_s_a_gb", "clients_s_a_gb")
        rate, most, *rest = (statistics.median(getattr(one, name) for one in ones) for name in names)
        by_one = statistics.median(one.bytes_per_s / base.bytes_per_s for one, base in zip(ones, alone, strict=True))
        figures = [
            f"{rate / 2**20:,.0f}",
            f"{by_one:.2f}",
            f"{most / 2**20:,.0f}",
            *(f"{one:.2f}" for one in rest),
        ]
        rows.append([f"{size}", *figures])
    return report.Table(title, head, rows)
