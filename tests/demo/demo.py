"""`make demo`: makes TPC-H data, serves it, and reads it in several ways: directly, cold, and after a preload.

What a user's own program would do is in `ways.py` and `epoch.py`. Whatever is read through Jetbridge is compared with
what was read directly.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jetbridge as jb
import pyarrow as pa

from harness.compare import assert_same
from harness.server import Options, Server
from harness.tpch import LINEITEM_ROWS_SF1, lineitem
from ways import DATASET, WAYS, Way

COLD, WARM = "cold", "preloaded"
EPOCH = "an epoch of PyTorch, 4 columns"
NO_TORCH = "no environment with torch here; `make test-torch` sets one up (5 GB)"


def main() -> None:
    arguments = parse_arguments()
    work_dir: Path = arguments.work_dir
    work_dir.mkdir(parents=True, exist_ok=True)
    say(f"TPC-H lineitem at scale {arguments.scale_factor:g} (made once, kept in {work_dir})")
    folder = lineitem(work_dir, arguments.scale_factor)
    shutil.rmtree(work_dir / "data", ignore_errors=True)
    say(f"jetbridge serve --mount /lake=file://{folder.parent}")
    server = Server(work_dir / "data", Options(mounts={"/lake": f"file://{folder.parent}"}))
    try:
        demo = Demo(server.flight_uri, folder, with_torch(arguments))
        demo.run()
    finally:
        code = server.stop()
    assert code == 0, server.log
    assert demo.rows == LINEITEM_ROWS_SF1 or arguments.scale_factor != 1
    say(f"equal, every value: what was read directly, cold and preloaded, {demo.rows:,} rows at the most")
    demo.show()
    print(how_to_go_on(folder))


@dataclass(frozen=True)
class Torch:
    """A Python that has torch, and a folder with our package for it."""

    python: Path
    package: Path


class Demo:
    """All ways, and what each took."""

    def __init__(self, uri: str, folder: Path, torch: Torch | None) -> None:
        self.uri, self.folder, self.torch = uri, folder, torch
        self.rows = 0
        self._seconds: dict[tuple[str, str], float] = {}
        # What was read without Jetbridge, by the function that did it.
        self._direct: dict[Callable[[Path], pa.Table], tuple[pa.Table, float]] = {}
        self._sums: set[tuple[int, int]] = set()

    def run(self) -> None:
        """Directly, cold, then preloaded."""
        with jb.connect(self.uri) as client:
            for way in WAYS:
                client.free(DATASET)
                self.read(way, COLD)
            client.free(DATASET)
            self.epoch(COLD)
            client.free(DATASET)
            say("preloading: decoded columns into memory, as many as there is room for")
            done = client.dataset(DATASET).preload(tier="decoded", partial=True).wait(check=False)
            say(f"{done.state}: {done.row_groups_done} row groups, {done.decoded_bytes_done / 1e6:,.0f} MB")
        for way in WAYS:
            self.read(way, WARM)
        self.epoch(WARM)

    def read(self, way: Way, state: str) -> None:
        """Reads through Jetbridge, and compares; directly too where that was not done yet."""
        if way.directly not in self._direct:
            say(f"{way.name}: the files directly")
            self._direct[way.directly] = timed(lambda: way.directly(self.folder))
        expected, seconds = self._direct[way.directly]
        self._seconds[way.name, "directly"] = seconds
        say(f"{way.name}: {state}")
        table, self._seconds[way.name, state] = timed(lambda: way.through(self.uri))
        assert_same(table if way.is_typed_alike else table.cast(expected.schema), expected)
        self.rows = max(self.rows, table.num_rows)

    def epoch(self, state: str) -> None:
        """An epoch of PyTorch, in a process of its own."""
        if self.torch is None:
            return
        if state == COLD:
            say(f"{EPOCH}: the files directly")
            self._seconds[EPOCH, "directly"] = self._epoch(self.torch, "directly", str(self.folder))
        say(f"{EPOCH}: {state}")
        self._seconds[EPOCH, state] = self._epoch(self.torch, "through", self.uri)

    def _epoch(self, torch: Torch, way: str, place: str) -> float:
        command = [str(torch.python), str(Path(__file__).with_name("epoch.py")), way, place]
        environment = os.environ | {"PYTHONPATH": str(torch.package)}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        said = json.loads(done.stdout)
        self._sums.add((said["rows"], said["sum"]))
        assert len(self._sums) == 1, f"an epoch has other rows than another: {self._sums}"
        return float(said["seconds"])

    def show(self) -> None:
        """The table."""
        print(f"\n{'seconds, one run each':<38} {'directly':>9} {COLD:>9} {WARM:>9}")
        for name in [*(way.name for way in WAYS), *([EPOCH] if self.torch else [])]:
            told = (f"{self._seconds[name, state]:>9.2f}" for state in ("directly", COLD, WARM))
            print(f"{name:<38} {' '.join(told)}")
        if not self.torch:
            print(f"{EPOCH:<38} not run: {NO_TORCH}")
        print("directly: pyarrow, pandas and DuckDB on the same files; `make bench` measures with care")


def timed(read: Callable[[], pa.Table]) -> tuple[pa.Table, float]:
    """Runs a read; what it gave, and how long it took."""
    start = time.perf_counter()
    table = read()
    return table, time.perf_counter() - start


def with_torch(arguments: argparse.Namespace) -> Torch | None:
    """What runs torch, where there is an environment with it. It is left as it is: others may be using it."""
    python = arguments.torch_venv / "bin/python"
    is_there = python.exists() and os.environ.get("JETBRIDGE_TORCH", "yes") != "no"
    if not is_there or subprocess.run([str(python), "-c", "import torch"], check=False).returncode:
        return None
    (wheel,) = arguments.wheels.glob("jetbridge-*.whl")
    package = arguments.work_dir / "package"
    shutil.rmtree(package, ignore_errors=True)
    words = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--target", str(package), str(wheel)]
    subprocess.run([str(python), "-m", "pip", "install", *words], check=True)
    return Torch(python, package)


def how_to_go_on(folder: Path) -> str:
    """What to type next."""
    return f"""
Go on:
  make serve SERVE="--mount /lake=file://{folder.parent}"     a server on grpc://127.0.0.1:8815
  jetbridge ls /lake                                         (in another terminal)
  jetbridge stat {DATASET}
  jetbridge get {DATASET} --columns l_orderkey,l_shipdate --where "l_orderkey < 10"
The README's first ten minutes take it from there."""


def say(text: str) -> None:
    print(f"demo: {text}", flush=True)


def parse_arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale-factor", type=float, default=1.0, help="TPC-H scale; 1 is 6,001,215 rows")
    parser.add_argument("--work-dir", type=Path, required=True, help="folder for the data, kept between runs")
    parser.add_argument("--torch-venv", type=Path, required=True, help="environment with torch, used where it is there")
    parser.add_argument("--wheels", type=Path, required=True, help="the folder with the wheel of jetbridge")
    return parser.parse_args()


if __name__ == "__main__":
    main()
