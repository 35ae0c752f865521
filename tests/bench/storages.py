"""Where the benches' files lie: on a local disk, in an S3 server beside it, and behind a line as long as to a cloud."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.fs as fs

from harness.process import Daemon
from harness.shaping import Shaper
from harness.tpch import lineitem
from harness.weed import Weed
from harness.weed import filesystem as s3_filesystem

# S3 as it is within a cloud: to the first byte of each answer, and on each connection.
FIRST_BYTE_S = 0.03
CONNECTION_BYTES_PER_S = 90e6

LOCAL = "local files"
S3 = "S3 beside it"
SHAPED = f"S3 at {FIRST_BYTE_S * 1e3:.0f} ms and {CONNECTION_BYTES_PER_S / 1e6:.0f} MB/s a connection"

# What tpchgen-cli calls the compressions, by what the report calls them.
COMPRESSIONS = {"snappy": "SNAPPY", "zstd": "ZSTD(1)"}
BUCKET = "tpch"


@dataclass(frozen=True)
class Storage:
    """Where one copy of lineitem is, and how each side reaches it; it travels to the processes that read."""

    place: str
    compression: str
    uri: str
    # pyarrow's way: what makes the file system (in the process that reads), and the folder in it.
    filesystem: Callable[[], fs.FileSystem]
    folder: str
    # What a server that mounts it has in its environment.
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def remote(self) -> bool:
        return self.place != LOCAL


@dataclass(frozen=True)
class Storages:
    """Every copy, by place and compression, and the programs that serve them."""

    copies: Mapping[tuple[str, str], Storage]
    s3_server: Daemon
    shaper: Daemon

    def at(self, place: str, compression: str) -> Storage:
        """The copy in this place and compression."""
        return self.copies[place, compression]


@contextlib.contextmanager
def opened(work_dir: Path, scale_factor: float) -> Iterator[Storages]:
    """Makes the files where they are missing, and serves a copy of them by a real S3 server on this machine."""
    folders = {name: lineitem(work_dir, scale_factor, words) for name, words in COMPRESSIONS.items()}
    weed = Weed()
    try:
        shaper = Shaper(weed.port, work_dir / "shaper.log", FIRST_BYTE_S, CONNECTION_BYTES_PER_S)
        try:
            ports = {S3: weed.port, SHAPED: shaper.port}
            copies = {}
            for name, folder in folders.items():
                copies[LOCAL, name] = Storage(LOCAL, name, f"file://{folder}", fs.LocalFileSystem, str(folder))
                uri = weed.upload(folder, BUCKET, name)
                copies.update({(place, name): s3_copy(place, port, name, uri) for place, port in ports.items()})
            yield Storages(copies, weed.daemon, shaper.daemon)
        finally:
            shaper.stop()
    finally:
        weed.stop()


def s3_copy(place: str, port: int, name: str, uri: str) -> Storage:
    """The copy in the bucket, as it is reached by this port."""
    variables = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ALLOW_HTTP": "true", **Weed.credentials()}
    return Storage(place, name, uri, functools.partial(s3_filesystem, port), f"{BUCKET}/{name}", variables)
