"""Flight SQL by hand: the messages that ADBC's driver does not send, or not so that a test can see the answer."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight

from harness.flight import Answer, chunks
from harness.raw import length_delimited, length_delimited_fields, number, numbers

_TYPE = "type.googleapis.com/arrow.flight.protocol.sql."
COOKIE = "arrow_flight_session_id"
# CancelStatus, and CancelResult of the older action.
CANCELLED, CANCELLING, NOT_CANCELLABLE = 1, 2, 3


def packed(name: str, body: bytes = b"") -> bytes:
    """A Flight SQL message as the `Any` that it travels in."""
    return length_delimited(1, (_TYPE + name).encode()) + length_delimited(2, body)


def unpacked(name: str, message: bytes) -> bytes:
    """The message of an `Any`, which has to be of this type."""
    fields = dict(length_delimited_fields(message))
    assert fields[1].decode() == _TYPE + name
    return fields.get(2, b"")


def command(name: str, body: bytes = b"") -> flight.FlightDescriptor:
    """The descriptor of a command."""
    return flight.FlightDescriptor.for_command(packed(name, body))


def text(field: int, value: str | None) -> bytes:
    """A text field; nothing for none."""
    return b"" if value is None else length_delimited(field, value.encode())


def query(sql: str) -> flight.FlightDescriptor:
    """The descriptor of a statement."""
    return command("CommandStatementQuery", text(1, sql))


def substrait(plan: bytes, version: str | None = None) -> flight.FlightDescriptor:
    """The descriptor of a Substrait plan, of the version that it says."""
    return command("CommandStatementSubstraitPlan", length_delimited(1, length_delimited(1, plan) + text(2, version)))


def fetch(
    client: flight.FlightClient, asked: flight.FlightDescriptor, options: flight.FlightCallOptions | None = None
) -> Answer:
    """GetFlightInfo and every endpoint in order; fails where GetSchema, the info and a stream disagree by a bit."""
    info = client.get_flight_info(asked, options)
    promised = client.get_schema(asked, options).schema
    assert info.schema.equals(promised, check_metadata=True), "GetSchema gives another schema than the info"
    batches, said = [], []
    for endpoint in info.endpoints:
        reader = client.do_get(endpoint.ticket, options)
        assert reader.schema.equals(info.schema, check_metadata=True), "the stream's schema is not the info's"
        for chunk in chunks(reader):
            batches.append(chunk.data)
            said.append(json.loads(chunk.app_metadata.to_pybytes()))
    rows = sum(batch.num_rows for batch in batches)
    assert info.total_records in (-1, rows)
    return Answer(info, rows, pa.Table.from_batches(batches, info.schema), said)


def rows(client: flight.FlightClient, sql: str, **headers: str) -> list[dict[str, Any]]:
    """The rows of a query, under options that the headers set."""
    return fetch(client, query(sql), with_headers(**headers)).table.to_pylist()


def redeem(client: flight.FlightClient, ticket: flight.Ticket) -> int:
    """Reads a ticket's rows chunk by chunk and counts them: pyarrow's `read_all` takes CANCELLED for a Ctrl-C."""
    return sum(chunk.data.num_rows for chunk in chunks(client.do_get(ticket)))


def with_headers(**headers: str) -> flight.FlightCallOptions:
    """Call options that send headers; underscores are dashes."""
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return flight.FlightCallOptions(headers=pairs)


def listing(client: flight.FlightClient, name: str, body: bytes = b"") -> pa.Table:
    """The rows of a command that lists something."""
    return fetch(client, command(name, body)).table


def act(
    client: flight.FlightClient, name: str, body: bytes, options: flight.FlightCallOptions | None = None
) -> bytes | None:
    """The one result of an action, or none where it gives none."""
    results = [result.body.to_pybytes() for result in client.do_action(flight.Action(name, body), options)]
    assert len(results) <= 1
    return results[0] if results else None


class Prepared:
    """A prepared statement, of SQL or of a Substrait plan: its handle, the schemas of its answer and its parameters."""

    def __init__(
        self, client: flight.FlightClient, asked: str | bytes, options: flight.FlightCallOptions | None = None
    ) -> None:
        self.client = client
        kind = "PreparedStatement" if isinstance(asked, str) else "PreparedSubstraitPlan"
        body = text(1, asked) if isinstance(asked, str) else length_delimited(1, length_delimited(1, asked))
        answer = act(client, f"Create{kind}", packed(f"ActionCreate{kind}Request", body), options)
        assert answer is not None
        fields = dict(length_delimited_fields(unpacked("ActionCreatePreparedStatementResult", answer)))
        self.handle = fields[1]
        self.schema = pa.ipc.read_schema(pa.py_buffer(fields[2]))
        self.parameters = pa.ipc.read_schema(pa.py_buffer(fields[3]))

    def descriptor(self) -> flight.FlightDescriptor:
        """What asks for its rows."""
        return command("CommandPreparedStatementQuery", length_delimited(1, self.handle))

    def bind(self, row: pa.RecordBatch, client: flight.FlightClient | None = None) -> None:
        """Binds a row of values; the new handle takes the old one's place."""
        writer, reader = (client or self.client).do_put(self.descriptor(), row.schema)
        writer.write_batch(row)
        writer.done_writing()
        answer = reader.read()
        # Where the server refused there is no answer, and this raises what it said.
        writer.close()
        assert answer is not None
        self.handle = dict(length_delimited_fields(answer.to_pybytes()))[1]

    def fetch(self, client: flight.FlightClient | None = None) -> Answer:
        """Its answer."""
        return fetch(client or self.client, self.descriptor())

    def close(self, client: flight.FlightClient | None = None) -> None:
        """Closes it."""
        body = packed("ActionClosePreparedStatementRequest", length_delimited(1, self.handle))
        assert act(client or self.client, "ClosePreparedStatement", body) is None


