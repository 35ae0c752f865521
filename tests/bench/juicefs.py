"""A JuiceFS volume, mounted by its own program: metadata in SQLite, objects in SeaweedFS, a cache on the local disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from environments import AbsentError, Environments, last_line
from harness.process import Daemon, clean_environment
from harness.weed import ACCESS_KEY, SECRET_KEY, Weed

VOLUME, BUCKET = "bench", "juicefs"
START_TIMEOUT_S = 30.0
COMMAND_TIMEOUT_S = 300.0
POLL_INTERVAL_S = 0.1
FUSE = Path("/dev/fuse")


@dataclass(frozen=True)
class Mounted:
    """A folder in it, and the program that serves it."""

    folder: Path
    daemon: Daemon


@contextlib.contextmanager
def copied(work_dir: Path, folder: Path, environments: Environments) -> Iterator[Mounted]:
    """A copy of a folder in a new volume, all of it in its cache."""
    if not os.access(FUSE, os.W_OK):
        raise AbsentError(f"{FUSE} cannot be used here")
    program = environments.python("juicefs").with_name("juicefs")
    place = work_dir / "juicefs"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    weed = Weed()
    try:
        weed.filesystem().create_dir(BUCKET)
        with _mounted(program, place, f"{weed.endpoint}/{BUCKET}") as mounted:
            copy = mounted.folder / folder.name
            shutil.copytree(folder, copy)
            _run(program, "warmup", str(copy))
            yield Mounted(copy, mounted.daemon)
    finally:
        weed.stop()
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _mounted(program: Path, place: Path, bucket: str) -> Iterator[Mounted]:
    meta, point = f"sqlite3://{place}/meta.db", place / "mounted"
    point.mkdir()
    keys = ["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]
    _run(program, "format", "--storage", "s3", "--bucket", bucket, *keys, meta, VOLUME)
    words = ["--no-usage-report", "--metrics", "127.0.0.1:0", "--cache-dir", str(place / "cache")]
    daemon = Daemon([program, "mount", *words, meta, point], place / "log", clean_environment())
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not os.path.ismount(point):
            if daemon.process.poll() is not None or time.monotonic() > deadline:
                raise AbsentError(f"juicefs mount: {last_line(daemon.log_tail)}")
            time.sleep(POLL_INTERVAL_S)
        yield Mounted(point, daemon)
    finally:
        # Lazily, so that nothing that still looks at it keeps it.
        subprocess.run(["umount", "--lazy", str(point)], check=False, capture_output=True)
        daemon.kill()


def _run(program: Path, *words: str) -> None:
    command = [str(program), *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    if done.returncode:
        raise AbsentError(f"juicefs {words[0]}: {last_line(done.stdout + done.stderr)}")
