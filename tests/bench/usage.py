"""What a process takes while it does something: time, CPU, the peak of its resident memory. Needs Python alone, so that
programs in any environment measure themselves alike.

Child processes that live meanwhile, as the workers of a DataLoader do, are counted in. Shared memory that is mapped and
was touched counts as resident, on every side.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")
TICKS_A_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """Of one call."""

    seconds: float
    user_s: float
    system_s: float
    # The most that was resident at once, summed over the processes that were there at the end.
    peak_bytes: int

    @property
    def cpu_s(self) -> float:
        return self.user_s + self.system_s


class Meter:
    """Counts from when it is made. Children that begin meanwhile count as long as they run."""

    def __init__(self) -> None:
        reset_peak()
        self._cpu_before = cpu_times()
        self._start_s = time.perf_counter()

    def seconds(self) -> float:
        """How long it has been."""
        return time.perf_counter() - self._start_s

    def read(self) -> Usage:
        """All up to now."""
        seconds = self.seconds()
        user_s, system_s = (now - was for now, was in zip(cpu_times(), self._cpu_before, strict=True))
        return Usage(seconds, user_s, system_s, peak_bytes())


def used(call: Callable[[], Result]) -> tuple[Result, Usage]:
    """What a call gives and what it took."""
    meter = Meter()
    result = call()
    return result, meter.read()


def reset_peak() -> None:
    """Lets the peaks of this process and its children begin anew."""
    for pid in family():
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_bytes() -> int:
    """The peaks of this process and its children since then, summed."""
    return sum(peak_of(pid) for pid in family())


def peak_of(pid: int) -> int:
    """VmHWM of a process; 0 where it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def cpu_times() -> tuple[float, float]:
    """User and system seconds of this process, of the children that it has waited for, and of those that run."""
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    user_s, system_s = sum(one.ru_utime for one in own), sum(one.ru_stime for one in own)
    for pid in family():
        if pid != os.getpid():
            child_user_s, child_system_s = cpu_of(pid)
            user_s, system_s = user_s + child_user_s, system_s + child_system_s
    return user_s, system_s


def cpu_of(pid: int) -> tuple[float, float]:
    """User and system seconds of a process; none where it has ended."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) / TICKS_A_S, int(fields[12]) / TICKS_A_S
    return 0.0, 0.0


def family(pid: int | None = None) -> Iterator[int]:
    """A process, this one unless said, and all below it."""
    pid = pid or os.getpid()
    yield pid
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        # A process that ends meanwhile has none.
        with contextlib.suppress(OSError):
            for child in tasks.read_text().split():
                yield from family(int(child))
