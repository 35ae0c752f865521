"""Reading a whole dataset: cold and warm through Jetbridge against pyarrow reading the same files directly."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.fs as fs
import pyarrow.parquet as pq

import report
from harness.flight import by_path
from harness.server import Options, Server
from harness.tpch import lineitem
from harness.weed import Weed
from harness.weed import filesystem as s3_filesystem

COLD_RATIO = 1.3
STREAMS = 2


@dataclass(frozen=True)
class Storage:
    """Where the files are, and how each side reaches them."""

    name: str
    uri: str
    # pyarrow's way: what makes the file system (in the process that reads), and the folder in it.
    filesystem: Callable[[], fs.FileSystem]
    folder: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One way to read all rows.

    `fresh`: each read is the first of its Python process, on both sides, as in a job that starts; else this process, which
    has read both ways before, so that its allocator has the memory already.
    """

    storage: Storage
    streams: int
    fresh: bool

    def __str__(self) -> str:
        return f"{self.storage.name}, {self.streams} stream(s), {'new' if self.fresh else 'used'} process"


@dataclass(frozen=True)
class Read:
    """One measured read: wall time, and the CPU time of both sides."""

    seconds: float
    client_cpu_s: float
    server_cpu_s: float


def run(work_dir: Path, scale_factor: float, rounds: int) -> list[report.Line]:
    """Alternates direct, cold and warm reads; each cold read is the first of its server."""
    what = f"DoGet of lineitem at scale {scale_factor:g}"
    with storages(lineitem(work_dir, scale_factor)) as (local, remote):
        # Not counted: brings the files into the kernel's cache, for both sides alike.
        read_directly(local)
        cases = [Case(local, streams, fresh) for fresh in (False, True) for streams in (1, STREAMS)]
        cases += [Case(remote, 1, fresh) for fresh in (False, True)]
        return [line for case in cases for line in lines(what, case, [one_round(work_dir, case) for _ in range(rounds)])]


def one_round(work_dir: Path, case: Case) -> tuple[Read, Read, Read]:
    """The direct read, then the first and the third of a new server; what is decoded is kept from the second on."""
    direct = measured(read_directly, (case.storage,), case.fresh)
    mounts = {"/lineitem": case.storage.uri}
    server = Server(work_dir / "data", Options(mounts=mounts, env=case.storage.environment))
    try:
        asked = (server.flight_uri, case.streams)
        cold = measured(read_through, asked, case.fresh, server)
        read_through(*asked)
        warm = measured(read_through, asked, case.fresh, server)
    finally:
        server.stop()
    print(
        f"bench: do_get, {case}: direct {direct.seconds:.2f} s, cold {cold.seconds:.2f} s, warm {warm.seconds:.2f} s",
        flush=True,
    )
    return direct, cold, warm


def lines(what: str, case: Case, rounds: list[tuple[Read, Read, Read]]) -> Iterator[report.Line]:
    """The case's lines, cold and warm, with what the CPUs did."""
    direct, cold, warm = zip(*rounds, strict=True)
    for state, ours, target in (("cold", cold, COLD_RATIO), ("warm", warm, None)):
        cpus = (
            ("server", [read.server_cpu_s for read in ours]),
            ("client", [read.client_cpu_s for read in ours]),
            ("plain", [read.client_cpu_s for read in direct]),
        )
        said = ", ".join(f"{who} {statistics.median(values):.2f} s" for who, values in cpus)
        note = f"plain: pyarrow.parquet on the same files; CPU {said}"
        seconds, plain = [read.seconds for read in ours], [read.seconds for read in direct]
        yield report.Line(f"{what}, {state}, {case}", seconds, plain, target, note)


@contextlib.contextmanager
def storages(folder: Path) -> Iterator[tuple[Storage, Storage]]:
    """The files as they lie, and a copy of them in a bucket of a real S3 server on this machine."""
    weed = Weed()
    try:
        uri = weed.upload(folder, "lineitem")
        local = Storage("local files", f"file://{folder}", fs.LocalFileSystem, str(folder))
        filesystem = functools.partial(s3_filesystem, weed.port)
        options = {"AWS_ENDPOINT_URL": weed.endpoint, "AWS_ALLOW_HTTP": "true", **weed.credentials()}
        yield local, Storage("SeaweedFS", uri, filesystem, "lineitem", options)
    finally:
        weed.stop()


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


def read_directly(storage: Storage) -> int:
    """pyarrow's fastest way to the same table: all columns of a file decoded in parallel."""
    filesystem = storage.filesystem()
    files = sorted(file.path for file in filesystem.get_file_info(fs.FileSelector(storage.folder)))
    return pa.concat_tables([read_file(filesystem, path) for path in files]).num_rows


def read_file(filesystem: fs.FileSystem, path: str) -> pa.Table:
    """One file; pre-buffering is what makes pyarrow fetch the columns of a remote file side by side."""
    remote = not isinstance(filesystem, fs.LocalFileSystem)
    return pq.read_table(path, filesystem=filesystem, use_threads=True, pre_buffer=remote)
