"""The Python package by every wire form: the same rows, whichever it asks for, and whichever is chosen for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import jetbridge as jb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import Lake
from harness import files
from harness.compare import assert_same, read_file
from harness.matrix import ALL_TYPES, ROW_GROUP_ROWS, matrix_table
from harness.metrics import lookups
from harness.server import Server
from harness.trips import trips

FORMS = ("auto", "arrow", "lz4", "zstd", "raw")
ROWS = 100_000
# Whoever has one core alone does not ask for what it would have to decode.
HAS_CORES = len(os.sched_getaffinity(0)) > 1

# A worker is killed within reads until one needed it.
KILLS = 8
NOISY_FILES, NOISY_ROWS, NOISE_BYTES = 4, 280_000, 100

Clients = dict[str, jb.Client]


@pytest.fixture(scope="module")
def clients(server: Server) -> Iterator[Clients]:
    """A client of each form, that takes nothing of the same host's ways."""
    with contextlib.ExitStack() as stack:
        yield {form: stack.enter_context(jb.connect(server.flight_uri, local=False, wire=form)) for form in FORMS}


@contextlib.contextmanager
def not_decoded_by(server: Server) -> Iterator[None]:
    """Fails where the server looks for decoded columns meanwhile: it was not asked for rows as they are stored."""
    before = lookups(server.admin_uri)["chunk"].all
    yield
    assert lookups(server.admin_uri)["chunk"].all == before, "the server decoded"


def received(client: jb.Client, path: str) -> tuple[pa.Table, int]:
    """All rows of a path, and the bytes that came for them."""
    dataset = client.dataset(path)
    stream = dataset._stream(dataset.plan()._native)
    task = stream.collect()
    task.wait()
    return pa.RecordBatchReader.from_stream(task.result()).read_all(), stream.received_bytes


@pytest.mark.parametrize("name", ALL_TYPES)
def test_every_type_comes_raw_as_it_comes_plain(lake: Lake, clients: Clients, name: str) -> None:
    written = lake.write("t.parquet", matrix_table(ALL_TYPES[name]), row_group_size=ROW_GROUP_ROWS)
    path = lake.at("t.parquet")
    with not_decoded_by(lake.server):
        raw = clients["raw"].dataset(path).to_arrow()
        some = clients["raw"].dataset(path).select("number", "mixed").to_arrow()
    plain = clients["arrow"].dataset(path).to_arrow()
    assert raw.schema.equals(plain.schema, check_metadata=True)
    assert_same(raw, plain)
    # pyarrow 25, the last for Python 3.10, does not read the null lists of a fixed size that it wrote.
    is_read = int(pa.__version__.split(".")[0]) > 25 or not name.startswith("fixed_size_list")
    assert_same(raw, read_file(lake.folder / "t.parquet") if is_read else written)
    assert_same(some, plain.select(["number", "mixed"]))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows_in_order_or_not(lake: Lake, clients: Clients, form: str) -> None:
    parts = [trips(30_000, start) for start in (0, 30_000, 60_000)]
    for number, part in enumerate(parts):
        lake.write(f"set/{number}.parquet", part, row_group_size=7_000)
    dataset = clients[form].dataset(lake.at("set"))
    expected = pa.concat_tables(parts)
    assert_same(dataset.to_arrow(), expected)
    assert_same(dataset.unordered().to_arrow().sort_by("id"), expected)
    assert sum(batch.num_rows for batch in dataset) == expected.num_rows


def test_partitions_and_columns_that_differ(lake: Lake, clients: Clients) -> None:
    parts = {
        "year=2023/kind=a b": files.numbers(200, 0),
        "year=2024/kind=__HIVE_DEFAULT_PARTITION__": files.numbers(300, 1000),
    }
    files.hive(lake.folder / "hive", parts)
    lake.write("set/a.parquet", {"n": pa.array([1, 2], pa.int16()), "t": ["a", "b"]})
    lake.write("set/b.parquet", {"n": pa.array([2**40], pa.int64()), "f": [0.5]})
    raw = clients["raw"]
    with not_decoded_by(lake.server):
        hive, differing = (raw.dataset(lake.at(name)).to_arrow() for name in ("hive", "set"))
        some = raw.dataset(lake.at("hive")).select("kind", "n").to_arrow()
    assert_same(hive, lake.read("hive"))
    assert_same(some, lake.read("hive", columns=["kind", "n"]))
    assert_same(differing, lake.read("set"))
    assert differing.column("n").to_pylist() == [1, 2, 2**40]
    assert differing.column("t").to_pylist() == ["a", "b", None]


def test_what_cannot_be_said_raw_comes_all_the_same(lake: Lake, clients: Clients) -> None:
    lake.write("t.parquet", files.numbers(40_000), row_group_size=9_000)
    lake.write("set/a.parquet", {"s": [{"x": 1}]})
    lake.write("set/b.parquet", {"s": [{"x": 1, "y": "b"}]})
    for form in ("raw", "auto"):
        client = clients[form]
        dataset = client.dataset(lake.at("t.parquet"))
        assert_same(dataset.filter("n > 39000").to_arrow(), lake.read("t.parquet", filter="n > 39000"))
        assert_same(dataset.limit(7).to_arrow(), lake.read("t.parquet", limit=7))
        assert sum(batch.num_rows for batch in dataset.select()) == 40_000
        assert_same(client.dataset(lake.at("set")).to_arrow(), lake.read("set"))
        assert client.sql("select 1 as one").to_arrow().to_pydict() == {"one": [1]}


