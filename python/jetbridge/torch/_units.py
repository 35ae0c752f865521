"""A dataset's units of order: its row groups, of one version, with their rows. Imports no torch."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jetbridge import _calls, _native
from jetbridge._spec import Spec
from jetbridge.errors import InvalidRequestError


@dataclass(frozen=True)
class Units:
    """The row groups that have rows to give, in the dataset's order.

    Numbers are kept in arrays: lists of objects would be copied page by page into every DataLoader worker.
    """

    #: What this version of the dataset is called.
    snapshot: str
    #: Paths of the files, relative to the dataset.
    files: tuple[str, ...]
    #: For each unit the position of its file.
    file: array[int] = field(repr=False)
    row_group: array[int] = field(repr=False)
    #: Rows that pass the filter.
    rows: array[int] = field(repr=False)
    #: Decoded bytes of the columns, about.
    bytes: array[int] = field(repr=False)
    #: Rows of these row groups together, those that do not pass the filter among them.
    read_rows: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def total_rows(self) -> int:
        """Rows of an epoch."""
        return sum(self.rows)

    def request(self) -> dict[str, Any]:
        """As the extension module takes them."""
        return {"files": self.files, "units": list(zip(self.file, self.row_group, self.rows, self.bytes, strict=True))}


def units_of(native: _native.Client, spec: Spec) -> Units:
    """The units of a scan, of the version that there is now. With a filter, the server counts the rows that pass."""
    if spec.limit is not None:
        raise InvalidRequestError(
            "an epoch has all rows of a scan: leave out limit(), or filter() by what tells them apart"
        )
    body: dict[str, Any] = {"path": spec.path, "filter": spec.filter, "count": spec.filter is not None}
    if spec.columns is not None:
        body["columns"] = list(spec.columns)
    collected = _Collected()
    while True:
        page = _calls.run(_calls.action(native, "dataset.units", body, _page))
        for unit in page["units"]:
            collected.add(unit)
        body |= {"snapshot": page["snapshot"], "after": page["next"]}
        if page["next"] is None:
            return collected.units(page["snapshot"])


def dumped(request: Mapping[str, Any]) -> str:
    """A request to the extension module."""
    return json.dumps(request, allow_nan=False)


class _Collected:
    """Units as they come."""

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self._numbers = (array("L"), array("L"), array("Q"), array("Q"))
        self._read_rows = 0

    def add(self, unit: Mapping[str, Any]) -> None:
        rows = unit.get("passing", unit["rows"])
        if rows:
            file = self._files.setdefault(unit["path"], len(self._files))
            self._read_rows += unit["rows"]
            for numbers, value in zip(self._numbers, (file, unit["row_group"], rows, unit["bytes"]), strict=True):
                numbers.append(value)

    def units(self, snapshot: str) -> Units:
        return Units(snapshot, tuple(self._files), *self._numbers, self._read_rows)


def _page(answer: Any) -> Any:
    return answer
