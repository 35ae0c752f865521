"""The client of the wire forms' bench, at the far end of a link: takes one JSON line a task, answers with one."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import jetbridge as jb

from clients import PACKAGE, PATH
from harness import wire
from harness.flight import by_scan

RECEIVE_BYTES = 1 << 20


def main() -> None:
    """Serves tasks until stdin ends."""
    client, told = wire.connect(sys.argv[1])
    package = jb.connect(sys.argv[1], local=False)
    with client:
        print(json.dumps({"ready": True}), flush=True)
        for line in sys.stdin:
            task = json.loads(line)
            if "port" in task:
                # The link is another one now, of which the package has to learn.
                package.close()
                package = jb.connect(sys.argv[1], local=False)
                said = timed(lambda task=task: receive(task["host"], task["port"]))
            elif task["form"] == PACKAGE:
                said = timed(lambda task=task, package=package: read_by(package, task["columns"]))
            else:
                said = timed(lambda task=task: read(client, task["form"], task["columns"]))
                assert set(told.forms) == {task["form"]}, f"asked for {task['form']}, told {told}"
                told.forms.clear()
            print(json.dumps(said), flush=True)


def read(client: Any, form: str, columns: list[str] | None) -> dict[str, int]:
    """GetFlightInfo and every endpoint in turn: a whole table."""
    spec = {"columns": columns} if columns else {}
    endpoints = client.get_flight_info(by_scan(PATH, **spec)).endpoints
    table = wire.read(client, [endpoint.ticket for endpoint in endpoints], wire.asking(form))
    return {"rows": table.num_rows, "arrow_bytes": table.nbytes}


def read_by(package: jb.Client, columns: list[str] | None) -> dict[str, int]:
    """A whole table by the package."""
    scan = package.dataset(PATH)
    table = (scan.select(columns) if columns else scan).to_arrow(progress=False)
    return {"rows": table.num_rows, "arrow_bytes": table.nbytes}


def receive(host: str, port: int) -> dict[str, int]:
    """Everything that comes by a TCP connection, which is the most that the link can do."""
    received, buffer = 0, bytearray(RECEIVE_BYTES)
    with socket.create_connection((host, port)) as connection:
        while size := connection.recv_into(buffer):
            received += size
    return {"received_bytes": received}


def timed(work: Callable[[], dict[str, int]]) -> dict[str, Any]:
    """What the work says, its wall seconds and this process's CPU seconds."""
    before, start_s = os.times(), time.perf_counter()
    said = work()
    seconds, after = time.perf_counter() - start_s, os.times()
    return {**said, "seconds": seconds, "cpu_s": after.user - before.user + after.system - before.system}


if __name__ == "__main__":
    main()
