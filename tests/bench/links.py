"""A network link of a set speed to a client of its own: a network namespace behind a veth pair and `tc tbf`."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Addresses that are set aside for measurements like this one (RFC 2544).
SERVER_ADDRESS = "198.18.77.1"
CLIENT_ADDRESS = "198.18.77.2"
PREFIX_BITS = 30

# What may leave at once: the timer's grain, of a few ms, at the speed; one packet of the kernel's largest at least.
BURST_S = 0.004
LEAST_BURST_BYTES = 1 << 20
# What waits before the link: more than TCP's windows come to, so that nothing is dropped.
QUEUE_BYTES = 64 << 20


def missing() -> str | None:
    """Why links cannot be made here; None where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = [name for name in ("ip", "tc") if not shutil.which(name)]
    return f"{' and '.join(absent)} not installed" if absent else None


@dataclass(frozen=True)
class Link:
    """The two ends of a veth pair, one of them in a namespace."""

    namespace: str
    server_end: str

    def command(self, *words: str) -> list[str]:
        """The command line that runs a program at the client's end."""
        return ["ip", "netns", "exec", self.namespace, *words]

    def set_speed(self, bits_per_s: float | None) -> None:
        """Bounds what goes to the client; None is no bound."""
        subprocess.run(["tc", "qdisc", "del", "dev", self.server_end, "root"], check=False, capture_output=True)
        if bits_per_s is None:
            return
        burst_bytes = max(LEAST_BURST_BYTES, int(bits_per_s / 8 * BURST_S))
        bounds = ["rate", f"{bits_per_s:.0f}bit", "burst", f"{burst_bytes}b", "limit", f"{QUEUE_BYTES}b"]
        _run("tc", "qdisc", "add", "dev", self.server_end, "root", "tbf", *bounds)

    def sent_bytes(self) -> int:
        """Bytes that went to the client so far, with all headers."""
        return int(Path(f"/sys/class/net/{self.server_end}/statistics/tx_bytes").read_text())


@contextlib.contextmanager
def opened() -> Iterator[Link]:
    """A link of this process's own; the pair goes with the namespace at the end."""
    namespace = f"jetbridge-{os.getpid()}"
    server_end, client_end = (f"jb{os.getpid()}{side}" for side in "sc")
    _run("ip", "netns", "add", namespace)
    try:
        link = Link(namespace, server_end)
        _run("ip", "link", "add", server_end, "type", "veth", "peer", "name", client_end, "netns", namespace)
        _run("ip", "addr", "add", f"{SERVER_ADDRESS}/{PREFIX_BITS}", "dev", server_end)
        _run("ip", "link", "set", server_end, "up")
        _run(*link.command("ip", "addr", "add", f"{CLIENT_ADDRESS}/{PREFIX_BITS}", "dev", client_end))
        _run(*link.command("ip", "link", "set", client_end, "up"))
        yield link
    finally:
        subprocess.run(["ip", "link", "del", server_end], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


def _run(*words: str) -> None:
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
