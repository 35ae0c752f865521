"""DoGet of batches in memory: ours, a stock arrow-flight server, pyarrow's C++ server, and a socket as the ceiling.

All have the same batches, of about 2 MiB, and send them to the same clients, one after the other in each round. Nothing
is planned or decoded in what is timed; GetFlightInfo counts in the reads of one batch alone.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.flight as flight

import receivers
import report
import senders
import shapes
from clients import KEEPING, Client
from receivers import Receive, Received
from senders import OURS, PYARROW, RAW, STOCK, STOCK_KEEPING, Sender

GB = 1e9
ALIGNMENT_BYTES = 64
CALLS_A_ROUND = 800

# The most that ours may take: of the others' time, and of their servers' CPU.
ONE_STREAM_BY_STOCK = 1 / 1.4
BY_PYARROW = 1.0
CPU_BY_STOCK, CPU_BY_PYARROW = 0.6, 1.1
P50_BY_PYARROW, P99_BY_PYARROW = 1.0, 1.5


@dataclass(frozen=True)
class Receiver:
    """A way to receive; `keeping`: its C library is told to keep memory that was freed."""

    name: str
    receive: Receive
    keeping: bool = False


DROP = Receiver("pyarrow", receivers.pyarrow_drop)
DROP_KEEPING = Receiver("pyarrow, malloc keeps memory", receivers.pyarrow_drop, keeping=True)
KEEP = Receiver("pyarrow, read_all", receivers.pyarrow_keep)
ADBC = Receiver("ADBC", receivers.adbc_drop)
ADBC_KEEP = Receiver("ADBC, whole table", receivers.adbc_keep)


@dataclass(frozen=True)
class Case:
    """Who receives what, on how many connections."""

    shape: str
    receiver: Receiver
    streams: int

    def __str__(self) -> str:
        return f"{self.shape}, {self.streams} stream{'s' if self.streams > 1 else ''}, {self.receiver.name}"


@dataclass(frozen=True)
class Sent:
    """One measurement of one server."""

    received: Received
    server_cpu_s: float
    peak_bytes: int


# By server, a measurement of each round.
Rounds = dict[str, list[Sent]]


# Of lineitem, and of the others.
MOST = (
    (DROP, 1),
    (DROP, 2),
    (DROP, 4),
    (DROP_KEEPING, 1),
    (DROP_KEEPING, 4),
    (KEEP, 1),
    (ADBC, 1),
    (ADBC, 4),
    (ADBC_KEEP, 1),
)
SOME = ((DROP, 1), (DROP, 4), (ADBC, 1))


def cases(shape: str) -> list[Case]:
    """Who receives a shape how."""
    which = MOST if shape == shapes.LINEITEM else SOME
    return [Case(shape, receiver, streams) for receiver, streams in which]


def run(
    work_dir: Path, scale_factor: float, rounds: int, names: Sequence[str]
) -> tuple[list[report.Line], list[report.Table]]:
    """Every shape, then reads of one batch."""
    lines: list[report.Line] = []
    rows: list[list[str]] = []
    for name in names:
        with senders.opened(work_dir, name, scale_factor) as found:
            senders.same_rows(found[OURS].source, found[PYARROW].source)
            if name == shapes.ONE_BATCH:
                lines += one_batch(found, rounds)
                continue
            lines.append(alignment(name, found[OURS]))
            for case in cases(name):
                measured = measure(case, found, rounds)
                wire_gb = found[OURS].source.wire_bytes / GB
                lines += lines_of(case, measured, wire_gb)
                rows += rows_of(case, measured, wire_gb)
    return lines, [report.Table("Wire", HEAD, rows)] if rows else []


def measure(case: Case, found: dict[str, Sender], rounds: int) -> Rounds:
    """The servers in turn; a round begins with another one each time. The first round is not counted."""
    measured: Rounds = {name: [] for name in found}
    with contextlib.closing(Client(fresh=False, settings=KEEPING if case.receiver.keeping else None)) as client:
        names = list(found)
        for number in range(rounds + 1):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                one = sent(case, found[name], client)
                if number:
                    measured[name].append(one)
    wire_gb = found[OURS].source.wire_bytes / GB
    rates = ", ".join(f"{name} {rate(ones, wire_gb):.2f}" for name, ones in measured.items())
    print(f"bench: wire, {case}: GB/s {rates}", flush=True)
    return measured


def sent(case: Case, sender: Sender, client: Client) -> Sent:
    """All of it once, with what the server did meanwhile."""
    receive = receivers.raw if sender.name == RAW else case.receiver.receive
    streams = 1 if sender.name == RAW else case.streams
    sender.reset_peak()
    before_s = sender.cpu_s()
    took = client.call(receivers.received, receive, sender.source, streams)
    return Sent(took, sender.cpu_s() - before_s, sender.peak_bytes())


def lines_of(case: Case, measured: Rounds, wire_gb: float) -> Iterator[report.Line]:
    """Time and the server's CPU, against either; the targets are for pyarrow's client that drops batches."""
    asked = case.receiver is DROP
    note = f"{wire_gb:.2f} GB; GB/s: " + ", ".join(
        f"{name} {rate(ones, wire_gb):.2f}" for name, ones in measured.items()
    )
    times = {name: [one.received.seconds for one in ones] for name, ones in measured.items()}
    cpus = {name: [one.server_cpu_s / wire_gb for one in ones] for name, ones in measured.items()}
    time_targets = {
        STOCK: ONE_STREAM_BY_STOCK if case.streams == 1 else None,
        STOCK_KEEPING: None,
        PYARROW: BY_PYARROW if case.streams != 2 else None,
    }
    for name, target in time_targets.items():
        target_ratio = target if asked else None
        yield report.Line(f"wire, {case}: time by {name}", times[OURS], times[name], target_ratio, note)
    for name, target in {STOCK: CPU_BY_STOCK, STOCK_KEEPING: None, PYARROW: CPU_BY_PYARROW}.items():
        target_ratio = target if asked else None
        what = f"wire, {case}: server's CPU s/GB by {name}"
        yield report.Line(what, cpus[OURS], cpus[name], target_ratio)


HEAD = [
    *("what", "server", "GB/s", "time by pyarrow's", "server CPU s/GB", "client CPU s/GB"),
    *("first batch ms", "server's peak RSS MiB"),
]


def rows_of(case: Case, measured: Rounds, wire_gb: float) -> Iterator[list[str]]:
    """A row each server."""
    for name, ones in measured.items():
        others = measured[PYARROW]
        ratio = statistics.median(
            one.received.seconds / other.received.seconds for one, other in zip(ones, others, strict=True)
        )
        figures = [
            rate(ones, wire_gb),
            ratio,
            statistics.median(one.server_cpu_s for one in ones) / wire_gb,
            statistics.median(one.received.cpu_s for one in ones) / wire_gb,
            statistics.median(one.received.first_s for one in ones) * 1e3,
        ]
        peak = max(one.peak_bytes for one in ones) / 2**20
        yield [str(case), name, *(f"{figure:.2f}" for figure in figures), f"{peak:.0f}"]


def rate(ones: Sequence[Sent], wire_gb: float) -> float:
    """The median of 10^9 bytes a second."""
    return wire_gb / statistics.median(one.received.seconds for one in ones)


def alignment(name: str, ours: Sender) -> report.Line:
    """Where pyarrow finds the arrays' buffers."""
    wrong, seen = receivers.misaligned(ours.source, ALIGNMENT_BYTES)
    assert seen > 0
    what = f"wire, {name}: buffers that pyarrow sees at no multiple of {ALIGNMENT_BYTES}"
    with flight.connect(ours.source.uri) as client:
        sizes = senders.batch_bytes(ours.source, client)
    note = f"of {seen}; {len(sizes)} batches, their median {statistics.median(sizes) / 2**20:.1f} MiB"
    return report.Line(what, [wrong], unit=report.Unit.COUNT, at_most=0, note=note)


