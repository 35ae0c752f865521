"""Calls by hand: the frames of HTTP/2 over a plain socket, for clients that no library is."""

from __future__ import annotations

import socket
import struct
import urllib.parse
from collections.abc import Mapping

import h2.config
import h2.connection
import h2.events
import h2.settings

SERVICE = "/arrow.flight.protocol.FlightService"
DO_GET = f"{SERVICE}/DoGet"
TIMEOUT_S = 60.0
RECEIVE_BYTES = 1 << 18
LARGEST_WINDOW = 2**31 - 1


class RefusedError(Exception):
    """A call that was answered with another status than 0."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"{status}: {words}")
        self.status, self.words = status, words


class RawClient:
    """One connection. `window_bytes` is what the server may send ahead on each stream."""

    def __init__(self, uri: str, window_bytes: int = LARGEST_WINDOW) -> None:
        self.socket = connect(uri)
        self._protocol = _protocol(window_bytes)
        self._authority = uri.rpartition("/")[2]
        # By stream: what came and was not taken yet, and the trailers of those that ended.
        self.data: dict[int, bytearray] = {}
        self.trailers: dict[int, dict[str, str]] = {}
        self.resets: dict[int, int] = {}
        self.flush()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def do_get(self, ticket: bytes) -> int:
        """Asks; the stream's number."""
        return self.ask(DO_GET, ticket_message(ticket))

    def ask(self, path: str, message: bytes) -> int:
        """Begins a call with one gRPC message; the stream's number."""
        stream = self._protocol.get_next_available_stream_id()
        self._protocol.send_headers(stream, request_headers(self._authority, path=path))
        self._protocol.send_data(stream, message, end_stream=True)
        self.data[stream] = bytearray()
        self.flush()
        return stream

    def call(self, method: str, message: bytes) -> bytes:
        """A call of one message each way; fails with the server's words where it is refused."""
        stream = self.ask(f"{SERVICE}/{method}", framed(message))
        taken = 0
        while stream not in self.trailers:
            self.receive()
            # What came may come again: otherwise the connection's window is used up some day.
            if more := len(self.data[stream]) - taken:
                self.allow_connection(more)
                taken += more
        trailers = self.trailers[stream]
        if trailers.get("grpc-status") != "0":
            raise RefusedError(int(trailers["grpc-status"]), urllib.parse.unquote(trailers.get("grpc-message", "")))
        (answer,) = messages(self.data[stream])
        return answer

    def allow(self, stream: int, more_bytes: int) -> None:
        """Lets the server send so many bytes more on a stream."""
        self._protocol.increment_flow_control_window(more_bytes, stream)
        self.flush()

    def allow_connection(self, more_bytes: int) -> None:
        """Lets the server send so many bytes more on all streams together."""
        self._protocol.increment_flow_control_window(more_bytes)
        self.flush()

    def reset(self, stream: int) -> None:
        """Ends a stream from this side."""
        self._protocol.reset_stream(stream)
        self.flush()

    def receive(self) -> None:
        """Takes what the socket has; fails where that is nothing for too long."""
        received = self.socket.recv(RECEIVE_BYTES)
        if not received:
            raise ConnectionError("the server closed the connection")
        for event in self._protocol.receive_data(received):
            match event:
                case h2.events.DataReceived():
                    self.data[event.stream_id] += event.data
                case h2.events.TrailersReceived():
                    self.trailers[event.stream_id] = dict(event.headers)
                case h2.events.ResponseReceived() if "grpc-status" in dict(event.headers):
                    self.trailers[event.stream_id] = dict(event.headers)
                case h2.events.StreamReset():
                    self.resets[event.stream_id] = int(event.error_code)
        self.flush()

    def flush(self) -> None:
        """Sends what the protocol has to say."""
        self.socket.sendall(self._protocol.data_to_send())


def connect(uri: str) -> socket.socket:
    """A plain connection to the server's port."""
    host, _, port = uri.rpartition("/")[2].rpartition(":")
    return socket.create_connection((host, int(port)), TIMEOUT_S)


def request_bytes(uri: str, ticket: bytes) -> bytes:
    """All that a client with unbounded windows sends to redeem a ticket, from the connection's first byte on."""
    protocol = _protocol(LARGEST_WINDOW)
    protocol.send_headers(1, request_headers(uri.rpartition("/")[2]))
    protocol.send_data(1, ticket_message(ticket), end_stream=True)
    protocol.increment_flow_control_window(LARGEST_WINDOW - 65_535)
    return protocol.data_to_send()


def request_headers(
    authority: str, extra: Mapping[str, str] | None = None, path: str = DO_GET
) -> list[tuple[str, str]]:
    """What gRPC wants."""
    pseudo = [(":method", "POST"), (":scheme", "http"), (":authority", authority), (":path", path)]
    return [*pseudo, ("content-type", "application/grpc"), ("te", "trailers"), *(extra or {}).items()]


def ticket_message(ticket: bytes) -> bytes:
    """A ticket as Protobuf, in a gRPC message."""
    length, rest = b"", len(ticket)
    while rest >= 0x80:
        length, rest = length + bytes([rest & 0x7F | 0x80]), rest >> 7
    return framed(b"\x0a" + length + bytes([rest]) + ticket)


def framed(message: bytes) -> bytes:
    """A Protobuf message as gRPC sends it."""
    return struct.pack(">BI", 0, len(message)) + message


def messages(data: bytes | bytearray) -> list[bytes]:
    """The whole gRPC messages in what came."""
    found, position = [], 0
    while position + 5 <= len(data):
        (size,) = struct.unpack_from(">I", data, position + 1)
        if position + 5 + size > len(data):
            break
        found.append(bytes(data[position + 5 : position + 5 + size]))
        position += 5 + size
    return found


def _protocol(window_bytes: int) -> h2.connection.H2Connection:
    protocol = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    codes = h2.settings.SettingCodes
    values = {codes.INITIAL_WINDOW_SIZE: window_bytes, codes.MAX_FRAME_SIZE: 2**24 - 1, codes.ENABLE_PUSH: 0}
    protocol.local_settings = h2.settings.Settings(client=True, initial_values=values)
    # What an endpoint may receive is checked against the settings that it has sent.
    protocol.max_inbound_frame_size = 2**24 - 1
    protocol.initiate_connection()
    return protocol
