"""A worker that no longer reaches the registry, its coordinator or etcd, while everybody reaches everybody else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from harness import files
from harness.cluster import Cluster, Node, until
from harness.errors import expect_error
from harness.etcd_cluster import EtcdCluster
from harness.flight import descriptor, fetch_ticket
from harness.members import (
    agree,
    asked,
    epoch,
    members,
    mounted,
    named,
    reaches_store,
    seats,
    state,
    wait_for_seats,
)
from harness.shaping import Shaper
from harness.steady import SteadyReads, make_lake, refused

CUT_S, LONG_CUT_S = 9.0, 15.0
# The others no longer name who is cut, within this.
NOTICED_WITHIN_S = 30.0
HEALED_WITHIN_S = 30.0
SHORT_GRACE = "2s"
# The cut worker is the last of so many.
WORKERS = 3
REGISTRIES = ["coordinator", "etcd"]


@dataclass
class Split:
    """A cluster, one of whose workers reaches the registry by a way that can be cut."""

    cluster: Cluster | EtcdCluster
    way: Shaper
    far: Node
    expected: pa.Table

    @property
    def near(self) -> list[Node]:
        return [node for node in self.cluster.nodes if node is not self.far]

    @property
    def nodes(self) -> list[Node]:
        return [*self.near, self.far]

    def reads(self) -> SteadyReads:
        """Reads by clients of both sides."""
        return SteadyReads(self.nodes, "/lake", self.expected)

    def is_named(self) -> bool:
        """Whether any of the others names the cut worker, first or as one of several."""
        return any(self.far.uri in named(node, "/lake") for node in self.near)

    def close(self) -> None:
        self.cluster.close()
        self.way.stop()


def split_cluster(folder: Path, registry: str, request: pytest.FixtureRequest, args: list[str]) -> Split:
    """A cluster of three workers, all seated, the last of them behind a way of its own."""
    expected = make_lake(folder / "files/lake")
    files.write(folder / "files/spare/a.parquet", files.numbers(3))
    mounts = {"/lake": f"file://{folder}/files/lake"}
    args = [*args, "--file-root", str(folder / "files")]
    cluster: Cluster | EtcdCluster
    if registry == "etcd":
        etcd = request.getfixturevalue("etcd")
        name = folder.name.replace("_", "-")
        cluster = EtcdCluster.start(folder, etcd, name, mounts, coordinators=1, workers=WORKERS - 1, args=args)
        way = Shaper.near(etcd.port, folder / "way.log")
        far = cluster.node("worker", WORKERS, ["--memory", "512MiB"], port=way.port)
    else:
        cluster = Cluster.start(folder, mounts, WORKERS - 1, args, args)
        way = Shaper.near(cluster.coordinator.port, folder / "way.log")
        joined = ["--coordinator", f"grpc://127.0.0.1:{way.port}", "--memory", "512MiB", *args]
        far = Node(folder / "worker-far", "worker", joined)
    cluster.workers.append(far)
    wait_for_seats(cluster.nodes, WORKERS)
    return Split(cluster, way, far, expected)


@pytest.fixture(scope="module", params=REGISTRIES)
def split(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Split]:
    """A cluster with the default grace, which no test here outlasts."""
    running = split_cluster(tmp_path_factory.mktemp("split"), request.param, request, [])
    yield running
    running.close()


@pytest.fixture(params=REGISTRIES)
def impatient(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Split]:
    """A cluster that gives a lost worker's seat away soon."""
    folder = tmp_path_factory.mktemp("impatient")
    running = split_cluster(folder, request.param, request, ["--member-grace", SHORT_GRACE])
    yield running
    running.close()


