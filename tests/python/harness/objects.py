"""Mounted objects that change, and what pyarrow reads from them: the model of the model test."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.places import Place
from harness.values import array_of

FOLDERS = ("a", "b")
FILES_A_FOLDER = 4
LARGE_SHARE = 0.1
KINDS = {
    "small": pa.int8(),
    "x": pa.float64(),
    "text": pa.string(),
    "flag": pa.bool_(),
    "tags": pa.list_(pa.int64()),
    "point": pa.struct([("x", pa.int64()), ("label", pa.string())]),
}
COLUMNS = ("n", *KINDS)
NAMES = tuple(f"{folder}/f{number}.parquet" for folder in FOLDERS for number in range(FILES_A_FOLDER))


@dataclass(frozen=True)
class Filter:
    """A predicate, as SQL and as what pyarrow keeps for it."""

    sql: str
    keeps: Callable[[pa.Table], pa.ChunkedArray]


def random_filter(rng: random.Random) -> Filter:
    """One of a few, some of which prune row groups."""
    low = rng.randrange(4_000)
    high = low + rng.choice((1, 100, 2_000))
    return rng.choice(
        (
            Filter(
                f"n >= {low} AND n < {high}",
                lambda t: pc.and_(pc.greater_equal(t["n"], low), pc.less(t["n"], high)),
            ),
            Filter("small IS NULL", lambda t: pc.is_null(t["small"])),
            Filter("flag", lambda t: t["flag"]),
            Filter(
                f"small = {low % 100} OR n < {low}",
                lambda t: pc.or_kleene(pc.equal(t["small"], low % 100), pc.less(t["n"], low)),
            ),
            Filter(
                "text IS NOT NULL AND NOT flag",
                lambda t: pc.and_kleene(pc.is_valid(t["text"]), pc.invert(t["flag"])),
            ),
            Filter("n < 0", lambda t: pc.less(t["n"], 0)),
        )
    )


class Objects:
    """A mounted place and the names of its objects, by folder."""

    def __init__(self, path: str, place: Place, rng: random.Random) -> None:
        self.path, self.place, self._rng = path, place, rng
        self.names: set[str] = set()

    def write(self, name: str) -> None:
        """A new version of an object: another number of rows, of row groups, another encoding."""
        rng = self._rng
        rows = rng.randint(20_000, 40_000) if rng.random() < LARGE_SHARE else rng.choice((0, 1, rng.randint(2, 3_000)))
        start = rng.randrange(4_000)
        columns = {"n": pa.array(range(start, start + rows), pa.int64())}
        few = min(rows, 500)
        for column, kind in KINDS.items():
            # A few values again and again: making them is what takes the time.
            values = array_of(kind, few, seed=rng.randrange(100_000))
            columns[column] = values.take(pa.array([row % few for row in range(rows)], pa.int64()))
        out = io.BytesIO()
        pq.write_table(
            pa.table(columns),
            out,
            row_group_size=max(1, -(-rows // rng.randint(1, 5))),
            compression=rng.choice(("none", "snappy", "zstd")),
            use_dictionary=rng.choice((True, False)),
            data_page_version=rng.choice(("1.0", "2.0")),
        )
        self.place.replace(name, out.getvalue())
        self.names.add(name)

    def delete(self, name: str) -> None:
        self.place.delete(name)
        self.names.discard(name)

    def below(self, name: str) -> list[str]:
        """The objects of a file's or folder's name, all of them where it is empty, in reading order."""
        return sorted(known for known in self.names if not name or known == name or known.startswith(f"{name}/"))

    def files(self, name: str) -> list[pq.ParquetFile]:
        """The objects as pyarrow reads them."""
        return [pq.ParquetFile(pa.BufferReader(self.place.read(known))) for known in self.below(name)]

    def bytes(self, name: str) -> int:
        """Bytes of all objects."""
        return sum(len(self.place.read(known)) for known in self.below(name))
