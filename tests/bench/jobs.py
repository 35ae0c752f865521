"""A preload of raw pages against a plain object_store program that downloads the same, from an S3 server beside both.

A cluster of three workers and a single node each load 10,000 small files, one large file, and both in one job. The
plain program has as many requests in flight, and writes files, as the cache does; what it takes where it throws the
bytes away stands beside that. Sides take turns, each with an empty cache, and what the one before wrote is on the disk.

A job's time is that of its submission, its planning, and all loads, up to the answer that says SUCCEEDED.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.flight as flight

import bucket
import report
from harness import jobs, metrics
from harness.cluster import STORE_BYTES, STORE_REQUESTS, Cluster, until
from harness.flight import act
from harness.process import Daemon, clean_environment
from harness.server import Options, Server, binary
from harness.weed import Weed

WORKERS = 3
# Requests in flight, on all workers together.
CONCURRENCY = 48
# What the cache asks for at most in one request; the plain program gets the same.
RANGE_BYTES = 16 << 20
# Of all nodes together that load.
MEMORY_BYTES = WORKERS * (512 << 20)
MOUNT = "/jobs"
# By name, the prefixes of the bucket.
CASES = {"small": (bucket.SMALL,), "large": (bucket.LARGE,), "both": (bucket.SMALL, bucket.LARGE)}
TIME_RATIO = 1.15
TASKS_RATIO = 1.2
JOB_TIMEOUT_S = 600.0
POLL_INTERVAL_S = 0.02
# Where the sides put what they load, and what becomes of that until all is measured.
DOWNLOADED, OF_CLUSTER, OF_SINGLE = FOLDERS = ("downloaded", "jobs-cluster", "jobs-single")
ASIDE = "jobs-aside"
# Sides, as the report calls them.
CLUSTER, SINGLE = f"{WORKERS} workers", "one node"
DISCARDING, WRITING = "plain, bytes thrown away", "plain, to files"


@dataclass(frozen=True)
class Run:
    """One side of one case, once."""

    seconds: float
    # Of the programs that download; the store's own beside it.
    cpu_s: float
    store_cpu_s: float
    # GETs of objects, and the bytes that they brought.
    gets: float
    asked_bytes: float
    bytes: int
    # Of jobs only: until the submission was answered, until all was planned, and tasks by worker.
    submit_s: float = 0.0
    planned_s: float = 0.0
    coordinator_cpu_s: float = 0.0
    tasks: Sequence[int] = ()

    @property
    def imbalance(self) -> float:
        """Tasks of the busiest worker by the mean."""
        return max(self.tasks) / statistics.mean(self.tasks)


@dataclass
class Case:
    """What was measured of one case, by side."""

    name: str
    needed_gets: int
    sides: dict[str, list[Run]] = field(default_factory=dict)

    def median(self, side: str, figure: Callable[[Run], float]) -> float:
        """Over the rounds."""
        return statistics.median(figure(run) for run in self.sides[side])


def run(work_dir: Path, sizes: bucket.Sizes, rounds: int) -> tuple[list[report.Line], list[report.Table]]:
    """All cases in turn; the store's disk has been read once before it counts."""
    clear(work_dir)
    with bucket.opened(work_dir, sizes) as weed, contextlib.ExitStack() as stack:
        stack.callback(clear, work_dir)
        cases = [Case(name, needed_gets(sizes, prefixes)) for name, prefixes in CASES.items()]
        plain(work_dir, weed, ("",), None)
        for number in range(rounds):
            for case in cases:
                measure(work_dir, weed, case)
                told = ", ".join(f"{side} {runs[-1].seconds:.2f} s" for side, runs in case.sides.items())
                print(f"bench: jobs: {case.name}, round {number + 1} of {rounds}: {told}", flush=True)
    return [line for case in cases for line in lines(case)], [table(cases)]


