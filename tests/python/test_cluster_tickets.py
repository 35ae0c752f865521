"""Tickets in a cluster: every node serves those of every other, also those of an earlier epoch; what is forged, or
sealed with a key that nobody has any more, is refused by all."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from harness import files
from harness.cluster import Cluster, Node, info, until
from harness.compare import assert_same
from harness.errors import expect_error, kind_of
from harness.flight import act
from harness.owners import epoch

WORKERS = 3
FILES = 12
DATA = "/small"
# New keys are known everywhere within so long, on a busy machine too.
KNOWN_S = 10.0
FORGERIES = 40
SEED = 20


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three workers and small files."""
    yield from started(tmp_path_factory)


@pytest.fixture(scope="module")
def other_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Another one, of one worker, with the same path."""
    yield from started(tmp_path_factory, workers=1)


def test_any_node_serves_the_tickets_of_any_other(cluster: Cluster) -> None:
    """Every pair of nodes, every endpoint."""
    for maker in cluster.nodes:
        tickets = tickets_of(maker)
        assert len(tickets) >= WORKERS
        for node in cluster.nodes:
            assert_same(redeemed(node, tickets), expected())


def test_forged_tickets_are_refused_by_all(cluster: Cluster) -> None:
    """One bit turned at places drawn by a seed, cut short, made longer, and nothing at all."""
    print(f"seed {SEED}")
    places = random.Random(SEED)
    ticket = tickets_of(cluster.coordinator)[0].ticket
    forged = [ticket[: len(ticket) // 2], ticket + b"\0", b"", bytes(len(ticket))]
    for _ in range(FORGERIES):
        changed = bytearray(ticket)
        changed[places.randrange(len(changed))] ^= 1 << places.randrange(8)
        forged.append(bytes(changed))
    for node in cluster.nodes:
        with node.connect() as client:
            kinds = [refusal(client, flight.Ticket(raw)) for raw in forged]
        # What is no ticket at all may be called so.
        assert set(kinds) <= {"UNAUTHENTICATED", "INVALID_ARGUMENT"}, kinds
        assert kinds.count("UNAUTHENTICATED") >= FORGERIES * 0.9


def test_tickets_of_another_cluster_are_refused_by_all(cluster: Cluster, other_cluster: Cluster) -> None:
    """Keys that these nodes do not know."""
    foreign = tickets_of(other_cluster.coordinator)
    for node in cluster.nodes:
        with node.connect() as client:
            for ticket in foreign:
                assert refusal(client, ticket) == "UNAUTHENTICATED"
    assert_same(redeemed(other_cluster.workers[0], foreign), expected())


def test_keys_rotate_and_tickets_of_the_rotation_before_stay_valid(cluster: Cluster) -> None:
    """Asked of a worker, then of the coordinator: after one rotation all serve the old tickets, after two none."""
    oldest = tickets_of(cluster.coordinator)
    for round_number, asked in enumerate((cluster.workers[0], cluster.coordinator), start=1):
        with asked.connect() as client:
            act(client, "cluster.rotate_keys", {})
            until(lambda: sealed_alike(cluster), "each node serves the new tickets of every other", KNOWN_S)
        for maker in cluster.nodes:
            fresh = tickets_of(maker)
            for node in cluster.nodes:
                assert_same(redeemed(node, fresh), expected())
        if round_number == 1:
            for node in cluster.nodes:
                assert_same(redeemed(node, oldest), expected())
    for node in cluster.nodes:
        with node.connect() as client:
            for ticket in oldest:
                with expect_error("UNAUTHENTICATED"):
                    client.do_get(ticket).read_all()


def test_tickets_of_an_earlier_epoch_are_served(cluster: Cluster) -> None:
    """By all nodes, the one that is new in this epoch too."""
    with cluster.coordinator.connect() as client:
        found = info(client, DATA)
        old = [endpoint.ticket for endpoint in found.endpoints]
        cluster.add_worker()
        cluster.wait_for_seats(WORKERS + 1)
        assert epoch(info(client, DATA)) > epoch(found)
    for node in cluster.nodes:
        assert_same(redeemed(node, old), expected())


def started(tmp_path_factory: pytest.TempPathFactory, workers: int = WORKERS) -> Iterator[Cluster]:
    """A cluster with small files."""
    folder = tmp_path_factory.mktemp("tickets")
    files.write_many(folder / "small", FILES)
    with Cluster.start(folder, {DATA: f"file://{folder / 'small'}"}, workers) as running:
        yield running


def expected() -> pa.Table:
    """The rows of the small files."""
    return files.numbers(FILES * 10)


def tickets_of(maker: Node) -> list[flight.Ticket]:
    """The tickets of a new FlightInfo, in order."""
    with maker.connect() as client:
        return [endpoint.ticket for endpoint in info(client, DATA).endpoints]


def redeemed(node: Node, tickets: list[flight.Ticket]) -> pa.Table:
    """The rows of tickets, all from one node."""
    with node.connect() as client:
        return pa.concat_tables([client.do_get(ticket).read_all() for ticket in tickets])


def refusal(client: flight.FlightClient, ticket: flight.Ticket) -> str:
    """The kind of the error that a ticket meets; fails where it meets none."""
    try:
        client.do_get(ticket).read_all()
    except (pa.ArrowException, flight.FlightError) as refused:
        return kind_of(refused)
    raise AssertionError("a ticket that is none was served")


def sealed_alike(cluster: Cluster) -> bool:
    """Whether each node serves a new ticket of every other."""
    try:
        for maker in cluster.nodes:
            for node in cluster.nodes:
                redeemed(node, tickets_of(maker)[:1])
    except flight.FlightUnauthenticatedError:
        return False
    return True
