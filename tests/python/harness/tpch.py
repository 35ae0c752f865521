"""TPC-H data by tpchgen-cli, made once and kept."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

# The specification's count of lineitem at scale 1.
LINEITEM_ROWS_SF1 = 6_001_215
# At scale 1 that gives files of about 50 MB, several of them, as a real dataset has.
LINEITEM_PARTS = 4


def lineitem(work_dir: Path, scale_factor: float, compression: str = "SNAPPY") -> Path:
    """The folder of lineitem's Parquet files; made when it is not there whole. Every compression has the same rows."""
    folder = work_dir / folder_name(scale_factor, compression)
    done = folder / "complete"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command = [str(Path(sys.executable).with_name("tpchgen-cli")), "parquet", "--quiet", "--no-progress"]
        words = [f"--scale-factor={scale_factor:g}", "--tables=lineitem", f"--parts={LINEITEM_PARTS}"]
        subprocess.run([*command, *words, f"--compression={compression}", f"--output-dir={folder}"], check=True)
        done.touch()
    return folder / "lineitem"


def folder_name(scale_factor: float, compression: str) -> str:
    """What keeps data sets apart: `tpch-sf1`, `tpch-sf1-zstd1`."""
    words = "".join(char for char in compression.lower() if char.isalnum())
    return f"tpch-sf{scale_factor:g}" + ("" if compression == "SNAPPY" else f"-{words}")
