"""The calls that pyarrow's client does not make, by plain gRPC: PollFlightInfo and Handshake."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import pyarrow.flight as flight

SERVICE = "/arrow.flight.protocol.FlightService"
CALL_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class PollInfo:
    """What PollFlightInfo gives: the whole info so far, and how to ask again, if there is more to come."""

    info: flight.FlightInfo
    next_descriptor: bytes | None


def poll(uri: str, asked: flight.FlightDescriptor) -> PollInfo:
    """One PollFlightInfo call."""
    with grpc.insecure_channel(uri.removeprefix("grpc://")) as channel:
        answer = channel.unary_unary(f"{SERVICE}/PollFlightInfo")(asked.serialize(), timeout=CALL_TIMEOUT_S)
    fields = dict(length_delimited_fields(answer))
    return PollInfo(flight.FlightInfo.deserialize(fields[1]), fields.get(2))


def handshake(uri: str) -> list[bytes]:
    """The answers to an empty, anonymous Handshake."""
    with grpc.insecure_channel(uri.removeprefix("grpc://")) as channel:
        return list(channel.stream_stream(f"{SERVICE}/Handshake")(iter([b""]), timeout=CALL_TIMEOUT_S))


def length_delimited_fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The nested messages and byte fields of a protobuf message; numbers are skipped."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            _, at = _varint(message, at)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            size, at = _varint(message, at)
            yield number, message[at : at + size]
            at += size


def length_delimited(number: int, value: bytes) -> bytes:
    """One byte field of a protobuf message; the value is under 16 KiB."""
    size = len(value)
    prefix = bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
    return bytes([number << 3 | 2]) + prefix + value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
