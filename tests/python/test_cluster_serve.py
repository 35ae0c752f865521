"""`jetbridge serve --workers 3`: one command starts a cluster to try, and leaves nothing behind, however it ends. What
`workers`, `locate` and `status` show of it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import files
from harness.cluster import info, locations, read, until
from harness.compare import assert_same
from harness.etcd import Etcd
from harness.flight import act
from harness.owners import named_first, owners
from harness.server import Options, Server

WORKERS = 3
FILES = 24
ROWS = 1_000
DATA = "/small"
# Within so long nothing is left of a server that was killed.
GONE_S = 30.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many small files."""
    found = tmp_path_factory.mktemp("small")
    files.write_many(found, FILES, ROWS)
    return found


@pytest.fixture(scope="module")
def cluster(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that is only looked at."""
    running = Server(tmp_path_factory.mktemp("serve") / "data", options(folder))
    yield running
    # In a group of its own: whatever a failure left goes too.
    running.client.close()
    running.daemon.kill()


@pytest.fixture
def start_cluster(start_server: Callable[..., Server], folder: Path) -> Iterator[Callable[[], Server]]:
    """Starts one of the test's own; nothing of it is left at the end."""
    started: list[Server] = []

    def start() -> Server:
        chosen = options(folder)
        started.append(start_server(mounts=chosen.mounts, args=chosen.args))
        return started[-1]

    yield start
    for server in started:
        server.daemon.kill()


def test_it_says_once_that_it_is_ready_and_all_workers_serve(cluster: Server) -> None:
    """The line of a worker does not show; by the time of the line the workers have seats, and they stay."""
    assert cluster.log.count("jetbridge ready") == 1
    first = serving(cluster)
    assert len(first) == WORKERS
    assert len(children(cluster)) == WORKERS
    time.sleep(1)
    assert serving(cluster) == first
    assert named_first(cluster.client, DATA) == first


def test_what_it_serves_is_whole(cluster: Server) -> None:
    """Every worker gives a part."""
    got = read(cluster.flight_uri, DATA)
    assert_same(got.table, files.numbers(FILES * ROWS))
    assert got.failures == 0
    assert set(got.served_by) == serving(cluster)


def test_workers(cluster: Server) -> None:
    """As a table and as JSON; coordinators only when asked for."""
    members = act(cluster.client, "cluster.members", {})["members"]
    said = as_json(cluster, "workers")
    assert {member["id"] for member in said} == {one["id"] for one in members if one["role"] == "worker"}
    assert [member["state"] for member in said] == ["serving"] * WORKERS
    assert sum(member["share"] for member in said) == pytest.approx(1)
    assert {member["id"] for member in as_json(cluster, "workers", "--all")} == {one["id"] for one in members}
    head, *lines = as_table(cluster, "workers")
    assert head.split() == ["ID", "ROLE", "STATE", "ADDRESS", "WEIGHT", "SEAT", "SHARE"]
    assert len(lines) == WORKERS
    for line, member in zip(sorted(lines), sorted(said, key=lambda one: one["id"]), strict=True):
        assert line.split()[:4] == [member["id"], "worker", "serving", member["address"]]
        assert line.split()[-3:] == ["yes", "33.3", "%"]


def test_locate(cluster: Server) -> None:
    """Each split with its owner, as FlightInfo names them; a path that is not there is an error."""
    said = as_json(cluster, "locate", DATA)
    assert said["path"] == DATA
    assert [split["path"] for split in said["splits"]] == [f"{DATA}/part-{at:06}.parquet" for at in range(FILES)]
    assert {split["owners"][0]["address"] for split in said["splits"]} == serving(cluster)
    assert sum(split["rows"] for split in said["splits"]) == FILES * ROWS
    assert {split["owners"][0]["id"] for split in said["splits"]} == {
        ids[0] for ids in owners(cluster.client, DATA).of.values()
    }
    head, *lines = as_table(cluster, "locate", DATA)
    assert head.split() == ["PATH", "ROW", "GROUPS", "ROWS", "BYTES", "OWNERS"]
    for line, split in zip(lines, said["splits"], strict=True):
        assert line.split()[0] == split["path"]
        assert line.split()[-1] == split["owners"][0]["address"]
    missing = cluster.cli("locate", "/none")
    assert missing.returncode == 1
    assert b"/none" in missing.stderr


def test_status(cluster: Server) -> None:
    """It tells the epoch, the number of workers, and that the metadata store is there."""
    said = as_json(cluster, "status")
    members = act(cluster.client, "cluster.members", {})
    assert said["workers"] == WORKERS
    assert said["epoch"] == members["epoch"] > 0
    assert said["node"] == members["node"]
    assert (said["role"], said["metadata_store"]) == ("coordinator", "reachable")
    rows = dict(line.split(maxsplit=1) for line in as_table(cluster, "status") if len(line.split(maxsplit=1)) == 2)
    assert rows["workers"] == str(WORKERS)
    assert rows["role"] == "coordinator"


def test_a_killed_worker_is_not_missed(start_cluster: Callable[[], Server]) -> None:
    """kill -9 of one worker: reads go on, and the server too."""
    server = start_cluster()
    os.kill(sorted(children(server))[0], signal.SIGKILL)
    got = read(server.flight_uri, DATA)
    assert_same(got.table, files.numbers(FILES * ROWS))
    until(lambda: len(serving(server)) == WORKERS - 1, "the loss is noticed")
    assert server.stop() == 0


def test_a_kill_of_the_server_leaves_nothing_behind(start_cluster: Callable[[], Server]) -> None:
    """Of the parent alone; a stream is open."""
    server = start_cluster()
    workers = children(server)
    assert len(workers) == WORKERS
    endpoint = info(server.client, DATA).endpoints[0]
    assert locations(endpoint)
    reader = server.client.do_get(endpoint.ticket)
    os.kill(server.daemon.pid, signal.SIGKILL)
    gone_s = until(lambda: not any(is_alive(pid) for pid in workers), "the workers end", GONE_S)
    print(f"nothing was left {gone_s:.1f} s after the kill")
    del reader


def test_sigterm_ends_all(start_cluster: Callable[[], Server]) -> None:
    """Exit code 0, of the workers too, and none of them outlives the server by much."""
    server = start_cluster()
    workers = children(server)
    assert len(workers) == WORKERS
    began = time.monotonic()
    assert server.stop() == 0
    until(lambda: not any(is_alive(pid) for pid in workers), "the workers end", GONE_S)
    print(f"all had ended {time.monotonic() - began:.1f} s after SIGTERM")
    # Each says so itself, as its last word.
    assert server.log.count("serve: stopped") == 1 + WORKERS, server.daemon.log_tail


def test_cache_folders_are_the_workers(start_server: Callable[..., Server], folder: Path, tmp_path: Path) -> None:
    """Each worker has a part of each folder, and the server, which owns nothing, none of it."""
    args = ["--workers", "2", "--cache-dir", f"{tmp_path / 'ssd'}=64MiB"]
    server = start_server(mounts={DATA: f"file://{folder}"}, args=args)
    assert_same(read(server.flight_uri, DATA).table, files.numbers(FILES * ROWS))
    assert {found.name for found in (tmp_path / "ssd").iterdir()} == {"worker-1", "worker-2"}
    for data in (server.data_dir, server.data_dir / "workers/1", server.data_dir / "workers/2"):
        assert not (data / "cache").exists()


def test_workers_are_on_the_etcd_of_their_server(
    start_server: Callable[..., Server], folder: Path, etcd: Etcd, tmp_path: Path
) -> None:
    """A server on etcd serves no store of its own, so its workers are told of etcd and not of it."""
    meta = f"etcd://127.0.0.1:{etcd.port}/{tmp_path.name.replace('_', '-')}"
    server = start_server(mounts={DATA: f"file://{folder}"}, args=["--workers", "2", "--meta", meta])
    until(lambda: len(serving(server)) == 2, "both workers serve")
    assert_same(read(server.flight_uri, DATA).table, files.numbers(FILES * ROWS))


def options(folder: Path) -> Options:
    """A server with workers, and the files."""
    return Options(mounts={DATA: f"file://{folder}"}, args=["--workers", str(WORKERS)])


def serving(server: Server) -> set[str]:
    """Addresses of the workers that serve."""
    members = act(server.client, "cluster.members", {})["members"]
    return {one["address"] for one in members if one["role"] == "worker" and one["state"] == "serving"}


def children(server: Server) -> set[int]:
    """The processes that it has started and that run."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (stat := stat_of(int(folder.name))) and int(stat[1]) == server.daemon.pid:
            found.add(int(folder.name))
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be buried does not."""
    stat = stat_of(pid)
    return bool(stat) and stat[0] not in "ZX"


def stat_of(pid: int) -> list[str]:
    """State, parent and so on; empty of a process that is not there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def as_json(server: Server, *args: str) -> Any:
    """What a command says as JSON."""
    done = server.cli(*args, "-o", "json")
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def as_table(server: Server, *args: str) -> list[str]:
    """The lines of what a command says."""
    done = server.cli(*args)
    assert done.returncode == 0, done.stderr.decode()
    return [line for line in done.stdout.decode().splitlines() if line.strip()]
