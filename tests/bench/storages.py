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
from harness.weed import ACCESS_KEY, REGION, SECRET_KEY, Weed
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


@dataclass(frozen=True)
class Bucket:
    """A bucket of a real S3 server on this machine, reached beside it and behind the line."""

    server: Daemon
    shaper: Daemon
    # The port of each place.
    ports: Mapping[str, int]

    def environment(self, place: str) -> dict[str, str]:
        """What programs that read it in this place have in their environment."""
        endpoint = f"http://127.0.0.1:{self.ports[place]}"
        return {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true", **Weed.credentials()}

    def settings(self, place: str) -> dict[str, str]:
        """The same for programs that are told by word."""
        host = f"127.0.0.1:{self.ports[place]}"
        keys = {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY, "region": REGION}
        return {"bucket": BUCKET, "host": host, **keys}


@contextlib.contextmanager
def served(work_dir: Path, folders: Mapping[str, Path]) -> Iterator[Bucket]:
    """Copies of these folders, by their prefixes in the bucket."""
    weed = Weed()
    try:
        shaper = Shaper(weed.port, work_dir / "shaper.log", FIRST_BYTE_S, CONNECTION_BYTES_PER_S)
        try:
            for prefix, folder in folders.items():
                weed.upload(folder, BUCKET, prefix)
            yield Bucket(weed.daemon, shaper.daemon, {S3: weed.port, SHAPED: shaper.port})
        finally:
            shaper.stop()
    finally:
        weed.stop()


@contextlib.contextmanager
def opened(work_dir: Path, scale_factor: float) -> Iterator[Storages]:
    """lineitem in both compressions, made where it is missing, on disk and in a bucket."""
    folders = {name: lineitem(work_dir, scale_factor, words) for name, words in COMPRESSIONS.items()}
    with served(work_dir, folders) as bucket:
        copies = {}
        for name, folder in folders.items():
            copies[LOCAL, name] = Storage(LOCAL, name, f"file://{folder}", fs.LocalFileSystem, str(folder))
            copies.update({(place, name): s3_copy(bucket, place, name) for place in bucket.ports})
        yield Storages(copies, bucket.server, bucket.shaper)


def s3_copy(bucket: Bucket, place: str, name: str) -> Storage:
    """The copy in the bucket, as it is reached in this place."""
    filesystem = functools.partial(s3_filesystem, bucket.ports[place])
    uri = f"s3://{BUCKET}/{name}"
    return Storage(place, name, uri, filesystem, f"{BUCKET}/{name}", bucket.environment(place))
