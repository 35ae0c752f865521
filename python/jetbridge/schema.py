"""What columns rows have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from jetbridge import _html, _native
from jetbridge._extras import needed

if TYPE_CHECKING:
    import pyarrow as pa


class Field:
    """A column: its name, its type, whether it may be null.

    >>> client.dataset("/lake/trips").schema.field("fare").nullable
    True
    """

    __slots__ = ("_native",)

    def __init__(self, native: _native.Field) -> None:
        self._native = native

    @property
    def name(self) -> str:
        """Its name.

        >>> client.dataset("/lake/trips").schema[0].name
        'id'
        """
        return self._native.name

    @property
    def type(self) -> _native.DataType:
        """Its Arrow type, which compares equal to pyarrow's and to those of other libraries that speak PyCapsule.

        >>> str(client.dataset("/lake/trips").schema.field("id").type)
        'Int64'
        """
        return self._native.type

    @property
    def nullable(self) -> bool:
        """Whether values may be null.

        >>> client.dataset("/lake/trips").schema.field("id").nullable
        True
        """
        return self._native.nullable

    @property
    def metadata(self) -> dict[str, str]:
        """What its file says besides.

        >>> client.dataset("/lake/trips").schema.field("id").metadata
        {}
        """
        return self._native.metadata

    def __arrow_c_schema__(self) -> object:
        return self._native.__arrow_c_schema__()

    def __eq__(self, other: object) -> bool:
        return bool(self._native == other)

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"{self.name}: {self.type}" + ("" if self.nullable else " not null")


class Schema:
    """The columns of a dataset, scan or result, in their order. ``pa.schema(schema)`` takes it as it is.

    >>> schema = client.dataset("/lake/trips").schema
    >>> schema.names
    ['id', 'vendor', 'fare', 'day']
    >>> len(schema), "fare" in schema
    (4, True)
    """

    __slots__ = ("_fields", "_native")

    def __init__(self, native: _native.Schema) -> None:
        self._native = native
        self._fields = [Field(field) for field in native.fields]

    @property
    def names(self) -> list[str]:
        """The columns' names.

        >>> client.dataset("/lake/trips").select("fare").schema.names
        ['fare']
        """
        return [field.name for field in self._fields]

    @property
    def types(self) -> list[_native.DataType]:
        """The columns' types.

        >>> [str(kind) for kind in client.dataset("/lake/trips").select("fare").schema.types]
        ['Float64']
        """
        return [field.type for field in self._fields]

    @property
    def metadata(self) -> dict[str, str]:
        """What the files say of the table.

        >>> client.dataset("/lake/trips").schema.metadata
        {}
        """
        return self._native.metadata

    def field(self, key: str | int) -> Field:
        """One column, by name or place.

        >>> client.dataset("/lake/trips").schema.field("fare").name
        'fare'
        """
        if isinstance(key, int):
            return self._fields[key]
        for field in self._fields:
            if field.name == key:
                return field
        raise KeyError(key)

    def equals(self, other: object) -> bool:
        """Whether another schema, of any library that speaks PyCapsule, has the same columns; metadata aside.

        >>> schema = client.dataset("/lake/trips").schema
        >>> schema.equals(pa.schema(schema))
        True
        """
        return self == other

    def to_arrow(self) -> pa.Schema:
        """As pyarrow's.

        >>> client.dataset("/lake/trips").schema.to_arrow().field("fare").type
        DataType(double)
        """
        schema: pa.Schema = needed("pyarrow", "to_arrow()").schema(self)
        return schema

    def __arrow_c_schema__(self) -> object:
        return self._native.__arrow_c_schema__()

    def __len__(self) -> int:
        return len(self._fields)

    def __iter__(self) -> Iterator[Field]:
        return iter(self._fields)

    def __contains__(self, name: object) -> bool:
        return any(field.name == name or field == name for field in self._fields)

    def __getitem__(self, key: str | int) -> Field:
        return self.field(key)

    def __eq__(self, other: object) -> bool:
        return bool(self._native == (other._native if isinstance(other, Schema) else other))

    def __hash__(self) -> int:
        return hash(tuple(self.names))

    def __repr__(self) -> str:
        return "\n".join(map(repr, self._fields)) or "(no columns)"

    def _repr_html_(self) -> str:
        rows = [[field.name, str(field.type), "yes" if field.nullable else "no"] for field in self]
        return _html.table(["column", "type", "nulls"], rows)
