"""Files of Debian packages, taken out of the package once and installed nowhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FETCH_TIMEOUT_S = 300.0


class NotToBeHadError(Exception):
    """The package cannot be fetched here; says why."""


def fetched(package: str, inside: str, name: str) -> Path:
    """A file of a package, kept in the virtual environment as `name`; `inside` is where it lies, as a glob.

    Raises `NotToBeHadError`.
    """
    target = Path(sys.prefix) / name
    if not target.is_file():
        _fetch(package, inside, target)
    return target


def _fetch(package: str, inside: str, target: Path) -> None:
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise NotToBeHadError(f"there is no {tool} to fetch Debian's package {package}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            _run(["apt-get", "download", package], folder)
            archive = next(Path(folder).glob("*.deb"))
            _run(["dpkg-deb", "--extract", str(archive), "content"], folder)
            found = next((Path(folder) / "content").glob(inside))
        except (subprocess.SubprocessError, OSError, StopIteration) as error:
            reason = getattr(error, "stderr", "") or error
            raise NotToBeHadError(f"Debian's package {package} cannot be had: {reason}") from error
        target.parent.mkdir(parents=True, exist_ok=True)
        # In one step, so that whoever runs beside this finds a whole file or none.
        part = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copy2(found, part)
        part.rename(target)


def _run(args: list[str], folder: str) -> None:
    subprocess.run(args, cwd=folder, check=True, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S)
