"""A process forks while its threads read, and the child reads too."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

import datafusion
import jetbridge as jb
import pyarrow as pa
import pytest

from harness import files
from harness.leftovers import held, until

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

FORKS = 50
# A child that hangs is killed then, and the test fails. A read takes tens of milliseconds.
CHILD_TIMEOUT_S = 60
ROWS, FILES = 400_000, 4


@pytest.fixture(scope="module")
def big_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[jb.LocalCluster]:
    folder = tmp_path_factory.mktemp("big")
    each = ROWS // FILES
    for at in range(FILES):
        numbers = pa.array(range(at * each, (at + 1) * each), pa.int64())
        table = pa.table({"id": numbers, "text": numbers.cast(pa.string())})
        files.write(folder / f"{at}.parquet", table, row_group_size=20_000)
    with jb.LocalCluster(workers=0, mounts={"/big": folder}) as cluster:
        # Decoded, so that they are read over shared memory where that is allowed.
        with cluster.connect() as client:
            client.dataset("/big").preload(tier="decoded").wait(progress=False)
        yield cluster


def all_at_once(dataset: jb.Dataset) -> int:
    return dataset.to_arrow().num_rows


def one_by_one(dataset: jb.Dataset) -> int:
    return sum(len(batch) for batch in dataset)


def slowly(dataset: jb.Dataset) -> int:
    """So that what reads ahead waits for room."""
    return sum(batch.num_rows for batch in dataset.to_batches() if time.sleep(0.001) is None)


def by_a_library(dataset: jb.Dataset) -> int:
    """Which waits in C, without the interpreter's lock."""
    return pa.table(dataset).num_rows


def by_a_query(dataset: jb.Dataset) -> int:
    """Of another library, whose own threads read."""
    context = datafusion.SessionContext()
    context.register_table("t", dataset)
    return sum(batch.num_rows for batch in context.sql("select id, text from t").collect())


def not_to_the_end(dataset: jb.Dataset) -> int:
    reader = dataset.to_reader()
    reader.read_next_batch()
    reader.close()
    next(iter(dataset))
    return ROWS


WAYS = (all_at_once, one_by_one, slowly, by_a_library, by_a_query, not_to_the_end)


@contextlib.contextmanager
def reading(dataset: jb.Dataset) -> Iterator[None]:
    """Threads that read in every way meanwhile, and read well."""
    stop = threading.Event()
    wrong: list[object] = []
    counts = dict.fromkeys(WAYS, 0)

    def read(way: Callable[[jb.Dataset], int]) -> None:
        while not stop.is_set():
            try:
                rows = way(dataset)
            except BaseException as error:
                wrong.append(error)
                return
            if rows != ROWS:
                wrong.append((way, rows))
            counts[way] += 1

    threads = [threading.Thread(target=read, args=(way,)) for way in WAYS]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert min(counts.values()) > 0, f"not every way was gone: {counts}"


def child_of_a_fork(work: Callable[[], object]) -> int:
    """Runs something in a forked process; its exit code, which is that of a signal where it hung."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            # Its default action ends the process, whatever its threads wait for.
            signal.alarm(CHILD_TIMEOUT_S)
            work()
            code = 0
        except BaseException as error:
            sys.stderr.write(f"in the fork: {error!r}\n")
            sys.stderr.flush()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.mark.parametrize(
    ("local", "wire"),
    [(True, "auto"), (False, "auto"), (False, "raw")],
    # By the last one, threads of the process decode.
    ids=["shared-memory", "tcp", "as-stored"],
)
def test_fifty_forks_while_threads_read_in_every_way(big_cluster: jb.LocalCluster, local: bool, wire: str) -> None:
    with jb.connect(big_cluster.uri, local=local, wire=wire, buffer_bytes=1 << 20) as client:
        dataset = client.dataset("/big")

        def work() -> None:
            # A client of the child's own, and the one that it has from its parent.
            with jb.connect(big_cluster.uri, local=local, wire=wire) as own:
                assert own.dataset("/big").to_arrow().num_rows == ROWS
            assert dataset.select("id").to_arrow().num_rows == ROWS
            assert one_by_one(dataset) == ROWS

        with reading(dataset):
            codes = [child_of_a_fork(work) for _ in range(FORKS)]
    assert codes == [0] * FORKS


@pytest.mark.parametrize("waiting", [5, 100])
def test_threads_that_wait_for_an_answer_are_not_in_the_way_of_a_child(
    big_cluster: jb.LocalCluster, waiting: int
) -> None:
    """Each stands in no table of the process, which the child's threads would be entered into."""
    ended: list[BaseException] = []
    with socket.create_server(("127.0.0.1", 0), backlog=waiting * 2) as silent, big_cluster.connect() as client:
        dataset = client.dataset("/big").select("id")
        uri = f"grpc://127.0.0.1:{silent.getsockname()[1]}"
        stuck = jb.connect(uri, check=False, connect_timeout=CHILD_TIMEOUT_S * FORKS, retries=0)

        def wait() -> None:
            try:
                stuck.dataset("/none").count()
            except BaseException as error:
                ended.append(error)

        def work() -> None:
            readers = [threading.Thread(target=one_by_one, args=(dataset,)) for _ in range(10)]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()
            assert one_by_one(dataset) == ROWS

        threads = [threading.Thread(target=wait) for _ in range(waiting)]
        for thread in threads:
            thread.start()
        until(lambda: held().threads > waiting, "all threads wait")
        codes = [child_of_a_fork(work) for _ in range(10)]
        assert ended == [], "they wait all the time"
        stuck.close()
    for thread in threads:
        thread.join()
    assert codes == [0] * 10


def test_what_the_parent_read_is_let_go_of_in_the_child(big_cluster: jb.LocalCluster) -> None:
    with big_cluster.connect() as client:
        dataset = client.dataset("/big")
        held = [dataset.to_arrow(), next(iter(dataset)), dataset.to_reader()]

        def work() -> None:
            held.clear()
            assert all_at_once(dataset) == ROWS

        with reading(dataset):
            codes = [child_of_a_fork(work) for _ in range(10)]
        assert held[0].num_rows == ROWS
    assert codes == [0] * 10


def test_a_fork_waits_for_no_stream_that_stands(big_cluster: jb.LocalCluster) -> None:
    with jb.connect(big_cluster.uri, buffer_bytes=1 << 20) as client:
        streams = [iter(client.dataset("/big")) for _ in range(4)]
        for stream in streams:
            next(stream)
        began = time.monotonic()
        codes = [child_of_a_fork(lambda: None) for _ in range(20)]
        assert codes == [0] * 20
        # It would be half a second for each that did not stand.
        assert time.monotonic() - began < 8
        assert sum(len(batch) for batch in streams[0]) < ROWS
