"""Files that claim or unpack to far more than they are: an error to their reader, and no memory goes with it."""

from __future__ import annotations

import base64
import contextlib
import gzip
import itertools
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq
import pytest

from harness import files
from harness.crafted import (
    BINARY,
    BYTE_ARRAY,
    FIXED_LEN_BYTE_ARRAY,
    LIST,
    RLE_DICTIONARY,
    STRUCT,
    Codec,
    File,
    Kind,
    Page,
    Struct,
    deep_field,
    nested_schema,
    with_footer,
)
from harness.errors import allow_error, expect_error
from harness.flight import act, chunks, plan, read
from harness.server import Server

MIB = 1 << 20
LARGEST_PAGE_BYTES = 2**31 - 1
# The server's budget, and what a read of a hostile file may take at its peak beside what the server took before: what
# is within the budget, and as much as everything else may take.
MEMORY = ["--memory", "256MiB"]
# The budget, and half as much for what allocators and sockets keep; 298 to 342 MiB were seen of one file.
MOST_GROWTH_BYTES = 384 * MIB
# One frame, and how many of them follow each other; all in all 4 GiB where frames may follow each other.
FRAME_BYTES, FRAMES = 64 * MIB, 64
VALUES = 1_000
# The same index so often: VALUES, shifted by one, as a varint.
RUN_OF_ALL = bytes([VALUES << 1 & 0x7F | 0x80, VALUES >> 6])
FUZZ_TRIES = 60
SEED = 3


@dataclass(frozen=True)
class Trap:
    """A server that nobody else uses, with a folder that has a good file in it."""

    server: Server
    folder: Path

    def set(self, raw: bytes) -> None:
        """Puts the hostile file beside the good one."""
        (self.folder / "bad.parquet").write_bytes(raw)

    def assert_refused(self, *kinds: str) -> None:
        """Reading it fails as it should, again and again, and that costs neither memory nor the good file."""
        with self.harmless():
            for _ in range(3):
                with expect_error(kinds, "bad"):
                    read(self.server.client, "/t/bad.parquet")

    def stream(self) -> Iterator[flight.FlightStreamChunk]:
        """The chunks of the hostile file, one at a time."""
        for endpoint in plan(self.server.client, "/t/bad.parquet").endpoints:
            yield from chunks(self.server.client.do_get(endpoint.ticket))

    @contextlib.contextmanager
    def harmless(self) -> Iterator[None]:
        """What the block does costs neither memory nor the good file."""
        good = files.numbers(1_000)
        assert read(self.server.client, "/t/good.parquet").equals(good)
        before = peak_bytes(self.server)
        yield
        growth = peak_bytes(self.server) - before
        print(f"it took {growth // MIB} MiB")
        assert growth < MOST_GROWTH_BYTES, f"it took {growth // MIB} MiB"
        assert read(self.server.client, "/t/good.parquet").equals(good)
        assert self.server.daemon.process.poll() is None


def lay(start_server: Callable[..., Server], tmp_path: Path, *args: str) -> Trap:
    """A server with a folder that holds the good file."""
    folder = tmp_path / "t"
    files.write(folder / "good.parquet", files.numbers(1_000))
    return Trap(start_server(mounts={"/t": f"file://{folder}"}, args=[*MEMORY, *args]), folder)


@pytest.fixture
def trap(start_server: Callable[..., Server], tmp_path: Path) -> Trap:
    return lay(start_server, tmp_path)


