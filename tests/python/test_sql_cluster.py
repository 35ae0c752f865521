"""Queries of several nodes: a coordinator and three workers as real processes.

Answers are DuckDB's, scans run where the data is, and a worker that is lost costs a query that gave no row yet nothing
but time.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.flight as flight
import pytest

from harness import tpch
from harness.answers import Row, assert_same_rows
from harness.cluster import Cluster, Node, until
from harness.flight import mount
from harness.flightsql import fetch, query, with_headers
from harness.members import mounted

WORKERS = 3
SCALE = 0.05
# Files of a table: enough of them that each worker owns some.
PARTS = 12
EXCHANGED = "jetbridge_sql_exchange_bytes_total"
RETRIES = "jetbridge_sql_retries_total"
TASKS = "jetbridge_sql_tasks"
Duck = duckdb.DuckDBPyConnection
# Everything is spread, however little it reads.
SPREAD = ("--sql-spread-bytes", "0B")
# All rows of a table through an operator, so that the query is no mere scan.
MANY_ROWS = "select l_orderkey + 1 as k, repeat(l_comment, 100) as c from tpch.lineitem"
GROUPED = "select l_shipmode, count(*) as n, sum(l_quantity) as q from tpch.lineitem group by l_shipmode order by 1"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tables of TPC-H, a folder each."""
    return tpch.tables(tmp_path_factory.mktemp("tpch"), SCALE, PARTS)


@pytest.fixture(scope="module")
def duck(data: Path) -> Iterator[Duck]:
    """DuckDB with the same tables, in a schema of the same name."""
    with duckdb.connect() as connection:
        connection.execute("create schema tpch; set schema = 'tpch'")
        for table in tpch.TABLES:
            connection.execute(f"create view {table} as select * from read_parquet('{data}/{table}/*.parquet')")
        yield connection


