"""The admin endpoints and the numbers behind them."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from dataclasses import dataclass

HTTP_TIMEOUT_S = 30.0
_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Sample:
    """One line of /metrics."""

    name: str
    labels: dict[str, str]
    value: float


def get(uri: str) -> tuple[int, str]:
    """Status and text of an HTTP GET, whatever the status."""
    try:
        with urllib.request.urlopen(uri, timeout=HTTP_TIMEOUT_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def samples(admin_uri: str) -> list[Sample]:
    """Every sample that /metrics shows; fails on a line that is none."""
    status, text = get(f"{admin_uri}/metrics")
    assert status == 200
    found = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            match = _SAMPLE.match(line)
            assert match, f"no sample: {line!r}"
            found.append(Sample(match[1], dict(_LABEL.findall(match[2] or "")), float(match[3])))
    return found


def total(admin_uri: str, name: str, **labels: str) -> float:
    """The sum over all samples of a name that bear these labels; 0 when there are none yet."""
    return sum(s.value for s in samples(admin_uri) if s.name == name and labels.items() <= s.labels.items())


@dataclass(frozen=True)
class Lookups:
    """Lookups of a tier; a miss that found its load under way counts as coalesced too."""

    hits: float
    misses: float
    coalesced: float

    @property
    def all(self) -> float:
        return self.hits + self.misses

    def since(self, earlier: Lookups) -> Lookups:
        """Those after an earlier look."""
        return Lookups(self.hits - earlier.hits, self.misses - earlier.misses, self.coalesced - earlier.coalesced)


def lookups(admin_uri: str) -> dict[str, Lookups]:
    """Lookups so far of the tiers `page` and `chunk`, by one scrape."""
    found = samples(admin_uri)

    def of(tier: str) -> Lookups:
        kinds = [f"jetbridge_cache_{kind}_total" for kind in ("hits", "misses", "coalesced")]
        return Lookups(
            *(sum(s.value for s in found if (s.name, s.labels.get("tier")) == (kind, tier)) for kind in kinds)
        )

    return {tier: of(tier) for tier in ("page", "chunk")}
