"""The client: one server's address, and all that can be asked of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Literal

from jetbridge import _calls, _html, _native
from jetbridge._calls import PreloadOptions, Priority, Tier, run
from jetbridge._options import Options, Wire, header_pairs, uri_or_default
from jetbridge._spec import Spec
from jetbridge.errors import ClosedError
from jetbridge.job import Job, Jobs
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
from jetbridge.scan import Dataset
from jetbridge.sql import Result


def connect(
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
) -> Client:
    """Connects to a server.

    Args:
        uri: ``grpc://HOST:PORT`` or ``grpc+unix:///PATH``; else ``JETBRIDGE_URI``, else ``grpc://127.0.0.1:8815``.
        timeout: seconds that a call may take, and a stream may say nothing; no limit by default.
        connect_timeout: seconds that making a connection may take.
        headers: sent with each call, such as ``{"authorization": "Bearer ..."}``.
        buffer_bytes: rows that a read may have received and not yet handed out; pages of more than 4 MiB that it
            decodes may take as much again, and 64 MiB at the least.
        streams_per_worker: connections to each worker that a read uses at once.
        local: use shared memory and unix sockets where the server is on this host and offers them.
        wire: the form in which rows are sent: ``arrow``, as they lie in memory; ``lz4`` or ``zstd``, the same
            compressed; ``raw``, row groups as they are stored, which are decoded here, or ``arrow`` where these cannot
            say the rows (a filter, a limit, SQL). ``auto`` is ``raw`` where the server would decode rows for this read
            alone, else ``arrow``, also where the server holds files to limits of its own (``max_page_bytes`` and the
            like); over a slow network ``raw``, else ``lz4``. On a machine with one core it is never ``raw``.
        retries: rounds over all places that have the rows, after the first one failed.
        check_values: check the values of arrays (offsets, UTF-8) as they come, and not only their layout.
        check: ask the server whether it is there. Without, the first call finds out.

    Raises:
        UnavailableError: nobody answers there; also a ``ConnectionError``.
        InvalidRequestError: the address or an option is wrong; also a ``ValueError``.

    >>> with jb.connect(client.uri) as other:
    ...     other.uri == client.uri
    True
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
    client = Client(uri_or_default(uri), options)
    if check:
        try:
            client.status()
        except BaseException:
            client.close()
            raise
    return client