def needed_gets(sizes: bucket.Sizes, prefixes: Sequence[str]) -> int:
    """The GETs of who knows where everything is: a file each, and ranges of the large one."""
    of_large = -(-sizes.large_bytes // RANGE_BYTES)
    return sum({bucket.SMALL: sizes.files, bucket.LARGE: of_large}[prefix] for prefix in prefixes)


def measure(work_dir: Path, weed: Weed, case: Case) -> None:
    """Every side once."""
    prefixes = CASES[case.name]
    folder = work_dir / DOWNLOADED
    sides = {
        DISCARDING: lambda: plain(work_dir, weed, prefixes, None),
        WRITING: lambda: plain(work_dir, weed, prefixes, folder),
        CLUSTER: lambda: in_cluster(work_dir, weed, prefixes),
        SINGLE: lambda: on_one(work_dir, weed, prefixes),
    }
    for name, side in sides.items():
        os.sync()
        case.sides.setdefault(name, []).append(side())
    loaded = {runs[-1].bytes for name, runs in case.sides.items() if name in (DISCARDING, WRITING)}
    assert len(loaded) == 1, f"other bytes: {loaded}"
    # Footers and magics are no bytes of columns.
    (whole,) = loaded
    assert all(0.9 * whole < runs[-1].bytes <= whole for runs in case.sides.values()), "not the same was loaded"


def plain(work_dir: Path, weed: Weed, prefixes: Sequence[str], folder: Path | None) -> Run:
    """The plain program; where there are several prefixes, they have one in common."""
    prefix = prefixes[0] if len(prefixes) == 1 else ""
    place = ["--to", str(folder)] if folder else []
    command = [str(program()), bucket.BUCKET, prefix, str(CONCURRENCY), str(RANGE_BYTES), *place]
    with emptied(work_dir / DOWNLOADED):
        store_s = weed.daemon.cpu_seconds()
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=clean_environment(environment(weed))
        )
        store_s = weed.daemon.cpu_seconds() - store_s
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stderr}")
    said = json.loads(done.stdout)
    count, whole = said["requests"], said["bytes"]
    return Run(said["seconds"], said["cpu_seconds"], store_s, count, whole, whole)


def program() -> Path:
    """The example, which `make bench` builds beside the server."""
    path = binary().with_name("examples") / "download"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: build it with `cargo build --release --workspace --examples`")
    return path


def environment(weed: Weed) -> dict[str, str]:
    """How S3 programs find the store."""
    return {"AWS_ENDPOINT_URL": weed.endpoint, "AWS_ALLOW_HTTP": "true", **Weed.credentials()}


