"""Who may be part of a cluster: one process under an identity, none with another key, and none by wrong words."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from harness import files, metrics
from harness.cluster import Cluster, Node, until
from harness.errors import expect_error
from harness.members import asked, epoch, members, seats
from harness.ports import free_port
from harness.server import run_cli
from harness.steady import SteadyReads, make_lake

KEY = "a key of a cluster, of no other one"
OTHER_KEY = "another key, of the same length, too"
KEY_SETTING = ["--cluster-key", "env:CLUSTER_KEY"]
# The predecessor's lease (6 s) and a second are waited for.
DUPLICATE_WITHIN_S = 30.0
# Whoever is refused need not be waited for.
REFUSED_WITHIN_S = 15.0
# How long a node that starts waits for a metadata store that does not answer.
PATIENCE_S = 60.0
PASS_HEADER = b"x-jetbridge-cluster"
NODE_CALLS: dict[str, Any] = {
    "peer.pages": {
        "uri": "file:///a",
        "generation": "etag:a",
        "size": 1,
        "start": 0,
        "end": 1,
        "read_through": False,
        "holders": [],
    },
    "peer.footers": {"files": [{"uri": "file:///a", "generation": "etag:a", "size": 1}]},
    "peer.known": {"files": []},
    "peer.residency": {"tickets": []},
    "meta.call": {"cluster": None, "operation": {"get": {"key": "cluster/id"}}},
    "meta.watch": {"cluster": None, "prefix": "nodes/"},
}


@dataclass
class Open:
    """A cluster without a key, and what it serves at /lake."""

    cluster: Cluster
    expected: pa.Table

    def sight(self) -> list[tuple[int, set[str]]]:
        """Epoch and seats, as each node sees them."""
        return [(epoch(node), seats(node)) for node in self.cluster.nodes]


@pytest.fixture(scope="module")
def open_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    folder = tmp_path_factory.mktemp("open")
    expected = make_lake(folder / "files/lake")
    cluster = Cluster.start(folder, {"/lake": f"file://{folder}/files/lake"}, workers=2)
    yield Open(cluster, expected)
    cluster.close()


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with a key, that says all that it can in its logs."""
    folder = tmp_path_factory.mktemp("keyed")
    files.write(folder / "lake/a.parquet", files.numbers(5))
    env = {"CLUSTER_KEY": KEY}
    shared = [*KEY_SETTING, "--log", "trace"]
    coordinator = Node(folder / "coordinator", "coordinator", ["--mount", f"/lake=file://{folder}/lake", *shared], env)
    cluster = Cluster(folder, coordinator)
    joined = ["--coordinator", coordinator.uri, "--memory", "512MiB", *shared]
    cluster.workers.append(Node(folder / "worker-1", "worker", joined, env))
    cluster.wait_for_seats(1)
    yield cluster
    cluster.close()


def copy_data(node: Node, target: Path) -> None:
    """A copy of a node's data folder as it is, but for its sockets."""

    def special(folder: str, names: list[str]) -> set[str]:
        return {name for name in names if not ((path := Path(folder) / name).is_file() or path.is_dir())}

    target.mkdir(parents=True)
    shutil.copytree(node.folder / "data", target / "data", ignore=special)


def ends(node: Node, within_s: float) -> tuple[int, str, float]:
    """Exit code and words of a node that does not come up, and how long it took."""
    began_s = time.monotonic()
    code = node.daemon.wait(within_s)
    node.daemon.close()
    took_s = time.monotonic() - began_s
    print(f"{node.folder.name}: exit code {code} after {took_s:.1f} s: {last_line(node)}")
    return code, node.daemon.log, took_s


def last_line(node: Node) -> str:
    """The last that a node said."""
    return (node.daemon.log.strip().splitlines() or [""])[-1]


def second_of(first: Node, folder: Path) -> Node:
    """A second process under the identity of the first, whose data folder was copied."""
    return Node(folder, first.role, first.args, first.env, wait=False)


