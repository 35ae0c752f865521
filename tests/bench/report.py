"""What was measured, as JSON for programs and as Markdown tables for people, with the machine it was measured on."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa


class Unit(str, enum.Enum):
    """What the figures of a line count."""

    SECONDS = "s"
    BYTES = "bytes"
    SHARE = "share"
    COUNT = "count"
    BYTES_PER_S = "bytes/s"


@dataclass(frozen=True)
class Line:
    """One row of the report: a figure, what it is set against, and what should hold, of the ratio or of the figure."""

    what: str
    ours: Sequence[float]
    plain: Sequence[float] = ()
    # The most that the ratio may be.
    target_ratio: float | None = None
    note: str = ""
    unit: Unit = Unit.SECONDS
    # The bounds of the figure itself; its worst round counts.
    at_most: float | None = None
    at_least: float | None = None
    # Why there is nothing to set it against, in words, where what would do the same cannot be had here.
    absent: str = ""

    def __post_init__(self) -> None:
        assert self.ours, f"{self.what}: nothing was measured"
        assert self.plain or self.absent or self.target_ratio is None, f"{self.what}: a ratio to nothing"
        assert not (self.plain and self.absent), f"{self.what}: absent and measured"

    @property
    def ratio(self) -> float | None:
        """The median over the rounds of ours by plain: both of a round met the same load, so drift cancels out."""
        pairs = zip(self.ours, self.plain, strict=True) if self.plain else ()
        return statistics.median(ours / plain for ours, plain in pairs) if self.plain else None

    @property
    def met(self) -> bool | None:
        """Whether what should hold does; None where nothing is asked."""
        asked = [
            *([self.ratio <= self.target_ratio] if self.ratio is not None and self.target_ratio is not None else []),
            *([max(self.ours) <= self.at_most] if self.at_most is not None else []),
            *([min(self.ours) >= self.at_least] if self.at_least is not None else []),
        ]
        return all(asked) if asked else None


@dataclass(frozen=True)
class Table:
    """Figures that need more than a line; they go into the files, below the lines."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def write(folder: Path, lines: Sequence[Line], tables: Sequence[Table] = ()) -> str:
    """Writes both forms and gives the Markdown of the lines."""
    machine = describe_machine()
    rows = [{**dataclasses.asdict(line), "ratio": line.ratio, "met": line.met} for line in lines]
    said = {"machine": machine, "lines": rows, "tables": [dataclasses.asdict(table) for table in tables]}
    (folder / "bench.json").write_text(json.dumps(said, indent=2) + "\n")
    text = markdown(machine, lines)
    (folder / "bench.md").write_text("\n".join([text, *map(_section, tables)]))
    return text


def markdown(machine: dict[str, str], lines: Sequence[Line]) -> str:
    """The lines' table, under one that says on what and when, and above the count of what was missed."""
    head = ", ".join(f"{key} {value}" for key, value in machine.items())
    table = _table(["what", "jetbridge", "plain", "ratio", "should be", "met", "note"], list(map(_row, lines)))
    asked = [line for line in lines if line.met is not None]
    missed = sum(not line.met for line in asked)
    return "\n".join([f"Measured on: {head}.", "", *table, "", f"Targets missed: {missed} of {len(asked)}.", ""])


def describe_machine() -> dict[str, str]:
    """What a reader needs to judge the numbers."""
    return {
        "cpu": f"{_cpu_model()} x {os.cpu_count()}",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "pyarrow": pa.__version__,
        "commit": _commit(),
        "at": dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _row(line: Line) -> list[str]:
    ratio = "" if line.ratio is None else _share(line.ratio)
    met = {None: "", True: "yes", False: "**MISSED**"}[line.met]
    return [
        line.what,
        _values(line.ours, line.unit),
        _values(line.plain, line.unit) or line.absent,
        ratio,
        _bound(line),
        met,
        line.note,
    ]


def _bound(line: Line) -> str:
    bounds = [
        *([f"ratio at most {_share(line.target_ratio)}"] if line.target_ratio is not None else []),
        *([f"at most {_value(line.at_most, line.unit)}"] if line.at_most is not None else []),
        *([f"at least {_value(line.at_least, line.unit)}"] if line.at_least is not None else []),
    ]
    return ", ".join(bounds)


def _section(table: Table) -> str:
    return "\n".join([f"## {table.title}", "", *_table(table.head, table.rows), ""])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _values(values: Sequence[float], unit: Unit) -> str:
    if not values:
        return ""
    middle = _value(statistics.median(values), unit)
    if len(values) == 1:
        return middle
    return f"{middle} ({_value(min(values), unit)} to {_value(max(values), unit)})"


def _value(value: float, unit: Unit) -> str:
    if unit is Unit.BYTES:
        return f"{value / 2**20:,.0f} MiB"
    if unit is Unit.BYTES_PER_S:
        return f"{value / 2**20:,.0f} MiB/s"
    if unit is Unit.SHARE:
        return _share(value)
    if unit is Unit.COUNT:
        return f"{value:g}"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.2f} ms"


def _share(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    asked = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "none"
