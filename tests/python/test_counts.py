"""Hits and misses add up: every page and every column chunk that a read needs is counted once, as one or the other.

What a read looks up follows from the footer: of each row group each column once in the chunk tier; and in the page tier
the pages of those column chunks that were not held decoded. Columns that are decoded to be kept (those read for the
second time) are read from their pages together, and so are those that are not (read for the first time).
"""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import files
from harness.flight import act, drain, plan, splits
from harness.metrics import Lookups, lookups, total
from harness.server import Server
from harness.values import array_of
from harness.weed import Weed

STEPS = 120
READERS = 8
FOOTER_BYTES = 64 << 10
KINDS = {
    "n": pa.int64(),
    "x": pa.float64(),
    "flag": pa.bool_(),
    "text": pa.string(),
    "word": pa.dictionary(pa.int8(), pa.string()),
    "tags": pa.list_(pa.int32()),
    "point": pa.struct([("x", pa.int64()), ("label", pa.string())]),
    "day": pa.date32(),
}
# Settings of a server, and the size of its pages.
SERVERS = {
    "disk": ([], 4 << 10),
    "small pages": (["--page-bytes", "4KiB", "--fetch-gap-bytes", "0"], 4 << 10),
    "gaps bridged": (["--page-bytes", "4KiB", "--fetch-gap-bytes", "32KiB"], 4 << 10),
    "memory": (["--cache-dir", "none", "--page-bytes", "16KiB"], 16 << 10),
}

PAIRS = [
    *(("disk", "local"), ("small pages", "local"), ("gaps bridged", "local")),
    *(("small pages", "s3"), ("memory", "s3")),
]

_numbers = itertools.count()


def seed() -> int:
    """`JETBRIDGE_COUNTS_SEED`, or another one each time."""
    number = int(os.environ.get("JETBRIDGE_COUNTS_SEED") or random.randrange(1_000_000))
    print(f"JETBRIDGE_COUNTS_SEED={number}")
    return number


