"""The example runs, stops, and goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness.server import Server

EXAMPLE = Path(__file__).parents[2] / "python" / "examples" / "train_torch.py"


def run(server: Server, *args: str) -> str:
    command = [sys.executable, str(EXAMPLE), "--uri", server.flight_uri, "--path", "/lake/rows", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_trains_and_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    checkpoint = str(tmp_path / "run.pt")
    whole = run(server, "--epochs", "2")
    stopped = run(server, "--epochs", "2", "--checkpoint", checkpoint, "--stop-after", "7")
    assert "stopped after 7 steps" in stopped
    resumed = run(server, "--epochs", "2", "--checkpoint", checkpoint, "--workers", "2")
    assert "goes on in epoch 0 after 7 steps" in resumed
    assert whole.splitlines()[-1] == resumed.splitlines()[-1], "the same weights at the end"
