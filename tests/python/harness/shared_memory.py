"""A client of the shared memory protocol: a ticket's rows as arrays that lie in the server's own memory.

The server answers over a unix socket. Its frames say which memory files to map (their descriptors come along) and where
in them the arrays' buffers are; of the values only those go over the socket that lie in no memory file.

    frame := u32 length of header | u32 length of inline bytes | header, JSON | inline bytes      (little endian)
"""

from __future__ import annotations

import array
import base64
import ctypes
import json
import mmap
import os
import socket
import struct
import urllib.parse
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight

LENGTHS = struct.Struct("<II")
LOCAL_HEADER = "x-jetbridge-local"
# As many as Linux passes with one message at the most.
MAX_DESCRIPTORS = 253
RECEIVE_BYTES = 1 << 20
TIMEOUT_S = 30.0
INLINE = -1
_DESCRIPTOR_BYTES = array.array("i").itemsize

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value


class MemoryRefusedError(Exception):
    """The server's `error` frame."""

    def __init__(self, said: dict[str, Any]) -> None:
        super().__init__(f"{said['code_name']}: {said['message']}")
        self.code_name: str = said["code_name"]


@dataclass(frozen=True)
class Shared:
    """All of one answer."""

    schema: pa.Schema
    batches: list[pa.RecordBatch]
    # Where each batch came from: `memory`, `disk` or `store`.
    sources: list[str]

    @property
    def table(self) -> pa.Table:
        return pa.Table.from_batches(self.batches, self.schema)


class SharedMemory:
    """One connection. What it has mapped stays valid for as long as arrays show it, whatever the connection does."""

    def __init__(self, uri: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(urllib.parse.unquote(uri.removeprefix("unix://")))
        # Bytes that came and were not read yet.
        self._waiting = bytearray()
        self._descriptors: deque[int] = deque()
        # By the server's number: what it sent on this connection and was not released, it does not send again.
        self._segments: dict[int, pa.Buffer] = {}

    def __enter__(self) -> SharedMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def segments(self) -> dict[int, int]:
        """The memory files that are mapped, with their bytes."""
        return {number: buffer.size for number, buffer in self._segments.items()}

    def read(self, ticket: bytes) -> Shared:
        """The rows of a ticket."""
        self.ask(ticket)
        said, _ = self.frame()
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(said["schema"])))
        batches, sources = [], []
        for said, inline in self._until_end():
            assert said["index"] == len(batches), "a batch is missing"
            columns = [
                self._array(field.type, column, inline) for field, column in zip(schema, said["columns"], strict=True)
            ]
            batches.append(_batch(schema, columns, said["rows"]))
            sources.append(said["source"])
        return Shared(schema, batches, sources)

    def ask(self, ticket: bytes) -> None:
        """Begins a read."""
        self.send({"get": {"ticket": base64.b64encode(ticket).decode()}})

    def release(self, numbers: Sequence[int]) -> None:
        """Tells the server that these are not needed any more; arrays that show them stay valid none the less."""
        for number in numbers:
            del self._segments[number]
        self.send({"release": list(numbers)})

    def close(self) -> None:
        """Lets go of all leases."""
        self.socket.close()
        self._segments = {}
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def send(self, header: dict[str, Any], inline: bytes = b"") -> None:
        """One frame to the server."""
        text = json.dumps(header).encode()
        self.socket.sendall(LENGTHS.pack(len(text), len(inline)) + text + inline)

    def frame(self) -> tuple[dict[str, Any], pa.Buffer]:
        """The next frame that is not about segments; those are mapped."""
        while True:
            said, inline = self._next()
            if "error" in said:
                raise MemoryRefusedError(said["error"])
            if "segments" not in said:
                return said, inline
            for segment in said["segments"]:
                descriptor = self._descriptors.popleft()
                try:
                    self._segments[segment["id"]] = mapped(descriptor, segment["bytes"])
                finally:
                    os.close(descriptor)

    def _until_end(self) -> Iterator[tuple[dict[str, Any], pa.Buffer]]:
        count = 0
        while True:
            said, inline = self.frame()
            if "end" in said:
                assert said["end"]["batches"] == count, f"{count} batches came, not {said['end']['batches']}"
                return
            count += 1
            yield said["batch"], inline

    def _next(self) -> tuple[dict[str, Any], pa.Buffer]:
        self._fill(LENGTHS.size)
        header_bytes, inline_bytes = LENGTHS.unpack_from(self._waiting)
        begin = LENGTHS.size + header_bytes
        self._fill(begin + inline_bytes)
        header = json.loads(self._waiting[LENGTHS.size : begin])
        # Not Python's own bytes, whose addresses are no multiples of 64.
        inline = pa.allocate_buffer(inline_bytes)
        memoryview(inline).cast("B")[:] = self._waiting[begin : begin + inline_bytes]
        del self._waiting[: begin + inline_bytes]
        return header, inline

    def _fill(self, size: int) -> None:
        """Receives until so many bytes wait. Descriptors come in the order of the segments that they belong to."""
        while len(self._waiting) < size:
            space = socket.CMSG_SPACE(MAX_DESCRIPTORS * _DESCRIPTOR_BYTES)
            data, ancillary, flags, _ = self.socket.recvmsg(RECEIVE_BYTES, space, socket.MSG_CMSG_CLOEXEC)
            assert not flags & socket.MSG_CTRUNC, "descriptors were lost"
            for level, kind, content in ancillary:
                assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
                self._descriptors.extend(array.array("i", content))
            if not data:
                raise ConnectionError("the server closed the connection")
            self._waiting += data

    def _array(self, kind: pa.DataType, said: dict[str, Any], inline: pa.Buffer) -> pa.Array:
        if isinstance(kind, pa.BaseExtensionType):
            return pa.ExtensionArray.from_storage(kind, self._array(kind.storage_type, said, inline))
        if isinstance(kind, pa.DictionaryType):
            (values,) = said["children"]
            indices = self._array(kind.index_type, {**said, "children": []}, inline)
            return pa.DictionaryArray.from_arrays(
                indices, self._array(kind.value_type, values, inline), ordered=kind.ordered, safe=False
            )
        buffers = [self._buffer(place, inline) for place in (said["validity"], *said["buffers"])]
        children = None
        if said["children"]:
            fields = [kind.field(number) for number in range(kind.num_fields)]
            children = [
                self._array(field.type, child, inline) for field, child in zip(fields, said["children"], strict=True)
            ]
        return pa.Array.from_buffers(kind, said["length"], buffers, said["nulls"], said["offset"], children)

    def _buffer(self, place: list[int] | None, inline: pa.Buffer) -> pa.Buffer | None:
        if place is None:
            return None
        segment, offset, length = place
        return (inline if segment == INLINE else self._segments[segment]).slice(offset, length)


