"""Results of SQL queries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jetbridge import _calls, _html, _native, _text
from jetbridge._calls import Call, run
from jetbridge.rows import Rows
from jetbridge.schema import Schema

if TYPE_CHECKING:
    from jetbridge.client import Client


class Result(Rows):
    """The rows of a query, read as those of a scan are. The query is checked when it is made, and runs at each read.

    >>> client.sql("select count(*) as n from lake.trips").to_arrow().column("n").to_pylist()
    [1000]
    """

    def __init__(self, client: Client, query: str) -> None:
        self._client = client
        self._query = query
        # What the query was checked with: its schema holds for all reads.
        self._schema = Schema(run(_calls.plan_sql(self._connection, query)).schema)

    @property
    def query(self) -> str:
        """The SQL.

        >>> client.sql("select 1 as one").query
        'select 1 as one'
        """
        return self._query

    @property
    def schema(self) -> Schema:
        return self._schema

    @property
    def _connection(self) -> _native.Client:
        return self._client._connection

    def _planned(self) -> Call[_native.Plan]:
        return _calls.plan_sql(self._connection, self._query)

    def __reduce__(self) -> tuple[type[Result], tuple[Client, str]]:
        return type(self), (self._client, self._query)

    def __str__(self) -> str:
        return _text.cut(" ".join(self._query.split()))

    def __repr__(self) -> str:
        return f"<Result of {self}>"

    def _repr_html_(self) -> str:
        return _html.titled(repr(self).strip("<>"), self._schema._repr_html_())
