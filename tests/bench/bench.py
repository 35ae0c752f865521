"""`make bench`: ratios against plain programs that do the same work, side by side in one run; bounds for memory, hits.

Numbers of a machine that others share mean little by themselves; a ratio whose two sides alternate means something.
Writes `bench.json` and `bench.md` into the work folder after each part, and prints the latter's first table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import crowd
import memory
import plan
import policy
import reads
import report
import wire_forms

PARTS = ("plan", "reads", "forms", "memory", "crowd", "policy")


def main() -> None:
    arguments = parse_arguments()
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
    if part == "plan":
        return plan.run(arguments.work_dir, arguments.files, arguments.rounds), []
    if part == "reads":
        return reads.run(arguments.work_dir, arguments.scale_factor, arguments.rounds), []
    if part == "memory":
        return memory.run(arguments.work_dir, arguments.scale_factor, arguments.seed), []
    if part == "crowd":
        return crowd.run(arguments.work_dir, arguments.scale_factor, arguments.rounds), []
    if part == "forms":
        return wire_forms.run(arguments.work_dir, arguments.scale_factor, arguments.rounds)
    return policy.run()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="folder for data and results")
    parser.add_argument("--scale-factor", type=float, default=1.0, help="TPC-H scale of what is read")
    parser.add_argument("--files", type=int, default=10_000, help="files of the planning part")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side; the median counts")
    parser.add_argument("--seed", type=int, default=1, help="of the orders in which the memory part's readers read")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
