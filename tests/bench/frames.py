"""lineitem as a data frame: the Python package's `to_pandas` against `pandas.read_parquet`, with the same dtypes."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

import package
import report
import usage
from clients import Client

RATIO = 1 / 3
MIB = 1 << 20
SAME_HOST, TCP, PANDAS = "same host", "TCP", "pandas.read_parquet"
DTYPES = {"numpy": "NumPy's dtypes", "pyarrow": "dtypes that hold Arrow"}


@dataclass(frozen=True)
class Framed:
    """One frame, as the process that made it saw it: what it took, and what it is."""

    took: usage.Usage
    rows: int
    dtypes: Mapping[str, str]
    # The sum of each column of whole numbers.
    sums: Mapping[str, int]


Found = dict[tuple[str, str], list[Framed]]


def run(uri: str, folder: Path, rounds: int) -> list[report.Line]:
    """Both kinds of dtypes, over both ways."""
    found: Found = {}
    with contextlib.ExitStack() as stack:
        ways = {side: way(stack, *side, uri, folder) for side in all_sides()}
        for number in range(rounds + 1):
            of_round = {side: one() for side, one in ways.items()}
            for (name, dtypes), one in of_round.items():
                plain = of_round[PANDAS, dtypes]
                same = (one.rows, one.dtypes, one.sums) == (plain.rows, plain.dtypes, plain.sums)
                assert same, f"{name}, {dtypes}: {one}, and not {plain}"
                if number:
                    found.setdefault((name, dtypes), []).append(one)
            if number:
                told = ", ".join(f"{'/'.join(side)} {one.took.seconds:.2f} s" for side, one in of_round.items())
                print(f"bench: python, frames, round {number} of {rounds}: {told}", flush=True)
    return [*lines(found)]


def all_sides() -> Iterator[tuple[str, str]]:
    """In the order in which they take turns."""
    for dtypes in DTYPES:
        for name in (SAME_HOST, TCP, PANDAS):
            yield name, dtypes


def way(stack: contextlib.ExitStack, name: str, dtypes: str, uri: str, folder: Path) -> Callable[[], Framed]:
    """One way to a frame, in a process of its own that has made frames before."""
    client = stack.enter_context(contextlib.closing(Client(fresh=False)))
    if name == PANDAS:
        return partial(client.call, framed, by_pandas, str(folder), dtypes)
    return partial(client.call, framed, package.to_pandas, uri, dtypes, name == SAME_HOST)


def framed(read: Callable[..., pd.DataFrame], *asked: object) -> Framed:
    """One frame and what it took; it is gone when this returns."""
    frame, took = usage.used(lambda: read(*asked))
    whole = [name for name, dtype in frame.dtypes.items() if str(dtype).startswith("int")]
    sums = {name: int(frame[name].sum()) for name in whole}
    dtypes = {str(name): str(dtype) for name, dtype in frame.dtypes.items()}
    return Framed(took, len(frame), dtypes, sums)


def by_pandas(folder: str, dtypes: str) -> pd.DataFrame:
    """pandas' own reader; dates as what `to_pandas` makes of them, which is faster than its default, an object each."""
    if dtypes == "pyarrow":
        return pd.read_parquet(folder, dtype_backend="pyarrow")
    return pd.read_parquet(folder, to_pandas_kwargs={"date_as_object": False})


def lines(found: Found) -> Iterator[report.Line]:
    """Ours by pandas', of the same dtypes."""
    for dtypes, words in DTYPES.items():
        plain = found[PANDAS, dtypes]
        for name in (SAME_HOST, TCP):
            ours = found[name, dtypes]
            what = f"Python, lineitem to pandas with {words}, {name}: time by {PANDAS}"
            seconds = [[one.took.seconds for one in side] for side in (ours, plain)]
            target = RATIO if name == SAME_HOST else None
            yield report.Line(what, *seconds, target, f"ours: {cost(ours)}; plain: {cost(plain)}")


def cost(frames: Sequence[Framed]) -> str:
    """CPU by 10^6 rows, and memory."""
    cpu = statistics.median(one.took.cpu_s for one in frames) / frames[0].rows * 1e6
    peak = max(one.took.peak_bytes for one in frames) / MIB
    return f"client's CPU {cpu:.2f} s a million rows, peak RSS {peak:,.0f} MiB"
