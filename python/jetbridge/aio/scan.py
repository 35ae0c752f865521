"""Datasets and scans of them, awaited."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from jetbridge import _calls, _html, _native
from jetbridge._calls import Call, Priority, Tier, wait
from jetbridge._spec import Spec
from jetbridge.aio.job import AsyncJob
from jetbridge.aio.rows import AsyncRows
from jetbridge.records import CacheStat, Freed, Listing, Location, Pin, PreloadEstimate, Stat
from jetbridge.schema import Schema

if TYPE_CHECKING:
    import pyarrow as pa

    from jetbridge.aio.client import AsyncClient


class AsyncScan(AsyncRows):
    """Some columns and rows of a dataset: what :class:`jetbridge.Scan` is, awaited.

    >>> async def ids():
    ...     async with await jb.connect_async(client.uri) as other:
    ...         scan = other.dataset("/lake/trips").select("id").filter("id > 5").limit(2)
    ...         return (await scan.to_arrow()).column("id").to_pylist()
    >>> asyncio.run(ids())
    [6, 7]
    """

    def __init__(self, client: AsyncClient, spec: Spec) -> None:
        self._client = client
        self._spec = spec
        self._schema: Schema | None = None

    @property
    def path(self) -> str:
        """The path, or the URI, that it was made of."""
        return self._spec.path

    def select(self, *columns: str | Sequence[str]) -> AsyncScan:
        """With these columns, in this order."""
        return AsyncScan(self._client, self._spec.select(columns))

    def filter(self, predicate: str) -> AsyncScan:
        """With the rows that pass a SQL predicate."""
        return AsyncScan(self._client, self._spec.where(predicate))

    def limit(self, rows: int) -> AsyncScan:
        """With no more rows than this."""
        return AsyncScan(self._client, self._spec.first(rows))

    def unordered(self) -> AsyncScan:
        """With the rows in the order in which they arrive."""
        return AsyncScan(self._client, replace(self._spec, ordered=False))

    @property
    def schema(self) -> Awaitable[Schema]:
        """The columns; asked for once."""
        return self._described()

    async def _described(self) -> Schema:
        if self._schema is None:
            self._schema = Schema(await wait(_calls.schema(self._connection, self._spec.body)))
        return self._schema

    async def count(self) -> int:
        """How many rows there are."""
        rows = self
        if self._spec.filters and self._spec.columns != ():
            rows = AsyncScan(self._client, replace(self._spec, columns=(), ordered=False))
        return await super(AsyncScan, rows).count()

    async def head(self, rows: int = 5) -> pa.Table:
        """The first rows, as a pyarrow table."""
        return await self.limit(rows).to_arrow(progress=False)

    async def preload(
        self,
        *,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        tier: Tier | None = None,
        replicas: int | None = None,
        bandwidth: int | str | None = None,
        verify: bool = False,
        metadata_only: bool = False,
        skip_if_cached: bool = False,
        partial_listing: bool = False,
        partial: bool = False,
        priority: Priority | None = None,
        max_failures: int | None = None,
        every: float | str | None = None,
    ) -> AsyncJob:
        """Loads the data into the workers' caches; the options are those of :meth:`jetbridge.Scan.preload`."""
        self._spec.check_preloadable()
        return await self._client.preload(
            self.path,
            columns=columns if columns is not None else self._spec.columns,
            where=where if where is not None else self._spec.filter,
            tier=tier,
            replicas=replicas,
            bandwidth=bandwidth,
            verify=verify,
            metadata_only=metadata_only,
            skip_if_cached=skip_if_cached,
            partial_listing=partial_listing,
            partial=partial,
            priority=priority,
            max_failures=max_failures,
            every=every,
        )

    async def preload_estimate(
        self, *, tier: Tier | None = None, replicas: int | None = None, metadata_only: bool = False
    ) -> PreloadEstimate:
        """What a preload would load on each worker, and whether it fits."""
        self._spec.check_preloadable()
        return await self._client.preload_estimate(
            self.path,
            columns=self._spec.columns,
            where=self._spec.filter,
            tier=tier,
            replicas=replicas,
            metadata_only=metadata_only,
        )

    @property
    def _ordered(self) -> bool:
        return self._spec.ordered

    @property
    def _is_limited(self) -> bool:
        return self._spec.limit is not None

    @property
    def _connection(self) -> _native.Client:
        return self._client._connection

    def _planned(self) -> Call[_native.Plan]:
        return _calls.plan(self._connection, self._spec.body)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._spec == other._spec and self._client == other._client

    def __hash__(self) -> int:
        return hash(self._spec)

    def __reduce__(self) -> tuple[type[AsyncScan], tuple[AsyncClient, Spec]]:
        return type(self), (self._client, self._spec)

    def __str__(self) -> str:
        return str(self._spec)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._spec}>"

    def _repr_html_(self) -> str:
        return _html.titled(repr(self).strip("<>"), self._schema._repr_html_() if self._schema is not None else "")


class AsyncDataset(AsyncScan):
    """All of a dataset: what :class:`jetbridge.Dataset` is, awaited.

    >>> async def rows():
    ...     async with await jb.connect_async(client.uri) as other:
    ...         return (await other.dataset("/lake/trips").stat()).rows
    >>> asyncio.run(rows())
    1000
    """

    async def stat(self) -> Stat:
        """What it is, and what is cached of it."""
        return await self._client.stat(self.path)

    async def cache_stat(self, by: Literal["file", "column"] | None = None) -> CacheStat:
        """What is cached of it."""
        return await self._client.cache_stat(self.path, by)

    async def locate(self) -> Listing[Location]:
        """Which workers own what of it."""
        return await self._client.locate(self.path)

    async def refresh(self) -> None:
        """Has the storage looked at anew at the next read."""
        await self._client.refresh(self.path)

    async def free(self, *, dry_run: bool = False) -> Freed:
        """Lets go of what is cached of it."""
        return await self._client.free(self.path, dry_run=dry_run)

    async def pin(self, tier: Tier | None = None) -> Pin:
        """Keeps what is cached of it, and is read of it from then on."""
        return await self._client.pin(self.path, tier)

    async def unpin(self) -> Pin:
        """Lets it be evicted again."""
        return await self._client.unpin(self.path)