@pytest.fixture(scope="module")
def cluster(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three workers that lose one after the other and get it back."""
    folder = tmp_path_factory.mktemp("cluster")
    roots = ("--file-root", str(data))
    with Cluster.start(folder, {}, WORKERS, args=(*SPREAD, *roots), worker_args=(*SPREAD, *roots)) as running:
        with running.coordinator.connect() as client:
            # However long the queries take, nobody looks whether the files are others by then.
            mount(client, "/tpch", f"file://{data}", freshness="immutable")
        until(lambda: all("/tpch" in mounted(node) for node in running.nodes), "the mount is seen")
        yield running


@pytest.fixture(autouse=True)
def whole(cluster: Cluster) -> None:
    """All workers serve, before each test."""
    for worker in cluster.workers:
        if not worker.is_running():
            worker.start()
    until(lambda: {member["state"] for member in cluster.members()["members"]} == {"serving"}, "all serve")


def run(client: flight.FlightClient, sql: str) -> pa.Table:
    """All rows of a query, from one node."""
    return fetch(client, query(sql), with_headers(x_jetbridge_sql_schema="tpch")).table


def stream(client: flight.FlightClient, sql: str) -> flight.FlightStreamReader:
    """The rows of a query that has one endpoint, as they come."""
    (endpoint,) = client.get_flight_info(query(sql)).endpoints
    return client.do_get(endpoint.ticket)


def explain(client: flight.FlightClient, sql: str, how: str = "EXPLAIN") -> str:
    """The physical plan of a query, or what became of it."""
    return str(run(client, f"{how} {sql}").column("plan")[-1].as_py())


@dataclass
class Outcome:
    """What a query that ran beside the test came to."""

    table: pa.Table | None = None
    error: Exception | None = None


def beside(uri: str, sql: str) -> tuple[threading.Thread, Outcome]:
    """Runs a query in a thread of its own."""
    outcome = Outcome()

    def go() -> None:
        try:
            with flight.connect(uri) as client:
                outcome.table = run(client, sql)
        except Exception as error:
            outcome.error = error

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    return thread, outcome


def rows(table: pa.Table) -> list[Row]:
    """The rows of an answer."""
    return [tuple(row.values()) for row in table.to_pylist()]


def expected(duck: Duck, sql: str) -> list[Row]:
    """The rows of the right answer, of which there are some."""
    found: list[Row] = duck.execute(sql).fetchall()
    assert found
    return found


def test_warm_queries_ask_storage_nothing_and_say_what_they_exchanged(cluster: Cluster) -> None:
    """All 22 queries, cold and then warm: what they scan is read where it is held."""
    passes = []
    for _ in range(2):
        requests, exchanged = cluster.store_requests(), exchange(cluster)
        began = time.monotonic()
        with cluster.coordinator.connect() as client:
            for number in tpch.QUERIES:
                run(client, tpch.query(number, SCALE))
        passes.append((time.monotonic() - began, cluster.store_requests() - requests, exchange(cluster) - exchanged))
    for name, (seconds, requests, exchanged) in zip(("first", "second"), passes, strict=True):
        print(f"{name}: {seconds:.2f} s, {requests:.0f} UFS requests, {exchanged:.0f} bytes between nodes")
    assert passes[0][1] > 0, "nothing was read, so nothing is shown"
    assert passes[1][1] == 0, f"{passes[1][1]} requests to storage"
    assert passes[1][2] > 0


@pytest.mark.parametrize("number", tpch.QUERIES)
def test_three_workers_answer_as_duckdb_does(cluster: Cluster, duck: Duck, number: int) -> None:
    """Each of the 22 queries of TPC-H, asked of the coordinator and of a worker."""
    sql = tpch.query(number, SCALE)
    right = expected(duck, sql)
    for node in (cluster.coordinator, cluster.workers[1]):
        with node.connect() as client:
            assert_same_rows(rows(run(client, sql)), right, tpch.SORTED_BY.get(number))


def exchange(cluster: Cluster) -> float:
    """Bytes of tasks' answers that went from node to node."""
    return sum(node.total(EXCHANGED) for node in cluster.nodes if node.is_running())


def test_a_coordinator_reads_no_rows_itself(cluster: Cluster) -> None:
    """Its scans run on workers, those of the head of a plan as well."""
    hits = chunk_reads(cluster.coordinator)
    with cluster.coordinator.connect() as client:
        for sql in (GROUPED, "select * from tpch.nation where n_nationkey > 3 order by n_name"):
            assert run(client, sql).num_rows > 0
    assert chunk_reads(cluster.coordinator) == hits


def chunk_reads(node: Node) -> float:
    return sum(node.total(f"jetbridge_cache_{kind}_total", tier="chunk") for kind in ("hits", "misses"))


def test_explain_tells_worker_and_cached_share_of_each_task(cluster: Cluster) -> None:
    """A scan of all workers names each once, all of it cached after a read; its rows add up."""
    with cluster.coordinator.connect() as client:
        run(client, GROUPED)
        run(client, GROUPED)
        # A worker that does not say soon what it holds is taken for one that holds nothing.
        until(lambda: {cached for _, cached in tasks_of(explain(client, GROUPED))} == {"100"}, "all of it is cached")
        plan = explain(client, GROUPED)
        analyzed = explain(client, GROUPED, "EXPLAIN ANALYZE")
    print(plan)
    assert sorted(worker for worker, _ in tasks_of(plan)) == sorted(worker.id for worker in cluster.workers)
    assert "DistributedExec" in analyzed, analyzed
    assert "bytes_transferred" in analyzed, analyzed


def tasks_of(plan: str) -> list[tuple[str, str]]:
    """The worker of each task of a plan, and how many percent of what it reads are cached there."""
    return re.findall(r"t\d+: .*worker=([0-9a-zA-Z-]+), cached=(\d+) %", plan)


def test_a_small_query_runs_on_one_worker(data: Path, tmp_path: Path) -> None:
    """With the default threshold: one task, where the data is, and the same answer."""
    with Cluster.start(tmp_path, {"/tpch": f"file://{data}"}, 2) as running, running.coordinator.connect() as client:
        plan = explain(client, "select count(*) as n from tpch.nation where n_nationkey > 3")
        assert plan.count("worker=") == 1, plan
        assert "tasks=1" in plan, plan
        assert run(client, "select count(*) as n from tpch.nation where n_nationkey > 3").to_pylist() == [{"n": 21}]


def test_a_worker_killed_before_a_query_costs_nothing_but_time(cluster: Cluster, duck: Duck) -> None:
    """The coordinator still counts on it when the query begins."""
    right = expected(duck, GROUPED)
    with cluster.coordinator.connect() as client:
        assert_same_rows(rows(run(client, GROUPED)), right)
        retries = cluster.coordinator.total(RETRIES)
        cluster.workers[0].kill()
        assert_same_rows(rows(run(client, GROUPED)), right)
    assert cluster.coordinator.total(RETRIES) > retries


def test_a_worker_killed_before_its_first_batch_costs_nothing_but_time(cluster: Cluster, duck: Duck) -> None:
    """It is stopped, so that no batch of its own can have come, and killed in the middle of the query."""
    right = expected(duck, GROUPED)
    victim = cluster.workers[2]
    retries = cluster.coordinator.total(RETRIES)
    victim.freeze()
    thread, outcome = beside(cluster.coordinator.uri, GROUPED)
    time.sleep(1.0)
    assert thread.is_alive(), "the query did not wait for the stopped worker"
    victim.kill()
    thread.join(60)
    assert outcome.error is None, outcome.error
    assert outcome.table is not None
    assert_same_rows(rows(outcome.table), right)
    assert cluster.coordinator.total(RETRIES) > retries


def test_a_stopped_worker_is_given_up_within_seconds(cluster: Cluster, duck: Duck) -> None:
    """No connection breaks; it just says nothing any more."""
    right = expected(duck, GROUPED)
    victim = cluster.workers[1]
    victim.freeze()
    try:
        began = time.monotonic()
        with cluster.coordinator.connect() as client:
            assert_same_rows(rows(run(client, GROUPED)), right)
        # It would be for ever.
        assert time.monotonic() - began < 60
    finally:
        victim.thaw()


def test_a_worker_killed_after_rows_came_is_a_clear_error(cluster: Cluster) -> None:
    """Rows of it are on their way when it dies; what came is not taken for the whole."""
    with cluster.coordinator.connect() as client:
        reader = stream(client, MANY_ROWS)
        seen = reader.read_chunk().data.num_rows
        cluster.workers[0].kill()
        with pytest.raises(flight.FlightUnavailableError, match=r"not the whole answer.*try again") as raised:
            seen += sum(chunk.data.num_rows for chunk in reader)
        print(f"at least {seen} rows, then: {raised.value}")
        # Nothing else is disturbed.
        assert run(client, "select 1 as one").to_pylist() == [{"one": 1}]


def test_a_query_that_is_cancelled_ends_on_the_workers(cluster: Cluster) -> None:
    """The tasks of a reader that goes away are gone within seconds, and so is their memory."""
    with cluster.coordinator.connect() as client:
        reader = stream(client, MANY_ROWS)
        reader.read_chunk()
        assert tasks(cluster) > 0
        reader.cancel()
        del reader
    until(lambda: tasks(cluster) == 0, "no task runs")


def tasks(cluster: Cluster) -> float:
    return sum(worker.total(TASKS) for worker in cluster.workers)


def test_a_query_begun_at_a_worker_names_itself_among_the_tasks(cluster: Cluster, duck: Duck) -> None:
    """Any node takes queries."""
    right = expected(duck, GROUPED)
    for worker in cluster.workers:
        with worker.connect() as client:
            assert_same_rows(rows(run(client, GROUPED)), right)
            assert worker.id in explain(client, GROUPED)


def test_errors_of_tasks_are_the_querys_own(cluster: Cluster) -> None:
    """What fails on a worker reads as on one node, and is not tried again."""
    retries = cluster.coordinator.total(RETRIES)
    with cluster.coordinator.connect() as client, pytest.raises(pa.ArrowInvalid, match="division by zero"):
        run(client, "select sum(l_orderkey / (l_linenumber - l_linenumber)) as x from tpch.lineitem")
    assert cluster.coordinator.total(RETRIES) == retries
