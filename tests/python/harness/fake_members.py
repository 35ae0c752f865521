"""Members of a cluster that are no processes: their records, leases and seats, written as nodes write them."""

from __future__ import annotations

import base64
import json
import random
import uuid
from dataclasses import dataclass
from typing import Any

import pyarrow.flight as flight

from harness.cluster import Node
from harness.flight import act

MEMBER_KEY, ALIVE_KEY, PLACEMENT_KEY = "nodes/member/", "nodes/alive/", "nodes/placement"
# Longer than any measurement; it is kept alive all the same.
LEASE_MS = 600_000
GENERATION = 1


class MetaStore:
    """The metadata store of a coordinator without a cluster key, as the nodes that have it as theirs call it."""

    def __init__(self, client: flight.FlightClient) -> None:
        self._client = client

    def get(self, key: str) -> tuple[bytes, int] | None:
        """A value and its revision."""
        entry = self._call("get", key=key)["entry"]
        return (base64.b64decode(entry["value"]), entry["revision"]) if entry else None

    def put(self, key: str, value: bytes, expect: str | dict[str, int] = "any", lease: int | None = None) -> None:
        """Puts a value where what is there is as expected."""
        self._call("put", key=key, value=base64.b64encode(value).decode(), expect=expect, lease=lease)

    def grant(self, ttl_ms: int) -> int:
        """A lease."""
        return int(self._call("grant", ttl_ms=ttl_ms)["lease"])

    def keep_alive(self, lease: int) -> None:
        """Begins its time anew."""
        self._call("keep_alive", lease=lease)

    def _call(self, operation: str, **fields: Any) -> Any:
        answer = act(self._client, "meta.call", {"cluster": None, "operation": {operation: fields}})
        if isinstance(answer, dict) and "failed" in answer:
            raise RuntimeError(f"{operation} {fields.get('key', '')}: {answer['failed']}")
        return answer


@dataclass(frozen=True)
class FakeMember:
    """A worker that is only written down."""

    id: str
    address: str
    weight: int

    def record(self) -> bytes:
        """What it says of itself."""
        said = {"id": self.id, "generation": GENERATION, "addresses": [self.address], "host": f"host of {self.id}"}
        return json.dumps({**said, "weight": self.weight, "role": "worker", "state": "serving"}).encode()


class FakeMembers:
    """Fake workers beside the real ones of a cluster, each of them as heavy as the first real one."""

    def __init__(self, coordinator: Node, seed: int = 1) -> None:
        self._client = coordinator.connect()
        self._store = MetaStore(self._client)
        self._random = random.Random(seed)
        self._lease = self._store.grant(LEASE_MS)
        self.members: list[FakeMember] = []

    def join(self, addresses: list[str]) -> None:
        """One more member at each address, seated in one epoch: a seat first, so that none is there without one."""
        stored = self._store.get(PLACEMENT_KEY)
        assert stored, "nobody has a seat yet, so nobody's weight is known"
        document, revision = json.loads(stored[0]), stored[1]
        seats = document["placement"]["seats"]
        new = [FakeMember(self._new_id(), address, seats[0]["weight"]) for address in addresses]
        for member in new:
            self._store.put(MEMBER_KEY + member.id, member.record())
        seats.extend({"id": member.id, "weight": member.weight} for member in new)
        document = {"epoch": document["epoch"] + 1, "placement": document["placement"]}
        self._store.put(PLACEMENT_KEY, json.dumps(document).encode(), {"revision": revision})
        for member in new:
            self._store.put(ALIVE_KEY + member.id, str(GENERATION).encode(), lease=self._lease)
        self.members += new

    def move(self, address: str) -> None:
        """Has all of them say that they are elsewhere."""
        self.members = [FakeMember(member.id, address, member.weight) for member in self.members]
        for member in self.members:
            self._store.put(MEMBER_KEY + member.id, member.record())

    def keep_alive(self) -> None:
        """Renews the lease of all."""
        self._store.keep_alive(self._lease)

    def close(self) -> None:
        """Ends the connection; the members go with their lease or their coordinator."""
        self._client.close()

    def _new_id(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))
