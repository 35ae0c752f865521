"""The bounds of queries of several nodes hold on each of them: their time, their end by word, what they may hold."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from harness import files, flightsql
from harness.cluster import Cluster, Node, until
from harness.errors import allow_error, expect_error
from harness.flightsql import query, rows, with_headers

WORKERS = 3
FILES, FILE_ROWS = 12, 25_000
# What a query may hold on a node: more than a sort needs to spill, less than the join below.
QUERY_MEMORY = "64MiB"
# Everything is spread, however little it reads.
LIMITS = ("--sql-spread-bytes", "0B", "--sql-query-memory", QUERY_MEMORY, "--sql-memory", "96MiB", "--memory", "768MiB")
TASKS = "jetbridge_sql_tasks"
STARTED = "jetbridge_sql_tasks_total"
TIMEOUT_S = 3.0
# How long after its end a query may still be seen on a worker, on a machine that has others to serve.
GONE_S = 60.0
# A node that does nothing uses less of one core than this.
IDLE_SHARE = 0.1

ENDLESS = {
    "nothing passes the condition of a join": """
        select count(*) as c from lake.t a, lake.t b, lake.t c where a.n + b.n + c.n = -1""",
    "all pairs, of which nothing is left": """
        select count(*) as c from
        (select a.n + b.n as x, random() as r from lake.t a cross join lake.t b) where r > 2""",
    "all pairs, added up": "select sum(a.n * b.n + c.n) as s from lake.t a cross join lake.t b cross join lake.t c",
    "one key for all": """
        select sum(a.n + b.n + c.n) as s from lake.t a join lake.t b on a.n % 2 = b.n % 2
        join lake.t c on b.n % 2 = c.n % 2""",
    "one key for all, and nothing passes": """
        select count(*) as c from lake.t a join lake.t b on a.n % 2 = b.n % 2 join lake.t c on b.n % 2 = c.n % 2
        where a.n + b.n + c.n < 0""",
    "rows that have no other, of one key": """
        select count(*) as c from lake.t a where not exists
        (select 1 from lake.t b where b.n % 2 = a.n % 2 and a.n + b.n < 0)""",
    "a sort that spills": """
        select a.n as x, b.n as y, b.text from lake.t a cross join lake.t b order by b.text desc, a.n, b.n""",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three workers, a table in files of each, and little memory for a query."""
    folder = tmp_path_factory.mktemp("lake")
    for part in range(FILES):
        numbers = range(part * FILE_ROWS, (part + 1) * FILE_ROWS)
        texts = [f"{n * 7919 % 300_007:0>80}" for n in numbers]
        files.write(folder / "t" / f"{part:02}.parquet", {"n": pa.array(numbers, pa.int64()), "text": pa.array(texts)})
    mounts = {"/lake": f"file://{folder}"}
    with Cluster.start(tmp_path_factory.mktemp("cluster"), mounts, WORKERS, LIMITS, LIMITS) as running:
        # Nodes know each other, and each has read what it owns.
        assert_at_rest(running)
        yield running


def run(client: flight.FlightClient, sql: str, seconds: float = 120.0) -> int:
    """Rows of an answer, which are read one batch after the other."""
    options = with_headers(x_jetbridge_sql_timeout=str(seconds))
    (endpoint,) = client.get_flight_info(query(sql), options).endpoints
    return flightsql.redeem(client, endpoint.ticket)


def started(cluster: Cluster) -> float:
    """Tasks that workers were ever given."""
    return sum(worker.total(STARTED) for worker in cluster.workers)


def cpu_seconds(node: Node) -> float:
    """Processor time of a node so far."""
    stat = Path(f"/proc/{node.daemon.process.pid}/stat").read_text()
    user, system = stat.rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def are_idle(nodes: list[Node]) -> bool:
    """Whether none has a task or computes anything."""
    before, began = [cpu_seconds(node) for node in nodes], time.monotonic()
    time.sleep(0.5)
    took_s = time.monotonic() - began
    shares = [(cpu_seconds(node) - used) / took_s for node, used in zip(nodes, before, strict=True)]
    return all(node.total(TASKS) == 0 for node in nodes) and max(shares) < IDLE_SHARE


def assert_at_rest(cluster: Cluster) -> None:
    """Every node is idle within seconds, was not started anew, and answers."""
    until(lambda: are_idle(cluster.nodes), "no node has anything to do", GONE_S)
    assert all(node.is_running() for node in cluster.nodes)
    for node in cluster.nodes:
        with node.connect() as client:
            assert rows(client, "select count(*) as c, max(n) as n from lake.t where n >= 0") == [
                {"c": FILES * FILE_ROWS, "n": FILES * FILE_ROWS - 1}
            ]


