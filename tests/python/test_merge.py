"""Files of one dataset that differ: merged where that loses nothing, else an error that names file and column."""

from __future__ import annotations

import pyarrow as pa
import pytest

from conftest import Lake
from harness.compare import assert_same
from harness.errors import expect_error


def two_files(lake: Lake, first: pa.Table, second: pa.Table) -> pa.Table:
    """Writes both into one folder and reads it."""
    lake.write("set/1.parquet", first)
    lake.write("set/2.parquet", second)
    return lake.read("set")


def column(values: list[object], kind: pa.DataType) -> pa.Table:
    """A table of one column `v`, and a second that both files share."""
    return pa.table({"id": pa.array(range(len(values)), pa.int64()), "v": pa.array(values, kind)})


def test_missing_columns_are_null(lake: Lake) -> None:
    first = pa.table({"a": [1, 2], "b": ["x", "y"]})
    second = pa.table({"c": [1.5], "a": [3]})
    expected = pa.table({"a": [1, 2, 3], "b": ["x", "y", None], "c": [None, None, 1.5]})
    assert_same(two_files(lake, first, second), expected)
    assert_same(lake.read("set", columns=["c", "a"]), expected.select(["c", "a"]))
    assert lake.read("set", filter="b IS NULL").column("a").to_pylist() == [3]
    assert lake.read("set", filter="c > 1").column("a").to_pylist() == [3]


def test_columns_in_another_order(lake: Lake) -> None:
    first, second = pa.table({"a": [1], "b": ["x"]}), pa.table({"b": ["y"], "a": [2]})
    assert_same(two_files(lake, first, second), pa.table({"a": [1, 2], "b": ["x", "y"]}))


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        (pa.int8(), pa.int64(), pa.int64()),
        (pa.int64(), pa.int16(), pa.int64()),
        (pa.uint8(), pa.uint32(), pa.uint32()),
        (pa.uint8(), pa.int32(), pa.int32()),
        (pa.uint32(), pa.int64(), pa.int64()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.float16(), pa.float32(), pa.float32()),
        (pa.int32(), pa.float64(), pa.float64()),
        (pa.decimal128(5, 2), pa.decimal128(12, 2), pa.decimal128(12, 2)),
        (pa.null(), pa.int64(), pa.int64()),
        (pa.int64(), pa.null(), pa.int64()),
    ],
    ids=str,
)
def test_numbers_are_widened(lake: Lake, first: pa.DataType, second: pa.DataType, merged: pa.DataType) -> None:
    values = [None, None] if pa.types.is_null(first) else [1, None]
    others = [None, None] if pa.types.is_null(second) else [None, 7]
    got = two_files(lake, column(values, first), column(others, second))
    assert got.schema.field("v").type == merged
    assert_same(got, pa.concat_tables([column(values, merged), column(others, merged)]))


@pytest.mark.parametrize(
    "other", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_texts_of_other_layouts_are_one_text(lake: Lake, other: pa.DataType) -> None:
    second = column(["c", None], pa.string())
    second = second.set_column(
        1,
        "v",
        second.column("v").combine_chunks().dictionary_encode()
        if pa.types.is_dictionary(other)
        else second.column("v").cast(other),
    )
    got = two_files(lake, column(["a", "b"], pa.string()), second)
    assert got.column("v").to_pylist() == ["a", "b", "c", None]


def test_struct_fields_are_merged(lake: Lake) -> None:
    first = pa.table({"s": pa.array([{"a": 1, "b": "x"}], pa.struct([("a", pa.int32()), ("b", pa.string())]))})
    second = pa.table({"s": pa.array([{"c": 1.5, "a": 2}, None], pa.struct([("c", pa.float64()), ("a", pa.int64())]))})
    got = two_files(lake, first, second)
    assert got.schema.field("s").type == pa.struct([("a", pa.int64()), ("b", pa.string()), ("c", pa.float64())])
    assert got.column("s").to_pylist() == [{"a": 1, "b": "x", "c": None}, {"a": 2, "b": None, "c": 1.5}, None]


def test_list_items_are_widened(lake: Lake) -> None:
    first, second = column([[1], None], pa.list_(pa.int32())), column([[2**40, None]], pa.list_(pa.int64()))
    got = two_files(lake, first, second)
    assert got.column("v").to_pylist() == [[1], None, [2**40, None]]


def test_required_and_nullable_merge_to_nullable(lake: Lake) -> None:
    required = pa.table([pa.array([1], pa.int64())], pa.schema([pa.field("v", pa.int64(), nullable=False)]))
    got = two_files(lake, required, pa.table({"v": pa.array([None], pa.int64())}))
    assert got.schema.field("v").nullable
    assert got.column("v").to_pylist() == [1, None]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pa.int64(), pa.string()),
        (pa.bool_(), pa.int32()),
        (pa.timestamp("us"), pa.timestamp("us", "UTC")),
        (pa.date32(), pa.timestamp("us")),
        (pa.list_(pa.int64()), pa.int64()),
        (pa.decimal128(10, 2), pa.decimal128(10, 4)),
        (pa.struct([("a", pa.int64())]), pa.struct([("a", pa.string())])),
    ],
    ids=str,
)
def test_files_that_do_not_merge(lake: Lake, first: pa.DataType, second: pa.DataType) -> None:
    lake.write("set/1.parquet", column([None], first))
    lake.write("set/2.parquet", column([None], second))
    with expect_error("FAILED_PRECONDITION", r"set/2\.parquet"):
        lake.read("set")
    with expect_error("FAILED_PRECONDITION", r"\bv\b"):
        lake.read("set", columns=["id"])
    assert lake.read("set/1.parquet").num_rows == 1
    assert lake.read("set/2.parquet").num_rows == 1


def test_files_of_two_tables_are_not_one(lake: Lake) -> None:
    lake.write("set/1.parquet", {"a": [1]})
    lake.write("set/2.parquet", {"b": ["x"]})
    with expect_error("FAILED_PRECONDITION", r"2\.parquet"):
        lake.read("set")
    lake.assert_still_serves()
