"""What may stand for nulls, as it is checked when a dataset is made. No torch and no server."""

from __future__ import annotations

import json
import math
from typing import Any

import pyarrow as pa
import pytest
from jetbridge import _native
from jetbridge.errors import InvalidRequestError
from jetbridge.torch import _nulls

POINT = pa.struct([pa.field("x", pa.float32(), nullable=False), pa.field("label", pa.string())])
FIELDS = [
    pa.field("n", pa.int64(), nullable=False),
    pa.field("whole", pa.int64()),
    pa.field("text", pa.string()),
    pa.field("raw", pa.binary(4)),
    pa.field("word", pa.dictionary(pa.int8(), pa.string())),
    pa.field("level", pa.dictionary(pa.int8(), pa.int32())),
    pa.field("point", POINT),
    pa.field("lists", pa.list_(pa.list_(pa.int8()))),
    pa.field("words", pa.large_list(pa.string())),
    pa.field("pair", pa.list_(pa.float32(), 2)),
]


def columns(*fields: pa.Field) -> list[_nulls.Column]:
    return _native.batch_columns(_native.Schema.from_capsule(pa.schema(fields).__arrow_c_schema__()))


def test_columns_are_those_of_a_batch() -> None:
    """Names, which have texts, which have masks."""
    assert columns(*FIELDS) == [
        ("n", False, False),
        ("whole", False, True),
        ("text", True, False),
        ("raw", True, False),
        ("word", True, False),
        ("level", False, True),
        ("point.x", False, True),
        ("point.label", True, False),
        ("lists", False, True),
        ("words", True, True),
        ("pair", False, True),
    ]


def test_a_fill_names_columns_of_numbers() -> None:
    _nulls.check_columns(columns(*FIELDS), {"whole": 1, "point.x": 0.5, "lists": 0, "level": 2}, False)
    for name, words in [
        ("whol", 'no such column; did you mean "whole"?'),
        ("point", "no such column"),
        ("text", "texts or bytes"),
        ("word", "texts or bytes"),
        ("words", "texts or bytes"),
        ("point.label", "texts or bytes"),
    ]:
        with pytest.raises(InvalidRequestError) as caught:
            _nulls.check_columns(columns(*FIELDS), {name: 0}, False)
        assert f'"{name}"' in str(caught.value)
        assert words in str(caught.value)


def test_a_mask_is_not_called_as_a_column_is() -> None:
    x, mask = pa.field("x", pa.int64()), pa.field("x_mask", pa.int64(), nullable=False)
    with pytest.raises(InvalidRequestError, match='the mask of "x" would be called "x_mask"'):
        _nulls.check_columns(columns(x, mask), {}, True)
    _nulls.check_columns(columns(x, mask), {}, False)
    _nulls.check_columns(columns(x.with_nullable(False), mask), {}, True)
    _nulls.check_columns(columns(pa.field("x", pa.string()), mask), {}, True)


@pytest.mark.parametrize("value", ["0", None, [1]])
def test_a_fill_is_a_number(value: Any) -> None:
    with pytest.raises(InvalidRequestError, match='of "x" is no int or float'):
        _nulls.check_fill({"x": value})


def test_every_number_can_be_said_in_json() -> None:
    said = [_nulls.in_json(value) for value in (True, 7, 0.5, math.inf, -math.inf, math.nan)]
    assert json.loads(json.dumps(said, allow_nan=False)) == [True, 7, 0.5, "inf", "-inf", "nan"]
