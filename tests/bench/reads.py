"""Reading lineitem cold, warm raw and warm decoded, against pyarrow reading the same Parquet: from disk and from S3.

Read by pyarrow's Flight client over one stream, in every case; and cold and decoded by the Python package's own client,
over TCP and by shared memory, in the cases that are most usual.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as fs

import hand_out
import package
import report
from clients import KEEPING, PATH, Client, Columns, Read, read_directly, read_through
from harness.metrics import total
from harness.server import Options, Server
from storages import CONNECTION_BYTES_PER_S, FIRST_BYTE_S, LOCAL, S3, SHAPED, Storage, Storages, opened

FOUR = ["l_quantity", "l_extendedprice", "l_discount", "l_shipdate"]

# What the time of a read may be, by that of a direct one; the package's own client from the local disk has its own.
COLD_RATIO = 1.15
PACKAGE_COLD_LOCAL_RATIO = 1.3
DECODED_BY_LOCAL_RATIO = 1.0
DECODED_BY_SHAPED_RATIO = 0.5

# A read of a warm server that asks storage for more than this share of the files' bytes was none.
WARM_STORE_SHARE = 0.05
# The proxy's CPU is named from this share of a core on.
PROXY_CPU_SHARE = 0.03
GB = 1e9

SHAPING_PROBES = 3
# What socket buffers may hold beyond the bound on a connection.
LATITUDE = 0.97


@dataclass(frozen=True)
class Case:
    """One way to read all rows; `fresh`: each read is the first of its process, on both sides."""

    storage: Storage
    columns: Columns
    fresh: bool = True
    streams: int = 1
    # Whether the C library of the reading process is told to keep memory that was freed.
    keeping: bool = False
    # Whether the package's own client reads it, too.
    packaged: bool = False

    def __str__(self) -> str:
        what = "whole" if self.columns is None else f"{len(self.columns)} columns"
        client = "new process" if self.fresh else "used process"
        streams = [f"{self.streams} streams"] if self.streams > 1 else []
        keeping = ["malloc keeps memory"] if self.keeping else []
        return ", ".join([self.storage.place, self.storage.compression, what, client, *streams, *keeping])


@dataclass(frozen=True)
class State:
    """What the server had before a read."""

    name: str

    # The most that a read may take, by the direct read from the same storage and by that from local disk.
    by_same_ratio: float | None = None
    by_local_ratio: float | None = None


COLD = State("cold", by_same_ratio=COLD_RATIO)
PACKAGE_COLD_LOCAL = State(COLD.name, by_same_ratio=PACKAGE_COLD_LOCAL_RATIO)
RAW = State("warm raw")
DECODED = State("warm decoded", by_local_ratio=DECODED_BY_LOCAL_RATIO)
STATES = (COLD, RAW, DECODED)
# The package's own client, which is not asked to read from raw pages.
PACKAGE_WAYS = {"the package, TCP": package.over_tcp, "the package, shared memory": package.by_shared_memory}
PACKAGE_STATES = (COLD, DECODED)


@dataclass(frozen=True)
class Ours:
    """One read through Jetbridge, with what the server did meanwhile."""

    read: Read
    server_cpu_s: float
    # What was asked of storage, and the column chunks that came out of memory.
    store_bytes: float
    chunk_hits: float


@dataclass(frozen=True)
class Round:
    """One measurement of everything in a case."""

    local: Read
    # From the storage that the server reads as well; the same as `local` where that is the local disk.
    direct: Read
    ours: dict[str, Ours]
    # The same by the package's own client: by state and way.
    packaged: dict[tuple[str, str], Ours]
    # Shares of a core, while pyarrow read from the storage itself.
    storage_cpu: float
    proxy_cpu: float


def run(work_dir: Path, scale_factor: float, rounds: int) -> list[report.Line]:
    """Every case, round by round, and what is left of the time without processes and wires between."""
    hand_out.program()
    with opened(work_dir, scale_factor) as storages:
        found = [*shaping(storages)]
        cases = matrix(storages)
        for number, case in enumerate(cases, start=1):
            found += measure(work_dir, storages, case, rounds, f"{number} of {len(cases)}")
        for columns in (None, FOUR):
            found += hand_out.run(storages.at(LOCAL, "snappy"), columns, rounds)
    return found


def matrix(storages: Storages) -> list[Case]:
    """What is measured: everything once by the usual file, and what a choice of it changes where that may matter."""
    local = storages.at(LOCAL, "snappy")
    usual = [case for place in (LOCAL, S3, SHAPED) for case in by_place(storages, place)]
    used = [Case(local, columns, False, keeping=keeping) for columns in (None, FOUR) for keeping in (False, True)]
    return [*used, Case(local, None, keeping=True), Case(local, None, streams=2), *usual]


def by_place(storages: Storages, place: str) -> list[Case]:
    """Whole in both compressions, and four columns of it."""
    snappy, zstd = storages.at(place, "snappy"), storages.at(place, "zstd")
    return [Case(snappy, None, packaged=True), Case(snappy, FOUR, packaged=True), Case(zstd, None)]


def measure(work_dir: Path, storages: Storages, case: Case, rounds: int, which: str) -> list[report.Line]:
    """The lines of one case; the sides take turns, round by round."""
    client = Client(case.fresh, KEEPING if case.keeping else None)
    try:
        # Not counted: brings the files into the kernel's cache, and its memory to a used process.
        warm_up(work_dir, client, case)
        measured = []
        for number in range(rounds):
            measured.append(one_round(work_dir, storages, client, case))
            print(f"bench: reads {which}, round {number + 1} of {rounds}: {told(case, measured[-1])}", flush=True)
    finally:
        client.close()
    return [*lines(case, measured)]


def warm_up(work_dir: Path, client: Client, case: Case) -> None:
    """One read by either way."""
    client.read(read_directly, case.storage, case.columns)
    if not case.fresh:
        server = started(work_dir, case, empty=True)
        try:
            client.read(read_through, server.flight_uri, case.columns, case.streams)
        finally:
            server.stop()


def one_round(work_dir: Path, storages: Storages, client: Client, case: Case) -> Round:
    """The direct reads, then ours.

    The first is not counted: memory that a virtual machine has not used for seconds may have gone back to its host, and
    then costs whoever touches it next several times as much. So each counted read comes right after another one.
    """
    on_disk = storages.at(LOCAL, case.storage.compression)
    client.read(read_directly, on_disk, case.columns)
    local = client.read(read_directly, on_disk, case.columns)
    servers = (storages.s3_server, storages.shaper)
    before = [server.cpu_seconds() for server in servers]
    direct = client.read(read_directly, case.storage, case.columns) if case.storage.remote else local
    storage_cpu, proxy_cpu = [
        (server.cpu_seconds() - was) / direct.seconds for server, was in zip(servers, before, strict=True)
    ]
    return Round(local, direct, *states(work_dir, client, case), storage_cpu, proxy_cpu)


def states(work_dir: Path, client: Client, case: Case) -> tuple[dict[str, Ours], dict[tuple[str, str], Ours]]:
    """The first read of a server with nothing; then, of a new one that finds the pages, the first and the third.

    The package's client has a server with nothing for each of its ways, and its turn after the third read.
    """
    ways = PACKAGE_WAYS if case.packaged else {}
    packaged = {(COLD.name, way): cold_read(work_dir, client, case, read) for way, read in ways.items()}
    cold = cold_read(work_dir, client, case)
    server = started(work_dir, case, empty=False)
    try:
        raw = through(server, client, case)
        through(server, client, case)
        decoded = through(server, client, case)
        packaged.update({(DECODED.name, way): through(server, client, case, read) for way, read in ways.items()})
    finally:
        server.stop()
    size = stored_bytes(cold)
    warm = [raw, decoded, *(ours for (state, _), ours in packaged.items() if state != COLD.name)]
    for ours in warm:
        assert ours.store_bytes <= WARM_STORE_SHARE * size, (
            f"{case}: a warm read asked for {ours.store_bytes:.0f} bytes"
        )
    assert not raw.chunk_hits, f"{case}: decoded chunks in a server that has read nothing"
    assert decoded.chunk_hits, f"{case}: no decoded chunk at the third read"
    return {COLD.name: cold, RAW.name: raw, DECODED.name: decoded}, packaged


def cold_read(work_dir: Path, client: Client, case: Case, read: Callable[..., pa.Table] | None = None) -> Ours:
    """The first read of a server with nothing."""
    server = started(work_dir, case, empty=True)
    try:
        return through(server, client, case, read)
    finally:
        server.stop()


def stored_bytes(cold: Ours) -> float:
    """What the cold read asked for: all that is needed of the files."""
    assert cold.store_bytes > 0, "a cold read asked storage for nothing"
    return cold.store_bytes


def started(work_dir: Path, case: Case, empty: bool) -> Server:
    """A server on the data folder, which is emptied first where it should have nothing."""
    data_dir = work_dir / "data"
    if empty:
        shutil.rmtree(data_dir, ignore_errors=True)
        data_dir.with_name("data.log").unlink(missing_ok=True)
    return Server(data_dir, Options(mounts={PATH: case.storage.uri}, env=case.storage.environment))


def through(server: Server, client: Client, case: Case, read: Callable[..., pa.Table] | None = None) -> Ours:
    """One read, by pyarrow's client unless said otherwise, with the server's counters before and after."""
    asked = (server.flight_uri, case.columns)
    before = counters(server)
    done = client.read(read, *asked) if read else client.read(read_through, *asked, case.streams)
    cpu_s, store_bytes, hits = (now - was for now, was in zip(counters(server), before, strict=True))
    return Ours(done, cpu_s, store_bytes, hits)


def counters(server: Server) -> tuple[float, float, float]:
    """CPU seconds, bytes asked of storage, chunks that were there."""
    store_bytes = total(server.admin_uri, "jetbridge_store_read_bytes_total")
    return (
        server.daemon.cpu_seconds(),
        store_bytes,
        total(server.admin_uri, "jetbridge_cache_hits_total", tier="chunk"),
    )


def lines(case: Case, rounds: Sequence[Round]) -> Iterator[report.Line]:
    """Every state by pyarrow's client, then those by the package's."""
    for state in STATES:
        yield from state_lines(case, rounds, state, f"{case}: {state.name}", [one.ours[state.name] for one in rounds])
    for way in PACKAGE_WAYS if case.packaged else ():
        for state in PACKAGE_STATES:
            ours = [one.packaged[state.name, way] for one in rounds]
            bounds = state if case.storage.remote or state != COLD else PACKAGE_COLD_LOCAL
            yield from state_lines(case, rounds, bounds, f"{case}: {state.name}, {way}", ours)


def state_lines(
    case: Case, rounds: Sequence[Round], state: State, named: str, ours: Sequence[Ours]
) -> Iterator[report.Line]:
    """What a state is set against: the same storage, and the local disk where that is another."""
    seconds = [one.read.seconds for one in ours]
    local, direct = [one.local for one in rounds], [one.direct for one in rounds]
    if not case.storage.remote:
        target = state.by_local_ratio or state.by_same_ratio
        yield report.Line(named, seconds, [read.seconds for read in direct], target, note(ours, direct))
        return
    same_ratio = DECODED_BY_SHAPED_RATIO if (case.storage.place, state) == (SHAPED, DECODED) else state.by_same_ratio
    said = note(ours, direct) + storage_note(rounds)
    yield report.Line(named, seconds, [read.seconds for read in direct], same_ratio, said)
    if state.by_local_ratio is not None:
        plain = [read.seconds for read in local]
        yield report.Line(f"{named}, by a local read", seconds, plain, state.by_local_ratio, note(ours, local))


def note(ours: Sequence[Ours], plain: Sequence[Read]) -> str:
    """Rates and CPU of both sides, per 10^9 bytes of the table that pyarrow made of the files."""
    table_gb = plain[0].arrow_bytes / GB
    reads = [one.read for one in ours]
    our_rate, plain_rate = [table_gb / statistics.median(read.seconds for read in side) for side in (reads, plain)]
    server = statistics.median(one.server_cpu_s for one in ours) / table_gb
    asked = statistics.median(one.store_bytes for one in ours) / 1e6
    return (
        f"{table_gb:.2f} GB at {our_rate:.2f} GB/s, plain {plain_rate:.2f} GB/s; "
        f"CPU s/GB: server {server:.2f}, client {cpu(reads, table_gb)}, plain {cpu(plain, table_gb)}; "
        f"peak RSS: client {peak(reads)}, plain {peak(plain)}; {asked:.0f} MB asked of storage"
    )


def peak(reads: Sequence[Read]) -> str:
    """The most that a process had resident in any of them."""
    return f"{max(read.peak_bytes for read in reads) / 2**20:,.0f} MiB"


def cpu(reads: Sequence[Read], table_gb: float) -> str:
    """CPU seconds per 10^9 bytes, and the kernel's part: in a new process that is mostly memory's first touch."""
    whole = statistics.median(read.cpu_s for read in reads) / table_gb
    kernel = statistics.median(read.system_s for read in reads) / table_gb
    return f"{whole:.2f} ({kernel:.2f} in the kernel)"


def storage_note(rounds: Sequence[Round]) -> str:
    """What the storage's own programs took of the CPU while pyarrow read from it."""
    server = statistics.median(one.storage_cpu for one in rounds)
    proxy = statistics.median(one.proxy_cpu for one in rounds)
    shaped = f", the proxy {proxy:.2f}" if proxy >= PROXY_CPU_SHARE else ""
    return f"; plain's S3 server took {server:.2f} of a core{shaped}"


