"""The asyncio twin: the same names, awaited; the loop is free meanwhile."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import jetbridge as jb
import pyarrow as pa
import pytest
from jetbridge.job import Deadline

from harness.trips import ROWS, trips

T = TypeVar("T")


@pytest.fixture
def go(local_cluster: jb.LocalCluster) -> Callable[[Callable[[jb.AsyncClient], Awaitable[T]]], T]:
    """Runs a coroutine with a client, in a loop of its own."""

    def run(work: Callable[[jb.AsyncClient], Awaitable[T]]) -> T:
        async def main() -> T:
            async with await jb.connect_async(local_cluster.uri) as client:
                return await work(client)

        return asyncio.run(main())

    return run


def test_the_names_are_the_same() -> None:
    def names(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    # Streams that C code reads cannot be awaited.
    blocking = {"to_reader", "to_duckdb"}
    assert names(jb.Client) == names(jb.AsyncClient)
    assert names(jb.Scan) - blocking == names(jb.aio.AsyncScan)
    assert names(jb.Dataset) - blocking == names(jb.aio.AsyncDataset)
    assert names(jb.Result) - blocking == names(jb.aio.AsyncResult)
    assert names(jb.Job) - {"is_done"} == names(jb.aio.AsyncJob) - {"is_done"}


@pytest.mark.parametrize(
    ("ours", "twin"),
    [(jb.Client, jb.AsyncClient), (jb.Dataset, jb.aio.AsyncDataset), (jb.Job, jb.aio.AsyncJob)],
)
def test_the_parameters_are_the_same(ours: type, twin: type) -> None:
    seen = 0
    for name, method in inspect.getmembers(twin, inspect.isfunction):
        if name.startswith("_"):
            continue
        expected = inspect.signature(getattr(ours, name)).parameters
        assert list(inspect.signature(method).parameters.values()) == list(expected.values()) or [
            (parameter.name, parameter.default) for parameter in inspect.signature(method).parameters.values()
        ] == [(parameter.name, parameter.default) for parameter in expected.values()], name
        seen += 1
    assert seen >= 3


def test_reads_plans_schemas_and_counts(go: Callable[..., object]) -> None:
    async def work(client: jb.AsyncClient) -> None:
        dataset = client.dataset("/lake/trips")
        assert (await dataset.to_arrow()).equals(trips())
        assert (await dataset.schema).names == trips().column_names
        assert await dataset.count() == ROWS
        assert await dataset.filter("id < 10").count() == 10
        assert (await dataset.plan()).rows == ROWS
        assert (await dataset.head(2)).num_rows == 2
        assert (await dataset.select("id").to_pandas()).shape == (ROWS, 1)
        assert (await dataset.select("id").to_polars()).shape == (ROWS, 1)
        assert (await dataset.select("id").to_numpy())["id"].sum() == ROWS * (ROWS - 1) // 2
        batches = [batch async for batch in dataset.to_batches()]
        assert pa.Table.from_batches(batches).num_rows == ROWS
        assert sum([batch.num_rows async for batch in dataset.unordered()]) == ROWS
        stat = await dataset.stat()
        assert stat.rows == ROWS
        assert [mount.path for mount in await client.mounts()] == ["/lake"]
        assert len(await client.workers()) == 2

    go(work)


def test_a_job_is_awaited(go: Callable[..., object]) -> None:
    async def work(client: jb.AsyncClient) -> None:
        job = await client.dataset("/lake/trips").preload(columns=["id"])
        assert await job.wait(timeout=60, progress=False) == "SUCCEEDED"
        assert (await job.status).is_final
        assert [status.state async for status in job.events()] == ["SUCCEEDED"]
        repeating = await client.preload("/lake/trips", columns=["id"], every="1h")
        with pytest.raises(TimeoutError):
            await repeating.wait(timeout=0.2, progress=False)
        await repeating.cancel()
        with pytest.raises(jb.JobCancelledError):
            await repeating.wait(timeout=60, progress=False)

    go(work)


def test_errors_are_the_same(go: Callable[..., object]) -> None:
    async def work(client: jb.AsyncClient) -> None:
        with pytest.raises(FileNotFoundError):
            await client.dataset("/nowhere").to_arrow()
        dataset = client.dataset("/lake/trips")
        with pytest.raises(ValueError, match="did you mean"):
            await dataset.select("fahre").to_arrow()
        with pytest.raises(jb.InvalidRequestError, match="limit of 5"):
            await dataset.limit(5).preload()
        with pytest.raises(jb.InvalidRequestError, match="limit of 5"):
            await dataset.limit(5).preload_estimate()
        with pytest.raises(jb.InvalidRequestError, match="date_as_object"):
            await dataset.to_pandas(dtype_backend="pyarrow", date_as_object=True)

    go(work)
    with pytest.raises(ConnectionError):
        asyncio.run(jb.connect_async("grpc://127.0.0.1:1"))


def test_the_loop_goes_on_while_rows_are_read(go: Callable[..., object]) -> None:
    async def work(client: jb.AsyncClient) -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.create_task(tick())
        await asyncio.gather(*(client.dataset("/lake/trips").to_arrow() for _ in range(100)))
        ticking.cancel()
        assert ticks > 3

    go(work)


def test_a_wait_that_is_cancelled_ends_at_once(go: Callable[..., object]) -> None:
    async def work(client: jb.AsyncClient) -> None:
        job = await client.preload("/lake/trips", columns=["vendor"], every="1h")
        waiting = asyncio.create_task(job.wait(progress=False))
        await asyncio.sleep(0.2)
        waiting.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        # The job would go on for ever.
        assert time.monotonic() - began < 20
        await job.cancel()

    go(work)


def test_a_stream_that_is_left_early_is_closed(go: Callable[..., object]) -> None:
    async def work(client: jb.AsyncClient) -> None:
        rows = client.dataset("/lake/trips").to_batches()
        async for batch in rows:
            assert batch.num_rows
            break
        await rows.aclose()  # type: ignore[attr-defined]
        assert await client.dataset("/lake/trips").count() == ROWS

    go(work)


def test_batches_that_are_left_early_have_closed_their_stream(
    go: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(client: jb.AsyncClient) -> None:
        dataset = client.dataset("/lake/trips")
        begin = dataset._stream
        streams: list[jb._native.Stream] = []

        def noted(plan: jb._native.Plan) -> jb._native.Stream:
            streams.append(begin(plan))
            return streams[-1]

        monkeypatch.setattr(dataset, "_stream", noted)
        rows = dataset.to_batches()
        async for batch in rows:
            assert batch.num_rows
            break
        await rows.aclose()  # type: ignore[attr-defined]
        assert [stream.closed for stream in streams] == [True]

    go(work)


class Watching:
    """A client, its watch, and the task of the watch, which tells each time that the job runs."""

    def __init__(self, error: Exception | None = None) -> None:
        self._connection = self
        self.error = error
        self.is_closed = False

    def watch(self, *_: str) -> Watching:
        return self

    def next(self) -> Watching:
        if self.error is not None:
            raise self.error
        return self

    def on_done(self, wake: Callable[[], object]) -> None:
        wake()

    def result(self) -> str:
        return '{"id": "x", "state": "RUNNING"}'

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True


def watched(watching: Watching) -> jb.aio.AsyncJob:
    client: Any = watching
    return jb.aio.AsyncJob(client, jb.JobStatus(id="x", state="RUNNING"))


def test_a_function_that_raises_has_ended_the_watch() -> None:
    def fails(_: jb.JobStatus) -> None:
        raise LookupError("not so")

    async def work() -> None:
        watching = Watching()
        with pytest.raises(LookupError, match="not so"):
            await watched(watching).wait(progress=fails)
        assert watching.is_closed

    asyncio.run(work())


def test_a_call_that_takes_too_long_is_told_as_that_and_not_as_a_job_that_does() -> None:
    watch: Any = Watching(jb.DeadlineExceededError("the server said nothing"))
    with pytest.raises(jb.DeadlineExceededError, match="said nothing"):
        asyncio.run(watched(watch)._next(watch, Deadline(None)))


def test_clients_and_scans_are_pickled_and_compared(go: Callable[..., object]) -> None:
    async def work(client: jb.AsyncClient) -> None:
        scan = client.dataset("/lake/trips").select("id").limit(3)
        await scan.schema
        other = pickle.loads(pickle.dumps(scan))
        async with other._client as its_client:
            assert its_client == client
            assert (other, hash(other)) == (scan, hash(scan))
            assert other != scan.limit(2)
            assert (await other.to_arrow()).num_rows == 3

    go(work)


def test_results_are_pickled(go: Callable[..., object]) -> None:
    async def work(client: jb.AsyncClient) -> None:
        result = await client.sql("select id from lake.trips limit 3")
        other = pickle.loads(pickle.dumps(result))
        async with other._client as its_client:
            assert its_client == client
            assert other.query == result.query
            assert (await other.schema).names == (await result.schema).names == ["id"]
            assert (await other.to_arrow()).num_rows == 3

    go(work)


def test_a_loop_that_is_gone_is_not_woken(local_cluster: jb.LocalCluster) -> None:
    async def leave() -> None:
        client = jb.AsyncClient(local_cluster.uri)
        for _ in range(20):
            client._connection.action("server.status", "{}").on_done(lambda: None)
            task = asyncio.ensure_future(client.status())
            await asyncio.sleep(0)
            task.cancel()

    for _ in range(3):
        asyncio.run(leave())
