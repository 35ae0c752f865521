"""Reading a whole dataset: cold and warm through Jetbridge against pyarrow reading the same files directly."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """Alternates direct, cold and warm reads; each cold read is the first of its server.

    "new process": each read is the first of its Python process, on both sides, as in a job that starts. "used process":
    this one, which has read both ways before, so that its allocator has the memory already.
    """
    folder = lineitem(work_dir, scale_factor)
    cases = [(streams, fresh) for fresh in (True, False) for streams in (1, STREAMS)]
    reads: dict[tuple[int, bool], dict[str, list[Read]]] = {case: {"direct": [], "cold": [], "warm": []} for case in cases}
    # Not counted: brings the files into the kernel's cache, for both sides alike.
    read_directly(folder)
    for number in range(rounds):
        for streams, fresh in cases:
            case = reads[streams, fresh]
            case["direct"].append(measured(read_directly, (folder,), fresh))
            first, second = cold_and_warm(work_dir, folder, streams, fresh)
            case["cold"].append(first)
            case["warm"].append(second)
            print(
                f"bench: do_get round {number + 1}, {named(streams, fresh)}: "
                f"direct {case['direct'][-1].seconds:.2f} s, cold {first.seconds:.2f} s, warm {second.seconds:.2f} s",
                flush=True,
            )
    what = f"DoGet of lineitem at scale {scale_factor:g}"
    return [
        line(f"{what}, {state}, {named(*case)}", reads[case][state], reads[case]["direct"], target)
        for case in cases
        for state, target in (("cold", COLD_RATIO), ("warm", None))
    ]


def named(streams: int, fresh: bool) -> str:
    """The case in words."""
    return f"{streams} stream(s), {'new' if fresh else 'used'} process"


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


def cold_and_warm(work_dir: Path, folder: Path, streams: int, fresh: bool) -> tuple[Read, Read]:
    """The first and the third read of a new server; what is decoded is kept from the second on."""
    server = Server(work_dir / "data", Options(mounts={"/lineitem": f"file://{folder}"}))
    try:
        asked = (server.flight_uri, streams)
        cold = measured(read_through, asked, fresh, server)
        read_through(*asked)
        return cold, measured(read_through, asked, fresh, server)
    finally:
        server.stop()


def measured(read: Callable[..., int], asked: tuple[Any, ...], fresh: bool, server: Server | None = None) -> Read:
    """Times one read, in a new process or in this one; the rows are dropped before the next."""
    server_before = server.daemon.cpu_seconds() if server else 0.0
    if fresh:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            seconds, client = pool.submit(timed, read, asked).result()
    else:
        seconds, client = timed(read, asked)
    return Read(seconds, client, (server.daemon.cpu_seconds() - server_before) if server else 0.0)


def timed(read: Callable[..., int], asked: tuple[Any, ...]) -> tuple[float, float]:
    """Wall and CPU seconds of one read, imports and interpreter start left out."""
    client_before, start = time.process_time(), time.perf_counter()
    rows = read(*asked)
    seconds, client = time.perf_counter() - start, time.process_time() - client_before
    assert rows > 0
    return seconds, client


def read_through(uri: str, streams: int) -> int:
    """GetFlightInfo, then every endpoint, `streams` at a time."""
    with flight.connect(uri) as client:
        endpoints = client.get_flight_info(by_path("/lineitem")).endpoints
        if streams == 1:
            return pa.concat_tables([client.do_get(endpoint.ticket).read_all() for endpoint in endpoints]).num_rows
        with ThreadPoolExecutor(streams) as pool:
            tables = pool.map(lambda endpoint: client.do_get(endpoint.ticket).read_all(), endpoints)
            return pa.concat_tables(tables).num_rows


def read_directly(folder: Path) -> int:
    """pyarrow's fastest way to the same table: all columns of a file decoded in parallel."""
    files = sorted(folder.glob("*.parquet"))
    return pa.concat_tables([pq.ParquetFile(path).read(use_threads=True) for path in files]).num_rows
