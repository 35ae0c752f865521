"""One namespace on all nodes: a mount made or removed on any of them, and a refresh asked of one, are seen on all of
them within a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from harness import files
from harness.cluster import Cluster, Node, info, read, until
from harness.compare import assert_same
from harness.errors import expect_error
from harness.flight import act, mount, mounts
from harness.flight import read as read_here

WORKERS = 3
# With room for a busy machine.
SEEN_S = 6.0
# The coordinator and two of the workers make changes.
MAKERS = (0, 1, 3)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all nodes may mount."""
    return tmp_path_factory.mktemp("mounts")


@pytest.fixture(scope="module")
def cluster(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Nothing is mounted at first."""
    roots = ["--file-root", str(root)]
    with Cluster.start(tmp_path_factory.mktemp("cluster"), {}, WORKERS, args=roots, worker_args=roots) as running:
        yield running


@pytest.mark.parametrize("maker", MAKERS)
def test_a_mount_is_seen_and_goes_everywhere_within_a_second(cluster: Cluster, root: Path, maker: int) -> None:
    """Made, read through every node, and removed, at one node."""
    path, folder = f"/made-at-{maker}", root / f"made-at-{maker}"
    expected = files.write_many(folder, 12)
    with cluster.nodes[maker].connect() as client:
        mount(client, path, f"file://{folder}")
        seen_s = seconds_until_everywhere(cluster, lambda node: path in mounted(node))
        for node in cluster.nodes:
            assert_same(read(node.uri, path).table, expected)
        act(client, "mount.remove", {"path": path})
    gone_s = seconds_until_everywhere(cluster, lambda node: path not in mounted(node))
    print(f"at {cluster.nodes[maker].folder.name}: seen everywhere after {seen_s:.3f} s, gone after {gone_s:.3f} s")
    for node in cluster.nodes:
        with node.connect() as client, expect_error("NOT_FOUND", path):
            read_here(client, path)


@pytest.mark.parametrize("maker", MAKERS)
def test_a_refresh_is_heard_everywhere_within_a_second(cluster: Cluster, root: Path, maker: int) -> None:
    """Files that never change, by their mount, are overwritten and added to; nobody looks until one node is told to."""
    path, folder = f"/refreshed-at-{maker}", root / f"refreshed-at-{maker}"
    old = files.write_many(folder, 12)
    with cluster.nodes[maker].connect() as client:
        mount(client, path, f"file://{folder}", freshness="immutable")
        seconds_until_everywhere(cluster, lambda node: path in mounted(node))
        for node in cluster.nodes:
            assert_same(read(node.uri, path).table, old)
        new = overwrite(folder)
        for node in cluster.nodes:
            assert rows(node, path) == old.num_rows, f"{node.folder.name} looked though it was not told to"
        act(client, "dataset.refresh", {"path": path})
    seen_s = seconds_until_everywhere(cluster, lambda node: rows(node, path) == new.num_rows)
    print(f"at {cluster.nodes[maker].folder.name}: the refresh was heard everywhere after {seen_s:.3f} s")
    for node in cluster.nodes:
        assert_same(read(node.uri, path).table, new)


def test_two_nodes_cannot_mount_at_one_path(cluster: Cluster, root: Path) -> None:
    """The later one is refused, whichever node it asks."""
    files.write_many(root / "twice", 2)
    with cluster.workers[0].connect() as one, cluster.workers[1].connect() as other:
        mount(one, "/twice", f"file://{root / 'twice'}")
        with expect_error("ALREADY_EXISTS"):
            mount(other, "/twice", f"file://{root}")
        act(other, "mount.remove", {"path": "/twice"})


def overwrite(folder: Path) -> pa.Table:
    """Other rows in every file, and one file more; the folder's rows then."""
    for file in folder.iterdir():
        file.unlink()
    files.write_many(folder, 13, rows=20)
    return files.numbers(13 * 20)


def mounted(node: Node) -> set[str]:
    """The paths that a node has mounts at."""
    with node.connect() as client:
        return set(mounts(client))


def rows(node: Node, path: str) -> int:
    """How many rows a node plans."""
    with node.connect() as client:
        return int(info(client, path).total_records)


def seconds_until_everywhere(cluster: Cluster, condition: Callable[[Node], bool]) -> float:
    """Until it holds at all nodes; fails where that takes too long."""
    return until(lambda: all(condition(node) for node in cluster.nodes), "every node has heard of it", SEEN_S)
