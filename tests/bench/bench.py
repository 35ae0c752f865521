"""`make bench`: ratios against plain programs that do the same work, side by side in one run; bounds for memory, hits.

Numbers of a machine that others share mean little by themselves; a ratio whose two sides alternate means something.
Writes `bench.json` and `bench.md` into the work folder after each part, and prints the latter's first table.

The parts: `plan`, GetFlightInfo of many files; `reads`, lineitem cold and warm from each storage; `wire`, held batches
against other Flight servers; `local`, shared memory; `forms`, wire forms on slow links; `memory` and `crowd`, bounds
under load; `policy`, hits; `cluster` and `jobs`, several workers; `python`, the package against pyarrow and pandas;
`torch`, samples per second; `sql`, the queries of TPC-H. The last three install what others have made (see
`environments.py`), and those and `local`, `reads` and `forms` need the wheel of jetbridge in the environment that runs
them.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import bucket
import cluster
import crowd
import epochs
import in_python
import jobs
import local
import memory
import plan
import policy
import reads
import report
import shapes
import sql
import wire
import wire_forms
from environments import Environments

PARTS = (
    *("plan", "reads", "wire", "local", "forms", "memory", "crowd", "policy", "cluster", "jobs"),
    *("python", "torch", "sql"),
)
# Those that need what others have made, in environments of their own.
WITH_OTHERS = {"python": in_python.run, "torch": epochs.run, "sql": sql.run}


def main() -> None:
    arguments = parse_arguments()
    # So that what is started ends with this program when it is asked to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    work_dir: Path = arguments.work_dir
    work_dir.mkdir(parents=True, exist_ok=True)
    lines: list[report.Line] = []
    tables: list[report.Table] = []
    text = ""
    for part in arguments.only:
        more, more_tables = measure(part, arguments)
        lines += more
        tables += more_tables
        # So that what was measured is there when a later part fails.
        text = report.write(work_dir, lines, tables)
    print(text)


def measure(part: str, arguments: argparse.Namespace) -> tuple[list[report.Line], list[report.Table]]:
    """One part's lines and tables."""
    if part in WITH_OTHERS:
        environments = Environments(arguments.work_dir, arguments.torch_venv, arguments.wheels)
        return WITH_OTHERS[part](arguments.work_dir, arguments.scale_factor, arguments.rounds, environments)
    if part == "plan":
        return plan.run(arguments.work_dir, arguments.files, arguments.rounds), []
    if part == "reads":
        return reads.run(arguments.work_dir, arguments.scale_factor, arguments.rounds), []
    if part == "wire":
        return wire.run(arguments.work_dir, arguments.scale_factor, arguments.rounds, arguments.shapes)
    if part == "local":
        return local.run(arguments.work_dir, arguments.scale_factor, arguments.rounds), []
    if part == "memory":
        return memory.run(arguments.work_dir, arguments.scale_factor, arguments.seed), []
    if part == "crowd":
        return crowd.run(arguments.work_dir, arguments.scale_factor, arguments.rounds), []
    if part == "cluster":
        return cluster.run(arguments.work_dir, arguments.scale_factor, arguments.rounds)
    if part == "jobs":
        sizes = bucket.Sizes(arguments.files, arguments.large_bytes)
        return jobs.run(arguments.work_dir, sizes, arguments.rounds)
    if part == "forms":
        return wire_forms.run(arguments.work_dir, arguments.scale_factor, arguments.rounds)
    return policy.run()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="folder for data and results")
    parser.add_argument("--scale-factor", type=float, default=1.0, help="TPC-H scale of what is read")
    parser.add_argument("--files", type=int, default=10_000, help="files of the planning part and of the jobs part")
    parser.add_argument("--large-bytes", type=int, default=5 * 10**9, help="the jobs part's large file")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side; the median counts")
    parser.add_argument("--seed", type=int, default=1, help="of the orders in which the memory part's readers read")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run")
    parser.add_argument("--torch-venv", type=Path, help="the environment of tests/torch, of the torch part")
    parser.add_argument("--wheels", type=Path, help="folder with the wheel of jetbridge, for that environment")
    every = (shapes.LINEITEM, *shapes.SHAPES)
    parser.add_argument("--shapes", nargs="+", choices=every, default=every, help="tables of the wire part")
    return parser.parse_args()


if __name__ == "__main__":
    main()
