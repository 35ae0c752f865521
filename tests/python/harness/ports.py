"""Ports that are free now."""

from __future__ import annotations

import random
import socket

# Below the range from which the kernel takes the ports of outgoing connections, with room for +10000.
LOWEST, HIGHEST = 11_000, 21_000


def free_port() -> int:
    """One free port of the loopback interface. No outgoing connection takes it before it is bound, or bound again."""
    return free_pairs(1, offset=0)[0]


def free_pairs(count: int, offset: int = 10_000) -> list[int]:
    """Ports that are free together with the port `offset` above each (SeaweedFS puts its gRPC there)."""
    found: list[int] = []
    candidates = random.sample(range(LOWEST, HIGHEST), 500)
    for port in candidates:
        if is_free(port) and is_free(port + offset):
            found.append(port)
            if len(found) == count:
                return found
    raise OSError(f"no {count} free ports between {LOWEST} and {HIGHEST}")


def is_free(port: int) -> bool:
    """Whether a server could bind it."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
