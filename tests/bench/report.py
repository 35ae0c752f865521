"""What was measured, as JSON for programs and as a Markdown table for people, with the machine it was measured on."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa


@dataclass(frozen=True)
class Line:
    """One row of the report: a figure, what it is set against, and the ratio that should hold."""

    what: str
    ours_s: Sequence[float]
    plain_s: Sequence[float] = ()
    target_ratio: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The median over the rounds of ours by plain: both of a round met the same load, so drift cancels out."""
        pairs = zip(self.ours_s, self.plain_s, strict=True) if self.plain_s else ()
        return statistics.median(ours / plain for ours, plain in pairs) if self.plain_s else None


def write(folder: Path, lines: Sequence[Line]) -> str:
    """Writes both forms and gives the Markdown."""
    machine = describe_machine()
    rows = [{**dataclasses.asdict(line), "ratio": line.ratio} for line in lines]
    (folder / "bench.json").write_text(json.dumps({"machine": machine, "lines": rows}, indent=2) + "\n")
    text = markdown(machine, lines)
    (folder / "bench.md").write_text(text)
    return text


def markdown(machine: dict[str, str], lines: Sequence[Line]) -> str:
    """The table, under a line that says on what and when."""
    head = ", ".join(f"{key} {value}" for key, value in machine.items())
    table = ["| what | jetbridge | plain | ratio | at most | note |", "|---|---|---|---|---|---|"]
    return "\n".join([f"Measured on: {head}.", "", *table, *map(_row, lines), ""])


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


def _row(line: Line) -> str:
    ratio = "" if line.ratio is None else f"{line.ratio:.2f}"
    target = "" if line.target_ratio is None else f"{line.target_ratio:.2f}"
    return f"| {line.what} | {_seconds(line.ours_s)} | {_seconds(line.plain_s)} | {ratio} | {target} | {line.note} |"


def _seconds(values: Sequence[float]) -> str:
    if not values:
        return ""
    middle = f"{_time(statistics.median(values))}"
    return f"{middle} ({_time(min(values))} to {_time(max(values))})" if len(values) > 1 else middle


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.2f} ms"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    asked = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "none"
