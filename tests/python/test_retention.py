"""What mounts say about keeping: times to live, quotas and rules, and that each has its effect."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from harness import files
from harness.compare import assert_same
from harness.errors import expect_error
from harness.flight import act, by_path, fetch, mount, mounts
from harness.metrics import samples, total
from harness.server import Server

ROWS = 100_000
GROUP_ROWS = 10_000
PATIENCE_S = 60.0
POLL_S = 0.1


def rows(seed: int = 0) -> pa.Table:
    """Numbers that do not compress: a megabyte and a half of file, as much decoded."""
    numbers = pa.array(range(seed, seed + ROWS), pa.int64())
    return pa.table({"n": numbers, "x": pa.array([(row * 2_654_435_761) % 2**32 for row in range(ROWS)], pa.int64())})


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    for name in ("plain.parquet", "tmp/a.parquet", "hot/a.parquet", "logs/a.parquet"):
        files.write(
            tmp_path / "lake" / name, rows(), row_group_size=GROUP_ROWS, compression="none", use_dictionary=False
        )
    return tmp_path / "lake"


@pytest.fixture
def start(start_server: Callable[..., Server], lake: Path) -> Callable[..., Server]:
    """Starts a server on the folder, with options of its mount."""

    def begin(**options: str) -> Server:
        server = start_server(file_roots=[lake])
        if "/lake" in mounts(server.client):
            act(server.client, "mount.remove", {"path": "/lake"})
        mount(server.client, "/lake", f"file://{lake}", **options)
        return server

    return begin


def held(server: Server, path: str) -> tuple[int, int]:
    """Raw and decoded bytes that are held of a path."""
    said = act(server.client, "cache.stat", {"path": path})
    return said["raw_bytes"], said["decoded_bytes"]


def read(server: Server, path: str, times: int = 1) -> set[str]:
    """Reads a path, checks the rows, and says where the last read came from."""
    for _ in range(times):
        answer = fetch(server.client, by_path(path))
        assert_same(answer.table, rows())
    return answer.sources


def until(holds: Callable[[], bool]) -> None:
    """Waits for something that is to come by itself."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s"
        time.sleep(POLL_S)


def test_what_was_kept_goes_after_its_time(start: Callable[..., Server]) -> None:
    server = start(cache_ttl="6s")
    began = time.monotonic()
    assert read(server, "/lake/plain.parquet", 3) == {"memory"}
    # Pages are kept a while after they were given.
    until(lambda: min(held(server, "/lake/plain.parquet")) > 0)
    until(lambda: held(server, "/lake/plain.parquet") == (0, 0))
    assert time.monotonic() - began >= 6.0
    assert total(server.admin_uri, "jetbridge_cache_expired_files_total") == 1
    assert read(server, "/lake/plain.parquet") == {"store"}


def test_the_time_goes_on_while_the_server_is_down(start: Callable[..., Server]) -> None:
    first = start()
    read(first, "/lake/plain.parquet")
    first.stop()
    time.sleep(1.5)
    second = start(cache_ttl="1s")
    until(lambda: held(second, "/lake/plain.parquet") == (0, 0))


def test_a_quota_bounds_both_tiers(start: Callable[..., Server], tmp_path: Path) -> None:
    quota = 4 << 20
    server = start(cache_quota="4MiB")
    files.write(
        tmp_path / "lake2/b.parquet", rows(), row_group_size=GROUP_ROWS, compression="none", use_dictionary=False
    )
    with expect_error("PERMISSION_DENIED"):
        mount(server.client, "/other", f"file://{tmp_path}/lake2")
    for _ in range(3):
        for name in ("plain", "tmp/a", "hot/a", "logs/a"):
            read(server, f"/lake/{name}.parquet")
    # On disk an extent of 256 pages, 1 MiB, goes at a time and comes again by and by, a while after the read: what one
    # or two take may be free at any moment. Decoded, a chunk goes at a time.
    until(lambda: quota / 2 < held(server, "/lake")[0])
    raw, decoded = held(server, "/lake")
    assert raw <= quota
    assert quota / 2 < decoded <= quota
    # Anew with less: what is beyond goes, also of what was found on disk.
    act(server.client, "mount.remove", {"path": "/lake"})
    mount(server.client, "/lake", f"file://{tmp_path}/lake", cache_quota="256KiB")
    raw, decoded = held(server, "/lake")
    assert raw <= 256 << 10
    assert decoded <= 256 << 10
    assert total(server.admin_uri, "jetbridge_cache_evictions_total", reason="quota") > 0
    server.stop()
    again = start(cache_quota="128KiB")
    assert held(again, "/lake")[0] <= 128 << 10


