"""The 22 queries of TPC-H: Jetbridge against DataFusion's own wheel and DuckDB, which read the same Parquet themselves.

On local files, and in a bucket of an S3 server on this machine, near and far; warm, the engines in turn, query by
query. Each engine is a process of its own with its defaults, and gives the answer as an Arrow table. Before anything is
timed all answers are compared. Then the first query of a server and of a process that have read nothing; and three
workers against one (`sql_workers.py`).

DuckDB keeps in its process's memory what it has read of S3, so that warm it reads nothing there; it takes part a second
time, told not to.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import programs
import report
import sql_passes
import sql_workers
from environments import AbsentError, Environments
from harness import tpch
from harness.metrics import total
from harness.server import Options, Server
from sql_passes import MOUNT, SCHEMA, Pass, Side
from sql_workers import ENGINES
from storages import BUCKET, LOCAL, S3, SHAPED, Bucket, served

OURS, DATAFUSION, DUCKDB = "jetbridge", "datafusion", "duckdb"
DUCKDB_READING = "duckdb without its file cache"
# The query that is asked first; it reads the largest table alone.
FIRST, FIRST_TABLES = 1, ("lineitem",)

# The most that the time of all queries may be, by that of the others: on local files, and where all read S3. DuckDB
# with its cache reads nothing there: it is shown beside them.
TARGETS = {LOCAL: {DATAFUSION: 0.8, DUCKDB: 1.0}, S3: {DATAFUSION: 0.3, DUCKDB_READING: 0.3}}
COLD_RATIO = 1.3


@dataclass(frozen=True)
class Place:
    """Where the tables are, and how each side is told."""

    name: str
    uri: str
    # Before a table's name, for engines that read it themselves.
    prefix: str
    environment: dict[str, str] = field(default_factory=dict)
    s3: dict[str, str] | None = None

    def told(self, tables: Sequence[str] = tpch.TABLES) -> dict[str, Any]:
        """What those engines open."""
        return {"tables": {table: f"{self.prefix}/{table}" for table in tables}, "s3": self.s3}


@dataclass(frozen=True)
class Rivals:
    """The Python of each engine that can be had, and why one cannot, by what the side is called."""

    pythons: dict[str, Path]
    absent: dict[str, str]


def run(
    work_dir: Path, scale_factor: float, rounds: int, environments: Environments
) -> tuple[list[report.Line], list[report.Table]]:
    """Every place, warm and cold, then the workers."""
    folder = tpch.tables(work_dir, scale_factor)
    stored_bytes = sum(file.stat().st_size for file in folder.rglob("*.parquet"))
    lines: list[report.Line] = []
    tables = []
    with served(work_dir, {SCHEMA: folder}) as bucket:
        for place in places(folder, bucket):
            rivals = engines(environments, place)
            with contextlib.ExitStack() as stack:
                sides = [*opened(stack, work_dir, place, rivals)]
                found = sql_passes.measured(sides, scale_factor, rounds, work_dir, place.name)
                beside = {side.name: side.beside() for side in sides}
            lines += warm_lines(place, found, rivals, stored_bytes, beside)
            tables.append(sql_passes.table(f"TPC-H at scale {scale_factor:g}, warm, {place.name}", found))
            if place.name != SHAPED:
                lines.append(cold_line(work_dir, place, rivals, scale_factor, rounds))
    worker_lines, worker_table = sql_workers.run(work_dir, folder, scale_factor, rounds)
    return [*lines, *worker_lines], [*tables, worker_table]


def places(folder: Path, bucket: Bucket) -> Iterator[Place]:
    """The local disk, and the bucket near and far."""
    yield Place(LOCAL, f"file://{folder}", str(folder))
    uri = f"s3://{BUCKET}/{SCHEMA}"
    for name in bucket.ports:
        yield Place(name, uri, uri, bucket.environment(name), bucket.settings(name))


def engines(environments: Environments, place: Place) -> Rivals:
    """Those that can be had. DuckDB on local files is the tests' own; its extension for S3 is of another version."""
    needed: dict[str, str | None] = {DATAFUSION: "datafusion", DUCKDB: None}
    if place.s3:
        needed.update({DUCKDB: "duckdb-s3", DUCKDB_READING: "duckdb-s3"})
    rivals = Rivals({}, {})
    for name, wanted in needed.items():
        try:
            rivals.pythons[name] = environments.python(wanted) if wanted else Path(sys.executable)
        except AbsentError as error:
            rivals.absent[name] = f"{name} cannot be had: {error}"
    return rivals


