"""Figures and tables for people, as text: bounded, so that nothing large fills a screen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jetbridge.records import JobStatus

MAX_ROWS = 50
MAX_CELL_CHARS = 80


def bytes_text(count: float) -> str:
    """``1536`` as ``1.5 KiB``."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} PiB"


def shown(name: str, value: Any) -> str:
    """A value for people, by the name of its field: what ends in ``bytes`` or ``size`` has a unit."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and name.rsplit("_", 1)[-1] in ("bytes", "size"):
        return bytes_text(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.1%}" if name.endswith("share") else f"{value:,.1f}"
    if isinstance(value, dict | list):
        return cut(json.dumps(value, default=str) if value else "-")
    return cut(str(value))


def cut(text: str, most: int = MAX_CELL_CHARS) -> str:
    """A text that is not longer than this, control characters made visible."""
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text[: most + 1])
    return text if len(text) <= most else text[: most - 1] + "…"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side; the first rows, where there are many."""
    if not rows:
        return "(none)"
    lines = [list(header), *map(list, rows[:MAX_ROWS])]
    widths = [max(len(line[at]) for line in lines) for at in range(len(header))]
    text = "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
    more = len(rows) - MAX_ROWS
    return f"{text}\n… and {more} more" if more > 0 else text


def job_line(job: JobStatus) -> str:
    """How far a job is, in one line."""
    done, of = measure(job)
    parts = [f"{done / of:.0%}" if of else "nothing to do yet"]
    if job.bytes:
        parts.append(f"{bytes_text(job.bytes_done)} of {bytes_text(job.bytes)}")
    parts.append(f"{job.files_done} of {job.files} files")
    if not job.is_final and job.rate_bytes_per_s:
        parts.append(f"{bytes_text(job.rate_bytes_per_s)}/s")
    if job.eta_s is not None and not job.is_final:
        parts.append(f"{job.eta_s:.0f} s left")
    if job.failures_total:
        parts.append(f"{job.failures_total} failed")
    parts += [cut(words) for words in (job.waiting, job.error) if words]
    return ", ".join(parts)


def measure(job: JobStatus) -> tuple[int, int]:
    """What is done of a job, and of how much: stored bytes, or row groups where there are no bytes to load."""
    return (job.bytes_done, job.bytes) if job.bytes else (job.row_groups_done, job.row_groups)
