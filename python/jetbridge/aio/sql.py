"""Results of SQL queries, awaited."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from jetbridge import _calls, _native, _text
from jetbridge._calls import Call, wait
from jetbridge.aio.rows import AsyncRows
from jetbridge.schema import Schema

if TYPE_CHECKING:
    from jetbridge.aio.client import AsyncClient


class AsyncResult(AsyncRows):
    """The rows of a SQL query: what :class:`jetbridge.Result` is, awaited.

    >>> async def top():
    ...     async with await jb.connect_async(client.uri) as other:
    ...         result = await other.sql("select max(id) as top from lake.trips")
    ...         return (await result.to_arrow()).column("top").to_pylist()
    >>> asyncio.run(top())
    [999]
    """

    def __init__(self, client: AsyncClient, query: str, schema: Schema | None = None) -> None:
        self._client = client
        self._query = query
        # Of what the query was checked with; one that was pickled asks when it is needed.
        self._schema = schema

    @property
    def query(self) -> str:
        """The SQL."""
        return self._query

    @property
    def schema(self) -> Awaitable[Schema]:
        """The columns."""
        return self._described()

    async def _described(self) -> Schema:
        if self._schema is None:
            self._schema = Schema((await wait(self._planned())).schema)
        return self._schema

    @property
    def _connection(self) -> _native.Client:
        return self._client._connection

    def _planned(self) -> Call[_native.Plan]:
        return _calls.plan_sql(self._connection, self._query)

    def __reduce__(self) -> tuple[type[AsyncResult], tuple[AsyncClient, str]]:
        return type(self), (self._client, self._query)

    def __str__(self) -> str:
        return _text.cut(" ".join(self._query.split()))

    def __repr__(self) -> str:
        return f"<AsyncResult of {self}>"
