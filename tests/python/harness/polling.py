"""PollFlightInfo, which pyarrow's client has not: a call by hand, and what its answer says."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pyarrow.flight as flight

from harness.http2 import RawClient

# Fields of PollInfo, and how Protobuf writes them.
INFO, DESCRIPTOR, PROGRESS, EXPIRATION = 1, 2, 3, 4


@dataclass(frozen=True)
class Poll:
    """The answer to one poll; without a descriptor nothing more comes."""

    info: flight.FlightInfo
    next: flight.FlightDescriptor | None
    progress: float | None
    has_expiration: bool


def poll(client: RawClient, descriptor: flight.FlightDescriptor) -> Poll:
    """Polls once."""
    found = _fields(client.call("PollFlightInfo", descriptor.serialize()))
    following = found.get(DESCRIPTOR)
    return Poll(
        flight.FlightInfo.deserialize(found[INFO]),
        flight.FlightDescriptor.deserialize(following) if following is not None else None,
        struct.unpack("<d", found[PROGRESS])[0] if PROGRESS in found else None,
        EXPIRATION in found,
    )


def _fields(message: bytes) -> dict[int, bytes]:
    """The fields of a Protobuf message that hold bytes or a double, by number."""
    found, at = {}, 0
    while at < len(message):
        tag, at = _varint(message, at)
        match tag & 7:
            case 0:
                _, at = _varint(message, at)
                continue
            case 1:
                length = 8
            case 2:
                length, at = _varint(message, at)
            case other:
                raise ValueError(f"a field of kind {other}")
        found[tag >> 3], at = message[at : at + length], at + length
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at