@pytest.mark.parametrize("sql", ENDLESS.values(), ids=ENDLESS)
def test_an_endless_query_is_over_everywhere_when_its_time_is(cluster: Cluster, sql: str) -> None:
    before, began = started(cluster), time.monotonic()
    with cluster.coordinator.connect() as client, pytest.raises(flight.FlightTimedOutError):
        run(client, sql, TIMEOUT_S)
    assert time.monotonic() - began < TIMEOUT_S + GONE_S
    assert started(cluster) > before, "no worker had a part in it, so nothing is shown"
    assert_at_rest(cluster)


# Both words end a query in the same way, so the older one is tried on one of them.
ENDED_BY = [
    *((sql, flightsql.cancel) for sql in ENDLESS.values()),
    (next(iter(ENDLESS.values())), flightsql.cancel_query),
]


@pytest.mark.parametrize(("sql", "how"), ENDED_BY, ids=[*ENDLESS, "by the older word"])
def test_a_query_that_is_ended_by_word_ends_everywhere(
    cluster: Cluster, sql: str, how: Callable[[flight.FlightClient, flight.FlightInfo], int]
) -> None:
    """The word is given to a node that does not run the query's head."""
    with cluster.coordinator.connect() as client, cluster.workers[1].connect() as other:
        info = client.get_flight_info(query(sql))
        before, ended = started(cluster), threading.Event()
        outcome: list[BaseException] = []

        def go() -> None:
            try:
                with cluster.coordinator.connect() as reader:
                    flightsql.redeem(reader, info.endpoints[0].ticket)
            except flight.FlightError as error:
                outcome.append(error)
            finally:
                ended.set()

        thread = threading.Thread(target=go, daemon=True)
        thread.start()
        until(lambda: started(cluster) > before, "workers have a part in it")
        time.sleep(1.0)
        spills = "order by" in sql
        assert spills or not ended.is_set(), outcome
        assert how(other, info) == flightsql.CANCELLED
        assert ended.wait(GONE_S), "its reader still waits"
        assert spills or isinstance(outcome[0], flight.FlightCancelledError), outcome
    assert_at_rest(cluster)


def test_a_query_whose_reader_goes_ends_everywhere(cluster: Cluster) -> None:
    before = started(cluster)
    (sql, *_) = ENDLESS.values()
    with cluster.coordinator.connect() as client:
        (endpoint,) = client.get_flight_info(query(sql)).endpoints
        with pytest.raises(flight.FlightTimedOutError):
            client.do_get(endpoint.ticket, flight.FlightCallOptions(timeout=5.0)).read_all()
    assert started(cluster) > before
    assert_at_rest(cluster)


def test_a_join_that_does_not_fit_is_refused_in_words(cluster: Cluster) -> None:
    """What a join holds of one side does not spill; the worker that has no room for it says which limit it was."""
    before = started(cluster)
    keys = "(select repeat(text, 10) as k, n from lake.t)"
    sql = (
        f"select count(*) as c, sum(a.n + b.n) as n from {keys} a join {keys} b on a.k = b.k join {keys} c on c.k = b.k"
    )
    for node in (cluster.coordinator, cluster.workers[0]):
        with node.connect() as client, expect_error("RESOURCE_EXHAUSTED", "sql_query_memory"):
            run(client, sql)
    assert started(cluster) > before
    assert_at_rest(cluster)


def test_a_sort_that_does_not_fit_spills_on_the_workers(cluster: Cluster) -> None:
    """All rows, in order, and files of sorted rows on the way."""
    pairs = "(select a.text, b.n, a.n as m from lake.t a cross join (select n from lake.t where n < 6) b)"
    inner = f"select text, n, m, row_number() over (order by text, n, m) as r from {pairs}"
    sql = f"select count(*) as c, max(r) as r from ({inner}) where length(text) = 80"
    total = 6 * FILES * FILE_ROWS
    with cluster.coordinator.connect() as client:
        assert rows(client, sql) == [{"c": total, "r": total}]
        (analyzed,) = (row["plan"] for row in rows(client, f"explain analyze {sql}"))
    assert re.search(r"spill_count=[1-9]", analyzed), analyzed
    assert_at_rest(cluster)


def test_groups_that_do_not_fit_spill_or_are_refused(cluster: Cluster) -> None:
    """An answer that comes is right."""
    sql = """select count(*) as c, sum(k) as k from
             (select text || b.n as t, count(*) as k from lake.t a cross join
             (select n from lake.t where n < 8) b group by 1)"""
    total = 8 * FILES * FILE_ROWS
    with cluster.coordinator.connect() as client, allow_error("RESOURCE_EXHAUSTED", match="sql_query_memory"):
        assert rows(client, sql) == [{"c": total, "k": total}]
    assert_at_rest(cluster)
