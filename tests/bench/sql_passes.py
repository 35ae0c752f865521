"""Passes over the 22 queries of TPC-H: the engines in turn, query by query, and what each pass took."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

import report
import usage
from harness import tpch
from harness.answers import Row, assert_same_rows
from harness.process import Daemon
from programs import Program

SCHEMA = "tpch"
MOUNT = f"/{SCHEMA}"
# Passes that are not counted: the second reading of a column decodes it for good.
WARM_UPS = 2
GB, MIB = 1e9, 1 << 20

# Counts that grow, by name.
Counts = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Answer:
    """One query."""

    seconds: float
    client_s: float
    servers_s: float
    peak_bytes: int
    counts: Counter[str]


@dataclass(frozen=True)
class Pass:
    """All queries once."""

    answers: Mapping[int, Answer]

    @property
    def seconds(self) -> float:
        """Of all queries."""
        return sum(answer.seconds for answer in self.answers.values())

    @property
    def client_s(self) -> float:
        """CPU of the process that asks."""
        return sum(answer.client_s for answer in self.answers.values())

    @property
    def servers_s(self) -> float:
        """CPU of the servers that it asks; an engine without them does all in the process."""
        return sum(answer.servers_s for answer in self.answers.values())

    @property
    def peak_bytes(self) -> int:
        """The largest peak of the process that asks."""
        return max(answer.peak_bytes for answer in self.answers.values())

    def count(self, name: str) -> float:
        """By how much a count has grown."""
        return sum(answer.counts[name] for answer in self.answers.values())


@dataclass(frozen=True)
class Side:
    """An engine: the program that asks, and the servers that it asks, if there are any."""

    name: str
    program: Program
    servers: Sequence[Daemon] = ()
    counts: Counts = dict
    version: str = ""

    def ask(self, sql: str, out: Path | None = None) -> Answer:
        """One query; its rows go to a file where they are wanted."""
        before, before_s = Counter(self.counts()), self._servers_s()
        said = self.program.ask(sql=sql, out=str(out) if out else None)
        counts = Counter(self.counts())
        counts.subtract(before)
        client_s = said["user_s"] + said["system_s"]
        return Answer(said["seconds"], client_s, self._servers_s() - before_s, said["peak_bytes"], counts)

    def beside(self) -> str:
        """What is to be told of it: its version, or the peak of its servers' memory, all together."""
        if self.version:
            return f"{self.name} {self.version}"
        peak = sum(usage.peak_of(server.pid) for server in self.servers) / MIB
        return f"{self.name}'s servers had {peak:,.0f} MiB resident at most"

    def _servers_s(self) -> float:
        return sum(server.cpu_seconds() for server in self.servers)


def measured(
    sides: Sequence[Side], scale_factor: float, rounds: int, work_dir: Path, where: str
) -> dict[str, list[Pass]]:
    """So many passes of each side, after those that are not counted; the first of these compares the answers."""
    compare(sides, scale_factor, work_dir)
    found: dict[str, list[Pass]] = {side.name: [] for side in sides}
    for number in range(1, WARM_UPS + rounds):
        answers: dict[str, dict[int, Answer]] = {side.name: {} for side in sides}
        for query in tpch.QUERIES:
            for side in sides:
                answers[side.name][query] = side.ask(tpch.query(query, scale_factor))
        if number >= WARM_UPS:
            for name, ones in answers.items():
                found[name].append(Pass(ones))
            told = ", ".join(f"{name} {ones[-1].seconds:.2f} s" for name, ones in found.items())
            print(f"bench: sql, {where}, round {number - WARM_UPS + 1} of {rounds}: {told}", flush=True)
    return found


def compare(sides: Sequence[Side], scale_factor: float, work_dir: Path) -> None:
    """Fails where two sides give different answers."""
    files = {side.name: work_dir / f"answer-{number}.arrow" for number, side in enumerate(sides)}
    for query in tpch.QUERIES:
        answers = {}
        for side in sides:
            side.ask(tpch.query(query, scale_factor), files[side.name])
            answers[side.name] = rows_of(files[side.name])
            files[side.name].unlink()
        expected = answers[sides[0].name]
        assert expected, f"query {query} selects nothing, so it shows nothing"
        for name, got in answers.items():
            try:
                assert_same_rows(got, expected, tpch.SORTED_BY.get(query))
            except AssertionError as error:
                raise AssertionError(f"query {query}, {name} against {sides[0].name}: {error}") from error


def rows_of(file: Path) -> list[Row]:
    """The rows of an answer."""
    with pa.OSFile(str(file)) as opened, pa.ipc.open_file(opened) as reader:
        return [tuple(row.values()) for row in reader.read_all().to_pylist()]


def against(
    what: str, ours: Sequence[Pass], plain: Sequence[Pass], target: float | None, stored_bytes: int, note: str = ""
) -> report.Line:
    """The time of all queries, by that of another engine."""
    sides = [[one.seconds for one in side] for side in (ours, plain)]
    costs = f"CPU s a GB of Parquet: ours {cost(ours, stored_bytes)}; plain {cost(plain, stored_bytes)}"
    return report.Line(what, *sides, target, note + costs)


def cost(passes: Sequence[Pass], stored_bytes: int) -> str:
    """CPU by the bytes of the Parquet files, and memory."""
    client, servers = (
        statistics.median(getattr(one, which) for one in passes) / stored_bytes * GB
        for which in ("client_s", "servers_s")
    )
    served = f" and its servers {servers:.1f}" if servers else ""
    peak = max(one.peak_bytes for one in passes) / MIB
    return f"{client:.1f}{served}, client's peak RSS {peak:,.0f} MiB"


def table(title: str, found: Mapping[str, Sequence[Pass]]) -> report.Table:
    """Every query's median of each side, and the ratio of the first one to the others."""
    ours, *others = found
    head = ["query", f"{ours} ms", *(word for name in others for word in (f"{name} ms", f"by {name}"))]
    return report.Table(title, head, [*rows(found, ours, others)])


def rows(found: Mapping[str, Sequence[Pass]], ours: str, others: Sequence[str]) -> Iterator[list[str]]:
    """A row each query, then the total."""
    for query in [*tpch.QUERIES, None]:
        times = {name: [seconds_of(one, query) for one in ones] for name, ones in found.items()}
        row = [str(query or "all"), f"{statistics.median(times[ours]) * 1e3:.1f}"]
        for name in others:
            ratio = statistics.median(one / other for one, other in zip(times[ours], times[name], strict=True))
            row += [f"{statistics.median(times[name]) * 1e3:.1f}", f"{ratio:.2f}"]
        yield row


def seconds_of(one: Pass, query: int | None) -> float:
    """Of a query, or of all."""
    return one.seconds if query is None else one.answers[query].seconds
