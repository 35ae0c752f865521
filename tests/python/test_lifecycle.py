"""Start, stop and what stands in the way of a start."""

from __future__ import annotations

import datetime as dt
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from harness import files
from harness.compare import assert_same
from harness.errors import expect_error
from harness.flight import chunks, expiry, plan, read
from harness.server import Options, Server, run_cli

STOPS_WITHIN_S = 60.0
BIG_ROWS = 2_000_000
SMALL_BUDGET_BYTES = 64 * 2**20
POLL_INTERVAL_S = 0.05


def refused_start(*args: str | Path) -> str:
    """What `jetbridge serve` says when it does not start; fails when it does."""
    try:
        done = run_cli("serve", *args)
    except subprocess.TimeoutExpired:
        pytest.fail("it started")
    assert done.returncode in (1, 2), done.stderr.decode()
    assert b"panicked" not in done.stderr
    return done.stderr.decode()


@pytest.fixture
def lake_uri(tmp_path: Path) -> str:
    files.write(tmp_path / "lake/t.parquet", files.numbers(10))
    return f"file://{tmp_path}/lake"


def test_sigterm_lets_streams_finish(start_server: Callable[..., Server], tmp_path: Path) -> None:
    numbers = np.arange(BIG_ROWS, dtype=np.int64)
    table = pa.table({f"c{index}": numbers + index for index in range(10)})
    files.write(tmp_path / "lake/t.parquet", table, row_group_size=250_000)
    server = start_server(mounts={"/lake": f"file://{tmp_path}/lake"})
    endpoints = plan(server.client, "/lake").endpoints
    reader = server.client.do_get(endpoints[0].ticket)
    batches = [reader.read_chunk().data]
    server.daemon.terminate()
    batches += [chunk.data for chunk in chunks(reader)]
    got = pa.Table.from_batches(batches)
    assert_same(got, table.slice(0, got.num_rows))
    assert got.num_rows == table.num_rows or len(endpoints) > 1
    assert server.daemon.wait(STOPS_WITHIN_S) == 0