def test_others_have_what_a_quota_leaves(start: Callable[..., Server], lake: Path) -> None:
    server = start(cache_quota="0B")
    mount(server.client, "/free", f"file://{lake}/hot")
    assert read(server, "/lake/plain.parquet", 3) == {"store"}
    # The longer URI counts: below it there is no quota.
    assert read(server, "/free/a.parquet", 3) == {"memory"}
    assert read(server, "/lake/hot/a.parquet") == {"memory"}


def test_rules_by_path(start: Callable[..., Server]) -> None:
    server = start(cache_rules="never tmp/**; always hot/*.parquet; max-age=2s logs/**", cache_ttl="1h")
    assert read(server, "/lake/tmp/a.parquet", 3) == {"store"}
    assert held(server, "/lake/tmp") == (0, 0)
    # The first read decodes and keeps, so the second has it from memory.
    read(server, "/lake/hot/a.parquet")
    assert held(server, "/lake/hot")[1] == 16 * ROWS
    assert read(server, "/lake/hot/a.parquet") == {"memory"}
    # Elsewhere the second read does.
    read(server, "/lake/plain.parquet")
    assert held(server, "/lake/plain.parquet")[1] == 0
    read(server, "/lake/logs/a.parquet")
    until(lambda: held(server, "/lake/logs") == (0, 0))
    until(lambda: held(server, "/lake/plain.parquet")[0] > 0)


def test_a_rule_that_comes_later_holds_for_what_is_held(start: Callable[..., Server], lake: Path) -> None:
    server = start()
    read(server, "/lake/tmp/a.parquet", 3)
    act(server.client, "mount.remove", {"path": "/lake"})
    mount(server.client, "/lake", f"file://{lake}", cache_rules="never **/a.parquet")
    until(lambda: held(server, "/lake/tmp") == (0, 0))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("cache_ttl", "soon"),
        ("cache_ttl", "0s"),
        ("cache_quota", "lots"),
        ("cache_quota", "-1"),
        ("cache_rules", "sometimes a"),
        ("cache_rules", "never"),
        ("cache_rules", "never a["),
    ],
)
def test_options_that_cannot_be_read(start: Callable[..., Server], lake: Path, option: str, value: str) -> None:
    server = start()
    with expect_error("INVALID_ARGUMENT", option):
        mount(server.client, "/bad", f"file://{lake}", **{option: value})
    assert "/bad" not in mounts(server.client)


def test_metrics_name_mounts_by_their_ids(start: Callable[..., Server], lake: Path) -> None:
    server = start()
    mount(server.client, "/second", f"file://{lake}/hot")
    read(server, "/lake/plain.parquet", 2)
    read(server, "/second/a.parquet")
    ids = {path: entry["id"] for path, entry in mounts(server.client).items()}
    assert len(set(ids.values())) == 2
    for path in ("/lake", "/second"):
        assert total(server.admin_uri, "jetbridge_cache_misses_total", tier="page", mount=ids[path]) > 0
        assert total(server.admin_uri, "jetbridge_store_requests_total", mount=ids[path]) > 0
    hits = [total(server.admin_uri, "jetbridge_cache_hits_total", tier="page", mount=ids[path]) for path in ids]
    assert sum(hits) == total(server.admin_uri, "jetbridge_cache_hits_total", tier="page")
    labels = {value for sample in samples(server.admin_uri) for value in sample.labels.values()}
    assert not {value for value in labels if "lake" in value or "second" in value}


def test_the_share_of_reads_that_cost_storage_nothing(start: Callable[..., Server]) -> None:
    server = start()
    read(server, "/lake/plain.parquet", 4)

    def spared() -> float:
        return total(server.admin_uri, "jetbridge_cache_spared_ratio")

    # One read of four asked storage, and a little more than its columns.
    until(lambda: 0.70 < spared() <= 0.76)
