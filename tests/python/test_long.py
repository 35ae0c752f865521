"""What needs gigabytes: run by `make test-long`."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import Lake
from harness.flight import by_path, chunks

TEXT_BYTES = 1_048_576
TEXTS = 2_150
ROWS_A_WRITE = 50

pytestmark = [pytest.mark.long, pytest.mark.timeout(1_200)]


def text_of(row: int) -> str:
    """A mebibyte that tells its row."""
    return f"{row:08d}" * (TEXT_BYTES // 8)


def digest(value: bytes | memoryview) -> str:
    """A short name of a value, so that two gigabytes need not be held twice."""
    return hashlib.blake2b(value, digest_size=16).hexdigest()


def write_texts(path: Path) -> None:
    """One row group whose string column passes the 2 GiB that 32-bit offsets can count."""
    schema = pa.schema([("n", pa.int64()), ("text", pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False, write_statistics=False) as writer:
        rows = range(TEXTS)
        parts = [pa.array([text_of(row) for row in rows[at : at + ROWS_A_WRITE]]) for at in rows[::ROWS_A_WRITE]]
        writer.write_table(
            pa.table([pa.array(rows, pa.int64()), pa.chunked_array(parts)], schema), row_group_size=TEXTS
        )


def test_a_string_column_of_more_than_two_gigabytes_in_one_row_group(lake: Lake) -> None:
    path = lake.folder / "t.parquet"
    write_texts(path)
    file = pq.ParquetFile(path)
    assert file.num_row_groups == 1
    assert file.metadata.row_group(0).column(1).total_uncompressed_size > 2**31
    info = lake.client.get_flight_info(by_path(lake.at("t.parquet")))
    assert info.total_records == TEXTS
    got: list[str] = []
    numbers: list[int] = []
    for endpoint in info.endpoints:
        reader = lake.client.do_get(endpoint.ticket)
        assert reader.schema.equals(file.schema_arrow)
        for chunk in chunks(reader):
            numbers += chunk.data.column("n").to_pylist()
            got += [digest(memoryview(text.as_buffer())) for text in chunk.data.column("text")]
    assert numbers == list(range(TEXTS))
    assert got == [digest(text_of(row).encode()) for row in range(TEXTS)]
