"""What each type of column becomes, and what is done about nulls."""

from __future__ import annotations

import datetime as dt
import decimal
import math
from pathlib import Path
from typing import Any

import jetbridge as jb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from jetbridge.client import Client
from jetbridge.scan import Dataset
from jetbridge.torch._tensors import batch_of

ROWS = 7
DAY = dt.date(2024, 2, 29)

# The column, and what a batch of all rows should have.
PLAIN: dict[str, tuple[pa.Array, torch.Tensor]] = {
    **{
        str(kind): (pa.array(range(ROWS), kind), torch.arange(ROWS, dtype=expected))
        for kind, expected in [
            (pa.int8(), torch.int8),
            (pa.int16(), torch.int16),
            (pa.int32(), torch.int32),
            (pa.int64(), torch.int64),
            (pa.uint8(), torch.uint8),
            (pa.uint16(), torch.int32),
            (pa.uint32(), torch.int64),
            (pa.uint64(), torch.int64),
            (pa.float32(), torch.float32),
            (pa.float64(), torch.float64),
            (pa.time32("ms"), torch.int32),
            (pa.time64("us"), torch.int64),
            (pa.timestamp("us"), torch.int64),
            (pa.timestamp("ns", "UTC"), torch.int64),
            (pa.duration("us"), torch.int64),
            (pa.date32(), torch.int32),
        ]
    },
    "float16": (pa.array([0.5] * ROWS, pa.float16()), torch.full((ROWS,), 0.5, dtype=torch.float16)),
    "bool": (
        pa.array([number % 3 == 0 for number in range(ROWS)]),
        torch.tensor([number % 3 == 0 for number in range(ROWS)]),
    ),
    "decimal": (
        pa.array([decimal.Decimal(number) / 4 for number in range(ROWS)], pa.decimal128(10, 2)),
        torch.arange(ROWS, dtype=torch.float64) / 4,
    ),
    "dictionary": (
        pa.array([number % 2 for number in range(ROWS)], pa.int32()).dictionary_encode(),
        torch.tensor([number % 2 for number in range(ROWS)], dtype=torch.int32),
    ),
    "fixed": (
        pa.array([[number, number + 1] for number in range(ROWS)], pa.list_(pa.float32(), 2)),
        torch.tensor([[number, number + 1] for number in range(ROWS)], dtype=torch.float32),
    ),
}


def dataset(client: Client, folder: Path, table: pa.Table, name: object = "") -> Dataset:
    """A table as a dataset of small row groups."""
    (folder / "types").mkdir(exist_ok=True)
    path = folder / "types" / f"{abs(hash((str(table.schema), table.num_rows, str(name))))}.parquet"
    pq.write_table(table, path, row_group_size=3)
    client.refresh("/lake")
    return client.dataset(f"/lake/types/{path.name}")


def read(client: Client, folder: Path, table: pa.Table, shuffle: bool = False, **options: Any) -> Any:
    """The only batch of a table."""
    rows = dataset(client, folder, table, options)
    options = {"batch_size": 100, "shuffle": shuffle, "shuffle_buffer": 10} | options
    (batch,) = jb.torch.IterableDataset(rows, **options)
    return batch


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("name", PLAIN)
def test_a_type_of_numbers(client: Client, folder: Path, name: str, shuffle: bool) -> None:
    column, expected = PLAIN[name]
    table = pa.table({"c": column, "n": pa.array(range(ROWS))})
    batch = read(client, folder, table, shuffle)
    order = batch["n"]
    assert sorted(order.tolist()) == list(range(ROWS))
    assert shuffle or order.tolist() == list(range(ROWS))
    assert batch["c"].dtype == expected.dtype
    assert torch.equal(batch["c"], expected[order])
    assert batch["c"].is_contiguous()


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("scale", [0, 2, 7])
@pytest.mark.parametrize("wide", [[], [2**63], [-(2**63) - 1], [10**37, -(10**37)]], ids=str)
def test_decimals_are_divided_as_doubles(
    client: Client, folder: Path, wide: list[int], scale: int, shuffle: bool
) -> None:
    """The nearest double of the digits, by that of the scale: of 64 bits and beyond, to the last bit."""
    digits = [0, 1, -1, 5, 2**53 + 1, 3 - 2**60, 2**63 - 1, -(2**63), *wide]
    values = [decimal.Decimal(f"{number}e-{scale}") for number in digits]
    numbers = list(range(len(digits)))
    table = pa.table({"c": pa.array(values, pa.decimal128(38, scale)), "n": numbers})
    batch = read(client, folder, table, shuffle)
    assert sorted(batch["n"].tolist()) == numbers
    assert batch["c"].tolist() == [float(digits[number]) / 10.0**scale for number in batch["n"]]


