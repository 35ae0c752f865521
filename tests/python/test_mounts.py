"""The namespace: many mounts, nested ones, and what survives a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Lake
from harness import files
from harness.compare import assert_same
from harness.errors import expect_error
from harness.flight import act, listed, mount, mounts, read
from harness.server import Server


def test_mount_list_tells_all_but_secrets(lake: Lake) -> None:
    said = mounts(lake.client)[lake.path]
    assert said["uri"] == f"file://{lake.folder}"
    assert said["options"] == {"freshness": "always"}
    assert said["read_only"] is False


def test_read_only_is_kept(lake: Lake) -> None:
    path = f"{lake.path}-ro"
    act(lake.client, "mount.add", {"path": path, "uri": f"file://{lake.folder}", "read_only": True})
    assert mounts(lake.client)[path]["read_only"] is True
    act(lake.client, "mount.remove", {"path": path})


def test_longest_prefix_wins_and_shadows(lake: Lake) -> None:
    lake.write("outer/inner/hidden.parquet", files.numbers(1))
    outer = lake.write("outer/a.parquet", files.numbers(2))
    inner = files.write(lake.folder / "elsewhere/x.parquet", files.numbers(3, 100))
    mount(lake.client, lake.at("outer/inner"), f"file://{lake.folder}/elsewhere", freshness="always")
    assert_same(lake.read("outer/inner"), inner)
    assert_same(lake.read("outer/a.parquet"), outer)
    with expect_error("NOT_FOUND", "hidden"):
        lake.read("outer/inner/hidden.parquet")
    act(lake.client, "mount.remove", {"path": lake.at("outer/inner")})
    assert lake.read("outer/inner/hidden.parquet").num_rows == 1


def test_a_mounted_uri_is_as_good_as_its_path(lake: Lake) -> None:
    expected = lake.write("set/a.parquet", files.numbers(4))
    assert_same(read(lake.client, f"file://{lake.folder}/set"), expected)
    assert_same(read(lake.client, f"file://{lake.folder}/set/", filter="n >= 0"), expected)


def test_removed_mounts_are_gone(lake: Lake) -> None:
    lake.write("t.parquet", files.numbers(1))
    act(lake.client, "mount.remove", {"path": lake.path})
    assert lake.path not in mounts(lake.client)
    with expect_error("NOT_FOUND", lake.path):
        lake.read("t.parquet")
    mount(lake.client, lake.path, f"file://{lake.folder}", freshness="always")
    assert lake.read("t.parquet").num_rows == 1


def test_mount_over_a_mount(lake: Lake) -> None:
    with expect_error("ALREADY_EXISTS", lake.path):
        mount(lake.client, lake.path, f"file://{lake.folder}")
    with expect_error("ALREADY_EXISTS", lake.path):
        mount(lake.client, f"{lake.path}/", f"file://{lake.folder}")
    lake.assert_still_serves()


def test_removal_of_a_mount_with_mounts_below(lake: Lake) -> None:
    (lake.folder / "below").mkdir()
    mount(lake.client, lake.at("below"), f"file://{lake.folder}/below")
    with expect_error("FAILED_PRECONDITION", lake.at("below")):
        act(lake.client, "mount.remove", {"path": lake.path})
    lake.assert_still_serves()
    act(lake.client, "mount.remove", {"path": lake.at("below")})


def test_mount_check_tells_what_it_tried(lake: Lake) -> None:
    lake.write("t.parquet", files.numbers(1))
    report = act(lake.client, "mount.check", {"path": lake.path})
    assert report["ok"] is True
    assert report["checks"]
    assert all(check["ok"] and check["name"] for check in report["checks"])


def test_memory_mounts_are_empty_and_work(lake: Lake) -> None:
    mount(lake.client, f"{lake.path}-memory", "memory://scratch")
    assert listed(lake.client, f"{lake.path}-memory") == []
    act(lake.client, "mount.remove", {"path": f"{lake.path}-memory"})


@pytest.mark.parametrize("crash", [False, True], ids=["stopped", "killed"])
def test_mounts_survive_a_restart(start_server: Callable[..., Server], tmp_path: Path, crash: bool) -> None:
    expected = files.write(tmp_path / "lake/t.parquet", files.numbers(5))
    first = start_server(file_roots=[tmp_path], mounts={"/flag": f"file://{tmp_path}/lake"})
    mount(first.client, "/kept", f"file://{tmp_path}/lake", freshness="immutable")
    mount(first.client, "/gone", f"file://{tmp_path}/lake")
    act(first.client, "mount.remove", {"path": "/gone"})
    if crash:
        first.client.close()
        first.daemon.kill()
    else:
        assert first.stop() == 0
    second = start_server(file_roots=[tmp_path], mounts={"/flag": f"file://{tmp_path}/lake"})
    found = mounts(second.client)
    assert set(found) == {"/kept", "/flag"}
    assert found["/kept"]["options"] == {"freshness": "immutable"}
    assert_same(read(second.client, "/kept/t.parquet"), expected)


def test_a_mount_on_the_command_line_makes_its_folder_a_root(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    expected = files.write(tmp_path / "lake/sub/t.parquet", files.numbers(5))
    server = start_server(mounts={"/lake": f"file://{tmp_path}/lake"})
    mount(server.client, "/sub", f"file://{tmp_path}/lake/sub")
    assert_same(read(server.client, "/sub"), expected)
    with expect_error(("PERMISSION_DENIED", "INVALID_ARGUMENT", "FAILED_PRECONDITION"), "root"):
        mount(server.client, "/outside", f"file://{tmp_path}")
