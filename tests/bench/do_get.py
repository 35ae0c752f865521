"""Reading a whole dataset: cold and warm through Jetbridge against pyarrow reading the same files directly."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq

import report
from harness.flight import by_path
from harness.server import Options, Server
from harness.tpch import lineitem

COLD_RATIO = 1.3
STREAMS = 2


@dataclass(frozen=True)
class Read:
    """One measured read: wall time, and the CPU time of both sides."""

    seconds: float
    client_cpu_s: float
    server_cpu_s: float


def run(work_dir: Path, scale_factor: float, rounds: int) -> list[report.Line]:
    """Alternates direct, cold and warm reads; each cold read is the first of its server."""
    folder = lineitem(work_dir, scale_factor)
    direct: dict[int, list[Read]] = {1: [], STREAMS: []}
    cold: dict[int, list[Read]] = {1: [], STREAMS: []}
    warm: dict[int, list[Read]] = {1: [], STREAMS: []}
    # Not counted: brings the files into the kernel's cache, for both sides alike.
    read_directly(folder)
    for number in range(rounds):
        for streams in (1, STREAMS):
            direct[streams].append(measured(lambda: read_directly(folder)))
            first, second = cold_and_warm(work_dir, folder, streams)
            cold[streams].append(first)
            warm[streams].append(second)
            print(
                f"bench: do_get round {number + 1}, streams {streams}: "
                f"direct {direct[streams][-1].seconds:.2f} s, cold {first.seconds:.2f} s, warm {second.seconds:.2f} s",
                flush=True,
            )
    what = f"DoGet of lineitem at scale {scale_factor:g}"
    return [
        *(line(f"{what}, cold, {streams} stream(s)", cold[streams], direct[streams], COLD_RATIO) for streams in cold),
        *(line(f"{what}, warm, {streams} stream(s)", warm[streams], direct[streams], None) for streams in warm),
    ]


def line(what: str, ours: list[Read], direct: list[Read], target: float | None) -> report.Line:
    """One line, with what the CPUs did."""
    cpus = (
        ("server", [r.server_cpu_s for r in ours]),
        ("client", [r.client_cpu_s for r in ours]),
        ("plain", [r.client_cpu_s for r in direct]),
    )
    note = "plain: pyarrow.parquet on the same files; CPU " + ", ".join(
        f"{who} {statistics.median(values):.2f} s" for who, values in cpus
    )
    return report.Line(what, [read.seconds for read in ours], [read.seconds for read in direct], target, note)


def cold_and_warm(work_dir: Path, folder: Path, streams: int) -> tuple[Read, Read]:
    """The first and the third read of a new server; what is decoded is kept from the second on."""
    server = Server(work_dir / "data", Options(mounts={"/lineitem": f"file://{folder}"}))
    try:

        def once() -> pa.Table:
            return read_through(server.client, streams)

        cold = measured(once, server)
        once()
        return cold, measured(once, server)
    finally:
        server.stop()


def measured(read: Callable[[], pa.Table], server: Server | None = None) -> Read:
    """Times one read; the table is dropped before the next."""
    server_before = server.daemon.cpu_seconds() if server else 0.0
    client_before, start = time.process_time(), time.perf_counter()
    rows = read().num_rows
    seconds, client = time.perf_counter() - start, time.process_time() - client_before
    assert rows > 0
    return Read(seconds, client, (server.daemon.cpu_seconds() - server_before) if server else 0.0)


def read_through(client: flight.FlightClient, streams: int) -> pa.Table:
    """GetFlightInfo, then every endpoint, `streams` at a time."""
    endpoints = client.get_flight_info(by_path("/lineitem")).endpoints
    if streams == 1:
        return pa.concat_tables([client.do_get(endpoint.ticket).read_all() for endpoint in endpoints])
    with ThreadPoolExecutor(streams) as pool:
        return pa.concat_tables(pool.map(lambda endpoint: client.do_get(endpoint.ticket).read_all(), endpoints))


def read_directly(folder: Path) -> pa.Table:
    """pyarrow's fastest way to the same table: all columns of a file decoded in parallel."""
    return pa.concat_tables([pq.ParquetFile(path).read(use_threads=True) for path in sorted(folder.glob("*.parquet"))])