def test_decimals_that_are_null_are_filled(client: Client, folder: Path) -> None:
    for last in (decimal.Decimal("-7.25"), decimal.Decimal(2**70)):
        column = pa.array([decimal.Decimal("0.5"), None, last], pa.decimal128(38, 2))
        batch = read(client, folder, pa.table({"c": column}), nulls="fill")
        assert math.isnan(batch["c"][1].item())
        assert batch["c"][[0, 2]].tolist() == [0.5, float(last)]


def test_texts_and_bytes_are_lists(client: Client, folder: Path) -> None:
    table = pa.table(
        {
            "text": ["a", None, "c", "däs"],
            "large": pa.array(["", "b", "x" * 100, None], pa.large_string()),
            "raw": pa.array([b"\0", b"", None, b"d"], pa.binary()),
            "word": pa.array(["u", "v", "u", None]).dictionary_encode(),
        }
    )
    batch = read(client, folder, table)
    assert batch == {name: table[name].to_pylist() for name in table.column_names}


def test_lists_are_values_and_offsets(client: Client, folder: Path) -> None:
    lists = [[1, 2], [], [3], [4, 5, 6], [7]]
    table = pa.table(
        {
            "numbers": pa.array(lists, pa.list_(pa.int64())),
            "texts": pa.array([["a"], ["b", "c"], [], [], ["d"]], pa.large_list(pa.string())),
            "nested": pa.array([[[1], [2, 3]], [], [[4]], [], []], pa.list_(pa.list_(pa.int8()))),
        }
    )
    batch = read(client, folder, table)
    values, offsets = batch["numbers"]
    assert values.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert offsets.tolist() == [0, 2, 2, 3, 6, 7]
    assert values.dtype == offsets.dtype == torch.int64
    texts, offsets = batch["texts"]
    assert texts == ["a", "b", "c", "d"]
    assert offsets.tolist() == [0, 1, 3, 3, 3, 4]
    (inner, inner_offsets), offsets = batch["nested"]
    assert inner.tolist() == [1, 2, 3, 4]
    assert inner_offsets.tolist() == [0, 1, 3, 4]
    assert offsets.tolist() == [0, 2, 2, 3, 3, 3]


def test_rows_of_lists_stand_alone(client: Client, folder: Path) -> None:
    table = pa.table(
        {
            "numbers": pa.array([[1, 2], [], [3, 4, 5]], pa.list_(pa.int64())),
            "nested": pa.array([[[1], [2, 3]], [], [[4], [], [5, 6]]], pa.list_(pa.list_(pa.int8()))),
            "words": pa.array([[["a"]], [["b", "c"], ["d"]], [[]]], pa.list_(pa.list_(pa.string()))),
        }
    )
    rows = list(jb.torch.MapDataset(dataset(client, folder, table)).__getitems__([2, 0, 1]))
    assert [row["numbers"].tolist() for row in rows] == [[3, 4, 5], [1, 2], []]
    nested = [tuple(part.tolist() for part in row["nested"]) for row in rows]
    assert nested == [([4, 5, 6], [0, 1, 1, 3]), ([1, 2, 3], [0, 1, 3]), ([], [0])]
    words = [(values, offsets.tolist()) for values, offsets in (row["words"] for row in rows)]
    assert words == [([], [0, 0]), (["a"], [0, 1]), (["b", "c", "d"], [0, 2, 3])]
    assert rows[1]["numbers"].untyped_storage().nbytes() == 2 * 8, "it does not keep its batch"


