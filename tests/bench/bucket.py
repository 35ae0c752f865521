"""A bucket of SeaweedFS with very many small Parquet files and one very large one, made once and kept.

All is random and uncompressed, so that the bytes of a column are its bytes in the file.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as fs
import pyarrow.parquet as pq

from harness.weed import Weed

BUCKET = "jobs"
SMALL, LARGE = "small", "large"
SMALL_FILE_BYTES = 100_000
GROUP_BYTES = 64 << 20
VALUE_BYTES = 8
COLUMNS = ("key", "a", "b", "x", "y", "z")
ROW_BYTES = VALUE_BYTES * len(COLUMNS)
SEED = 6
UPLOADS_AT_ONCE = 8


@dataclass(frozen=True)
class Sizes:
    """What the bucket holds."""

    files: int
    large_bytes: int

    @property
    def name(self) -> str:
        """What keeps buckets of several sizes apart."""
        return f"bucket-{self.files}-{self.large_bytes}"


@contextlib.contextmanager
def opened(work_dir: Path, sizes: Sizes) -> Iterator[Weed]:
    """The server with the bucket in it, which is filled if it is not."""
    folder = work_dir / sizes.name
    done = folder / "complete"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
    weed = Weed(folder / "data")
    try:
        if not done.exists():
            fill(weed.filesystem(), sizes)
            done.write_text(json.dumps(asdict(sizes)) + "\n")
        yield weed
    finally:
        weed.stop()


def fill(store: fs.FileSystem, sizes: Sizes) -> None:
    """Writes all files."""
    began_s = time.perf_counter()
    store.create_dir(BUCKET)
    with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
        # Taken to the end, so that a failure shows.
        list(pool.map(lambda number: write_small(store, number), range(sizes.files)))
    write_large(store, sizes.large_bytes)
    print(f"bench: jobs: bucket filled in {time.perf_counter() - began_s:.0f} s", flush=True)


def write_small(store: fs.FileSystem, number: int) -> None:
    """One file of one row group."""
    table = values(np.random.default_rng((SEED, number)), SMALL_FILE_BYTES // ROW_BYTES)
    out = pa.BufferOutputStream()
    pq.write_table(table, out, compression="none", use_dictionary=False)
    with store.open_output_stream(f"{BUCKET}/{SMALL}/part-{number:06d}.parquet") as file:
        file.write(out.getvalue())


def write_large(store: fs.FileSystem, size_bytes: int) -> None:
    """One file, row group by row group."""
    random = np.random.default_rng(SEED)
    rows = GROUP_BYTES // ROW_BYTES
    path = f"{BUCKET}/{LARGE}/all.parquet"
    with (
        store.open_output_stream(path) as file,
        pq.ParquetWriter(file, values(random, 1).schema, compression="none", use_dictionary=False) as writer,
    ):
        for _ in range(max(1, round(size_bytes / GROUP_BYTES))):
            writer.write_table(values(random, rows), row_group_size=rows)


def values(random: np.random.Generator, rows: int) -> pa.Table:
    """Rows at random, half of the columns whole numbers."""
    whole = random.integers(-(1 << 62), 1 << 62, (3, rows))
    real = random.random((3, rows))
    return pa.table(dict(zip(COLUMNS, [*whole, *real], strict=True)))
