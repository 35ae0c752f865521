"""One child process: started, watched line by line, stopped within a bound, its output kept."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

STOP_TIMEOUT_S = 60.0
FREEZE_TIMEOUT_S = 10.0
LOG_TAIL_BYTES = 6_000


class Daemon:
    """A program that runs beside the test. Its stdout and stderr are one log file; stdout can be waited on."""

    def __init__(self, args: Sequence[str | Path], log_path: Path, env: Mapping[str, str] | None = None) -> None:
        self.log_path = log_path
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._log = log_path.open("ab", buffering=0)
        self.process = subprocess.Popen(
            [str(arg) for arg in args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=dict(env) if env is not None else None,
            # A group of its own, so that what it starts ends with it.
            start_new_session=True,
        )
        self._pump = threading.Thread(target=self._copy_stdout, daemon=True)
        self._pump.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        """All it has written so far."""
        return self.log_path.read_text(errors="replace")

    @property
    def log_tail(self) -> str:
        """The end of what it has written, for the message of a failure."""
        return self.log[-LOG_TAIL_BYTES:]

    def wait_for_line(self, pattern: str, timeout_s: float) -> re.Match[str]:
        """The first stdout line that matches; fails with the log when the process ends or the time is up."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            try:
                line = self._lines.get(timeout=left)
            except queue.Empty:
                break
            if line is None:
                raise RuntimeError(f"ended with {self.process.wait()} before {pattern!r}:\n{self.log_tail}")
            if found := re.search(pattern, line):
                return found
        raise TimeoutError(f"no line {pattern!r} in {timeout_s} s:\n{self.log_tail}")

    def terminate(self) -> None:
        """Asks it to stop (SIGTERM) and does not wait."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Its exit code; fails with the log when it does not end in time."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"did not stop in {timeout_s} s:\n{self.log_tail}") from None

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM, then its exit code."""
        try:
            self.terminate()
            return self.wait(timeout_s)
        finally:
            self.close()

    def kill(self) -> None:
        """Ends it and what it started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.close()

    def close(self) -> None:
        """Gives the log back once the process has ended."""
        if self.process.poll() is not None and not self._log.closed:
            self._pump.join(STOP_TIMEOUT_S)
            self._log.close()
            if self.process.stdout is not None:
                self.process.stdout.close()

    def cpu_seconds(self) -> float:
        """User and system time it has used up to now."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _copy_stdout(self) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            self._log.write(raw)
            self._lines.put(raw.decode(errors="replace"))
        self._lines.put(None)


def freeze(pid: int) -> None:
    """SIGSTOP, and until it holds: what a thread has in hand when it comes, it may answer yet."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + FREEZE_TIMEOUT_S
    while not all(_is_stopped(thread) for thread in Path(f"/proc/{pid}/task").iterdir()):
        assert time.monotonic() < deadline, f"process {pid} does not stop"
        time.sleep(0.001)


def _is_stopped(thread: Path) -> bool:
    """Whether a thread is stopped, or gone."""
    try:
        return (thread / "stat").read_text().rpartition(") ")[2].startswith(("T", "t", "Z", "X"))
    except FileNotFoundError:
        return True


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without the settings that a server or an S3 mount would pick up, and with `extra`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("JETBRIDGE_", "AWS_", "RUST_LOG"))}
    return {**kept, **(extra or {})}
