"""lineitem in every wire form over links of 1 and 10 Gbit/s and an unbounded one, and which form the rule chooses.

The server has read everything before: decoded columns are in memory, raw pages on disk and in the kernel's cache. The
client is one process behind the link that has read before as well, and reads one stream after the other. The Python
package's own client takes its turn with the forms, by its own choice among them, and reads as it does by default.
"""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import links
import report
from clients import PACKAGE, PATH, Columns
from harness import wire
from harness.server import Options, Server
from harness.tpch import lineitem
from reads import FOUR

# Bits a second; None is what the machine can do.
SPEEDS = {"1 Gbit/s": 1e9, "10 Gbit/s": 10e9, "unbounded": None}
UNBOUNDED_BITS_PER_S = 100e9
COLUMNS: dict[str, Columns] = {"whole": None, "4 columns": FOUR}

# At the slowest link, the best form's time by plain Arrow's.
BEST_BY_ARROW_RATIO = 1 / 3
# Anywhere, the chosen form's time by the best one's.
CHOSEN_BY_BEST_RATIO = 1.10

# The third read finds decoded columns; raw pages are there after the first.
WARM_READS = 3
PROBE_S = 1.0
PROBE_BYTES = 1 << 20


@dataclass(frozen=True)
class Sent:
    """One read, as the client and the link saw it."""

    seconds: float
    client_cpu_s: float
    server_cpu_s: float
    link_bytes: int


# By form, one after the other.
Rounds = dict[str, list[Sent]]


