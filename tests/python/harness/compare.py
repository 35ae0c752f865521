"""Equality of tables, whatever their chunks and their dictionaries' order."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def assert_same(got: pa.Table, expected: pa.Table) -> None:
    """Same schema (types, names, nullability) and same values in the same order; names the first difference."""
    assert_same_schema(got.schema, expected.schema)
    assert got.num_rows == expected.num_rows, f"{got.num_rows} rows, not {expected.num_rows}"
    for name, left, right in zip(expected.column_names, got.columns, expected.columns, strict=True):
        assert_same_column(name, left, right)


def assert_same_schema(got: pa.Schema, expected: pa.Schema) -> None:
    """Same names, types and nullability in the same order, metadata aside."""
    assert got.names == expected.names
    differing = [(left, right) for left, right in zip(got, expected, strict=True) if not left.equals(right)]
    assert not differing, "; ".join(f"{_shown(left)} is not {_shown(right)}" for left, right in differing[:5])


def assert_same_column(name: str, got: pa.ChunkedArray, expected: pa.ChunkedArray) -> None:
    """Same values in the same order."""
    left, right = plain(got), plain(expected)
    if left.equals(right):
        return
    differing = [
        row for row, pair in enumerate(zip(left.to_pylist(), right.to_pylist(), strict=True)) if _differ(*pair)
    ]
    shown = [(row, left[row], right[row]) for row in differing[:3]]
    # pyarrow compares NaN as unequal and dictionaries inside structs by their order: values decide.
    assert not differing, f"column {name!r}: {len(differing)} rows differ, first {shown}"


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column with a dictionary at its top decoded."""
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    return column


def read_file(path: Path) -> pa.Table:
    """The file as pyarrow reads it, without making partition columns of its folders' names."""
    file = pq.ParquetFile(path)
    # Row group by row group: pyarrow cannot chunk some nested columns when it reads them at once.
    groups = [file.read_row_group(index) for index in range(file.num_row_groups)]
    return pa.concat_tables(groups) if groups else pa.Table.from_batches([], file.schema_arrow)


def _shown(field: pa.Field) -> str:
    return f"{field.name}: {field.type}{'' if field.nullable else ' not null'}"


def _differ(left: object, right: object) -> bool:
    # repr tells -0.0 from 0.0 and takes NaN for equal to itself.
    return left != right and repr(left) != repr(right)
