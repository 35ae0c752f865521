"""lineitem on three workers, warm, read with the Python package: as a table over TCP, in place on the same host, as a
data frame.

Beside it pyarrow.flight, which reads the same endpoints from the same workers, one by one or in threads; pyarrow on the
Parquet files, on the local disk and on a warm JuiceFS mount; and pandas on those files. The sides take turns, each in a
process of its own that has read before. What is summed is told apart: every number and the length of every text, or
every byte of every text as well.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq

import frames
import juicefs
import package
import report
import scale_out
import usage
from clients import KEEPING, PATH, Client
from environments import AbsentError, Environments
from harness.cluster import REUSE, Cluster, locations
from harness.flight import by_path
from harness.process import Daemon
from harness.tpch import lineitem
from receivers import OWN_CONNECTION
from sums import Sums, lengths, lengths_and_bytes, sums_of

WORKERS = 3
# Connections to each worker, as many as the package's own client makes.
STREAMS = 2 * WORKERS
GB, MIB = 1e9, 1 << 20
HANDED_OVER_S = 0.05
SUMMED_RATIO = 1 / 5

TCP, SAME_HOST = "TCP", "same host"
FLIGHT, THREADS = "pyarrow.flight, one endpoint after the other", "pyarrow.flight, endpoints in threads"
KEPT = f"{THREADS}, malloc keeps memory"
PARQUET, JUICEFS = "pyarrow on local Parquet", "pyarrow on a warm JuiceFS mount"
# The most that the time over TCP may be, by each of the others'.
TCP_RATIOS = {FLIGHT: 1 / 1.5, THREADS: 1 / 1.1, KEPT: None, PARQUET: 1.0, JUICEFS: 1.0}


@dataclass(frozen=True)
class Spent:
    """From the beginning of a read on."""

    seconds: float
    client_s: float


@dataclass(frozen=True)
class Touched:
    """One read, as the process that made it saw it."""

    # Until the table was there, with its sums by the lengths of texts, and with those of every byte instead.
    there: Spent
    by_lengths: Spent
    by_bytes: Spent
    # Until the table was there, and until all was summed.
    there_peak_bytes: int
    peak_bytes: int
    arrow_bytes: int
    sums: Sums


@dataclass(frozen=True)
class Read:
    """One read, and the CPU of those that served it."""

    touched: Touched
    served_s: float


@dataclass(frozen=True)
class Side:
    """A way to read, and the programs that serve it."""

    call: Callable[[], Touched]
    servers: Sequence[Daemon]

    def read(self) -> Read:
        """Reads once."""
        before_s = self._served_s()
        touched = self.call()
        return Read(touched, self._served_s() - before_s)

    def _served_s(self) -> float:
        # With their children: JuiceFS serves from one.
        return sum(sum(usage.cpu_of(pid)) for server in self.servers for pid in usage.family(server.pid))


Found = dict[str, list[Read]]


def run(
    work_dir: Path, scale_factor: float, rounds: int, environments: Environments
) -> tuple[list[report.Line], list[report.Table]]:
    """Tables, then data frames."""
    folder = lineitem(work_dir, scale_factor)
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(scale_out.started(work_dir, folder, WORKERS))
        absent = ""
        mounted = None
        try:
            mounted = stack.enter_context(juicefs.copied(work_dir, folder, environments))
        except AbsentError as error:
            absent = f"JuiceFS cannot be had: {error}"
        with sides(cluster, folder, mounted) as there:
            found = measured(there, rounds)
        lines = [*tcp_lines(found, absent), *same_host_lines(found, absent)]
        return [*lines, *frames.run(cluster.coordinator.uri, folder, rounds)], []


@contextlib.contextmanager
def sides(cluster: Cluster, folder: Path, mounted: juicefs.Mounted | None) -> Iterator[dict[str, Side]]:
    """All ways, each in a process of its own."""
    uri, workers = cluster.coordinator.uri, [node.daemon for node in cluster.nodes]
    ways: dict[str, tuple[Callable[[str], pa.Table], str, Sequence[Daemon]]] = {
        TCP: (package.over_tcp, uri, workers),
        SAME_HOST: (package.by_shared_memory, uri, workers),
        FLIGHT: (by_flight, uri, workers),
        THREADS: (by_flight_in_threads, uri, workers),
        KEPT: (by_flight_in_threads, uri, workers),
        PARQUET: (by_parquet, str(folder), []),
    }
    if mounted:
        ways[JUICEFS] = (by_parquet, str(mounted.folder), [mounted.daemon])
    with contextlib.ExitStack() as stack:
        there = {}
        for name, (way, place, servers) in ways.items():
            client = Client(fresh=False, settings=KEEPING if name == KEPT else None)
            stack.enter_context(contextlib.closing(client))
            there[name] = Side(partial(client.call, touched, way, place), servers)
        yield there


def measured(there: Mapping[str, Side], rounds: int) -> Found:
    """So many reads of each side, after one that is not counted."""
    found: Found = {name: [] for name in there}
    for number in range(rounds + 1):
        of_round = {name: side.read() for name, side in there.items()}
        for name, one in of_round.items():
            assert one.touched.sums == of_round[TCP].touched.sums, f"{name} has other sums than {TCP}"
            if number:
                found[name].append(one)
        if number:
            told = ", ".join(
                f"{name} {one.touched.there.seconds * 1e3:.0f} ({one.touched.by_lengths.seconds * 1e3:.0f}) ms"
                for name, one in of_round.items()
            )
            print(f"bench: python, round {number} of {rounds}: there (summed): {told}", flush=True)
    return found


def touched(read: Callable[[str], pa.Table], place: str) -> Touched:
    """One read and its sums."""
    meter = usage.Meter()
    table = read(place)
    there = meter.read()
    texts = [name for name in table.column_names if pa.types.is_string_view(table.schema.field(name).type)]
    numbers = sums_of(table.drop_columns(texts), lengths)
    summed = meter.read()
    by_lengths = sums_of(table.select(texts), lengths)
    looked_at = meter.read()
    by_bytes = sums_of(table.select(texts), lengths_and_bytes)
    done = meter.read()
    whole = Spent(
        summed.seconds + done.seconds - looked_at.seconds,
        summed.cpu_s + done.cpu_s - looked_at.cpu_s,
    )
    sums = {**numbers, **by_lengths, **{f"bytes of {name}": total for name, total in by_bytes.items()}}
    return Touched(
        Spent(there.seconds, there.cpu_s),
        Spent(looked_at.seconds, looked_at.cpu_s),
        whole,
        there.peak_bytes,
        done.peak_bytes,
        table.nbytes,
        sums,
    )


def by_flight(uri: str) -> pa.Table:
    """GetFlightInfo, then each endpoint in turn from the worker that it names first."""
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(flight.connect(uri))
        workers: dict[str, flight.FlightClient] = {}
        parts = []
        for endpoint in home.get_flight_info(by_path(PATH)).endpoints:
            place = owner(endpoint)
            if place not in workers:
                workers[place] = stack.enter_context(flight.connect(place))
            parts.append(workers[place].do_get(endpoint.ticket).read_all())
        return pa.concat_tables(parts)


def by_flight_in_threads(uri: str) -> pa.Table:
    """The same endpoints, several at once, each over a connection of its own."""

    def part(endpoint: flight.FlightEndpoint) -> pa.Table:
        with flight.connect(owner(endpoint), generic_options=OWN_CONNECTION) as client:
            return client.do_get(endpoint.ticket).read_all()

    with flight.connect(uri) as home, ThreadPoolExecutor(STREAMS) as pool:
        return pa.concat_tables(pool.map(part, home.get_flight_info(by_path(PATH)).endpoints))


def owner(endpoint: flight.FlightEndpoint) -> str:
    """The worker that has it."""
    place = locations(endpoint)[0]
    assert not place.startswith(REUSE), "an endpoint names no worker"
    return place


def by_parquet(folder: str) -> pa.Table:
    """pyarrow's own reader."""
    return pq.read_table(folder)


