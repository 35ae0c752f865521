"""Watching a job: over a restart of the server that is asked, on a terminal, and until the user has seen enough."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from harness import files
from harness.cluster import until
from harness.flight import act
from harness.ports import free_port
from harness.process import clean_environment
from harness.server import Server, binary

FILES = 8
ROWS = 64 << 10
BANDWIDTH = "700KiB/s"
TIMEOUT_S = 120.0


@pytest.fixture
def start(start_server: Callable[..., Server], tmp_path: Path) -> Callable[[], Server]:
    """Starts a server at the same address each time; loading all of what it serves takes some seconds."""
    random, port = np.random.default_rng(7), free_port()
    for number in range(FILES):
        table = pa.table({"n": random.integers(0, 2**62, ROWS)})
        files.write(tmp_path / f"lake/{number}.parquet", table, compression="none", use_dictionary=False)
    mounts = {"/lake": f"file://{tmp_path}/lake"}
    return lambda: start_server(mounts=mounts, flight=f"127.0.0.1:{port}")


def submit(server: Server) -> str:
    return str(act(server.client, "preload.submit", {"path": "/lake", "bandwidth": BANDWIDTH})["id"])


def job(server: Server, job_id: str) -> dict[str, Any]:
    return act(server.client, "preload.get", {"id": job_id})


def until_some(server: Server, job_id: str) -> None:
    """Waits until something is loaded, and not all."""
    until(lambda: job(server, job_id)["bytes_done"] > 0, "something is loaded")
    assert job(server, job_id)["state"] == "RUNNING"


def watch(server: Server, *args: str, **options: Any) -> subprocess.Popen[bytes]:
    command = [str(binary()), "jobs", "watch", *args, "--uri", server.flight_uri]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command, env=clean_environment({"TERM": "xterm"}), **streams)


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_restart_of_the_server_is_no_end(start: Callable[[], Server], form: str) -> None:
    first = start()
    job_id = submit(first)
    watching = watch(first, job_id, "-o", form)
    assert watching.stdout is not None
    assert watching.stdout.readline()
    until_some(first, job_id)
    first.daemon.kill()
    second = start()
    out, err = watching.communicate(timeout=TIMEOUT_S)
    assert watching.returncode == 0, (out, err)
    assert b"lost the connection" in err
    last = out.splitlines()[-1].decode()
    if form == "json":
        assert json.loads(last) == job(second, job_id)
    else:
        assert last.startswith("SUCCEEDED 100.0 %"), out.decode()


def test_a_server_that_stays_away_is_given_up(start: Callable[[], Server]) -> None:
    server = start()
    job_id = submit(server)
    watching = watch(server, job_id)
    assert watching.stdout is not None
    assert watching.stdout.readline()
    until_some(server, job_id)
    server.daemon.kill()
    _, err = watching.communicate(timeout=TIMEOUT_S)
    assert watching.returncode == 1
    assert f"the job {job_id} cannot be watched any more" in err.decode()


def test_ctrl_c_ends_the_watching_and_not_the_job(start: Callable[[], Server]) -> None:
    server = start()
    job_id = submit(server)
    watching = watch(server, job_id)
    assert watching.stdout is not None
    assert watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=TIMEOUT_S)
    assert watching.returncode == 1
    assert f"stopped watching; the job {job_id} goes on" in err.decode()
    until(lambda: job(server, job_id)["state"] == "SUCCEEDED", "the job went on")


def test_a_terminal_has_bars_and_is_left_with_one_line(start: Callable[[], Server]) -> None:
    server = start()
    job_id = submit(server)
    ours, theirs = pty.openpty()
    watching = watch(server, job_id, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = read_all(ours)
    assert watching.wait(TIMEOUT_S) == 0
    worker = str(job(server, job_id)["workers"][0]["id"])
    assert "\x1b[" in shown
    assert "RUNNING " in shown
    # The worker's bar, and after all bars are wiped off the last line.
    assert worker[:8] in shown
    last = shown.rstrip().rsplit("\x1b[2K", 1)[-1]
    assert last.lstrip().startswith("SUCCEEDED 100.0 %"), repr(shown[-400:])
    assert "\n" not in last.strip()


def read_all(terminal: int) -> str:
    """What is written to a terminal until nobody has it open any more."""
    parts, deadline = [], time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            part = os.read(terminal, 65_536)
        except OSError:
            part = b""
        if not part:
            break
        parts.append(part)
    os.close(terminal)
    return b"".join(parts).decode()