class Client:
    """A server's address, and connections to it and its workers, which are made when they are needed.

    It may be used from any number of threads, pickled, and used on after a fork: each process has connections of its
    own.

    >>> client
    <Client grpc://127.0.0.1:...>
    """

    def __init__(self, uri: str, options: Options | None = None) -> None:
        self._options = options or Options()
        self._uri = uri
        self._native: _native.Client | None = _native.Client(uri, self._options.native())

    @property
    def uri(self) -> str:
        """The server's address.

        >>> client.uri
        'grpc://127.0.0.1:...'
        """
        return self._uri

    @property
    def closed(self) -> bool:
        """Whether it was closed.

        >>> client.closed
        False
        """
        return self._native is None

    def close(self) -> None:
        """Ends all connections. Reads under way fail, and so does what is asked from then on.

        >>> jb.connect(client.uri).close()
        """
        native, self._native = self._native, None
        if native is not None:
            native.close()

    def dataset(self, path: str) -> Dataset:
        """A dataset by its path, or by a URI below a mount. Asks nothing yet.

        >>> client.dataset("/lake/trips").count()
        1000
        """
        return Dataset(self, Spec(path))

    def datasets(self, prefix: str = "") -> list[str]:
        """The paths of all datasets, or of those under a prefix, or that match a glob.

        >>> client.datasets("/lake")
        ['/lake/trips']
        """
        return run(_calls.datasets(self._connection, prefix))

    def sql(self, query: str) -> Result:
        """The result of a SQL query over the datasets; ``/lake/trips`` is the table ``lake.trips``.

        >>> client.sql("select max(id) as top from lake.trips").to_arrow().column("top").to_pylist()
        [999]
        """
        return Result(self, query)

    def mounts(self) -> Listing[Mount]:
        """All mounts.

        >>> [mount.path for mount in client.mounts()]
        ['/lake']
        """
        return run(_calls.mounts(self._connection))

    def mount(
        self, path: str, uri: str, options: Mapping[str, str] | None = None, *, read_only: bool | None = None
    ) -> None:
        """Binds a path of the namespace to storage, which must answer first.

        Args:
            path: where it is to stand.
            uri: ``s3://bucket/prefix``, ``gs://...``, ``az://...``, ``https://...``, ``file:///folder``.
            options: policies and the store's own settings, such as ``{"region": "eu-west-1"}``. Secrets are references:
                ``env:NAME`` or ``file:PATH``, of the server's environment and disk.
            read_only: refuse writes below it.

        >>> client.mount("/again", client.mounts()[0].uri)
        >>> client.unmount("/again")
        """
        run(_calls.mount(self._connection, path, uri, options, read_only))

    def unmount(self, path: str) -> None:
        """Removes a mount. Its storage is left as it is.

        >>> client.mount("/again", client.mounts()[0].uri)
        >>> client.unmount("/again")
        """
        run(_calls.unmount(self._connection, path))

    def check_mount(self, path: str) -> MountCheck:
        """Tries a mount's storage: credentials, listing, ranged reads, versions.

        >>> client.check_mount("/lake").ok
        True
        """
        return run(_calls.check_mount(self._connection, path))

    def ls(self, path: str = "/", *, limit: int | None = None) -> Listing[Entry]:
        """What lies in a folder.

        >>> [entry.name for entry in client.ls("/lake/trips")][0]
        'part-0.parquet'
        """
        return run(_calls.ls(self._connection, path, limit))

    def stat(self, path: str) -> Stat:
        """What a path is, its dataset if it is one, and what is cached of it.

        >>> client.stat("/lake/trips").cache.bytes > 0
        True
        """
        connection = self._connection
        told, held = _calls.stat(connection, path), _calls.cache_stat(connection, path, None)
        return run(told).with_cache(run(held))

    def cache_stat(self, path: str, by: Literal["file", "column"] | None = None) -> CacheStat:
        """What the caches hold of a path, all together, or file by file or column by column.

        >>> client.cache_stat("/lake/trips", by="file").by_file[0]["rows"]
        250
        """
        return run(_calls.cache_stat(self._connection, path, by))

    def locate(self, path: str) -> Listing[Location]:
        """Which workers own what of a dataset.

        >>> client.locate("/lake/trips")[0].owners[0]["state"]
        'serving'
        """
        return run(_calls.locate(self._connection, path))

    def free(self, path: str, *, dry_run: bool = False) -> Freed:
        """Lets go of what is cached of a path, on all nodes.

        >>> client.free("/lake/trips").path
        '/lake/trips'
        """
        return run(_calls.free(self._connection, path, dry_run))

    def pin(self, path: str, tier: Tier | None = None) -> Pin:
        """Keeps what is cached of a path, and is read of it from then on; ``tier`` is ``both`` by default.

        >>> client.pin("/lake/trips").path, client.unpin("/lake/trips").path
        ('/lake/trips', '/lake/trips')
        """
        return run(_calls.pin(self._connection, path, tier))

    def unpin(self, path: str) -> Pin:
        """Lets a pinned path be evicted again.

        >>> client.pin("/lake/trips").path, client.unpin("/lake/trips").path
        ('/lake/trips', '/lake/trips')
        """
        return run(_calls.unpin(self._connection, path))

    def pins(self) -> Listing[Pin]:
        """All pins.

        >>> client.pins()
        (none)
        """
        return run(_calls.pins(self._connection))

    def refresh(self, path: str) -> None:
        """Has the storage under a path looked at anew at the next read.

        >>> client.refresh("/lake/trips")
        """
        run(_calls.refresh(self._connection, path))

    def workers(self, *, coordinators: bool = False) -> Listing[Worker]:
        """The workers of the cluster, and the coordinators too if asked for.

        >>> sum(worker.share for worker in client.workers())
        1.0
        """
        members = run(_calls.workers(self._connection))
        return Listing(member for member in members if coordinators or member.role != "coordinator")

    def status(self) -> ServerStatus:
        """How the server is that answers.

        >>> client.status().mounts
        1
        """
        return run(_calls.status(self._connection))

    def jobs(self, state: str | None = None, limit: int | None = None) -> Jobs:
        """The jobs, the latest first; of one state, if asked for.

        >>> client.jobs(limit=1)[0].is_done
        True
        """
        return Jobs(Job(self, status) for status in run(_calls.jobs(self._connection, state, limit)))

    def job(self, id: str) -> Job:  # noqa: A002  the word that users know it by
        """A job by its id.

        >>> client.job(client.jobs()[0].id).is_done
        True
        """
        return Job(self, run(_calls.job(self._connection, id)))

    def preload(
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
    ) -> Job:
        """Loads one path or several before they are read; the options are those of :meth:`Scan.preload`.

        >>> client.preload(["/lake/trips"], columns=["id"]).wait(progress=False).state
        'SUCCEEDED'
        """
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
        return Job(self, run(_calls.preload(self._connection, _calls.paths_of(path), options)))

    def preload_estimate(
        self,
        path: str | Sequence[str],
        *,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        tier: Tier | None = None,
        replicas: int | None = None,
        metadata_only: bool = False,
    ) -> PreloadEstimate:
        """What a preload would load on each worker, and whether it fits. Loads nothing.

        >>> client.preload_estimate("/lake/trips").files
        4
        """
        options = PreloadOptions(
            columns=columns, where=where, tier=tier, replicas=replicas, metadata_only=metadata_only
        )
        return run(_calls.preload_estimate(self._connection, _calls.paths_of(path), options))

    def verify(
        self,
        path: str | Sequence[str],
        *,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        bandwidth: int | str | None = None,
        priority: Priority | None = None,
        max_failures: int | None = None,
    ) -> Job:
        """Compares what is cached of one path or several with the storage; what differs is let go of.

        >>> client.verify("/lake/trips").wait(progress=False).state
        'SUCCEEDED'
        """
        options = PreloadOptions(
            columns=columns, where=where, bandwidth=bandwidth, priority=priority, max_failures=max_failures
        )
        return Job(self, run(_calls.verify(self._connection, _calls.paths_of(path), options)))

    def __datafusion_catalog_provider__(self, session: object) -> object:
        """All datasets as a catalog for a session of DataFusion's Python package, in a capsule. Schemas and tables are
        named as in :meth:`sql`: ``/lake/trips`` is ``lake.trips``.

        Raises:
            MissingExtraError: the package is of another major version than tables are made for here.

        >>> import datafusion
        >>> context = datafusion.SessionContext()
        >>> context.register_catalog_provider("jetbridge", client)
        >>> context.sql("select max(id) as top from jetbridge.lake.trips").to_pydict()
        {'top': [999]}
        """
        return run(_calls.datafusion_catalog(self._connection, session))

    @property
    def _connection(self) -> _native.Client:
        if self._native is None:
            raise ClosedError(f"the client of {self.uri} is closed", hint="connect again: jb.connect(uri)")
        return self._native

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Client], tuple[str, Options]]:
        return type(self), (self._uri, self._options)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Client) and (self._uri, self._options) == (other._uri, other._options)

    def __hash__(self) -> int:
        return hash((self._uri, self._options))

    def __repr__(self) -> str:
        return f"<Client {self.uri}{' (closed)' if self.closed else ''}>"

    def _repr_html_(self) -> str:
        return _html.titled(repr(self).strip("<>"), "")
