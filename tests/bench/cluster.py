"""What a cluster costs as it grows: planning over up to 1,500 workers, reading from up to three, placing splits."""

from __future__ import annotations

from pathlib import Path

import growing
import placing
import report
import scale_out


def run(work_dir: Path, scale_factor: float, rounds: int) -> tuple[list[report.Line], list[report.Table]]:
    """The three measurements, one after the other."""
    plan_lines, plan_tables = growing.run(work_dir, scale_factor, rounds)
    read_lines, read_tables = scale_out.run(work_dir, scale_factor, rounds)
    return [*plan_lines, *read_lines, *placing.run()], [*plan_tables, *read_tables]