def assert_refused_as_duplicate(second: Node, first: Node) -> None:
    """It ends, and says that another process of its id is there."""
    code, said, _ = ends(second, DUPLICATE_WITHIN_S)
    assert code == 1
    assert f"is running as node {first.id}" in said


def test_a_copy_of_a_running_workers_folder_is_refused(open_cluster: Open, tmp_path: Path) -> None:
    """And the first is not disturbed: its seat, its lease, what it serves."""
    first = open_cluster.cluster.workers[0]
    before = open_cluster.sight()
    since_s = members(open_cluster.cluster.coordinator)[first.id]["since_s"]
    copy_data(first, tmp_path / "copy")
    began_s = time.monotonic()
    with SteadyReads(open_cluster.cluster.nodes, "/lake", open_cluster.expected):
        assert_refused_as_duplicate(second_of(first, tmp_path / "copy"), first)
    assert first.is_running()
    assert "lapsed" not in first.daemon.log
    assert open_cluster.sight() == before
    member = members(open_cluster.cluster.coordinator)[first.id]
    assert member["state"] == "serving"
    assert member["address"] == first.uri
    # Nobody took it for another process, not for a moment.
    assert member["since_s"] >= since_s + (time.monotonic() - began_s) - 1


def test_of_two_copies_of_a_stopped_folder_the_first_lives(open_cluster: Open, tmp_path: Path) -> None:
    worker = open_cluster.cluster.add_worker()
    open_cluster.cluster.wait_for_seats(3)
    assert worker.stop() == 0
    copy_data(worker, tmp_path / "copy")
    worker.start()
    second = second_of(worker, tmp_path / "copy")
    assert_refused_as_duplicate(second, worker)
    assert worker.is_running()
    assert members(open_cluster.cluster.coordinator)[worker.id]["address"] == worker.uri


def test_of_two_that_start_at_once_one_lives(open_cluster: Open, tmp_path: Path) -> None:
    worker = open_cluster.cluster.add_worker()
    assert worker.stop() == 0
    copy_data(worker, tmp_path / "copy")
    worker.launch()
    second = second_of(worker, tmp_path / "copy")
    try:
        until(lambda: not (worker.is_running() and second.is_running()), "one ends", DUPLICATE_WITHIN_S)
        loser, winner = (worker, second) if second.is_running() else (second, worker)
        assert_refused_as_duplicate(loser, winner)
        winner.wait_until_ready()
        assert members(open_cluster.cluster.coordinator)[winner.id]["address"] == winner.uri
    finally:
        second.kill()
        open_cluster.cluster.workers.remove(worker)
        if worker.is_running():
            worker.kill()


def test_a_process_whose_identity_was_taken_while_it_stood_still_ends(open_cluster: Open, tmp_path: Path) -> None:
    worker = open_cluster.cluster.add_worker()
    open_cluster.cluster.workers.remove(worker)
    before = seats(open_cluster.cluster.coordinator)
    assert worker.id in before
    worker.freeze()
    copy_data(worker, tmp_path / "copy")
    second = second_of(worker, tmp_path / "copy")
    try:
        second.wait_until_ready()
        worker.thaw()
        code, said, _ = ends(worker, DUPLICATE_WITHIN_S)
        assert code == 1
        assert "has taken this node's identity" in said
        assert second.is_running()
        assert members(open_cluster.cluster.coordinator)[second.id]["address"] == second.uri
        assert seats(open_cluster.cluster.coordinator) == before
    finally:
        worker.kill()
        second.kill()


@pytest.mark.parametrize("key", [OTHER_KEY, None], ids=["other key", "no key"])
def test_a_worker_without_the_clusters_key_is_refused(keyed: Cluster, tmp_path: Path, key: str | None) -> None:
    setting = KEY_SETTING if key else []
    env = {"CLUSTER_KEY": key} if key else {}
    args = ["--coordinator", keyed.coordinator.uri, *setting]
    node = Node(tmp_path / "stranger", "worker", args, env, wait=False)
    code, said, took_s = ends(node, PATIENCE_S + REFUSED_WITHIN_S)
    assert code == 1
    assert "--cluster-key" in last_line(node)
    assert KEY not in said
    assert OTHER_KEY not in said
    assert len(members(keyed.coordinator)) == 2
    assert took_s < REFUSED_WITHIN_S, "it waited for a cluster that had answered"