@pytest.mark.parametrize("shuffle", [False, True])
def test_dictionaries_of_several_files_are_put_together(client: Client, folder: Path, shuffle: bool) -> None:
    """Each has as many words as its keys can number, and no word of the others."""
    name = f"dictionaries-{shuffle}"
    (folder / name).mkdir()
    kind = pa.dictionary(pa.int8(), pa.string())
    words = [[f"word {file}-{number}" for number in range(100)] for file in range(3)]
    for file, some in enumerate(words):
        pq.write_table(pa.table({"word": pa.array(some, kind)}), folder / name / f"{file}.parquet")
    client.refresh("/lake")
    rows = client.dataset(f"/lake/{name}")
    expected = [word for some in words for word in some]
    (batch,) = jb.torch.IterableDataset(rows, batch_size=300, shuffle=shuffle)
    found = list(batch["word"])
    assert sorted(found) == sorted(expected)
    assert (found == expected) is not shuffle
    picked = jb.torch.MapDataset(rows).__getitems__(list(range(300)))
    assert jb.torch.collate(picked)["word"] == expected


def test_structs_are_an_entry_for_each_field(client: Client, folder: Path) -> None:
    points = [{"x": number, "at": {"label": str(number)}} for number in range(4)]
    batch = read(client, folder, pa.table({"point": points}))
    assert batch.keys() == {"point.x", "point.at.label"}
    assert batch["point.x"].tolist() == [0, 1, 2, 3]
    assert batch["point.at.label"] == ["0", "1", "2", "3"]


def test_tensors_of_one_shape_keep_it(client: Client, folder: Path) -> None:
    storage = pa.array([list(range(number, number + 6)) for number in range(4)], pa.list_(pa.float32(), 6))
    tensors = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), [2, 3]), storage)
    batch = read(client, folder, pa.table({"image": tensors}))
    assert batch["image"].shape == (4, 2, 3)
    assert batch["image"][1].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_a_null_is_an_error_that_says_what_to_do(client: Client, folder: Path) -> None:
    for table, name in [
        (pa.table({"maybe": [1, None, 3]}), "maybe"),
        (pa.table({"flag": [True, None]}), "flag"),
        (pa.table({"list": pa.array([[1], None], pa.list_(pa.int64()))}), "list"),
        (pa.table({"inner": pa.array([[1, None]], pa.list_(pa.int64()))}), "inner"),
        (pa.table({"pair": pa.array([[1, 2], None], pa.list_(pa.int64(), 2))}), "pair"),
        (pa.table({"s": pa.array([{"x": 1}, None])}), "s.x"),
    ]:
        with pytest.raises(jb.InvalidRequestError, match=f'column "{name}" has [12] nulls.*nulls="fill"'):
            read(client, folder, table)


def test_nulls_are_filled(client: Client, folder: Path) -> None:
    table = pa.table(
        {
            "whole": [1, None, 3],
            "real": [0.5, None, None],
            "flag": [True, None, False],
            "day": pa.array([DAY, None, DAY]),
            "pair": pa.array([[1, None], None, [5, 6]], pa.list_(pa.int64(), 2)),
        }
    )
    batch = read(client, folder, table, nulls="fill", fill={"whole": -1, "pair": 9})
    assert batch["whole"].tolist() == [1, -1, 3]
    assert batch["real"][0] == 0.5
    assert torch.isnan(batch["real"][1:]).all()
    assert batch["flag"].tolist() == [True, False, False]
    assert batch["day"].tolist() == [(DAY - dt.date(1970, 1, 1)).days, 0, (DAY - dt.date(1970, 1, 1)).days]
    assert batch["pair"].tolist() == [[1, 9], [9, 9], [5, 6]]
    assert read(client, folder, table, nulls="fill", fill={"real": 2.5})["real"].tolist() == [0.5, 2.5, 2.5]
    infinite = read(client, folder, table, nulls="fill", fill={"real": -math.inf})
    assert infinite["real"].tolist() == [0.5, -math.inf, -math.inf]
    with pytest.raises(jb.InvalidRequestError, match='"whole" is Int64, which cannot be filled'):
        read(client, folder, table, nulls="fill", fill={"whole": 0.5})


