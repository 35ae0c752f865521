"""The 22 queries on three workers and on one: time, what is asked of storage once warm, what goes between nodes."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import programs
import report
import sql_passes
from harness.cluster import STORE_REQUESTS, Cluster
from sql_passes import MOUNT, SCHEMA, Pass, Side

ENGINES = Path(__file__).with_name("sql_engines.py")
SIZES = (3, 1)
# What all workers together may hold, however many there are.
MEMORY_BYTES = 6 << 30
EXCHANGED = "jetbridge_sql_exchange_bytes_total"
REQUESTS, LISTINGS = "requests", "listings"


def run(work_dir: Path, folder: Path, scale_factor: float, rounds: int) -> tuple[list[report.Line], report.Table]:
    """Both clusters side by side, in turn."""
    with contextlib.ExitStack() as stack:
        sides = [stack.enter_context(started(work_dir, folder, size)) for size in SIZES]
        found = sql_passes.measured(sides, scale_factor, rounds, work_dir, "clusters")
    stored_bytes = sum(file.stat().st_size for file in folder.rglob("*.parquet"))
    title = "TPC-H on workers of one machine, warm: its cores are the same for both, so this is what spreading costs"
    return [*lines(found, stored_bytes)], sql_passes.table(title, found)


@contextlib.contextmanager
def started(work_dir: Path, folder: Path, size: int) -> Iterator[Side]:
    """A cluster of so many workers, and a client of it."""
    place = work_dir / f"sql-workers-{size}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    memory = ["--memory", str(MEMORY_BYTES // size)]
    with (
        Cluster.start(place, {MOUNT: f"file://{folder}"}, workers=size, worker_args=memory) as cluster,
        programs.started(Path(sys.executable), ENGINES, ["jetbridge"], place / "client.log") as program,
    ):
        program.ask(open={"uri": cluster.coordinator.uri, "schema": SCHEMA})
        daemons = [node.daemon for node in cluster.nodes]
        yield Side(f"{size} worker{'s' * (size > 1)}", program, daemons, partial(counts, cluster))


def counts(cluster: Cluster) -> Mapping[str, float]:
    """What all nodes have asked of storage, and sent each other."""
    return {
        REQUESTS: sum(node.total(STORE_REQUESTS) for node in cluster.nodes),
        LISTINGS: sum(node.total(STORE_REQUESTS, op="list") for node in cluster.nodes),
        EXCHANGED: sum(node.total(EXCHANGED) for node in cluster.nodes),
    }


def lines(found: Mapping[str, list[Pass]], stored_bytes: int) -> Iterator[report.Line]:
    """Several by one."""
    several, alone = found
    yield sql_passes.against(
        f"SQL, 22 queries warm, {several} by {alone} of one machine", found[several], found[alone], None, stored_bytes
    )
    for name, passes in found.items():
        listings = statistics.median(one.count(LISTINGS) for one in passes)
        yield report.Line(
            f"SQL, 22 queries warm, {name}: requests to storage but listings",
            [one.count(REQUESTS) - one.count(LISTINGS) for one in passes],
            unit=report.Unit.COUNT,
            at_most=0,
            note=f"{listings:.0f} listings, as a folder is looked at again after a minute",
        )
        yield report.Line(
            f"SQL, 22 queries warm, {name}: bytes between nodes",
            [one.count(EXCHANGED) for one in passes],
            unit=report.Unit.BYTES,
        )
