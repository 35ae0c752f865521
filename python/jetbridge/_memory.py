"""How much memory is left, so that a result that would not fit is refused before it is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jetbridge import _native
from jetbridge._text import bytes_text
from jetbridge.errors import ResultTooLargeError

# The part of what is free that a result may take: the rest is for what else goes on.
USABLE_PART = 0.8
_CGROUP = Path("/sys/fs/cgroup")
# A limit of control groups of version 1 that is none: a number near 2^63.
_NO_LIMIT_FROM_BYTES = 1 << 60


def machine_bytes(root: Path = Path("/")) -> int | None:
    """Bytes that this process's machine has, or the least that its control groups allow: what servers count as the
    machine. None where the system, whose `proc` and `sys` are under `root`, does not say."""
    limits = [limit for limit in map(_number, _limit_files(root)) if limit and limit < _NO_LIMIT_FROM_BYTES]
    installed = _meminfo("MemTotal:", root)
    return min(limits if installed is None else [installed, *limits], default=None)


def available_bytes() -> int | None:
    """Bytes that this process could still take; None where the system does not say."""
    found = [count for count in (_of_system(), _of_cgroup()) if count is not None]
    return min(found) if found else None


def usable_bytes() -> int | None:
    """Bytes that a result may take."""
    available = available_bytes()
    return None if available is None else int(available * USABLE_PART)


def check(planned_bytes: int | None, factor: float, what: str) -> None:
    """Refuses a result that will not fit.

    Args:
        planned_bytes: of its rows as Arrow; None where that is not known beforehand.
        factor: what it takes in the end, by that.
        what: the call, for the message.

    Raises:
        ResultTooLargeError: it takes more than is usable.
    """
    usable = usable_bytes()
    if planned_bytes is None or usable is None or planned_bytes * factor <= usable:
        return
    needs = bytes_text(planned_bytes * factor)
    raise ResultTooLargeError(
        f"{what} would take about {needs}, and {bytes_text(usable / USABLE_PART)} of memory are available",
        hint=WAYS_OUT,
    )


def bounds(
    plan: _native.Plan, factor: float, what: str, *, check_memory: bool, is_limited: bool
) -> tuple[int, int | None]:
    """What a plan's rows take at the most, as estimated, and how many bytes may come; None for no bound.

    Raises:
        ResultTooLargeError: they would take more than is usable.
    """
    planned_bytes = sum(endpoint.bytes for endpoint in plan.endpoints)
    if not check_memory:
        return planned_bytes, None
    # Where a filter or a limit decides, no figure is known but the most, that of whole row groups: then what comes is
    # watched, not refused beforehand.
    is_known = plan.rows is not None and not is_limited
    check(planned_bytes if is_known else None, factor, what)
    usable = usable_bytes()
    return planned_bytes, None if usable is None else int(usable / factor)


WAYS_OUT = (
    "take fewer columns (select) or rows (filter, limit), read batch by batch (to_batches, to_reader), or say "
    "check_memory=False to read it all the same"
)


def _of_system() -> int | None:
    return _meminfo("MemAvailable:")


def _meminfo(name: str, root: Path = Path("/")) -> int | None:
    for line in _lines(root / "proc" / "meminfo"):
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return None


def _limit_files(root: Path) -> Iterator[Path]:
    """Files that may hold a limit, of version 2 and 1: of each control group and of all above it, since each binds."""
    for line in _lines(root / "proc" / "self" / "cgroup"):
        _, controllers, group = line.split(":", 2)
        if not controllers:
            mount, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        folder = mount / group.lstrip("/")
        yield from (each / name for each in (folder, *folder.parents) if each.is_relative_to(mount))


def _of_cgroup() -> int | None:
    """What the tightest limit of this process's control groups (version 2) leaves; files held cached can go."""
    tightest = None
    for folder in _groups():
        limit, used = _number(folder / "memory.max"), _number(folder / "memory.current")
        if limit is None or used is None:
            continue
        files = sum(
            int(line.split()[1]) for line in _lines(folder / "memory.stat") if line.startswith("inactive_file ")
        )
        left = max(limit - used + files, 0)
        tightest = left if tightest is None else min(tightest, left)
    return tightest


def _groups() -> Iterator[Path]:
    for line in _lines(Path("/proc/self/cgroup")):
        if line.startswith("0::/"):
            folder = _CGROUP / line[4:].strip().lstrip("/")
            yield from [folder, *(parent for parent in folder.parents if parent.is_relative_to(_CGROUP))]


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].strip().isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
