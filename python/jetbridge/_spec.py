"""What a scan asks for: an immutable description, the same for both clients."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jetbridge.errors import InvalidRequestError


@dataclass(frozen=True)
class Spec:
    """A path, the columns and rows wanted of it, and whether in its order."""

    path: str
    #: None for all.
    columns: tuple[str, ...] | None = None
    #: SQL predicates, all of which a row has to pass.
    filters: tuple[str, ...] = ()
    #: The most rows; None for all.
    limit: int | None = None
    #: Whether rows come in the order of the dataset, or as they arrive.
    ordered: bool = True

    @property
    def filter(self) -> str | None:
        """The predicates as one."""
        if len(self.filters) < 2:
            return self.filters[0] if self.filters else None
        return " AND ".join(f"({predicate})" for predicate in self.filters)

    @property
    def body(self) -> dict[str, object]:
        """The JSON scan."""
        said: dict[str, object] = {"path": self.path}
        if self.columns is not None:
            said["columns"] = list(self.columns)
        if self.filters:
            said["filter"] = self.filter
        if self.limit is not None:
            said["limit"] = self.limit
        if self.ordered:
            said["ordered"] = True
        return said

    def select(self, columns: Sequence[str | Sequence[str]]) -> Spec:
        """With these columns, of those that it has, in this order."""
        names: list[str] = []
        for column in columns:
            names.extend(column if isinstance(column, list | tuple) else [column])  # type: ignore[list-item]
        for name in names:
            if not isinstance(name, str):
                raise InvalidRequestError(f"a column is named by a text, and this is none: {name!r}")
            if self.columns is not None and name not in self.columns:
                raise InvalidRequestError(_no_column(name, self.columns))
        return replace(self, columns=tuple(names))

    def where(self, predicate: str) -> Spec:
        """With the rows that pass this one, too."""
        if not isinstance(predicate, str):
            words = f'a filter is SQL in a text, such as "fare > 1", and this is a {type(predicate).__name__}'
            raise InvalidRequestError(words)
        if not predicate.strip():
            raise InvalidRequestError("the filter is empty; leave it out for all rows")
        if self.limit is not None:
            raise InvalidRequestError("the filter would come before the limit: write .filter(...).limit(...)")
        return replace(self, filters=(*self.filters, predicate))

    def first(self, rows: int) -> Spec:
        """With no more rows than this."""
        if isinstance(rows, bool) or not isinstance(rows, int) or rows < 0:
            raise InvalidRequestError(f"a limit is a number of rows, 0 or more, and not {rows!r}")
        return replace(self, limit=rows if self.limit is None else min(rows, self.limit))

    def check_preloadable(self) -> None:
        """Refuses what a preload cannot be told of: it would load all the rest, too, in the place of other data."""
        if self.limit is not None:
            raise InvalidRequestError(
                f"a preload loads row groups as a whole, and cannot stop at this scan's limit of {self.limit} rows",
                hint="leave limit() out; select() and filter() narrow what is loaded",
            )

    def __str__(self) -> str:
        words = [self.path]
        if self.columns is not None:
            words.append(f"select {', '.join(self.columns) or '(no columns)'}")
        if self.filters:
            words.append(f"filter {self.filter}")
        if self.limit is not None:
            words.append(f"limit {self.limit}")
        if not self.ordered:
            words.append("unordered")
        return " | ".join(words)


def meant(name: str, columns: Sequence[str]) -> str:
    """The end of a message about a column that is not there: the one that was probably meant, if any is like it."""
    near = difflib.get_close_matches(name, columns, 1)
    return f'; did you mean "{near[0]}"?' if near else ""


def _no_column(name: str, columns: Sequence[str]) -> str:
    return f'no column "{name}" is among those selected{meant(name, columns)}'
