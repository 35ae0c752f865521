"""Reading through plain pyarrow.flight, with the promises that hold for every answer checked at each read."""

from __future__ import annotations

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
    """The shorter of the two ways to say it."""
    return by_scan(path, **spec) if spec else by_path(path)


def fetch(client: flight.FlightClient, asked: flight.FlightDescriptor) -> Answer:
    """GetFlightInfo and every endpoint in order; fails where the answer is not what the info said."""
    info = client.get_flight_info(asked)
    tables, batches = [pa.Table.from_batches([], info.schema)], []
    for endpoint in info.endpoints:
        table, said = fetch_ticket(client, endpoint.ticket)
        assert table.schema.equals(info.schema, check_metadata=True), "the stream's schema is not the info's"
        tables.append(table)
        batches.extend(said)
    table = pa.concat_tables(tables)
    assert info.total_records in (-1, table.num_rows), "total_records is not what came"
    return Answer(info, table, batches)


def fetch_ticket(client: flight.FlightClient, ticket: flight.Ticket) -> tuple[pa.Table, list[dict[str, Any]]]:
    """One DoGet: its rows, and the metadata of its batches, which count from 0 and name their source."""
    reader = client.do_get(ticket)
    batches, said = [], []
    for chunk in chunks(reader):
        batches.append(chunk.data)
        said.append(json.loads(chunk.app_metadata.to_pybytes()))
    assert [entry["batch"] for entry in said] == list(range(len(said)))
    assert {entry["source"] for entry in said} <= SOURCES
    return pa.Table.from_batches(batches, reader.schema), said


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
    """What the endpoints say they hold: one entry a file and endpoint, in order."""
    entries: list[dict[str, Any]] = []
    for endpoint in info.endpoints:
        said = json.loads(endpoint.app_metadata)
        entries.extend(said if isinstance(said, list) else [said])
    return entries


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
