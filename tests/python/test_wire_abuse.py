"""Clients that no library is: windows of a byte, silence, resets anywhere, thousands at once, sudden death.

The server lives, others are served meanwhile, what is answered is right, and all that a client held is free a second
after it has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.flight as flight
import pytest

from harness import files
from harness.compare import assert_same
from harness.flight import by_path, fetch, read
from harness.http2 import DO_GET, RawClient, connect, messages, request_bytes, ticket_message
from harness.metrics import total
from harness.server import Server

MIB = 1 << 20
MEMORY_BYTES = 256 * MIB
ALLOWANCE_BYTES = 256 * MIB
# A second, with room for a busy machine.
GONE_TIMEOUT_S = 10.0
PUBLISHED_EVERY_S = 2.0
WAIT_S = 60.0
LARGE_ROWS = 2_000_000
RESET_BELOW_BYTES = 64 << 10
# A prime, so that frames, messages and buffers are cut in all kinds of places.
RESET_STEP_BYTES = 37
STREAM_RESET_STEP_BYTES = 499
# Streams that are open at once where every byte is one to reset at, and what they may leave behind all together.
RESET_GROUP = 32
RESET_GROWTH_BYTES = 32 * MIB
SILENT_STREAMS = 32
TICKETS = 10_000
CHANNELS = 10


@pytest.fixture
def server(start_server: Callable[..., Server], tmp_path: Path) -> Server:
    """Few bytes in `/lake/small`, many in `/lake/large`; a budget that could be exceeded."""
    files.write(tmp_path / "lake/small/t.parquet", files.numbers(100))
    numbers = np.arange(LARGE_ROWS)
    files.write(tmp_path / "lake/large/t.parquet", {"n": numbers, "m": numbers * 7, "x": numbers / 3})
    running: Server = start_server(
        mounts={"/lake": f"file://{tmp_path / 'lake'}"}, args=["--memory", str(MEMORY_BYTES), "--ticket-ttl", "1h"]
    )
    for _ in range(3):
        fetch(running.client, by_path("/lake/large"))
        fetch(running.client, by_path("/lake/small"))
    return running


@pytest.mark.parametrize("window_bytes", [1, 7, 100])
def test_tiny_windows(server: Server, window_bytes: int) -> None:
    """Byte by byte the same comes as at once, and others are served meanwhile."""
    ticket = ticket_of(server, "/lake/small")
    expected = whole_answer(server, ticket)
    with RawClient(server.flight_uri, window_bytes) as client:
        stream = client.do_get(ticket)
        while stream not in client.trailers:
            before = len(client.data[stream])
            client.receive()
            came = len(client.data[stream]) - before
            assert came <= window_bytes
            if came and stream not in client.trailers:
                client.allow(stream, came)
            if before == 0:
                assert read(server.client, "/lake/small").num_rows == 100
        assert client.trailers[stream]["grpc-status"] == "0"
        assert client.data[stream] == expected
    wait_until_free(server)


def test_windows_that_never_open(server: Server) -> None:
    """Nothing may be sent, and nothing is; the streams cost next to nothing and go with the connection."""
    ticket = ticket_of(server, "/lake/large")
    with RawClient(server.flight_uri, window_bytes=0) as client:
        silent = [client.do_get(ticket) for _ in range(SILENT_STREAMS)]
        wait_until(lambda: streams(server) == SILENT_STREAMS, "all are open")
        assert fetch(server.client, by_path("/lake/large")).rows == LARGE_ROWS
        assert not any(client.data[stream] for stream in silent)
        assert resident_bytes(server) < MEMORY_BYTES + ALLOWANCE_BYTES
    wait_until_free(server)


def test_a_client_that_never_reads(server: Server) -> None:
    """Windows are wide open, but the socket is not read."""
    request = request_bytes(server.flight_uri, ticket_of(server, "/lake/large"))
    with contextlib.ExitStack() as stack:
        for _ in range(SILENT_STREAMS):
            stack.enter_context(connect(server.flight_uri)).sendall(request)
        wait_until(lambda: streams(server) == SILENT_STREAMS, "all are open")
        for _ in range(3):
            assert fetch(server.client, by_path("/lake/large")).rows == LARGE_ROWS
        assert resident_bytes(server) < MEMORY_BYTES + ALLOWANCE_BYTES
    wait_until_free(server)


def test_connections_cut_at_any_byte(server: Server) -> None:
    """By a reset of TCP, in the midst of frames, messages and buffers."""
    request = request_bytes(server.flight_uri, ticket_of(server, "/lake/large"))
    cuts = range(0, RESET_BELOW_BYTES, RESET_STEP_BYTES)
    for cut in cuts:
        with connect(server.flight_uri) as client:
            # With no time to linger, closing sends a reset and drops what was not read.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(request)
            left_bytes = cut
            while left_bytes:
                received = client.recv(left_bytes)
                assert received, "the server closed the connection"
                left_bytes -= len(received)
    assert len(cuts) > 1_000
    wait_until_free(server)
    assert fetch(server.client, by_path("/lake/large")).rows == LARGE_ROWS


def test_streams_reset_at_any_byte(server: Server) -> None:
    """By a frame of HTTP/2; the connection and its other streams go on."""
    ticket = ticket_of(server, "/lake/large")
    with RawClient(server.flight_uri, window_bytes=RESET_BELOW_BYTES) as client:
        client.allow_connection(1 << 30)
        cuts = range(0, RESET_BELOW_BYTES, STREAM_RESET_STEP_BYTES)
        for cut_bytes in cuts:
            stream = client.do_get(ticket)
            while len(client.data[stream]) < cut_bytes:
                client.receive()
            client.reset(stream)
        assert len(cuts) > 100
        stream = client.do_get(ticket_of(server, "/lake/small"))
        while stream not in client.trailers:
            client.receive()
        assert client.trailers[stream]["grpc-status"] == "0"
        wait_until_free(server)


@pytest.mark.long
@pytest.mark.timeout(1_200)
def test_streams_reset_at_every_byte(server: Server) -> None:
    """Each stream may send so many bytes and no more, and is reset when they are there; a group of them at a time."""
    ticket = ticket_of(server, "/lake/large")
    expected = read(server.client, "/lake/large")
    before_bytes = status_bytes(server, "VmRSS")
    with RawClient(server.flight_uri, window_bytes=0) as client:
        for first in range(0, RESET_BELOW_BYTES, RESET_GROUP):
            cuts = {client.do_get(ticket): cut_bytes for cut_bytes in range(first, first + RESET_GROUP)}
            client.allow_connection(sum(cuts.values()))
            for stream, cut_bytes in cuts.items():
                if cut_bytes:
                    client.allow(stream, cut_bytes)
            while any(len(client.data[stream]) < cut_bytes for stream, cut_bytes in cuts.items()):
                client.receive()
            for stream, cut_bytes in cuts.items():
                assert len(client.data.pop(stream)) == cut_bytes
                client.reset(stream)
        assert not client.trailers
        assert not client.resets
        wait_until_free(server)
        grown_bytes = status_bytes(server, "VmRSS") - before_bytes
        print(f"grown by {grown_bytes / MIB:.1f} MiB; the most ever {resident_bytes(server) / MIB:.0f} MiB")
        assert grown_bytes < RESET_GROWTH_BYTES
        assert resident_bytes(server) < MEMORY_BYTES + ALLOWANCE_BYTES
        assert read(server.client, "/lake/large").equals(expected)


def test_ten_thousand_tickets_at_once(server: Server) -> None:
    """Each is answered rightly or turned away for now; some are answered, and memory stays bounded."""
    ticket = ticket_of(server, "/lake/small")
    expected = messages(whole_answer(server, ticket))
    codes = asyncio.run(redeem_at_once(server, ticket, expected))
    print(f"answers: {dict(codes)}; resident {resident_bytes(server) / MIB:.0f} MiB")
    assert codes.total() == TICKETS
    assert codes["OK"] > 0
    assert codes["OK"] + codes["UNAVAILABLE"] == TICKETS, codes
    assert resident_bytes(server) < MEMORY_BYTES + ALLOWANCE_BYTES
    wait_until_free(server)
    assert fetch(server.client, by_path("/lake/small")).rows == 100


@pytest.mark.parametrize("kind", [pa.binary(), pa.string_view(), pa.list_(pa.int64())], ids=str)
@pytest.mark.parametrize("limit_bytes", [None, 64 << 10])
def test_a_row_larger_than_a_message_may_be(
    server: Server, tmp_path: Path, kind: pa.DataType, limit_bytes: int | None
) -> None:
    """It is sent whole; the rows beside it are not affected."""
    large = list(range(600_000)) if pa.types.is_list(kind) else ("x" * 5_000_000).encode()
    small = [1, 2] if pa.types.is_list(kind) else b"small"
    values = pa.array([small, large if not pa.types.is_string_view(kind) else large.decode(), small, None], kind)
    expected = files.write(tmp_path / "lake/row/t.parquet", {"n": list(range(4)), "value": values})
    headers = [(b"x-jetbridge-max-message-bytes", b"%d" % limit_bytes)] if limit_bytes else []
    endpoints = server.client.get_flight_info(by_path("/lake/row")).endpoints
    options = flight.FlightCallOptions(headers=headers)
    tables = [server.client.do_get(endpoint.ticket, options).read_all() for endpoint in endpoints]
    assert_same(pa.concat_tables(tables), expected)


def test_a_killed_client_frees_all(server: Server) -> None:
    """Several streams, each in the midst of its rows."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    ticket = ticket_of(server, "/lake/large")
    process = context.Process(target=stall, args=(server.flight_uri, ticket, theirs), daemon=True)
    process.start()
    assert ours.poll(WAIT_S), "the client came to nothing"
    assert streams(server) == ours.recv() > 0
    process.kill()
    process.join()
    wait_until_free(server)


