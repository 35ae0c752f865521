"""Pins: what is pinned outlives restarts and floods of other data, what does not fit is refused with figures, and all
nodes of a cluster say the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight
import pytest

from harness import files, jobs
from harness.cluster import Cluster, read, until
from harness.compare import assert_same
from harness.errors import expect_error
from harness.flight import act, by_path, fetch, mount
from harness.metrics import total
from harness.server import Options, Server, run_cli

MIB = 1 << 20
# Of one dataset; they do not compress, so as much decoded as stored.
DATASET_BYTES = 4 * MIB
GROUP_ROWS = 64 << 10
# Together many times what the tiers of the servers here hold.
FLOOD_DATASETS = 24
FLOOD_ROUNDS = 3
DISK_BYTES = 32 * MIB
WORKERS = 3
SEEN_S = 10.0
HASTY_ROUNDS = 25


def rows(seed: int) -> pa.Table:
    """Random numbers, others for each seed."""
    random = np.random.default_rng(seed)
    return pa.table({"n": random.integers(0, 2**62, DATASET_BYTES // 8)})


def write(folder: Path, seed: int) -> None:
    files.write(folder / "a.parquet", rows(seed), row_group_size=GROUP_ROWS, compression="none", use_dictionary=False)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two datasets that are looked at, and many beside them."""
    folder = tmp_path_factory.mktemp("pins") / "lake"
    for seed, name in enumerate(("kept", "loose", *(f"flood/{number}" for number in range(FLOOD_DATASETS)))):
        write(folder / name, seed)
    for node in range(WORKERS + 1):
        # All of them fit any worker.
        files.write(folder / f"small/{node}/a.parquet", rows(0).slice(node, 10))
    return folder


@pytest.fixture
def start(start_server: Callable[..., Server], lake: Path, tmp_path: Path) -> Callable[..., Server]:
    """Starts a server whose tiers hold a few of the datasets; again in the same folder when called again."""

    def begin() -> Server:
        tiers = ["--cache-dir", f"{tmp_path}/pages={DISK_BYTES}", "--memory", "96MiB"]
        return start_server(mounts={"/lake": f"file://{lake}"}, args=tiers)

    return begin


def pin(client: flight.FlightClient, path: str, **options: str) -> dict[str, Any]:
    return act(client, "cache.pin", {"path": path, **options})


def unpin(client: flight.FlightClient, path: str) -> dict[str, Any]:
    return act(client, "cache.unpin", {"path": path})


def pins(client: flight.FlightClient) -> list[dict[str, Any]]:
    return list(act(client, "cache.pins", {})["pins"])


def held(server: Server, path: str) -> tuple[int, int]:
    """Raw and decoded bytes that are held of a path."""
    said = act(server.client, "cache.stat", {"path": path})
    return said["raw_bytes"], said["decoded_bytes"]


def is_less(held_now: tuple[int, int], before: tuple[int, int]) -> bool:
    """Whether less is held in both tiers."""
    return held_now[0] < before[0] and held_now[1] < before[1]


def load(server: Server, path: str, seed: int) -> None:
    """Has a dataset held in both tiers. What reads alone bring may be dropped where a disk is slow."""
    jobs.preload(server.client, path, tier="both")
    assert_same(fetch(server.client, by_path(path)).table, rows(seed))
    raw, decoded = held(server, path)
    assert raw >= DATASET_BYTES
    assert decoded >= DATASET_BYTES


def flood(server: Server) -> None:
    """Reads more than the tiers hold, several times, so that it is worth more than what was read before."""
    for _ in range(FLOOD_ROUNDS):
        for number in range(FLOOD_DATASETS):
            for _ in range(2):
                fetch(server.client, by_path(f"/lake/flood/{number}"))


def asked(server: Server) -> float:
    """Bytes that the server has read from storage so far."""
    return total(server.admin_uri, "jetbridge_store_read_bytes_total")


