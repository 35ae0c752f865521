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
    """One byte field, text or nested message of a protobuf message."""
    return _to_varint(number << 3 | 2) + _to_varint(len(value)) + value


def number(field: int, value: int) -> bytes:
    """One varint field of a protobuf message; a negative one takes ten bytes, as protobuf has it."""
    return _to_varint(field << 3) + _to_varint(value % 2**64)


def numbers(message: bytes) -> dict[int, int]:
    """The varint fields of a protobuf message."""
    found, at = {}, 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 0:
            found[key >> 3], at = _varint(message, at)
        elif key & 7 == 2:
            size, at = _varint(message, at)
            at += size
        else:
            at += 8 if key & 7 == 1 else 4
    return found


def _to_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
