"""Hit ratios of the cache's policy beside LRU's and W-TinyLFU's, by the real code on traces: an example program."""

from __future__ import annotations

import re
import statistics
import subprocess
from dataclasses import dataclass

import report
from harness.server import binary

# Of the part of the data that fits: what epochs must hit at least; and by LRU's hit ratio, what skewed reads must.
EPOCH_SHARE = 0.95
SKEWED_BY_LRU = 1.0
EPOCH_PERCENTS = (25, 50, 75)
# The program rounds to three digits.
ROUNDING = 0.0005

_SECTION = re.compile(r"^(\d+\w*)\. ")
_ROW = re.compile(
    r"^(?P<name>.+?)\s+(?P<hits>\d\.\d{3} / \d\.\d{3}(?: \d\.\d{3} / \d\.\d{3}){2})\s*(?P<missed>MISSED)?\s*$"
)
_HITS = re.compile(r"(\d\.\d{3}) / (\d\.\d{3})")


@dataclass(frozen=True)
class Section:
    """One of the program's tables: its title, and its lines without the head."""

    number: str
    title: str
    lines: list[str]


@dataclass(frozen=True)
class Trace:
    """What three caches hit of one trace, each in entries and in bytes."""

    name: str
    ours: tuple[float, float]
    lru: tuple[float, float]
    tiny_lfu: tuple[float, float]
    missed: bool

    @property
    def percent(self) -> int:
        """How much of the data the cache holds."""
        return int(re.findall(r"(\d+)%", self.name)[-1])


def run() -> tuple[list[report.Line], list[report.Table]]:
    """Two figures that have targets, and the program's tables as they are."""
    path = binary().with_name("examples") / "policy_bench"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: build it with `cargo build --release --workspace --examples`")
    print("bench: policy", flush=True)
    done = subprocess.run([str(path)], check=True, capture_output=True, text=True)
    sections = {section.number: section for section in parsed(done.stdout)}
    found = [epochs(traces(sections["1"])), skewed(traces(sections["2"]))]
    return found, [table(section) for section in sections.values()]


def parsed(text: str) -> list[Section]:
    """The sections, which are apart by an empty line and begin with their number."""
    blocks = [block.splitlines() for block in text.strip().split("\n\n")]
    return [Section(_SECTION.match(head)[1], head, rows) for head, *rows in blocks]


def traces(section: Section) -> list[Trace]:
    """The rows that compare three caches."""
    found = []
    for line in section.lines:
        if row := _ROW.match(line):
            ours, lru, tiny_lfu = [(float(entries), float(size)) for entries, size in _HITS.findall(row["hits"])]
            found.append(Trace(row["name"], ours, lru, tiny_lfu, bool(row["missed"])))
    return found


def epochs(rows: list[Trace]) -> report.Line:
    """Loops over more than fits, in order and shuffled: hits by the share of the data that fits."""
    asked = [row for row in rows if row.percent in EPOCH_PERCENTS]
    worst = min(min(row.ours) / (row.percent / 100) for row in asked)
    rival = min(min(row.tiny_lfu) / (row.percent / 100) for row in asked)
    shares = ", ".join(map(str, EPOCH_PERCENTS))
    note = f"worst of {len(asked)} traces, entries and bytes, cache/data {shares} %; W-TinyLFU's worst {rival:.2f}"
    return report.Line(
        "policy, five epochs: hit ratio by cache/data",
        [worst],
        note=note,
        unit=report.Unit.SHARE,
        at_least=EPOCH_SHARE - ROUNDING,
    )


def skewed(rows: list[Trace]) -> report.Line:
    """Zipf, alone and with scans between: hits by LRU's."""
    worst = min(mine / other for row in rows for mine, other in zip(row.ours, row.lru, strict=True))
    by_rival = [mine / other for row in rows for mine, other in zip(row.ours, row.tiny_lfu, strict=True)]
    note = (
        f"worst of {len(rows)} traces, entries and bytes; by W-TinyLFU's: worst {min(by_rival):.2f}, "
        f"median {statistics.median(by_rival):.2f}"
    )
    return report.Line(
        "policy, Zipf, alone and with scans: hit ratio by LRU's",
        [worst],
        note=note,
        unit=report.Unit.SHARE,
        at_least=SKEWED_BY_LRU,
    )


def table(section: Section) -> report.Table:
    """A section as a table: by cache where its rows are of that kind, else as the program wrote them."""
    if compared := traces(section):
        head = ["trace", "ours", "LRU", "W-TinyLFU", "missed"]
        rows = [
            [row.name, *map(_cell, (row.ours, row.lru, row.tiny_lfu)), "MISSED" if row.missed else ""]
            for row in compared
        ]
        return report.Table(f"{section.title} (hit ratio in entries / in bytes)", head, rows)
    rows = [re.split(r"\s{2,}|: ", line.replace("|", "\\|"), maxsplit=1) for line in section.lines]
    return report.Table(section.title, ["trace", "figures"], rows)


def _cell(hits: tuple[float, float]) -> str:
    return f"{hits[0]:.3f} / {hits[1]:.3f}"
