"""What the server tells, as records: their fields are attributes and keys alike, and a notebook shows them as tables.

>>> client.workers()[0].state == client.workers()[0]["state"]
True
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, TypeVar

from jetbridge import _html, _text

R = TypeVar("R", bound="Record")


@dataclass(frozen=True)
class Record:
    """The base of all records. ``dict(record)`` gives its fields.

    >>> dict(client.pin("/lake/trips", tier="raw"))["tier"]
    'raw'
    >>> client.unpin("/lake/trips").path
    '/lake/trips'
    """

    @classmethod
    def read(cls: type[R], answer: Mapping[str, Any]) -> R:
        """From the server's JSON. Keys that are not known here are left out: a newer server may tell more.

        >>> jb.records.Pin.read({"path": "/a", "tier": "raw", "colour": "blue"}).path
        '/a'
        """
        known = {entry.name for entry in fields(cls)}
        return cls(**{key: value for key, value in answer.items() if key in known})

    def keys(self) -> list[str]:
        """The names of its fields.

        >>> "role" in client.workers()[0].keys()
        True
        """
        return [entry.name for entry in fields(self)]

    def __getitem__(self, key: str) -> Any:
        if key not in self.keys():
            raise KeyError(key)
        return getattr(self, key)

    def _repr_html_(self) -> str:
        return _html.pairs((key, _text.shown(key, self[key])) for key in self.keys())


class Listing(list[R]):
    """Records in their order; a list that shows itself as a table.

    Attributes:
        truncated: whether there are more than were asked for.

    >>> [mount.path for mount in client.mounts()]
    ['/lake']
    """

    truncated: bool

    def __init__(self, records: Iterable[R] = (), *, truncated: bool = False) -> None:
        super().__init__(records)
        self.truncated = truncated

    def columns(self) -> dict[str, list[Any]]:
        """Field by field, as data frames are made from.

        >>> client.mounts().columns()["path"]
        ['/lake']
        """
        names = self[0].keys() if self else []
        return {name: [record[name] for record in self] for name in names}

    def __repr__(self) -> str:
        return _text.table(*self._table())

    def _repr_html_(self) -> str:
        header, rows = self._table()
        return _html.table(header, rows, more=self.truncated)

    def _table(self) -> tuple[list[str], list[list[str]]]:
        header = self[0].keys() if self else []
        return header, [[_text.shown(name, record[name]) for name in header] for record in self]


@dataclass(frozen=True)
class Mount(Record):
    """A namespace path bound to storage.

    >>> client.mounts()[0].path
    '/lake'
    """

    path: str
    uri: str
    #: Policies and the store's own settings; secrets among them are references.
    options: dict[str, str] = field(default_factory=dict)
    read_only: bool = False
    #: What metrics call it.
    id: str = ""


@dataclass(frozen=True)
class MountCheck(Record):
    """What came of trying a mount's storage.

    >>> client.check_mount("/lake").ok
    True
    """

    ok: bool
    #: One dict for each thing that was tried: name, ok, detail, ms.
    checks: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Entry(Record):
    """What lies in a folder: ``kind`` is ``file``, ``folder`` or ``mount``.

    >>> [entry.name for entry in client.ls("/lake")]
    ['trips']
    """

    name: str
    kind: str
    #: Bytes, of a file.
    size: int | None = None
    #: When it was last changed, RFC 3339.
    modified: str | None = None
    #: Which version of the file it is.
    generation: str | None = None


@dataclass(frozen=True)
class Worker(Record):
    """A node of the cluster: ``state`` is ``serving``, ``suspect``, ``draining``, ``lost`` or ``unknown``.

    >>> {worker.state for worker in client.workers()}
    {'serving'}
    """

    id: str
    role: str
    state: str
    #: Its Flight address.
    address: str | None = None
    #: Seconds since it is in this state.
    since_s: float = 0.0
    #: What it counts for in placement, beside the others.
    weight_bytes: int = 0
    #: Whether it owns a share of the data.
    seat: bool = False
    #: That share, 0 to 1.
    share: float = 0.0


@dataclass(frozen=True)
class ServerStatus(Record):
    """How the server is that answers.

    >>> client.status().mounts
    1
    """

    version: str
    uptime_s: float
    node: str = ""
    role: str = ""
    epoch: int = 0
    workers: int = 0
    metadata_store: str = ""
    mounts: int = 0
    memory_budget_bytes: int = 0
    raw_bytes: int = 0
    decoded_bytes: int = 0
    footer_bytes: int = 0


@dataclass(frozen=True)
class CacheStat(Record):
    """What the caches of all nodes hold of a path.

    >>> client.cache_stat("/lake/trips").files
    4
    """

    path: str
    files: int
    rows: int
    #: Bytes of the files.
    bytes: int
    #: Of these, those held as pages; ``raw_share`` is their part of ``bytes``, 0 to 1.
    raw_bytes: int
    raw_share: float
    #: Bytes held decoded, in memory.
    decoded_bytes: int
    #: Held of versions that have been overwritten since.
    outdated_bytes: int = 0
    #: One dict for each file, or each column, where that was asked for.
    by_file: list[dict[str, Any]] | None = None
    by_column: list[dict[str, Any]] | None = None

    def _repr_html_(self) -> str:
        parts = self.by_file or self.by_column
        if not parts:
            return super()._repr_html_()
        header = list(parts[0])
        return _html.table(header, [[_text.shown(key, part[key]) for key in header] for part in parts])


@dataclass(frozen=True)
class Stat(Record):
    """What a path is, its dataset if it is one, and what is cached of it.

    >>> stat = client.stat("/lake/trips")
    >>> stat.kind, stat.rows, stat.files
    ('folder', 1000, 4)
    """

    path: str
    #: ``file``, ``folder`` or ``mount``.
    kind: str
    uri: str | None = None
    mount: str | None = None
    size: int | None = None
    modified: str | None = None
    generation: str | None = None
    #: rows, files, row_groups, bytes, schema, partition_columns, unreadable_files; None where it is no dataset.
    dataset: dict[str, Any] | None = None
    #: Why it does not read as a dataset, where it holds data files.
    dataset_error: str | None = None
    cache: CacheStat | None = None

    @property
    def rows(self) -> int | None:
        """Rows of the dataset; None where it is none.

        >>> client.stat("/lake/trips").rows
        1000
        """
        return self._of_dataset("rows")

    @property
    def files(self) -> int | None:
        """Files of the dataset; None where it is none.

        >>> client.stat("/lake/trips").files
        4
        """
        return self._of_dataset("files")

    @property
    def bytes(self) -> int | None:
        """Bytes of the dataset's files; None where it is none.

        >>> client.stat("/lake/trips").bytes > 0
        True
        """
        return self._of_dataset("bytes")

    def with_cache(self, cache: CacheStat) -> Stat:
        """The same, with what is cached of it.

        >>> client.stat("/lake/trips").with_cache(client.cache_stat("/lake/trips")).cache.files
        4
        """
        return replace(self, cache=cache)

    def _of_dataset(self, key: str) -> int | None:
        return None if self.dataset is None else int(self.dataset[key])

    def _repr_html_(self) -> str:
        lines = [(key, self[key]) for key in self.keys() if key not in ("dataset", "cache")]
        dataset, cache = self.dataset or {}, self.cache
        lines += [(key, value) for key, value in dataset.items() if key != "schema"]
        if cache is not None:
            lines += [(f"cached: {key}", cache[key]) for key in ("raw_bytes", "raw_share", "decoded_bytes")]
        shown = _html.pairs((key, _text.shown(key, value)) for key, value in lines if value is not None)
        columns = [[column["name"], column["type"], str(column["nullable"])] for column in dataset.get("schema", ())]
        return shown + (_html.table(["column", "type", "nullable"], columns) if columns else "")


@dataclass(frozen=True)
class Location(Record):
    """A run of row groups of one file, and who owns it: the owner first, then its replicas.

    >>> client.locate("/lake/trips")[0].rows
    250
    """

    path: str
    #: The first and the last of its row groups.
    row_groups: list[int]
    rows: int
    #: Decoded, as estimated.
    bytes: int
    #: One dict for each: id, state, address.
    owners: list[dict[str, Any]]


@dataclass(frozen=True)
class Freed(Record):
    """What was let go of, or would be.

    >>> client.free("/lake/trips", dry_run=True).dry_run
    True
    """

    path: str
    files: int
    bytes: int
    raw_bytes: int
    decoded_bytes: int
    dry_run: bool


@dataclass(frozen=True)
class Pin(Record):
    """A path whose data is not evicted for other data.

    >>> client.pin("/lake/trips").path, len(client.pins()), client.unpin("/lake/trips").tier
    ('/lake/trips', 1, 'both')
    """

    path: str
    #: ``raw``, ``decoded`` or ``both``.
    tier: str
    bytes: int = 0
    decoded_bytes: int = 0


@dataclass(frozen=True)
class PreloadEstimate(Record):
    """What a preload comes to, and whether the workers have room for it.

    >>> client.preload_estimate("/lake/trips", columns=["fare"]).fits
    True
    """

    paths: list[str]
    files: int
    row_groups: int
    #: Stored bytes of the columns, times copies.
    bytes: int
    #: What they take decoded, as estimated, times copies.
    decoded_bytes: int
    fits: bool
    #: One dict for each worker: id, bytes, decoded_bytes, raw_capacity_bytes, decoded_capacity_bytes.
    workers: list[dict[str, Any]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class JobStatus(Record):
    """How a job stands. Compares equal to the name of its state.

    >>> job = client.dataset("/lake/trips").preload(columns=["fare"])
    >>> job.wait(progress=False) == "SUCCEEDED"
    True
    """

    FINAL: ClassVar[frozenset[str]] = frozenset({"SUCCEEDED", "PARTIAL", "FAILED", "CANCELLED"})

    id: str
    #: ``PENDING``, ``RUNNING``, or one of :attr:`FINAL`.
    state: str
    #: ``preload`` or ``verify``.
    kind: str = "preload"
    path: str = ""
    paths: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    submitted_unix_ms: int | None = None
    started_unix_ms: int | None = None
    finished_unix_ms: int | None = None
    elapsed_s: float = 0.0
    scheduler: str | None = None
    round: int = 0
    #: Of a job that repeats: runs that are over, what the last came to, when the next begins.
    runs: int = 0
    last_run: str | None = None
    next_run_unix_ms: int | None = None
    #: Why it failed, in words.
    error: str | None = None
    #: What it waits for, in words.
    waiting: str | None = None
    #: Whether files are still being listed, so that the totals grow.
    listing: bool = False
    files: int = 0
    files_done: int = 0
    files_skipped: int = 0
    row_groups: int = 0
    row_groups_done: int = 0
    bytes: int = 0
    bytes_done: int = 0
    decoded_bytes: int = 0
    decoded_bytes_done: int = 0
    #: What storage was asked for, and what came from other nodes.
    fetched_bytes: int = 0
    peer_bytes: int = 0
    rate_bytes_per_s: float = 0.0
    eta_s: float | None = None
    retries: int = 0
    #: What failed, the first of it; and how much failed.
    failures: list[dict[str, Any]] = field(default_factory=list)
    failures_total: int = 0
    verified: dict[str, int] | None = None
    #: One dict for each worker: id, state, row_groups, row_groups_done, bytes, bytes_done, tasks_running, tasks_done.
    workers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_final(self) -> bool:
        """Whether it stays as it is.

        >>> client.jobs()[0].status.is_final
        True
        """
        return self.state in self.FINAL

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return self.state == other
        return isinstance(other, JobStatus) and vars(self) == vars(other)

    def __hash__(self) -> int:
        # As the text that it may be equal to.
        return hash(self.state)

    def __str__(self) -> str:
        return self.state

    def __repr__(self) -> str:
        return f"<JobStatus {self.id} {self.state}: {_text.job_line(self)}>"

    def _repr_html_(self) -> str:
        return _html.job(self)
