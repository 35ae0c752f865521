"""Mounts of what is not there, not allowed or not reachable: said clearly, within the timeout."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conftest import Lake
from harness import files
from harness.errors import expect_error
from harness.flight import act, listed, mount, mounts, read
from harness.ports import free_port
from harness.server import Server
from harness.weed import Weed

# How long a request is tried again by default, and with what the calls around it take.
DEFAULT_S, GIVES_UP_S = 30.0, 90.0
# The same of a server that soon gives up; long enough for others to be read meanwhile.
HASTY_S = 5
OUTSIDE = ("PERMISSION_DENIED", "INVALID_ARGUMENT", "FAILED_PRECONDITION")


def use(lake: Lake, uri: str, **options: str) -> None:
    """Mounts and reads; the mount does not outlive the call."""
    path = f"{lake.path}-bad"
    try:
        mount(lake.client, path, uri, **options)
        read(lake.client, path)
    finally:
        if path in mounts(lake.client):
            act(lake.client, "mount.remove", {"path": path})


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield int(listener.getsockname()[1])


@pytest.fixture
def hasty(start_server: Callable[..., Server], tmp_path: Path) -> Lake:
    """A folder on a server of its own that soon gives up."""
    folder = tmp_path / "lake"
    folder.mkdir()
    args, env = ["--store-retry-timeout", f"{HASTY_S}s"], Weed.environment()
    server = start_server(file_roots=[folder], env=env, args=args)
    mount(server.client, "/lake", f"file://{folder}", freshness="always")
    return Lake(server, folder, "/lake")


def test_a_bucket_that_does_not_exist(lake: Lake, weed: Weed) -> None:
    with expect_error("NOT_FOUND", f"{lake.path}-bad.*NoSuchBucket"):
        use(lake, "s3://no-such-bucket/x", **weed.options)
    lake.assert_still_serves()


def test_wrong_credentials(lake: Lake, weed: Weed) -> None:
    weed.filesystem().create_dir("private")
    wrong = {**weed.options, "secret_access_key": "env:WEED_WRONG_SECRET"}
    with expect_error(("PERMISSION_DENIED", "UNAUTHENTICATED"), f"{lake.path}-bad"):
        use(lake, "s3://private", **wrong)
    unknown = {**weed.options, "access_key_id": "nobody"}
    with expect_error(("PERMISSION_DENIED", "UNAUTHENTICATED"), f"{lake.path}-bad"):
        use(lake, "s3://private", **unknown)
    lake.assert_still_serves()


def test_the_check_of_a_mount_that_went_bad_tells_what_failed(lake: Lake, weed: Weed) -> None:
    path = f"{lake.path}-lost"
    weed.filesystem().create_dir("soon-lost")
    mount(lake.client, path, "s3://soon-lost", **weed.options)
    weed.filesystem().delete_dir("soon-lost")
    report = act(lake.client, "mount.check", {"path": path})
    assert report["ok"] is False
    assert any(not check["ok"] and check["detail"] for check in report["checks"])
    assert lake.server.cli("mount", "check", path).returncode == 1
    with expect_error("NOT_FOUND", f"{path}.*NoSuchBucket"):
        read(lake.client, path)


def test_no_credentials_at_all(lake: Lake, weed: Weed) -> None:
    weed.filesystem().create_dir("private")
    anonymous = {"endpoint": weed.endpoint, "region": "us-east-1", "allow_http": "true", "anonymous": "true"}
    with expect_error(("PERMISSION_DENIED", "UNAUTHENTICATED")):
        use(lake, "s3://private", **anonymous)
    lake.assert_still_serves()


def test_an_endpoint_where_nobody_listens(hasty: Lake, weed: Weed) -> None:
    started = time.monotonic()
    with expect_error("UNAVAILABLE", f"{hasty.path}-bad"):
        use(hasty, "s3://bucket", **{**weed.options, "endpoint": f"http://127.0.0.1:{free_port()}"})
    assert time.monotonic() - started < DEFAULT_S, "the setting makes no difference"
    hasty.assert_still_serves()


def test_an_endpoint_that_never_answers(lake: Lake, weed: Weed, silent_port: int) -> None:
    started = time.monotonic()
    with expect_error("UNAVAILABLE", f"{lake.path}-bad"):
        use(lake, "s3://bucket", **{**weed.options, "endpoint": f"http://127.0.0.1:{silent_port}", "timeout": "1s"})
    assert time.monotonic() - started < GIVES_UP_S
    lake.assert_still_serves()


def test_a_slow_mount_does_not_hold_up_others(hasty: Lake, weed: Weed, silent_port: int) -> None:
    hasty.write("t.parquet", files.numbers(3))
    options = {**weed.options, "endpoint": f"http://127.0.0.1:{silent_port}", "timeout": "1s"}
    with hasty.server.connect() as other, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(mount, other, f"{hasty.path}-slow", "s3://bucket", **options)
        assert hasty.read("t.parquet").num_rows == 3
        assert listed(hasty.client, hasty.path) == [hasty.path]
        assert not slow.done()
        with expect_error("UNAVAILABLE"):
            slow.result(GIVES_UP_S)


@pytest.mark.parametrize("uri", ["file:///etc", "file:///", "file:///proc/self", "file:///root"])
def test_folders_outside_the_roots(lake: Lake, uri: str) -> None:
    with expect_error(OUTSIDE, "root"):
        use(lake, uri)
    lake.assert_still_serves()


def test_a_link_that_leads_outside(lake: Lake) -> None:
    (lake.folder / "way-out").symlink_to("/etc")
    with expect_error(OUTSIDE, "root"):
        use(lake, f"file://{lake.folder}/way-out")
    (lake.folder / "passwd.parquet").symlink_to("/etc/passwd")
    with expect_error((*OUTSIDE, "NOT_FOUND"), "passwd"):
        lake.read("passwd.parquet")
    lake.assert_still_serves()


def test_a_folder_that_is_not_there(lake: Lake) -> None:
    with expect_error(("NOT_FOUND", "FAILED_PRECONDITION"), "missing"):
        use(lake, f"file://{lake.folder}/missing")
    lake.assert_still_serves()


def test_a_secret_in_plain_text_is_refused_and_not_repeated(lake: Lake, weed: Weed) -> None:
    with expect_error("INVALID_ARGUMENT", r"^(?!.*canary-in-plain-text).*secret_access_key"):
        use(lake, "s3://bucket", **{**weed.options, "secret_access_key": "canary-in-plain-text"})
    assert "canary-in-plain-text" not in lake.server.log
    lake.assert_still_serves()


@pytest.mark.parametrize("reference", ["env:NO_SUCH_VARIABLE", "file:/no/such/file"])
def test_a_secret_that_is_not_there(lake: Lake, weed: Weed, reference: str) -> None:
    with expect_error(("FAILED_PRECONDITION", "INVALID_ARGUMENT", "UNAUTHENTICATED"), "no.such"):
        use(lake, "s3://bucket", **{**weed.options, "secret_access_key": reference})
    lake.assert_still_serves()
