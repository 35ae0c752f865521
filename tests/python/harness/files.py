"""Parquet files in the shapes that the tests ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def write(path: Path, data: pa.Table | Mapping[str, Any], **options: Any) -> pa.Table:
    """Writes one file, its folders too, and gives the table back."""
    table = data if isinstance(data, pa.Table) else pa.table(dict(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return table


def numbers(rows: int, start: int = 0) -> pa.Table:
    """A small table that tells rows and files apart: a number, its text, and a value with nulls."""
    values = range(start, start + rows)
    return pa.table(
        {
            "n": pa.array(values, pa.int64()),
            "text": pa.array([f"row {value}" for value in values], pa.string()),
            "maybe": pa.array([None if value % 3 == 0 else value / 2 for value in values], pa.float64()),
        }
    )


def write_many(folder: Path, count: int, rows: int = 10) -> pa.Table:
    """`count` files of `rows` rows each, named so that their order is the order of the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pq.write_table(numbers(rows, index * rows), folder / f"part-{index:06d}.parquet")
    return numbers(count * rows)


def hive(folder: Path, parts: Mapping[str, pa.Table]) -> None:
    """One file `data.parquet` in each partition folder."""
    for name, table in parts.items():
        write(folder / name / "data.parquet", table)


def flip(path: Path, offsets: Iterable[int]) -> None:
    """Inverts the bytes at these offsets; negative ones count from the end."""
    raw = bytearray(path.read_bytes())
    for offset in offsets:
        raw[offset] ^= 0xFF
    path.write_bytes(raw)
