"""All 22 queries of TPC-H through Flight SQL, against DuckDB over the same files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import adbc_driver_flightsql.dbapi as dbapi
import duckdb
import pyarrow.flight as flight
import pytest

from harness import adbc, tpch
from harness.answers import Row, assert_same_rows, same
from harness.cluster import Cluster
from harness.flight import mount
from harness.server import Options, Server
from harness.weed import Weed

SMALL, LARGE = 0.1, 1.0


@dataclass(frozen=True)
class Side:
    """A server with the eight tables, and DuckDB with the same."""

    connection: dbapi.Connection
    duck: duckdb.DuckDBPyConnection
    scale_factor: float

    def check(self, number: int) -> None:
        """One query gives on both what it should."""
        sql = tpch.query(number, self.scale_factor)
        expected: list[Row] = self.duck.execute(sql).fetchall()
        assert expected, "the query selects nothing, so it shows nothing"
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            got = cursor.fetchall()
        assert_same_rows(got, expected, tpch.SORTED_BY.get(number))


@contextmanager
def side(uri: str, data: Path, scale_factor: float) -> Iterator[Side]:
    """A server that has the tables at /tpch, and DuckDB over the files that they are copies of."""
    with duckdb.connect() as duck:
        for table in tpch.TABLES:
            duck.execute(f"create view {table} as select * from read_parquet('{data}/{table}/*.parquet')")
        header = {f"{adbc.HEADER}x-jetbridge-sql-schema": "tpch"}
        with adbc.connect(uri, **header) as connection:
            yield Side(connection, duck, scale_factor)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    """At a scale that takes seconds, from local files."""
    folder = tmp_path_factory.mktemp("tpch-small")
    data = tpch.tables(folder, SMALL)
    server = Server(folder / "data", Options(mounts={"/tpch": f"file://{data}"}))
    with side(server.flight_uri, data, SMALL) as sides:
        yield sides
    assert server.stop() == 0, server.daemon.log_tail


@pytest.fixture(scope="module")
def large_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables at scale 1, many files each, so that every worker owns some."""
    return tpch.tables(tmp_path_factory.mktemp("tpch-large"), LARGE, parts=12)


@pytest.fixture(scope="module", params=[1, 3], ids=["one node", "three workers"])
def large(
    request: pytest.FixtureRequest, large_data: Path, weed: Weed, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Side]:
    """At scale 1, from a bucket of SeaweedFS."""
    folder, workers = tmp_path_factory.mktemp("tpch-nodes"), int(request.param)
    with ExitStack() as stack:
        if workers == 1:
            server = Server(folder / "data", Options(env=weed.environment()))
            stack.callback(server.stop)
            uri = server.flight_uri
        else:
            memory = ["--memory", "1GiB"]
            cluster = Cluster.start(folder, {}, workers, worker_args=memory, env=weed.environment())
            uri = stack.enter_context(cluster).coordinator.uri
        with flight.connect(uri) as client:
            mount(client, "/tpch", weed.upload(large_data, f"tpch-{workers}"), **weed.options)
        yield stack.enter_context(side(uri, large_data, LARGE))


@pytest.mark.parametrize("number", tpch.QUERIES)
def test_a_query_gives_what_duckdb_gives(small: Side, number: int) -> None:
    small.check(number)


@pytest.mark.long
@pytest.mark.parametrize("number", tpch.QUERIES)
def test_a_query_at_scale_1_gives_what_duckdb_gives(large: Side, number: int) -> None:
    large.check(number)


def test_the_comparison_finds_differences() -> None:
    """A check that cannot fail would prove nothing."""
    rows: list[Row] = [(1, "a", 2.0), (2, "b", 3.0)]
    assert_same_rows(rows, [(1, "a", 2.0000001), (2, "b", 3.0)])
    wrong: list[Callable[[], None]] = [
        lambda: assert_same_rows(rows, rows[:1]),
        lambda: assert_same_rows(rows, [(1, "a", 2.01), (2, "b", 3.0)]),
        lambda: assert_same_rows(rows, [(1, "x", 2.0), (2, "b", 3.0)]),
        lambda: assert_same_rows(rows, rows[::-1]),
        lambda: assert_same_rows(rows, rows[::-1], keys=(0,)),
    ]
    for check in wrong:
        with pytest.raises(AssertionError):
            check()
    assert_same_rows([(1, "a"), (1, "b")], [(1, "b"), (1, "a")], keys=(0,))
    assert not same(None, 0.0)
