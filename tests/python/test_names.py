"""Names that other systems mangle: spaces, `%2F`, `+`, unicode, `=`; each read as written."""

from __future__ import annotations

import pytest

from conftest import Lake
from harness import files
from harness.compare import assert_same
from harness.errors import expect_error
from harness.flight import by_path, by_scan, fetch, listed, mount, read, splits
from harness.weed import Weed

NAMES = (
    "with space",
    " leading and trailing ",
    "percent%2Fslash",
    "percent%20space",
    "100%",
    "plus+plus",
    "ünïcödé",
    "日本語",
    "🚀",
    "a&b;c,d",
    "quote'quote\"",
    "hash#question?",
    "tilde~at@",
    "brackets[1]{2}(3)",
    "star*",
    "dots..in..name",
    "-dash",
    "colon:colon",
)


@pytest.mark.parametrize("name", NAMES)
def test_odd_file_names(lake: Lake, name: str) -> None:
    expected = lake.write(f"set/{name}.parquet", files.numbers(5))
    path = lake.at(f"set/{name}.parquet")
    for asked in (by_path(path), by_scan(path), by_path(lake.at("set")), by_scan(f"file://{lake.folder}/set")):
        assert_same(fetch(lake.client, asked).table, expected)
    assert [entry["path"] for entry in splits(lake.client.get_flight_info(by_path(path)))] == [path]


@pytest.mark.parametrize("name", NAMES)
def test_odd_folder_names(lake: Lake, name: str) -> None:
    expected = lake.write(f"{name}/sub {name}/x.parquet", files.numbers(5))
    for asked in (by_path(lake.at(name)), by_scan(lake.at(name)), by_scan(f"file://{lake.folder}/{name}")):
        assert_same(fetch(lake.client, asked).table, expected)
    found = listed(lake.client, lake.path)
    assert any(path.startswith(lake.at(name)) for path in found), found


def test_names_that_differ_only_by_encoding_are_different_files(lake: Lake) -> None:
    names = ("a b", "a%20b", "a+b", "a%2Fb", "a%252Fb", "A b")
    for index, name in enumerate(names):
        lake.write(f"{name}.parquet", files.numbers(2, 100 * index))
    for index, name in enumerate(names):
        assert_same(lake.read(f"{name}.parquet"), files.numbers(2, 100 * index))


def test_equals_sign_in_a_file_name_is_no_partition(lake: Lake) -> None:
    expected = lake.write("set/k=v.parquet", files.numbers(3))
    assert_same(lake.read("set"), expected)


def test_odd_column_names(lake: Lake) -> None:
    columns = {name: [index] for index, name in enumerate((*NAMES, "", "a.b", "select", "UPPER", "upper"))}
    expected = lake.write("t.parquet", columns)
    assert_same(lake.read("t.parquet"), expected)
    assert_same(lake.read("t.parquet", columns=["a.b", "upper", "UPPER"]), expected.select(["a.b", "upper", "UPPER"]))
    assert lake.read("t.parquet", filter='"with space" = 0 AND "UPPER" > 0').num_rows == 1


@pytest.mark.parametrize(
    "path", ["/lake-0/../etc", "/%2e%2e/etc", "/a/.%2E/b", "/a/./b", "/a\\b", "/a\x00b", "/a\nb", "relative", ""]
)
def test_paths_that_are_refused(lake: Lake, path: str) -> None:
    with expect_error("INVALID_ARGUMENT", "path|segment|must"):
        lake.client.get_flight_info(by_scan(path))
    lake.assert_still_serves()


def test_path_descriptor_segments_are_checked_too(lake: Lake) -> None:
    for path in ("/lake-0/../etc", "/%2e%2e/etc", "/a\\b", "/a\x00b"):
        with expect_error("INVALID_ARGUMENT", ""):
            lake.client.get_flight_info(by_path(path))
    lake.assert_still_serves()


def test_spare_slashes_are_the_same_path(lake: Lake) -> None:
    expected = lake.write("set/x.parquet", files.numbers(3))
    for path in (f"{lake.at('set')}/", lake.at("/set"), f"/{lake.at('set')}//x.parquet"):
        assert_same(read(lake.client, path), expected)


def test_odd_names_in_a_bucket(lake: Lake, weed: Weed) -> None:
    for index, name in enumerate(NAMES):
        lake.write(f"{name}/{name}.parquet", files.numbers(2, 10 * index))
    uri = weed.upload(lake.folder, "odd-names")
    mount(lake.client, f"{lake.path}-s3", uri, **weed.options)
    for index, name in enumerate(NAMES):
        assert_same(read(lake.client, f"{lake.path}-s3/{name}/{name}.parquet"), files.numbers(2, 10 * index))
        assert_same(read(lake.client, f"{lake.path}-s3/{name}"), files.numbers(2, 10 * index))
