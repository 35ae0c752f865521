"""Reading in the wire forms that a client can ask for: what a client of `raw` has to do is all here.

`flight-server/src/flight/WIRE.md` is the specification, and says what `wire_for` is derived from.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq

WIRE_HEADER = "x-jetbridge-wire"
REASON_HEADER = "x-jetbridge-wire-reason"
LIMIT_HEADER = "x-jetbridge-max-message-bytes"
FILE_LIMIT_HEADER = "x-jetbridge-max-file-bytes"
FORMS = ("arrow", "lz4", "zstd", "raw")

# Row groups are sent whole, so a client of `raw` takes large files; the most that the server sends.
RAW_LIMIT_BYTES = 1 << 30
# pyarrow's own bound on what it takes is lifted.
ANY_SIZE = [("grpc.max_receive_message_length", -1)]

# For clients that cannot decode Parquet: above this many bits a second compressing takes longer than it saves.
COMPRESS_BELOW_BITS_PER_S = 3.5e9


def wire_for(bits_per_s: float, decodes: bool = True) -> str:
    """The form for a link of this speed; `decodes`: the client decodes Parquet, and has a core to spare for it."""
    if decodes:
        return "raw"
    return "lz4" if bits_per_s < COMPRESS_BELOW_BITS_PER_S else "arrow"


@dataclass
class Told:
    """What the headers of the answers said, in order."""

    forms: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


class Listener(flight.ClientMiddlewareFactory):
    """Keeps what the headers of each answer say about its form."""

    def __init__(self) -> None:
        super().__init__()
        self.told = Told()

    def start_call(self, _info: flight.CallInfo) -> flight.ClientMiddleware:
        return _Listening(self.told)


class _Listening(flight.ClientMiddleware):
    """One call."""

    def __init__(self, told: Told) -> None:
        super().__init__()
        self._told = told

    def received_headers(self, headers: Mapping[str, list[str]]) -> None:
        self._told.forms += headers.get(WIRE_HEADER, [])
        self._told.reasons += headers.get(REASON_HEADER, [])


def connect(uri: str) -> tuple[flight.FlightClient, Told]:
    """A client that takes messages of any size, and what it is told."""
    listener = Listener()
    return flight.FlightClient(uri, middleware=[listener], generic_options=ANY_SIZE), listener.told


def asking(forms: str, limit_bytes: int | None = None, file_bytes: int | None = None) -> flight.FlightCallOptions:
    """The options of a call that asks for a form or a list of them, and for messages and files up to a size.

    Without a size it takes files of any, where it takes them at all.
    """
    if limit_bytes is None and file_bytes is None and ("raw" in forms or "auto" in forms):
        file_bytes = RAW_LIMIT_BYTES
    sizes = {LIMIT_HEADER: limit_bytes, FILE_LIMIT_HEADER: file_bytes}
    limits = [(header.encode(), str(size).encode()) for header, size in sizes.items() if size is not None]
    return flight.FlightCallOptions(headers=[(WIRE_HEADER.encode(), forms.encode()), *limits])


def read(client: flight.FlightClient, tickets: Iterable[flight.Ticket], options: flight.FlightCallOptions) -> pa.Table:
    """All rows of tickets, one after the other, in whatever form the server sends each.

    Row groups are decoded by as many threads as there are cores, while later ones still come.
    """
    parts: list[pa.Table | Future[pa.Table]] = []
    schema: pa.Schema | None = None
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for ticket in tickets:
            reader = client.do_get(ticket, options)
            schema = raw_schema(reader.schema)
            if schema is None:
                parts.append(reader.read_all())
                continue
            parts += [pool.submit(rows_of, file, said, schema) for file, said in raw_files(reader)]
    tables = [part.result() if isinstance(part, Future) else part for part in parts]
    if not tables:
        return (schema or pa.schema([])).empty_table()
    # A table without columns forgets how many rows it had when it is put together with others.
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables)


def raw_schema(stream: pa.Schema) -> pa.Schema | None:
    """The schema of the rows, where the stream says that it is of the form `raw`."""
    metadata = stream.metadata or {}
    if metadata.get(b"jetbridge.wire") != b"raw":
        return None
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(metadata[b"jetbridge.schema"])))


def raw_files(reader: flight.FlightStreamReader) -> Iterator[tuple[pa.Buffer, dict[str, Any]]]:
    """Each row group's Parquet file, in place in its message, and what the message says of it."""
    while True:
        try:
            chunk = reader.read_chunk()
        except StopIteration:
            return
        for file in chunk.data.column(0):
            yield file.as_buffer(), json.loads(chunk.app_metadata.to_pybytes())


def rows_of(file: pa.Buffer, said: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """A row group's rows: decoded, with the constants and the missing columns, cast to the schema."""
    have = pq.ParquetFile(pa.BufferReader(file)).read(use_threads=False)
    assert have.num_rows == said["rows"]
    columns = [column_of(have, said, wanted) for wanted in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def column_of(have: pa.Table, said: Mapping[str, Any], wanted: pa.Field) -> pa.ChunkedArray | pa.Array:
    """One column: a constant of the file, or what the file has, or nulls."""
    if wanted.name in said["constants"]:
        value = pa.scalar(said["constants"][wanted.name], wanted.type)
        return pa.repeat(value, said["rows"])
    if wanted.name not in have.column_names:
        return pa.nulls(said["rows"], wanted.type)
    column = have.column(wanted.name)
    return column if column.type == wanted.type else column.cast(wanted.type)
