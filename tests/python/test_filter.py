"""The filter is a SQL predicate: it keeps the rows that pyarrow's own filter keeps, over every kind of column."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from conftest import Lake
from harness.compare import assert_same
from harness.errors import expect_error
from harness.flight import by_scan, fetch

ROWS = 1_000
DAY = dt.date(2024, 1, 1)
INSTANT = dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc)


def rows() -> pa.Table:
    """Sorted and unsorted columns with nulls, over ten row groups."""
    numbers = range(ROWS)
    return pa.table(
        {
            "n": pa.array(numbers, pa.int64()),
            "small": pa.array([None if n % 10 == 0 else n % 7 for n in numbers], pa.int8()),
            "ratio": pa.array([None if n % 9 == 0 else n / 8 for n in numbers], pa.float64()),
            "name": pa.array([None if n % 11 == 0 else f"name {n % 20}" for n in numbers]),
            "view": pa.array([f"v{n % 5}" for n in numbers], pa.string_view()),
            "word": pa.array([f"w{n % 3}" for n in numbers]).dictionary_encode(),
            "flag": pa.array([None if n % 13 == 0 else n % 2 == 0 for n in numbers]),
            "day": pa.array([DAY + dt.timedelta(days=n) for n in numbers], pa.date32()),
            "at": pa.array([INSTANT + dt.timedelta(hours=n) for n in numbers], pa.timestamp("us", "UTC")),
            "price": pa.array([Decimal(n) / 100 for n in numbers], pa.decimal128(12, 2)),
            "point": pa.array(
                [{"x": n, "label": f"p{n % 4}"} for n in numbers],
                pa.struct([("x", pa.int64()), ("label", pa.string())]),
            ),
            "mixed Case": pa.array([n % 4 for n in numbers], pa.int32()),
        }
    )


Row = dict[str, Any]
# Each predicate beside what it means, said in Python; SQL's unknown is not true, so such a row is dropped.
CASES: dict[str, Callable[[Row], bool]] = {
    "n < 10": lambda r: r["n"] < 10,
    "n >= 990 OR n = 5": lambda r: r["n"] >= 990 or r["n"] == 5,
    "n % 100 = 7": lambda r: r["n"] % 100 == 7,
    "small = 3 AND ratio > 50": lambda r: r["small"] == 3 and (r["ratio"] or 0) > 50,
    "small IS NULL": lambda r: r["small"] is None,
    "small IS NOT NULL AND NOT flag": lambda r: r["small"] is not None and r["flag"] is False,
    "flag": lambda r: r["flag"] is True,
    "n IN (1, 2, 999, 5000)": lambda r: r["n"] in (1, 2, 999, 5000),
    "n NOT BETWEEN 3 AND 996": lambda r: not 3 <= r["n"] <= 996,
    "name = 'name 7'": lambda r: r["name"] == "name 7",
    "name <> 'name 7'": lambda r: r["name"] is not None and r["name"] != "name 7",
    "name LIKE 'name 1%'": lambda r: (r["name"] or "").startswith("name 1"),
    "view = 'v3'": lambda r: r["view"] == "v3",
    "word = 'w1'": lambda r: r["word"] == "w1",
    "ratio < 0.5": lambda r: r["ratio"] is not None and r["ratio"] < 0.5,
    "day >= DATE '2026-09-20'": lambda r: r["day"] >= dt.date(2026, 9, 20),
    "at < TIMESTAMP '2024-01-02T00:00:00Z'": lambda r: r["at"] < INSTANT + dt.timedelta(days=1),
    "price > 9.95": lambda r: r["price"] > Decimal("9.95"),
    "point['x'] > 995": lambda r: r["point"]["x"] > 995,
    '"mixed Case" = 2': lambda r: r["mixed Case"] == 2,
    "length(name) = 6": lambda r: len(r["name"] or "") == 6,
    "n > 5 AND n < 3": lambda _: False,
    "true": lambda _: True,
    "coalesce(small, 100) = 100": lambda r: r["small"] is None,
    "CASE WHEN flag THEN n ELSE 0 END > 990": lambda r: r["flag"] is True and r["n"] > 990,
}


def keep(table: pa.Table, wanted: Callable[[Row], bool]) -> pa.Table:
    """The rows that Python wants (pyarrow cannot filter every type of column itself)."""
    return pa.Table.from_pylist([row for row in table.to_pylist() if wanted(row)], table.schema)


@pytest.mark.parametrize("where", CASES)
def test_filter_keeps_what_pyarrow_keeps(lake: Lake, where: str) -> None:
    table = lake.write("t.parquet", rows(), row_group_size=100)
    answer = fetch(lake.client, by_scan(lake.at("t.parquet"), filter=where))
    assert answer.info.total_records == -1
    expected = keep(table, CASES[where])
    assert expected.num_rows > 0 or where == "n > 5 AND n < 3"
    assert_same(answer.table, expected)


def test_filter_column_need_not_be_asked_for(lake: Lake) -> None:
    table = lake.write("t.parquet", rows(), row_group_size=100)
    got = lake.read("t.parquet", columns=["name"], filter="n >= 995 AND flag IS NOT NULL")
    assert_same(got, keep(table, lambda r: r["n"] >= 995 and r["flag"] is not None).select(["name"]))


def test_filter_with_no_columns_counts(lake: Lake) -> None:
    lake.write("t.parquet", rows())
    answer = fetch(lake.client, by_scan(lake.at("t.parquet"), columns=[], filter="n < 12"))
    assert answer.table.num_columns == 0
    assert answer.rows == 12


def test_filter_does_not_change_the_schema(lake: Lake) -> None:
    required = pa.schema([pa.field("n", pa.int64(), nullable=False), pa.field("text", pa.string())])
    lake.write("t.parquet", pa.table([[1, 2, 3], ["a", None, "c"]], required))
    assert lake.read("t.parquet", filter="n > 1").schema.equals(required)


@pytest.mark.parametrize(
    ("where", "match"),
    [
        ("n <", "filter|expected|parse"),
        ("n = ", ""),
        ("SELECT 1", ""),
        ("n = 1; DROP TABLE t", ""),
        ("nope = 1", "nope"),
        ("nam = 'x'", "name"),
        ("name > 5", "name|string|utf8"),
        ("n = 'five'", "n|string|utf8"),
        ("n + 1", "true or false"),
        ("'text'", "true or false"),
        ("sum(n) > 1", "sum|aggregate"),
        ("row_number() over () = 1", ""),
        ("n IN (SELECT 1)", "query"),
        ("EXISTS (SELECT 1)", "query"),
        ("random() < 0.5", "random|volatile|determin"),
        ("now() > at", "now|determin|unknown|volatile"),
        ("unknown_function(n)", "unknown_function"),
        ("", "filter|empty"),
        ("(" * 2_000 + "n = 1" + ")" * 2_000, ""),
        ("n = 1 OR " * 20_000 + "n = 1", ""),
    ],
    ids=lambda value: value[:40],
)
def test_filters_that_are_refused(lake: Lake, where: str, match: str) -> None:
    lake.write("t.parquet", rows().slice(0, 10))
    with expect_error("INVALID_ARGUMENT", match):
        lake.read("t.parquet", filter=where)
    lake.assert_still_serves()


def test_a_division_by_zero_is_the_reader_s_error(lake: Lake) -> None:
    lake.write("t.parquet", {"n": pa.array([0, 1], pa.int64())})
    with expect_error("INVALID_ARGUMENT", "zero"):
        lake.read("t.parquet", filter="1 / n = 1")
    lake.assert_still_serves()
