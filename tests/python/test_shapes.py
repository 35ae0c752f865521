"""Datasets of every shape: none of anything, a thousand of anything, ten thousand files."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import Lake
from harness import files
from harness.compare import assert_same, read_file
from harness.errors import expect_error
from harness.flight import by_path, fetch, listed, plan

MANY_FILES = 10_000
MANY_COLUMNS = 1_000
MANY_ROWS = 2_000_000


def test_empty_folder_is_no_dataset(lake: Lake) -> None:
    (lake.folder / "empty").mkdir()
    with expect_error("NOT_FOUND", "empty"):
        lake.read("empty")
    lake.assert_still_serves()


def test_folder_with_only_ignored_files_is_no_dataset(lake: Lake) -> None:
    for name in ("_SUCCESS", "_metadata", ".hidden.parquet", "_temporary/part.parquet", "notes.txt"):
        files.write(lake.folder / "set" / name, files.numbers(1))
    with expect_error("NOT_FOUND", "set"):
        lake.read("set")
    lake.assert_still_serves()


def test_ignored_files_beside_good_ones(lake: Lake) -> None:
    expected = lake.write("set/part.parquet", files.numbers(5))
    for name in ("_SUCCESS", "_common_metadata", ".part.parquet.crc", ".staging/other.parquet", "_delta_log/x.parquet"):
        files.write(lake.folder / "set" / name, pa.table({"other": ["x"]}))
    assert_same(lake.read("set"), expected)


def test_file_without_rows(lake: Lake) -> None:
    table = files.numbers(0)
    lake.write("t.parquet", table)
    answer = fetch(lake.client, by_path(lake.at("t.parquet")))
    assert answer.info.total_records == 0
    assert_same(answer.table, table)


def test_file_without_row_groups(lake: Lake) -> None:
    with pq.ParquetWriter(lake.folder / "t.parquet", files.numbers(0).schema):
        pass
    assert_same(lake.read("t.parquet"), files.numbers(0))


def test_row_group_without_rows_between_others(lake: Lake) -> None:
    path = lake.folder / "t.parquet"
    with pq.ParquetWriter(path, files.numbers(0).schema) as writer:
        for rows in (3, 0, 4, 0):
            writer.write_table(files.numbers(rows))
    assert 0 in [pq.ParquetFile(path).metadata.row_group(group).num_rows for group in range(4)]
    assert_same(lake.read("t.parquet"), read_file(path))


def test_empty_files_among_full_ones(lake: Lake) -> None:
    for index, rows in enumerate((0, 5, 0, 6, 0)):
        lake.write(f"set/{index}.parquet", files.numbers(rows, 10 * index))
    expected = pa.concat_tables([files.numbers(5, 10), files.numbers(6, 30)])
    assert_same(lake.read("set"), expected)


def test_a_thousand_columns(lake: Lake) -> None:
    columns = {f"column {index}": pa.array([index, None, -index], pa.int32()) for index in range(MANY_COLUMNS)}
    table = lake.write("t.parquet", columns)
    assert_same(lake.read("t.parquet"), table)
    assert_same(lake.read("t.parquet", columns=["column 999", "column 0"]), table.select(["column 999", "column 0"]))


def test_ten_thousand_small_files(lake: Lake) -> None:
    expected = files.write_many(lake.folder / "many", MANY_FILES, rows=3)
    info = plan(lake.client, lake.at("many"))
    assert info.total_records == expected.num_rows
    assert_same(lake.read("many"), expected)
    assert_same(lake.read("many", filter="n >= 29990"), expected.slice(29_990))


def test_one_row_group_of_two_million_rows(lake: Lake) -> None:
    numbers = pa.array(range(MANY_ROWS), pa.int64())
    texts = pa.array([f"text {row % 1000}" for row in range(MANY_ROWS)])
    table = lake.write("t.parquet", {"n": numbers, "text": texts}, row_group_size=MANY_ROWS)
    assert pq.ParquetFile(lake.folder / "t.parquet").num_row_groups == 1
    answer = fetch(lake.client, by_path(lake.at("t.parquet")))
    assert answer.info.total_records == MANY_ROWS
    assert_same(answer.table, table)
    # Batches that clients with gRPC's default limit can take: a row group is not one message.
    assert len(answer.batches) > 8


def test_many_row_groups_keep_their_order(lake: Lake) -> None:
    table = lake.write("t.parquet", files.numbers(5_000), row_group_size=10)
    assert_same(lake.read("t.parquet"), table)


def test_a_value_larger_than_a_message(lake: Lake) -> None:
    big = ["x" * 6_000_000, None, "y" * 5_000_000]
    table = lake.write("t.parquet", {"big": big, "n": [1, 2, 3]})
    assert_same(lake.read("t.parquet"), table)


def test_folders_at_any_depth_are_one_dataset(lake: Lake) -> None:
    names = ("b.parquet", "a/z.parquet", "a/b/c/d.parquet", "a/b/c/e.PARQUET", "c.parq")
    for index, name in enumerate(names):
        lake.write(f"set/{name}", files.numbers(2, 10 * index))
    in_order = [index for _, index in sorted((name.encode(), index) for index, name in enumerate(names))]
    assert_same(lake.read("set"), pa.concat_tables([files.numbers(2, 10 * index) for index in in_order]))
    assert lake.at("set") in listed(lake.client, lake.path)


@pytest.mark.parametrize("name", ["one.parquet", "set"])
def test_total_bytes_and_schema_are_told_before_reading(lake: Lake, name: str) -> None:
    table = files.write(lake.folder / name / "x.parquet" if name == "set" else lake.folder / name, files.numbers(50))
    info = plan(lake.client, lake.at(name))
    assert info.schema.equals(table.schema)
    assert info.total_records == 50
    assert info.total_bytes > 0 or info.total_bytes == -1
