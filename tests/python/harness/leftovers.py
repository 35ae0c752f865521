"""What a process has, to be compared before and after: threads, descriptors, children."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# How long things may take to go after they were let go of.
SETTLE_S = 30.0
# Threads and descriptors that the libraries of a process open for themselves now and then. What is tested makes tens of
# what it makes, so that a leak is more.
SLACK = 3


@dataclass(frozen=True)
class Held:
    """Counts of one process at one moment."""

    threads: int
    descriptors: int
    children: int


def children_of(pid: int) -> list[int]:
    """The processes that a process has begun, in the order of their numbers."""
    children = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        # A thread may end between being listed and being looked at.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            children += (task / "children").read_text().split()
    return sorted(map(int, children))


def held(pid: int | None = None) -> Held:
    """What this process, or another one, has now."""
    pid = pid or os.getpid()
    proc = Path(f"/proc/{pid}")
    return Held(len(list((proc / "task").iterdir())), len(list((proc / "fd").iterdir())), len(children_of(pid)))


def assert_nothing_is_left(before: Held) -> None:
    """Waits until there is no more of anything than before."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        gc.collect()
        now = held()
        is_same = now.threads <= before.threads + SLACK and now.descriptors <= before.descriptors + SLACK
        if is_same and now.children <= before.children:
            return
        assert time.monotonic() < deadline, f"{before} before, {now} after"
        time.sleep(0.05)


def until(condition: Callable[[], bool], what: str, timeout_s: float = SETTLE_S) -> float:
    """Waits for a condition; the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - began


def is_alive(pid: int) -> bool:
    """Whether a process runs: one that has ended and is not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
