"""Conditions within a row group: a file's page index says which pages can hold a row that passes, and others are not
fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from harness import files
from harness.counting import CountingStore
from harness.flight import by_scan, fetch, mount, plan
from harness.flightsql import query
from harness.server import Server

ROWS = 120_000
# Bytes of what does not compress, a row.
BALLAST_BYTES = 200
SPARED = 8
WITH, WITHOUT = "with.parquet", "without.parquet"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    """The same rows in two files of one row group, one with a page index: numbers in order, every tenth of them."""
    folder, rng = tmp_path_factory.mktemp("indexed"), np.random.default_rng(11)
    ballast = rng.bytes(ROWS * BALLAST_BYTES)
    ballasts = [ballast[at : at + BALLAST_BYTES] for at in range(0, len(ballast), BALLAST_BYTES)]
    table = pa.table(
        {
            "n": pa.array(range(0, 10 * ROWS, 10), pa.int64()),
            "maybe": pa.array([None if n % 7 == 0 else n for n in range(ROWS)], pa.int32()),
            "ballast": pa.array(ballasts, pa.binary()),
        }
    )
    options = {"row_group_size": ROWS, "use_dictionary": False, "data_page_size": 16 << 10}
    for name in (WITH, WITHOUT):
        files.write(folder / name, table, write_page_index=name == WITH, **options)
    return folder, table


@pytest.fixture
def store(dataset: tuple[Path, pa.Table]) -> Iterator[CountingStore]:
    with CountingStore(dataset[0]) as running:
        yield running


@pytest.fixture
def server(start_server: Callable[..., Server], store: CountingStore) -> Server:
    """A server that has planned both files, and read nothing else."""
    server = start_server()
    mount(server.client, "/c", store.uri, **store.options)
    for name in (WITH, WITHOUT):
        plan(server.client, f"/c/{name}")
    store.forget()
    return server


def asked(store: CountingStore, name: str) -> int:
    """Bytes of a file that were asked for since this was last asked."""
    asked = sum(get.length_bytes for get in store.gets if get.key.endswith(name))
    store.forget()
    return asked


# In the middle, at both ends, and over more than one page.
RANGES = [(600_000, 600_040), (0, 0), (10 * ROWS - 10, 10 * ROWS), (599_990, 620_000)]


@pytest.mark.parametrize(("least", "most"), RANGES)
def test_few_rows_cost_the_pages_that_they_lie_in(
    server: Server, store: CountingStore, dataset: tuple[Path, pa.Table], least: int, most: int
) -> None:
    """By a scan, by a query that is one, and by one that is more; the file without an index is read whole."""
    folder, table = dataset
    n = table.column("n")
    right = table.filter(pc.and_(pc.greater_equal(n, least), pc.less_equal(n, most)))
    condition = f"n >= {least} and n <= {most}"
    sizes = {name: (folder / name).stat().st_size for name in (WITH, WITHOUT)}
    scans = {name: by_scan(f"/c/{name}", filter=condition) for name in sizes}
    assert fetch(server.client, scans[WITH]).table.equals(right)
    assert 0 < asked(store, WITH) < sizes[WITH] / SPARED
    for more in ("", "order by n"):
        sql = f'select * from "/c/{WITH}" where {condition} {more}'
        assert fetch(server.client, query(sql)).table.equals(right), sql
        assert asked(store, WITH) == 0, f"the same rows were asked for again by {sql}"
    assert fetch(server.client, scans[WITHOUT]).table.equals(right)
    assert asked(store, WITHOUT) > sizes[WITHOUT] / 2


def test_what_is_not_there_costs_a_page_of_each_column(
    server: Server, store: CountingStore, dataset: tuple[Path, pa.Table]
) -> None:
    """Between two numbers that neighbour each other there is nothing, which the bounds of the row group do not tell."""
    folder, table = dataset
    size = (folder / WITH).stat().st_size
    for condition in ("n > 500001 and n < 500009", "n = 500005"):
        assert fetch(server.client, by_scan(f"/c/{WITH}", filter=condition)).table.num_rows == 0
        assert asked(store, WITH) < size / SPARED
    assert fetch(server.client, by_scan(f"/c/{WITH}", filter="n >= 0")).table.equals(table)


def test_many_rows_are_read_whole_and_right(server: Server, dataset: tuple[Path, pa.Table]) -> None:
    """The conditions of several columns at once, and one that no index helps."""
    _, table = dataset
    n, maybe = table.column("n"), table.column("maybe")
    for condition, mask in [
        ("n < 400000", pc.less(n, 400_000)),
        ("maybe is null", pc.is_null(maybe)),
        ("n >= 1000 and n < 90000 and maybe is not null", pc.and_(pc.less(n, 90_000), pc.greater_equal(n, 1_000))),
        ("n % 1000 = 0 and n < 50000", pc.less(n, 50_000)),
    ]:
        right = table.filter(mask)
        if "not null" in condition:
            right = right.filter(pc.is_valid(right.column("maybe")))
        if "%" in condition:
            right = right.filter(pc.is_in(right.column("n"), pa.array(range(0, 50_000, 1_000), pa.int64())))
        for name in (WITH, WITHOUT):
            assert fetch(server.client, by_scan(f"/c/{name}", filter=condition)).table.equals(right), condition