def shaping(storages: Storages) -> list[report.Line]:
    """That the line to the shaped storage is as long and as narrow as it should be."""
    storage = storages.at(SHAPED, "snappy")
    store = storage.filesystem()
    file = max(store.get_file_info(fs.FileSelector(storage.folder)), key=lambda info: info.size)
    with store.open_input_file(file.path) as opened_file:
        first = [seconds_of(opened_file.read_at, 1, 0) for _ in range(SHAPING_PROBES)]
        whole = [seconds_of(opened_file.read_at, file.size, 0) for _ in range(SHAPING_PROBES)]
    least_s = FIRST_BYTE_S + file.size / CONNECTION_BYTES_PER_S
    size = f"{file.size / 1e6:.0f} MB by one request"
    return [
        report.Line(f"{SHAPED}: one byte", first, at_least=FIRST_BYTE_S, note="what a request takes at least"),
        report.Line(f"{SHAPED}: {size}", whole, at_least=LATITUDE * least_s, note=f"{least_s:.2f} s by its bounds"),
    ]


def seconds_of(call: Callable[..., object], *arguments: int) -> float:
    """How long a call takes."""
    start_s = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start_s


def told(case: Case, measured: Round) -> str:
    """A round in a line, for who waits."""
    direct = f", direct {measured.direct.seconds:.2f} s" if case.storage.remote else ""
    ours = ", ".join(f"{name} {one.read.seconds:.2f} s" for name, one in measured.ours.items())
    return f"{case}: local {measured.local.seconds:.2f} s{direct}, {ours}"