def one_batch(found: dict[str, Sender], rounds: int) -> Iterator[report.Line]:
    """GetFlightInfo and DoGet of a thousand rows, again and again on one connection."""
    cuts: dict[str, list[list[float]]] = {name: [] for name in (OURS, STOCK, PYARROW)}
    cpus: dict[str, list[float]] = {name: [] for name in cuts}
    with contextlib.closing(Client(fresh=False)) as client:
        for number in range(rounds + 1):
            for name in cuts if number % 2 else reversed(cuts):
                sender = found[name]
                before_s = sender.cpu_s()
                times = client.call(receivers.round_trips, sender.source.uri, sender.asked.serialize(), CALLS_A_ROUND)
                if number:
                    cuts[name].append(statistics.quantiles(times, n=100))
                    cpus[name].append((sender.cpu_s() - before_s) / CALLS_A_ROUND)
    for what, at, target in (("p50", 49, P50_BY_PYARROW), ("p99", 98, P99_BY_PYARROW)):
        values = {name: [one[at] for one in ones] for name, ones in cuts.items()}
        shown = ", ".join(f"{name} {statistics.median(ones) * 1e3:.2f} ms" for name, ones in values.items())
        print(f"bench: wire, one batch, {what}: {shown}", flush=True)
        note = f"{rounds} x {CALLS_A_ROUND} calls; {shown}"
        yield report.Line(f"one batch, GetFlightInfo and DoGet: {what}", values[OURS], values[PYARROW], target, note)
    note = "a call; plain: pyarrow's server"
    yield report.Line("one batch, GetFlightInfo and DoGet: server's CPU", cpus[OURS], cpus[PYARROW], note=note)
