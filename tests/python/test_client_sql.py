"""SQL from Python: results are read as scans are."""

from __future__ import annotations

import asyncio
import pickle

import jetbridge as jb
import polars as pl
import pyarrow as pa
import pytest

from harness.trips import ROWS, trips

GROUPED = "select vendor, count(*) as n, max(id) as top from lake.trips group by vendor order by vendor"


def test_a_result_is_read_as_a_scan_is(jb_client: jb.Client) -> None:
    result = jb_client.sql(GROUPED)
    assert result.schema.names == ["vendor", "n", "top"]
    expected = {"vendor": list("abcde"), "n": [ROWS // 5] * 5, "top": [995, 996, 997, 998, 999]}
    assert result.to_arrow().to_pydict() == expected
    assert result.to_pandas()["n"].sum() == ROWS
    assert pl.DataFrame(result).shape == (5, 3)
    assert pa.table(result).column_names == result.schema.names
    assert [batch.num_rows for batch in result.to_batches()] == [5]
    assert result.count() == 5
    # Read again, it runs again.
    assert result.to_arrow().to_pydict() == expected


def test_all_rows_of_a_dataset_come_once(jb_client: jb.Client) -> None:
    table = jb_client.sql("select * from lake.trips").to_arrow()
    assert table.sort_by("id").to_pydict() == trips().to_pydict()
    assert jb_client.sql('select id from "/lake/trips" where id < 10').count() == 10


def test_a_query_that_is_wrong_is_refused_when_it_is_made(jb_client: jb.Client) -> None:
    for query, word in (
        ("selec 1", "selec"),
        ("select fahre from lake.trips", "fahre"),
        ("select * from lake.tripz", "tripz"),
    ):
        with pytest.raises((jb.InvalidRequestError, jb.NotFoundError), match=word):
            jb_client.sql(query)


def test_a_result_shows_itself_and_is_pickled(jb_client: jb.Client) -> None:
    result = jb_client.sql(GROUPED)
    assert "group by vendor" in repr(result)
    assert "<table>" in result._repr_html_()
    assert pickle.loads(pickle.dumps(result)).to_arrow().num_rows == 5


def test_a_result_is_awaited(local_cluster: jb.LocalCluster) -> None:
    async def main() -> None:
        async with await jb.connect_async(local_cluster.uri) as client:
            result = await client.sql(GROUPED)
            assert (await result.schema).names == ["vendor", "n", "top"]
            assert (await result.to_arrow()).num_rows == 5
            assert await result.count() == 5

    asyncio.run(main())
