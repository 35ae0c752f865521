"""Rows that have not been read yet, and the ways to read them: what scans and SQL results have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jetbridge import _convert, _memory, _native
from jetbridge._calls import Call, finish, run
from jetbridge._convert import DtypeBackend
from jetbridge._extras import needed
from jetbridge._progress import INTERVAL_S, ReadBar, ReadProgress
from jetbridge.plan import Plan
from jetbridge.schema import Schema

if TYPE_CHECKING:
    import duckdb
    import numpy as np
    import pandas as pd
    import polars as pl
    import pyarrow as pa


class Rows(ABC):
    """Rows to be read, each time anew. Every library that speaks the Arrow PyCapsule protocol reads them as they are:
    ``pa.table(rows)``, ``pl.DataFrame(rows)``, ``pd.DataFrame.from_arrow(rows)``, a name in DuckDB's SQL.

    Reads are whole or fail: a worker that is lost on the way is replaced, and no row comes twice or is left out.

    >>> pa.table(client.dataset("/lake/trips")).num_rows
    1000
    """

    @abstractmethod
    def _planned(self) -> Call[_native.Plan]:
        """The call that plans the read."""

    @property
    @abstractmethod
    def _connection(self) -> _native.Client:
        """What reads."""

    @property
    def _ordered(self) -> bool:
        """Whether rows come in their order, or as they arrive."""
        return True

    @property
    def _is_limited(self) -> bool:
        """Whether fewer rows may come than the plan reads."""
        return False

    @property
    @abstractmethod
    def schema(self) -> Schema:
        """The columns; asked for once.

        >>> client.dataset("/lake/trips").select("fare").schema.names
        ['fare']
        """

    def plan(self) -> Plan:
        """What reading comes to: splits, owners, rows, bytes, what is cached. Reads nothing.

        >>> client.dataset("/lake/trips").plan().rows
        1000
        """
        return Plan(run(self._planned()), str(self))

    def count(self) -> int:
        """How many rows there are. Known from the plan; where a filter decides, they are read, without their columns
        if possible, and counted.

        >>> client.dataset("/lake/trips").count(), client.dataset("/lake/trips").filter("id < 10").count()
        (1000, 10)
        """
        plan = run(self._planned())
        if plan.rows is not None:
            return plan.rows
        stream = self._stream(plan)
        try:
            while finish(stream.next()) is not None:
                pass
            return stream.rows
        finally:
            stream.close()

    def to_arrow(self, *, progress: ReadProgress = None, check_memory: bool = True) -> pa.Table:
        """All rows as a pyarrow table, without a copy.

        Args:
            progress: None for a bar where somebody looks and it takes longer than a second, True, False, or a function
                of a :class:`Progress`.
            check_memory: refuse what would not fit in memory, before and while it is read.

        Raises:
            ResultTooLargeError: it would not fit; also a ``MemoryError``.

        >>> client.dataset("/lake/trips").select("id").to_arrow().num_rows
        1000
        """
        needed("pyarrow", "to_arrow()")
        return _convert.to_arrow(self._collect("to_arrow()", 1.0, progress, check_memory), "to_arrow()")

    def to_pandas(
        self,
        *,
        dtype_backend: DtypeBackend = "numpy",
        date_as_object: bool = False,
        progress: ReadProgress = None,
        check_memory: bool = True,
    ) -> pd.DataFrame:
        """All rows as a pandas data frame.

        Args:
            dtype_backend: ``numpy`` for NumPy's dtypes (and pandas' own text), ``pyarrow`` for dtypes that hold Arrow
                memory as it came, which is fastest and keeps nulls, or ``numpy_nullable`` for pandas' nullable ones.
            date_as_object: with ``numpy`` and ``numpy_nullable``, dates become ``datetime64``; True makes each a
                ``datetime.date``, as ``pandas.read_parquet`` does (with ``numpy`` one for all rows of a day). Not with
                ``pyarrow``, whose dates are Arrow's.
            progress: as in :meth:`to_arrow`.
            check_memory: as in :meth:`to_arrow`.

        >>> client.dataset("/lake/trips").select("id", "day").to_pandas().dtypes.astype(str).tolist()
        ['int64', 'datetime64[ms]']
        >>> client.dataset("/lake/trips").select("id").to_pandas(dtype_backend="pyarrow").dtypes.astype(str).tolist()
        ['int64[pyarrow]']
        """
        needed("pandas", "to_pandas()")
        needed("pyarrow", "to_pandas()")
        factor = _convert.check_pandas(dtype_backend, date_as_object)
        # No name for what was read: its memory goes as soon as the frame is made of it.
        return _convert.to_pandas(
            self._collect("to_pandas()", factor, progress, check_memory), dtype_backend, date_as_object
        )

    def to_polars(self, *, progress: ReadProgress = None, check_memory: bool = True) -> pl.DataFrame:
        """All rows as a Polars data frame; pyarrow is not needed.

        >>> client.dataset("/lake/trips").select("id").to_polars().shape
        (1000, 1)
        """
        needed("polars", "to_polars()")
        return _convert.to_polars(self._collect("to_polars()", 1.0, progress, check_memory))

    def to_numpy(self, *, progress: ReadProgress = None, check_memory: bool = True) -> dict[str, np.ndarray[Any, Any]]:
        """All rows as one NumPy array for each column; texts are arrays of objects, numbers with nulls floats.

        >>> client.dataset("/lake/trips").select("id").to_numpy()["id"].sum()
        np.int64(499500)
        """
        needed("numpy", "to_numpy()")
        needed("pyarrow", "to_numpy()")
        return _convert.to_numpy(self._collect("to_numpy()", 2.0, progress, check_memory))

    def to_duckdb(self, connection: duckdb.DuckDBPyConnection | None = None) -> duckdb.DuckDBPyRelation:
        """A DuckDB relation over these rows. They are read each time that it is used.

        >>> client.dataset("/lake/trips").to_duckdb().aggregate("max(id)").fetchall()
        [(999,)]
        """
        library = needed("duckdb", "to_duckdb()")
        relation: duckdb.DuckDBPyRelation = (connection or library).from_arrow(self)
        return relation

    def to_batches(self, *, progress: ReadProgress = None) -> Iterator[pa.RecordBatch]:
        """The rows as pyarrow record batches, as they come; the next ones are fetched meanwhile, within a byte budget.

        >>> sum(batch.num_rows for batch in client.dataset("/lake/trips").to_batches())
        1000
        """
        convert = needed("pyarrow", "to_batches()").record_batch
        return map(convert, self._batches(progress))

    def to_reader(self) -> pa.RecordBatchReader:
        """The rows as a pyarrow reader, which fetches them as it is read.

        >>> client.dataset("/lake/trips").to_reader().read_all().num_rows
        1000
        """
        reader: pa.RecordBatchReader = needed("pyarrow", "to_reader()").RecordBatchReader.from_stream(self)
        return reader

    def __iter__(self) -> Iterator[_native.RecordBatch]:
        """The rows as batches that any Arrow library takes; none is needed here.

        >>> {batch.num_columns for batch in client.dataset("/lake/trips")}
        {4}
        """
        return self._batches(False)

    def __arrow_c_schema__(self) -> object:
        return self.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The rows as an Arrow C stream in a capsule. Columns that the requested schema leaves out are not read; types
        are cast where that is possible."""
        rows = self if requested_schema is None else self._narrowed(_native.Schema.from_capsule(requested_schema))
        return rows._stream(run(rows._planned())).__arrow_c_stream__(requested_schema)

    def _narrowed(self, _requested: _native.Schema) -> Rows:
        """With the columns of a requested schema alone, where that can be asked for."""
        return self

    def _stream(self, plan: _native.Plan) -> _native.Stream:
        return self._connection.read(plan, None, self._ordered)

    def _batches(self, progress: ReadProgress) -> Iterator[_native.RecordBatch]:
        plan = run(self._planned())
        stream = self._stream(plan)
        try:
            with ReadBar(progress, plan.rows, plan.bytes or 0, str(self)) as bar:
                while (batch := finish(stream.next())) is not None:
                    bar.show(stream.rows, stream.bytes)
                    yield batch
                bar.show(stream.rows, stream.bytes, done=True)
        finally:
            stream.close()

    def _collect(self, what: str, factor: float, progress: ReadProgress, check_memory: bool) -> _native.Table:
        """All rows, kept on the Rust side."""
        plan = run(self._planned())
        planned_bytes, most = _memory.bounds(plan, factor, what, check_memory=check_memory, is_limited=self._is_limited)
        stream = self._stream(plan)
        try:
            with ReadBar(progress, plan.rows, planned_bytes, str(self)) as bar:
                return _watched(stream, stream.collect(most), bar)
        finally:
            stream.close()


def _watched(stream: _native.Stream, task: _native.Task[_native.Table], bar: ReadBar) -> _native.Table:
    """The result of a collection, with its bar meanwhile."""
    if bar.is_watched:
        try:
            while not task.wait(INTERVAL_S):
                bar.show(stream.rows, stream.bytes)
        except BaseException:
            task.cancel()
            raise
    table = finish(task)
    bar.show(stream.rows, stream.bytes, done=True)
    return table
