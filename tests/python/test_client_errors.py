"""The Python package and bad input: typed errors in words, never a hang, never a defect's traceback."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jetbridge as jb
import numpy as np
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from jetbridge import _memory

from harness import files
from harness.cluster import Node
from harness.ports import free_port
from harness.trips import ROWS, trips, write_trips


@pytest.fixture
def dataset(jb_client: jb.Client) -> jb.Dataset:
    return jb_client.dataset("/lake/trips")


def test_no_server() -> None:
    began = time.monotonic()
    with pytest.raises(ConnectionError, match="cannot connect") as caught:
        jb.connect(f"grpc://127.0.0.1:{free_port()}")
    assert time.monotonic() - began < 30
    assert isinstance(caught.value, jb.UnavailableError)
    assert caught.value.code == "UNAVAILABLE"
    assert "jetbridge serve" in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["127.0.0.1:8815", "http//x", "grpc://", "grpc://host", "ftp://h:1", "grpc://h:1/path", "grpc+tls://h:1"]
)
def test_a_wrong_uri(uri: str) -> None:
    with pytest.raises(ValueError, match=r"grpc://127\.0\.0\.1:8815") as caught:
        jb.connect(uri)
    assert isinstance(caught.value, jb.InvalidRequestError)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"connect_timeout": -1}, "connect_timeout"),
        ({"buffer_bytes": 0}, "buffer_bytes"),
        ({"streams_per_worker": 1.5}, "streams_per_worker"),
        ({"wire": "gzip"}, "gzip"),
        ({"retries": -1}, "retries"),
        ({"headers": {"a": 1}}, "headers"),
        ({"headers": {"a b": "c"}}, "header"),
    ],
)
def test_a_wrong_option(options: dict[str, object], word: str) -> None:
    with pytest.raises(jb.InvalidRequestError, match=word):
        jb.connect("grpc://127.0.0.1:1", **options)  # type: ignore[arg-type]


def test_a_path_that_is_not_there(jb_client: jb.Client) -> None:
    for use in (
        lambda: jb_client.dataset("/lake/tripz").to_arrow(),
        lambda: jb_client.dataset("/lake/tripz").schema,
        lambda: jb_client.dataset("/nowhere").count(),
        lambda: jb_client.ls("/lake/tripz"),
        lambda: jb_client.dataset("/lake/tripz").preload(),
        lambda: jb_client.job("00000000-0000-0000-0000-000000000000"),
        lambda: jb_client.unpin("/lake/trips"),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            use()
        assert isinstance(caught.value, jb.NotFoundError)
        assert caught.value.code == "NOT_FOUND"
        assert caught.value.hint


def test_a_misspelt_column_and_the_nearest_name(dataset: jb.Dataset) -> None:
    for wrong in (dataset.select("fahre"), dataset.filter("fahre > 1")):
        with pytest.raises(ValueError, match="did you mean") as caught:
            wrong.to_arrow()
        assert isinstance(caught.value, jb.JetbridgeError)
        assert caught.value.nearest == "fare"
    # What can be known without asking is said without asking.
    with pytest.raises(jb.InvalidRequestError, match='did you mean "vendor"') as found:
        dataset.select("vendor", "id").select("vender")
    assert found.value.nearest == "vendor"


@pytest.mark.parametrize("predicate", ["fare >", "fare > 'a'", "select 1", "sum(fare) > 1", "fare"])
def test_a_wrong_filter(dataset: jb.Dataset, predicate: str) -> None:
    with pytest.raises(jb.InvalidRequestError):
        dataset.filter(predicate).count()


def test_what_makes_no_sense_is_refused_before_it_is_asked(dataset: jb.Dataset) -> None:
    for wrong, word in (
        (lambda: dataset.limit(-1), "limit"),
        (lambda: dataset.limit(True), "limit"),
        (lambda: dataset.limit(1.5), "limit"),  # type: ignore[arg-type]
        (lambda: dataset.filter(""), "empty"),
        (lambda: dataset.filter(3), "SQL"),  # type: ignore[arg-type]
        (lambda: dataset.limit(1).filter("id > 1"), "before the limit"),
        (lambda: dataset.select(3), "text"),  # type: ignore[arg-type]
        (lambda: dataset.preload(columns="fare"), "columns="),
        (lambda: dataset.preload(tier="tape"), "tape"),  # type: ignore[arg-type]
        (lambda: dataset.preload(bandwidth="fast"), "fast"),
        (lambda: dataset.preload(replicas=0), "replicas"),
        (lambda: dataset.preload(max_failures=float("nan")), "sent"),  # type: ignore[arg-type]
        (lambda: dataset.limit(5).preload(), "limit of 5"),
        (lambda: dataset.select("id").limit(0).preload_estimate(), "limit of 0"),
        (lambda: dataset.to_pandas(dtype_backend="pyarrow", date_as_object=True), "date_as_object"),
        (lambda: jb.LocalCluster(workers=-1), "workers"),
        (lambda: jb.LocalCluster(memory="much"), "memory"),
        (lambda: jb.LocalCluster(memory=0), "memory"),
        (lambda: jb.LocalCluster(memory=1.5), "memory"),  # type: ignore[arg-type]
        (lambda: jb.LocalCluster(args="--log debug"), r"args=\["),
        (lambda: jb.LocalCluster(file_roots="/data"), r"file_roots=\["),
    ):
        with pytest.raises((ValueError, TypeError), match=word):
            wrong()


def test_wrong_sql(jb_client: jb.Client) -> None:
    with pytest.raises((jb.InvalidRequestError, jb.NotFoundError, jb.UnsupportedError)):
        jb_client.sql("selec 1")


def test_a_dataset_that_goes_away_between_plan_and_read(tmp_path: Path) -> None:
    written = tmp_path / "gone"
    write_trips(written)
    mounts = {"/gone": {"uri": f"file://{written}", "options": {"freshness": "always"}}}
    with jb.LocalCluster(workers=0, mounts=mounts) as cluster, cluster.connect() as client:
        dataset = client.dataset("/gone")
        assert dataset.count() == ROWS
        for file in written.iterdir():
            file.unlink()
        client.free("/gone")
        with pytest.raises(FileNotFoundError):
            dataset.to_arrow()


def test_a_dataset_that_changes_under_a_read(tmp_path: Path) -> None:
    folder = tmp_path / "changing"
    # Too large to have come with its footer.
    numbers = {"n": np.random.default_rng(3).integers(0, 1 << 62, 2_000_000)}
    files.write(folder / "a.parquet", numbers)
    with jb.LocalCluster(workers=0, mounts={"/changing": folder}) as cluster, cluster.connect() as client:
        plan = client.dataset("/changing").plan()
        replaced = folder / "new"
        files.write(replaced, {"n": numbers["n"][1:]})
        replaced.rename(folder / "a.parquet")
        stream = client._connection.read(plan._native, None, True)
        task = stream.collect()
        task.wait()
        with pytest.raises(jb.StaleError, match="STALE"):
            task.result()


def test_files_that_are_no_table_and_files_that_are_corrupt(tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    files.write(folder / "mixed" / "a.parquet", pa.table({"x": [1]}))
    files.write(folder / "mixed" / "b.parquet", pa.table({"x": ["text"]}))
    files.write(folder / "corrupt" / "a.parquet", trips(1000))
    files.flip(folder / "corrupt" / "a.parquet", range(100, 300))
    with jb.LocalCluster(workers=0, mounts={"/bad": folder}) as cluster, cluster.connect() as client:
        with pytest.raises(jb.FailedPreconditionError, match=r"b\.parquet"):
            client.dataset("/bad/mixed").to_arrow()
        with pytest.raises(OSError, match=r"a\.parquet") as caught:
            client.dataset("/bad/corrupt").to_arrow()
        assert isinstance(caught.value, jb.DataLossError)
        with pytest.raises(jb.JetbridgeError, match="root"):
            client.mount("/other", "file:///etc")


class Guarded(flight.FlightServerBase):
    """A server that wants a token."""

    def __init__(self) -> None:
        super().__init__("grpc://127.0.0.1:0", middleware={"auth": Guard()})

    def do_action(self, *_: object) -> Iterator[bytes]:
        yield b'{"version": "0", "uptime_s": 1, "mounts": 0}'


class Guard(flight.ServerMiddlewareFactory):
    def start_call(self, _: flight.CallInfo, headers: dict[str, list[str]]) -> None:
        if headers.get("authorization") != ["Bearer secret"]:
            raise flight.FlightUnauthenticatedError("who are you?")


def test_a_token_that_is_missing() -> None:
    with Guarded() as server:
        uri = f"grpc://127.0.0.1:{server.port}"
        with pytest.raises(PermissionError, match="who are you") as caught:
            jb.connect(uri)
        assert isinstance(caught.value, jb.UnauthenticatedError)
        assert "headers" in str(caught.value)
        with jb.connect(uri, headers={"authorization": "Bearer secret"}) as client:
            assert client.status().version == "0"


class Silent(flight.FlightServerBase):
    """A server that takes its time."""

    def __init__(self) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self.go_on = threading.Event()

    def do_action(self, *_: object) -> Iterator[bytes]:
        self.go_on.wait(60)
        yield b"{}"


def test_a_deadline() -> None:
    with Silent() as server:
        began = time.monotonic()
        with pytest.raises(builtins.TimeoutError) as caught:
            jb.connect(f"grpc://127.0.0.1:{server.port}", timeout=0.5)
        assert 0.4 < time.monotonic() - began < 30
        assert isinstance(caught.value, jb.DeadlineExceededError)
        server.go_on.set()


def test_a_server_of_another_kind() -> None:
    with flight.FlightServerBase("grpc://127.0.0.1:0") as server:
        with pytest.raises(NotImplementedError) as caught:
            jb.connect(f"grpc://127.0.0.1:{server.port}")
        assert isinstance(caught.value, jb.UnsupportedError)


def test_a_server_that_goes_away_for_some_seconds_and_for_good(tmp_path: Path) -> None:
    write_trips(tmp_path / "lake" / "trips")
    node = Node(tmp_path / "node", "serve", ["--mount", f"/lake={tmp_path / 'lake'}", "--memory", "256MiB"])
    with jb.connect(node.uri) as client:
        dataset = client.dataset("/lake/trips")
        assert dataset.count() == ROWS
        node.kill()
        comes_back = threading.Timer(5, node.start)
        comes_back.start()
        began = time.monotonic()
        while True:
            with contextlib.suppress(jb.UnavailableError):
                assert dataset.to_arrow().equals(trips())
                break
            assert time.monotonic() - began < 90
            time.sleep(0.1)
        comes_back.join()
        node.kill()
        began = time.monotonic()
        with pytest.raises(ConnectionError):
            dataset.to_arrow()
        assert time.monotonic() - began < 60


def test_a_result_that_does_not_fit_is_refused_before_it_is_read(
    dataset: jb.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = dataset.plan().bytes
    monkeypatch.setattr(_memory, "available_bytes", lambda: planned)
    for read in (dataset.to_pandas, dataset.to_arrow, dataset.to_polars, dataset.to_numpy):
        with pytest.raises(MemoryError, match="are available") as caught:
            read()
        assert isinstance(caught.value, jb.ResultTooLargeError)
        assert "to_batches" in str(caught.value)
        assert read(check_memory=False) is not None
    # Streams hold little, whatever there is to come.
    assert sum(batch.num_rows for batch in dataset.to_batches()) == ROWS


def test_a_filtered_result_is_stopped_when_it_turns_out_too_large(
    dataset: jb.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_memory, "available_bytes", lambda: 10_000)
    assert dataset.filter("id < 10").to_arrow().num_rows == 10
    with pytest.raises(MemoryError, match="usable"):
        dataset.filter("id >= 0").to_arrow()


def test_some_rows_are_given_of_what_would_not_fit(dataset: jb.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan reads row groups as a whole, and a limit takes some rows of the last."""
    planned = dataset.limit(10).plan().bytes
    monkeypatch.setattr(_memory, "available_bytes", lambda: planned)
    assert dataset.head(10).column("id").to_pylist() == list(range(10))
    assert dataset.limit(10).to_pandas().shape == (10, 4)

    async def awaited() -> int:
        async with await jb.connect_async(dataset._client.uri) as client:
            return (await client.dataset(dataset.path).head(10)).num_rows

    assert asyncio.run(awaited()) == 10
    monkeypatch.setattr(_memory, "available_bytes", lambda: 100)
    with pytest.raises(MemoryError, match="usable"):
        dataset.head(10)


