"""The client in Rust, as a program that reads whenever it is told to."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from harness.server import binary
from sums import Sums


@dataclass(frozen=True)
class NativeRead:
    """One read: until all was planned, was there, was summed, and the sums."""

    planned_s: float
    there_s: float
    summed_s: float
    cpu_s: float
    batches: int
    inline_bytes: int
    sums: Sums


class Native:
    """The example program; it has read before where it is told to read more than once."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def read(self) -> NativeRead:
        """One read of everything."""
        assert self._process.stdin
        assert self._process.stdout
        before_s = self._cpu_s()
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the program ended with {self._process.wait()}"
        cpu_s, said = self._cpu_s() - before_s, json.loads(line)
        times = (said[key] / 1e3 for key in ("planned_ms", "handed_over_ms", "summed_ms"))
        return NativeRead(*times, cpu_s, said["batches"], said["inline_bytes"], said["sums"])

    def _cpu_s(self) -> float:
        # CPUCLOCK_SCHED of a process, as in the kernel's include/linux/posix-timers.h.
        return time.clock_gettime((~self._process.pid << 3) | 2)


@contextmanager
def started(uri: str, path: str) -> Iterator[Native]:
    """The program, built beside the server, until the block ends."""
    program = binary().with_name("examples") / "memory_read"
    if not program.is_file():
        raise FileNotFoundError(f"{program} is not there: `cargo build --release --workspace --examples`")
    with subprocess.Popen([program, uri, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Native(process)
        finally:
            process.kill()
