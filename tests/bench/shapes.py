"""What the wire part sends: lineitem, and tables that are narrow, wide, all text, nested, or one small batch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.tpch import lineitem

LINEITEM = "lineitem"
ONE_BATCH = "one batch"
FILES = 4
ROW_GROUPS_A_FILE = 2
SEED = 1
WIDE_COLUMNS = 100
TEXT_COLUMNS = 4
MAX_TEXT_BYTES = 40
MAX_ITEMS = 8


@dataclass(frozen=True)
class Shape:
    """A table in `FILES` files; each has so many rows."""

    name: str
    rows_a_file: int
    make: Callable[[np.random.Generator, int], pa.Table]


def folder_of(work_dir: Path, name: str, scale_factor: float) -> Path:
    """The folder of a shape's Parquet files, made where it is not there whole."""
    if name == LINEITEM:
        return lineitem(work_dir, scale_factor)
    shape = SHAPES[name]
    folder = work_dir / f"shape-{name.replace(' ', '-')}"
    done = folder / "complete"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "data").mkdir(parents=True)
        random = np.random.default_rng(SEED)
        for number in range(FILES if name != ONE_BATCH else 1):
            table = shape.make(random, shape.rows_a_file)
            groups = 1 if name == ONE_BATCH else ROW_GROUPS_A_FILE
            group_rows = -(-shape.rows_a_file // groups)
            pq.write_table(table, folder / "data" / f"{number}.parquet", row_group_size=group_rows)
        done.touch()
    return folder / "data"


def narrow(random: np.random.Generator, rows: int) -> pa.Table:
    """Two whole numbers a row."""
    return pa.table({"key": np.arange(rows), "value": random.integers(0, 1 << 20, rows)})


def wide(random: np.random.Generator, rows: int) -> pa.Table:
    """A hundred floating point numbers a row."""
    return pa.table({f"f{number}": random.integers(0, 4096, rows) / 16 for number in range(WIDE_COLUMNS)})


def strings(random: np.random.Generator, rows: int) -> pa.Table:
    """Four short texts a row."""
    return pa.table({f"text{number}": texts(random, rows) for number in range(TEXT_COLUMNS)})


def nested(random: np.random.Generator, rows: int) -> pa.Table:
    """A list of structs a row, some lists null."""
    counts = random.integers(0, MAX_ITEMS + 1, rows)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    items = int(offsets[-1])
    struct = pa.StructArray.from_arrays(
        [pa.array(random.integers(0, 1 << 20, items)), pa.array(random.random(items)), texts(random, items)],
        names=["n", "x", "name"],
    )
    empty = pa.array(np.logical_and(random.random(rows) < 0.1, counts == 0))
    return pa.table({"id": np.arange(rows), "items": pa.ListArray.from_arrays(offsets, struct, mask=empty)})


def texts(random: np.random.Generator, rows: int) -> pa.StringArray:
    """Texts of letters, each as long as it comes."""
    offsets = np.concatenate([[0], np.cumsum(random.integers(0, MAX_TEXT_BYTES + 1, rows))]).astype(np.int32)
    letters = random.integers(ord("a"), ord("z") + 1, int(offsets[-1]), dtype=np.uint8)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(letters))


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("narrow", 5_000_000, narrow),
        Shape("wide", 100_000, wide),
        Shape("strings", 800_000, strings),
        Shape("nested", 550_000, nested),
        Shape(ONE_BATCH, 1_000, lambda random, rows: wide(random, rows).select([0, 1, 2, 3])),
    )
}
