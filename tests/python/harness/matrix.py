"""The type matrix: a table for each type, with it in every state."""

from __future__ import annotations

import pyarrow as pa

from harness import types
from harness.values import array_of

ROWS = 500
ROW_GROUP_ROWS = 120
ALL_TYPES = {**types.plain_types(), **types.nested_types()}


def matrix_table(kind: pa.DataType) -> pa.Table:
    """One type in every state: nulls everywhere, none, only nulls, required, and beside a plain column."""
    columns = {
        "mixed": (array_of(kind, ROWS, seed=1), True),
        "number": (pa.array(range(ROWS), pa.int64()), True),
        "rarely_null": (array_of(kind, ROWS, seed=2, null_share=0.01), True),
        "all_null": (array_of(kind, ROWS, seed=3, null_share=1.0), True),
    }
    if not pa.types.is_null(kind):
        columns["required"] = (array_of(kind, ROWS, seed=4, null_share=0.0), False)
    fields = [pa.field(name, kind if name != "number" else pa.int64(), ok) for name, (_, ok) in columns.items()]
    return pa.table([array for array, _ in columns.values()], pa.schema(fields))
