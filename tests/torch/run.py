"""Sets up an environment with torch, and runs the tests of `jetbridge.torch` in it.

PyPI's torch needs CUDA's libraries even where there is no GPU: 5 GB, and some minutes the first time. Where that cannot
be had, this says so and ends without an error: nothing was tested, and nothing is counted as passed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
REQUIREMENTS = [HERE.parent / "requirements.txt", HERE / "requirements.txt"]
NEEDED_BYTES = 9 << 30
INSTALL_TIMEOUT_S = 1_200.0
TORCH_LOADS_TIMEOUT_S = 120.0


class CannotBeSetUpError(Exception):
    """Says why."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, required=True, help="where the environment is kept")
    parser.add_argument("--wheels", type=Path, required=True, help="the folder with the wheel of jetbridge")
    parser.add_argument("--set-up-only", action="store_true", help="run no test; fail where it cannot be set up")
    parser.add_argument("pytest", nargs="*", help="more words for pytest")
    args = parser.parse_args()
    try:
        python = environment(args.venv)
    except CannotBeSetUpError as error:
        print(f"SKIPPED tests/torch: {error}", flush=True)
        return 1 if args.set_up_only else 0
    (wheel,) = args.wheels.glob("jetbridge-*.whl")
    pip(python, ["install", "--no-deps", "--no-index", "--force-reinstall", str(wheel)])
    if args.set_up_only:
        return 0
    command = [str(python), "-m", "pytest", "-c", str(HERE.parent / "python/pytest.ini"), *args.pytest, str(HERE)]
    return subprocess.run(command, check=False).returncode


def environment(venv: Path) -> Path:
    """The Python of an environment that has what is required, made if there is none."""
    if os.environ.get("JETBRIDGE_TORCH", "yes") == "no":
        raise CannotBeSetUpError("JETBRIDGE_TORCH=no")
    python = venv / "bin/python"
    required = "".join(path.read_text() for path in REQUIREMENTS) + sys.version
    ready = venv / f".ready-{hashlib.sha256(required.encode()).hexdigest()[:16]}"
    if not ready.is_file():
        shutil.rmtree(venv, ignore_errors=True)
        venv.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(venv.parent).free
        if free < NEEDED_BYTES:
            raise CannotBeSetUpError(f"{NEEDED_BYTES >> 30} GiB of disk are needed for torch, {free >> 30} are free")
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        wanted = [word for path in REQUIREMENTS for word in ("--requirement", str(path))]
        pip(python, ["install", "--only-binary", ":all:", *wanted])
        loads(python)
        ready.touch()
    return python


def pip(python: Path, args: list[str]) -> None:
    """Runs pip."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet", *args]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise CannotBeSetUpError(f"pip took longer than {INSTALL_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise CannotBeSetUpError(f"pip failed: {last}")


def loads(python: Path) -> None:
    """Fails where torch was installed and cannot be imported."""
    command = [str(python), "-c", "import torch"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TORCH_LOADS_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise CannotBeSetUpError(f"torch cannot be imported: {done.stderr.strip().splitlines()[-1]}")


if __name__ == "__main__":
    sys.exit(main())
