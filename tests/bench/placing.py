"""Placing 100,000 splits over 1,500 workers on one core: an example program of the catalog's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

import report
from harness.server import binary

OWNERS_S = 0.5
MAX_OVER_MEAN = 1.15
# Others may use the machine, and all that they do is to slow it down: the quickest of several runs counts.
RUNS = 3


def run() -> Sequence[report.Line]:
    """How long it takes and how even it is, by how many splits a file has; nothing where the program was not built."""
    path = binary().with_name("examples") / "place"
    if not path.is_file():
        print(f"bench: cluster: {path} is not there, so placing is left out: `cargo build --examples`", flush=True)
        return []
    runs = [json.loads(subprocess.run([str(path)], check=True, capture_output=True).stdout) for _ in range(RUNS)]
    what = f"placing {runs[0]['splits']:,} splits over {runs[0]['workers']:,} workers"
    found: list[report.Line] = []
    for shapes in zip(*(one["shapes"] for one in runs), strict=True):
        found += lines(what, shapes)
    return found


def lines(what: str, runs: Sequence[dict[str, Any]]) -> Sequence[report.Line]:
    """Time and balance of one shape of dataset."""
    each = runs[0]["splits_a_file"]
    owners_s, with_replicas_s = (min(one[name] for one in runs) for name in ("owners_s", "with_replicas_s"))
    note = f"one core, the quickest of {RUNS} runs; with a second replica {with_replicas_s * 1e3:.0f} ms"
    uneven = f"{what}, {each:,} a file: splits of the fullest worker by the mean"
    return [
        report.Line(f"{what}, {each:,} a file", [owners_s], at_most=OWNERS_S, note=note),
        report.Line(uneven, [runs[0]["max_over_mean"]], unit=report.Unit.SHARE, at_most=MAX_OVER_MEAN),
    ]