def test_a_worker_with_a_key_is_refused_where_there_is_none(open_cluster: Open, tmp_path: Path) -> None:
    before = set(members(open_cluster.cluster.coordinator))
    args = ["--coordinator", open_cluster.cluster.coordinator.uri, *KEY_SETTING]
    node = Node(tmp_path / "stranger", "worker", args, {"CLUSTER_KEY": KEY}, wait=False)
    code, said, _ = ends(node, REFUSED_WITHIN_S)
    assert code == 1
    assert "--cluster-key" in last_line(node)
    assert KEY not in said
    assert set(members(open_cluster.cluster.coordinator)) == before


def called(node: Node, action: str, shown: bytes | None) -> list[bytes]:
    """The answer to a call of the nodes, up to its first part, with this pass."""
    headers = [] if shown is None else [(PASS_HEADER, shown)]
    options = flight.FlightCallOptions(timeout=20, headers=headers)
    body = json.dumps(NODE_CALLS[action]).encode()
    with node.connect() as client:
        results = client.do_action(flight.Action(action, body), options)
        return [next(iter(results)).body.to_pybytes()]


def derived(key: str, label: bytes) -> bytes:
    """What is made of a cluster's key for the wire or for the store."""
    return hmac.new(key.encode(), label, hashlib.sha256).hexdigest().encode()


@pytest.mark.parametrize("action", NODE_CALLS)
def test_what_nodes_ask_each_other_nobody_else_may(keyed: Cluster, action: str) -> None:
    ours, theirs = (derived(key, b"jetbridge cluster pass 1") for key in (KEY, OTHER_KEY))
    for node in keyed.nodes:
        for shown in (None, b"", theirs, ours[:-1], ours + b"0", ours.upper(), KEY.encode()):
            with expect_error("PERMISSION_DENIED", "cluster"):
                called(node, action, shown)
    # The same call is answered where the pass is right, so it was refused for nothing else.
    assert called(keyed.coordinator, action, ours)


def test_neither_key_nor_pass_is_told(keyed: Cluster) -> None:
    secrets = [
        KEY,
        *(derived(KEY, label).decode() for label in (b"jetbridge cluster pass 1", b"jetbridge cluster check 1")),
    ]
    said = {}
    for node in keyed.nodes:
        name = node.folder.name
        env = {"CLUSTER_KEY": KEY, "JETBRIDGE_URI": node.uri}
        said[f"log of {name}"] = node.daemon.log
        said[f"metrics of {name}"] = metrics.get(f"{node.admin_uri}/metrics")[1]
        said[f"members at {name}"] = json.dumps(asked(node, "cluster.members"))
        for words in (["workers", "--all", "-o", "json"], ["status"], ["config", "show", *KEY_SETTING]):
            done = run_cli(*words, env=env)
            said[f"{words} at {name}"] = (done.stdout + done.stderr).decode()
    shown = said[f"{['config', 'show', *KEY_SETTING]} at coordinator"]
    assert "env:CLUSTER_KEY" in shown, "the setting itself is not shown"
    assert all(len(text) > 100 for text in said.values()), {name: len(text) for name, text in said.items()}
    # Every frame that was sent or came is in a trace, its headers too.
    assert all(len(node.daemon.log) > 100_000 for node in keyed.nodes), "the logs are no traces"
    print({name: len(text) for name, text in said.items()})
    for name, text in said.items():
        for secret in secrets:
            assert secret not in text, f"{name} has {secret[:6]}..."


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port where connections are taken and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


@pytest.fixture(params=["nobody", "silence"])
def deaf_port(request: pytest.FixtureRequest, silent_port: int) -> int:
    """A port where no coordinator answers."""
    return free_port() if request.param == "nobody" else silent_port


