"""Programs that receive: pyarrow's Flight client and ADBC's, dropping batches or keeping tables, and a plain socket.

Every function is called in a process of its own that has done so before, once for each measurement.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import adbc_driver_flightsql
import adbc_driver_manager as adbc
import pyarrow as pa
import pyarrow.flight as flight

from serving import RANGE

BUFFER_BYTES = 4 << 20
# gRPC shares connections of one process between its clients where it is not told otherwise.
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


@dataclass(frozen=True)
class Source:
    """What is received: where from, and what to ask for, a part each."""

    uri: str
    tickets: Sequence[bytes]
    # What all of it has as IPC messages, whoever sends it.
    wire_bytes: int
    rows: int


@dataclass(frozen=True)
class Received:
    """What one measurement took."""

    seconds: float
    cpu_s: float
    # From the first call to the first batch.
    first_s: float


# Gives the source's parts as they come: rows of each batch.
Receive = Callable[[Source, Sequence[bytes]], Iterator[int]]


def received(receive: Receive, source: Source, streams: int) -> Received:
    """All of a source on so many connections, each with its share of the tickets."""
    shares = [source.tickets[number::streams] for number in range(streams)]
    start_s, start_cpu_s = time.perf_counter(), time.process_time()

    def one(share: Sequence[bytes]) -> tuple[float, int]:
        rows, first_s = 0, 0.0
        for more in receive(source, share):
            first_s = first_s or time.perf_counter() - start_s
            rows += more
        return first_s, rows

    with ThreadPoolExecutor(streams) as pool:
        done = list(pool.map(one, shares))
    seconds, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    rows = sum(rows for _, rows in done)
    assert rows == source.rows, f"{rows} rows came, not {source.rows}"
    return Received(seconds, cpu_s, min(first_s for first_s, _ in done))


def pyarrow_drop(source: Source, tickets: Sequence[bytes]) -> Iterator[int]:
    """pyarrow.flight, one batch at a time."""
    with flight.connect(source.uri, generic_options=OWN_CONNECTION) as client:
        for ticket in tickets:
            for batch in client.do_get(flight.Ticket(ticket)).to_reader():
                yield batch.num_rows


def pyarrow_keep(source: Source, tickets: Sequence[bytes]) -> Iterator[int]:
    """pyarrow.flight, the parts as tables that are kept to the end."""
    kept = []
    with flight.connect(source.uri, generic_options=OWN_CONNECTION) as client:
        for ticket in tickets:
            kept.append(client.do_get(flight.Ticket(ticket)).read_all())
            yield kept[-1].num_rows


def adbc_drop(source: Source, tickets: Sequence[bytes]) -> Iterator[int]:
    """ADBC's Flight SQL driver, one batch at a time."""
    with adbc_driver_flightsql.connect(source.uri) as database, adbc.AdbcConnection(database) as connection:
        for ticket in tickets:
            for batch in adbc_reader(connection, ticket):
                yield batch.num_rows


def adbc_keep(source: Source, tickets: Sequence[bytes]) -> Iterator[int]:
    """ADBC's Flight SQL driver, the parts as tables that are kept to the end."""
    kept = []
    with adbc_driver_flightsql.connect(source.uri) as database, adbc.AdbcConnection(database) as connection:
        for ticket in tickets:
            kept.append(adbc_reader(connection, ticket).read_all())
            yield kept[-1].num_rows


def adbc_reader(connection: adbc.AdbcConnection, ticket: bytes) -> pa.RecordBatchReader:
    """A ticket that needs no SQL: ADBC redeems the endpoint of any FlightInfo as a partition."""
    endpoint = flight.FlightEndpoint(ticket, [])
    asked = flight.FlightDescriptor.for_command(b"")
    partition = flight.FlightInfo(pa.schema([]), asked, [endpoint], -1, -1).serialize()
    return pa.RecordBatchReader.from_stream(connection.read_partition(partition))


def raw(source: Source, tickets: Sequence[bytes]) -> Iterator[int]:
    """Bytes into one buffer that is used again; a ticket is a range of them. Gives no rows before the last."""
    host, port = source.uri.removeprefix("tcp://").split(":")
    buffer = bytearray(BUFFER_BYTES)
    for ticket in tickets:
        begin, end = RANGE.unpack(ticket)
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(ticket)
            while begin < end:
                got = connection.recv_into(buffer)
                assert got, "the sender ended early"
                begin += got
                yield 0


def round_trips(uri: str, serialized: bytes, count: int) -> list[float]:
    """Seconds of each of so many reads of one batch: GetFlightInfo, then DoGet, on a connection that is there."""
    asked, times = flight.FlightDescriptor.deserialize(serialized), []
    with flight.connect(uri, generic_options=OWN_CONNECTION) as client:
        for _ in range(count):
            start_s = time.perf_counter()
            (endpoint,) = client.get_flight_info(asked).endpoints
            table = client.do_get(endpoint.ticket).read_all()
            times.append(time.perf_counter() - start_s)
            assert table.num_rows
    return times


def misaligned(source: Source, multiple: int) -> tuple[int, int]:
    """Of the buffers of all batches that have bytes: how many are at no such multiple, and how many there are."""
    wrong = seen = 0
    with flight.connect(source.uri) as client:
        for ticket in source.tickets:
            for batch in client.do_get(flight.Ticket(ticket)).to_reader():
                buffers = [buffer for column in batch.columns for buffer in column.buffers() if buffer and buffer.size]
                wrong += sum(buffer.address % multiple != 0 for buffer in buffers)
                seen += len(buffers)
    return wrong, seen