def test_nulls_of_flags_are_filled_with_flags(client: Client, folder: Path) -> None:
    table = pa.table({"flag": [True, None, False]})
    for value, filled in [(False, False), (0, False), (0.0, False), (True, True), (1, True), (1.0, True)]:
        batch = read(client, folder, table, nulls="fill", fill={"flag": value})
        assert batch["flag"].tolist() == [True, filled, False]
    for value in (2, 0.5, -1, math.nan, math.inf):
        with pytest.raises(jb.InvalidRequestError, match='"flag" is Boolean, which cannot be filled'):
            read(client, folder, table, nulls="fill", fill={"flag": value})


def test_what_is_wrong_with_nulls_is_said_when_the_dataset_is_made(client: Client, folder: Path) -> None:
    table = pa.table({"x": [1, None], "x_mask": [7, 8], "text": ["a", None], "s": [{"y": 1}, None]})
    rows = dataset(client, folder, table)
    make: Any = jb.torch.IterableDataset
    with pytest.raises(jb.InvalidRequestError, match='did you mean "x'):
        make(rows, batch_size=1, nulls="fill", fill={"xx": 0})
    with pytest.raises(jb.InvalidRequestError, match='"text", which has texts'):
        jb.torch.MapDataset(rows, nulls="fill", fill={"text": 0})
    with pytest.raises(jb.InvalidRequestError, match='"x_mask"'):
        make(rows, batch_size=1, nulls="mask")
    (batch,) = make(rows.select("x", "s"), batch_size=2, nulls="mask", fill={"s.y": 5})
    assert batch["s.y"].tolist() == [1, 5]
    assert batch["x_mask"].tolist() == [True, False]


def test_columns_of_one_name_are_refused() -> None:
    """As a column `s.x` beside the field `x` of a struct `s`."""
    with pytest.raises(jb.InvalidRequestError, match=r'"s\.x" twice'):
        batch_of([("s.x", "objects", ["a"], None), ("s.x", "objects", ["b"], None)])


def test_masks_say_where_values_are(client: Client, folder: Path) -> None:
    schema = pa.schema([pa.field("a", pa.int64()), pa.field("b", pa.int64(), nullable=False), ("t", pa.string())])
    table = pa.table([[1, None, 3], [4, 5, 6], ["x", None, "z"]], schema=schema)
    batch = read(client, folder, table, nulls="mask")
    assert list(batch) == ["a", "a_mask", "b", "t"]
    assert batch["a_mask"].dtype == torch.bool
    assert batch["a_mask"].tolist() == [True, False, True]
    assert batch["a"].tolist() == [1, 0, 3]


def test_what_no_tensor_can_hold_is_named(client: Client, folder: Path) -> None:
    big = pa.table({"big": pa.array([2**63], pa.uint64())})
    with pytest.raises(jb.InvalidRequestError, match='column "big" as Int64'):
        read(client, folder, big)
    texts = pa.table({"pairs": pa.array([["a", "b"]], pa.list_(pa.string(), 2))})
    with pytest.raises(jb.InvalidRequestError, match='column "pairs" has lists of'):
        read(client, folder, texts)


def test_a_tensor_outlives_its_batch_and_the_reading(client: Client, folder: Path) -> None:
    table = pa.table({"n": pa.array(range(50_000))})
    for shuffle in (False, True):
        tensor = read(client, folder, table, shuffle, batch_size=60_000)["n"]
        assert int(tensor.sum()) == sum(range(50_000))
