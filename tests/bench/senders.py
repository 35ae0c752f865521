"""The servers of the wire part, each with the same batches in its memory: ours, two other Flight servers, a socket."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.ipc as ipc

import serving
import shapes
from clients import KEEPING
from harness.flight import by_path, splits
from harness.process import Daemon, clean_environment
from harness.server import Options, Server, binary
from receivers import Source

OURS, STOCK, PYARROW, RAW = "jetbridge", "arrow-flight", "pyarrow", "raw TCP"
# The copies that the stock server makes cost most where the C library gets their memory anew from the kernel each time.
STOCK_KEEPING = f"{STOCK}, malloc keeps memory"
PATH = "/shape"
READY = r"ready (\d+)"
START_TIMEOUT_S = 60.0
# Enough for everything to stay decoded, and enough endpoints for four streams to get as much to do each.
ARGS = ["--memory", str(8 << 30), "--endpoint-bytes", str(64 << 20), "--ticket-ttl", "6h"]
# The first read fetches, the second decodes and keeps.
MAX_WARM_READS = 10


@dataclass(frozen=True)
class Sender:
    """A running server."""

    name: str
    daemon: Daemon
    source: Source
    # What GetFlightInfo is asked for to have it all as one endpoint; ours answers with as many as it likes.
    asked: flight.FlightDescriptor

    def cpu_s(self) -> float:
        """User and system time up to now, as the kernel counts it: finer than the ticks in /proc."""
        # CPUCLOCK_SCHED of a process, as in the kernel's include/linux/posix-timers.h.
        return time.clock_gettime((~self.daemon.pid << 3) | 2)

    def reset_peak(self) -> None:
        """Lets the peak of its resident memory begin anew."""
        Path(f"/proc/{self.daemon.pid}/clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        """The most that it had resident since then."""
        for line in Path(f"/proc/{self.daemon.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmHWM")


@contextlib.contextmanager
def opened(work_dir: Path, name: str, scale_factor: float) -> Iterator[dict[str, Sender]]:
    """All of them, with the batches of one shape, which ours decoded of Parquet and the others get from it."""
    folder = shapes.folder_of(work_dir, name, scale_factor)
    with contextlib.ExitStack() as stack:
        ours, parts, file = started(stack, work_dir, folder)
        tickets = [b"%d %d" % part for part in parts]
        asked = flight.FlightDescriptor.for_command(b"0 %d" % parts[-1][1])
        of_file = Source("", tickets, ours.source.wire_bytes, ours.source.rows)
        program = binary().with_name("examples") / "stock_server"
        if not program.is_file():
            raise FileNotFoundError(f"{program} is not there: `cargo build --release --workspace --examples`")
        found = [ours]
        serve = [sys.executable, serving.__file__]
        commands = {STOCK: [program, file], STOCK_KEEPING: [program, file], PYARROW: [*serve, "flight", file]}
        for rival, command in commands.items():
            found.append(rival_of(stack, rival, command, work_dir, of_file, asked))
        whole = serving.RANGE.pack(0, file.stat().st_size)
        of_bytes = Source("", [whole], ours.source.wire_bytes, 0)
        found.append(rival_of(stack, RAW, [*serve, "raw", file], work_dir, of_bytes, asked))
        yield {sender.name: sender for sender in found}


def started(stack: contextlib.ExitStack, work_dir: Path, folder: Path) -> tuple[Sender, list[tuple[int, int]], Path]:
    """Ours, warm; which batches each of its endpoints gives; and a file of them all."""
    data_dir = work_dir / "data"
    shutil.rmtree(data_dir, ignore_errors=True)
    server = Server(data_dir, Options(mounts={PATH: f"file://{folder}"}, args=ARGS))
    stack.callback(server.stop)
    warm(server)
    file = work_dir / "wire.arrow"
    stack.callback(file.unlink, missing_ok=True)
    info = server.client.get_flight_info(by_path(PATH))
    parts, rows = [], 0
    with ipc.new_file(file, info.schema) as out:
        for endpoint in info.endpoints:
            begin = parts[-1][1] if parts else 0
            batches = list(server.client.do_get(endpoint.ticket).to_reader())
            parts.append((begin, begin + len(batches)))
            for batch in batches:
                out.write_batch(batch)
                rows += batch.num_rows
    tickets = [endpoint.ticket.ticket for endpoint in info.endpoints]
    source = Source(server.flight_uri, tickets, file.stat().st_size, rows)
    return Sender(OURS, server.daemon, source, by_path(PATH)), parts, file


def warm(server: Server) -> None:
    """Reads until all is there as columns."""
    for _ in range(MAX_WARM_READS):
        info = server.client.get_flight_info(by_path(PATH))
        if all(split["cached"] == "decoded" for split in splits(info)):
            return
        for endpoint in info.endpoints:
            for batch in server.client.do_get(endpoint.ticket).to_reader():
                assert batch.num_rows
    raise AssertionError(f"not decoded after {MAX_WARM_READS} reads: {json.dumps(splits(info))[:500]}")


def rival_of(
    stack: contextlib.ExitStack,
    name: str,
    command: list[str | Path],
    work_dir: Path,
    source: Source,
    asked: flight.FlightDescriptor,
) -> Sender:
    """One more program, ready."""
    settings = KEEPING if name == STOCK_KEEPING else None
    daemon = Daemon(command, work_dir / "wire.log", clean_environment(settings))
    stack.callback(daemon.kill)
    port = daemon.wait_for_line(READY, START_TIMEOUT_S).group(1)
    scheme = "tcp" if name == RAW else "grpc"
    there = Source(f"{scheme}://127.0.0.1:{port}", source.tickets, source.wire_bytes, source.rows)
    return Sender(name, daemon, there, asked)


def batch_bytes(source: Source, client: flight.FlightClient) -> list[int]:
    """What the batches of a source have."""
    tickets = map(flight.Ticket, source.tickets)
    return [batch.nbytes for ticket in tickets for batch in client.do_get(ticket).to_reader()]


def same_rows(one: Source, other: Source) -> None:
    """That two of them send the same, by the first part."""
    tables: list[pa.Table] = []
    for source in (one, other):
        with flight.connect(source.uri) as client:
            tables.append(client.do_get(flight.Ticket(source.tickets[0])).read_all())
    assert tables[0].equals(tables[1]), "the servers do not send the same rows"