def peak_bytes(server: Server) -> int:
    """The most memory that the server ever had."""
    status = Path(f"/proc/{server.daemon.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def packed(codec: Codec, plain: bytes) -> bytes:
    """Bytes as a page of this codec has them."""
    if codec is Codec.UNCOMPRESSED:
        return plain
    if codec is Codec.GZIP:
        return gzip.compress(plain, 6)
    names = {Codec.ZSTD: "zstd", Codec.BROTLI: "brotli", Codec.SNAPPY: "snappy"}
    names |= {Codec.LZ4: "lz4", Codec.LZ4_RAW: "lz4_raw"}
    return pa.compress(plain, codec=names[codec], asbytes=True)


@cache
def bomb(codec: Codec) -> bytes:
    """As much as is easily had of zeros: 4 GiB where frames may follow each other, else one frame."""
    frame = packed(codec, bytes(FRAME_BYTES))
    return frame * FRAMES if codec in (Codec.ZSTD, Codec.GZIP) else frame


def sound(codec: Codec, kind: Kind = Kind.DATA) -> File:
    """A file that is what it claims."""
    plain = struct.pack(f"<{VALUES}q", *range(VALUES))
    return File([Page(packed(codec, plain), len(plain), VALUES, kind)], codec, VALUES)


CODECS = [codec for codec in Codec if codec is not Codec.UNCOMPRESSED]
NAMED = {"ids": lambda value: getattr(value, "name", str(value)).lower()}


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.DATA_V2], **NAMED)
@pytest.mark.parametrize("codec", list(Codec), **NAMED)
def test_what_is_put_together_by_hand_can_be_read(trap: Trap, codec: Codec, kind: Kind) -> None:
    trap.set(sound(codec, kind).encoded())
    assert read(trap.server.client, "/t/bad.parquet").column("c").to_pylist() == list(range(VALUES))
    if codec is not Codec.LZ4:
        assert pq.read_table(trap.folder / "bad.parquet").column("c").to_pylist() == list(range(VALUES))