def test_a_plan_of_a_hundred_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Huge:
        rows = 10**9
        bytes = 10**11

    monkeypatch.setattr(_memory, "_of_cgroup", lambda: None)
    with pytest.raises(MemoryError, match=r"186\.3 GiB"):
        _memory.check(Huge.bytes, 2.0, "to_pandas()")


def test_an_error_is_the_built_in_that_users_expect() -> None:
    pairs = {
        jb.NotFoundError: FileNotFoundError,
        jb.AlreadyExistsError: FileExistsError,
        jb.PermissionDeniedError: PermissionError,
        jb.UnauthenticatedError: PermissionError,
        jb.DeadlineExceededError: TimeoutError,
        jb.InvalidRequestError: ValueError,
        jb.UnavailableError: ConnectionError,
        jb.UnsupportedError: NotImplementedError,
        jb.ResultTooLargeError: MemoryError,
        jb.MissingExtraError: ImportError,
        jb.DataLossError: OSError,
    }
    for ours, builtin in pairs.items():
        error = ours("words", hint="do that")
        assert isinstance(error, builtin)
        assert isinstance(error, jb.JetbridgeError)
        assert str(error) == "words\nHint: do that"
        assert error.message == "words"
        assert pickle.loads(pickle.dumps(error)).hint == "do that"