def in_cluster(work_dir: Path, weed: Weed, prefixes: Sequence[str]) -> Run:
    """A job on a cluster that has nothing yet."""
    with emptied(work_dir / OF_CLUSTER) as folder:
        # Nodes of one machine have their part of the cores, as those of `serve --workers N` do.
        threads = str(max(1, len(os.sched_getaffinity(0)) // WORKERS))
        of_all = ["--serve-threads", threads, "--decode-threads", threads]
        each = ["--memory", str(MEMORY_BYTES // WORKERS), "--store-concurrency", str(CONCURRENCY // WORKERS)]
        cluster = Cluster.start(
            folder,
            {MOUNT: f"s3://{bucket.BUCKET}"},
            workers=WORKERS,
            args=["--store-concurrency", str(CONCURRENCY), *of_all],
            worker_args=[*each, *of_all],
            env=environment(weed),
        )
        with cluster, cluster.coordinator.connect() as client:
            nodes = [(node.daemon, node.admin_uri) for node in cluster.nodes]
            return preload(client, nodes, weed, prefixes)


def on_one(work_dir: Path, weed: Weed, prefixes: Sequence[str]) -> Run:
    """The same on a single node."""
    with emptied(work_dir / OF_SINGLE) as folder:
        args = ["--memory", str(MEMORY_BYTES), "--store-concurrency", str(CONCURRENCY)]
        mounts = {MOUNT: f"s3://{bucket.BUCKET}"}
        server = Server(folder / "data", Options(mounts=mounts, args=args, env=environment(weed)))
        try:
            # It is ready before it has a place among workers, and what is planned before that is planned again.
            until(lambda: has_seat(server.client), "a seat")
            return preload(server.client, [(server.daemon, server.admin_uri)], weed, prefixes)
        finally:
            server.stop()


def has_seat(client: flight.FlightClient) -> bool:
    """Whether there is a worker that owns something."""
    return any(member["seat"] for member in act(client, "cluster.members", {})["members"])


def preload(
    client: flight.FlightClient, nodes: Sequence[tuple[Daemon, str]], weed: Weed, prefixes: Sequence[str]
) -> Run:
    """Submits a job and waits for it; the first of the nodes is the coordinator."""
    daemons = [daemon for daemon, _ in nodes]
    before_s = [daemon.cpu_seconds() for daemon in [*daemons, weed.daemon]]
    began_s = time.perf_counter()
    job = jobs.submit(client, [f"{MOUNT}/{prefix}" for prefix in prefixes], tier="raw")
    submit_s = time.perf_counter() - began_s
    planned_s = 0.0
    while job["state"] not in jobs.FINAL:
        assert time.perf_counter() - began_s < JOB_TIMEOUT_S, f"not over in {JOB_TIMEOUT_S} s: {jobs.shown(job)}"
        time.sleep(POLL_INTERVAL_S)
        job = jobs.get(client, job["id"])
        if not planned_s and not job["listing"] and job["row_groups"]:
            planned_s = time.perf_counter() - began_s
    seconds = time.perf_counter() - began_s
    used_s = [daemon.cpu_seconds() - before for daemon, before in zip([*daemons, weed.daemon], before_s, strict=True)]
    jobs.assert_succeeded(job)
    return Run(
        seconds,
        sum(used_s[:-1]),
        used_s[-1],
        sum(metrics.total(uri, STORE_REQUESTS, op="get") for _, uri in nodes),
        sum(metrics.total(uri, STORE_BYTES) for _, uri in nodes),
        job["bytes_done"],
        submit_s,
        planned_s,
        used_s[0],
        tasks_of(job),
    )


def tasks_of(job: dict[str, Any]) -> list[int]:
    """Tasks done, by worker; they are all that were given."""
    assert all(worker["tasks_running"] == 0 for worker in job["workers"]), job["workers"]
    return [worker["tasks_done"] for worker in job["workers"]]


@contextlib.contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """A folder that is empty at first. Its files are emptied afterwards, and deleted when all is measured: ext4 looks
    through the inodes of files that were deleted within the last minutes whenever it makes another."""
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        for file in folder.rglob("*"):
            if file.is_file() and not file.is_symlink():
                os.truncate(file, 0)
        aside = folder.parent / ASIDE
        aside.mkdir(exist_ok=True)
        folder.rename(aside / f"{time.time_ns()}")


def clear(work_dir: Path) -> None:
    """Deletes what this part has left."""
    for name in (ASIDE, *FOLDERS):
        shutil.rmtree(work_dir / name, ignore_errors=True)


def lines(case: Case) -> list[report.Line]:
    """Each of the two ways to run a job against the plain program."""
    return [line for side in (CLUSTER, SINGLE) for line in lines_of(case, side)]


def lines_of(case: Case, side: str) -> list[report.Line]:
    """Time, CPU, requests, and how even the tasks were."""
    ours, files, none = case.sides[side], case.sides[WRITING], case.sides[DISCARDING]
    what = f"preload, raw, {case.name}, {side}"
    pairs = zip(ours, none, strict=True)
    by_none = statistics.median(one.seconds / other.seconds for one, other in pairs)
    note = (
        f"plain: object_store to files, {CONCURRENCY} requests at once both; "
        f"{by_none:.2f} of it where it throws the bytes away"
    )
    found = [
        report.Line(what, seconds(ours), seconds(files), TIME_RATIO, note),
        report.Line(
            f"{what}: CPU of all nodes",
            [one.cpu_s for one in ours],
            [one.cpu_s for one in files],
            note=f"the store's beside it {case.median(side, lambda one: one.store_cpu_s):.1f} s",
        ),
        report.Line(
            f"{what}: GETs",
            [one.gets for one in ours],
            [case.needed_gets for _ in ours],
            note=f"plain: needed; bytes asked {case.median(side, lambda one: one.asked_bytes / one.bytes):.2f} times",
            unit=report.Unit.COUNT,
        ),
    ]
    if side == CLUSTER:
        what = f"{what}: tasks, busiest worker by mean"
        note = f"tasks by worker, last round: {', '.join(map(str, ours[-1].tasks))}"
        uneven = [one.imbalance for one in ours]
        found.append(report.Line(what, uneven, note=note, unit=report.Unit.SHARE, at_most=TASKS_RATIO))
    return found


def seconds(runs: Sequence[Run]) -> list[float]:
    return [run.seconds for run in runs]


def table(cases: Sequence[Case]) -> report.Table:
    """Medians of all that was measured."""
    figures: dict[str, Callable[[Run], float]] = {
        "s": lambda run: run.seconds,
        "MB/s": lambda run: run.bytes / run.seconds / 1e6,
        "submitted after s": lambda run: run.submit_s,
        "planned after s": lambda run: run.planned_s,
        "CPU s": lambda run: run.cpu_s,
        "of these the coordinator's": lambda run: run.coordinator_cpu_s,
        "store's CPU s": lambda run: run.store_cpu_s,
        "GETs": lambda run: run.gets,
        "MB asked": lambda run: run.asked_bytes / 1e6,
    }
    rows = [
        [case.name, side, *(f"{case.median(side, figure):,.2f}" for figure in figures.values())]
        for case in cases
        for side in case.sides
    ]
    return report.Table("Preloads of raw pages against plain downloads, medians", ["case", "side", *figures], rows)
