"""Every page version, compression and encoding that pyarrow writes, over the same rows."""

from __future__ import annotations

import itertools

import pyarrow as pa
import pytest

from conftest import Lake
from harness.compare import assert_same, read_file
from harness.values import array_of

ROWS = 3_000
COMPRESSIONS = ("none", "snappy", "gzip", "brotli", "zstd", "lz4")
PAGES = ("1.0", "2.0")
ENCODINGS = {
    "PLAIN": ("int", "float", "text", "fixed", "flag"),
    "DELTA_BINARY_PACKED": ("int",),
    "DELTA_LENGTH_BYTE_ARRAY": ("text",),
    "DELTA_BYTE_ARRAY": ("text", "fixed"),
    "BYTE_STREAM_SPLIT": ("int", "float", "fixed"),
    "RLE": ("flag",),
}


def rows() -> pa.Table:
    """Columns that between them take every encoding, nested ones too."""
    kinds = {
        "int": pa.int64(),
        "float": pa.float64(),
        "text": pa.string(),
        "fixed": pa.binary(12),
        "flag": pa.bool_(),
        "list": pa.list_(pa.string()),
        "struct": pa.struct([("a", pa.int32()), ("b", pa.list_(pa.int64()))]),
    }
    columns = {name: array_of(kind, ROWS, seed) for seed, (name, kind) in enumerate(kinds.items())}
    return pa.table({**columns, "repeated": pa.array([f"v{row % 7}" for row in range(ROWS)])})


@pytest.mark.parametrize(("page", "compression"), [*itertools.product(PAGES, COMPRESSIONS)])
def test_page_versions_and_compressions(lake: Lake, page: str, compression: str) -> None:
    lake.write("t.parquet", rows(), data_page_version=page, compression=compression, data_page_size=4_096)
    assert_same(lake.read("t.parquet"), read_file(lake.folder / "t.parquet"))


@pytest.mark.parametrize(("page", "encoding"), [*itertools.product(PAGES, ENCODINGS)])
def test_encodings(lake: Lake, page: str, encoding: str) -> None:
    chosen = dict.fromkeys(ENCODINGS[encoding], encoding)
    lake.write(
        "t.parquet", rows(), data_page_version=page, use_dictionary=False, column_encoding=chosen, data_page_size=4_096
    )
    assert_same(lake.read("t.parquet"), read_file(lake.folder / "t.parquet"))


@pytest.mark.parametrize(
    "options",
    [
        {"write_statistics": False},
        {"write_page_index": True},
        {"write_page_checksum": True},
        {"use_dictionary": True, "dictionary_pagesize_limit": 64},
        {"write_batch_size": 7, "data_page_size": 1},
        {"version": "1.0"},
        {"version": "2.4"},
        {"row_group_size": 1_000, "write_page_index": True, "data_page_size": 512},
        {"use_compliant_nested_type": False},
        {"use_content_defined_chunking": True},
        {"store_decimal_as_integer": True},
    ],
    ids=str,
)
def test_writer_options(lake: Lake, options: dict[str, object]) -> None:
    table = rows().append_column("decimal", array_of(pa.decimal128(15, 2), ROWS, 9))
    lake.write("t.parquet", table, **options)
    assert_same(lake.read("t.parquet"), read_file(lake.folder / "t.parquet"))
