"""Reading through plain pyarrow.flight, with the promises that hold for every answer checked at each read."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight

SOURCES = frozenset({"memory", "disk", "store"})


@dataclass(frozen=True)
class Answer:
    """All of one answer: what was promised, what came, and what each batch said about itself."""

    info: flight.FlightInfo
    # Counted apart: a table without columns forgets how many rows it had.
    rows: int
    table: pa.Table
    batches: list[dict[str, Any]]

    @property
    def sources(self) -> set[str]:
        return {batch["source"] for batch in self.batches}


def by_path(path: str) -> flight.FlightDescriptor:
    """The PATH descriptor of a namespace path."""
    return flight.FlightDescriptor.for_path(*[part for part in path.split("/") if part])


def by_scan(path: str, **spec: Any) -> flight.FlightDescriptor:
    """The CMD descriptor of a JSON scan."""
    return flight.FlightDescriptor.for_command(json.dumps({"path": path, **spec}))


def descriptor(path: str, **spec: Any) -> flight.FlightDescriptor:
    """The shorter of the two ways to say it; only a scan can hold a URI."""
    return by_scan(path, **spec) if spec or "://" in path else by_path(path)


def fetch(client: flight.FlightClient, asked: flight.FlightDescriptor) -> Answer:
    """GetFlightInfo and every endpoint in order; fails where the answer is not what the info said."""
    info = client.get_flight_info(asked)
    batches, said = [], []
    for endpoint in info.endpoints:
        reader = client.do_get(endpoint.ticket)
        assert reader.schema.equals(info.schema, check_metadata=True), "the stream's schema is not the info's"
        more, metadata = drain(reader)
        batches.extend(more)
        said.extend(metadata)
    rows = sum(batch.num_rows for batch in batches)
    assert info.total_records in (-1, rows), f"{rows} rows came, {info.total_records} were promised"
    return Answer(info, rows, pa.Table.from_batches(batches, info.schema), said)


def fetch_ticket(client: flight.FlightClient, ticket: flight.Ticket) -> pa.Table:
    """The rows of one DoGet."""
    reader = client.do_get(ticket)
    return pa.Table.from_batches(drain(reader)[0], reader.schema)


def drain(reader: flight.FlightStreamReader) -> tuple[list[pa.RecordBatch], list[dict[str, Any]]]:
    """A stream's batches, and what each says about itself: they count from 0 and name their source."""
    batches, said = [], []
    for chunk in chunks(reader):
        batches.append(chunk.data)
        said.append(json.loads(chunk.app_metadata.to_pybytes()))
    assert [entry["batch"] for entry in said] == list(range(len(said)))
    assert {entry["source"] for entry in said} <= SOURCES
    return batches, said


def chunks(reader: flight.FlightStreamReader) -> Iterator[flight.FlightStreamChunk]:
    """The chunks of a stream up to its end."""
    while True:
        try:
            yield reader.read_chunk()
        except StopIteration:
            return


def read(client: flight.FlightClient, path: str, **spec: Any) -> pa.Table:
    """The rows of a path, or of a scan of it."""
    return fetch(client, descriptor(path, **spec)).table


def plan(client: flight.FlightClient, path: str, **spec: Any) -> flight.FlightInfo:
    """What would be read: GetFlightInfo only."""
    return client.get_flight_info(descriptor(path, **spec))


def splits(info: flight.FlightInfo) -> list[dict[str, Any]]:
    """What the endpoints say they hold, in order."""
    return [json.loads(endpoint.app_metadata) for endpoint in info.endpoints]


def expiry(endpoint: flight.FlightEndpoint) -> dt.datetime:
    """When the ticket ends, to the microsecond (Python has no finer time)."""
    return endpoint.expiration_time.cast(pa.timestamp("us", "UTC"), safe=False).as_py()


def act(client: flight.FlightClient, name: str, body: Any = None) -> Any:
    """One DoAction, JSON in, one JSON answer out."""
    raw = b"" if body is None else json.dumps(body).encode()
    (result,) = client.do_action(flight.Action(name, raw))
    return json.loads(result.body.to_pybytes())


def mount(client: flight.FlightClient, path: str, uri: str, **options: str) -> None:
    """Binds `path` to `uri`; options in the words of the command line with underscores."""
    act(client, "mount.add", {"path": path, "uri": uri, "options": options})


def mounts(client: flight.FlightClient) -> dict[str, dict[str, Any]]:
    """The mount table, by path."""
    return {entry["path"]: entry for entry in act(client, "mount.list", {})["mounts"]}


def listed(client: flight.FlightClient, criteria: str = "") -> list[str]:
    """The paths that ListFlights gives for a prefix or glob, or all."""
    infos = client.list_flights(criteria.encode())
    return ["/" + "/".join(part.decode() for part in info.descriptor.path) for info in infos]
