"""`jetbridge serve` as a real process on free ports."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.flight as flight

from harness.process import STOP_TIMEOUT_S, Daemon, clean_environment

START_TIMEOUT_S = 60.0
READY = r"jetbridge ready flight=(\S+) admin=(\S+)"
CLI_TIMEOUT_S = 120.0


def binary() -> Path:
    """The program under test: `JETBRIDGE_BIN`, which the Makefile sets."""
    path = Path(os.environ.get("JETBRIDGE_BIN", "target/release/jetbridge")).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: run `make build`, or set JETBRIDGE_BIN")
    return path


@dataclass
class Options:
    """How a server is started; every field has the default that most tests want."""

    mounts: Mapping[str, str] = field(default_factory=dict)
    file_roots: Sequence[Path] = ()
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    flight: str = "127.0.0.1:0"


class Server:
    """A running server, its addresses, and a client to it."""

    def __init__(self, data_dir: Path, options: Options | None = None) -> None:
        self.data_dir = data_dir
        self.options = options or Options()
        data_dir.mkdir(parents=True, exist_ok=True)
        log_path = data_dir.with_name(f"{data_dir.name}.log")
        self.daemon = Daemon(self.command(), log_path, clean_environment(self.options.env))
        try:
            ready = self.daemon.wait_for_line(READY, START_TIMEOUT_S)
        except BaseException:
            self.daemon.kill()
            raise
        self.flight_uri, self.admin_uri = ready.group(1), ready.group(2)
        self.client = self.connect()

    def command(self) -> list[str | Path]:
        """The command line that starts it."""
        roots = [part for root in self.options.file_roots for part in ("--file-root", root)]
        mounts = [part for path, uri in self.options.mounts.items() for part in ("--mount", f"{path}={uri}")]
        listen = ["--flight", self.options.flight, "--admin", "127.0.0.1:0"]
        return [binary(), "serve", "--data-dir", self.data_dir, *listen, *roots, *mounts, *self.options.args]

    def connect(self) -> flight.FlightClient:
        """One more client of its own connection."""
        return flight.connect(self.flight_uri)

    @property
    def log(self) -> str:
        return self.daemon.log

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Closes the client and stops by SIGTERM; the exit code."""
        self.client.close()
        return self.daemon.stop(timeout_s)

    def cli(self, *args: str | Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
        """Runs `jetbridge ARGS` against this server."""
        return run_cli(*args, env={"JETBRIDGE_URI": self.flight_uri, **(env or {})})


def run_cli(*args: str | Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """Runs `jetbridge ARGS` to its end, whatever its exit code."""
    return subprocess.run(
        [str(binary()), *map(str, args)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=clean_environment(env),
        timeout=CLI_TIMEOUT_S,
        check=False,
    )
