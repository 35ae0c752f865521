"""A TCP proxy that makes a server on this machine as far away as S3 is in a cloud.

Every response begins a fixed time after its request, and every connection carries so many bytes a second. It knows of
HTTP/1.1 only that one connection carries one request at a time: what comes back first after bytes of the client is the
beginning of a response. Nothing is rewritten, so signatures over the Host header stay valid. It runs as a process
of its own, and the bytes go from socket to socket inside the kernel.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.process import Daemon, clean_environment, freeze

HOST = "127.0.0.1"
START_TIMEOUT_S = 60.0
READY = r"shaping ready port=(\d+)"
# What is passed on at once: at 90 MB/s about 3 ms, long against the error of a sleep.
PIECE_BYTES = 256 << 10
# Up to this much that a sleep was too long is made up for, so that the rate is right on average.
LAG_S = 0.01
BACKLOG = 256


class Shaper:
    """The proxy as a process beside the test, before the server on a port of this machine."""

    def __init__(self, server_port: int, log_path: Path, first_byte_s: float, bytes_per_s: float) -> None:
        words = [f"--server-port={server_port}", f"--first-byte-s={first_byte_s}", f"--bytes-per-s={bytes_per_s}"]
        environment = clean_environment({"PYTHONPATH": str(Path(__file__).parents[1])})
        self.daemon = Daemon([sys.executable, "-m", "harness.shaping", *words], log_path, environment)
        try:
            self.port = int(self.daemon.wait_for_line(READY, START_TIMEOUT_S).group(1))
        except BaseException:
            self.daemon.kill()
            raise

    @classmethod
    def near(cls, server_port: int, log_path: Path) -> Shaper:
        """One that adds nothing to the way, for what is only to be cut."""
        return cls(server_port, log_path, first_byte_s=0.0, bytes_per_s=float("inf"))

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.port}"

    def cut(self) -> None:
        """Passes nothing on, as a network that loses all packets: what is sent waits, and nobody is told."""
        freeze(self.daemon.pid)

    def heal(self) -> None:
        """Passes on again, and first what has waited, as TCP does."""
        os.kill(self.daemon.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Ends it, and with it the connections."""
        self.daemon.kill()


class Link:
    """One connection of a client and the one to the server that belongs to it."""

    def __init__(self, client: socket.socket, server: socket.socket, first_byte_s: float, bytes_per_s: float) -> None:
        self._client, self._server = client, server
        self._first_byte_s, self._bytes_per_s = first_byte_s, bytes_per_s
        # When the bytes came whose answer has not begun; None while one is under way.
        self._asked_at_s: float | None = None
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self) -> None:
        """Both directions, until either side closes."""
        for way in (self._requests, self._responses):
            threading.Thread(target=self._run, args=(way,), daemon=True).start()

    def _run(self, way: Callable[[], None]) -> None:
        with contextlib.suppress(OSError):
            way()
        # Whichever ends first ends the other; the files are closed with the last reference to them.
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _requests(self) -> None:
        while piece := self._client.recv(PIECE_BYTES):
            # Set before the server can answer.
            self._asked_at_s = time.monotonic()
            self._server.sendall(piece)

    def _responses(self) -> None:
        with pipe() as (into, out_of):
            due_s = 0.0
            while size := os.splice(self._server.fileno(), into, PIECE_BYTES):
                if (asked_at_s := self._asked_at_s) is not None:
                    self._asked_at_s = None
                    due_s = asked_at_s + self._first_byte_s
                    sleep_until(due_s)
                drain(out_of, self._client.fileno(), size)
                due_s = max(due_s, time.monotonic() - LAG_S) + size / self._bytes_per_s
                # Before the next piece is taken, so that it is a large one.
                sleep_until(due_s)


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """The writing and the reading end of a pipe that takes a whole piece."""
    out_of, into = os.pipe()
    try:
        fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, PIECE_BYTES)
        yield into, out_of
    finally:
        os.close(into)
        os.close(out_of)


def drain(out_of: int, target: int, size: int) -> None:
    """Moves what the pipe holds into a socket."""
    while size:
        size -= os.splice(out_of, target, size)


def sleep_until(due_s: float) -> None:
    """Sleeps where that time is still to come."""
    if (left_s := due_s - time.monotonic()) > 0:
        time.sleep(left_s)


def main() -> None:
    """Serves until killed; says its port when it listens."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server-port", type=int, required=True)
    parser.add_argument("--first-byte-s", type=float, required=True)
    parser.add_argument("--bytes-per-s", type=float, required=True)
    asked = parser.parse_args()
    with socket.create_server((HOST, 0), backlog=BACKLOG) as listener:
        print(f"shaping ready port={listener.getsockname()[1]}", flush=True)
        while True:
            client, _ = listener.accept()
            try:
                server = socket.create_connection((HOST, asked.server_port))
            except OSError as error:
                print(f"no connection to port {asked.server_port}: {error}", file=sys.stderr, flush=True)
                client.close()
                continue
            Link(client, server, asked.first_byte_s, asked.bytes_per_s).start()


if __name__ == "__main__":
    main()
