"""Programs that measure in an environment of their own: each answers one line of JSON for each one that it is sent."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

from harness.process import STOP_TIMEOUT_S, clean_environment

LOG_TAIL_BYTES = 3_000
ANSWER_TIMEOUT_S = 1_200.0


class FailedError(Exception):
    """A program ended, or answered with an error; the end of what it has written to stderr comes along."""


class Program:
    """One that runs; what it writes to stderr goes to a file."""

    def __init__(self, process: Popen[str], log_path: Path) -> None:
        self._process, self._log_path = process, log_path
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._pump, daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, **asked: Any) -> dict[str, Any]:
        """Its answer."""
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=ANSWER_TIMEOUT_S)
        except (BrokenPipeError, queue.Empty) as error:
            raise FailedError(f"no answer to {asked}: {error!r}\n{self._log_tail}") from error
        if line is None:
            raise FailedError(f"ended with {self._process.wait(STOP_TIMEOUT_S)} at {asked}:\n{self._log_tail}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise FailedError(f"{answer['error']}\n{self._log_tail}")
        return answer

    def _pump(self) -> None:
        assert self._process.stdout
        with contextlib.suppress(ValueError):
            for line in self._process.stdout:
                # Whatever a library prints is no answer.
                if line.startswith("{"):
                    self._lines.put(line)
        self._lines.put(None)

    @property
    def _log_tail(self) -> str:
        return self._log_path.read_text(errors="replace")[-LOG_TAIL_BYTES:]


@contextlib.contextmanager
def started(
    python: Path, script: Path, words: Sequence[str], log_path: Path, env: Mapping[str, str] | None = None
) -> Iterator[Program]:
    """A script in an environment, until the block ends."""
    command = [str(python), str(script), *words]
    with (
        log_path.open("ab") as log,
        Popen(command, stdin=PIPE, stdout=PIPE, stderr=log, text=True, env=clean_environment(env)) as process,
    ):
        try:
            yield Program(process, log_path)
        finally:
            process.kill()
