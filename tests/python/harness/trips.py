"""The dataset that tests of the Python package read, and that its docstrings show: a thousand trips in four files."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa

from harness import files

ROWS, FILES = 1000, 4
FIRST_DAY = dt.date(2024, 1, 1)


def trips(rows: int = ROWS, start: int = 0) -> pa.Table:
    """Trips: `id` counts, the vendor goes round, the fare too, and three in a hundred have none."""
    ids = range(start, start + rows)
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "vendor": pa.array(["abcde"[number % 5] for number in ids], pa.string()),
            "fare": pa.array([None if number % 100 > 96 else number % 100 / 10 for number in ids], pa.float64()),
            "day": pa.array([FIRST_DAY + dt.timedelta(days=number % 366) for number in ids], pa.date32()),
        }
    )


def write_trips(folder: Path, rows: int = ROWS, count: int = FILES) -> pa.Table:
    """Writes them as so many files into a folder, and gives them all."""
    each = rows // count
    for number in range(count):
        files.write(folder / f"part-{number}.parquet", trips(each, number * each), row_group_size=max(each // 2, 1))
    return trips(each * count)