def ticket_of(server: Server, path: str) -> bytes:
    """A ticket for the first part of a path."""
    return server.client.get_flight_info(by_path(path)).endpoints[0].ticket.ticket


def whole_answer(server: Server, ticket: bytes) -> bytes:
    """All bytes of an answer's body."""
    with RawClient(server.flight_uri) as client:
        stream = client.do_get(ticket)
        while stream not in client.trailers:
            client.receive()
        assert client.trailers[stream]["grpc-status"] == "0"
        return bytes(client.data[stream])


async def redeem_at_once(server: Server, ticket: bytes, expected: list[bytes]) -> Counter[str]:
    """How many calls ended with which code; fails on an answer that is not what it should be."""
    target = server.flight_uri.rpartition("/")[2]
    options = [("grpc.use_local_subchannel_pool", 1)]
    request = ticket_message(ticket)[5:]

    async def one(channel: grpc.aio.Channel) -> str:
        try:
            got = [message async for message in channel.unary_stream(DO_GET)(request, wait_for_ready=True)]
        except grpc.aio.AioRpcError as error:
            return error.code().name
        assert got == expected, "another answer than before"
        return "OK"

    channels = [grpc.aio.insecure_channel(target, options) for _ in range(CHANNELS)]
    try:
        return Counter(await asyncio.gather(*(one(channels[number % CHANNELS]) for number in range(TICKETS))))
    finally:
        for channel in channels:
            await channel.close()


