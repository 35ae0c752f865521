"""Bars that show how far something is: on a terminal and in a notebook, or wherever the caller wants them.

``progress`` is, everywhere: None for bars where somebody looks at them (and a read takes longer than a second), True
and False, or a function that is called with a :class:`Progress` now and then. ``JETBRIDGE_PROGRESS=0`` wins over all
but the function.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

from jetbridge import _text
from jetbridge._extras import needed
from jetbridge.errors import MissingExtraError

if TYPE_CHECKING:
    from jetbridge.records import JobStatus

# A read that is over before is not shown.
SHOW_AFTER_S = 1.0
INTERVAL_S = 0.1
# Workers that have a bar of their own.
MAX_WORKER_BARS = 16


@dataclass(frozen=True)
class Progress:
    """How far a read is.

    >>> seen = []
    >>> table = client.dataset("/lake/trips").to_arrow(progress=seen.append)
    >>> seen[-1].rows, seen[-1].total_rows, seen[-1].done
    (1000, 1000, True)
    """

    rows: int
    bytes: int
    #: Rows there will be; None where a filter decides.
    total_rows: int | None
    #: The most bytes there will be, as estimated.
    total_bytes: int
    elapsed_s: float
    done: bool


ReadProgress: TypeAlias = "bool | Callable[[Progress], object] | None"
JobProgress: TypeAlias = "bool | Callable[[JobStatus], object] | None"


class ReadBar:
    """The bar of one read, which appears when it takes long. Used as a context, so that it always goes again."""

    def __init__(self, progress: ReadProgress, total_rows: int | None, total_bytes: int, title: str) -> None:
        self._call = progress if callable(progress) else None
        self._bar_wanted = self._call is None and wanted(progress if isinstance(progress, bool) else None)
        self._is_asked_for = progress is True
        self._total_rows, self._total_bytes, self._title = total_rows, total_bytes, title
        self._began = self._told = time.monotonic()
        self._bar: Any = None

    @property
    def is_watched(self) -> bool:
        """Whether anybody wants to know."""
        return self._bar_wanted or self._call is not None

    def show(self, rows: int, count: int, *, done: bool = False) -> None:
        """Tells how many rows and bytes have come."""
        now = time.monotonic()
        if not done and now - self._told < INTERVAL_S:
            return
        self._told = now
        if self._call is not None:
            self._call(Progress(rows, count, self._total_rows, self._total_bytes, now - self._began, done))
        if self._bar is None and self._bar_wanted and not done and now - self._began >= SHOW_AFTER_S:
            self._bar = self._open()
        if self._bar is not None:
            self._bar.set_postfix_str(f"{_text.bytes_text(count)}", refresh=False)
            self._bar.update(rows - self._bar.n)

    def _open(self) -> Any:
        tqdm = _tqdm(required=self._is_asked_for)
        if tqdm is None:
            self._bar_wanted = False
            return None
        return tqdm(total=self._total_rows, desc=_text.cut(self._title, 40), unit=" rows", unit_scale=True, leave=False)

    def __enter__(self) -> ReadBar:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()


class JobBars:
    """A bar for a job and one for each worker that it concerns."""

    def __init__(self, progress: JobProgress) -> None:
        self._call = progress if callable(progress) else None
        self._is_shown = self._call is None and wanted(progress if isinstance(progress, bool) else None)
        self._tqdm = _tqdm(required=progress is True) if self._is_shown else None
        self._bars: dict[str, Any] = {}

    def show(self, job: JobStatus) -> None:
        """Tells how the job stands."""
        if self._call is not None:
            self._call(job)
        if self._tqdm is None:
            return
        done, of = _text.measure(job)
        self._set("", f"{job.state} {job.path}", done, of, bool(job.bytes))
        for worker in job.workers[:MAX_WORKER_BARS]:
            has_bytes = bool(worker["bytes"])
            part, whole = ("bytes_done", "bytes") if has_bytes else ("row_groups_done", "row_groups")
            name = f"  {worker['id'][:8]} {worker['state']}"
            self._set(worker["id"], name, worker[part], worker[whole], has_bytes)

    def _set(self, key: str, title: str, done: int, of: int, is_bytes: bool) -> None:
        bar = self._bars.get(key)
        if bar is None:
            assert self._tqdm is not None
            unit = {"unit": "B", "unit_scale": True, "unit_divisor": 1024} if is_bytes else {"unit": " row groups"}
            # The job's own bar stays when it is over; those of the workers make room.
            place = len(self._bars)
            bar = self._bars[key] = self._tqdm(total=of, position=place, leave=not key, **unit)
        bar.set_description_str(_text.cut(title, 40), refresh=False)
        bar.total, bar.n = max(of, done), done
        bar.refresh()

    def __enter__(self) -> JobBars:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for bar in reversed(self._bars.values()):
            bar.close()


def wanted(progress: bool | None) -> bool:
    """Whether bars are to be shown."""
    if os.environ.get("JETBRIDGE_PROGRESS", "").strip().lower() in ("0", "false", "no", "off"):
        return False
    return (sys.stderr.isatty() or _in_notebook()) if progress is None else progress


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    found = shell.get_ipython() if shell is not None else None
    return found is not None and hasattr(found, "kernel")


def _tqdm(*, required: bool) -> Any:
    """The class of bars that fits where we are; None where it is not installed and nobody asked for bars."""
    try:
        return needed("tqdm.auto", "progress=True").tqdm
    except MissingExtraError:
        if required:
            raise
        return None