class _Mapping:
    """A memory file mapped read-only, until nobody refers to it.

    Not Python's own `mmap`, which keeps a descriptor of each file.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self.address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        self._size = size
        if self.address == _FAILED:
            self._size = 0
            raise OSError(ctypes.get_errno(), "a segment cannot be mapped")

    def __del__(self) -> None:
        if self._size:
            _libc.munmap(self.address, self._size)


def mapped(descriptor: int, size: int) -> pa.Buffer:
    """The file's bytes."""
    mapping = _Mapping(descriptor, size)
    return pa.foreign_buffer(mapping.address, size, mapping)


def plan_local(client: flight.FlightClient, asked: flight.FlightDescriptor) -> tuple[flight.FlightInfo, str]:
    """What would be read, and the URI of the shared memory that the server offers for it."""
    options = flight.FlightCallOptions(headers=[(LOCAL_HEADER.encode(), b"unix,memory")])
    info = client.get_flight_info(asked, options)
    uris = {json.loads(endpoint.app_metadata)["memory"] for endpoint in info.endpoints}
    assert len(uris) == 1, f"not one place of shared memory: {uris}"
    return info, uris.pop()


def read_shared(connection: SharedMemory, info: flight.FlightInfo) -> Shared:
    """Every endpoint in order."""
    answers = [connection.read(endpoint.ticket.ticket) for endpoint in info.endpoints]
    for answer in answers:
        assert answer.schema.equals(info.schema, check_metadata=True), "the stream's schema is not the info's"
    batches = [batch for answer in answers for batch in answer.batches]
    return Shared(info.schema, batches, [source for answer in answers for source in answer.sources])


def _batch(schema: pa.Schema, columns: list[pa.Array], rows: int) -> pa.RecordBatch:
    if columns:
        return pa.RecordBatch.from_arrays(columns, schema=schema)
    # Without columns it is a struct without fields that can say how many rows there are.
    return pa.RecordBatch.from_struct_array(pa.array([{}] * rows, pa.struct([])))