def cancel(client: flight.FlightClient, info: flight.FlightInfo) -> int:
    """CancelFlightInfo; its status."""
    answer = act(client, "CancelFlightInfo", length_delimited(1, info.serialize()))
    assert answer is not None
    return numbers(answer).get(1, 0)


def cancel_query(client: flight.FlightClient, info: flight.FlightInfo) -> int:
    """The older CancelQuery; its result."""
    body = packed("ActionCancelQueryRequest", length_delimited(1, info.serialize()))
    answer = act(client, "CancelQuery", body)
    assert answer is not None
    return numbers(unpacked("ActionCancelQueryResult", answer)).get(1, 0)


def set_options(
    client: flight.FlightClient, values: Mapping[str, Any], options: flight.FlightCallOptions | None = None
) -> dict[str, int]:
    """SetSessionOptions; what was refused, by name."""
    body = b"".join(_entry(name, _option(value)) for name, value in values.items())
    answer = act(client, "SetSessionOptions", body, options)
    assert answer is not None
    return {name: numbers(error).get(1, 0) for name, error in _entries(answer)}


def get_options(client: flight.FlightClient, options: flight.FlightCallOptions | None = None) -> dict[str, Any]:
    """GetSessionOptions."""
    answer = act(client, "GetSessionOptions", b"", options)
    assert answer is not None
    return {name: _value(option) for name, option in _entries(answer)}


def close_session(client: flight.FlightClient, options: flight.FlightCallOptions | None = None) -> int:
    """CloseSession; its status, 1 where it is closed."""
    answer = act(client, "CloseSession", b"", options)
    assert answer is not None
    return numbers(answer).get(1, 0)


class Cookies(flight.ClientMiddlewareFactory):
    """A client that keeps cookies, which pyarrow's does not by itself; `seen` are all that the server set."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self.seen: list[str] = []

    def start_call(self, _info: flight.CallInfo) -> flight.ClientMiddleware:
        return _KeepCookies(self)

    def connect(self, uri: str) -> flight.FlightClient:
        """A client to `uri` with these cookies."""
        return flight.connect(uri, middleware=[self])


class _KeepCookies(flight.ClientMiddleware):
    def __init__(self, cookies: Cookies) -> None:
        self.cookies = cookies

    def sending_headers(self) -> dict[str, str]:
        kept = "; ".join(f"{name}={value}" for name, value in self.cookies.kept.items())
        return {"cookie": kept} if kept else {}

    def received_headers(self, headers: Mapping[str, list[str]]) -> None:
        for header in headers.get("set-cookie", []):
            self.cookies.seen.append(header)
            name, _, value = header.split(";")[0].partition("=")
            if "Max-Age=0" in header:
                self.cookies.kept.pop(name, None)
            else:
                self.cookies.kept[name] = value


def _entry(name: str, value: bytes) -> bytes:
    return length_delimited(1, text(1, name) + length_delimited(2, value))


def _entries(message: bytes) -> list[tuple[str, bytes]]:
    fields = [dict(length_delimited_fields(entry)) for _, entry in length_delimited_fields(message)]
    return [(entry[1].decode(), entry.get(2, b"")) for entry in fields]


def _option(value: Any) -> bytes:
    match value:
        case None:
            return b""
        case bool():
            return number(2, int(value))
        case str():
            return text(1, value)
        case int():
            return bytes([3 << 3 | 1]) + struct.pack("<q", value)
        case float():
            return bytes([4 << 3 | 1]) + struct.pack("<d", value)
    raise AssertionError(f"no option holds {value!r}")


def _value(option: bytes) -> Any:
    match option[0] >> 3:
        case 1:
            return dict(length_delimited_fields(option))[1].decode()
        case 3:
            return struct.unpack("<q", option[1:])[0]
        case 4:
            return struct.unpack("<d", option[1:])[0]
    raise AssertionError(f"an option that is not known: {option!r}")
