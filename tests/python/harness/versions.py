"""Data that describes itself: every value tells which version of which object it belongs to.

A version's number is unique over all objects of a storm, so bytes of another object are seen as well. From any column
but `row` the version can be told; what the whole version holds follows from its number and its count of rows.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FACTOR = 1_000_003
SCALE, SHIFT = 31, 7
TELLING = ("version", "a", "b", "text")
COLUMNS = ("version", "row", "a", "b", "text")
# From what comes with the footer in one request to what takes several.
MIN_ROWS, MAX_ROWS = 40, 6_000
MAX_GROUPS = 5
# Each object has its own range of numbers.
NUMBERS_AN_OBJECT = 1_000_000


@dataclass(frozen=True)
class Shape:
    """What a file's size follows from: two versions of one shape have equally many bytes if nothing is compressed."""

    rows: int
    group_rows: int
    compression: str


def random_shape(rng: random.Random, rows: int | None = None) -> Shape:
    """Some rows in a few row groups; many files are small."""
    rows = rows or int(MIN_ROWS * (MAX_ROWS / MIN_ROWS) ** rng.random())
    return Shape(rows, max(1, -(-rows // rng.randint(1, MAX_GROUPS))), rng.choice(("none", "none", "snappy", "zstd")))


@lru_cache(maxsize=1_024)
def table_of(number: int, rows: int) -> pa.Table:
    """All of a version."""
    row = pa.array(range(rows), pa.int64())
    a = pc.add(row, number * FACTOR)
    return pa.table(
        {
            "version": pa.array([number] * rows, pa.int64()),
            "row": row,
            "a": a,
            "b": pc.add(pc.multiply(a, SCALE), SHIFT),
            "text": pa.array([f"v{number:010d} r{at:06d}" for at in range(rows)], pa.string()),
        }
    )


def file_of(number: int, shape: Shape) -> bytes:
    """A version as a Parquet file."""
    out = pa.BufferOutputStream()
    pq.write_table(
        table_of(number, shape.rows),
        out,
        row_group_size=shape.group_rows,
        compression=shape.compression,
        use_dictionary=False,
    )
    return out.getvalue().to_pybytes()


def numbers_in(table: pa.Table) -> list[int]:
    """The versions that the rows of an answer say they belong to, by its first telling column."""
    name = next(name for name in TELLING if name in table.column_names)
    values = pc.unique(table[name]).to_pylist()
    return sorted({_number(name, value) for value in values})


def _number(name: str, value: Any) -> int:
    if name == "text":
        return int(value[1:11])
    if name == "b":
        value = (value - SHIFT) // SCALE
    return int(value if name == "version" else value // FACTOR)


@dataclass(frozen=True)
class Ask:
    """What of an object is read."""

    columns: tuple[str, ...] | None = None
    limit: int | None = None
    # One of: ("range", low, high), ("ends", digit), ("in", rows...).
    condition: tuple[Any, ...] = ()
    spec: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def of(self, number: int, rows: int) -> pa.Table:
        """The right answer, where the object is at this version."""
        table = table_of(number, rows)
        if self.condition:
            table = table.filter(_kept(table, self.condition))
        if self.limit is not None:
            table = table.slice(0, self.limit)
        return table.select(list(self.columns)) if self.columns else table


def random_ask(rng: random.Random, *, whole: bool = False) -> Ask:
    """Columns that tell their version, and with luck a filter and a limit."""
    spec: dict[str, Any] = {}
    columns = None
    if rng.random() < 0.6:
        telling = rng.sample(TELLING, rng.randint(1, len(TELLING)))
        columns = tuple(rng.sample([*telling, "row"], len(telling) + 1)) if rng.random() < 0.5 else tuple(telling)
        spec["columns"] = list(columns)
    if whole:
        return Ask(columns, spec=spec)
    condition = _random_condition(rng) if rng.random() < 0.4 else ()
    if condition:
        spec["filter"] = _sql(condition)
    limit = rng.randint(1, MAX_ROWS) if rng.random() < 0.25 else None
    if limit is not None:
        spec |= {"limit": limit, "ordered": True}
    return Ask(columns, limit, condition, spec)


def _random_condition(rng: random.Random) -> tuple[Any, ...]:
    match rng.randrange(3):
        case 0:
            low = rng.randrange(MAX_ROWS)
            return ("range", low, low + rng.randint(1, MAX_ROWS))
        case 1:
            return ("ends", str(rng.randrange(10)))
        case _:
            return ("in", *sorted(rng.sample(range(MAX_ROWS), 5)))


def _sql(condition: tuple[Any, ...]) -> str:
    match condition:
        case ("range", low, high):
            return f"row >= {low} AND row < {high}"
        case ("ends", digit):
            return f"text LIKE '%{digit}'"
        case (_, *rows):
            return f"row IN ({', '.join(map(str, rows))})"
    raise ValueError(condition)


def _kept(table: pa.Table, condition: tuple[Any, ...]) -> pa.ChunkedArray:
    match condition:
        case ("range", low, high):
            return pc.and_(pc.greater_equal(table["row"], low), pc.less(table["row"], high))
        case ("ends", digit):
            return pc.ends_with(table["text"], digit)
        case (_, *rows):
            return pc.is_in(table["row"], pa.array(rows, pa.int64()))
    raise ValueError(condition)
