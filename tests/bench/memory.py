"""The server's memory while readers scan ten times its budget and two of them stall: how far it exceeds the budget."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import random
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier, Event, Semaphore
from pathlib import Path
from typing import Any

import pyarrow.flight as flight
import pyarrow.parquet as pq

import report
from harness.flight import by_path, chunks
from harness.server import Options, Server
from harness.tpch import lineitem

MIB = 2**20
READERS = 8
STALLED = 2
# What the process may have beyond its budget.
ALLOWANCE_BYTES = 256 * MIB
PATH = "/scanned"
SAMPLE_INTERVAL_S = 0.05
START_TIMEOUT_S = 120.0
SCAN_TIMEOUT_S = 600.0
# How much of a failure's text goes into the report.
SHOWN_CHARS = 160


@dataclass(frozen=True)
class Case:
    """A budget, and how often lineitem lies in the folder that is scanned."""

    budget_bytes: int
    copies: int


# At scale 1 lineitem is ten times 128 MiB when decoded.
CASES = (Case(128 * MIB, 1), Case(512 * MIB, 4))


@dataclass(frozen=True)
class Outcome:
    """What one reader came to; `failure` is empty where it read all."""

    number: int
    rows: int
    arrow_bytes: int
    failure: str = ""


@dataclass(frozen=True)
class Seen:
    """The server's memory at one time, in bytes."""

    anonymous: int
    shared: int
    # What its memory files hold, mapped or not.
    memory_files: int

    @property
    def resident(self) -> int:
        return self.anonymous + self.shared

    @property
    def held(self) -> int:
        """What the kernel cannot take back; nothing that is shared is counted twice."""
        return self.anonymous + max(self.shared, self.memory_files)


@dataclass(frozen=True)
class Meeting:
    """How the readers' processes and this one wait for each other."""

    # One more reader has stalled.
    stalled: Semaphore
    # All others begin.
    start: Barrier
    # Those that stalled go on.
    release: Event
    # The outcomes.
    said: Any


class Sampler:
    """Looks at a process until told to end."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.seen: list[Seen] = []
        self._thread.start()

    def stop(self) -> None:
        """Ends it; at least one look has been taken."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while True:
            sizes = status_bytes(self._pid)
            self.seen.append(Seen(sizes["RssAnon"], sizes["RssShmem"], memory_file_bytes(self._pid)))
            if self._over.wait(SAMPLE_INTERVAL_S):
                return


def run(work_dir: Path, scale_factor: float, seed: int) -> list[report.Line]:
    """Every budget in turn."""
    return [line for case in CASES for line in measure(work_dir, case, lineitem(work_dir, scale_factor), seed)]


def measure(work_dir: Path, case: Case, source: Path, seed: int) -> list[report.Line]:
    """All readers over one new server."""
    folder = copies(work_dir / f"copies-{case.copies}", source, case.copies)
    data_dir = work_dir / "data"
    shutil.rmtree(data_dir, ignore_errors=True)
    args = ["--memory", str(case.budget_bytes)]
    server = Server(data_dir, Options(mounts={PATH: f"file://{folder}"}, args=args))
    try:
        decoded_bytes = server.client.get_flight_info(by_path(PATH)).total_bytes
        sampler = Sampler(server.daemon.pid)
        outcomes, seconds = scan_all(server.flight_uri, seed)
        sampler.stop()
        peak = status_bytes(server.daemon.pid)["VmHWM"]
        cpu_s = server.daemon.cpu_seconds()
    finally:
        server.stop()
    rows = sum(pq.ParquetFile(file).metadata.num_rows for file in folder.iterdir())
    what = (
        f"{READERS} readers, {STALLED} stalled, scanning {decoded_bytes / case.budget_bytes:.1f} x "
        f"a budget of {case.budget_bytes // MIB} MiB"
    )
    bound = case.budget_bytes + ALLOWANCE_BYTES
    outcomes = [checked(outcome, rows) for outcome in outcomes]
    return [*sizes(what, bound, peak, sampler.seen), fared(what, outcomes, seconds, cpu_s)]


def sizes(what: str, bound: int, peak: int, seen: Sequence[Seen]) -> list[report.Line]:
    """Resident memory as the kernel has it, and the part that is not files."""
    resident = max(one.resident for one in seen)
    held = max(one.held for one in seen)
    looks = f"of {len(seen)} looks; anonymous at most {max(one.anonymous for one in seen) / MIB:.0f} MiB"
    print(f"bench: memory, {what}: peak {peak / MIB:.0f} of {bound / MIB:.0f} MiB", flush=True)
    size = report.Unit.BYTES
    return [
        report.Line(f"{what}: RSS, peak", [peak], unit=size, at_most=bound, note="VmHWM"),
        report.Line(f"{what}: RssAnon + RssShmem", [resident], unit=size, at_most=bound, note=looks),
        report.Line(f"{what}: anonymous and memory files", [held], unit=size, at_most=bound, note="mapped or not"),
    ]


