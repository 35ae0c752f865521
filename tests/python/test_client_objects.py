"""What NumPy holds as Python objects is made in Rust, and is what pyarrow makes."""

from __future__ import annotations

import datetime as dt
import decimal
import gc
import sys
import threading
import time
from typing import Any, cast

import jetbridge as jb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jetbridge import _convert, _native

from harness.matrix import ALL_TYPES
from harness.values import array_of

# Whether pandas holds texts in Arrow by itself.
TEXTS_ARE_ARROW = pd.Series(["text"]).dtype != object
# Types whose columns are made here, and not left to pyarrow, and what they are made of.
MADE = {
    "date32": dt.date,
    "date64": dt.date,
    "decimal32": decimal.Decimal,
    "decimal64": decimal.Decimal,
    "decimal128_5": decimal.Decimal,
    "decimal128_15": decimal.Decimal,
    "decimal128_38": decimal.Decimal,
    "decimal256_40": decimal.Decimal,
    "decimal256_76": decimal.Decimal,
    "string": str,
    "large_string": str,
    "string_view": str,
    "binary": bytes,
    "large_binary": bytes,
    "binary_view": bytes,
    "fixed_binary_1": bytes,
    "fixed_binary_16": bytes,
}


def to_pandas(table: pa.Table, date_as_object: bool = True) -> pd.DataFrame:
    """Of pyarrow's very columns: some of their slices do not outlive Arrow's C interface."""
    return _convert._frame(table.columns, table.schema, date_as_object)


def assert_same_objects(got: Any, expected: Any) -> None:
    """Equal in value and in type, all the way down: `Decimal("1.0") == Decimal("1.00") == 1`."""
    assert type(got) is type(expected)
    if isinstance(got, np.ndarray):
        assert got.dtype == expected.dtype
        got, expected = got.tolist(), expected.tolist()
    if isinstance(got, dict):
        got, expected = list(got.items()), list(expected.items())
    if isinstance(got, (list, tuple)):
        assert len(got) == len(expected)
        for each, other in zip(got, expected, strict=True):
            assert_same_objects(each, other)
    elif isinstance(got, decimal.Decimal):
        assert got.as_tuple() == expected.as_tuple()
    else:
        assert got is expected or got == expected or (got != got and expected != expected)


