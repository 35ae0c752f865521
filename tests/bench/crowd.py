"""Two hundred readers of warm data, of which a hundred stall: what the others lose, and what the server holds."""

from __future__ import annotations

import multiprocessing
import shutil
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow.flight as flight

import report
from harness.flight import by_scan, chunks, fetch
from harness.server import Options, Server
from harness.tpch import lineitem
from memory import MIB, Sampler, status_bytes

READERS = 100
STALLED = 100
BUDGET_BYTES = 1024 * MIB
ALLOWANCE_BYTES = 256 * MIB
PATH = "/lineitem"
COLUMNS = ["l_orderkey", "l_quantity", "l_shipdate"]
# Of the time that the readers take when nobody stalls.
MOST_TIME = 1 / 0.9
TIMEOUT_S = 300.0


def run(work_dir: Path, scale_factor: float, rounds: int) -> list[report.Line]:
    """The readers' time with and without those that stall, alternating, and the server's memory."""
    data_dir = work_dir / "data"
    shutil.rmtree(data_dir, ignore_errors=True)
    args = ["--memory", str(BUDGET_BYTES)]
    server = Server(data_dir, Options(mounts={PATH: f"file://{lineitem(work_dir, scale_factor)}"}, args=args))
    context = multiprocessing.get_context("spawn")
    try:
        for _ in range(3):
            warm = fetch(server.client, by_scan(PATH, columns=COLUMNS))
        assert warm.sources == {"memory"}, warm.sources
        sampler = Sampler(server.daemon.pid)
        alone_s, beside_s = [], []
        for _ in range(rounds):
            alone_s.append(read_all(server.flight_uri))
            ours, theirs = context.Pipe()
            idlers = context.Process(target=stall, args=(server.flight_uri, theirs), daemon=True)
            idlers.start()
            try:
                assert ours.poll(TIMEOUT_S), "those that stall did not begin"
                assert ours.recv() == STALLED
                beside_s.append(read_all(server.flight_uri))
            finally:
                idlers.kill()
                idlers.join()
        sampler.stop()
        peak = status_bytes(server.daemon.pid)["VmHWM"]
    finally:
        server.stop()
    what = f"{READERS} readers of warm columns beside {STALLED} that stall"
    print(f"bench: crowd: alone {alone_s}, beside {beside_s}, peak {peak / MIB:.0f} MiB", flush=True)
    held = max(seen.held for seen in sampler.seen)
    bound = BUDGET_BYTES + ALLOWANCE_BYTES
    return [
        report.Line(what, beside_s, alone_s, MOST_TIME, "against the same readers alone; nobody failed"),
        report.Line(f"{what}: RSS, peak", [peak], unit=report.Unit.BYTES, at_most=bound, note="VmHWM"),
        report.Line(f"{what}: anonymous and memory files", [held], unit=report.Unit.BYTES, at_most=bound),
    ]


def read_all(uri: str) -> float:
    """Seconds for all readers, each with a connection of its own, to read everything once."""
    failures: list[Exception] = []
    rows: set[int] = set()

    def one() -> None:
        try:
            with flight.connect(uri) as client:
                info = client.get_flight_info(by_scan(PATH, columns=COLUMNS))
                streams = (client.do_get(endpoint.ticket) for endpoint in info.endpoints)
                rows.add(sum(chunk.data.num_rows for stream in streams for chunk in chunks(stream)))
        except Exception as error:
            failures.append(error)

    start_s = time.perf_counter()
    threads = [threading.Thread(target=one, daemon=True) for _ in range(READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    seconds = time.perf_counter() - start_s
    assert not failures, failures[0]
    assert len(rows) == 1, f"readers got different numbers of rows: {rows}"
    return seconds


def stall(uri: str, said: Connection) -> None:
    """Many readers that take one batch and no more."""
    kept = []
    for _ in range(STALLED):
        client = flight.connect(uri)
        info = client.get_flight_info(by_scan(PATH, columns=COLUMNS))
        reader = client.do_get(info.endpoints[0].ticket)
        reader.read_chunk()
        kept.append((client, reader))
    said.send(len(kept))
    threading.Event().wait()
