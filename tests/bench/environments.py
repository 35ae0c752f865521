"""Python environments with what others have made, one for each that would not go together with the rest.

They are kept in the work folder, and made anew when what they should hold has changed. The environment of the tests is
never touched; one may lie over another, whose packages it sees where it has none of its own.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements")
TORCH = Path(__file__).parents[1] / "torch/run.py"
INSTALL_TIMEOUT_S = 1_800.0
# What a line of a report can say of why something is missing.
REASON_CHARS = 160


class AbsentError(Exception):
    """An environment that cannot be had; says why in a few words."""


@dataclass(frozen=True)
class Environments:
    """Those of one work folder; with the wheel of jetbridge and where the tests have torch, for what needs these."""

    work_dir: Path
    torch_venv: Path | None = None
    wheels: Path | None = None

    def python(self, name: str, over: Path | None = None) -> Path:
        """The Python of an environment with what `requirements/NAME.txt` says; what is missing is installed first.

        `over`: the environment whose packages it sees too.
        """
        required = (REQUIREMENTS / f"{name}.txt").read_text()
        venv = self.work_dir / f"venv-{name}"
        marks = f"{required}{sys.version}{over}"
        ready = venv / f".ready-{hashlib.sha256(marks.encode()).hexdigest()[:16]}"
        python = venv / "bin/python"
        if not ready.is_file():
            print(f"bench: installing {name} into {venv}", flush=True)
            shutil.rmtree(venv, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
            if over:
                # After its own packages, and before pip looks at what is there already.
                (packages_of(venv) / "under.pth").write_text(f"{packages_of(over)}\n")
            install(python, "--requirement", str(REQUIREMENTS / f"{name}.txt"))
            ready.touch()
        return python

    def torch(self) -> Path:
        """The environment of tests/torch, with the wheel; the tests' own way to make it."""
        if self.torch_venv is None or self.wheels is None:
            raise AbsentError("bench.py was not told --torch-venv and --wheels")
        words = ["--venv", str(self.torch_venv), "--wheels", str(self.wheels), "--set-up-only"]
        done = subprocess.run([sys.executable, str(TORCH), *words], check=False, capture_output=True, text=True)
        if done.returncode:
            raise AbsentError(last_line(done.stdout + done.stderr))
        return self.torch_venv


def install(python: Path, *words: str) -> None:
    """Runs pip."""
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]
    command = [*pip, "install", "--only-binary", ":all:", *words]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise AbsentError(f"pip took longer than {INSTALL_TIMEOUT_S:.0f} s") from None
    if done.returncode:
        raise AbsentError(f"pip: {last_line(done.stderr)}")


def packages_of(venv: Path) -> Path:
    """Where an environment's packages are."""
    (found,) = venv.glob("lib/python*/site-packages")
    return found


def last_line(text: str) -> str:
    """The last line, cut to what a report can show."""
    lines = text.strip().splitlines() or ["no word"]
    return lines[-1][:REASON_CHARS]