def test_what_is_pinned_outlives_what_evicts_all_else(start: Callable[..., Server]) -> None:
    server = start()
    pinned = pin(server.client, "/lake/kept")
    assert pinned == pins(server.client)[0]
    assert (pinned["path"], pinned["tier"]) == ("/lake/kept", "both")
    assert pinned["bytes"] >= DATASET_BYTES
    assert pinned["decoded_bytes"] >= DATASET_BYTES
    load(server, "/lake/kept", 0)
    load(server, "/lake/loose", 1)
    before, loose = held(server, "/lake/kept"), held(server, "/lake/loose")
    flood(server)
    # The same without a pin goes, or this test shows nothing. What was read comes to the disk a while later.
    until(lambda: is_less(held(server, "/lake/loose"), loose), "what is not pinned goes")
    assert held(server, "/lake/kept") == before
    cost = asked(server)
    answer = fetch(server.client, by_path("/lake/kept"))
    assert_same(answer.table, rows(0))
    assert (answer.sources, asked(server)) == ({"memory"}, cost)


def test_a_pin_of_one_tier_keeps_that_tier(start: Callable[..., Server]) -> None:
    server = start()
    assert pin(server.client, "/lake/kept", tier="raw")["decoded_bytes"] == 0
    assert pin(server.client, "/lake/loose", tier="decoded")["bytes"] == 0
    load(server, "/lake/kept", 0)
    load(server, "/lake/loose", 1)
    raw, decoded = held(server, "/lake/kept")[0], held(server, "/lake/loose")[1]
    flood(server)
    until(lambda: held(server, "/lake/kept")[1] < DATASET_BYTES, "what is decoded and not pinned goes")
    until(lambda: held(server, "/lake/loose")[0] < DATASET_BYTES, "what is raw and not pinned goes")
    assert held(server, "/lake/kept")[0] == raw
    assert held(server, "/lake/loose")[1] == decoded


def test_what_is_unpinned_may_go(start: Callable[..., Server]) -> None:
    server = start()
    pin(server.client, "/lake/kept")
    load(server, "/lake/kept", 0)
    before = held(server, "/lake/kept")
    assert unpin(server.client, "/lake/kept")["path"] == "/lake/kept"
    assert pins(server.client) == []
    assert held(server, "/lake/kept") == before, "unpinned, and not freed"
    flood(server)
    until(lambda: is_less(held(server, "/lake/kept"), before), "it goes")
    with expect_error("NOT_FOUND", "/lake/kept is not pinned"):
        unpin(server.client, "/lake/kept")


def test_a_pin_outlives_restarts_and_holds_at_once(start: Callable[..., Server]) -> None:
    first = start()
    pin(first.client, "/lake/kept")
    load(first, "/lake/kept", 0)
    listed, raw = pins(first.client), held(first, "/lake/kept")[0]
    first.stop()
    second = start()
    assert pins(second.client) == listed
    assert held(second, "/lake/kept")[0] == raw
    flood(second)
    assert held(second, "/lake/kept")[0] == raw
    second.daemon.kill()
    third = start()
    assert pins(third.client) == listed


def test_what_does_not_fit_is_refused_with_figures(start: Callable[..., Server]) -> None:
    server = start()
    with expect_error("RESOURCE_EXHAUSTED", r"worker \S+ would have \d+ bytes raw .* of \d+ that it may have pinned"):
        pin(server.client, "/lake")
    assert pins(server.client) == []
    # One after the other, until it is full: what is refused is refused for those before it.
    fitted = 0
    with expect_error("RESOURCE_EXHAUSTED", r"\([1-9]\d* of them by other pins\)"):
        for number in range(FLOOD_DATASETS):
            pin(server.client, f"/lake/flood/{number}", tier="raw")
            fitted += 1
    assert DISK_BYTES // DATASET_BYTES // 2 <= fitted <= DISK_BYTES // DATASET_BYTES
    assert len(pins(server.client)) == fitted
    # What is pinned already takes no more room by a pin above or anew.
    pin(server.client, "/lake/flood/0", tier="raw")
    unpin(server.client, "/lake/flood/1")
    pin(server.client, f"/lake/flood/{fitted}", tier="raw")
    pin(server.client, f"/lake/flood/{fitted}/a.parquet", tier="raw")
    assert len(pins(server.client)) == fitted + 1


