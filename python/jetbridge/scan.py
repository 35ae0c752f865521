"""Datasets and scans of them: lazy and immutable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from jetbridge import _calls, _html, _native
from jetbridge._calls import Call, PreloadOptions, Priority, Tier, run
from jetbridge._spec import Spec
from jetbridge.job import Job
from jetbridge.records import CacheStat, Freed, Listing, Location, Pin, PreloadEstimate, Stat
from jetbridge.rows import Rows
from jetbridge.schema import Schema

if TYPE_CHECKING:
    import pyarrow as pa

    from jetbridge.client import Client


class Scan(Rows):
    """Some columns and rows of a dataset. Each method that narrows it gives a new scan; nothing is asked of the
    server before rows, a plan or a schema are wanted. Scans can be pickled: another process reads with connections of
    its own.

    >>> scan = client.dataset("/lake/trips").select("id", "fare").filter("id < 10").limit(3)
    >>> scan.to_arrow().column("id").to_pylist()
    [0, 1, 2]
    """

    def __init__(self, client: Client, spec: Spec) -> None:
        self._client = client
        self._spec = spec
        self._schema: Schema | None = None

    @property
    def path(self) -> str:
        """The path, or the URI, that it was made of.

        >>> client.dataset("/lake/trips").limit(1).path
        '/lake/trips'
        """
        return self._spec.path

    def select(self, *columns: str | Sequence[str]) -> Scan:
        """With these columns, in this order; a part of a struct as ``"struct.part"``. Without any, rows have none.

        >>> client.dataset("/lake/trips").select("fare", "id").schema.names
        ['fare', 'id']
        """
        return Scan(self._client, self._spec.select(columns))

    def filter(self, predicate: str) -> Scan:
        """With the rows that pass a SQL predicate; several filters must all be passed. Columns that are not selected
        may be named in it. The servers leave out row groups by their statistics, and filter the rest.

        >>> client.dataset("/lake/trips").filter("fare > 1").filter("vendor = 'a'").count()
        170
        """
        return Scan(self._client, self._spec.where(predicate))

    def limit(self, rows: int) -> Scan:
        """With no more rows than this.

        >>> client.dataset("/lake/trips").limit(5).count()
        5
        """
        return Scan(self._client, self._spec.first(rows))

    def unordered(self) -> Scan:
        """With the rows in the order in which they arrive, instead of the dataset's: nothing waits for a slow worker.

        >>> sorted(client.dataset("/lake/trips").unordered().to_arrow().column("id").to_pylist()) == list(range(1000))
        True
        """
        return Scan(self._client, replace(self._spec, ordered=False))

    @property
    def schema(self) -> Schema:
        if self._schema is None:
            self._schema = Schema(run(_calls.schema(self._connection, self._spec.body)))
        return self._schema

    def count(self) -> int:
        rows = self
        if self._spec.filters and self._spec.columns != ():
            rows = Scan(self._client, replace(self._spec, columns=(), ordered=False))
        return super(Scan, rows).count()

    def head(self, rows: int = 5) -> pa.Table:
        """The first rows, as a pyarrow table.

        >>> client.dataset("/lake/trips").head(2).column("id").to_pylist()
        [0, 1]
        """
        return self.limit(rows).to_arrow(progress=False)

    def preload(
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
    ) -> Job:
        """Loads the data into the workers' caches, in the background: returns at once. Submitting the same again while
        it is not over gives the same job. Without ``columns`` and ``where``, those of the scan are meant; a scan with a
        limit is refused, since row groups are loaded as a whole.

        Args:
            columns: the columns to load.
            where: a SQL predicate: row groups in which no row can pass it are left out.
            tier: ``raw`` (stored bytes, on disk), ``decoded`` (in memory), or ``both``, the default.
            replicas: how many workers shall hold it, no more than there are unless ``partial``; as many as the mount
                says.
            bandwidth: bytes a second that all nodes together may ask of storage, footers included, or a text such as
                ``"200MiB/s"``.
            verify: compare what is held with the storage, and load anew what differs.
            metadata_only: the files' footers alone.
            skip_if_cached: leave alone what is held already.
            partial_listing: begin before all files are listed.
            partial: load as much as there is room for, instead of refusing what does not fit.
            priority: whose turn it is among jobs: ``high``, ``normal``, ``low``.
            max_failures: more failed files than this end the job.
            every: repeat: seconds, or a text such as ``"1h"``.

        Raises:
            InvalidRequestError: an option is wrong, or the scan has a limit.
            ResourceExhaustedError: there are fewer workers than ``replicas``, or there is no room for it; not with
                ``partial``.

        >>> job = client.dataset("/lake/trips").preload(columns=["fare"], tier="decoded")
        >>> job.wait(progress=False).state
        'SUCCEEDED'
        """
        self._spec.check_preloadable()
        options = PreloadOptions(
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
        return Job(self._client, run(_calls.preload(self._connection, [self.path], options)))

    def preload_estimate(
        self, *, tier: Tier | None = None, replicas: int | None = None, metadata_only: bool = False
    ) -> PreloadEstimate:
        """What :meth:`preload` would load on each worker, and whether it fits. Loads nothing.

        >>> client.dataset("/lake/trips").select("fare").preload_estimate().files
        4
        """
        self._spec.check_preloadable()
        options = PreloadOptions(
            columns=self._spec.columns,
            where=self._spec.filter,
            tier=tier,
            replicas=replicas,
            metadata_only=metadata_only,
        )
        return run(_calls.preload_estimate(self._connection, [self.path], options))

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

    def _narrowed(self, requested: _native.Schema) -> Rows:
        names = [field.name for field in requested.fields]
        have = self.schema.names
        if names == have or len(set(names)) != len(names) or not set(names) <= set(have):
            return self
        return Scan(self._client, replace(self._spec, columns=tuple(names)))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._spec == other._spec and self._client == other._client

    def __hash__(self) -> int:
        return hash(self._spec)

    def __reduce__(self) -> tuple[type[Scan], tuple[Client, Spec]]:
        return type(self), (self._client, self._spec)

    def __str__(self) -> str:
        return str(self._spec)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._spec}>"

    def _repr_html_(self) -> str:
        inner = self._schema._repr_html_() if self._schema is not None else ""
        return _html.titled(repr(self).strip("<>"), inner)


class Dataset(Scan):
    """All of a dataset: a Parquet file, or a folder of them that reads as one table.

    >>> client.dataset("/lake/trips")
    <Dataset /lake/trips>
    """

    def stat(self) -> Stat:
        """What it is, and what is cached of it.

        >>> client.dataset("/lake/trips").stat().rows
        1000
        """
        return self._client.stat(self.path)

    def cache_stat(self, by: Literal["file", "column"] | None = None) -> CacheStat:
        """What is cached of it, all together, or file by file or column by column.

        >>> len(client.dataset("/lake/trips").cache_stat(by="column").by_column)
        4
        """
        return self._client.cache_stat(self.path, by)

    def locate(self) -> Listing[Location]:
        """Which workers own what of it.

        >>> sum(location.rows for location in client.dataset("/lake/trips").locate())
        1000
        """
        return self._client.locate(self.path)

    def refresh(self) -> None:
        """Has the storage looked at anew at the next read.

        >>> client.dataset("/lake/trips").refresh()
        """
        self._client.refresh(self.path)

    def free(self, *, dry_run: bool = False) -> Freed:
        """Lets go of what is cached of it, on all nodes.

        >>> client.dataset("/lake/trips").free(dry_run=True).dry_run
        True
        """
        return self._client.free(self.path, dry_run=dry_run)

    def pin(self, tier: Tier | None = None) -> Pin:
        """Keeps what is cached of it, and is read of it from then on.

        >>> client.dataset("/lake/trips").pin(tier="raw").tier
        'raw'
        """
        return self._client.pin(self.path, tier)

    def unpin(self) -> Pin:
        """Lets it be evicted again.

        >>> client.dataset("/lake/trips").unpin().path
        '/lake/trips'
        """
        return self._client.unpin(self.path)

    def __datafusion_table_provider__(self, session: object) -> object:
        """The dataset as a table for a session of DataFusion's Python package, in a capsule. What a query needs of it,
        columns, conditions and a limit, is asked of the server when the query is planned, and its owners are read in
        parallel when it runs.

        Raises:
            MissingExtraError: the package is of another major version than tables are made for here.

        >>> import datafusion
        >>> context = datafusion.SessionContext()
        >>> context.register_table("trips", client.dataset("/lake/trips"))
        >>> context.sql("select vendor, max(id) as top from trips where id < 10 group by vendor order by 2").to_pydict()
        {'vendor': ['a', 'b', 'c', 'd', 'e'], 'top': [5, 6, 7, 8, 9]}
        """
        return run(_calls.datafusion_table(self._connection, self.path, session))
