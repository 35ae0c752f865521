"""A cluster whose metadata is in etcd: several coordinators, etcd away, etcd emptied, two clusters in one etcd."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight
import pytest

from harness import files
from harness.cluster import Node, until
from harness.errors import expect_error
from harness.etcd import Etcd
from harness.etcd_cluster import EtcdCluster
from harness.flight import fetch_ticket
from harness.members import asked, epoch, members, mounted, reaches_store, seats
from harness.steady import SteadyReads, make_lake, refused, settled

# Longer than leases (6 s) and grace together.
AWAY_S, LONG_AWAY_S = 9.0, 30.0
GRACE = "2s"
AFTERWARDS_S = 9.0
WELL_WITHIN_S = 30.0
# A mount made on one node is seen on all in this time, with room for a busy machine.
SEEN_WITHIN_S = 6.0
FOREIGN = "metadata store does not hold the cluster"
REFUSES_WITHIN_S = 60.0
# The number of a node that does not belong to the cluster.
NEWCOMER = 99


# What is asked for in vain.
REFUSED = "/refused"


@dataclass
class Lake:
    """A cluster on an etcd, and what it serves at /lake; /spare is there to be removed."""

    cluster: EtcdCluster
    root: Path
    expected: pa.Table

    @property
    def etcd(self) -> Etcd:
        return self.cluster.etcd

    def changes(self, path: str = REFUSED) -> dict[str, Any]:
        """One change of each kind."""
        return {
            "mount.add": {"path": path, "uri": f"file://{self.root}/spare"},
            "cluster.rotate_keys": {},
            "dataset.refresh": {"path": "/lake"},
        }

    def reads(self, nodes: list[Node] | None = None) -> SteadyReads:
        """Reads through all nodes, or some."""
        return SteadyReads(nodes or self.cluster.nodes, "/lake", self.expected)

    def sight(self) -> list[tuple[int, set[str], set[str]]]:
        """Epoch, seats and mounts, as each node knows them."""
        return [(epoch(node), seats(node), mounted(node)) for node in self.cluster.nodes]


@pytest.fixture(scope="module")
def lake(frail_etcd: Etcd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """One cluster for all tests here: each leaves it as it was."""
    folder = tmp_path_factory.mktemp("on-etcd")
    expected = make_lake(folder / "files/lake")
    files.write(folder / "files/spare/a.parquet", files.numbers(3))
    mounts = {path: f"file://{folder}/files{path}" for path in ("/lake", "/spare")}
    args = ["--member-grace", GRACE, "--file-root", folder / "files"]
    cluster = EtcdCluster.start(folder, frail_etcd, "one", mounts, args=args)
    yield Lake(cluster, folder / "files", expected)
    cluster.close()


def mount_everywhere(lake: Lake, nodes: list[Node], since_s: float | None = None) -> None:
    """Each of the nodes can mount what all then see; with `since_s`, all is well soon after that moment."""
    for number, node in enumerate(nodes):
        path = f"/new-{number}"

        def can_mount(node: Node = node, path: str = path) -> bool:
            try:
                asked(node, "mount.add", lake.changes(path)["mount.add"])
            except (pa.ArrowException, OSError):
                # What was not answered may have been done.
                return path in mounted(node)
            return True

        until(can_mount, "a mount is made", WELL_WITHIN_S if since_s else 0.0)
        seen_s = until(lambda path=path: all(path in mounted(node) for node in nodes), f"{path} is seen", WELL_WITHIN_S)
        print(f"mounted at {node.folder.name}, seen by {len(nodes)} nodes after {seen_s:.2f} s")
        assert since_s is not None or seen_s < SEEN_WITHIN_S
    if since_s is not None:
        until(lambda: all(map(reaches_store, nodes)), "all reach the store", WELL_WITHIN_S)
        well_s = time.monotonic() - since_s
        print(f"all well {well_s:.1f} s after the store came back")
        assert well_s < WELL_WITHIN_S
    for number, _ in enumerate(nodes):
        asked(nodes[0], "mount.remove", {"path": f"/new-{number}"})
    until(lambda: not any("/new-0" in mounted(node) for node in nodes), "the mounts are gone")


def test_any_node_answers_and_changes(lake: Lake) -> None:
    with lake.reads():
        mount_everywhere(lake, lake.cluster.nodes)
    roles = sorted(member["role"] for member in members(lake.cluster.workers[0]).values())
    assert roles == ["coordinator", "coordinator", "worker", "worker"]


def etcd_away_for(lake: Lake, away_s: float) -> None:
    """etcd is killed, and is back after so long."""
    before = lake.sight()
    with lake.reads():
        lake.etcd.kill()
        gone_at_s = time.monotonic()
        try:
            for node in lake.cluster.nodes:
                refused(node, lake.changes())
            time.sleep(max(0.0, gone_at_s + away_s - time.monotonic()))
            assert not any(map(reaches_store, lake.cluster.nodes))
        finally:
            lake.etcd.start()
        back_at_s = time.monotonic()
        mount_everywhere(lake, lake.cluster.nodes, back_at_s)
        assert not settled(lake.cluster.nodes, REFUSED)
        time.sleep(max(0.0, back_at_s + AFTERWARDS_S - time.monotonic()))
    assert lake.sight() == before


def test_etcd_is_killed_and_comes_back(lake: Lake) -> None:
    etcd_away_for(lake, AWAY_S)


@pytest.mark.long
def test_etcd_is_away_for_long(lake: Lake) -> None:
    etcd_away_for(lake, LONG_AWAY_S)


@pytest.mark.long
def test_etcd_is_silent(lake: Lake) -> None:
    """Its connections stay, and nothing is answered."""
    before = lake.sight()
    with lake.reads():
        lake.etcd.pause()
        try:
            for node in lake.cluster.nodes:
                refused(node, lake.changes())
            assert not any(map(reaches_store, lake.cluster.nodes))
        finally:
            lake.etcd.resume()
        back_at_s = time.monotonic()
        mount_everywhere(lake, lake.cluster.nodes, back_at_s)
        settled(lake.cluster.nodes, REFUSED)
        time.sleep(AFTERWARDS_S)
    assert lake.sight() == before


def test_coordinators_are_killed_one_after_the_other(lake: Lake) -> None:
    """The other does all; without both, the workers do."""
    before = epoch(lake.cluster.workers[0]), seats(lake.cluster.workers[0])
    for left in (1, 0):
        lake.cluster.coordinators[1 - left].kill()
        rest = [*lake.cluster.coordinators[2 - left :], *lake.cluster.workers]
        with lake.reads(rest):
            mount_everywhere(lake, rest)
            time.sleep(AFTERWARDS_S)
        assert [(epoch(node), seats(node)) for node in rest] == [before] * len(rest)
    for coordinator in lake.cluster.coordinators:
        coordinator.start()
    assert [(epoch(node), seats(node)) for node in lake.cluster.nodes] == [before] * 4


def ended(node: Node) -> tuple[int, str]:
    """The exit code of a node that does not start, and what it said in this life."""
    before = len(node.daemon.log)
    node.launch()
    code = node.daemon.wait(REFUSES_WITHIN_S)
    node.daemon.close()
    return code, node.daemon.log[before:]


def test_etcd_is_restarted_empty(lake: Lake) -> None:
    """Nothing is forgotten, nothing can be changed, and all say why; with its old data all is well."""
    before = lake.sight()
    known, *others = lake.cluster.coordinators
    with lake.reads([*others, *lake.cluster.workers]):
        lake.etcd.kill()
        lake.etcd.set_aside()
        lake.etcd.start()
        emptied_at_s = time.monotonic()
        try:
            for node in lake.cluster.nodes:
                refused(node, {**lake.changes(), "mount.remove": {"path": "/spare"}}, "FAILED_PRECONDITION", FOREIGN)
            until(lambda: all(FOREIGN in node.daemon.log for node in lake.cluster.nodes), "all logs say so")
            time.sleep(max(0.0, emptied_at_s + AWAY_S - time.monotonic()))
            assert lake.sight() == before
            assert not any(map(reaches_store, lake.cluster.nodes))
            known.kill()
            code, said = ended(known)
            print(f"the node that was started then: exit code {code}, {said.strip().splitlines()[-1]}")
            assert code == 1
            assert "holds no cluster" in said
            assert "this node belongs to the cluster" in said
            assert not lake.etcd.keys("/jetbridge/one/"), "somebody made a new cluster there"
        finally:
            lake.etcd.kill()
            lake.etcd.bring_back()
            lake.etcd.start()
        back_at_s = time.monotonic()
        mount_everywhere(lake, [*others, *lake.cluster.workers], back_at_s)
        known.start()
        time.sleep(max(0.0, back_at_s + AFTERWARDS_S - time.monotonic()))
    assert lake.sight() == before


def test_a_new_cluster_in_an_emptied_etcd_is_another(lake: Lake) -> None:
    """A node that never was in the cluster cannot know that it is not the first; nobody is taken in by it."""
    before = lake.sight()
    lake.etcd.kill()
    lake.etcd.set_aside()
    lake.etcd.start()
    newcomer = None
    try:
        with lake.reads():
            newcomer = lake.cluster.node("coordinator", NEWCOMER)
            asked(newcomer, "mount.add", lake.changes("/theirs")["mount.add"])
            for node in lake.cluster.nodes:
                refused(node, lake.changes(), "FAILED_PRECONDITION", f"{FOREIGN}.* but the cluster")
            assert lake.sight() == before
            assert set(members(newcomer)) == {newcomer.id}
            assert mounted(newcomer) == {"/theirs"}
            lake.etcd.kill()
            lake.etcd.bring_back()
            lake.etcd.start()
            mount_everywhere(lake, lake.cluster.nodes, time.monotonic())
            refused(newcomer, {"mount.remove": {"path": "/theirs"}}, "FAILED_PRECONDITION", FOREIGN)
    finally:
        if newcomer is not None:
            newcomer.kill()
    assert lake.sight() == before


@pytest.mark.parametrize("key", ["another key, of no other cluster", None], ids=["other key", "no key"])
def test_a_node_without_the_clusters_key_is_refused(lake: Lake, tmp_path: Path, key: str | None) -> None:
    name, words = f"keyed-{'other' if key else 'none'}", ["--cluster-key", "env:CLUSTER_KEY"]
    meta = ["--meta", f"etcd://127.0.0.1:{lake.etcd.port}/{name}"]
    first = Node(tmp_path / "first", "coordinator", [*meta, *words], {"CLUSTER_KEY": "the key of this cluster"})
    try:
        env = {"CLUSTER_KEY": key} if key else {}
        stranger = Node(tmp_path / "stranger", "worker", [*meta, *(words if key else [])], env, wait=False)
        code = stranger.daemon.wait(REFUSES_WITHIN_S)
        stranger.daemon.close()
        assert code == 1
        assert "give all nodes the same --cluster-key" in stranger.daemon.log
        assert set(members(first)) == {first.id}
    finally:
        first.kill()


def test_two_clusters_in_one_etcd_do_not_see_each_other(lake: Lake, tmp_path: Path) -> None:
    table = files.write(tmp_path / "lake/a.parquet", files.numbers(5))
    mounts = {"/other": f"file://{tmp_path}/lake"}
    other = EtcdCluster.start(tmp_path, lake.etcd, "two", mounts, coordinators=1, workers=1)
    try:
        here, there = asked(lake.cluster.workers[0], "cluster.members"), asked(other.workers[0], "cluster.members")
        assert here["cluster"] != there["cluster"]
        ids = [{member["id"] for member in seen["members"]} for seen in (here, there)]
        assert (len(ids[0]), len(ids[1])) == (4, 2)
        assert not ids[0] & ids[1]
        assert [mounted(node) for node in other.nodes] == [{"/other"}] * 2
        assert mounted(lake.cluster.workers[0]) == {"/lake", "/spare"}
        asked(other.workers[0], "cluster.rotate_keys")
        foreign_ticket(lake.cluster.workers[0], other.workers[0], "/other", table)
        for name, expected in (("one", here["cluster"]), ("two", there["cluster"])):
            keys = lake.etcd.keys(f"/jetbridge/{name}/")
            print(f"{name}: {len(keys)} keys")
            assert keys
            assert any(str(expected) in json.dumps(str(lake.etcd.get(key))) for key in keys)
    finally:
        other.close()


def foreign_ticket(here: Node, there: Node, path: str, expected: pa.Table) -> None:
    """A ticket of the one cluster reads there, and is refused by the other."""
    with here.connect() as ours, there.connect() as theirs:
        (endpoint,) = theirs.get_flight_info(pa.flight.FlightDescriptor.for_path(path.strip("/"))).endpoints
        assert fetch_ticket(theirs, endpoint.ticket).equals(expected)
        with expect_error("UNAUTHENTICATED"):
            fetch_ticket(ours, endpoint.ticket)
