"""Columns, nested fields, limit and count: what is not asked for is not read."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import Lake
from harness import files
from harness.compare import assert_same
from harness.errors import expect_error
from harness.flight import by_scan, fetch, plan
from harness.metrics import total
from harness.values import array_of

POINT = pa.struct(
    [
        ("x", pa.float64()),
        ("tags", pa.list_(pa.string())),
        ("inner", pa.struct([("a", pa.int32()), ("b", pa.string())])),
    ]
)


def read_bytes(lake: Lake) -> float:
    return total(lake.server.admin_uri, "jetbridge_store_read_bytes_total")


def test_columns_come_in_the_order_asked(lake: Lake) -> None:
    table = lake.write("t.parquet", files.numbers(10))
    for columns in (["n"], ["maybe", "n"], ["maybe", "text", "n"]):
        assert_same(lake.read("t.parquet", columns=columns), table.select(columns))


def test_a_column_asked_twice_comes_once(lake: Lake) -> None:
    table = lake.write("t.parquet", files.numbers(10))
    assert_same(lake.read("t.parquet", columns=["n", "text", "n"]), table.select(["n", "text"]))


@pytest.mark.parametrize(
    ("kind", "column"),
    [
        (POINT, "v.x"),
        (POINT, "v.inner"),
        (POINT, "v.inner.b"),
        (POINT, "v.tags"),
        (pa.list_(POINT), "v.x"),
    ],
    ids=str,
)
def test_nested_fields(lake: Lake, kind: pa.DataType, column: str) -> None:
    lake.write("t.parquet", {"n": range(200), "v": array_of(kind, 200, 1)}, row_group_size=70)
    got = lake.read("t.parquet", columns=[column, "n"])
    prefix = "v.list.element" if pa.types.is_list(kind) else "v"
    expected = pq.ParquetFile(lake.folder / "t.parquet").read(columns=[column.replace("v", prefix, 1), "n"])
    assert got.column_names == ["v", "n"]
    assert_same(got, expected.select(["v", "n"]))


def test_two_fields_of_one_struct_are_one_column(lake: Lake) -> None:
    lake.write("t.parquet", {"v": array_of(POINT, 100, 2)})
    got = lake.read("t.parquet", columns=["v.x", "v.inner.a"])
    expected = pq.ParquetFile(lake.folder / "t.parquet").read(columns=["v.x", "v.inner.a"])
    assert_same(got, expected)


def test_a_dot_in_a_name_is_no_path_when_the_name_is_there(lake: Lake) -> None:
    lake.write("t.parquet", {"a.b": [1], "a": [{"b": 2}]})
    assert lake.read("t.parquet", columns=["a.b"]).to_pydict() == {"a.b": [1]}


def test_columns_not_asked_for_are_not_fetched(lake: Lake) -> None:
    big = array_of(pa.binary(1_000), 3_000, 3, null_share=0.0)
    lake.write("t.parquet", {"small": range(3_000), "big": big}, compression="none", use_dictionary=False)
    plan(lake.client, lake.at("t.parquet"))
    before = read_bytes(lake)
    assert lake.read("t.parquet", columns=["small"]).num_rows == 3_000
    assert read_bytes(lake) - before < 500_000


def test_no_columns_give_a_count_without_reading_data(lake: Lake) -> None:
    lake.write(
        "t.parquet",
        {"big": array_of(pa.binary(500), 4_000, 4, null_share=0.0)},
        row_group_size=1_000,
        compression="none",
    )
    before = read_bytes(lake)
    info = plan(lake.client, lake.at("t.parquet"))
    assert info.total_records == 4_000
    answer = fetch(lake.client, by_scan(lake.at("t.parquet"), columns=[]))
    assert answer.table.num_columns == 0
    assert answer.rows == 4_000
    assert read_bytes(lake) - before < 500_000


@pytest.mark.parametrize("limit", [0, 1, 99, 100, 101, 250, 1_000, 5_000])
def test_limit(lake: Lake, limit: int) -> None:
    table = lake.write("t.parquet", files.numbers(1_000), row_group_size=100)
    answer = fetch(lake.client, by_scan(lake.at("t.parquet"), limit=limit))
    assert_same(answer.table, table.slice(0, limit))
    assert answer.info.total_records == min(limit, 1_000)


def test_limit_over_files_and_with_a_filter(lake: Lake) -> None:
    expected = files.write_many(lake.folder / "set", 20, rows=10)
    assert_same(lake.read("set", limit=57, ordered=True), expected.slice(0, 57))
    assert lake.read("set", limit=5, filter="n >= 100", ordered=True).column("n").to_pylist() == list(range(100, 105))
    assert lake.read("set", limit=5, filter="n < 0").num_rows == 0


def test_limit_stops_the_read(lake: Lake) -> None:
    big = array_of(pa.binary(500), 20_000, 5, null_share=0.0)
    lake.write("t.parquet", {"big": big}, row_group_size=500, compression="none", use_dictionary=False)
    size = (lake.folder / "t.parquet").stat().st_size
    plan(lake.client, lake.at("t.parquet"))
    before = read_bytes(lake)
    assert lake.read("t.parquet", limit=10).num_rows == 10
    assert read_bytes(lake) - before < size / 4


@pytest.mark.parametrize(
    ("spec", "kind", "match"),
    [
        ({"columns": ["nope"]}, "INVALID_ARGUMENT", "nope"),
        ({"columns": ["tex"]}, "INVALID_ARGUMENT", "text"),
        ({"columns": ["n.x"]}, "INVALID_ARGUMENT", r"n\.x"),
        ({"columns": ["N"]}, "INVALID_ARGUMENT", "N"),
        ({"limit": -1}, "INVALID_ARGUMENT", "limit"),
    ],
    ids=str,
)
def test_wrong_columns_and_limits(lake: Lake, spec: dict[str, object], kind: str, match: str) -> None:
    lake.write("t.parquet", files.numbers(3))
    with expect_error(kind, match):
        lake.read("t.parquet", **spec)
    lake.assert_still_serves()
