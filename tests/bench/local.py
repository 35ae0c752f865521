"""lineitem on the server's own host: as shared memory, over a unix socket, over TCP, and from Parquet without a server.

Each side makes a table of it and sums every value, as a program that computes has to look at all of it. What shared
memory takes until the table is there, before anything is looked at, is a line of its own.

All sides are programs in Python that sum numbers and the lengths of texts, but for three, which take turns with them: a
client in Rust that sums every byte of the texts as well, and pyarrow doing so over TCP and over the files. Shared
memory is read by hand, with nothing but pyarrow, and by the Python package's own client, which reads over TCP as well.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq

import native
import package
import report
import usage
from clients import Client
from harness.flight import by_path
from harness.server import Options, Server
from harness.shared_memory import SharedMemory, plan_local, read_shared
from harness.tpch import lineitem
from senders import ARGS, PATH, warm
from sums import OfTexts, Sums, lengths, lengths_and_bytes, sums_of

BY_TCP_RATIO = BY_PARQUET_RATIO = 1 / 5
HANDED_OVER_S = 0.05
GB, MIB = 1e9, 1 << 20
SHARED, UNIX, TCP, PARQUET = "shared memory", "grpc+unix", "TCP", "local Parquet"
PACKAGE, PACKAGE_TCP = "the package, shared memory", "the package, TCP"
NATIVE, TCP_BYTES, PARQUET_BYTES = "Rust", "TCP, every byte", "local Parquet, every byte"
# What is compared: those that sum lengths of texts, and those that sum their bytes as well.
ALIKE = ((SHARED, UNIX, TCP, PARQUET, PACKAGE, PACKAGE_TCP), (NATIVE, TCP_BYTES, PARQUET_BYTES))


@dataclass(frozen=True)
class Summed:
    """One read: until the table was there, until all was summed, and the sums."""

    there_s: float
    summed_s: float
    cpu_s: float
    peak_bytes: int
    arrow_bytes: int
    sums: Sums


# A way to read and sum; some say more of a read than others.
Side = Callable[[], Summed | native.NativeRead]
Found = dict[str, list[Summed | native.NativeRead]]


def run(work_dir: Path, scale_factor: float, rounds: int) -> list[report.Line]:
    """The sides in turn, each in a process that has read before; the first round is not counted."""
    folder = lineitem(work_dir, scale_factor)
    data_dir = work_dir / "data"
    shutil.rmtree(data_dir, ignore_errors=True)
    server = Server(data_dir, Options(mounts={PATH: f"file://{folder}"}, args=ARGS))
    try:
        warm(server)
        with sides(server.flight_uri, folder) as there:
            found = measured(there, rounds)
        return [*lines(found), *package_lines(found), *native_lines(found)]
    finally:
        server.stop()


@contextlib.contextmanager
def sides(uri: str, folder: Path) -> Iterator[dict[str, Side]]:
    """All of them, each in a process of its own."""
    in_python: dict[str, tuple[Callable[[str], pa.Table], str, OfTexts]] = {
        SHARED: (by_shared_memory, uri, lengths),
        UNIX: (by_unix_socket, uri, lengths),
        TCP: (by_tcp, uri, lengths),
        PARQUET: (by_parquet, str(folder), lengths),
        PACKAGE: (functools.partial(package.by_shared_memory, path=PATH), uri, lengths),
        PACKAGE_TCP: (functools.partial(package.over_tcp, path=PATH), uri, lengths),
        TCP_BYTES: (by_tcp, uri, lengths_and_bytes),
        PARQUET_BYTES: (by_parquet, str(folder), lengths_and_bytes),
    }
    with contextlib.ExitStack() as stack:
        there: dict[str, Side] = {NATIVE: stack.enter_context(native.started(uri, PATH)).read}
        for name, asked in in_python.items():
            client = stack.enter_context(contextlib.closing(Client(fresh=False)))
            there[name] = functools.partial(client.call, summed, *asked)
        yield there


def measured(there: dict[str, Side], rounds: int) -> Found:
    """So many reads of each side."""
    found: Found = {name: [] for name in there}
    for number in range(rounds + 1):
        of_round = {name: read() for name, read in there.items()}
        for alike in ALIKE:
            for name in alike:
                assert of_round[name].sums == of_round[alike[0]].sums, f"{name} has other sums than {alike[0]}"
        if number:
            for name, one in of_round.items():
                found[name].append(one)
            told = ", ".join(f"{name} {one.summed_s * 1e3:.0f} ms" for name, one in of_round.items())
            print(f"bench: local, round {number} of {rounds}: {told}", flush=True)
    return found


def lines(found: Found) -> Sequence[report.Line]:
    """Shared memory against the others, all in Python."""
    targets = {TCP: BY_TCP_RATIO, UNIX: None, PARQUET: BY_PARQUET_RATIO}
    what = "same host, lineitem summed, shared memory: time by"
    return [
        *(against(found, SHARED, name, f"{what} {name}", target) for name, target in targets.items()),
        report.Line(
            "same host, lineitem handed over, not looked at", handed_over_s(found[SHARED]), at_most=HANDED_OVER_S
        ),
    ]


def package_lines(found: Found) -> Sequence[report.Line]:
    """The Python package's client against pyarrow."""
    what = "same host, lineitem summed, the package"
    sums = [
        against(found, PACKAGE, name, f"{what}, shared memory: time by {name}", target)
        for name, target in ((TCP, BY_TCP_RATIO), (PARQUET, BY_PARQUET_RATIO))
    ]
    over_tcp = [against(found, PACKAGE_TCP, name, f"{what}, TCP: time by {name}", None) for name in (TCP, PARQUET)]
    handed_over = "same host, lineitem handed over by the package, not looked at"
    return [*sums, report.Line(handed_over, handed_over_s(found[PACKAGE]), at_most=HANDED_OVER_S), *over_tcp]


