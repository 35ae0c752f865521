"""The client, awaited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Literal

from jetbridge import _calls, _native
from jetbridge._calls import PreloadOptions, Priority, Tier, wait
from jetbridge._options import Options, Wire, header_pairs, uri_or_default
from jetbridge._spec import Spec
from jetbridge.aio.job import AsyncJob
from jetbridge.aio.scan import AsyncDataset
from jetbridge.aio.sql import AsyncResult
from jetbridge.errors import ClosedError
from jetbridge.records import (
    CacheStat,
    Entry,
    Freed,
    Listing,
    Location,
    Mount,
    MountCheck,
    Pin,
    PreloadEstimate,
    ServerStatus,
    Stat,
    Worker,
)
from jetbridge.schema import Schema


async def connect_async(
    uri: str | None = None,
    *,
    timeout: float | None = None,
    connect_timeout: float = 5.0,
    headers: Mapping[str, str] | None = None,
    buffer_bytes: int = 256 << 20,
    streams_per_worker: int = 2,
    local: bool = True,
    wire: Wire = "auto",
    retries: int = 4,
    check_values: bool = False,
    check: bool = True,
) -> AsyncClient:
    """Connects to a server, for asyncio; the options are those of :func:`jetbridge.connect`.

    >>> async def names():
    ...     async with await jb.connect_async(client.uri) as other:
    ...         return [mount.path for mount in await other.mounts()]
    >>> asyncio.run(names())
    ['/lake']
    """
    options = Options(
        timeout=timeout,
        connect_timeout=connect_timeout,
        headers=header_pairs(headers),
        buffer_bytes=buffer_bytes,
        streams_per_worker=streams_per_worker,
        local=local,
        wire=wire,
        retries=retries,
        check_values=check_values,
    )
    client = AsyncClient(uri_or_default(uri), options)
    if check:
        try:
            await client.status()
        except BaseException:
            client._close()
            raise
    return client


class AsyncClient:
    """A server's address, and connections to it and its workers: what :class:`jetbridge.Client` is, awaited.

    >>> async def names():
    ...     async with jb.AsyncClient(client.uri) as other:
    ...         return [mount.path for mount in await other.mounts()]
    >>> asyncio.run(names())
    ['/lake']
    """

    def __init__(self, uri: str, options: Options | None = None) -> None:
        self._options = options or Options()
        self._uri = uri
        self._native: _native.Client | None = _native.Client(uri, self._options.native())

    @property
    def uri(self) -> str:
        """The server's address."""
        return self._uri

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._native is None

    async def close(self) -> None:
        """Ends all connections."""
        self._close()

    def dataset(self, path: str) -> AsyncDataset:
        """A dataset by its path, or by a URI below a mount. Asks nothing yet, so it is not awaited."""
        return AsyncDataset(self, Spec(path))

    async def datasets(self, prefix: str = "") -> list[str]:
        """The paths of all datasets, or of those under a prefix, or that match a glob."""
        return await wait(_calls.datasets(self._connection, prefix))

    async def sql(self, query: str) -> AsyncResult:
        """The result of a SQL query over the datasets."""
        plan = await wait(_calls.plan_sql(self._connection, query))
        return AsyncResult(self, query, Schema(plan.schema))

    async def mounts(self) -> Listing[Mount]:
        """All mounts."""
        return await wait(_calls.mounts(self._connection))

    async def mount(
        self, path: str, uri: str, options: Mapping[str, str] | None = None, *, read_only: bool | None = None
    ) -> None:
        """Binds a path of the namespace to storage."""
        await wait(_calls.mount(self._connection, path, uri, options, read_only))

    async def unmount(self, path: str) -> None:
        """Removes a mount."""
        await wait(_calls.unmount(self._connection, path))

    async def check_mount(self, path: str) -> MountCheck:
        """Tries a mount's storage."""
        return await wait(_calls.check_mount(self._connection, path))

    async def ls(self, path: str = "/", *, limit: int | None = None) -> Listing[Entry]:
        """What lies in a folder."""
        return await wait(_calls.ls(self._connection, path, limit))

    async def stat(self, path: str) -> Stat:
        """What a path is, its dataset if it is one, and what is cached of it."""
        connection = self._connection
        told, held = _calls.stat(connection, path), _calls.cache_stat(connection, path, None)
        return (await wait(told)).with_cache(await wait(held))

    async def cache_stat(self, path: str, by: Literal["file", "column"] | None = None) -> CacheStat:
        """What the caches hold of a path."""
        return await wait(_calls.cache_stat(self._connection, path, by))

    async def locate(self, path: str) -> Listing[Location]:
        """Which workers own what of a dataset."""
        return await wait(_calls.locate(self._connection, path))

    async def free(self, path: str, *, dry_run: bool = False) -> Freed:
        """Lets go of what is cached of a path."""
        return await wait(_calls.free(self._connection, path, dry_run))

    async def pin(self, path: str, tier: Tier | None = None) -> Pin:
        """Keeps what is cached of a path, and is read of it from then on."""
        return await wait(_calls.pin(self._connection, path, tier))

    async def unpin(self, path: str) -> Pin:
        """Lets a pinned path be evicted again."""
        return await wait(_calls.unpin(self._connection, path))

    async def pins(self) -> Listing[Pin]:
        """All pins."""
        return await wait(_calls.pins(self._connection))

    async def refresh(self, path: str) -> None:
        """Has the storage under a path looked at anew at the next read."""
        await wait(_calls.refresh(self._connection, path))

    async def workers(self, *, coordinators: bool = False) -> Listing[Worker]:
        """The workers of the cluster, and the coordinators too if asked for."""
        members = await wait(_calls.workers(self._connection))
        return Listing(member for member in members if coordinators or member.role != "coordinator")

    async def status(self) -> ServerStatus:
        """How the server is that answers."""
        return await wait(_calls.status(self._connection))

    async def jobs(self, state: str | None = None, limit: int | None = None) -> list[AsyncJob]:
        """The jobs, the latest first."""
        return [AsyncJob(self, status) for status in await wait(_calls.jobs(self._connection, state, limit))]

    async def job(self, id: str) -> AsyncJob:  # noqa: A002  the word that users know it by
        """A job by its id."""
        return AsyncJob(self, await wait(_calls.job(self._connection, id)))

    async def preload(
        self,
        path: str | Sequence[str],
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
        """Loads one path or several before they are read; the options are those of :meth:`jetbridge.Scan.preload`."""
        options = PreloadOptions(
            columns=columns,
            where=where,
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
        return AsyncJob(self, await wait(_calls.preload(self._connection, _calls.paths_of(path), options)))

    async def preload_estimate(
        self,
        path: str | Sequence[str],
        *,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        tier: Tier | None = None,
        replicas: int | None = None,
        metadata_only: bool = False,
    ) -> PreloadEstimate:
        """What a preload would load on each worker, and whether it fits."""
        options = PreloadOptions(
            columns=columns, where=where, tier=tier, replicas=replicas, metadata_only=metadata_only
        )
        return await wait(_calls.preload_estimate(self._connection, _calls.paths_of(path), options))

    async def verify(
        self,
        path: str | Sequence[str],
        *,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        bandwidth: int | str | None = None,
        priority: Priority | None = None,
        max_failures: int | None = None,
    ) -> AsyncJob:
        """Compares what is cached of one path or several with the storage."""
        options = PreloadOptions(
            columns=columns, where=where, bandwidth=bandwidth, priority=priority, max_failures=max_failures
        )
        return AsyncJob(self, await wait(_calls.verify(self._connection, _calls.paths_of(path), options)))

    def _close(self) -> None:
        native, self._native = self._native, None
        if native is not None:
            native.close()

    @property
    def _connection(self) -> _native.Client:
        if self._native is None:
            raise ClosedError(f"the client of {self.uri} is closed", hint="connect again: await jb.connect_async(uri)")
        return self._native

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._close()

    def __reduce__(self) -> tuple[type[AsyncClient], tuple[str, Options]]:
        return type(self), (self._uri, self._options)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncClient) and (self._uri, self._options) == (other._uri, other._options)

    def __hash__(self) -> int:
        return hash((self._uri, self._options))

    def __repr__(self) -> str:
        return f"<AsyncClient {self.uri}{' (closed)' if self.closed else ''}>"
