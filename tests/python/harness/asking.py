"""Calls that may hang: each in a thread of its own, or in a process where it would hold the interpreter's lock."""

from __future__ import annotations

import contextlib
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

# Until whoever asks must have been told. It takes milliseconds.
TOLD_WITHIN_S = 60.0


class Asker:
    """One call, in a thread that nobody waits for in the end."""

    def __init__(self, ask: Callable[[], object]) -> None:
        self._told: queue.Queue[object] = queue.Queue()
        threading.Thread(target=self._ask, args=(ask,), daemon=True).start()

    def told(self) -> object:
        """What came of it; what was raised, where something was."""
        try:
            return self._told.get(timeout=TOLD_WITHIN_S)
        except queue.Empty:
            raise AssertionError(f"it hangs: nothing came within {TOLD_WITHIN_S:.0f} s") from None

    @property
    def is_told(self) -> bool:
        """Whether something came that nobody has taken yet."""
        return not self._told.empty()

    def _ask(self, ask: Callable[[], object]) -> None:
        try:
            self._told.put(ask())
        except BaseException as error:
            self._told.put(error)


def alone(script: str, *args: str) -> str:
    """What a script says that runs in a process of its own. One that hangs is killed, and fails."""
    command = [sys.executable, "-c", script, *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TOLD_WITHIN_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """The URI of a server that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"grpc://127.0.0.1:{listening.getsockname()[1]}"