def test_sigterm_does_not_wait_forever_for_a_reader_that_stopped(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    numbers = np.arange(BIG_ROWS, dtype=np.int64)
    files.write(tmp_path / "lake/t.parquet", {f"c{index}": numbers for index in range(10)})
    server = start_server(mounts={"/lake": f"file://{tmp_path}/lake"}, args=["--shutdown-grace", "1s"])
    reader = server.client.do_get(plan(server.client, "/lake").endpoints[0].ticket)
    reader.read_chunk()
    server.daemon.terminate()
    assert server.daemon.wait(STOPS_WITHIN_S / 4) in (0, 1)
    reader.cancel()


def test_after_sigterm_nobody_listens(start_server: Callable[..., Server], lake_uri: str) -> None:
    server = start_server(mounts={"/lake": lake_uri})
    assert server.stop() == 0
    with expect_error("UNAVAILABLE"), server.connect() as late:
        read(late, "/lake")


def test_a_second_server_on_the_same_data_folder(start_server: Callable[..., Server], lake_uri: str) -> None:
    server = start_server(mounts={"/lake": lake_uri})
    said = refused_start("--data-dir", server.data_dir, "--flight", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    assert str(server.data_dir) in said
    assert "use" in said
    assert read(server.client, "/lake").num_rows == 10


@pytest.mark.parametrize("door", ["--flight", "--admin"])
def test_a_second_server_on_the_same_port(
    start_server: Callable[..., Server], lake_uri: str, tmp_path: Path, door: str
) -> None:
    server = start_server(mounts={"/lake": lake_uri})
    taken = (server.flight_uri if door == "--flight" else server.admin_uri).rpartition("/")[2]
    doors = {"--flight": "127.0.0.1:0", "--admin": "127.0.0.1:0", door: taken}
    said = refused_start("--data-dir", tmp_path / "other", *(word for pair in doors.items() for word in pair))
    assert taken in said
    assert read(server.client, "/lake").num_rows == 10


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"])
def test_only_loopback_unless_told(tmp_path: Path, address: str) -> None:
    for doors in (("--flight", address, "--admin", "127.0.0.1:0"), ("--flight", "127.0.0.1:0", "--admin", address)):
        assert "--insecure" in refused_start("--data-dir", tmp_path / "data", *doors)


def test_a_mount_that_cannot_be_made_stops_the_start(tmp_path: Path) -> None:
    doors = ("--data-dir", tmp_path / "data", "--flight", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    assert "nothing-here" in refused_start(*doors, "--mount", f"/lake=file://{tmp_path}/nothing-here")
    assert "/lake" in refused_start(*doors, "--mount", "/lake")
    assert "ftp" in refused_start(*doors, "--mount", "/lake=ftp://host/x")


def test_a_data_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    doors = ("--flight", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    assert str(tmp_path / "file") in refused_start("--data-dir", tmp_path / "file", *doors)


def test_a_damaged_data_folder_is_said_and_not_overwritten(start_server: Callable[..., Server], lake_uri: str) -> None:
    server = start_server(mounts={"/lake": lake_uri})
    assert server.stop() == 0
    stores = [path for path in server.data_dir.rglob("*") if path.is_file() and path.stat().st_size > 4_096]
    assert stores, "no metadata file to damage"
    for path in stores:
        path.write_bytes(b"\xde\xad" * 4_096)
    said = refused_start("--data-dir", server.data_dir, "--flight", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    assert any(str(path) in said or path.name in said for path in stores)
    assert all(path.read_bytes()[:2] == b"\xde\xad" for path in stores)


def test_tickets_expire(start_server: Callable[..., Server], lake_uri: str) -> None:
    server = start_server(mounts={"/lake": lake_uri}, args=["--ticket-ttl", "4s"])
    (endpoint,) = plan(server.client, "/lake").endpoints
    end = expiry(endpoint)
    while dt.datetime.now(dt.timezone.utc) <= end:
        time.sleep(POLL_INTERVAL_S)
    with expect_error("UNAUTHENTICATED", "expired"):
        server.client.do_get(endpoint.ticket).read_all()
    assert read(server.client, "/lake").num_rows == 10


def test_tickets_outlive_a_restart(start_server: Callable[..., Server], lake_uri: str) -> None:
    first = start_server(mounts={"/lake": lake_uri})
    (endpoint,) = plan(first.client, "/lake").endpoints
    assert first.stop() == 0
    second = start_server(mounts={"/lake": lake_uri})
    assert second.client.do_get(endpoint.ticket).read_all().num_rows == 10


def test_tickets_of_another_server_are_forged(start_server: Callable[..., Server], lake_uri: str) -> None:
    one, other = start_server("one", mounts={"/lake": lake_uri}), start_server("other", mounts={"/lake": lake_uri})
    (endpoint,) = plan(one.client, "/lake").endpoints
    with expect_error("UNAUTHENTICATED"):
        other.client.do_get(endpoint.ticket).read_all()
    assert read(other.client, "/lake").num_rows == 10


def test_a_memory_budget_smaller_than_the_data_still_serves_it(tmp_path: Path) -> None:
    numbers = np.arange(BIG_ROWS, dtype=np.int64)
    table = pa.table({f"c{index}": numbers * index for index in range(10)})
    files.write(tmp_path / "lake/t.parquet", table, row_group_size=100_000)
    assert table.nbytes > 2 * SMALL_BUDGET_BYTES
    options = Options(mounts={"/lake": f"file://{tmp_path}/lake"}, args=["--memory", str(SMALL_BUDGET_BYTES)])
    server = Server(tmp_path / "data", options)
    try:
        for _ in range(2):
            assert_same(read(server.client, "/lake"), table)
    finally:
        assert server.stop() == 0
