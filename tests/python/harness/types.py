"""The types of the matrix: all that pyarrow writes to Parquet, plain, nested, and nested thrice."""

from __future__ import annotations

import pyarrow as pa

UNITS = ("s", "ms", "us", "ns")


def plain_types() -> dict[str, pa.DataType]:
    """Every type without children, by the name its test bears."""
    return {
        **{f"int{bits}": getattr(pa, f"int{bits}")() for bits in (8, 16, 32, 64)},
        **{f"uint{bits}": getattr(pa, f"uint{bits}")() for bits in (8, 16, 32, 64)},
        **{f"float{bits}": getattr(pa, f"float{bits}")() for bits in (16, 32, 64)},
        **_decimals(),
        **_texts(),
        **_times(),
        "null": pa.null(),
        "bool": pa.bool_(),
        "uuid": pa.uuid(),
        "json": pa.json_(),
    }


def nested_types() -> dict[str, pa.DataType]:
    """Lists, structs and maps, up to three deep, with the plain types that need care as leaves."""
    text, number = pa.string(), pa.int64()
    point = pa.struct(
        [pa.field("x", pa.float64()), pa.field("name", text), pa.field("required", number, nullable=False)]
    )
    return {
        "list": pa.list_(number),
        "list_of_text": pa.list_(text),
        "list_required_items": pa.list_(pa.field("element", number, nullable=False)),
        "large_list": pa.large_list(text),
        "list_view": pa.list_view(number),
        "large_list_view": pa.large_list_view(text),
        "fixed_size_list": pa.list_(pa.float32(), 3),
        "fixed_size_list_of_text": pa.list_(text, 2),
        "struct": point,
        "struct_of_struct": pa.struct([pa.field("inner", point), pa.field("n", number)]),
        "map": pa.map_(text, number),
        "map_of_struct": pa.map_(number, point),
        "list_list_list": pa.list_(pa.list_(pa.list_(number))),
        "struct_struct_struct": pa.struct([("a", pa.struct([("b", pa.struct([("c", text), ("d", number)]))]))]),
        "list_struct_list": pa.list_(pa.struct([("tags", pa.list_(text)), ("n", number)])),
        "map_list_struct": pa.map_(text, pa.list_(point)),
        "struct_map_list": pa.struct([("m", pa.map_(text, pa.list_(number))), ("n", number)]),
        "map_of_map": pa.map_(text, pa.map_(number, text)),
        "list_of_decimal": pa.list_(pa.decimal128(20, 3)),
        "list_of_timestamp": pa.list_(pa.timestamp("us", "UTC")),
        "list_of_uuid": pa.list_(pa.uuid()),
        "list_of_bool": pa.list_(pa.bool_()),
        "list_of_large_text": pa.list_(pa.large_string()),
        "struct_of_dictionary": pa.struct([("d", pa.dictionary(pa.int32(), text)), ("n", number)]),
    }


def _decimals() -> dict[str, pa.DataType]:
    return {
        "decimal32": pa.decimal32(7, 2),
        "decimal64": pa.decimal64(15, 4),
        "decimal128_5": pa.decimal128(5, 2),
        "decimal128_15": pa.decimal128(15, 0),
        "decimal128_38": pa.decimal128(38, 10),
        "decimal256_40": pa.decimal256(40, 8),
        "decimal256_76": pa.decimal256(76, 38),
    }


def _texts() -> dict[str, pa.DataType]:
    return {
        "string": pa.string(),
        "large_string": pa.large_string(),
        "string_view": pa.string_view(),
        "binary": pa.binary(),
        "large_binary": pa.large_binary(),
        "binary_view": pa.binary_view(),
        "fixed_binary_1": pa.binary(1),
        "fixed_binary_16": pa.binary(16),
        "dictionary_string": pa.dictionary(pa.int32(), pa.string()),
        "dictionary_int8_string": pa.dictionary(pa.int8(), pa.string()),
        "dictionary_large_string": pa.dictionary(pa.int32(), pa.large_string()),
        "dictionary_binary": pa.dictionary(pa.int32(), pa.binary()),
        "dictionary_int64": pa.dictionary(pa.int32(), pa.int64()),
    }


def _times() -> dict[str, pa.DataType]:
    zones = {"utc": "UTC", "berlin": "Europe/Berlin", "offset": "+05:30"}
    return {
        "date32": pa.date32(),
        "date64": pa.date64(),
        "time32_s": pa.time32("s"),
        "time32_ms": pa.time32("ms"),
        "time64_us": pa.time64("us"),
        "time64_ns": pa.time64("ns"),
        **{f"duration_{unit}": pa.duration(unit) for unit in UNITS},
        **{f"timestamp_{unit}": pa.timestamp(unit) for unit in UNITS},
        **{f"timestamp_{unit}_{name}": pa.timestamp(unit, zone) for unit in UNITS for name, zone in zones.items()},
    }