def cut_for(split: Split, cut_s: float) -> None:
    """The promises of a partition that is shorter than the grace."""
    before = [(epoch(node), seats(node)) for node in split.nodes]
    assert split.far.uri in named(split.near[0], "/lake")
    with split.reads() as reads:
        split.way.cut()
        cut_at_s = time.monotonic()
        try:
            noticed_s = until(lambda: not split.is_named(), "the others name others", NOTICED_WITHIN_S)
            while time.monotonic() - cut_at_s < cut_s:
                served_by(split.far, split)
                assert not split.is_named()
            refused(split.far, {"dataset.refresh": {"path": "/lake"}})
            assert not reaches_store(split.far)
            assert all(map(reaches_store, split.near))
            assert state(split.near[0], split.far.id) == "lost"
            assert [(epoch(node), seats(node)) for node in split.nodes] == before
            made_meanwhile = asked(split.near[0], "mount.add", mount_body(split))
        finally:
            split.way.heal()
        healed_at_s = time.monotonic()
        until(lambda: split.far.uri in named(split.near[0], "/lake"), "it is named again", HEALED_WITHIN_S)
        named_s = time.monotonic() - healed_at_s
        until(lambda: "/meanwhile" in mounted(split.far), "it hears of the mount", HEALED_WITHIN_S)
        heard_s = time.monotonic() - healed_at_s
    asked(split.near[0], "mount.remove", {"path": "/meanwhile"})
    assert made_meanwhile is not None
    assert sum(reads.done.values()) > 0
    assert [(epoch(node), seats(node)) for node in split.nodes] == before
    assert agree(split.nodes, "/lake")
    print(f"not named after {noticed_s:.1f} s; healed: named after {named_s:.1f} s, heard after {heard_s:.1f} s")


def mount_body(split: Split) -> dict[str, Any]:
    """A mount that is made while one node hears nothing."""
    return {"path": "/meanwhile", "uri": f"file://{split.cluster.folder}/files/spare"}


def served_by(node: Node, split: Split) -> None:
    """A node serves the tickets of each of the others, all of them."""
    for other in split.nodes:
        assert redeemed(tickets(other), node).equals(split.expected), f"tickets of {other.folder.name}"


def tickets(node: Node) -> list[flight.Ticket]:
    """Tickets for all of the dataset, of one node."""
    with node.connect() as client:
        return [endpoint.ticket for endpoint in client.get_flight_info(descriptor("/lake")).endpoints]


def redeemed(asked_for: list[flight.Ticket], node: Node) -> pa.Table:
    """What a node gives for tickets."""
    with node.connect() as client:
        return pa.concat_tables(fetch_ticket(client, ticket) for ticket in asked_for)


def test_a_worker_is_cut_off_for_a_moment(split: Split) -> None:
    cut_for(split, CUT_S)


@pytest.mark.long
def test_a_worker_is_cut_off_for_longer(split: Split) -> None:
    cut_for(split, LONG_CUT_S)


def test_a_worker_is_cut_off_for_longer_than_the_grace(impatient: Split) -> None:
    """The epoch moves on without it; tickets of both epochs are served by everybody; it comes back to a seat."""
    split = impatient
    assert agree(split.nodes, "/lake")
    old_epoch, old = epoch(split.far), tickets(split.near[0])
    with split.reads():
        split.way.cut()
        cut_at_s = time.monotonic()
        try:
            until(lambda: all(len(seats(node)) == WORKERS - 1 for node in split.near), "its seat is given away")
            moved_s = time.monotonic() - cut_at_s
            new_epoch = epoch(split.near[0])
            assert agree(split.near, "/lake")
            assert new_epoch > old_epoch
            assert epoch(split.far) == old_epoch
            assert len(seats(split.far)) == WORKERS
            assert split.far.uri not in named(split.near[0], "/lake")
            kept = {"before the cut": old, "the new epoch": tickets(split.near[0]), "the old one": tickets(split.far)}
            for name, given in kept.items():
                for node in split.nodes:
                    assert redeemed(given, node).equals(split.expected), f"tickets of {name} at {node.folder.name}"
        finally:
            split.way.heal()
        healed_at_s = time.monotonic()
        until(lambda: all(len(seats(node)) == WORKERS for node in split.nodes), "it has a seat again")
        seated_s = time.monotonic() - healed_at_s
        until(lambda: agree(split.nodes, "/lake"), "all agree")
        agreed_s = time.monotonic() - healed_at_s
        for name, given in kept.items():
            for node in split.nodes:
                assert redeemed(given, node).equals(split.expected), f"tickets of {name} at {node.folder.name}, healed"
    print(f"epoch {old_epoch} -> {new_epoch} after {moved_s:.1f} s -> {epoch(split.far)}")
    print(f"healed: seated after {seated_s:.1f} s, agreed after {agreed_s:.1f} s")
    assert all(member["state"] == "serving" for node in split.nodes for member in members(node).values())


def test_a_changed_ticket_is_refused_on_both_sides(split: Split) -> None:
    """So that a ticket that is served is one that was looked at."""
    given = tickets(split.far)[0].ticket
    for node in split.nodes:
        with expect_error("UNAUTHENTICATED"):
            redeemed([flight.Ticket(given[:-1] + bytes([given[-1] ^ 1]))], node)
