"""Ports that are free now."""

from __future__ import annotations

import os
import random
import socket

# Below the range from which the kernel takes the ports of outgoing connections, with room for +10000.
LOWEST, HIGHEST = 11_000, 21_000


def own_ports() -> range:
    """Of this process among those that run tests side by side: none finds free what another is about to bind."""
    count, worker = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    # One that takes the place of another that died has a number beyond the count.
    each, number = (HIGHEST - LOWEST) // count, int(worker.removeprefix("gw")) % count
    return range(LOWEST + number * each, LOWEST + (number + 1) * each)


def free_port() -> int:
    """One free port of the loopback interface. No outgoing connection takes it before it is bound, or bound again."""
    return free_pairs(1, offset=0)[0]


def free_pairs(count: int, offset: int = 10_000) -> list[int]:
    """Ports that are free together with the port `offset` above each (SeaweedFS puts its gRPC there)."""
    found: list[int] = []
    ports = own_ports()
    for port in random.sample(ports, min(500, len(ports))):
        if is_free(port) and is_free(port + offset):
            found.append(port)
            if len(found) == count:
                return found
    raise OSError(f"no {count} free ports in {ports}")


def is_free(port: int) -> bool:
    """Whether a server could bind it."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
