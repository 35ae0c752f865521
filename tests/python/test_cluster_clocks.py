"""Nodes whose clocks are ten minutes apart from the others': a ticket of any is good at any, as long as it says."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from harness.cluster import Cluster, Node, until
from harness.debian import NotToBeHadError
from harness.errors import expect_error
from harness.faketime import ahead_s, environment
from harness.flight import descriptor, expiry, fetch_ticket
from harness.members import wait_for_seats
from harness.ports import free_port
from harness.steady import SteadyReads, make_lake

# Each worker's clock against that of this machine, in seconds: one ahead, one behind, one right.
OFFSETS_S = {"ahead": 600, "behind": -600, "right": 0}
# What libfaketime and the start of a process may add to that.
OFFSET_ERROR_S = 30.0
TTL_S = 600
SHORT_TTL_S = 2
# For so long tickets of before are looked at after a node was replaced by another one.
AFTERWARDS_S = 12.0
# How exactly nodes know each other's clocks: a ticket for SHORT_TTL_S is refused after this much more.
SHORT_TTL_ERROR_S = 4.0


# Less than what a node would draw, and less each time.
_ids = itertools.count(999, -1)


@dataclass
class Clocks:
    """A cluster of nodes whose clocks differ, and what it serves at /lake."""

    cluster: Cluster
    expected: pa.Table


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    folder = tmp_path_factory.mktemp("clocks")
    return folder, make_lake(folder / "files/lake")


@pytest.fixture
def clocks(lake: tuple[Path, pa.Table], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Clocks]:
    """The cluster, with the words of the test's parameter."""
    folder, expected = lake
    args = list(getattr(request, "param", []))
    cluster = Cluster.start(tmp_path, {"/lake": f"file://{folder}/files/lake"}, 0, args)
    try:
        for name, offset_s in OFFSETS_S.items():
            add_worker(cluster, name, offset_s, args)
        wait_for_seats(cluster.nodes, len(OFFSETS_S))
        yield Clocks(cluster, expected)
    finally:
        cluster.close()


def add_worker(cluster: Cluster, name: str, offset_s: int, args: list[str]) -> Node:
    """A worker whose clock is so far ahead; that it is, is seen by the time that it wrote down at its start."""
    try:
        env = environment(offset_s) if offset_s else {}
    except NotToBeHadError as missing:
        pytest.skip(str(missing))
    joined = ["--coordinator", cluster.coordinator.uri, "--memory", "512MiB", *args]
    folder = cluster.folder / name
    identity = give_least_id(folder)
    node = Node(folder, "worker", joined, env)
    cluster.workers.append(node)
    # The milliseconds of its start, and twenty bits that are random.
    told = json.loads(identity.read_text())["generation"] >> 20
    print(f"{name}: its clock is {ahead_s(told):+.1f} s ahead")
    assert abs(ahead_s(told) - offset_s) < OFFSET_ERROR_S
    return node


def give_least_id(folder: Path) -> Path:
    """Gives a node that is to start in this folder a less id than all before it have, so that none owes it to chance
    whose clock is gone by; the file in which it stands."""
    identity = folder / "data/node.json"
    once = Node(folder, "worker", ["--coordinator", f"grpc://127.0.0.1:{free_port()}"], wait=False)
    until(identity.exists, "it has an identity")
    once.kill()
    known = json.loads(identity.read_text())
    identity.write_text(json.dumps({**known, "id": f"{next(_ids):08}-0000-4000-8000-000000000000", "generation": 1}))
    return identity


def endpoints(node: Node) -> list[flight.FlightEndpoint]:
    """Endpoints with tickets for all of the dataset, of one node."""
    with node.connect() as client:
        return list(client.get_flight_info(descriptor("/lake")).endpoints)


def redeemed(given: list[flight.FlightEndpoint], node: Node) -> pa.Table:
    """What a node gives for tickets."""
    with node.connect() as client:
        return pa.concat_tables(fetch_ticket(client, endpoint.ticket) for endpoint in given)


def test_tickets_of_any_node_are_good_at_any_node(clocks: Clocks) -> None:
    nodes = clocks.cluster.nodes
    failures = {}
    for giver in nodes:
        given = endpoints(giver)
        left_s = expiry(given[0]).timestamp() - time.time()
        print(f"a ticket of {giver.folder.name} says that it is good for {left_s:.0f} s")
        for taker in nodes:
            if why := refusal(given, taker, clocks.expected):
                failures[f"of {giver.folder.name} at {taker.folder.name}"] = why
    assert not failures, f"{len(failures)} of {len(nodes) ** 2} pairs: {failures}"
    with SteadyReads(nodes, "/lake", clocks.expected):
        pass  # Until each node was read from in both ways.


def test_a_ticket_says_how_long_it_is_good(clocks: Clocks) -> None:
    """By the clock of the cluster, which a client's own is held to be near: any node says about the same."""
    left_s = {node.folder.name: expiry(endpoints(node)[0]).timestamp() - time.time() for node in clocks.cluster.nodes}
    print(left_s)
    assert max(left_s.values()) - min(left_s.values()) < OFFSET_ERROR_S, left_s
    assert abs(left_s["coordinator"] - TTL_S) < OFFSET_ERROR_S


@pytest.mark.parametrize("clocks", [["--ticket-ttl", f"{SHORT_TTL_S}s"]], indirect=True, ids=["short"])
def test_an_expired_ticket_is_refused_everywhere(clocks: Clocks) -> None:
    nodes = clocks.cluster.nodes
    for giver, taker in itertools.product(nodes, nodes):
        # It may take a busy machine longer than the ticket is good for, but not each time.
        until(lambda giver=giver, taker=taker: is_redeemed(giver, taker), f"{giver.folder.name} at {taker.folder.name}")
    given = [endpoints(node) for node in nodes]
    time.sleep(SHORT_TTL_S + SHORT_TTL_ERROR_S)
    for some, taker in itertools.product(given, nodes):
        with expect_error("UNAUTHENTICATED", "expired"):
            redeemed(some, taker)


def is_redeemed(giver: Node, taker: Node) -> bool:
    """Whether a node takes a new ticket of another."""
    try:
        return redeemed(endpoints(giver)[:1], taker).num_rows > 0
    except flight.FlightUnauthenticatedError:
        return False


def test_tickets_outlive_the_node_whose_clock_was_gone_by(clocks: Clocks) -> None:
    """Whoever goes, and whoever comes: time makes no step for a ticket that was given before."""
    cluster = clocks.cluster
    given = {node.folder.name: endpoints(node) for node in cluster.nodes}
    for name in ("ahead", "behind"):
        gone = next(node for node in cluster.workers if node.folder.name == name)
        gone.kill()
        cluster.workers.remove(gone)
        newcomer = add_worker(cluster, f"another {name}", OFFSETS_S[name], [])
        given[newcomer.folder.name] = endpoints(newcomer)
        until_s = time.monotonic() + AFTERWARDS_S
        while time.monotonic() < until_s:
            for giver, some in given.items():
                for taker in cluster.nodes:
                    why = refusal(some, taker, clocks.expected)
                    assert not why, f"a ticket of {giver} at {taker.folder.name}, after {name} was replaced: {why}"


def refusal(given: list[flight.FlightEndpoint], node: Node, expected: pa.Table) -> str:
    """Why a node does not give what these tickets stand for; empty where it does."""
    try:
        return "" if redeemed(given, node).equals(expected) else "other rows"
    except (pa.ArrowException, flight.FlightError) as error:
        return str(error)[:120]
