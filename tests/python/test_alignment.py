"""Where pyarrow finds the arrays: the server aligns them within a message, and the client allocates the message."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from conftest import Lake
from harness.matrix import ALL_TYPES, matrix_table

ALIGNMENT_BYTES = 64
# What malloc of a 64-bit C library gives, and so the most that a server can count on.
ALLOCATED_BYTES = 16
LARGE_ROWS = 2_000_000


@pytest.mark.parametrize("name", ALL_TYPES)
def test_buffers_are_aligned_to_each_other(lake: Lake, name: str) -> None:
    """Where the client puts a message at a multiple of 64, all its arrays are at one; else all are off alike."""
    lake.write("t.parquet", matrix_table(ALL_TYPES[name]))
    for _ in range(2):
        seen = [places(batch) for batch in lake.read("t.parquet").to_batches()]
        assert seen
        assert all(len(one) <= 1 for one in seen), f"{name}: at {seen}"


def test_large_messages_lie_as_malloc_gives_memory(lake: Lake) -> None:
    """pyarrow gives a large message memory of its own, in which the arrays have the best alignment there can be."""
    lake.write("t.parquet", {"n": np.arange(LARGE_ROWS), "x": np.arange(LARGE_ROWS) / 3})
    batches = lake.read("t.parquet").to_batches()
    assert len(batches) > 5
    assert all(place % ALLOCATED_BYTES == 0 for batch in batches for place in places(batch))


def places(batch: pa.RecordBatch) -> set[int]:
    """Where the buffers that have bytes are, modulo 64."""
    buffers = [buffer for column in batch.columns for buffer in column.buffers()]
    return {buffer.address % ALIGNMENT_BYTES for buffer in buffers if buffer is not None and buffer.size}
