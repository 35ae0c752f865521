"""Queries of several nodes that a machine of one core plans: answers are DuckDB's, and work is spread all the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from harness import files
from harness.answers import assert_same_rows
from harness.cluster import Cluster, Node
from harness.flightsql import rows

WORKERS = 3
FILES, FILE_ROWS = 12, 2_000
# Everything is spread, however little it reads.
SPREAD = ("--sql-spread-bytes", "0B")
GROUPED = "select g, count(*) as c, sum(n) as s from lake.t group by g order by g"
# What a plan over one partition does in one place, without an exchange below it.
QUERIES = {
    "a count of a join": "select count(*) as c from lake.t a join lake.t b on a.n = b.n",
    "a join with groups": """
        select a.n, s.c from lake.t a join (select g, count(*) as c from lake.t group by g) s on a.g = s.g
        where a.n % 100 = 3 order by a.n""",
    "a join with the first rows": """
        select a.n, b.text from lake.t a join (select n, text from lake.t order by text desc, n limit 50) b on a.n = b.n
        order by a.n""",
    "rows that have no other": """
        select count(*) as c from lake.t a left join (select n from lake.t where g = 2) b on a.n = b.n
        where b.n is null""",
    "a product with an aggregate": """
        select count(*) as c, max(m) as m from lake.t a cross join (select max(text) as m from lake.t) b
        where a.g = 1""",
    "a count of first rows": "select count(*) as c from (select n from lake.t where g < 5 limit 700)",
    "groups": GROUPED,
}


@contextmanager
def one_core() -> Iterator[None]:
    """What is started within sees one core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table in files, some for each worker."""
    folder = tmp_path_factory.mktemp("lake")
    for part in range(FILES):
        numbers = range(part * FILE_ROWS, (part + 1) * FILE_ROWS)
        columns = {
            "n": pa.array(numbers, pa.int64()),
            "g": pa.array([n % 7 for n in numbers], pa.int64()),
            "text": pa.array([f"{n * 7919 % 30_011:0>40}" for n in numbers]),
        }
        files.write(folder / "t" / f"{part:02}.parquet", columns)
    return folder


@pytest.fixture(scope="module")
def cluster(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A coordinator of one core, and workers of as many as there are."""
    folder = tmp_path_factory.mktemp("cluster")
    with one_core():
        coordinator = Node(folder / "coordinator", "coordinator", ["--mount", f"/lake=file://{data}", *SPREAD])
    with Cluster(folder, coordinator, SPREAD) as running:
        for _ in range(WORKERS):
            running.add_worker()
        running.wait_for_seats(WORKERS)
        yield running


@pytest.mark.parametrize("sql", QUERIES.values(), ids=QUERIES)
def test_a_coordinator_of_one_core_answers_as_duckdb_does(cluster: Cluster, data: Path, sql: str) -> None:
    with duckdb.connect() as duck:
        duck.execute("create schema lake")
        duck.execute(f"create view lake.t as select * from read_parquet('{data}/t/*.parquet')")
        right = duck.execute(sql).fetchall()
    assert right
    with cluster.coordinator.connect() as client:
        got = [tuple(row.values()) for row in rows(client, sql)]
    assert_same_rows(got, right)


def test_a_coordinator_of_one_core_spreads_what_it_plans(cluster: Cluster) -> None:
    with cluster.coordinator.connect() as client:
        plan = str(rows(client, f"explain {GROUPED}")[-1]["plan"])
    missing = [worker.id for worker in cluster.workers if f"worker={worker.id}" not in plan]
    assert not missing, plan