def assert_same_frames(got: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert got.columns.equals(expected.columns)
    assert got.columns.names == expected.columns.names
    assert got.index.equals(expected.index)
    assert got.index.names == expected.index.names
    assert got.attrs == expected.attrs
    assert got.dtypes.tolist() == expected.dtypes.tolist()
    for at in range(got.shape[1]):
        assert_same_objects(got.iloc[:, at].tolist(), expected.iloc[:, at].tolist())


def in_pieces(array: pa.Array, cuts: list[int]) -> pa.ChunkedArray:
    """Slices of one array, some of them empty."""
    ends = sorted(cut % (len(array) + 1) for cut in cuts)
    spans = zip([0, *ends], [*ends, len(array)], strict=True)
    return pa.chunked_array([array.slice(start, end - start) for start, end in spans], array.type)


@settings(max_examples=400, deadline=None)
@given(
    # pyarrow's own two ways of a list view, to_pandas() and to_pylist(), differ where there are nulls.
    name=st.sampled_from(sorted(name for name in ALL_TYPES if "list_view" not in name)),
    seed=st.integers(0, 2**32),
    rows=st.integers(0, 300),
    null_share=st.sampled_from([0.0, 0.3, 1.0]),
    repeats=st.sampled_from([1, 3, 40]),
    cuts=st.lists(st.integers(0, 300), max_size=4),
    date_as_object=st.booleans(),
)
def test_columns_of_every_type_are_those_of_pyarrow(
    name: str, seed: int, rows: int, null_share: float, repeats: int, cuts: list[int], date_as_object: bool
) -> None:
    few = array_of(ALL_TYPES[name], -(-rows // repeats), seed, null_share)
    try:
        array = few.take(pa.array(np.random.default_rng(seed).integers(0, max(len(few), 1), rows if len(few) else 0)))
    except pa.ArrowNotImplementedError:
        array = few
    column = in_pieces(array.slice(len(array) // 7), cuts)
    table = pa.table({"before": pa.chunked_array([range(len(column))], pa.int32()), name: column})
    try:
        expected = table.to_pandas(date_as_object=date_as_object)
    except Exception as error:
        with pytest.raises(type(error)):
            to_pandas(table, date_as_object)
        return
    assert_same_frames(to_pandas(table, date_as_object), expected)


@pytest.mark.parametrize("name", sorted(ALL_TYPES))
def test_each_type_is_made_here_or_left_to_pyarrow(name: str) -> None:
    column = pa.chunked_array([array_of(ALL_TYPES[name], 50, seed=1)])
    made = _native.objects(column)
    if name not in MADE:
        assert made is None
        return
    assert made is not None
    assert (made.dtype, made.shape) == (object, (50,))
    assert {type(value) for value in made} == {MADE[name], type(None)}
    assert_same_objects(made.tolist(), column.to_pylist())


@settings(max_examples=300, deadline=None)
@given(data=st.data(), precision=st.integers(1, 76), cut=st.integers(0, 30))
def test_decimals_have_all_digits_and_the_exponent_of_their_type(data: st.DataObject, precision: int, cut: int) -> None:
    scale = data.draw(st.integers(-3, precision + 3))
    kind = (pa.decimal128 if precision <= 38 else pa.decimal256)(precision, scale)
    most = 10**precision - 1
    digits = data.draw(st.lists(st.none() | st.integers(-most, most) | st.integers(-20, 20), min_size=1, max_size=30))
    width = 16 if precision <= 38 else 32
    whole = b"".join((each or 0).to_bytes(width, "little", signed=True) for each in digits)
    valid = pa.array([each is not None for each in digits]).buffers()[1]
    array = pa.Array.from_buffers(kind, len(digits), [valid, pa.py_buffer(whole)])
    column = in_pieces(array, [cut])
    made = _native.objects(column)
    assert made is not None
    exact = [None if each is None else decimal.Decimal(f"{each}E{-scale}") for each in digits]
    assert_same_objects(made.tolist(), exact)
    for value, each in zip(made, digits, strict=True):
        if each is not None:
            assert value.as_tuple() == (each < 0, tuple(map(int, str(abs(each)))), -scale)
    # pyarrow 25 and earlier cannot tell zeros of more decimals than digits.
    if scale <= precision:
        assert_same_objects(made.tolist(), column.to_pandas().tolist())


def test_rows_of_equal_values_share_an_object() -> None:
    rows = 10_000
    columns: dict[str, pa.Array] = {
        "price": pa.array([decimal.Decimal(row % 7) for row in range(rows)], pa.decimal128(15, 2)),
        "long": pa.array([decimal.Decimal(row % 7) * 10**30 for row in range(rows)], pa.decimal128(38, 0)),
        "day": pa.array([dt.date(2024, 1, 1 + row % 7) for row in range(rows)]),
        "mode": pa.array([f"mode {row % 7}" for row in range(rows)]),
        "raw": pa.array([b"raw %d" % (row % 7) for row in range(rows)]),
    }
    for name, array in columns.items():
        # Chunks share, too.
        made = _native.objects(in_pieces(array, [3000, 8000]))
        assert made is not None
        assert len({id(value) for value in made}) == 7, name
        assert sys.getrefcount(made[0]) == made.tolist().count(made[0]) + 2, name


def test_values_that_hardly_repeat_are_made_as_well() -> None:
    rows = 50_000
    for array in (
        pa.array([f"text {row}" for row in range(rows)]),
        pa.array([decimal.Decimal(row) * 10**20 for row in range(rows)], pa.decimal128(38, 3)),
        # Far apart, so that there is no slot for each.
        pa.array([decimal.Decimal(row) * 10**9 for row in range(rows)], pa.decimal128(18, 2)),
    ):
        made = _native.objects(in_pieces(array, [20_000]))
        assert made is not None
        assert_same_objects(made.tolist(), array.to_pylist())


def test_objects_go_when_their_array_does() -> None:
    values = [decimal.Decimal(row % 5) if row % 3 else None for row in range(9000)]
    column = pa.chunked_array([pa.array(values, pa.decimal128(9, 2))])
    gc.collect()
    nones = sys.getrefcount(None)
    made = _native.objects(column)
    assert made is not None
    one = made[1]
    assert sys.getrefcount(one) > 1000
    del made
    assert sys.getrefcount(one) == 2
    # There are 3000 nulls.
    assert abs(sys.getrefcount(None) - nones) < 100


def test_text_that_is_none_is_an_error_and_leaves_nothing() -> None:
    good = b"a text of its own"
    for count in (10, 5000):
        rows = [good + b"%d" % row for row in range(count)] + [b"\xff\xfe"]
        raw = pa.array(rows, pa.binary())
        broken = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
        with pytest.raises(UnicodeDecodeError):
            _native.objects(pa.chunked_array([broken]))


def test_dates_that_there_are_none_for_are_left_to_pyarrow() -> None:
    for kind, value in ((pa.date32(), 3_000_000), (pa.date32(), -800_000), (pa.date64(), 1), (pa.date64(), 2**62)):
        column = pa.chunked_array([pa.array([0, value], pa.int32() if kind == pa.date32() else pa.int64()).cast(kind)])
        assert _native.objects(column) is None, value
    last = pa.array([-719_162, 2_932_896], pa.int32()).cast(pa.date32())
    made = _native.objects(pa.chunked_array([last]))
    assert made is not None
    assert made.tolist() == [dt.date.min, dt.date.max]


def test_other_threads_go_on_while_objects_are_made() -> None:
    rows = 2_000_000
    column = pa.chunked_array([pa.array(np.arange(rows)).cast(pa.string())])
    # A busy machine may not let the other thread go on for as long, but not each time.
    assert any(others_go_on(column) for _ in range(5)), "the interpreter was held all the time"


def others_go_on(column: pa.ChunkedArray) -> bool:
    """Whether another thread ran again and again while the objects of a column were made."""
    longest, last, stop = 0.0, time.perf_counter(), threading.Event()

    def tick() -> None:
        nonlocal longest, last
        is_over = False
        while not is_over:
            is_over, now = stop.is_set(), time.perf_counter()
            longest, last = max(longest, now - last), now

    ticker = threading.Thread(target=tick)
    ticker.start()
    began = time.perf_counter()
    made = _native.objects(column)
    took = time.perf_counter() - began
    stop.set()
    ticker.join()
    assert made is not None
    return longest < took / 2


def test_a_frame_has_the_index_and_the_columns_that_pandas_wrote() -> None:
    price = [decimal.Decimal("1.50"), None, decimal.Decimal("1.50")]
    day = [dt.date(2024, 1, 1), dt.date(2024, 1, 2), None]
    plain = pd.DataFrame({"price": price, "n": [1, 2, 3], "day": day})
    frames = [
        plain,
        plain.set_index("n"),
        plain.set_index("price"),
        plain.set_index(["day", "n"]),
        plain.set_axis(pd.MultiIndex.from_tuples([("a", "x"), ("a", "y"), ("b", "x")], names=["one", "two"]), axis=1),
        plain.iloc[::2],
        plain.assign(text=pd.array(["a", None, "b"], dtype="string")),
        plain.assign(money=pd.array(price, dtype=pd.ArrowDtype(pa.decimal128(9, 2)))),
    ]
    frames[0].attrs["owner"] = "tests"
    for frame in frames:
        table = pa.Table.from_pandas(frame)
        assert_same_frames(to_pandas(table), table.to_pandas())


def test_columns_of_one_name_and_very_many() -> None:
    price = pa.array([decimal.Decimal("1.50"), None], pa.decimal128(9, 2))
    twice = pa.table([price, pa.array([1, 2]), price, pa.array(["a", "b"])], names=["x", "x", "x", "y"])
    assert_same_frames(to_pandas(twice), twice.to_pandas())
    wide = pa.table({f"c{at}": price if at % 2 else pa.array([at, 2]) for at in range(300)})
    got = to_pandas(wide)
    assert_same_frames(got, wide.to_pandas())
    # pandas warns where there are blocks for each.
    got["one more"] = 1


def test_tables_without_rows_or_columns() -> None:
    for table in (
        pa.table({"x": pa.array([], pa.decimal128(9, 2)), "y": pa.array([], pa.string())}),
        pa.table({}),
        pa.table({"x": pa.chunked_array([], pa.date32())}),
    ):
        assert_same_frames(to_pandas(table), table.to_pandas())
    made = _native.objects(pa.chunked_array([], pa.string()))
    assert made is not None
    assert made.shape == (0,)


def test_a_frame_may_be_written_to() -> None:
    table = pa.table({"x": pa.array(["a", "b"], pa.binary()), "n": pa.array([1, 2])})
    frame = to_pandas(table)
    frame.loc[0, "x"] = "other"
    frame["z"] = [1, 2]
    assert frame["x"].tolist() == ["other", b"b"]


@pytest.mark.skipif(TEXTS_ARE_ARROW, reason="this pandas holds texts in Arrow")
def test_texts_are_str_where_pandas_has_no_type_for_them() -> None:
    table = pa.table({"x": pa.array(["a", None, "ü"])})
    assert to_pandas(table)["x"].tolist() == ["a", None, "ü"]


def test_numpy_has_the_same_objects() -> None:
    for name in sorted(MADE):
        array = array_of(ALL_TYPES[name], 60, seed=3)
        table = pa.table({"x": in_pieces(array, [20])})
        got = _convert.to_numpy(cast("jb._native.Table", table))["x"]
        expected = table["x"].to_numpy()
        assert got.dtype == expected.dtype
        assert_same_objects(got.tolist(), expected.tolist())


def test_numpy_has_no_value_where_a_dictionary_has_a_null() -> None:
    words = pa.array(["a", None, "b", None]).dictionary_encode()
    counts = pa.array([7, None, 9, 7]).dictionary_encode()
    table = pa.table({"word": in_pieces(words, [1]), "count": in_pieces(counts, [3])})
    got = _convert.to_numpy(cast("jb._native.Table", table))
    assert got["word"].tolist() == ["a", None, "b", None]
    np.testing.assert_array_equal(got["count"], [7, np.nan, 9, 7])