class FarClient:
    """The client's process at the other end of a link."""

    def __init__(self, link: links.Link, uri: str) -> None:
        program = str(Path(__file__).with_name("wire_client.py"))
        command = link.command(sys.executable, program, uri)
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def do(self, **task: Any) -> dict[str, Any]:
        """One task and what came of it."""
        assert self._process.stdin
        print(json.dumps(task), file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the client at the far end ended with {self._process.wait()}")
        return json.loads(line)


def run(work_dir: Path, scale_factor: float, rounds: int) -> tuple[list[report.Line], list[report.Table]]:
    """Every speed and projection, the forms in turn; nothing but the reason where links cannot be made."""
    if reason := links.missing():
        print(f"bench: wire forms skipped: {reason}", flush=True)
        return [], [report.Table("Wire forms", ["skipped"], [[reason]])]
    folder = lineitem(work_dir, scale_factor)
    lines: list[report.Line] = []
    rows: list[list[str]] = []
    with links.opened() as link, served(work_dir, folder) as server:
        client = FarClient(link, server.flight_uri)
        try:
            warm_up(client)
            for speed, bits_per_s in SPEEDS.items():
                link.set_speed(bits_per_s)
                rates = [probe(client, bits_per_s) for _ in range(rounds)]
                lines.append(link_line(speed, bits_per_s, rates))
                for what, columns in COLUMNS.items():
                    measured = measure(client, link, server, columns, rounds, f"{speed}, {what}")
                    lines += summary(speed, what, measured)
                    rows += [row(speed, what, form, sent) for form, sent in measured.items()]
        finally:
            client.close()
    head = ["link", "columns", "form", "seconds", "MB on the link", "client CPU s", "server CPU s"]
    return lines, [report.Table("Wire forms: medians over the rounds", head, rows)]


@contextlib.contextmanager
def served(work_dir: Path, folder: Path) -> Iterator[Server]:
    """A server on the link's address; its port is open to nobody but the namespace."""
    options = Options(mounts={PATH: f"file://{folder}"}, args=["--insecure"], flight=f"{links.SERVER_ADDRESS}:0")
    server = Server(work_dir / "forms-data", options)
    try:
        yield server
    finally:
        server.stop()


def warm_up(client: FarClient) -> None:
    """Brings pages and decoded columns into the server, and memory to the client."""
    for columns in COLUMNS.values():
        for form in [*wire.FORMS, *["arrow"] * WARM_READS]:
            client.do(form=form, columns=columns)


def measure(client: FarClient, link: links.Link, server: Server, columns: Columns, rounds: int, named: str) -> Rounds:
    """The forms in turn, round by round."""
    measured: Rounds = {form: [] for form in [*wire.FORMS, PACKAGE]}
    for number in range(rounds):
        for form, sent in measured.items():
            sent.append(one(client, link, server, form, columns))
        told = ", ".join(f"{form} {sent[-1].seconds:.2f} s" for form, sent in measured.items())
        print(f"bench: wire forms, {named}, round {number + 1} of {rounds}: {told}", flush=True)
    return measured


def one(client: FarClient, link: links.Link, server: Server, form: str, columns: Columns) -> Sent:
    """One read by one form."""
    link_bytes, cpu_s = link.sent_bytes(), server.daemon.cpu_seconds()
    said = client.do(form=form, columns=columns)
    assert said["rows"] > 0
    server_cpu_s = server.daemon.cpu_seconds() - cpu_s
    return Sent(said["seconds"], said["cpu_s"], server_cpu_s, link.sent_bytes() - link_bytes)


def summary(speed: str, what: str, measured: Rounds) -> list[report.Line]:
    """The best form against plain Arrow, and the chosen one against the best."""
    best = min(wire.FORMS, key=lambda form: median_s(measured[form]))
    chosen = wire.wire_for(SPEEDS[speed] or UNBOUNDED_BITS_PER_S)
    seconds = {form: [one.seconds for one in sent] for form, sent in measured.items()}
    slowest = speed == next(iter(SPEEDS))
    all_forms = ", ".join(f"{form} {median_s(sent):.2f} s" for form, sent in measured.items())
    return [
        report.Line(
            f"wire forms, {speed}, {what}: the best, {best}, by plain Arrow",
            seconds[best],
            seconds["arrow"],
            BEST_BY_ARROW_RATIO if slowest else None,
            all_forms,
        ),
        report.Line(
            f"wire forms, {speed}, {what}: the chosen, {chosen}, by the best, {best}",
            seconds[chosen],
            seconds[best],
            CHOSEN_BY_BEST_RATIO,
        ),
        report.Line(
            f"wire forms, {speed}, {what}: the package, by its own choice, by the best, {best}",
            seconds[PACKAGE],
            seconds[best],
        ),
    ]


def row(speed: str, what: str, form: str, sent: Sequence[Sent]) -> list[str]:
    """One form's medians."""
    client_s, server_s = (
        statistics.median(values)
        for values in zip(*((one.client_cpu_s, one.server_cpu_s) for one in sent), strict=True)
    )
    megabytes = statistics.median(one.link_bytes for one in sent) / 1e6
    return [speed, what, form, f"{median_s(sent):.2f}", f"{megabytes:.0f}", f"{client_s:.2f}", f"{server_s:.2f}"]


def median_s(sent: Sequence[Sent]) -> float:
    """The middle one of the rounds' times."""
    return statistics.median(one.seconds for one in sent)


def probe(client: FarClient, bits_per_s: float | None) -> float:
    """Bits a second that a bare TCP connection gets over the link."""
    size = int((bits_per_s or UNBOUNDED_BITS_PER_S / 10) / 8 * PROBE_S)
    with socket.create_server((links.SERVER_ADDRESS, 0)) as listener:
        sender = threading.Thread(target=send, args=(listener, size))
        sender.start()
        said = client.do(host=links.SERVER_ADDRESS, port=listener.getsockname()[1])
        sender.join()
    assert said["received_bytes"] == size
    return size * 8 / said["seconds"]


def send(listener: socket.socket, size: int) -> None:
    """So many bytes to whoever connects first."""
    piece = memoryview(bytearray(PROBE_BYTES))
    connection, _ = listener.accept()
    with connection:
        while size:
            size -= connection.send(piece[: min(size, len(piece))])


def link_line(speed: str, bits_per_s: float | None, rates: Sequence[float]) -> report.Line:
    """That the link is as fast as it should be, and no faster."""
    gigabits = [rate / 1e9 for rate in rates]
    note = "Gbit/s by a bare TCP connection"
    # A short transfer gains the burst.
    most = bits_per_s / 1e9 * 1.05 if bits_per_s else None
    return report.Line(f"wire forms, {speed}: the link", gigabits, at_most=most, note=note, unit=report.Unit.COUNT)
