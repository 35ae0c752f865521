"""`make bench`: ratios against plain programs that do the same work, side by side in one run.

Numbers of a machine that others share mean little by themselves; a ratio whose two sides alternate means something.
Writes `bench.json` and `bench.md` into the work folder and prints the latter.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import do_get
import plan
import report


def main() -> None:
    arguments = parse_arguments()
    work_dir: Path = arguments.work_dir
    work_dir.mkdir(parents=True, exist_ok=True)
    lines: list[report.Line] = []
    if "plan" in arguments.only:
        lines += plan.run(work_dir, arguments.files, arguments.rounds)
    if "do_get" in arguments.only:
        lines += do_get.run(work_dir, arguments.scale_factor, arguments.rounds)
    text = report.write(work_dir, lines)
    print(text)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="folder for data and results")
    parser.add_argument("--scale-factor", type=float, default=1.0, help="TPC-H scale of the DoGet part")
    parser.add_argument("--files", type=int, default=10_000, help="files of the planning part")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side; the median counts")
    parser.add_argument(
        "--only", nargs="+", choices=("plan", "do_get"), default=("plan", "do_get"), help="parts to run"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
