"""Broken files: an error to the reader that names them, and nobody else notices."""

from __future__ import annotations

import random
import struct
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import Lake
from harness import files
from harness.compare import assert_same
from harness.errors import expect_error
from harness.flight import plan

FUZZ_TRIES = 60


def png() -> bytes:
    """A real picture of one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0\xff\0\0"))
        + chunk(b"IEND", b"")
    )


def broken(kind: str, good: bytes) -> bytes:
    """The good file's bytes, broken in one way."""
    footer_bytes = int.from_bytes(good[-8:-4], "little")
    thrift = len(good) - 8 - footer_bytes
    return {
        "cut in half": good[: len(good) // 2],
        "cut by one byte": good[:-1],
        "flipped footer byte": good[:thrift] + bytes([good[thrift] ^ 0xFF]) + good[thrift + 1 :],
        "flipped footer length": good[:-5] + b"\xff" + good[-4:],
        "no bytes": b"",
        "four bytes": b"PAR1",
        "a picture": png(),
        "text": b"hello, this is no Parquet file\n" * 20,
        "encrypted footer's magic": good[:-4] + b"PARE",
    }[kind]


KINDS = [
    "cut in half",
    "cut by one byte",
    "flipped footer byte",
    "flipped footer length",
    "no bytes",
    "four bytes",
    "a picture",
    "text",
]


@pytest.mark.parametrize("kind", [*KINDS, "encrypted footer's magic"])
def test_broken_files(lake: Lake, kind: str) -> None:
    table = lake.write("set/good.parquet", files.numbers(1_000), row_group_size=100)
    bad = lake.folder / "set/bad.parquet"
    bad.write_bytes(broken(kind, (lake.folder / "set/good.parquet").read_bytes()))
    for name in ("set/bad.parquet", "set"):
        with expect_error("DATA_LOSS", r"set/bad\.parquet"):
            lake.read(name)
    assert_same(lake.read("set/good.parquet"), table)
    bad.unlink()
    assert_same(lake.read("set"), table)


def test_broken_file_in_another_partition(lake: Lake) -> None:
    files.hive(lake.folder / "set", {"k=1": files.numbers(5), "k=2": files.numbers(5)})
    (lake.folder / "set/k=2/data.parquet").write_bytes(png())
    assert lake.read("set/k=1").num_rows == 5
    with expect_error("DATA_LOSS", "k=2"):
        lake.read("set")


@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
def test_a_broken_row_group(lake: Lake, compression: str) -> None:
    table = files.numbers(4_000)
    options = {
        "row_group_size": 1_000,
        "compression": compression,
        "write_page_checksum": True,
        "use_dictionary": False,
    }
    lake.write("t.parquet", table, **options)
    path = lake.folder / "t.parquet"
    chunk = pq.ParquetFile(path).metadata.row_group(2).column(0)
    files.flip(path, range(chunk.data_page_offset + 40, chunk.data_page_offset + 400, 10))
    with expect_error("DATA_LOSS", r"t\.parquet.*row group 2"):
        lake.read("t.parquet")
    assert_same(lake.read("t.parquet", filter="n < 1000"), table.slice(0, 1_000))
    assert_same(lake.read("t.parquet", columns=["text"]), table.select(["text"]))
    lake.assert_still_serves()


def test_a_broken_dictionary_page(lake: Lake) -> None:
    lake.write("t.parquet", {"word": pa.array([f"w{row % 50}" for row in range(2_000)])}, compression="snappy")
    path = lake.folder / "t.parquet"
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(0)
    files.flip(path, range(chunk.dictionary_page_offset, chunk.dictionary_page_offset + 30))
    with expect_error("DATA_LOSS", r"t\.parquet"):
        lake.read("t.parquet")
    lake.assert_still_serves()


def test_random_damage_never_ends_the_server(lake: Lake) -> None:
    lake.write("good.parquet", files.numbers(500), row_group_size=100)
    good = (lake.folder / "good.parquet").read_bytes()
    rng = random.Random(9)
    refusals: list[str] = []
    for number in range(FUZZ_TRIES):
        raw = bytearray(good)
        for _ in range(rng.choice((1, 5, 50))):
            raw[rng.randrange(4, len(raw) - 4)] = rng.randrange(256)
        (lake.folder / f"fuzz-{number}.parquet").write_bytes(raw)
        try:
            lake.read(f"fuzz-{number}.parquet")
        except pa.ArrowException as error:
            refusals.append(str(error))
    # Damage that still decodes gives rows; all else is the file's fault, said as such.
    assert all("data loss" in text or "resource exhausted" in text for text in refusals), refusals
    assert refusals
    lake.assert_still_serves()


def test_a_footer_that_claims_too_much(lake: Lake) -> None:
    body = b"PAR1" + b"\x15" * 1_000
    for claimed in (0, 1, 999, 2**31 - 1, 2**32 - 1):
        path = lake.folder / f"claims-{claimed}.parquet"
        path.write_bytes(body + claimed.to_bytes(4, "little") + b"PAR1")
        with expect_error(("DATA_LOSS", "RESOURCE_EXHAUSTED"), "claims"):
            plan(lake.client, lake.at(path.name))
    lake.assert_still_serves()


def test_a_file_that_cannot_be_opened(lake: Lake) -> None:
    lake.write("set/good.parquet", files.numbers(2))
    (lake.folder / "set/loop.parquet").symlink_to("loop.parquet")
    with expect_error(("NOT_FOUND", "PERMISSION_DENIED", "FAILED_PRECONDITION", "UNAVAILABLE"), "loop"):
        lake.read("set/loop.parquet")
    assert lake.read("set/good.parquet").num_rows == 2
    lake.assert_still_serves()
