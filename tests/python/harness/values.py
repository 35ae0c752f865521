"""Values of any Arrow type, made from a seed: the raw material of the type matrix."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import random
import string
import uuid
from collections.abc import Callable
from typing import Any

import pyarrow as pa

# The bounds of every kind of number are drawn often: that is where readers go wrong.
EDGE_SHARE = 0.2
MAX_CHILDREN = 4
DICTIONARY_WORDS = 50


def array_of(kind: pa.DataType, rows: int, seed: int, null_share: float = 0.3) -> pa.Array:
    """An array of `rows` values of `kind`, about `null_share` of them null, at every level of nesting."""
    rng = random.Random(seed)
    values = [value_of(kind, rng, null_share) for _ in range(rows)]
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))
    if pa.types.is_list(kind) and isinstance(kind.value_type, pa.BaseExtensionType):
        # pyarrow makes no lists of extension values by itself, but casts them from their storage.
        return pa.array(values, pa.list_(kind.value_type.storage_type)).cast(kind)
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode().cast(kind)
    return pa.array(values, kind)


def value_of(kind: pa.DataType, rng: random.Random, null_share: float) -> Any:
    """One value of `kind` in the form that `pa.array` takes."""
    if rng.random() < null_share:
        return None
    for matches, make in _MAKERS:
        if matches(kind):
            return make(kind, rng, null_share)
    raise AssertionError(f"no values for {kind}")


def _integer(kind: pa.DataType, rng: random.Random, _: float) -> int:
    bits = kind.bit_width
    low, high = (0, 2**bits - 1) if pa.types.is_unsigned_integer(kind) else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return rng.choice((low, high, 0)) if rng.random() < EDGE_SHARE else rng.randint(low, high)


def _float(_kind: pa.DataType, rng: random.Random, _: float) -> float:
    if rng.random() < EDGE_SHARE:
        return rng.choice((0.0, -0.0, float("inf"), float("-inf")))
    # Quarters up to 500 are exact in every width, so a cast would not go unseen and a rounding is not blamed.
    return rng.randint(-2000, 2000) / 4


def _decimal(kind: pa.DataType, rng: random.Random, _: float) -> decimal.Decimal:
    top = 10**kind.precision - 1
    unscaled = rng.choice((top, -top, 0)) if rng.random() < EDGE_SHARE else rng.randint(-top, top)
    return decimal.Decimal(unscaled).scaleb(-kind.scale, decimal.Context(prec=100))


def _text(_: pa.DataType, rng: random.Random, __: float) -> str:
    if rng.random() < EDGE_SHARE:
        return rng.choice(("", "ünï", "日本語テキスト", "🚀", "a\x00b", "%2F + =", "x" * 300))
    return "".join(rng.choices(string.ascii_letters, k=rng.randint(1, 30)))


def _binary(_: pa.DataType, rng: random.Random, __: float) -> bytes:
    return b"" if rng.random() < EDGE_SHARE else rng.randbytes(rng.randint(1, 30))


def _fixed_binary(kind: pa.DataType, rng: random.Random, _: float) -> bytes:
    return rng.randbytes(kind.byte_width)


def _date(_: pa.DataType, rng: random.Random, __: float) -> dt.date:
    if rng.random() < EDGE_SHARE:
        return rng.choice((dt.date(1970, 1, 1), dt.date(1, 1, 1), dt.date(9999, 12, 31), dt.date(1969, 12, 31)))
    return dt.date(1970, 1, 1) + dt.timedelta(days=rng.randint(-40_000, 40_000))


def _time(kind: pa.DataType, rng: random.Random, _: float) -> int:
    per_day = 86_400 * _per_second(kind.unit)
    return rng.choice((0, per_day - 1)) if rng.random() < EDGE_SHARE else rng.randrange(per_day)


def _instant(kind: pa.DataType, rng: random.Random, _: float) -> int:
    # Within what int96 and nanoseconds can hold: the years 1700 to 2250.
    seconds = rng.randint(-8_500_000_000, 8_800_000_000)
    per_second = _per_second(kind.unit)
    return seconds * per_second + rng.randrange(per_second)


def _list(kind: pa.DataType, rng: random.Random, null_share: float) -> list[Any]:
    share = null_share if kind.value_field.nullable else 0.0
    return [value_of(kind.value_type, rng, share) for _ in range(rng.randint(0, MAX_CHILDREN))]


def _fixed_list(kind: pa.DataType, rng: random.Random, null_share: float) -> list[Any]:
    return [value_of(kind.value_type, rng, null_share) for _ in range(kind.list_size)]


def _struct(kind: pa.DataType, rng: random.Random, null_share: float) -> dict[str, Any]:
    return {field.name: value_of(field.type, rng, null_share if field.nullable else 0.0) for field in kind}


def _map(kind: pa.DataType, rng: random.Random, null_share: float) -> list[tuple[Any, Any]]:
    count = rng.randint(0, MAX_CHILDREN)
    return [(value_of(kind.key_type, rng, 0.0), value_of(kind.item_type, rng, null_share)) for _ in range(count)]


def _extension(kind: pa.DataType, rng: random.Random, null_share: float) -> Any:
    if kind.extension_name == "arrow.uuid":
        return uuid.UUID(int=rng.getrandbits(128)).bytes
    if kind.extension_name == "arrow.json":
        return json.dumps({"k": rng.randint(0, 9)})
    return value_of(kind.storage_type, rng, null_share)


def _word(kind: pa.DataType, rng: random.Random, _: float) -> Any:
    # One of few, so that the smallest index type can number them.
    return value_of(kind.value_type, random.Random(rng.randrange(DICTIONARY_WORDS)), 0.0)


def _per_second(unit: str) -> int:
    return {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[unit]


def _either(*checks: Callable[[pa.DataType], bool]) -> Callable[[pa.DataType], bool]:
    return lambda kind: any(check(kind) for check in checks)


_types = pa.types
_MAKERS: list[tuple[Callable[[pa.DataType], bool], Callable[[pa.DataType, random.Random, float], Any]]] = [
    (lambda kind: isinstance(kind, pa.BaseExtensionType), _extension),
    (_types.is_null, lambda *_: None),
    (_types.is_boolean, lambda _kind, rng, _share: rng.random() < 0.5),
    (_types.is_integer, _integer),
    (_types.is_floating, _float),
    (_types.is_decimal, _decimal),
    (_either(_types.is_string, _types.is_large_string, _types.is_string_view), _text),
    (_types.is_fixed_size_binary, _fixed_binary),
    (_either(_types.is_binary, _types.is_large_binary, _types.is_binary_view), _binary),
    (_types.is_date, _date),
    (_types.is_time, _time),
    (_either(_types.is_timestamp, _types.is_duration), _instant),
    (_types.is_dictionary, _word),
    (_types.is_map, _map),
    (_types.is_fixed_size_list, _fixed_list),
    (_either(_types.is_list, _types.is_large_list, _types.is_list_view, _types.is_large_list_view), _list),
    (_types.is_struct, _struct),
]
