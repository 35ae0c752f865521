"""The cache as a user meets it: what comes from where, what is told, freed, dropped, and what outlives the process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from harness import files
from harness.cluster import until
from harness.compare import assert_same
from harness.errors import expect_error
from harness.flight import act, by_path, fetch
from harness.metrics import total
from harness.server import Server, run_cli
from harness.stored import data_offset
from harness.weed import Weed

ROWS = 200_000
GROUP_ROWS = 50_000
# All of it, but for what share is rounded to.
KEPT_SHARE = 0.9999


def rows(seed: int = 0) -> pa.Table:
    """Three columns, one of them text; the seed is in every row."""
    numbers = pa.array(range(seed, seed + ROWS), pa.int64())
    texts = pa.array([f"row {seed + row} of a table that tells its generation" for row in range(ROWS)])
    return pa.table({"n": numbers, "x": numbers.cast(pa.float64()), "text": texts})


def asked(server: Server) -> float:
    """Bytes that the server has read from storage so far."""
    return total(server.admin_uri, "jetbridge_store_read_bytes_total")


def stat(server: Server, path: str, **more: Any) -> dict[str, Any]:
    return act(server.client, "cache.stat", {"path": path, **more})


def wait_until_kept(server: Server, path: str = "/lake") -> None:
    """Until what was read is on disk, where it comes a while after the reader has it."""
    until(lambda: stat(server, path)["raw_share"] >= KEPT_SHARE, "what was read is kept")


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    files.write(tmp_path / "lake/t.parquet", rows(), row_group_size=GROUP_ROWS)
    return tmp_path / "lake"


def test_each_read_comes_from_a_better_tier(start_server: Callable[..., Server], lake: Path) -> None:
    server = start_server(mounts={"/lake": f"file://{lake}"})
    sources, costs = [], []
    for _ in range(3):
        before = asked(server)
        answer = fetch(server.client, by_path("/lake"))
        assert_same(answer.table, rows())
        sources.append(answer.sources)
        costs.append(asked(server) - before)
        wait_until_kept(server)
    size = (lake / "t.parquet").stat().st_size
    # The second touch is decoded from the pages on disk, and kept.
    assert sources == [{"store"}, {"disk"}, {"memory"}]
    assert size <= costs[0] <= 1.05 * size + 65_536
    assert costs[1:] == [0, 0]


def test_pages_in_memory_where_no_folder_is_wanted(start_server: Callable[..., Server], lake: Path) -> None:
    server = start_server(mounts={"/lake": f"file://{lake}"}, args=["--cache-dir", "none"])
    fetch(server.client, by_path("/lake"))
    wait_until_kept(server)
    before = asked(server)
    assert fetch(server.client, by_path("/lake")).sources == {"memory"}
    assert asked(server) == before
    assert not list(server.data_dir.glob("cache"))


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_pages_outlive_the_process(start_server: Callable[..., Server], lake: Path, kill: bool) -> None:
    mounts = {"/lake": f"file://{lake}"}
    first = start_server(mounts=mounts)
    fetch(first.client, by_path("/lake"))
    wait_until_kept(first)
    held = stat(first, "/lake")["raw_bytes"]
    assert held >= (lake / "t.parquet").stat().st_size * 0.95
    if kill:
        first.daemon.kill()
    else:
        first.stop()
    second = start_server(mounts=mounts)
    assert stat(second, "/lake")["raw_bytes"] == held
    answer = fetch(second.client, by_path("/lake"))
    assert_same(answer.table, rows())
    assert answer.sources == {"disk"}


def test_stat_is_exact_by_file_and_column(start_server: Callable[..., Server], lake: Path) -> None:
    files.write(lake / "u.parquet", rows(ROWS), row_group_size=GROUP_ROWS)
    server = start_server(mounts={"/lake": f"file://{lake}"})
    sizes = [(lake / name).stat().st_size for name in ("t.parquet", "u.parquet")]
    before = stat(server, "/lake")
    assert (before["files"], before["rows"], before["bytes"]) == (2, 2 * ROWS, sum(sizes))
    for _ in range(2):
        fetch(server.client, by_path("/lake/t.parquet"))
    wait_until_kept(server, "/lake/t.parquet")
    after = stat(server, "/lake", by="file")
    assert [part["path"] for part in after["by_file"]] == ["/lake/t.parquet", "/lake/u.parquet"]
    held = after["by_file"][0]
    assert held["raw_bytes"] == held["bytes"] == sizes[0]
    assert after["by_file"][1]["decoded_bytes"] == 0
    columns = {part["column"]: part for part in stat(server, "/lake/t.parquet", by="column")["by_column"]}
    assert columns["n"]["decoded_bytes"] == columns["x"]["decoded_bytes"] == 8 * ROWS
    assert all(part["raw_bytes"] == part["bytes"] for part in columns.values())
    assert sum(part["decoded_bytes"] for part in columns.values()) == held["decoded_bytes"]


def test_a_column_not_asked_for_is_neither_read_nor_decoded(start_server: Callable[..., Server], lake: Path) -> None:
    server = start_server(mounts={"/lake": f"file://{lake}"}, args=["--fetch-gap-bytes", "0"])
    for _ in range(2):
        act(server.client, "dataset.refresh", {"path": "/lake"})
        run_cli("get", "/lake", "--columns", "n", "-o", "arrow", env={"JETBRIDGE_URI": server.flight_uri})
    columns = {part["column"]: part for part in stat(server, "/lake/t.parquet", by="column")["by_column"]}
    assert columns["n"]["decoded_bytes"] == 8 * ROWS
    assert columns["text"]["decoded_bytes"] == columns["x"]["decoded_bytes"] == 0
    assert columns["text"]["raw_bytes"] < columns["text"]["bytes"] / 2


def test_free_lets_go_and_a_dry_run_only_tells(start_server: Callable[..., Server], lake: Path) -> None:
    server = start_server(mounts={"/lake": f"file://{lake}"})
    for _ in range(2):
        fetch(server.client, by_path("/lake"))
    wait_until_kept(server)
    held = stat(server, "/lake")
    told = act(server.client, "cache.free", {"path": "/lake", "dry_run": True})
    assert (told["raw_bytes"], told["decoded_bytes"]) == (held["raw_bytes"], held["decoded_bytes"])
    assert stat(server, "/lake") == held
    other = act(server.client, "cache.free", {"path": "/lake", "generation": "etag:other"})
    assert other["bytes"] == 0
    done = server.cli("free", "/", "-o", "json")
    assert done.returncode == 0, done.stderr
    after = stat(server, "/lake")
    assert (after["raw_bytes"], after["decoded_bytes"]) == (0, 0)
    answer = fetch(server.client, by_path("/lake"))
    assert_same(answer.table, rows())
    assert answer.sources == {"store"}


def test_what_was_overwritten_goes(start_server: Callable[..., Server], lake: Path) -> None:
    server = start_server(mounts={"/lake": f"file://{lake}"})
    for _ in range(2):
        fetch(server.client, by_path("/lake"))
    files.write(lake / "t.parquet", rows(7), row_group_size=GROUP_ROWS)
    assert act(server.client, "dataset.refresh", {"path": "/lake"})
    assert_same(fetch(server.client, by_path("/lake")).table, rows(7))
    told = stat(server, "/lake", by="file")
    assert told["outdated_bytes"] == 0
    assert [part["current"] for part in told["by_file"]] == [True]


@pytest.mark.parametrize("by", ["row", "", 1])
def test_stat_by_what_does_not_exist(start_server: Callable[..., Server], lake: Path, by: object) -> None:
    server = start_server(mounts={"/lake": f"file://{lake}"})
    with expect_error("INVALID_ARGUMENT"):
        stat(server, "/lake", by=by)
    with expect_error("NOT_FOUND"):
        stat(server, "/nowhere")
    with expect_error("INVALID_ARGUMENT", "dryrun"):
        act(server.client, "cache.free", {"path": "/lake", "dryrun": True})


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["--cache-dir", "/proc/nothing"], "/proc/nothing"),
        (["--cache-dir", "{lake}"], "lake"),
        (["--cache-dir", "{tmp}/a", "--cache-dir", "{tmp}/b/../a"], "a"),
        (["--cache-dir", "{tmp}/a=many"], "many"),
        (["--cache-dir", "none", "--cache-dir", "{tmp}/a"], "none"),
        (["--page-bytes", "5000"], "page_bytes"),
        (["--page-bytes", "1GiB"], "page_bytes"),
        (["--fetch-bytes", "2KiB"], "fetch_bytes"),
    ],
    ids=str,
)
def test_folders_and_sizes_that_cannot_be(tmp_path: Path, lake: Path, args: list[str], word: str) -> None:
    args = [part.format(lake=lake, tmp=tmp_path) for part in args]
    where = ["--data-dir", tmp_path / "data", "--flight", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    done = run_cli("serve", *where, *args)
    assert done.returncode in (1, 2), done.stderr
    assert word in done.stderr.decode()
    assert b"panicked" not in done.stderr


def test_a_folder_has_one_process(start_server: Callable[..., Server], tmp_path: Path) -> None:
    folder = tmp_path / "pages"
    start_server(args=["--cache-dir", folder])
    where = ["--data-dir", tmp_path / "other", "--flight", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    done = run_cli("serve", *where, "--cache-dir", folder)
    assert done.returncode == 1
    assert str(folder) in done.stderr.decode()


@pytest.mark.parametrize(
    "args", [["--page-bytes", "16KiB"], ["--cache-dir", "{cache}=0"], ["--cache-dir", "{cache}=64KiB"]], ids=str
)
def test_other_settings_after_a_restart(start_server: Callable[..., Server], lake: Path, args: list[str]) -> None:
    mounts = {"/lake": f"file://{lake}"}
    first = start_server(mounts=mounts)
    fetch(first.client, by_path("/lake"))
    first.stop()
    words = [part.format(cache=first.data_dir / "cache") for part in args]
    second = start_server(mounts=mounts, args=words)
    for _ in range(2):
        assert_same(fetch(second.client, by_path("/lake")).table, rows())


def test_a_folder_that_is_removed_costs_nobody_a_read(start_server: Callable[..., Server], lake: Path) -> None:
    server = start_server(mounts={"/lake": f"file://{lake}"})
    fetch(server.client, by_path("/lake"))
    wait_until_kept(server)
    shutil.rmtree(server.data_dir / "cache")
    for _ in range(3):
        assert_same(fetch(server.client, by_path("/lake")).table, rows())


def test_flipped_bits_are_fetched_anew(start_server: Callable[..., Server], lake: Path) -> None:
    server = start_server(mounts={"/lake": f"file://{lake}"})
    fetch(server.client, by_path("/lake"))
    wait_until_kept(server)
    pages = next((server.data_dir / "cache").glob("*/*.pages"))
    raw = bytearray(pages.read_bytes())
    for at in range(data_offset(raw) + 100, len(raw), 50_000):
        raw[at] ^= 0x40
    with pages.open("r+b") as file:
        file.write(raw)
    assert_same(fetch(server.client, by_path("/lake")).table, rows())
    assert total(server.admin_uri, "jetbridge_cache_checksum_failures_total") > 0


def test_a_bucket_is_asked_once_for_every_byte(
    start_server: Callable[..., Server], lake: Path, weed: Weed, weed_environment: dict[str, str]
) -> None:
    uri = weed.upload(lake, "tiers")
    server = start_server(env=weed_environment)
    act(server.client, "mount.add", {"path": "/b", "uri": uri, "options": weed.options})
    for expected in ({"store"}, {"disk"}, {"memory"}):
        before = asked(server)
        answer = fetch(server.client, by_path("/b"))
        assert_same(answer.table, rows())
        assert answer.sources == expected
        assert (asked(server) > before) == (expected == {"store"})
        wait_until_kept(server, "/b")