def test_a_row_group_that_is_too_large_for_the_buffer_comes_plain(lake: Lake) -> None:
    lake.write("t.parquet", {"noise": [os.urandom(100) for _ in range(20_000)]})
    expected = lake.read("t.parquet")
    for buffer_bytes in (1, 1 << 20, 64 << 20):
        with jb.connect(lake.server.flight_uri, local=False, wire="raw", buffer_bytes=buffer_bytes) as client:
            assert_same(client.dataset(lake.at("t.parquet")).to_arrow(), expected)


def test_what_is_read_once_comes_raw_and_what_is_read_again_plain(
    lake: Lake, start_server: Callable[..., Server]
) -> None:
    table = lake.write("t.parquet", trips(ROWS), row_group_size=25_000)
    server = start_server(mounts={"/t": f"file://{lake.folder}"})
    with jb.connect(server.flight_uri, local=False) as client:
        sizes = []
        for _ in range(4):
            got, received_bytes = received(client, "/t/t.parquet")
            assert_same(got, table)
            sizes.append(received_bytes / table.nbytes)
    assert (sizes[0] < 0.6) == HAS_CORES, sizes
    assert min(sizes[1:]) > 0.9, sizes


def test_raw_costs_the_server_no_decoding_however_often(lake: Lake, start_server: Callable[..., Server]) -> None:
    table = lake.write("t.parquet", trips(ROWS), row_group_size=25_000)
    server = start_server(mounts={"/t": f"file://{lake.folder}"})
    with jb.connect(server.flight_uri, local=False, wire="raw") as client, not_decoded_by(server):
        for _ in range(3):
            got, received_bytes = received(client, "/t/t.parquet")
            assert_same(got, table)
            assert received_bytes < 0.6 * table.nbytes


@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
def test_a_damaged_page_is_an_error_that_names_it(lake: Lake, clients: Clients, compression: str) -> None:
    table = files.numbers(4_000)
    options = {"compression": compression, "write_page_checksum": True, "use_dictionary": False}
    lake.write("t.parquet", table, row_group_size=1_000, **options)
    path = lake.folder / "t.parquet"
    chunk = pq.ParquetFile(path).metadata.row_group(2).column(0)
    files.flip(path, range(chunk.data_page_offset + 40, chunk.data_page_offset + 400, 10))
    dataset = clients["raw"].dataset(lake.at("t.parquet"))
    with not_decoded_by(lake.server), pytest.raises(jb.DataLossError, match=r"t\.parquet.*row group 2"):
        dataset.to_arrow()
    seen: list[int] = []
    with pytest.raises(jb.DataLossError):
        seen.extend(batch.num_rows for batch in dataset)
    assert sum(seen) == 2_000, "what comes before it is handed out"
    assert_same(dataset.select("text").to_arrow(), table.select(["text"]))


def test_a_client_by_a_form_can_be_pickled_and_awaited(jb_client: jb.Client) -> None:
    with jb.connect(jb_client.uri, local=False, wire="raw") as client:
        dataset = client.dataset("/lake/trips")
        for other in (client, pickle.loads(pickle.dumps(client))):
            assert other == client
            assert other.dataset("/lake/trips").to_arrow().equals(trips())
        assert pickle.loads(pickle.dumps(dataset)).to_arrow().equals(trips())

    async def awaited() -> pa.Table:
        async with await jb.connect_async(jb_client.uri, local=False, wire="raw") as other:
            return await other.dataset("/lake/trips").to_arrow()

    assert asyncio.run(awaited()).equals(trips())


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are no smaller as they are stored, each larger than what is on its way from a worker."""
    folder = tmp_path_factory.mktemp("noise")
    for number in range(NOISY_FILES):
        start = number * NOISY_ROWS
        data = pa.py_buffer(os.urandom(NOISY_ROWS * NOISE_BYTES))
        noise = pa.Array.from_buffers(pa.binary(NOISE_BYTES), NOISY_ROWS, [None, data])
        table = pa.table({"n": pa.array(range(start, start + NOISY_ROWS), pa.int64()), "noise": noise})
        files.write(folder / "noise" / f"{number}.parquet", table, row_group_size=2_000, compression="none")
    return folder


def test_a_worker_that_is_killed_in_the_middle_of_a_raw_read(noise: Path) -> None:
    """All rows come, each time; and the worker must have been needed once."""
    expected = pa.concat_tables([read_file(path) for path in sorted(noise.glob("noise/*.parquet"))])
    assert any(_failovers(noise, expected) for _ in range(KILLS)), "the worker was never needed when it went"


def _failovers(noise: Path, expected: pa.Table) -> int:
    """Reads everything while a worker is killed; how often an endpoint was gone on with elsewhere."""
    cluster = jb.LocalCluster(workers=2, mounts={"/n": noise}, memory="768MiB")
    with cluster, cluster.connect(local=False, wire="raw", buffer_bytes=1 << 20) as client:
        rows = client.dataset("/n/noise")
        stream = rows._stream(rows.plan()._native)
        seen: list[pa.RecordBatch] = []
        while (batch := _next(stream)) is not None:
            seen.append(pa.record_batch(batch))
            if len(seen) == 2:
                cluster.workers[1].kill()
        assert_same(pa.Table.from_batches(seen), expected)
        return stream.failovers


def _next(stream: jb._native.Stream) -> jb.RecordBatch | None:
    task = stream.next()
    task.wait()
    return task.result()
