"""GetFlightInfo on very many files: cold against listing and reading the footers with plain object_store, then warm.

Each cold call has a data folder of its own, and all of them go at the end: ext4 does not give an inode away within
minutes of its file's removal, and looks at each such inode for every new file, which would count as the server's work.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import report
from harness import files
from harness.flight import by_path
from harness.server import Options, Server, binary

# What a mount allows by default; the plain program gets the same.
CONCURRENCY = 64
ROWS_A_FILE = 10
WARM_CALLS = 100
COLD_RATIO = 1.3


@dataclass(frozen=True)
class Cold:
    """One cold call: how long it took, and the server's CPU time in it."""

    seconds: float
    server_cpu_s: float


def run(work_dir: Path, count: int, rounds: int) -> list[report.Line]:
    """Alternates the two programs; each round starts a server that has seen nothing."""
    folder = many_files(work_dir, count)
    ours, plain = [], []
    # Not counted: brings the files into the kernel's cache, for both sides alike.
    plain_footers(folder, count)
    data_dirs = Path(tempfile.mkdtemp(prefix="plan-", dir=work_dir))
    try:
        for number in range(rounds):
            plain.append(plain_footers(folder, count))
            ours.append(cold_call(data_dirs / str(number), folder, count))
            print(
                f"bench: plan round {number + 1}: plain {plain[-1]:.3f} s, jetbridge {ours[-1].seconds:.3f} s",
                flush=True,
            )
        warm = warm_calls(data_dirs / "warm", folder)
    finally:
        shutil.rmtree(data_dirs)
    cpu = statistics.median(call.server_cpu_s for call in ours)
    cold = report.Line(
        f"GetFlightInfo, {count:,} files, cold",
        [call.seconds for call in ours],
        plain,
        COLD_RATIO,
        f"plain: object_store list and footers, {CONCURRENCY} at once; server CPU {cpu:.2f} s",
    )
    return [cold, *warm_lines(warm, count)]


def many_files(work_dir: Path, count: int) -> Path:
    """The folder of small files; made once."""
    folder = work_dir / f"files-{count}"
    done = folder / "_SUCCESS"
    if not done.exists():
        files.write_many(folder, count, ROWS_A_FILE)
        done.touch()
    return folder


def plain_footers(folder: Path, count: int) -> float:
    """The seconds that the plain program needs."""
    program = binary().with_name("examples") / "plain_footers"
    done = subprocess.run([str(program), str(folder), str(CONCURRENCY)], check=True, capture_output=True, text=True)
    said = json.loads(done.stdout)
    assert (said["files"], said["rows"]) == (count, count * ROWS_A_FILE)
    return float(said["seconds"])


def cold_call(data_dir: Path, folder: Path, count: int) -> Cold:
    """The first GetFlightInfo of a server."""
    server = start(data_dir, folder)
    try:
        before, start_s = server.daemon.cpu_seconds(), time.perf_counter()
        info = server.client.get_flight_info(by_path("/many"))
        seconds = time.perf_counter() - start_s
        assert info.total_records == count * ROWS_A_FILE
        return Cold(seconds, server.daemon.cpu_seconds() - before)
    finally:
        server.stop()


def warm_calls(data_dir: Path, folder: Path) -> list[float]:
    """The seconds of each call once everything is known."""
    server = start(data_dir, folder)
    try:
        server.client.get_flight_info(by_path("/many"))
        times = []
        for _ in range(WARM_CALLS):
            start_s = time.perf_counter()
            server.client.get_flight_info(by_path("/many"))
            times.append(time.perf_counter() - start_s)
        return times
    finally:
        server.stop()


def warm_lines(times: list[float], count: int) -> list[report.Line]:
    """p50 and p99."""
    cuts = statistics.quantiles(times, n=100)
    what = f"GetFlightInfo, {count:,} files, warm"
    note = f"of {WARM_CALLS} calls"
    return [report.Line(f"{what}, p50", [cuts[49]], note=note), report.Line(f"{what}, p99", [cuts[98]], note=note)]


def start(data_dir: Path, folder: Path) -> Server:
    """A server with nothing; its freshness outlasts the measurement."""
    return Server(data_dir, Options(mounts={"/many": f"file://{folder}"}))
