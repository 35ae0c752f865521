"""How soon a change in storage is seen: `immutable`, `max-age`, `always`, and `dataset.refresh` at once."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from conftest import Lake
from harness import files
from harness.compare import assert_same
from harness.errors import expect_error
from harness.flight import act, mount, plan, read

SEEN_WITHIN_S = 20.0
POLL_INTERVAL_S = 0.1


def mounted(lake: Lake, freshness: str) -> str:
    """The lake's folder `set` once more, with another freshness."""
    (lake.folder / "set").mkdir(exist_ok=True)
    path = f"{lake.path}-{freshness.partition('=')[0]}"
    mount(lake.client, path, f"file://{lake.folder}/set", freshness=freshness)
    return path


def eventually(check: Callable[[], bool]) -> bool:
    """Whether the check holds before the time is up; asked again and again, so no wait is longer than needed."""
    deadline = time.monotonic() + SEEN_WITHIN_S
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(POLL_INTERVAL_S)
    return False


def test_always_sees_new_changed_and_removed_files_at_once(lake: Lake) -> None:
    lake.write("set/a.parquet", files.numbers(3))
    path = mounted(lake, "always")
    assert read(lake.client, path).num_rows == 3
    lake.write("set/b.parquet", files.numbers(4))
    assert read(lake.client, path).num_rows == 7
    changed = lake.write("set/a.parquet", files.numbers(3, 100))
    assert_same(read(lake.client, f"{path}/a.parquet"), changed)
    (lake.folder / "set/a.parquet").unlink()
    assert read(lake.client, path).num_rows == 4


@pytest.mark.parametrize("freshness", ["immutable", "max-age=1h"])
def test_changes_wait_for_a_refresh(lake: Lake, freshness: str) -> None:
    lake.write("set/a.parquet", files.numbers(3))
    path = mounted(lake, freshness)
    assert read(lake.client, path).num_rows == 3
    lake.write("set/b.parquet", files.numbers(4, 10))
    assert read(lake.client, path).num_rows == 3
    act(lake.client, "dataset.refresh", {"path": path})
    assert read(lake.client, path).num_rows == 7
    changed = lake.write("set/b.parquet", files.numbers(9, 50))
    act(lake.client, "dataset.refresh", {"path": f"{path}/b.parquet"})
    assert_same(read(lake.client, f"{path}/b.parquet"), changed)


def test_max_age_sees_changes_once_the_age_is_reached(lake: Lake) -> None:
    lake.write("set/a.parquet", files.numbers(3))
    path = mounted(lake, "max-age=1s")
    assert read(lake.client, path).num_rows == 3
    lake.write("set/b.parquet", files.numbers(4))
    assert eventually(lambda: read(lake.client, path).num_rows == 7)


def test_a_file_that_changes_under_a_reader_is_stale(lake: Lake) -> None:
    lake.write("set/a.parquet", files.numbers(40_000), row_group_size=10_000)
    path = mounted(lake, "immutable")
    info = plan(lake.client, path)
    newer = lake.write("set/a.parquet", files.numbers(50_000, 5), row_group_size=10_000)
    with expect_error("ABORTED", "STALE"):
        for endpoint in info.endpoints:
            lake.client.do_get(endpoint.ticket).read_all()
    act(lake.client, "dataset.refresh", {"path": path})
    assert_same(read(lake.client, path), newer)


def test_a_file_that_goes_away_under_a_reader(lake: Lake) -> None:
    lake.write("set/a.parquet", files.numbers(40_000))
    path = mounted(lake, "immutable")
    info = plan(lake.client, path)
    (lake.folder / "set/a.parquet").unlink()
    with expect_error(("ABORTED", "NOT_FOUND"), r"a\.parquet"):
        for endpoint in info.endpoints:
            lake.client.do_get(endpoint.ticket).read_all()
    lake.assert_still_serves()


def test_a_changed_schema_is_seen_with_the_data(lake: Lake) -> None:
    lake.write("set/a.parquet", {"n": [1]})
    path = mounted(lake, "always")
    assert read(lake.client, path).column_names == ["n"]
    changed = lake.write("set/a.parquet", {"m": ["x"], "k": [1.5]})
    assert_same(read(lake.client, path), changed)


def test_an_empty_folder_gets_its_first_file(lake: Lake) -> None:
    path = mounted(lake, "always")
    with expect_error("NOT_FOUND"):
        read(lake.client, path)
    expected = lake.write("set/a.parquet", files.numbers(2))
    assert_same(read(lake.client, path), expected)
