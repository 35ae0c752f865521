"""Programs that read lineitem: directly with pyarrow, and through Jetbridge with pyarrow's Flight client."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.flight as flight

import usage
from harness.flight import by_scan
from storages import Storage

PATH = "/lineitem"
# In place of a wire form: the Python package's own client, which chooses one.
PACKAGE = "the package"
# None is every column.
Columns = list[str] | None
Result = TypeVar("Result")

# glibc gives memory that was freed back to the system at once, where these do not tell it to keep it; each batch that a
# Flight client receives then costs the kernel's work to give it anew.
KEEPING = {
    "MALLOC_TOP_PAD_": str(256 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
}


@dataclass(frozen=True)
class Read:
    """One measured read, as the process that did it saw it."""

    seconds: float
    user_s: float
    system_s: float
    # What the process had resident at the most meanwhile, with what it had before.
    peak_bytes: int
    rows: int
    arrow_bytes: int

    @property
    def cpu_s(self) -> float:
        return self.user_s + self.system_s


class Client:
    """Where reads are made: each in a new process, as in a job that starts, or all in one that has read before.

    A process that was used has the memory already that the next table goes to. Imports and the interpreter's start are
    left out in either. `settings` are variables of its environment.
    """

    def __init__(self, fresh: bool, settings: Mapping[str, str] | None = None) -> None:
        self._settings = settings or {}
        self._kept = None if fresh else self._new_process()

    def read(self, read: Callable[..., pa.Table], *asked: Any) -> Read:
        """One read and what it took; the rows are dropped."""
        if self._kept:
            return self._kept.submit(timed, read, asked).result()
        with self._new_process() as process:
            return process.submit(timed, read, asked).result()

    def call(self, function: Callable[..., Result], *asked: Any) -> Result:
        """What a function gives that is called in the process that is kept."""
        assert self._kept, "a new process for each read keeps none"
        return self._kept.submit(function, *asked).result()

    def close(self) -> None:
        """Ends the process that was kept."""
        if self._kept:
            self._kept.shutdown()

    def _new_process(self) -> ProcessPoolExecutor:
        """One process that shares no memory with this one, and has done its imports."""
        process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        # It starts with the first task, in the environment of then.
        with variables(self._settings):
            process.submit(ready).result()
        return process


@contextlib.contextmanager
def variables(settings: Mapping[str, str]) -> Iterator[None]:
    """The environment with these variables, for the processes that are started meanwhile."""
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def ready() -> None:
    """Nothing; that it was called means that this module was imported."""


def timed(read: Callable[..., pa.Table], asked: tuple[Any, ...]) -> Read:
    """Time, CPU and memory of one read."""
    table, took = usage.used(lambda: read(*asked))
    assert table.num_rows > 0
    return Read(took.seconds, took.user_s, took.system_s, took.peak_bytes, table.num_rows, table.nbytes)


def read_directly(storage: Storage, columns: Columns) -> pa.Table:
    """pyarrow's fastest way to the table: the files' row groups side by side, remote ones by few large requests."""
    options = ds.ParquetFragmentScanOptions(pre_buffer=storage.remote)
    form = ds.ParquetFileFormat(default_fragment_scan_options=options)
    return ds.dataset(storage.folder, filesystem=storage.filesystem(), format=form).to_table(columns)


def read_through(uri: str, columns: Columns, streams: int = 1) -> pa.Table:
    """GetFlightInfo, then every endpoint, `streams` at a time."""
    spec = {"columns": columns} if columns else {}
    with flight.connect(uri) as client:
        endpoints = client.get_flight_info(by_scan(PATH, **spec)).endpoints
        if streams == 1:
            return pa.concat_tables([client.do_get(endpoint.ticket).read_all() for endpoint in endpoints])
        with ThreadPoolExecutor(streams) as pool:
            return pa.concat_tables(pool.map(lambda endpoint: client.do_get(endpoint.ticket).read_all(), endpoints))
