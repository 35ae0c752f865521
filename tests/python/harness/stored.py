"""Files whose every byte is accounted for: nothing in them shrinks, and what of them was asked for can be told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.counting import Get

VALUE_BYTES = 8
# The first column counts rows over all files, so that a range of it prunes row groups.
NUMBER = "n"
# Footers are read with as much of the file's end, from the beginning of a page.
TAIL_BYTES = (64 << 10) + 4096

# Bytes of files, by file: from, to.
Ranges = dict[str, list[tuple[int, int]]]


@dataclass(frozen=True)
class Shape:
    """A dataset of equal files of equal row groups of 64-bit columns: `n`, which counts, and others, at random."""

    files: int = 4
    groups: int = 4
    rows: int = 24_576
    columns: tuple[str, ...] = (NUMBER, "a", "b")
    seed: int = 7

    @property
    def rows_a_file(self) -> int:
        return self.groups * self.rows

    @property
    def all_rows(self) -> int:
        return self.files * self.rows_a_file

    @property
    def row_groups(self) -> int:
        return self.files * self.groups

    def decoded_bytes(self, columns: int) -> int:
        """What so many columns take decoded."""
        return self.all_rows * VALUE_BYTES * columns

    def write(self, folder: Path) -> pa.Table:
        """Makes the files, and gives all their rows in reading order."""
        return pa.concat_tables(self.write_one(folder, number) for number in range(self.files))

    def write_one(self, folder: Path, number: int, seed: int | None = None) -> pa.Table:
        """Makes one file, in one step as others see it; with another seed other values of the same length."""
        table = self.table(number, self.seed if seed is None else seed)
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder.with_name(f"{folder.name}.aside")
        pq.write_table(table, aside, row_group_size=self.rows, use_dictionary=False, compression="none")
        aside.rename(folder / self.name(number))
        return table

    def table(self, number: int, seed: int) -> pa.Table:
        """The rows of one file."""
        rng, rows = np.random.default_rng((seed, number)), self.rows_a_file
        start = number * rows
        values = {name: rng.integers(0, 2**62, rows) for name in self.columns}
        values[NUMBER] = np.arange(start, start + rows)
        return pa.table({name: values[name] for name in self.columns})

    @staticmethod
    def name(number: int) -> str:
        return f"part-{number:05}.parquet"


def chunk_ranges(
    folder: Path, columns: Sequence[str] | None = None, has: Callable[[str, int], bool] = lambda *_: True
) -> Ranges:
    """Where the chunks of these root columns lie, all by default, in the row groups (file's name, number) wanted."""
    found: Ranges = {}
    for path in sorted(folder.rglob("*.parquet")):
        key, metadata = path.relative_to(folder).as_posix(), pq.ParquetFile(path).metadata
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups) if has(key, group)]
        chunks = [group.column(column) for group in groups for column in range(group.num_columns)]
        found[key] = sorted(
            (start := chunk.dictionary_page_offset or chunk.data_page_offset, start + chunk.total_compressed_size)
            for chunk in chunks
            if columns is None or chunk.path_in_schema.split(".")[0] in columns
        )
    return found


def bytes_of(ranges: Ranges) -> int:
    """How many bytes ranges are, which do not overlap."""
    return sum(end - start for some in ranges.values() for start, end in some)


@dataclass(frozen=True)
class Asked:
    """What storage was asked for of some ranges, or what it sent of them."""

    wanted_bytes: int
    # Of these, those that came at least once, and what came beyond the first time.
    once_bytes: int
    again_bytes: int

    @property
    def again_share(self) -> float:
        """What came again, as a part of what was wanted."""
        return self.again_bytes / max(1, self.wanted_bytes)


def asked_of(gets: Iterable[Get], ranges: Ranges, *, sent: bool = False) -> Asked:
    """How often the bytes of ranges were asked for; with `sent`, how often they went out, which cuts and kills end."""
    spans = defaultdict(list)
    for get in gets:
        spans[get.key].append((get.start, get.start + get.sent_bytes if sent else get.end))
    once = everything = 0
    for key, wanted in ranges.items():
        for start, end in wanted:
            cut = sorted((max(start, left), min(end, right)) for left, right in spans[key])
            reached = start
            for left, right in cut:
                if right <= left:
                    continue
                everything += right - left
                once += max(0, right - max(left, reached))
                reached = max(reached, right)
    return Asked(bytes_of(ranges), once, everything - once)


def data_gets(gets: Iterable[Get], folder: Path) -> list[Get]:
    """The GETs that are not of a file's end alone, where its footer is."""
    return [get for get in gets if get.start < (folder / get.key).stat().st_size - TAIL_BYTES]


def measured_rate(gets: Sequence[Get], skip_s: float = 0.5) -> float:
    """Bytes a second that were sent, from a while after the first request to the last."""
    gets = sorted(gets, key=lambda get: get.began_s)
    start_s = gets[0].began_s + skip_s
    later = [get for get in gets if get.began_s >= start_s]
    assert len(later) > 10, f"too few requests to tell a rate: {len(later)}"
    # What was asked for up to the last request's beginning, over the time that it took.
    span_s = later[-1].began_s - later[0].began_s
    return sum(get.sent_bytes for get in later[:-1]) / span_s


def data_offset(header: bytes) -> int:
    """Where the pages begin in a file of a cache folder that begins so: after a slot for each (cache/FORMAT.md)."""
    page_bytes, length = (int.from_bytes(header[at : at + 8], "little") for at in (16, 40))
    pages = -(-length // page_bytes)
    return 4096 + -(-16 * pages // 4096) * 4096


def rot(data_dir: Path, bytes_apart: int = 500_000) -> int:
    """Flips a bit here and there in all pages that a node has on disk; how many."""
    flipped = 0
    for pages in (data_dir / "cache").rglob("*.pages"):
        with pages.open("r+b") as file:
            first = data_offset(file.read(4096)) + 100
            for at in range(first, pages.stat().st_size, bytes_apart):
                file.seek(at)
                (byte,) = file.read(1) or b"\0"
                file.seek(at)
                file.write(bytes([byte ^ 0x40]))
                flipped += 1
    assert flipped
    return flipped