def write(path: Path, rng: random.Random) -> None:
    """A file of several row groups, some of its column chunks with dictionaries."""
    rows = rng.randint(6_000, 12_000)
    columns = {name: array_of(kind, rows, seed=rng.randrange(1_000)) for name, kind in KINDS.items()}
    files.write(
        path,
        pa.table(columns),
        row_group_size=-(-rows // rng.randint(4, 12)),
        compression=rng.choice(("none", "snappy", "zstd")),
        use_dictionary=rng.choice((True, False)),
    )


@dataclass
class Model:
    """What the server must have looked up, by what was read before."""

    metadata: pq.FileMetaData
    page_bytes: int
    touched: set[tuple[int, str]] = field(default_factory=set)
    held: set[tuple[int, str]] = field(default_factory=set)

    def read(self, groups: Iterable[int], columns: Iterable[str]) -> dict[str, int]:
        """Lookups of a read, by tier."""
        expected = {"chunk": 0, "page": 0}
        for group in groups:
            keys = {(group, column) for column in columns}
            expected["chunk"] += len(keys)
            again = keys & self.touched - self.held
            expected["page"] += len(self._pages(again)) + len(self._pages(keys - self.touched))
            self.held |= again
            self.touched |= keys
        return expected

    def _pages(self, keys: Iterable[tuple[int, str]]) -> set[int]:
        """The pages that hold column chunks, each once."""
        return {page for group, column in keys for span in self._spans(group, column) for page in span}

    def _spans(self, group: int, column: str) -> Iterable[range]:
        leaves = self.metadata.row_group(group)
        for index in range(leaves.num_columns):
            chunk = leaves.column(index)
            if chunk.path_in_schema.split(".")[0] == column:
                starts = [chunk.data_page_offset]
                starts += [chunk.dictionary_page_offset] if chunk.dictionary_page_offset else []
                yield pages(min(starts), min(starts) + chunk.total_compressed_size, self.page_bytes)


def pages(start: int, end: int, page_bytes: int) -> range:
    """The pages of a range of bytes."""
    return range(start // page_bytes, -(-end // page_bytes))


def increase(server: Server, before: dict[str, Lookups]) -> dict[str, Lookups]:
    """Lookups since an earlier scrape."""
    return {tier: now.since(before[tier]) for tier, now in lookups(server.admin_uri).items()}


def store_bytes(server: Server) -> float:
    """Bytes that the server has read from storage so far."""
    return total(server.admin_uri, "jetbridge_store_read_bytes_total")


@dataclass(frozen=True)
class Served:
    """A file, and a server that has it at `/f/t.parquet`."""

    server: Server
    file: Path
    page_bytes: int


@pytest.fixture(params=PAIRS, ids="-".join)
def served(
    request: pytest.FixtureRequest,
    start_server: Callable[..., Server],
    tmp_path: Path,
    weed: Weed,
    weed_environment: dict[str, str],
) -> Served:
    """A file of random shape on each kind of server, in each kind of storage."""
    settings, store = request.param
    args, page_bytes = SERVERS[settings]
    rng = random.Random(seed())
    write(tmp_path / "f/t.parquet", rng)
    # Endpoints as small as can be, so that row groups are read one at a time.
    args = [*args, "--endpoint-bytes", "64KiB"]
    server = start_server(file_roots=[tmp_path], args=args, env=weed_environment)
    uri = f"file://{tmp_path}/f" if store == "local" else weed.upload(tmp_path / "f", "counts", str(next(_numbers)))
    options = {"freshness": "immutable", **(weed.options if store == "s3" else {})}
    act(server.client, "mount.add", {"path": "/f", "uri": uri, "options": options})
    return Served(server, tmp_path / "f/t.parquet", page_bytes)


def test_every_lookup_is_a_hit_or_a_miss(served: Served) -> None:
    server, rng = served.server, random.Random(seed())
    model = Model(pq.read_metadata(served.file), served.page_bytes)
    done: Counter[str] = Counter()
    for _ in range(STEPS):
        columns = rng.sample(list(KINDS), rng.randint(1, len(KINDS)))
        info = plan(server.client, "/f/t.parquet", columns=columns)
        at = rng.randrange(len(info.endpoints))
        groups = splits(info)[at]["row_groups"]
        before, asked = lookups(server.admin_uri), store_bytes(server)
        batches, _ = drain(server.client.do_get(info.endpoints[at].ticket))
        assert sum(batch.num_rows for batch in batches) == splits(info)[at]["rows"]
        found, expected = increase(server, before), model.read(groups, columns)
        assert {tier: of.all for tier, of in found.items()} == expected, (columns, groups)
        # No other reader decodes; but pages that an earlier read brought may still be on their way to the disk.
        assert found["chunk"].coalesced == 0
        loaded = found["page"].misses - found["page"].coalesced
        assert loaded >= 0
        assert (loaded > 0) == (store_bytes(server) > asked)
        for tier, of in found.items():
            done.update({f"{tier} hits": int(of.hits), f"{tier} misses": int(of.misses)})
    print(dict(done))
    assert all(done[f"{tier} {kind}"] for tier in ("page", "chunk") for kind in ("hits", "misses"))


def test_a_plan_looks_up_the_footer_once(served: Served) -> None:
    size = served.file.stat().st_size
    expected = [len(pages(max(0, size - FOOTER_BYTES), size, served.page_bytes)), 0]
    for count in expected:
        before = lookups(served.server.admin_uri)
        plan(served.server.client, "/f/t.parquet")
        found = increase(served.server, before)
        assert (found["page"].all, found["chunk"].all) == (count, 0)


def test_chunks_of_many_readers_at_once_add_up(served: Served) -> None:
    server, rng = served.server, random.Random(seed())
    wanted = [rng.sample(list(KINDS), rng.randint(1, len(KINDS))) for _ in range(READERS * 4)]
    groups = pq.read_metadata(served.file).num_row_groups
    clients = [server.connect() for _ in range(READERS)]

    def read(reader: int) -> None:
        with clients[reader] as client:
            for columns in wanted[reader::READERS]:
                for endpoint in plan(client, "/f/t.parquet", columns=columns).endpoints:
                    drain(client.do_get(endpoint.ticket))

    before = lookups(server.admin_uri)
    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(read, range(READERS)))
    found = increase(server, before)
    assert found["chunk"].all == groups * sum(map(len, wanted))
    assert found["chunk"].hits > 0
    for of in found.values():
        assert of.coalesced <= of.misses
