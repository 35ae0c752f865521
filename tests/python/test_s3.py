"""The same dataset from a real S3 server, equal to the local one."""

from __future__ import annotations

import pyarrow as pa
import pytest

from conftest import Lake
from harness import files, types
from harness.compare import assert_same
from harness.errors import expect_error
from harness.flight import act, by_path, fetch, listed, mount, plan, read
from harness.metrics import total
from harness.values import array_of
from harness.weed import Weed

ROWS = 5_000


@pytest.fixture
def bucket(lake: Lake, weed: Weed) -> str:
    """A bucket with a partitioned dataset and one of many types, mounted beside the folder that it was copied from."""
    kinds = {**types.plain_types(), **types.nested_types()}
    wide = pa.table({name: array_of(kind, 300, seed=1) for name, kind in kinds.items()})
    lake.write("types/t.parquet", wide, row_group_size=100)
    for year in (2022, 2023, 2024):
        lake.write(f"trips/year={year}/part.parquet", files.numbers(ROWS, year * ROWS), row_group_size=500)
    name = f"equal-{lake.path.rpartition('-')[2]}"
    uri = weed.upload(lake.folder, name, "some/prefix")
    path = f"{lake.path}-s3"
    mount(lake.client, path, uri, **weed.options)
    return path


def test_equal_to_the_local_dataset(lake: Lake, bucket: str) -> None:
    for name in ("types", "trips", "trips/year=2023", "trips/year=2024/part.parquet"):
        assert_same(read(lake.client, f"{bucket}/{name}"), lake.read(name))
    for spec in ({"filter": "year = 2023 AND n % 2 = 0"}, {"columns": ["text", "year"]}, {"limit": 700}):
        assert_same(read(lake.client, f"{bucket}/trips", **spec), lake.read("trips", **spec))


def test_listing_equals_the_local_listing(lake: Lake, bucket: str) -> None:
    remote = [path.removeprefix(bucket) for path in listed(lake.client, bucket)]
    local = [path.removeprefix(lake.path) for path in listed(lake.client, lake.path) if not path.startswith(bucket)]
    assert remote == local


def test_second_read_asks_the_bucket_nothing(lake: Lake, bucket: str) -> None:
    read(lake.client, f"{bucket}/trips")
    read(lake.client, f"{bucket}/trips")
    before = total(lake.server.admin_uri, "jetbridge_store_requests_total", scheme="s3")
    answer = fetch(lake.client, by_path(f"{bucket}/trips"))
    assert answer.sources == {"memory"}
    assert total(lake.server.admin_uri, "jetbridge_store_requests_total", scheme="s3") == before


def test_an_overwritten_object_is_never_mixed(lake: Lake, weed: Weed) -> None:
    lake.write("one/t.parquet", files.numbers(50_000), row_group_size=5_000)
    uri = weed.upload(lake.folder / "one", "overwritten")
    path = f"{lake.path}-over"
    mount(lake.client, path, uri, **{**weed.options, "freshness": "immutable"})
    info = plan(lake.client, path)
    newer = files.write(lake.folder / "one/t.parquet", files.numbers(60_000, 7), row_group_size=5_000)
    weed.upload(lake.folder / "one", "overwritten")
    with expect_error("ABORTED", "STALE"):
        for endpoint in info.endpoints:
            lake.client.do_get(endpoint.ticket).read_all()
    act(lake.client, "dataset.refresh", {"path": path})
    assert_same(read(lake.client, path), newer)


def test_more_objects_than_a_listing_page_holds(lake: Lake, weed: Weed) -> None:
    expected = files.write_many(lake.folder / "many", 1_100, rows=1)
    uri = weed.upload(lake.folder / "many", "many-objects")
    mount(lake.client, f"{lake.path}-many", uri, **weed.options)
    assert_same(read(lake.client, f"{lake.path}-many"), expected)


def test_the_check_of_a_good_mount(lake: Lake, bucket: str) -> None:
    report = act(lake.client, "mount.check", {"path": bucket})
    assert report["ok"] is True
    assert len(report["checks"]) >= 3