def stall(uri: str, ticket: bytes, told: Connection) -> None:
    """A client that has begun to read, and goes on no further."""
    clients = [flight.connect(uri) for _ in range(4)]
    readers = [client.do_get(flight.Ticket(ticket)) for client in clients]
    for reader in readers:
        assert reader.read_chunk().data.num_rows
    told.send(len(readers))
    time.sleep(60)


def wait_until(seen: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
    """Waits for a condition."""
    deadline_s = time.monotonic() + timeout_s
    while not seen():
        assert time.monotonic() < deadline_s, f"still not after {timeout_s} s: {what}"
        time.sleep(0.01)


def wait_until_free(server: Server) -> None:
    """Until no stream is open and scans hold nothing; fails where that takes longer than promised."""
    wait_until(lambda: streams(server) == 0, "no stream is open", GONE_TIMEOUT_S)
    # What the budget has is published now and then.
    wait_until(lambda: scan_bytes(server) == 0, "scans hold nothing", GONE_TIMEOUT_S + PUBLISHED_EVERY_S)


def streams(server: Server) -> float:
    """Streams that are open."""
    return total(server.admin_uri, "jetbridge_flight_streams")


def scan_bytes(server: Server) -> float:
    """Bytes of the budget that scans hold."""
    return total(server.admin_uri, "jetbridge_cache_budget_used_bytes", purpose="scans")


def resident_bytes(server: Server) -> int:
    """The most that the server has had resident."""
    return status_bytes(server, "VmHWM")


def status_bytes(server: Server, name: str) -> int:
    """What the kernel says of the server's memory."""
    lines = Path(f"/proc/{server.daemon.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