def fared(what: str, outcomes: Sequence[Outcome], seconds: float, cpu_s: float) -> report.Line:
    """Who failed, and how fast those read that did not stall."""
    read_bytes = sum(outcome.arrow_bytes for outcome in outcomes if outcome.number >= STALLED)
    rate = (
        f"{read_bytes / 1e9:.1f} GB in {seconds:.1f} s, {read_bytes / seconds / 1e9:.2f} GB/s, server CPU {cpu_s:.1f} s"
    )
    failures = [f"reader {outcome.number}: {outcome.failure}" for outcome in outcomes if outcome.failure]
    print(f"bench: memory, {what}: {rate}, {len(failures)} failed", flush=True)
    all_well = "each got every row, those that stalled as well once the others were done"
    return report.Line(
        f"{what}: readers that failed",
        [len(failures)],
        unit=report.Unit.COUNT,
        at_most=0,
        note=f"{rate}; {failures[0] if failures else all_well}",
    )


def copies(folder: Path, source: Path, count: int) -> Path:
    """The files so often, under names of their own: to the server they are other files, on disk they are the same."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for copy in range(count):
        for file in source.iterdir():
            os.link(file, folder / f"{copy}-{file.name}")
    return folder


def scan_all(uri: str, seed: int) -> tuple[list[Outcome], float]:
    """What came of each reader, and how long those took that did not stall."""
    context = multiprocessing.get_context("spawn")
    meeting = Meeting(context.Semaphore(0), context.Barrier(READERS - STALLED + 1), context.Event(), context.Queue())
    processes = [
        context.Process(target=reader, args=(uri, number, seed, meeting), daemon=True) for number in range(READERS)
    ]
    try:
        for number, process in enumerate(processes):
            process.start()
            if number < STALLED and not meeting.stalled.acquire(timeout=START_TIMEOUT_S):
                raise TimeoutError(f"reader {number} got no batch in {START_TIMEOUT_S} s")
        meeting.start.wait(START_TIMEOUT_S)
        start_s = time.perf_counter()
        outcomes = collected(meeting.said, READERS - STALLED)
        seconds = time.perf_counter() - start_s
        meeting.release.set()
        return [*outcomes, *collected(meeting.said, STALLED)], seconds
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()


def collected(said: Any, count: int) -> list[Outcome]:
    """The next outcomes; a reader that comes to none is a failure of the server or of this program."""
    deadline_s = time.monotonic() + SCAN_TIMEOUT_S
    outcomes: list[Outcome] = []
    while len(outcomes) < count:
        try:
            outcomes.append(said.get(timeout=max(0.0, deadline_s - time.monotonic())))
        except queue.Empty:
            raise TimeoutError(f"{count - len(outcomes)} readers not done in {SCAN_TIMEOUT_S} s") from None
    return outcomes


def reader(uri: str, number: int, seed: int, meeting: Meeting) -> None:
    """One program that reads every endpoint.

    Those that stall do so at the first batch of the first endpoint, one after another, so that the later ones share
    what the first has; the others begin together, each in an order of its own.
    """
    rows = size = 0
    failure = ""
    try:
        with flight.connect(uri) as client:
            endpoints = list(client.get_flight_info(by_path(PATH)).endpoints)
            if number >= STALLED:
                random.Random(seed + number).shuffle(endpoints)
                meeting.start.wait(START_TIMEOUT_S)
            for endpoint in endpoints:
                for chunk in chunks(client.do_get(endpoint.ticket)):
                    if number < STALLED and not rows:
                        meeting.stalled.release()
                        meeting.release.wait()
                    rows, size = rows + chunk.data.num_rows, size + chunk.data.nbytes
    except Exception as error:
        failure = str(error)[:SHOWN_CHARS] or repr(error)
    meeting.said.put(Outcome(number, rows, size, failure))


def checked(outcome: Outcome, rows: int) -> Outcome:
    """A reader that missed rows has failed too."""
    if outcome.failure or outcome.rows == rows:
        return outcome
    return Outcome(outcome.number, outcome.rows, outcome.arrow_bytes, f"{outcome.rows} rows of {rows}")


def status_bytes(pid: int) -> dict[str, int]:
    """The sizes in /proc/PID/status."""
    fields = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in fields if words[2:] == ["kB"]}


def memory_file_bytes(pid: int) -> int:
    """What the memory files that it has open take."""
    size = 0
    for entry in os.scandir(f"/proc/{pid}/fd"):
        # Files are closed while they are looked at.
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(entry.path).startswith("/memfd:"):
                size += os.stat(entry.path).st_blocks * 512
    return size
