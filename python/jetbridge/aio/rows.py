"""Rows that have not been read yet, and the ways to read them, awaited."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Any

from jetbridge import _convert, _memory, _native
from jetbridge._calls import Call, finish_async, wait
from jetbridge._convert import DtypeBackend
from jetbridge._extras import needed
from jetbridge._progress import INTERVAL_S, ReadBar, ReadProgress
from jetbridge.plan import Plan

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import polars as pl
    import pyarrow as pa


class AsyncRows(ABC):
    """Rows to be read, each time anew: what :class:`jetbridge.rows.Rows` is, awaited.

    >>> async def rows():
    ...     async with await jb.connect_async(client.uri) as other:
    ...         return [batch.num_columns async for batch in other.dataset("/lake/trips").select("id")]
    >>> set(asyncio.run(rows()))
    {1}
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

    async def plan(self) -> Plan:
        """What reading comes to, before anything is read."""
        return Plan(await wait(self._planned()), str(self))

    async def count(self) -> int:
        """How many rows there are."""
        plan = await wait(self._planned())
        if plan.rows is not None:
            return plan.rows
        stream = self._stream(plan)
        try:
            while await finish_async(stream.next()) is not None:
                pass
            return stream.rows
        finally:
            stream.close()

    async def to_arrow(self, *, progress: ReadProgress = None, check_memory: bool = True) -> pa.Table:
        """All rows as a pyarrow table, without a copy."""
        needed("pyarrow", "to_arrow()")
        return _convert.to_arrow(await self._collect("to_arrow()", 1.0, progress, check_memory), "to_arrow()")

    async def to_pandas(
        self,
        *,
        dtype_backend: DtypeBackend = "numpy",
        date_as_object: bool = False,
        progress: ReadProgress = None,
        check_memory: bool = True,
    ) -> pd.DataFrame:
        """All rows as a pandas data frame, which is made in a thread."""
        needed("pandas", "to_pandas()")
        needed("pyarrow", "to_pandas()")
        factor = _convert.check_pandas(dtype_backend, date_as_object)
        table = await self._collect("to_pandas()", factor, progress, check_memory)
        return await asyncio.to_thread(_convert.to_pandas, table, dtype_backend, date_as_object)

    async def to_polars(self, *, progress: ReadProgress = None, check_memory: bool = True) -> pl.DataFrame:
        """All rows as a Polars data frame."""
        needed("polars", "to_polars()")
        table = await self._collect("to_polars()", 1.0, progress, check_memory)
        return await asyncio.to_thread(_convert.to_polars, table)

    async def to_numpy(
        self, *, progress: ReadProgress = None, check_memory: bool = True
    ) -> dict[str, np.ndarray[Any, Any]]:
        """All rows as one NumPy array for each column."""
        needed("numpy", "to_numpy()")
        needed("pyarrow", "to_numpy()")
        table = await self._collect("to_numpy()", 2.0, progress, check_memory)
        return await asyncio.to_thread(_convert.to_numpy, table)

    async def to_batches(self, *, progress: ReadProgress = None) -> AsyncIterator[pa.RecordBatch]:
        """The rows as pyarrow record batches, as they come."""
        convert = needed("pyarrow", "to_batches()").record_batch
        # Else what is left early would be closed when the loop comes to it.
        async with contextlib.aclosing(self._batches(progress)) as batches:
            async for batch in batches:
                yield convert(batch)

    def __aiter__(self) -> AsyncIterator[_native.RecordBatch]:
        return self._batches(False)

    def _stream(self, plan: _native.Plan) -> _native.Stream:
        return self._connection.read(plan, None, self._ordered)

    async def _batches(self, progress: ReadProgress) -> AsyncGenerator[_native.RecordBatch, None]:
        plan = await wait(self._planned())
        stream = self._stream(plan)
        try:
            with ReadBar(progress, plan.rows, plan.bytes or 0, str(self)) as bar:
                while (batch := await finish_async(stream.next())) is not None:
                    bar.show(stream.rows, stream.bytes)
                    yield batch
                bar.show(stream.rows, stream.bytes, done=True)
        finally:
            stream.close()

    async def _collect(self, what: str, factor: float, progress: ReadProgress, check_memory: bool) -> _native.Table:
        plan = await wait(self._planned())
        planned_bytes, most = _memory.bounds(plan, factor, what, check_memory=check_memory, is_limited=self._is_limited)
        stream = self._stream(plan)
        try:
            with ReadBar(progress, plan.rows, planned_bytes, str(self)) as bar:

                def tick() -> None:
                    bar.show(stream.rows, stream.bytes)

                table = await finish_async(stream.collect(most), tick if bar.is_watched else None, INTERVAL_S)
                bar.show(stream.rows, stream.bytes, done=True)
                return table
        finally:
            stream.close()
