"""The protocol of memory.sock, by hand: frames and descriptors, and arrays of numbers in place."""

from __future__ import annotations

import array
import base64
import json
import mmap
import os
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

PREFIX = struct.Struct("<II")
MAX_DESCRIPTORS = 128
TIMEOUT_S = 30.0


def socket_path(uri: str) -> Path:
    """The file that a `unix://` or `grpc+unix://` URI names."""
    return Path(unquote(urlparse(uri).path))


@dataclass
class Frame:
    """One frame of the server: its kind, what is said, and what came along."""

    kind: str
    said: Any
    inline: bytes
    descriptors: list[int]


@dataclass
class Connection:
    """A connection to shared memory, and what it has mapped."""

    path: Path
    mapped: dict[int, mmap.mmap] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(str(self.path))

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def say(self, **header: Any) -> None:
        """Sends one frame."""
        text = json.dumps(header).encode()
        self.socket.sendall(PREFIX.pack(len(text), 0) + text)

    def get(self, ticket: bytes) -> list[dict[str, Any]]:
        """The batches of a ticket as the server describes them; maps what is handed over."""
        self.say(get={"ticket": base64.b64encode(ticket).decode()})
        batches = []
        while (frame := self.hear()).kind not in ("end", "error"):
            if frame.kind == "segments":
                self.map(frame)
            elif frame.kind == "batch":
                batches.append({**frame.said, "inline": frame.inline})
        assert frame.kind == "end", frame
        assert frame.said == {"batches": len(batches)}
        return batches

    def buffer(self, batch: dict[str, Any], place: list[int]) -> memoryview:
        """The bytes of a buffer, in place."""
        segment, offset, length = place
        memory = batch["inline"] if segment == -1 else self.mapped[segment]
        return memoryview(memory)[offset : offset + length]

    def hear(self) -> Frame:
        """The next frame; an end of the connection is an EOFError."""
        prefix, descriptors = b"", array.array("i")
        space = socket.CMSG_SPACE(MAX_DESCRIPTORS * descriptors.itemsize)
        while len(prefix) < PREFIX.size:
            some, ancillary, _, _ = self.socket.recvmsg(PREFIX.size - len(prefix), space)
            if not some:
                raise EOFError
            prefix += some
            for level, kind, data in ancillary:
                assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
                descriptors.frombytes(data)
        header_bytes, inline_bytes = PREFIX.unpack(prefix)
        header = json.loads(self.exactly(header_bytes))
        ((kind, said),) = header.items()
        return Frame(kind, said, self.exactly(inline_bytes), list(descriptors))

    def exactly(self, count: int) -> bytes:
        """So many bytes."""
        got = bytearray()
        while len(got) < count:
            some = self.socket.recv(count - len(got))
            if not some:
                raise EOFError
            got += some
        return bytes(got)

    def map(self, frame: Frame) -> None:
        """Maps what a frame hands over."""
        assert len(frame.said) == len(frame.descriptors)
        for segment, descriptor in zip(frame.said, frame.descriptors, strict=True):
            assert os.fstat(descriptor).st_size >= segment["bytes"]
            self.mapped[segment["id"]] = mmap.mmap(descriptor, segment["bytes"], prot=mmap.PROT_READ)
            os.close(descriptor)
