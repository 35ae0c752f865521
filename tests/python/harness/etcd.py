"""etcd for the tests: found in the PATH or fetched once from Debian, started on free ports, killed, emptied, paused."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from harness.debian import NotToBeHadError, fetched
from harness.ports import free_port
from harness.process import Daemon, clean_environment, freeze

START_TRIES = 3
START_TIMEOUT_S = 60.0
POLL_INTERVAL_S = 0.05
# Debian's package of the server alone; it needs nothing but the C library.
PACKAGE = "etcd-server"


class EtcdMissingError(Exception):
    """There is no etcd here, and none can be had; says why."""


class Etcd:
    """One etcd of a test's own, with its data in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._binary = etcd_binary()
        for tries_left in reversed(range(START_TRIES)):
            self._ports = (free_port(), free_port())
            try:
                self.start()
                break
            except RuntimeError:
                # Somebody may have taken a port between the look and the bind.
                if not tries_left:
                    raise

    @property
    def port(self) -> int:
        """Where clients reach it."""
        return self._ports[0]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports[0]}"

    def start(self) -> None:
        """Starts it, again on the same ports after `kill`; returns when it answers."""
        client, peer = (f"http://127.0.0.1:{port}" for port in self._ports)
        self.daemon = Daemon(
            [
                *(self._binary, "--name=test", f"--data-dir={self._data}"),
                *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
                *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
                f"--initial-cluster=test={peer}",
            ],
            self.folder / "etcd.log",
            clean_environment(),
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.daemon.process.poll() is not None:
                raise RuntimeError(f"etcd ended:\n{self.daemon.log_tail}")
            try:
                self.get("ready")
                return
            except OSError:
                time.sleep(POLL_INTERVAL_S)
        raise TimeoutError(f"etcd not ready in {START_TIMEOUT_S} s:\n{self.daemon.log_tail}")

    def kill(self) -> None:
        """Ends it without warning; its data stays."""
        self.daemon.kill()

    def empty(self) -> None:
        """Removes all that it holds, after `kill`."""
        shutil.rmtree(self._data)

    def set_aside(self) -> None:
        """Puts all that it holds where it does not find it, after `kill`."""
        self._data.rename(self._aside)

    def bring_back(self) -> None:
        """Gives it what was set aside in place of what it holds, after `kill`."""
        self.empty()
        self._aside.rename(self._data)

    def pause(self) -> None:
        """Stops it in its tracks: connections stay, and nothing is answered."""
        freeze(self.daemon.pid)

    def resume(self) -> None:
        """Lets it go on after `pause`."""
        os.kill(self.daemon.pid, signal.SIGCONT)

    def get(self, key: str) -> bytes | None:
        """The value of a key, as it stands in etcd."""
        found = self._call("kv/range", {"key": _encoded(key.encode())}).get("kvs", [])
        return base64.b64decode(found[0].get("value", "")) if found else None

    def keys(self, prefix: str) -> list[str]:
        """The keys that begin with this."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        asked = {"key": _encoded(prefix.encode()), "range_end": _encoded(end.encode())}
        return [base64.b64decode(found["key"]).decode() for found in self._call("kv/range", asked).get("kvs", [])]

    def put(self, key: str, value: bytes) -> None:
        """Sets a key, past all that Jetbridge compares."""
        self._call("kv/put", {"key": _encoded(key.encode()), "value": _encoded(value)})

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _aside(self) -> Path:
        return self.folder / "aside"

    def _call(self, method: str, body: dict[str, str]) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.endpoint}/v3/{method}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


def etcd_binary() -> Path:
    """The `etcd` of the PATH, or the one of the virtual environment, which gets it once from Debian.

    Raises `EtcdMissingError` where neither can be.
    """
    if found := shutil.which("etcd"):
        return Path(found)
    try:
        return fetched(PACKAGE, "usr/bin/etcd", "etcd/etcd")
    except NotToBeHadError as error:
        raise EtcdMissingError(f"there is no etcd in the PATH, and {error}") from error


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


if __name__ == "__main__":
    # For the Makefile: the path, or why there is none.
    try:
        print(etcd_binary())
    except EtcdMissingError as error:
        sys.exit(f"skipped: the tests with a real etcd: {error}")
