"""The sum of every value of a table, which nobody can give who has not looked at all of it; columns side by side."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# A string view: its length, then twelve bytes of it or of where it is.
VIEW_WORDS, INLINE_BYTES = 4, 12

Sums = dict[str, int]
# The sum of an array of texts.
OfTexts = Callable[[pa.Array], int]


def sums_of(table: pa.Table, of_texts: OfTexts) -> Sums:
    """Of numbers the sum, of decimals that of their digits, of dates that of their days."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sums = pool.map(lambda column: sum_of(column, of_texts), table.columns)
        return dict(zip(table.column_names, sums, strict=True))


def sum_of(column: pa.ChunkedArray, of_texts: OfTexts) -> int:
    """The sum of a column without nulls."""
    if pa.types.is_string_view(column.type):
        return sum(map(of_texts, column.chunks))
    if pa.types.is_date32(column.type):
        column = column.cast(pa.int32())
    total = pc.sum(column).as_py()
    return int(total.scaleb(column.type.scale)) if pa.types.is_decimal(column.type) else total


def lengths(array: pa.Array) -> int:
    """The lengths of all texts; pyarrow has no such function for views yet."""
    return int(views_of(array)[:, 0].sum(dtype=np.int64))


def lengths_and_bytes(array: pa.Array) -> int:
    """The lengths of all texts and all their bytes."""
    views = views_of(array)
    length = views[:, 0]
    is_inline = length <= INLINE_BYTES
    total = int(length.sum(dtype=np.int64))
    inline = views if is_inline.all() else views[is_inline]
    # A short text is followed by zeros, and the bytes of its length are its length, which is counted already.
    total += bytes_of(inline) - int(inline[:, 0].sum(dtype=np.int64))
    return total if len(inline) == len(views) else total + elsewhere(views[~is_inline], array.buffers()[2:])


def elsewhere(views: np.ndarray, buffers: list[pa.Buffer]) -> int:
    """The bytes of texts that are too long for their views."""
    length = views[:, 0].astype(np.int64)
    if length.sum() == sum(buffer.size for buffer in buffers):
        # The buffers are one text after the other.
        return sum(bytes_of(np.frombuffer(buffer, np.uint8)) for buffer in buffers)
    total = 0
    for number, buffer in enumerate(buffers):
        here = views[:, 2] == number
        begin = views[here, 3].astype(np.int64)
        until = np.concatenate([[0], np.cumsum(np.frombuffer(buffer, np.uint8), dtype=np.int64)])
        total += int((until[begin + length[here]] - until[begin]).sum())
    return total


def views_of(array: pa.Array) -> np.ndarray:
    """A row each text: its length, and three words more."""
    views = np.frombuffer(array.buffers()[1], np.int32).reshape(-1, VIEW_WORDS)
    return views[array.offset : array.offset + len(array)]


def bytes_of(values: np.ndarray) -> int:
    """The sum of all bytes, by pyarrow, whose function is the faster one."""
    if not values.size:
        return 0
    data = pa.py_buffer(np.ascontiguousarray(values))
    return pc.sum(pa.Array.from_buffers(pa.uint8(), data.size, [None, data])).as_py()
