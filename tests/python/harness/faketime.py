"""A process whose clock differs from this machine's: Debian's libfaketime, fetched once."""

from __future__ import annotations

import time
from pathlib import Path

from harness.debian import fetched

PACKAGE = "libfaketime"


def library() -> Path:
    """The library to preload. Raises `NotToBeHadError`."""
    return fetched(PACKAGE, "usr/lib/*/faketime/libfaketimeMT.so.1", "faketime/libfaketimeMT.so.1")


def environment(offset_s: int) -> dict[str, str]:
    """What a process is started with whose clock is so far ahead, or behind where it is negative.

    Time that is measured, and the times of files, stay as they are.
    """
    return {
        "LD_PRELOAD": str(library()),
        "FAKETIME": f"{offset_s:+d}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


def ahead_s(generation_ms: int) -> float:
    """How far ahead of ours the clock is by which a process has just told the time."""
    return generation_ms / 1000 - time.time()
