"""lineitem on the server's own host: as shared memory, over a unix socket, over TCP, and from Parquet without a server.

Each side makes a table of it and sums every value, as a program that computes has to look at all of it. What shared
memory takes until the table is there, before anything is looked at, is a line of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight as flight
import pyarrow.parquet as pq

import report
from clients import Client
from harness.flight import by_path
from harness.server import Options, Server
from harness.shared_memory import SharedMemory, plan_local, read_shared
from harness.tpch import lineitem
from senders import ARGS, PATH, warm

BY_TCP_RATIO = BY_PARQUET_RATIO = 1 / 5
HANDED_OVER_S = 0.05
SHARED, UNIX, TCP, PARQUET = "shared memory", "grpc+unix", "TCP", "local Parquet"
# A string view: its length, then twelve bytes of it or of where it is.
VIEW_WORDS = 4

Sums = dict[str, int | Decimal]


@dataclass(frozen=True)
class Summed:
    """One read: until the table was there, until all was summed, and the sums."""

    there_s: float
    summed_s: float
    cpu_s: float
    sums: Sums


def run(work_dir: Path, scale_factor: float, rounds: int) -> list[report.Line]:
    """The sides in turn, each in a process that has read before; the first round is not counted."""
    folder = lineitem(work_dir, scale_factor)
    data_dir = work_dir / "data"
    shutil.rmtree(data_dir, ignore_errors=True)
    server = Server(data_dir, Options(mounts={PATH: f"file://{folder}"}, args=ARGS))
    try:
        warm(server)
        sides: dict[str, tuple[Callable[[str], pa.Table], str]] = {
            SHARED: (by_shared_memory, server.flight_uri),
            UNIX: (by_unix_socket, server.flight_uri),
            TCP: (by_tcp, server.flight_uri),
            PARQUET: (by_parquet, str(folder)),
        }
        return [*lines(measured(sides, rounds))]
    finally:
        server.stop()


def measured(sides: dict[str, tuple[Callable[[str], pa.Table], str]], rounds: int) -> dict[str, list[Summed]]:
    """So many reads of each side."""
    found: dict[str, list[Summed]] = {name: [] for name in sides}
    sums: Sums = {}
    with contextlib.ExitStack() as stack:
        clients = {name: stack.enter_context(contextlib.closing(Client(fresh=False))) for name in sides}
        for number in range(rounds + 1):
            for name, (read, place) in sides.items():
                one = clients[name].call(summed, read, place)
                sums = sums or one.sums
                assert one.sums == sums, f"{name} has other sums"
                if number:
                    found[name].append(one)
            if number:
                told = ", ".join(f"{name} {ones[-1].summed_s * 1e3:.0f} ms" for name, ones in found.items())
                print(f"bench: local, round {number} of {rounds}: {told}", flush=True)
    return found


def lines(found: dict[str, list[Summed]]) -> Sequence[report.Line]:
    """Shared memory against the others."""
    ours = [one.summed_s for one in found[SHARED]]
    targets = {TCP: BY_TCP_RATIO, UNIX: None, PARQUET: BY_PARQUET_RATIO}
    cpu = {name: statistics.median(one.cpu_s for one in ones) for name, ones in found.items()}
    there = [one.there_s for one in found[SHARED]]
    return [
        *(
            report.Line(
                f"same host, lineitem summed, shared memory: time by {name}",
                ours,
                [one.summed_s for one in found[name]],
                target,
                f"client's CPU {cpu[SHARED]:.2f} s, plain {cpu[name]:.2f} s",
            )
            for name, target in targets.items()
        ),
        report.Line("same host, lineitem handed over, not looked at", there, at_most=HANDED_OVER_S),
    ]


def summed(read: Callable[[str], pa.Table], place: str) -> Summed:
    """One read and its sums."""
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    table = read(place)
    there_s = time.perf_counter() - start_s
    sums = sums_of(table)
    return Summed(there_s, time.perf_counter() - start_s, time.process_time() - start_cpu_s, sums)


def sums_of(table: pa.Table) -> Sums:
    """Of numbers the sum, of dates that of their days, of texts that of their lengths; columns side by side."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(table.column_names, pool.map(sum_of, table.columns), strict=True))


def sum_of(column: pa.ChunkedArray) -> int | Decimal:
    """The sum of a column without nulls."""
    if pa.types.is_string_view(column.type):
        return sum(map(view_bytes, column.chunks))
    if pa.types.is_date32(column.type):
        column = column.cast(pa.int32())
    return pc.sum(column).as_py()


def view_bytes(array: pa.Array) -> int:
    """The bytes of all texts; pyarrow has no such function for views yet."""
    views = np.frombuffer(array.buffers()[1], np.int32).reshape(-1, VIEW_WORDS)
    return int(views[array.offset : array.offset + len(array), 0].sum(dtype=np.int64))


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