def test_what_is_pinned_is_not_freed(start: Callable[..., Server], lake: Path) -> None:
    server = start()
    load(server, "/lake/kept", 0)
    load(server, "/lake/loose", 1)
    pin(server.client, "/lake/kept", tier="raw")
    before = held(server, "/lake/kept")

    def refused(*paths: str) -> None:
        for path in paths:
            for dry_run in (False, True):
                with expect_error("FAILED_PRECONDITION", "/lake/kept is pinned; unpin it first"):
                    act(server.client, "cache.free", {"path": path, "dry_run": dry_run})

    refused("/lake/kept", "/lake/kept/a.parquet", "/lake", "/", f"file://{lake}/kept")
    assert held(server, "/lake/kept") == before
    assert act(server.client, "cache.free", {"path": "/lake/loose"})["files"] == 1
    # The same storage by another name.
    mount(server.client, "/again", f"file://{lake}/kept")
    refused("/again", "/again/a.parquet")
    unpin(server.client, "/lake/kept")
    assert held(server, "/again") == before
    act(server.client, "cache.free", {"path": "/again"})
    assert held(server, "/again") == (0, 0)


def test_a_pin_outlives_its_mount(start: Callable[..., Server], lake: Path) -> None:
    """And holds for what is mounted there later."""
    server = start()
    mount(server.client, "/later", f"file://{lake}/loose")
    pin(server.client, "/later")
    act(server.client, "mount.remove", {"path": "/later"})
    assert [one["path"] for one in pins(server.client)] == ["/later"]
    act(server.client, "cache.free", {"path": "/lake/loose"})
    mount(server.client, "/later", f"file://{lake}/kept")
    load(server, "/later", 0)
    with expect_error("FAILED_PRECONDITION", "/later is pinned"):
        act(server.client, "cache.free", {"path": "/lake/kept"})
    before = held(server, "/later")
    flood(server)
    assert held(server, "/later") == before