def native_lines(found: Found) -> Sequence[report.Line]:
    """The client in Rust against pyarrow."""
    what = "same host, lineitem and every byte of its texts summed, shared memory to Rust: time by pyarrow's"
    reads = [one for one in found[NATIVE] if isinstance(one, native.NativeRead)]
    planned_ms = statistics.median(one.planned_s for one in reads) * 1e3
    note = f"{planned_ms:.1f} ms of it GetFlightInfo; {reads[0].batches} batches, {reads[0].inline_bytes} bytes inline"
    handed_over = "same host, lineitem handed over to Rust, not looked at"
    return [
        against(found, NATIVE, TCP_BYTES, f"{what} {TCP}", BY_TCP_RATIO),
        against(found, NATIVE, PARQUET_BYTES, f"{what} {PARQUET}", BY_PARQUET_RATIO),
        report.Line(handed_over, handed_over_s(found[NATIVE]), at_most=HANDED_OVER_S, note=note),
    ]


def against(found: Found, ours: str, plain: str, what: str, target: float | None) -> report.Line:
    """One side by another."""
    return report.Line(
        what,
        [one.summed_s for one in found[ours]],
        [one.summed_s for one in found[plain]],
        target,
        f"the client: {cost(found[ours])}; plain: {cost(found[plain])}",
    )


def cost(ones: Sequence[Summed | native.NativeRead]) -> str:
    """CPU, and memory where it was seen."""
    cpu_s = statistics.median(one.cpu_s for one in ones)
    seen = [one for one in ones if isinstance(one, Summed)]
    if not seen:
        return f"CPU {cpu_s:.2f} s"
    by_gb = cpu_s / seen[0].arrow_bytes * GB
    return f"CPU {cpu_s:.2f} s, {by_gb:.2f} s/GB, peak RSS {max(one.peak_bytes for one in seen) / MIB:,.0f} MiB"


def handed_over_s(ones: Sequence[Summed | native.NativeRead]) -> list[float]:
    """How long it took until all was there, each time."""
    return [one.there_s for one in ones]


def summed(read: Callable[[str], pa.Table], place: str, of_texts: OfTexts) -> Summed:
    """One read and its sums."""
    meter = usage.Meter()
    table = read(place)
    there_s = meter.seconds()
    sums = sums_of(table, of_texts)
    took = meter.read()
    return Summed(there_s, took.seconds, took.cpu_s, took.peak_bytes, table.nbytes, sums)


def by_shared_memory(uri: str) -> pa.Table:
    """GetFlightInfo over TCP, then all endpoints over one connection of shared memory."""
    with flight.connect(uri) as client:
        info, socket = plan_local(client, by_path(PATH))
    with SharedMemory(socket) as connection:
        return read_shared(connection, info).table


def by_unix_socket(uri: str) -> pa.Table:
    """GetFlightInfo over TCP, then the location that a client of this host is offered first."""
    with flight.connect(uri) as client:
        info, _ = plan_local(client, by_path(PATH))
    with flight.connect(info.endpoints[0].locations[0]) as client:
        assert info.endpoints[0].locations[0].uri.startswith(b"grpc+unix:")
        return pa.concat_tables([client.do_get(endpoint.ticket).read_all() for endpoint in info.endpoints])


def by_tcp(uri: str) -> pa.Table:
    """All endpoints over one connection."""
    with flight.connect(uri) as client:
        endpoints = client.get_flight_info(by_path(PATH)).endpoints
        return pa.concat_tables([client.do_get(endpoint.ticket).read_all() for endpoint in endpoints])


def by_parquet(folder: str) -> pa.Table:
    """pyarrow's own reader on the same files."""
    return pq.read_table(folder)
