"""Parquet files put together by hand, field by field, so that each can lie where it is to lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

MAGIC = b"PAR1"


class Codec(IntEnum):
    """Compressions by their numbers in the format."""

    UNCOMPRESSED = 0
    SNAPPY = 1
    GZIP = 2
    BROTLI = 4
    LZ4 = 5
    ZSTD = 6
    LZ4_RAW = 7


class Kind(IntEnum):
    """Kinds of pages by their numbers in the format."""

    DATA = 0
    DICTIONARY = 2
    DATA_V2 = 3


# Types of Thrift's compact protocol; values of a struct's fields are of these.
BOOL_TRUE, BOOL_FALSE, I32, I64, BINARY, LIST, STRUCT = 1, 2, 5, 6, 8, 9, 12
INT64, BYTE_ARRAY, FIXED_LEN_BYTE_ARRAY = 2, 6, 7
PLAIN, RLE, RLE_DICTIONARY = 0, 3, 8


@dataclass(frozen=True)
class Struct:
    """A Thrift struct: id, type and value of each field, in ascending order of ids."""

    fields: Sequence[tuple[int, int, Any]]


@dataclass(frozen=True)
class Page:
    """A page: what follows its header, and what the header claims of it."""

    body: bytes
    uncompressed_bytes: int
    values: int
    kind: Kind = Kind.DATA
    encoding: int = PLAIN
    # What is true where it is not given.
    compressed_bytes: int | None = None
    # More fields of the header.
    more: Sequence[tuple[int, int, Any]] = ()

    def encoded(self) -> bytes:
        """Header and body."""
        compressed = len(self.body) if self.compressed_bytes is None else self.compressed_bytes
        about: tuple[int, int, Any] = {
            Kind.DATA: (5, STRUCT, _numbers(self.values, self.encoding, RLE, RLE)),
            Kind.DICTIONARY: (7, STRUCT, _numbers(self.values, self.encoding)),
            Kind.DATA_V2: (8, STRUCT, _numbers(self.values, 0, self.values, self.encoding, 0, 0)),
        }[self.kind]
        sizes = [(1, I32, int(self.kind)), (2, I32, self.uncompressed_bytes), (3, I32, compressed)]
        return encode(Struct([*sizes, about, *self.more])) + self.body


@dataclass(frozen=True)
class File:
    """A file of one row group with one column, `c`, that has no nulls."""

    pages: Sequence[Page]
    codec: Codec
    rows: int
    physical_type: int = INT64
    # What is true of honest pages where it is not given.
    uncompressed_bytes: int | None = None
    more: Sequence[tuple[int, int, Any]] = field(default=())
    # Of each value, where all are of one length.
    value_bytes: int | None = None
    # What the footer says of them, where it is not as many as there are rows.
    values: int | None = None

    def encoded(self) -> bytes:
        """All bytes of the file."""
        body = b"".join(page.encoded() for page in self.pages)
        length = [] if self.value_bytes is None else [(2, I32, self.value_bytes)]
        leaf = Struct([(1, I32, self.physical_type), *length, (3, I32, 0), (4, BINARY, b"c")])
        schema = [Struct([(4, BINARY, b"schema"), (5, I32, 1)]), leaf]
        chunk = Struct([(2, I64, 0), (3, STRUCT, self._column(len(body)))])
        group = Struct([(1, LIST, (STRUCT, [chunk])), (2, I64, self._size), (3, I64, self.rows)])
        known = [(1, I32, 2), (2, LIST, (STRUCT, schema)), (3, I64, self.rows), (4, LIST, (STRUCT, [group]))]
        return with_footer(encode(Struct([*known, *self.more])), body)

    @property
    def _size(self) -> int:
        honest = sum(page.uncompressed_bytes for page in self.pages)
        return honest if self.uncompressed_bytes is None else self.uncompressed_bytes

    def _column(self, length: int) -> Struct:
        places, at = {}, len(MAGIC)
        for page in self.pages:
            places.setdefault(page.kind is Kind.DICTIONARY, at)
            at += len(page.encoded())
        fields = [
            (1, I32, self.physical_type),
            (2, LIST, (I32, [PLAIN, RLE, RLE_DICTIONARY])),
            (3, LIST, (BINARY, [b"c"])),
            (4, I32, int(self.codec)),
            (5, I64, self.rows if self.values is None else self.values),
            (6, I64, self._size),
            (7, I64, length),
            (9, I64, places.get(False, len(MAGIC))),
        ]
        return Struct([*fields, *([(11, I64, places[True])] if True in places else [])])


def with_footer(footer: bytes, body: bytes = b"") -> bytes:
    """A file of these pages and this footer."""
    return MAGIC + body + footer + len(footer).to_bytes(4, "little") + MAGIC


def nested_schema(depth: int) -> bytes:
    """The footer of a file without rows whose one column lies under so many groups."""
    group = Struct([(3, I32, 0), (4, BINARY, b"g"), (5, I32, 1)])
    leaf = Struct([(1, I32, INT64), (3, I32, 0), (4, BINARY, b"c")])
    schema = (STRUCT, [*[group] * depth, leaf])
    return encode(Struct([(1, I32, 2), (2, LIST, schema), (3, I64, 0), (4, LIST, (STRUCT, []))]))


def deep_field(number: int, depth: int) -> tuple[int, int, Any]:
    """A field that nobody knows, of structs within structs; it is encoded by hand, as recursion would not be."""
    return (number, STRUCT, bytes([1 << 4 | STRUCT]) * depth + bytes(depth + 1))


def encode(struct: Struct) -> bytes:
    """A struct in the compact protocol."""
    out, last = bytearray(), 0
    for number, kind, value in struct.fields:
        delta = number - last
        # A field far from the one before has its whole number.
        out += bytes([delta << 4 | kind]) if 0 < delta < 16 else bytes([kind]) + _zigzag(number)
        out += _value(kind, value)
        last = number
    return bytes(out) + b"\0"


def _numbers(*values: int) -> Struct:
    return Struct([(number, I32, value) for number, value in enumerate(values, start=1)])


def _value(kind: int, value: Any) -> bytes:
    if kind in (I32, I64):
        return _zigzag(value)
    if kind == BINARY:
        return _varint(len(value)) + value
    if kind == STRUCT:
        return value if isinstance(value, bytes) else encode(value)
    if kind == LIST:
        of, items = value
        head = bytes([len(items) << 4 | of]) if len(items) < 15 else bytes([0xF0 | of]) + _varint(len(items))
        return head + b"".join(_value(of, item) for item in items)
    return b""


def _zigzag(value: int) -> bytes:
    return _varint(value << 1 if value >= 0 else (-value << 1) - 1)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