def test_datasets_that_are_no_table_together_are_pinned_together(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    files.write(tmp_path / "lake/a/1.parquet", files.numbers(1000))
    files.write(tmp_path / "lake/b/1.parquet", pa.table({"other": ["text"] * 1000}))
    (tmp_path / "empty").mkdir()
    server = start_server(mounts={"/lake": f"file://{tmp_path}/lake", "/empty": f"file://{tmp_path}/empty"})
    parts = [pin(server.client, path)["bytes"] for path in ("/lake/a", "/lake/b")]
    assert min(parts) > 0
    assert pin(server.client, "/lake")["bytes"] == sum(parts)
    assert pin(server.client, "/")["bytes"] == sum(parts)
    assert pin(server.client, "/empty")["bytes"] == 0


@pytest.mark.parametrize(
    ("action", "body", "kind", "word"),
    [
        ("cache.pin", {"path": "/nowhere"}, "NOT_FOUND", "/nowhere"),
        ("cache.pin", {"path": "/lake/none"}, "NOT_FOUND", "/lake/none"),
        ("cache.pin", {"path": "/lake", "tier": "tape"}, "INVALID_ARGUMENT", "tape"),
        ("cache.pin", {"path": "/lake", "columns": []}, "INVALID_ARGUMENT", "columns"),
        ("cache.pin", {}, "INVALID_ARGUMENT", "path"),
        ("cache.unpin", {"path": "/lake", "tier": "raw"}, "INVALID_ARGUMENT", "tier"),
        ("cache.unpin", {"path": "/lake"}, "NOT_FOUND", "/lake"),
        ("cache.pins", {"path": "/lake"}, "INVALID_ARGUMENT", "path"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(
    narrow: Server, action: str, body: dict[str, Any], kind: str, word: str
) -> None:
    with expect_error(kind, word):
        act(narrow.client, action, body)
    assert pins(narrow.client) == []


@pytest.fixture(scope="module")
def narrow(lake: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for what is refused."""
    server = Server(tmp_path_factory.mktemp("narrow") / "data", Options(mounts={"/lake": f"file://{lake}"}))
    yield server
    assert server.stop() == 0


def test_the_commands(start: Callable[..., Server]) -> None:
    server = start()

    def run(code: int, *args: str) -> str:
        done = server.cli(*args)
        assert done.returncode == code, (done.stdout, done.stderr)
        return (done.stdout if code == 0 else done.stderr).decode()

    assert "pinned /lake/kept" in run(0, "pin", "/lake/kept", "--tier", "raw")
    assert json.loads(run(0, "pin", "/lake/loose", "-o", "json"))["tier"] == "both"
    assert json.loads(run(0, "pin", "--list", "-o", "json")) == pins(server.client)
    lines = [line.split() for line in run(0, "pin", "--list").splitlines()]
    assert [line[:2] for line in lines] == [["PATH", "TIER"], ["/lake/kept", "raw"], ["/lake/loose", "both"]]
    refused = run(1, "pin", "/lake")
    assert re.search(r"would have \d+ bytes raw", refused)
    assert "unpin it first" in run(1, "free", "/lake/kept")
    assert "unpinned /lake/kept" in run(0, "unpin", "/lake/kept")
    assert "is not pinned" in run(1, "unpin", "/lake/kept")
    assert run_cli("pin").returncode == 2
    assert run_cli("unpin").returncode == 2


@pytest.fixture(scope="module")
def cluster(lake: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Each worker holds a few of the datasets."""
    folder = tmp_path_factory.mktemp("cluster")
    tiers = ["--memory", "64MiB", "--cache-dir", "none"]
    with Cluster.start(folder, {"/lake": f"file://{lake}"}, WORKERS, worker_args=tiers) as running:
        yield running


def test_all_nodes_know_of_a_pin(cluster: Cluster) -> None:
    """Whichever made it, and whichever removes it; a node that was away learns of it when it is back."""
    for number, maker in enumerate(cluster.nodes):
        path = f"/lake/small/{number}"
        with maker.connect() as client:
            pin(client, path)
        until(lambda path=path: all(path in listed(node) for node in cluster.nodes), "seen everywhere", SEEN_S)
    away = cluster.workers[-1]
    away.stop()
    for number, remover in enumerate(reversed(cluster.nodes[:-1])):
        with remover.connect() as client:
            unpin(client, f"/lake/small/{number}")
    away.start()
    left = f"/lake/small/{len(cluster.nodes) - 1}"
    until(lambda: all(listed(node) == [left] for node in cluster.nodes), "gone everywhere", SEEN_S)
    with cluster.nodes[0].connect() as client:
        unpin(client, left)


def test_each_worker_keeps_its_part(cluster: Cluster) -> None:
    with cluster.nodes[0].connect() as client:
        with expect_error("RESOURCE_EXHAUSTED", r"worker \S+ would have \d+ bytes decoded"):
            pin(client, "/lake", tier="decoded")
        pin(client, "/lake/kept", tier="decoded")
        until(lambda: all(listed(node) == ["/lake/kept"] for node in cluster.nodes), "seen everywhere", SEEN_S)
        for _ in range(3):
            assert_same(read(cluster.coordinator.uri, "/lake/kept").table, rows(0))
        before = act(client, "cache.stat", {"path": "/lake/kept"})["decoded_bytes"]
        assert before >= DATASET_BYTES
        for _ in range(FLOOD_ROUNDS):
            for number in range(FLOOD_DATASETS):
                read(cluster.coordinator.uri, f"/lake/flood/{number}")
        after = act(client, "cache.stat", {"path": "/lake/kept"})["decoded_bytes"]
        assert after == before
        for node in cluster.nodes:
            with node.connect() as other, expect_error("FAILED_PRECONDITION", "/lake/kept is pinned"):
                act(other, "cache.free", {"path": "/lake"})
        unpin(client, "/lake/kept")


def test_what_one_node_did_counts_at_all_of_them_at_once(cluster: Cluster) -> None:
    """Whoever pinned at one node finds it kept by all, whoever unpinned there frees it everywhere: no wait for news."""
    makers = [node.connect() for node in cluster.nodes]
    others = [*makers[1:], makers[0]]
    try:
        for maker, other in list(zip(makers, others, strict=True)) * HASTY_ROUNDS:
            pin(maker, "/lake/kept", tier="raw")
            with expect_error("FAILED_PRECONDITION", "/lake/kept is pinned"):
                act(other, "cache.free", {"path": "/lake/kept"})
            unpin(maker, "/lake/kept")
            assert act(other, "cache.free", {"path": "/lake/kept"})["path"] == "/lake/kept"
    finally:
        for client in makers:
            client.close()


def listed(node: Any) -> list[str]:
    """The paths that a node says are pinned."""
    with node.connect() as client:
        return [one["path"] for one in pins(client)]
