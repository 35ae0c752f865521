"""Rows leave by the Arrow PyCapsule protocol, and as frames of the libraries that people have."""

from __future__ import annotations

import datetime as dt
import decimal
import random
from pathlib import Path
from typing import cast

import duckdb
import jetbridge as jb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from jetbridge import _convert

from harness import files
from harness.trips import ROWS, trips


@pytest.fixture
def dataset(jb_client: jb.Client) -> jb.Dataset:
    return jb_client.dataset("/lake/trips")


def test_every_library_takes_a_scan_as_it_is(dataset: jb.Dataset) -> None:
    assert pa.table(dataset).equals(trips())
    assert pa.RecordBatchReader.from_stream(dataset).read_all().equals(trips())
    assert pl.DataFrame(dataset).equals(pl.DataFrame(trips()))
    assert duckdb.sql("select count(*), sum(id) from dataset").fetchall() == [(ROWS, ROWS * (ROWS - 1) // 2)]
    from_arrow = getattr(pd.DataFrame, "from_arrow", None)
    if from_arrow is not None:
        assert from_arrow(dataset).shape == (ROWS, 4)


def test_a_requested_schema_is_projected_reordered_and_cast(dataset: jb.Dataset) -> None:
    wanted = pa.schema([("fare", pa.float32()), ("id", pa.int32())])
    table = pa.table(dataset, schema=wanted)
    assert table.schema.equals(wanted)
    expected = trips()
    assert table.column("id").to_pylist() == expected.column("id").to_pylist()
    assert table.column("fare").equals(expected.column("fare").cast(pa.float32()))


def test_a_cast_that_would_change_a_value_fails(dataset: jb.Dataset) -> None:
    with pytest.raises(Exception, match=r"[Cc]ast"):
        pa.RecordBatchReader.from_stream(dataset, schema=pa.schema([("id", pa.int8())])).read_all()


def test_only_the_columns_that_are_requested_are_read(dataset: jb.Dataset) -> None:
    narrowed = dataset._narrowed(jb._native.Schema.from_capsule(pa.schema([("id", pa.int32())]).__arrow_c_schema__()))
    assert narrowed.schema.names == ["id"]


def test_pandas_with_the_dtypes_of_numpy(dataset: jb.Dataset) -> None:
    frame = dataset.to_pandas()
    expected = trips().to_pandas(date_as_object=False)
    pd.testing.assert_frame_equal(frame, expected)
    assert frame["day"].dtype.kind == "M", "dates are datetime64, and not objects"
    objects = dataset.select("day").limit(2).to_pandas(date_as_object=True)
    assert objects["day"].tolist() == [dt.date(2024, 1, 1), dt.date(2024, 1, 2)]


@pytest.mark.parametrize("backend", ["numpy", "numpy_nullable"])
def test_dates_are_numbers_or_objects_as_it_is_wanted(dataset: jb.Dataset, backend: _convert.DtypeBackend) -> None:
    days = dataset.select("day").limit(2)
    assert days.to_pandas(dtype_backend=backend)["day"].dtype.kind == "M"
    objects = days.to_pandas(dtype_backend=backend, date_as_object=True)
    assert objects["day"].tolist() == [dt.date(2024, 1, 1), dt.date(2024, 1, 2)]


def test_dtypes_that_are_none_are_refused_before_anything_is_asked() -> None:
    nowhere = jb.connect("grpc://127.0.0.1:1", check=False).dataset("/lake/none")
    with pytest.raises(jb.InvalidRequestError, match="dtype_backend"):
        nowhere.to_pandas(dtype_backend="arrow")  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(40))
def test_decimals_are_those_of_pyarrow(seed: int) -> None:
    chance = random.Random(seed)
    precision = chance.randint(1, 38)
    scale = chance.randint(0, precision)
    with decimal.localcontext() as context:
        context.prec = 40
        most = 10**precision - 1
        digits = [
            None if chance.random() < 0.2 else chance.randint(-most, most) for _ in range(chance.choice([1, 300]))
        ]
        values = [None if each is None else decimal.Decimal(each).scaleb(-scale) for each in digits]
        whole = pa.array(values, pa.decimal128(precision, scale))
    # Chunks of which one is a slice, as reads give them.
    table = pa.table({"x": pa.chunked_array([whole, whole.slice(len(whole) // 2)])})
    frame = _convert.to_pandas(cast("jb._native.Table", table), "numpy", False)
    pd.testing.assert_frame_equal(frame, table.to_pandas(date_as_object=False))


def test_pandas_with_dtypes_that_hold_arrow(dataset: jb.Dataset) -> None:
    frame = dataset.to_pandas(dtype_backend="pyarrow")
    assert [str(dtype) for dtype in frame.dtypes] == [
        "int64[pyarrow]",
        "string[pyarrow]",
        "double[pyarrow]",
        "date32[day][pyarrow]",
    ]
    assert pa.Table.from_pandas(frame, schema=trips().schema).equals(trips())


def test_pandas_with_nullable_dtypes(dataset: jb.Dataset) -> None:
    frame = dataset.select("id", "fare", "vendor").to_pandas(dtype_backend="numpy_nullable")
    assert [str(dtype) for dtype in frame.dtypes[:2]] == ["Int64", "Float64"]
    assert frame["fare"].isna().sum() == trips().column("fare").null_count
    with pytest.raises(ValueError, match="dtype_backend"):
        dataset.to_pandas(dtype_backend="arrow")  # type: ignore[arg-type]


def test_polars_and_numpy(dataset: jb.Dataset) -> None:
    assert dataset.to_polars().equals(pl.DataFrame(trips()))
    arrays = dataset.to_numpy()
    assert arrays["id"].tolist() == list(range(ROWS))
    assert np.isnan(arrays["fare"]).sum() == trips().column("fare").null_count
    assert arrays["vendor"][1] == "b"


def test_duckdb_reads_a_relation_as_often_as_it_is_used(dataset: jb.Dataset) -> None:
    connection = duckdb.connect()
    relation = dataset.select("id", "vendor").to_duckdb(connection)
    grouped = relation.aggregate("vendor, count(*) as n", "vendor").order("vendor").fetchall()
    assert grouped == [(vendor, ROWS // 5) for vendor in "abcde"]
    assert relation.filter("id < 10").count("*").fetchall() == [(10,)]


def test_batches_come_one_by_one_and_a_reader_reads_lazily(dataset: jb.Dataset) -> None:
    batches = list(dataset.to_batches())
    assert pa.Table.from_batches(batches).combine_chunks().equals(trips().combine_chunks())
    reader = dataset.to_reader()
    first = reader.read_next_batch()
    assert first.num_rows > 0
    reader.close()
    assert pc.sum(dataset.to_reader().read_all().column("id")).as_py() == ROWS * (ROWS - 1) // 2


def test_native_batches_say_what_they_are(dataset: jb.Dataset) -> None:
    batches = list(dataset)
    assert sum(len(batch) for batch in batches) == ROWS
    assert {batch.source for batch in batches} <= {"memory", "disk", "store"}
    assert pa.record_batch(batches[0]).schema.equals(trips().schema)
    cast = pa.record_batch(batches[0], schema=pa.schema([("id", pa.int32())]))
    assert cast.schema.types == [pa.int32()]
    assert pa.array(batches[0].column("id")).to_pylist() == pa.array(batches[0].column(0)).to_pylist()
    assert batches[0].schema == trips().schema
    for wrong in ("none", 99):
        with pytest.raises(LookupError):
            batches[0].column(wrong)


def test_numbers_leave_in_place_by_dlpack(dataset: jb.Dataset) -> None:
    batch = next(iter(dataset.select("id", "fare", "vendor")))
    column = batch.column("id")
    values = np.from_dlpack(column)
    assert values.tolist() == pa.array(column).to_pylist()
    assert not values.flags.writeable
    assert values.ctypes.data == pa.array(column).buffers()[1].address + pa.array(column).offset * 8
    del batch, column
    assert values[0] == 0, "the memory stays as long as somebody has it"
    full = next(iter(dataset.select("fare", "vendor")))
    with pytest.raises(BufferError, match="nulls"):
        full.column("fare").__dlpack__()
    with pytest.raises(TypeError, match="Utf8"):
        full.column("vendor").__dlpack__()


def test_a_dlpack_capsule_that_nobody_takes_is_freed(dataset: jb.Dataset) -> None:
    column = next(iter(dataset.select("id"))).column("id")
    for version in (None, (1, 0)):
        for _ in range(1000):
            column.__dlpack__(max_version=version)
    assert column.__dlpack_device__() == (1, 0)
    with pytest.raises(BufferError):
        column.__dlpack__(copy=True)
    with pytest.raises(BufferError):
        column.__dlpack__(dl_device=(2, 0))


def test_all_types_come_as_pyarrow_reads_them(tmp_path: Path) -> None:
    folder = tmp_path / "types"
    table = pa.table(
        {
            "flag": pa.array([True, None, False]),
            "small": pa.array([1, -2, 3], pa.int8()),
            "text": pa.array(["", None, "long " * 100]),
            "raw": pa.array([b"\x00", b"", None]),
            "list": pa.array([[1, 2], None, []], pa.list_(pa.int32())),
            "struct": pa.array([{"x": 1.5}, {"x": None}, None], pa.struct([("x", pa.float64())])),
            "when": pa.array([0, None, 10**15], pa.timestamp("us", "UTC")),
            "money": pa.array([None, "1.25", "-9.99"]).cast(pa.decimal128(9, 2)),
        }
    )
    files.write(folder / "types.parquet", table)
    with jb.LocalCluster(workers=0, mounts={"/types": folder}) as cluster, cluster.connect() as client:
        dataset = client.dataset("/types/types.parquet")
        assert dataset.to_arrow().equals(table)
        assert pa.table(dataset).equals(table)
        assert pl.DataFrame(dataset).shape == (3, 8)
        assert dataset.to_pandas().shape == (3, 8)