def tcp_lines(found: Found, absent: str) -> Iterator[report.Line]:
    """Until the table is there, over TCP."""
    for name, target in TCP_RATIOS.items():
        what = f"Python, lineitem of {WORKERS} workers over TCP: time by {name}"
        yield against(what, found, TCP, name, "there", target, absent)


def same_host_lines(found: Found, absent: str) -> Iterator[report.Line]:
    """Until all is summed, in place; and until it is there."""
    summed = {"by_lengths": "numbers and lengths of texts summed", "by_bytes": "numbers and every byte of texts summed"}
    for until, what in summed.items():
        for name in (FLIGHT, THREADS, PARQUET, JUICEFS):
            said = f"Python, same host, lineitem of {WORKERS} workers, {what}: time by {name}"
            yield against(said, found, SAME_HOST, name, until, SUMMED_RATIO, absent)
    reads = found[SAME_HOST]
    yield report.Line(
        f"Python, same host, lineitem of {WORKERS} workers handed over, not looked at",
        [one.touched.there.seconds for one in reads],
        at_most=HANDED_OVER_S,
        note=f"ours: {cost(reads, 'there')}",
    )


def against(
    what: str, found: Found, ours: str, plain: str, until: str, target: float | None, absent: str
) -> report.Line:
    """One side by another."""
    seconds = [getattr(one.touched, until).seconds for one in found[ours]]
    note = f"ours: {cost(found[ours], until)}"
    if plain not in found:
        return report.Line(what, seconds, target_ratio=target, note=note, absent=absent)
    others = [getattr(one.touched, until).seconds for one in found[plain]]
    return report.Line(what, seconds, others, target, f"{note}; plain: {cost(found[plain], until)}")


def cost(reads: Sequence[Read], until: str) -> str:
    """CPU by 10^9 bytes of Arrow, and memory."""
    table_gb = reads[0].touched.arrow_bytes / GB
    client_s = statistics.median(getattr(one.touched, until).client_s for one in reads) / table_gb
    served_s = statistics.median(one.served_s for one in reads) / table_gb
    which = "there_peak_bytes" if until == "there" else "peak_bytes"
    peak = max(getattr(one.touched, which) for one in reads) / MIB
    served = f", those that serve it {served_s:.2f}" if served_s else ""
    return f"CPU s/GB, client {client_s:.2f}{served}; client's peak RSS {peak:,.0f} MiB"
