"""What each node of a cluster knows of it, and whether they agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow.flight as flight

from harness.cluster import REUSE, Node, first_named, info, locations, until
from harness.flight import act, mounts

# The owners of each split, which is a file and the first of its row groups.
Owners = dict[tuple[str, int], list[str]]


def asked(node: Node, action: str, body: Any = None, timeout_s: float = 60.0) -> Any:
    """One action at a node, on a connection of its own."""
    options = flight.FlightCallOptions(timeout=timeout_s)
    with node.connect() as client:
        return act(_Bounded(client, options), action, {} if body is None else body)


class _Bounded:
    """A client whose actions end in time."""

    def __init__(self, client: flight.FlightClient, options: flight.FlightCallOptions) -> None:
        self._client, self._options = client, options

    def do_action(self, action: flight.Action) -> Any:
        return self._client.do_action(action, self._options)


def members(node: Node) -> dict[str, dict[str, Any]]:
    """The members that a node knows, by id."""
    return {member["id"]: member for member in asked(node, "cluster.members")["members"]}


def seats(node: Node) -> set[str]:
    """Ids of those with a seat, as a node sees it."""
    return {known for known, member in members(node).items() if member["seat"]}


def state(node: Node, of: str) -> str:
    """How a member stands, as a node sees it."""
    return str(members(node).get(of, {}).get("state", "absent"))


def epoch(node: Node) -> int:
    """The epoch that a node goes by."""
    return int(asked(node, "cluster.members")["epoch"])


def reaches_store(node: Node) -> bool:
    """Whether a node reaches the metadata store."""
    return bool(asked(node, "cluster.members")["store_reachable"])


def mounted(node: Node) -> set[str]:
    """The paths of the mounts that a node knows."""
    with node.connect() as client:
        return set(mounts(client))


def owners(node: Node, path: str) -> Owners:
    """Who owns each split of a dataset, by a node's own placement."""
    splits = asked(node, "locate", {"path": path})["splits"]
    return {(split["path"], split["row_groups"][0]): [owner["id"] for owner in split["owners"]] for split in splits}


def named_first(node: Node, path: str) -> set[str]:
    """Whom a node names first for any split of a dataset."""
    with node.connect() as client:
        return set(first_named(info(client, path)))


def named(node: Node, path: str) -> set[str]:
    """Whom a node names for any split of a dataset; a hot one has others beside its owner."""
    with node.connect() as client:
        places = {place for endpoint in info(client, path).endpoints for place in locations(endpoint)}
    return {place for place in places if not place.startswith(REUSE)}


def agree(nodes: Sequence[Node], path: str) -> bool:
    """Whether all nodes go by one epoch and know the same owner of every split."""
    first, *others = [(epoch(node), owners(node, path)) for node in nodes]
    return bool(first[1]) and all(other == first for other in others)


def wait_for_seats(nodes: Sequence[Node], count: int) -> None:
    """Until so many workers have seats, as each of these nodes sees it."""
    until(lambda: all(len(seats(node)) == count for node in nodes), f"{count} seats everywhere")
