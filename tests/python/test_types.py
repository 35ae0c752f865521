"""Every Parquet type that pyarrow reads comes out as pyarrow would read it."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import Lake
from harness.compare import assert_same, read_file
from harness.matrix import ALL_TYPES, ROW_GROUP_ROWS, ROWS, matrix_table
from harness.values import array_of


@pytest.mark.parametrize("arrow_schema", [True, False], ids=["arrow-schema", "parquet-schema"])
@pytest.mark.parametrize("name", ALL_TYPES)
def test_every_type_reads_as_pyarrow_reads_it(lake: Lake, name: str, arrow_schema: bool) -> None:
    lake.write("t.parquet", matrix_table(ALL_TYPES[name]), store_schema=arrow_schema, row_group_size=ROW_GROUP_ROWS)
    assert_same(lake.read("t.parquet"), read_file(lake.folder / "t.parquet"))


@pytest.mark.parametrize("name", ALL_TYPES)
def test_every_type_in_files_without_rows(lake: Lake, name: str) -> None:
    lake.write("t.parquet", matrix_table(ALL_TYPES[name]).slice(0, 0))
    assert_same(lake.read("t.parquet"), read_file(lake.folder / "t.parquet"))


@pytest.mark.parametrize("kind", [pa.timestamp("ns"), pa.timestamp("us")], ids=str)
def test_int96_timestamps(lake: Lake, kind: pa.DataType) -> None:
    table = pa.table({"at": array_of(kind, ROWS, seed=5), "nested": array_of(pa.list_(kind), ROWS, seed=6)})
    lake.write("t.parquet", table, use_deprecated_int96_timestamps=True, row_group_size=ROW_GROUP_ROWS)
    assert pq.ParquetFile(lake.folder / "t.parquet").schema.column(0).physical_type == "INT96"
    assert_same(lake.read("t.parquet"), read_file(lake.folder / "t.parquet"))


def test_not_a_number_keeps_its_place(lake: Lake) -> None:
    values = [float("nan"), 1.0, None, -0.0, float("-inf"), float("nan")]
    columns = {f"f{bits}": pa.array(values, getattr(pa, f"float{bits}")()) for bits in (16, 32, 64)}
    lake.write("t.parquet", columns)
    assert_same(lake.read("t.parquet"), read_file(lake.folder / "t.parquet"))


def test_all_types_side_by_side(lake: Lake) -> None:
    table = pa.table({name: array_of(kind, ROWS, seed=7) for name, kind in ALL_TYPES.items()})
    lake.write("t.parquet", table, row_group_size=ROW_GROUP_ROWS)
    assert_same(lake.read("t.parquet"), read_file(lake.folder / "t.parquet"))


def test_field_metadata_of_the_file_comes_along(lake: Lake) -> None:
    field = pa.field("n", pa.int64(), metadata={"unit": "m", "PARQUET:field_id": "7"})
    lake.write("t.parquet", pa.table([pa.array([1, 2])], pa.schema([field], metadata={"owner": "tests"})))
    schema = lake.read("t.parquet").schema
    assert schema.field("n").metadata[b"unit"] == b"m"
    assert schema.metadata[b"owner"] == b"tests"
