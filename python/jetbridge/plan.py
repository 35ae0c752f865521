"""What a read comes to, before anything is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from jetbridge import _html, _native, _text
from jetbridge.records import Record
from jetbridge.schema import Schema


@dataclass(frozen=True)
class Split(Record):
    """A part of a read that one worker gives: a run of row groups.

    >>> split = client.dataset("/lake/trips").plan().splits[0]
    >>> split.rows > 0, split.cached in ("decoded", "raw", "none")
    (True, True)
    """

    #: The file, or the deepest folder with all of its files.
    path: str
    #: Row groups in reading order, one number each; of several files one after another.
    row_groups: list[int]
    files: int
    #: Rows that are read: those of the answer, where nothing filters them.
    rows: int
    #: Decoded bytes that are read, as estimated.
    bytes: int
    #: Where they are now, at the owner: ``decoded``, ``raw`` or ``none``.
    cached: str
    #: The worker that owns it, by its id; None where the server does not say.
    owner: str | None
    #: Where to read it, in the order in which to try.
    locations: list[str]


class Plan:
    """The splits of a read, in the order of its rows.

    >>> plan = client.dataset("/lake/trips").select("fare").plan()
    >>> plan.rows, len(plan) >= 1, plan.schema.names
    (1000, True, ['fare'])
    """

    def __init__(self, native: _native.Plan, title: str) -> None:
        self._native = native
        self._title = title
        self._splits = [_split(endpoint) for endpoint in native.endpoints]

    @property
    def schema(self) -> Schema:
        """The columns of the rows.

        >>> client.dataset("/lake/trips").plan().schema.names[0]
        'id'
        """
        return Schema(self._native.schema)

    @property
    def splits(self) -> list[Split]:
        """The parts.

        >>> sum(split.rows for split in client.dataset("/lake/trips").plan().splits)
        1000
        """
        return list(self._splits)

    @property
    def rows(self) -> int | None:
        """Rows of the answer; None where a filter decides.

        >>> client.dataset("/lake/trips").filter("fare > 1").plan().rows is None
        True
        """
        return self._native.rows

    @property
    def bytes(self) -> int:
        """Decoded bytes that are read, as estimated: the most that the answer takes.

        >>> client.dataset("/lake/trips").plan().bytes > 0
        True
        """
        return sum(split.bytes for split in self._splits)

    @property
    def cached(self) -> dict[str, int]:
        """Bytes of the splits by where they are now: ``decoded``, ``raw``, ``none``.

        >>> sorted(client.dataset("/lake/trips").plan().cached)
        ['decoded', 'none', 'raw']
        """
        found = Counter({"decoded": 0, "raw": 0, "none": 0})
        for split in self._splits:
            found[split.cached] += split.bytes
        return dict(found)

    def __len__(self) -> int:
        return len(self._splits)

    def __iter__(self) -> Iterator[Split]:
        return iter(self._splits)

    def __repr__(self) -> str:
        rows = "unknown" if self.rows is None else f"{self.rows:,}"
        header, lines = self._table()
        summary = f"<Plan of {self._title}: {rows} rows, {_text.bytes_text(self.bytes)} in {len(self)} splits>"
        return f"{summary}\n{_text.table(header, lines)}"

    def _repr_html_(self) -> str:
        return _html.titled(repr(self).splitlines()[0].strip("<>"), _html.table(*self._table()))

    def _table(self) -> tuple[list[str], list[list[str]]]:
        header = ["path", "row_groups", "rows", "bytes", "cached", "owner"]
        lines = []
        for split in self._splits:
            groups = f"{len(split.row_groups)}"
            shown = [_text.shown(name, split[name]) for name in ("rows", "bytes", "cached", "owner")]
            lines.append([_text.cut(split.path), groups, *shown])
        return header, lines


def _split(endpoint: _native.Endpoint) -> Split:
    return Split(
        path=endpoint.path,
        row_groups=endpoint.row_groups,
        files=endpoint.files,
        rows=endpoint.rows,
        bytes=endpoint.bytes,
        cached=endpoint.cached,
        owner=endpoint.node,
        locations=endpoint.locations,
    )