def waiting_worker(folder: Path, port: int) -> Node:
    """A worker that has said that it waits for its coordinator."""
    worker = Node(folder, "worker", ["--coordinator", f"grpc://127.0.0.1:{port}"], wait=False)
    said_s = until(lambda: "waiting for the metadata store" in worker.daemon.log, "it says that it waits", 10)
    print(f"says that it waits after {said_s:.1f} s")
    return worker


def test_a_worker_waits_for_its_coordinator_and_can_be_stopped(tmp_path: Path, deaf_port: int) -> None:
    worker = waiting_worker(tmp_path / "worker", deaf_port)
    assert worker.stop() == 0


def test_a_worker_that_is_started_first_joins(tmp_path: Path) -> None:
    port = free_port()
    worker = waiting_worker(tmp_path / "worker", port)
    coordinator = Node(tmp_path / "coordinator", "coordinator", [], port=port)
    began_s = time.monotonic()
    try:
        worker.wait_until_ready()
        until(lambda: seats(coordinator) == {worker.id}, "it has a seat")
        print(f"joined {time.monotonic() - began_s:.1f} s after its coordinator was there")
    finally:
        worker.kill()
        coordinator.kill()


@pytest.mark.long
def test_a_worker_without_a_coordinator_ends(tmp_path: Path, deaf_port: int) -> None:
    worker = waiting_worker(tmp_path / "worker", deaf_port)
    code, _, took_s = ends(worker, PATIENCE_S + 20)
    assert code == 1
    assert took_s > PATIENCE_S - 15
    assert f"grpc://127.0.0.1:{deaf_port} could not be reached within 60 s" in last_line(worker)


@pytest.mark.parametrize(
    ("words", "help_words"),
    [
        (["worker"], "--coordinator grpc://HOST:PORT.*--meta etcd://HOST:PORT"),
        (["serve", "--coordinator", "grpc://127.0.0.1:1"], "--coordinator is for workers"),
        (["coordinator", "--meta", "redis://127.0.0.1:1"], "embedded or etcd://"),
        (["worker", "--meta", "redis://127.0.0.1:1"], "embedded or etcd://"),
        (["worker", "--coordinator", "grpc://127.0.0.1:1", "--meta", "etcd://127.0.0.1:2"], "leave out one"),
        (["worker", "--coordinator", "grpc://127.0.0.1:1", "--weight", "0"], "owns nothing.*give it a size"),
        (["serve", "--workers", "2", "--weight", "1GiB"], "--weight: weight: .*count alike"),
        (["serve", "--advertise", "node-1"], "write HOST:PORT"),
        (["worker", "--coordinator", "grpc://127.0.0.1:1", "--advertise", "grpc+tls://node-1:1"], "write HOST:PORT"),
        (["worker", "--coordinator", "127.0.0.1:1"], "write grpc://HOST:PORT"),
        (["worker", "--coordinator", "grpc://127.0.0.1:1", "--member-grace", "0s"], "1s to"),
        (["worker", "--coordinator", "grpc://127.0.0.1:1", "--cluster-key", KEY], "env:NAME"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words(tmp_path: Path, words: list[str], help_words: str) -> None:
    done = run_cli(*words, "--data-dir", tmp_path / "data", "--flight", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    said = done.stderr.decode()
    assert KEY not in said
    assert re.search(help_words, said), said
    assert done.returncode == 2, said


@pytest.mark.parametrize("key", ["short", None], ids=["short", "missing"])
def test_a_key_that_is_none(tmp_path: Path, key: str | None) -> None:
    """Too short to be one, or not there at all: told at once, and not itself."""
    env = {"CLUSTER_KEY": key} if key else {}
    words = ["coordinator", "--data-dir", tmp_path / "data", "--flight", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    done = run_cli(*words, *KEY_SETTING, env=env)
    assert done.returncode == 1
    assert b"key" in done.stderr
    assert b"short" not in done.stderr
