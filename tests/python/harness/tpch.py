"""TPC-H data by tpchgen-cli, made once and kept, and the specification's queries with its validation parameters."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

# The specification's count of lineitem at scale 1.
LINEITEM_ROWS_SF1 = 6_001_215
TABLES = ("customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier")
QUERIES = range(1, 23)
# Queries whose order is not that of whole rows: the columns that they sort by.
SORTED_BY = {3: (1, 2), 5: (1,), 10: (2,), 11: (1,), 18: (4, 3)}
_QUERIES = Path(__file__).with_name("tpch_queries")
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


def tables(work_dir: Path, scale_factor: float, parts: int = LINEITEM_PARTS) -> Path:
    """The folder that holds a folder of so many Parquet files for each of the eight tables; made unless it is whole."""
    folder = work_dir / f"{folder_name(scale_factor, 'SNAPPY')}-all-{parts}"
    done = folder / "complete"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command = [str(Path(sys.executable).with_name("tpchgen-cli")), "parquet", "--quiet", "--no-progress"]
        words = [f"--scale-factor={scale_factor:g}", f"--parts={parts}", f"--output-dir={folder}"]
        subprocess.run([*command, *words], check=True)
        done.touch()
    return folder


def query(number: int, scale_factor: float) -> str:
    """The text of one of the 22 queries. The fraction of the 11th depends on the scale, as the specification has it."""
    text = (_QUERIES / f"q{number:02}.sql").read_text()
    return text.replace("{fraction}", f"{0.0001 / scale_factor:.10f}")


def folder_name(scale_factor: float, compression: str) -> str:
    """What keeps data sets apart: `tpch-sf1`, `tpch-sf1-zstd1`."""
    words = "".join(char for char in compression.lower() if char.isalnum())
    return f"tpch-sf{scale_factor:g}" + ("" if compression == "SNAPPY" else f"-{words}")