def opened(stack: contextlib.ExitStack, work_dir: Path, place: Place, rivals: Rivals) -> Iterator[Side]:
    """Ours first, then the others, ready for queries."""
    server, program = ours(stack, work_dir, place)
    program.ask(open=address(server))
    yield Side(OURS, program, [server.daemon], partial(requests, server))
    for name, python in rivals.pythons.items():
        program = engine(stack, work_dir, DUCKDB if name == DUCKDB_READING else name, python)
        version = program.ask(open={**place.told(), "file_cache": name != DUCKDB_READING})["version"]
        yield Side(name, program, version=version)


def ours(stack: contextlib.ExitStack, work_dir: Path, place: Place) -> tuple[Server, programs.Program]:
    """A server that has read nothing, and the program that will ask it."""
    data_dir = work_dir / "data"
    shutil.rmtree(data_dir, ignore_errors=True)
    server = Server(data_dir, Options(mounts={MOUNT: place.uri}, env=place.environment))
    stack.callback(server.stop)
    return server, engine(stack, work_dir, OURS, Path(sys.executable))


def address(server: Server) -> dict[str, str]:
    """What the program that asks ours opens."""
    return {"uri": server.flight_uri, "schema": SCHEMA}


def requests(server: Server) -> dict[str, float]:
    """What a server has asked of storage."""
    counted = sql_workers.STORE_REQUESTS
    return {
        sql_workers.REQUESTS: total(server.admin_uri, counted),
        sql_workers.LISTINGS: total(server.admin_uri, counted, op="list"),
    }


def engine(stack: contextlib.ExitStack, work_dir: Path, name: str, python: Path) -> programs.Program:
    """The program that asks one engine."""
    return stack.enter_context(programs.started(python, ENGINES, [name], work_dir / f"sql-{name}.log"))


def warm_lines(
    place: Place, found: dict[str, list[Pass]], rivals: Rivals, stored_bytes: int, beside: dict[str, str]
) -> Iterator[report.Line]:
    """The time of all queries by each other engine's, and that storage was not asked."""
    what = f"SQL, 22 queries of TPC-H warm, {place.name}"
    for name in (*rivals.pythons, *rivals.absent):
        target = TARGETS.get(place.name, {}).get(name)
        if name in found:
            note = f"{beside[OURS]}; {beside[name]}; "
            yield sql_passes.against(f"{what}: time by {name}", found[OURS], found[name], target, stored_bytes, note)
        else:
            seconds = [one.seconds for one in found[OURS]]
            yield report.Line(f"{what}: time by {name}", seconds, target_ratio=target, absent=rivals.absent[name])
    passes = found[OURS]
    listings = statistics.median(one.count(sql_workers.LISTINGS) for one in passes)
    asked = [one.count(sql_workers.REQUESTS) - one.count(sql_workers.LISTINGS) for one in passes]
    said = f"{listings:.0f} listings beside them"
    yield report.Line(f"{what}: requests to storage", asked, unit=report.Unit.COUNT, at_most=0, note=said)


def cold_line(work_dir: Path, place: Place, rivals: Rivals, scale_factor: float, rounds: int) -> report.Line:
    """The first query, from connecting or opening on: of a new server and client, and of a new DataFusion."""
    what = f"SQL, query {FIRST} cold, {place.name}: time by {DATAFUSION}, cold"
    found: dict[str, list[float]] = {OURS: [], DATAFUSION: []}
    for number in range(rounds):
        with contextlib.ExitStack() as stack:
            server, program = ours(stack, work_dir, place)
            found[OURS].append(first(program, address(server), scale_factor))
        if DATAFUSION in rivals.pythons:
            with contextlib.ExitStack() as stack:
                program = engine(stack, work_dir, DATAFUSION, rivals.pythons[DATAFUSION])
                found[DATAFUSION].append(first(program, place.told(FIRST_TABLES), scale_factor))
        said = ", ".join(f"{name} {times[-1]:.2f} s" for name, times in found.items() if times)
        print(f"bench: sql, cold, {place.name}, round {number + 1} of {rounds}: {said}", flush=True)
    note = "from connecting, or naming the table, to the last row; processes that have done their imports"
    absent = rivals.absent.get(DATAFUSION, "")
    return report.Line(what, found[OURS], found[DATAFUSION], COLD_RATIO, note, absent=absent)


def first(program: programs.Program, opens: dict[str, Any], scale_factor: float) -> float:
    """Seconds of opening and of the first query."""
    asked = [{"open": opens}, {"sql": tpch.query(FIRST, scale_factor), "out": None}]
    return sum(program.ask(**one)["seconds"] for one in asked)
