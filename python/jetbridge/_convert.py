"""Rows that were read, as the types of other libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from jetbridge import _native
from jetbridge._extras import needed
from jetbridge.errors import InvalidRequestError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import polars as pl
    import pyarrow as pa

DtypeBackend = Literal["numpy", "pyarrow", "numpy_nullable"]

# A block for each column spares the copies that put columns of one type together. Frames that are wider are put
# together all the same, since pandas warns of many blocks as soon as a column is added.
MOST_SPLIT_COLUMNS = 50

# What a data frame takes in the end, by the bytes as Arrow: texts and numbers are copied once, while the rows are
# there.
PANDAS_FACTOR = {"numpy": 2.0, "pyarrow": 1.0, "numpy_nullable": 2.0}


def to_arrow(table: _native.Table, what: str) -> pa.Table:
    """Without a copy. By a reader, since `pyarrow.table` first imports pandas, which takes a quarter of a second."""
    arrow: pa.Table = needed("pyarrow", what).RecordBatchReader.from_stream(table).read_all()
    return arrow


def to_polars(table: _native.Table) -> pl.DataFrame:
    """Without a copy, but for types that Polars holds otherwise."""
    frame: pl.DataFrame = needed("polars", "to_polars()").DataFrame(table)
    return frame


def check_pandas(dtype_backend: DtypeBackend, date_as_object: bool) -> float:
    """What a data frame of such dtypes takes in the end, by the bytes as Arrow.

    Raises:
        InvalidRequestError: there are none such, or they cannot hold dates as objects.
    """
    factor = PANDAS_FACTOR.get(dtype_backend)
    if factor is None:
        raise InvalidRequestError(f"dtype_backend is numpy, pyarrow or numpy_nullable, and not {dtype_backend!r}")
    if date_as_object and dtype_backend == "pyarrow":
        raise InvalidRequestError(
            'date_as_object makes each date an object, and dtype_backend="pyarrow" keeps dates as Arrow has them',
            hint="leave one of the two out",
        )
    return factor


def to_pandas(table: _native.Table, dtype_backend: DtypeBackend, date_as_object: bool) -> pd.DataFrame:
    """With the dtypes of NumPy, or those that hold Arrow, or pandas' nullable ones; checked by `check_pandas`."""
    pandas = needed("pandas", "to_pandas()")
    arrow = to_arrow(table, "to_pandas()")
    del table
    if not arrow.num_rows:
        # Without a chunk in each column, pyarrow ends the process over views of lists.
        arrow = arrow.schema.empty_table()
    if dtype_backend == "pyarrow":
        return arrow.to_pandas(types_mapper=pandas.ArrowDtype)
    if dtype_backend == "numpy_nullable":
        return arrow.to_pandas(types_mapper=_nullable(pandas, arrow).get, date_as_object=date_as_object)
    columns, schema = arrow.columns, arrow.schema
    del arrow
    return _frame(columns, schema, date_as_object)


def to_numpy(table: _native.Table) -> dict[str, np.ndarray[Any, Any]]:
    """One array for each column."""
    needed("numpy", "to_numpy()")
    arrow = to_arrow(table, "to_numpy()")
    return {name: _array(arrow.column(at)) for at, name in enumerate(arrow.column_names)}


def _array(column: pa.ChunkedArray[Any]) -> np.ndarray[Any, Any]:
    types = needed("pyarrow.types", "to_numpy()")
    if types.is_dictionary(column.type):
        # Where a row is null, pyarrow would take the last of the values.
        column = _decoded(column)
    # Dates are numbers to NumPy.
    made = None if types.is_date(column.type) else _native.objects(column)
    return column.to_numpy() if made is None else made


def _decoded(column: Any) -> pa.ChunkedArray[Any]:
    """A column of a dictionary as its values."""
    pyarrow = needed("pyarrow", "to_numpy()")
    decoded: pa.ChunkedArray[Any] = pyarrow.chunked_array(
        [chunk.dictionary_decode() for chunk in column.chunks], column.type.value_type
    )
    return decoded


def _frame(columns: list[pa.ChunkedArray[Any]], schema: pa.Schema, date_as_object: bool) -> pd.DataFrame:
    """With NumPy's dtypes: objects are made in Rust, one for all rows that are equal; the rest is pyarrow's.

    The columns are taken out of the list.
    """
    pandas, pyarrow = needed("pandas", "to_pandas()"), needed("pyarrow", "to_pandas()")
    made, fields = {}, list(schema)
    # Keeps the place of a column that was made, and takes pyarrow no time.
    keeper = pyarrow.repeat(pyarrow.scalar(0, pyarrow.int8()), len(columns[0]) if columns else 0)
    for at, place in _places_of_objects(schema, date_as_object).items() if len(keeper) else ():
        values = _native.objects(columns[at])
        if values is not None:
            made[place], columns[at] = values, keeper
            fields[at] = pyarrow.field(fields[at].name, keeper.type)
    # pyarrow loses columns of JSON where it splits.
    has_extensions = any(isinstance(field.type, pyarrow.BaseExtensionType) for field in fields)
    split = len(columns) <= MOST_SPLIT_COLUMNS and not has_extensions
    rest = pyarrow.Table.from_arrays(columns, schema=pyarrow.schema(fields, metadata=schema.metadata))
    columns.clear()
    frame: pd.DataFrame = rest.to_pandas(date_as_object=date_as_object, split_blocks=split)
    if not made:
        return frame
    # Before columns are put together, which copies once more.
    del rest
    series = {
        place: pandas.Series(made.pop(place), index=frame.index, dtype=object, copy=False)
        if place in made
        else frame.iloc[:, place]
        for place in range(frame.shape[1])
    }
    whole: pd.DataFrame = pandas.DataFrame(series, index=frame.index, copy=not split)
    whole.columns, whole.attrs = frame.columns, frame.attrs
    return whole


def _places_of_objects(schema: pa.Schema, date_as_object: bool) -> dict[int, int]:
    """The columns that pyarrow makes Python objects of, and their places in the data frame; its index has none."""
    index = (schema.pandas_metadata or {}).get("index_columns", [])
    places = [at for at, name in enumerate(schema.names) if name not in index]
    dtypes = schema.empty_table().to_pandas(date_as_object=date_as_object).dtypes
    if len(places) != len(dtypes):
        return {}
    return {at: place for place, (at, dtype) in enumerate(zip(places, dtypes, strict=True)) if dtype == "object"}


def _nullable(pandas: Any, arrow: pa.Table) -> dict[Any, Any]:
    pyarrow = needed("pyarrow", "to_pandas()")
    kinds: dict[Any, Any] = {pyarrow.bool_(): pandas.BooleanDtype(), pyarrow.string(): pandas.StringDtype()}
    kinds[pyarrow.large_string()] = pandas.StringDtype()
    kinds[pyarrow.string_view()] = pandas.StringDtype()
    for bits in (8, 16, 32, 64):
        kinds[getattr(pyarrow, f"int{bits}")()] = getattr(pandas, f"Int{bits}Dtype")()
        kinds[getattr(pyarrow, f"uint{bits}")()] = getattr(pandas, f"UInt{bits}Dtype")()
    kinds[pyarrow.float32()] = pandas.Float32Dtype()
    kinds[pyarrow.float64()] = pandas.Float64Dtype()
    return {kind: kinds[kind] for kind in arrow.schema.types if kind in kinds}
