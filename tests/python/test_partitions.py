"""Hive folders become typed columns, last in the schema, and prune what is read."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from conftest import Lake
from harness import files
from harness.compare import assert_same
from harness.errors import expect_error
from harness.flight import plan, splits
from harness.metrics import total


def with_columns(table: pa.Table, **values: object) -> pa.Table:
    """The table with constant columns behind its own: integers as int64, the rest as strings."""
    for name, value in values.items():
        kind = pa.int64() if isinstance(value, int) else pa.string()
        table = table.append_column(name, pa.array([value] * table.num_rows, kind))
    return table


def test_integer_and_text_partitions(lake: Lake) -> None:
    parts = {
        "year=2023/kind=a": files.numbers(2, 0),
        "year=2023/kind=b": files.numbers(2, 10),
        "year=2024/kind=a": files.numbers(3, 20),
    }
    files.hive(lake.folder / "set", parts)
    expected = pa.concat_tables(
        [
            with_columns(parts["year=2023/kind=a"], year=2023, kind="a"),
            with_columns(parts["year=2023/kind=b"], year=2023, kind="b"),
            with_columns(parts["year=2024/kind=a"], year=2024, kind="a"),
        ]
    )
    assert_same(lake.read("set"), expected)
    assert_same(lake.read("set", columns=["kind", "n"]), expected.select(["kind", "n"]))
    assert_same(lake.read("set", columns=["year"]), expected.select(["year"]))


def test_one_value_that_is_no_number_makes_the_column_text(lake: Lake) -> None:
    files.hive(lake.folder / "set", {"v=1": files.numbers(1), "v=01x": files.numbers(1), "v=2": files.numbers(1)})
    assert lake.read("set").column("v").to_pylist() == ["01x", "1", "2"]


@pytest.mark.parametrize("value", ["+1", "1.0", "9223372036854775808", "1e3", "0x10", "1_000"])
def test_values_that_are_no_integers_are_text(lake: Lake, value: str) -> None:
    files.hive(lake.folder / "set", {f"v={value}": files.numbers(1)})
    assert lake.read("set").column("v").to_pylist() == [value]


@pytest.mark.parametrize("value", [0, -5, 2**63 - 1, -(2**63)])
def test_integer_bounds(lake: Lake, value: int) -> None:
    files.hive(lake.folder / "set", {f"v={value}": files.numbers(1)})
    assert lake.read("set").schema.field("v").type == pa.int64()
    assert lake.read("set", filter=f"v = {value}").num_rows == 1 or value == -(2**63)
    assert lake.read("set").column("v").to_pylist() == [value]


def test_padded_integers_are_integers(lake: Lake) -> None:
    files.hive(lake.folder / "set", {f"month={month:02d}": files.numbers(1) for month in (1, 9, 12)})
    assert lake.read("set").column("month").to_pylist() == [1, 9, 12]
    assert lake.read("set", filter="month = 9").num_rows == 1


def test_null_partition(lake: Lake) -> None:
    files.hive(lake.folder / "set", {"v=1": files.numbers(2), "v=__HIVE_DEFAULT_PARTITION__": files.numbers(3)})
    table = lake.read("set")
    assert table.schema.field("v").type == pa.int64()
    assert sorted(table.column("v").to_pylist(), key=str) == [1, 1, None, None, None]
    assert lake.read("set", filter="v IS NULL").num_rows == 3
    assert lake.read("set", filter="v = 1").num_rows == 2


def test_percent_encoded_values_are_decoded(lake: Lake) -> None:
    names = {
        "city=New%20York": "New York",
        "city=a%2Fb": "a/b",
        "city=k%3Dv": "k=v",
        "city=ünï": "ünï",
        "city=a b": "a b",
    }
    files.hive(lake.folder / "set", {name: files.numbers(1) for name in names})
    assert sorted(lake.read("set").column("city").to_pylist()) == sorted(names.values())
    assert lake.read("set", filter="city = 'a/b'").num_rows == 1


def test_partitions_prune_what_is_read(lake: Lake) -> None:
    files.hive(lake.folder / "set", {f"day={day}": files.numbers(10, 10 * day) for day in range(1, 31)})
    info = plan(lake.client, lake.at("set"), filter="day >= 29")
    assert [(entry["files"], entry["rows"]) for entry in splits(info)] == [(2, 20)]
    (one,) = splits(plan(lake.client, lake.at("set"), filter="day = 7"))
    assert (one["path"], one["files"]) == (lake.at("set/day=7/data.parquet"), 1)
    got = lake.read("set", filter="day >= 29 AND n < 295")
    assert got.column("n").to_pylist() == list(range(290, 295))
    assert lake.read("set", filter="day > 100").num_rows == 0
    assert lake.read("set", filter="day > 100").schema.equals(lake.read("set").schema)


def test_pruned_files_are_not_fetched(lake: Lake) -> None:
    files.hive(lake.folder / "set", {f"day={day}": files.numbers(20_000, day) for day in range(5)})
    assert plan(lake.client, lake.at("set")).total_records == 100_000
    before = total(lake.server.admin_uri, "jetbridge_store_read_bytes_total")
    lake.read("set", filter="day = 3")
    fetched = total(lake.server.admin_uri, "jetbridge_store_read_bytes_total") - before
    assert fetched <= 1.2 * (lake.folder / "set/day=3/data.parquet").stat().st_size + 65_536


def test_statistics_prune_row_groups(lake: Lake) -> None:
    table = lake.write("t.parquet", files.numbers(1_000), row_group_size=100)
    cases = {
        "n >= 950": [9],
        "n < 100 OR n = 555": [0, 5],
        "n BETWEEN 199 AND 200": [1, 2],
        "n IN (5, 905)": [0, 9],
        "text = 'row 7' AND n < 300": [0],
    }
    for where, groups in cases.items():
        info = plan(lake.client, lake.at("t.parquet"), filter=where)
        kept = [group for entry in splits(info) for group in entry["row_groups"]]
        assert set(groups) <= set(kept), where
        assert kept == groups or where.startswith("text"), where
    got = lake.read("t.parquet", filter="n >= 950")
    assert_same(got, table.filter(pc.field("n") >= 950))


def test_a_key_twice_in_one_path_is_refused(lake: Lake) -> None:
    files.hive(lake.folder / "set", {"k=1/k=2": files.numbers(1)})
    with expect_error(("FAILED_PRECONDITION", "INVALID_ARGUMENT"), "k"):
        lake.read("set")
    lake.assert_still_serves()


def test_files_at_different_partition_depths_have_nulls(lake: Lake) -> None:
    files.hive(lake.folder / "set", {"a=1": files.numbers(1), "a=1/b=x": files.numbers(1), "a=2/b=y": files.numbers(1)})
    table = lake.read("set")
    assert table.column_names[-2:] == ["a", "b"]
    assert sorted(zip(table["a"].to_pylist(), table["b"].to_pylist(), strict=True), key=str) == [
        (1, "x"),
        (1, None),
        (2, "y"),
    ]


def test_reading_one_partition_folder(lake: Lake) -> None:
    files.hive(lake.folder / "set", {"year=2023/month=1": files.numbers(2), "year=2024/month=2": files.numbers(3, 10)})
    assert lake.read("set/year=2024").column("month").to_pylist() == [2, 2, 2]
    assert lake.read("set/year=2024").column("n").to_pylist() == [10, 11, 12]


def test_a_partition_column_that_the_file_has_too(lake: Lake) -> None:
    lake.write("set/n=5/x.parquet", {"n": pa.array([5, 5], pa.int64()), "m": [1, 2]})
    table = lake.read("set")
    assert sorted(table.column_names) == ["m", "n"]
    assert table.column("n").to_pylist() == [5, 5]
