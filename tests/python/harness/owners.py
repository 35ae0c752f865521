"""Who owns which splits of a dataset, and how many moved between two looks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow.flight as flight

from harness.cluster import info, locations
from harness.flight import act

# A split's file and first row group.
Split = tuple[str, int]


@dataclass(frozen=True)
class Owners:
    """What `locate` said of a dataset at one moment."""

    epoch: int
    # Ids, the owner first and then its replicas.
    of: Mapping[Split, tuple[str, ...]]
    rows: Mapping[Split, int]

    def splits_of(self, node_id: str) -> set[Split]:
        """The splits that a node owns."""
        return {split for split, ids in self.of.items() if ids[0] == node_id}

    def moved_since(self, before: Owners) -> set[Split]:
        """The splits whose owner is another now."""
        assert self.of.keys() == before.of.keys(), "the datasets are cut differently"
        return {split for split, ids in self.of.items() if ids[0] != before.of[split][0]}

    def rows_of_owners(self) -> Counter[str]:
        """How many rows each node owns."""
        rows: Counter[str] = Counter()
        for split, ids in self.of.items():
            rows[ids[0]] += self.rows[split]
        return rows


def owners(client: flight.FlightClient, path: str) -> Owners:
    """Asks a node with `locate`; fails where a split has no owner."""
    said = act(client, "locate", {"path": path})
    splits = {(split["path"], split["row_groups"][0]): split for split in said["splits"]}
    of = {key: tuple(owner["id"] for owner in split["owners"]) for key, split in splits.items()}
    assert of, f"no splits: {said}"
    assert all(of.values()), f"splits without owner: {said}"
    return Owners(said["epoch"], of, {key: split["rows"] for key, split in splits.items()})


def epoch(found: flight.FlightInfo) -> int:
    """The epoch that a FlightInfo was made in."""
    return int(json.loads(found.app_metadata)["epoch"])


def named_first(client: flight.FlightClient, path: str) -> set[str]:
    """The locations that a FlightInfo of a dataset lists first."""
    return {locations(endpoint)[0] for endpoint in info(client, path).endpoints}