@pytest.mark.parametrize("codec", CODECS, **NAMED)
def test_a_page_that_unpacks_to_more_than_it_claims(trap: Trap, codec: Codec) -> None:
    assert len(bomb(codec)) < 20 * MIB
    trap.set(File([Page(bomb(codec), MIB, MIB // 8)], codec, MIB // 8).encoded())
    trap.assert_refused("DATA_LOSS")


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.DATA_V2], **NAMED)
@pytest.mark.parametrize("codec", CODECS, **NAMED)
def test_a_page_that_claims_two_gigabytes_and_has_few(trap: Trap, codec: Codec, kind: Kind) -> None:
    page = Page(packed(codec, bytes(8 * VALUES)), LARGEST_PAGE_BYTES, VALUES, kind)
    trap.set(File([page], codec, VALUES, uncompressed_bytes=8 * VALUES).encoded())
    trap.assert_refused("DATA_LOSS", "RESOURCE_EXHAUSTED")


@pytest.mark.parametrize("codec", list(Codec), **NAMED)
def test_a_page_longer_than_its_file(trap: Trap, codec: Codec) -> None:
    body = packed(codec, bytes(8 * VALUES))
    for claimed in (len(body) + 1, LARGEST_PAGE_BYTES):
        page = Page(body, 8 * VALUES, VALUES, compressed_bytes=claimed)
        trap.set(File([page], codec, VALUES).encoded())
        trap.assert_refused("DATA_LOSS")


@pytest.mark.parametrize("codec", [Codec.ZSTD, Codec.GZIP, Codec.SNAPPY], **NAMED)
def test_a_dictionary_that_claims_two_gigabytes(trap: Trap, codec: Codec) -> None:
    words = Page(packed(codec, bytes(800)), LARGEST_PAGE_BYTES, 100, Kind.DICTIONARY)
    # An index of 0 bits, repeated.
    run = bytes(1) + RUN_OF_ALL
    indices = Page(packed(codec, run), len(run), VALUES, encoding=RLE_DICTIONARY)
    trap.set(File([words, indices], codec, VALUES, uncompressed_bytes=1_000).encoded())
    trap.assert_refused("DATA_LOSS", "RESOURCE_EXHAUSTED")


@pytest.mark.parametrize("codec", [Codec.ZSTD, Codec.GZIP], **NAMED)
def test_a_real_page_that_is_larger_than_the_footer_says(trap: Trap, codec: Codec) -> None:
    # All of 1 GiB is there and the page's header says so; that memory is needed for it is known to nobody before.
    frame = packed(codec, bytes(FRAME_BYTES))
    count = (1 << 30) // FRAME_BYTES
    page = Page(frame * count, count * FRAME_BYTES, VALUES)
    trap.set(File([page], codec, VALUES, uncompressed_bytes=8 * VALUES).encoded())
    with trap.harmless(), allow_error("DATA_LOSS", "RESOURCE_EXHAUSTED"):
        assert read(trap.server.client, "/t/bad.parquet").column("c").to_pylist() == [0] * VALUES


@pytest.mark.parametrize("codec", [Codec.ZSTD, Codec.GZIP], **NAMED)
def test_an_honest_page_that_is_larger_than_the_budget(trap: Trap, codec: Codec) -> None:
    frame, count = packed(codec, bytes(FRAME_BYTES)), (1 << 30) // FRAME_BYTES
    trap.set(File([Page(frame * count, 1 << 30, (1 << 30) // 8)], codec, (1 << 30) // 8).encoded())
    with trap.harmless(), allow_error("RESOURCE_EXHAUSTED"):
        assert sum(chunk.data.num_rows for chunk in trap.stream()) == (1 << 30) // 8


@pytest.mark.parametrize("codec", [Codec.ZSTD, Codec.GZIP], **NAMED)
def test_a_page_over_the_limit(start_server: Callable[..., Server], tmp_path: Path, codec: Codec) -> None:
    trap = lay(start_server, tmp_path, "--max-page-bytes", "64MiB")
    frame, count = packed(codec, bytes(FRAME_BYTES)), (1 << 30) // FRAME_BYTES
    trap.set(File([Page(frame * count, 1 << 30, (1 << 30) // 8)], codec, (1 << 30) // 8).encoded())
    trap.assert_refused("RESOURCE_EXHAUSTED")


def test_one_long_word_a_great_many_times(trap: Trap) -> None:
    """A dictionary makes little of a long word that comes often; unpacked it is gigabytes, given bit by bit."""
    word, rows = b"x" * MIB, 1_000
    words = Page(packed(Codec.ZSTD, struct.pack("<I", len(word)) + word), len(word) + 4, 1, Kind.DICTIONARY)
    run = bytes([0, rows << 1 & 0x7F | 0x80, rows >> 6])
    indices = Page(packed(Codec.ZSTD, run), len(run), rows, encoding=RLE_DICTIONARY)
    trap.set(File([words, indices], Codec.ZSTD, rows, BYTE_ARRAY).encoded())
    count = 0
    with trap.harmless():
        for chunk in trap.stream():
            assert chunk.data.column(0)[0].as_buffer().to_pybytes() == word
            count += chunk.data.num_rows
    assert count == rows


def test_long_values_that_differ_in_nothing(trap: Trap) -> None:
    """Values given as what they add to the one before, which is nothing: 5 KB of file, 800 MB of rows."""
    length, rows = 100_000, 8_000
    table, options = pa.table({"c": pa.array(["x" * length] * rows)}), {"use_dictionary": False, "store_schema": False}
    encoding = {"c": "DELTA_BYTE_ARRAY"}
    pq.write_table(table, trap.folder / "bad.parquet", column_encoding=encoding, write_statistics=False, **options)
    assert (trap.folder / "bad.parquet").stat().st_size < MIB
    with trap.harmless():
        assert sum(chunk.data.num_rows for chunk in trap.stream()) == rows


@pytest.mark.parametrize("depth", [100, 10_000, 100_000])
def test_a_schema_of_many_levels(trap: Trap, depth: int) -> None:
    trap.set(with_footer(nested_schema(depth)))
    trap.assert_refused("RESOURCE_EXHAUSTED")


def test_schemas_as_deep_as_the_limit(trap: Trap) -> None:
    """What is not refused is read: there is no depth at which something else goes wrong."""
    read_whole = 0
    for depth in range(50, 72):
        trap.set(with_footer(nested_schema(depth)))
        act(trap.server.client, "dataset.refresh", {"path": "/t/bad.parquet"})
        with allow_error("RESOURCE_EXHAUSTED"):
            assert read(trap.server.client, "/t/bad.parquet").num_rows == 0
            read_whole += 1
    assert 0 < read_whole < 22


@pytest.mark.parametrize("where", ["footer", "page"])
@pytest.mark.parametrize("depth", [10_000, 5_000_000])
def test_fields_of_many_levels_that_nobody_knows(trap: Trap, depth: int, where: str) -> None:
    deep = [deep_field(100, depth)]
    good = sound(Codec.ZSTD)
    page = good.pages[0]
    if where == "page":
        pages = [Page(page.body, page.uncompressed_bytes, page.values, more=deep)]
        trap.set(File(pages, good.codec, good.rows).encoded())
    else:
        trap.set(File(good.pages, good.codec, good.rows, more=deep).encoded())
    trap.assert_refused("DATA_LOSS", "RESOURCE_EXHAUSTED")


@pytest.mark.parametrize("rows", [-1, 0, 999, 1_001, 2**31, 2**62, 2**63 - 1])
def test_more_or_fewer_rows_than_there_are(trap: Trap, rows: int) -> None:
    good = sound(Codec.ZSTD)
    trap.set(File(good.pages, good.codec, rows).encoded())
    with trap.harmless(), allow_error("DATA_LOSS", "RESOURCE_EXHAUSTED"):
        assert read(trap.server.client, "/t/bad.parquet").num_rows == rows


@pytest.mark.parametrize("values", [-1, 0, 999, 1_001, 2**31 - 1])
def test_a_page_with_more_or_fewer_values_than_it_says(trap: Trap, values: int) -> None:
    good = sound(Codec.ZSTD)
    page = Page(good.pages[0].body, good.pages[0].uncompressed_bytes, values)
    trap.set(File([page], good.codec, good.rows).encoded())
    with trap.harmless(), allow_error("DATA_LOSS"):
        assert read(trap.server.client, "/t/bad.parquet").column("c").to_pylist() == list(range(VALUES))


def test_an_index_of_no_word(trap: Trap) -> None:
    words = Page(packed(Codec.ZSTD, struct.pack("<2q", 1, 2)), 16, 2, Kind.DICTIONARY)
    # One index of 32 bits, repeated.
    run = bytes([32]) + RUN_OF_ALL + struct.pack("<I", 2**31)
    indices = Page(packed(Codec.ZSTD, run), len(run), VALUES, encoding=RLE_DICTIONARY)
    trap.set(File([words, indices], Codec.ZSTD, VALUES).encoded())
    trap.assert_refused("DATA_LOSS")


def test_damage_to_the_schema_that_the_file_carries(trap: Trap) -> None:
    print(f"SEED={SEED}")
    rng, good, read_whole = random.Random(SEED), sound(Codec.ZSTD), 0
    schema = pa.schema([("c", pa.int64())]).serialize().to_pybytes()
    with trap.harmless():
        for _ in range(FUZZ_TRIES):
            raw = bytearray(schema)
            for _ in range(rng.choice((1, 3, 10))):
                raw[rng.randrange(8, len(raw))] = rng.randrange(256)
            entry = Struct([(1, BINARY, b"ARROW:schema"), (2, BINARY, base64.b64encode(raw))])
            trap.set(File(good.pages, good.codec, good.rows, more=[(5, LIST, (STRUCT, [entry]))]).encoded())
            with allow_error("DATA_LOSS", match="bad"):
                act(trap.server.client, "dataset.refresh", {"path": "/t/bad.parquet"})
                assert read(trap.server.client, "/t/bad.parquet").num_rows == VALUES
                read_whole += 1
    assert read_whole


def test_values_of_a_fixed_length_that_the_footer_does_not_count(trap: Trap) -> None:
    # By a footer without values a million rows take nothing; each takes 64 KiB, and room for many is made at once.
    rows, length = 1_000_000, 64 << 10
    word = Page(packed(Codec.ZSTD, bytes(length)), length, 1, Kind.DICTIONARY)
    # An index of 0 bits, repeated as often as a varint of three bytes says.
    run = bytes([0, rows << 1 & 0x7F | 0x80, rows >> 6 & 0x7F | 0x80, rows >> 13])
    indices = Page(packed(Codec.ZSTD, run), len(run), rows, encoding=RLE_DICTIONARY)
    lie = File([word, indices], Codec.ZSTD, rows, FIXED_LEN_BYTE_ARRAY, length, value_bytes=length, values=0)
    trap.set(lie.encoded())
    with trap.harmless(), allow_error("DATA_LOSS", "RESOURCE_EXHAUSTED"):
        for chunk in itertools.islice(trap.stream(), 5):
            assert chunk.data.num_rows > 0
