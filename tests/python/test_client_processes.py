"""The Python package and processes: forks, spawns, Ctrl-C, and what is left of it all, which is nothing."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import duckdb
import jetbridge as jb
import numpy as np
import pyarrow as pa
import pytest

from harness import files
from harness.counting import CountingStore
from harness.leftovers import assert_nothing_is_left, held, until
from harness.trips import ROWS, trips

CHILD_TIMEOUT_S = 60
# Too large to come with its footer.
BIG_ROWS = 4_000_000


def in_fork(work: Callable[[], object]) -> None:
    """Runs something in a forked process, and fails where it fails or hangs."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(CHILD_TIMEOUT_S)
            work()
            code = 0
        except BaseException as error:
            sys.stderr.write(f"in the fork: {error!r}\n")
            sys.stderr.flush()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def test_a_client_that_was_used_is_used_on_after_a_fork(jb_client: jb.Client) -> None:
    dataset = jb_client.dataset("/lake/trips")
    assert dataset.count() == ROWS

    def work() -> None:
        assert dataset.to_arrow().equals(trips())
        assert jb_client.mounts()[0].path == "/lake"

    for _ in range(3):
        in_fork(work)
        assert dataset.to_arrow().equals(trips()), "the parent goes on, too"


def test_a_fork_in_the_middle_of_a_read(jb_client: jb.Client) -> None:
    dataset = jb_client.dataset("/lake/trips")
    batches = iter(dataset)
    first = next(batches)
    stream = dataset._stream(dataset.plan()._native)
    task = stream.collect()

    def work() -> None:
        for use in (lambda: next(batches), stream.next, task.wait, task.result):
            with pytest.raises(jb.ClosedError, match="forked"):
                use()
        # What had come is there.
        assert pa.record_batch(first).num_rows == first.num_rows
        assert dataset.count() == ROWS

    in_fork(work)
    assert first.num_rows + sum(batch.num_rows for batch in batches) == ROWS
    task.wait()
    assert task.result().num_rows == ROWS


def test_forks_while_other_threads_read(jb_client: jb.Client) -> None:
    dataset = jb_client.dataset("/lake/trips")
    stop = threading.Event()
    counts: list[int] = []

    def read() -> None:
        while not stop.is_set():
            counts.append(dataset.to_arrow().num_rows)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            in_fork(lambda: dataset.select("id").count())
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(counts) == {ROWS}


def _read_in_child(pickled: bytes, results: multiprocessing.SimpleQueue[object]) -> None:
    scan = pickle.loads(pickled)
    results.put((scan.count(), scan.to_arrow().column("id").to_pylist()[:3]))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(jb_client: jb.Client, method: str) -> None:
    scan = jb_client.dataset("/lake/trips").select("id")
    assert scan.count() == ROWS
    context = multiprocessing.get_context(method)
    results = context.SimpleQueue()
    workers = [context.Process(target=_read_in_child, args=(pickle.dumps(scan), results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    assert [results.get() for _ in workers] == [(ROWS, [0, 1, 2])] * 3
    for worker in workers:
        worker.join(CHILD_TIMEOUT_S)
        assert worker.exitcode == 0
        worker.close()
    results.close()


def test_nothing_is_left_of_fifty_clients(local_cluster: jb.LocalCluster) -> None:
    def once() -> None:
        with local_cluster.connect() as client:
            dataset = client.dataset("/lake/trips")
            assert dataset.to_arrow().num_rows == ROWS
            # One that is not read to its end.
            next(iter(dataset.to_batches()))

    for _ in range(3):
        once()
    time.sleep(3)
    before = held()
    for _ in range(50):
        once()
    assert_nothing_is_left(before)


def test_nothing_is_left_of_clients_that_nobody_closes(local_cluster: jb.LocalCluster) -> None:
    local_cluster.connect().dataset("/lake/trips").to_arrow()
    time.sleep(3)
    before = held()
    for _ in range(20):
        client = local_cluster.connect()
        rows = iter(client.dataset("/lake/trips"))
        next(rows)
        del client, rows
    assert_nothing_is_left(before)


def test_reading_into_arrow_imports_no_pandas(local_cluster: jb.LocalCluster) -> None:
    """It takes a quarter of a second, which nobody who reads into Arrow has asked for."""
    program = f"""
        import sys
        import jetbridge as jb

        with jb.connect({local_cluster.uri!r}) as client:
            assert client.dataset("/lake/trips").to_arrow().num_rows
            assert client.sql("select 1 as one").to_arrow().num_rows == 1
        assert "pandas" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


SLOW_READ = """
    import signal, sys, threading, time
    # A shell that runs the tests behind itself has them ignore interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # An interrupt must not come while they are imported, which takes its time on a busy machine.
    import datafusion, duckdb, polars as pl, pyarrow as pa
    import jetbridge as jb

    client = jb.connect({uri!r})
    rows = client.dataset("/stuck/big")
    try:
        # Said by another thread, when this one is in the middle of it.
        threading.Timer(0.7, print, ["begun"], {{"flush": True}}).start()
        {read}
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.exit(0)
    print("read to the end", flush=True)
"""

READS = {
    "to_arrow": "rows.to_arrow()",
    "to_arrow with a bar": "rows.to_arrow(progress=lambda progress: None)",
    "to_batches": "[batch for batch in rows.to_batches() if time.sleep(0.01) is None]",
    "pyarrow": "pa.table(rows)",
    "polars": "pl.DataFrame(rows)",
    # A thread of DuckDB's own sees no signals: read by one, an interrupt waits for the batch that is under way.
    "duckdb": "duckdb.sql('set threads = 1'); duckdb.sql('select sum(n) from rows').fetchall()",
    "datafusion": "context = datafusion.SessionContext(); context.read_table(rows).collect()",
    "job": "rows.preload(every='1h').wait(progress=False)",
    "count": "rows.filter('n >= 0').count()",
}


# Reads by libraries in C, which know no interrupt.
CONSUMERS = {"pyarrow", "polars", "duckdb"}


@pytest.mark.parametrize("name", READS)
def test_ctrl_c_in_the_middle_of_a_read(stuck: Stuck, name: str) -> None:
    if name == "duckdb" and duckdb.__version__.startswith("1."):
        pytest.skip("DuckDB 1 reads streams on a thread of Arrow's, which sees no signals")
    program = textwrap.dedent(SLOW_READ.format(uri=stuck.uri, read=READS[name]))
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "begun\n"
            assert child.poll() is None, "it has to be in the middle of it"
            began = time.monotonic()
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=60)
            took = time.monotonic() - began
        finally:
            child.kill()
    # The read would go on for ever.
    assert took < 20, f"it took {took:.1f} s"
    if name in CONSUMERS:
        # An error of the library that reads, in its own words.
        assert "the read was interrupted" in err, out + err
    else:
        assert out == "interrupted\n", out + err


@dataclass(frozen=True)
class Stuck:
    """A cluster whose storage answers nothing any more, after it was planned: reads of `/stuck/big` begin and wait."""

    uri: str
    store: CountingStore


@pytest.fixture(scope="module")
def stuck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stuck]:
    """One for all tests of this file."""
    folder = tmp_path_factory.mktemp("stuck")
    numbers = np.random.default_rng(7).integers(0, 1 << 62, BIG_ROWS)
    files.write(folder / "big" / "a.parquet", {"n": numbers}, row_group_size=BIG_ROWS // 8)
    with CountingStore(folder) as store:
        mounted = {"/stuck": {"uri": store.uri, "options": {**store.options, "freshness": "immutable"}}}
        with jb.LocalCluster(workers=0, mounts=mounted, memory="256MiB") as cluster:
            with cluster.connect() as client:
                assert client.dataset("/stuck/big").plan().rows == BIG_ROWS
            with store.held_back():
                yield Stuck(cluster.uri, store)


def test_ctrl_c_ends_a_loop_that_goes_on_after_every_error(stuck: Stuck) -> None:
    read = """while True:
            try:
                pa.table(rows)
            except Exception as error:
                print(type(error).__name__, flush=True)"""
    program = textwrap.dedent(SLOW_READ.format(uri=stuck.uri, read=read))
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert re.fullmatch(r"(OSError\n)+interrupted\n", out), out + err


def test_ctrl_c_of_a_program_that_does_not_catch_it(stuck: Stuck) -> None:
    program = textwrap.dedent(SLOW_READ.format(uri=stuck.uri, read="rows.to_arrow()")).replace(
        "except KeyboardInterrupt", "except ZeroDivisionError"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in err


def test_a_program_ends_while_reads_are_under_way(stuck: Stuck) -> None:
    program = textwrap.dedent(
        f"""
        import threading, time
        import jetbridge as jb

        rows = jb.connect({stuck.uri!r}).dataset("/stuck/big")
        stream = rows._stream(rows.plan()._native)
        task = stream.collect()
        batches = iter(rows)
        threading.Thread(target=rows.to_arrow, daemon=True).start()
        time.sleep(0.3)
        print("ends", flush=True)
        """
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ends\n"
        _, err = child.communicate(timeout=15)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0, err


def test_other_threads_run_while_one_waits(stuck: Stuck) -> None:
    rows = jb.connect(stuck.uri).dataset("/stuck/big")
    reading = threading.Thread(target=lambda: pa.RecordBatchReader.from_stream(rows).read_next_batch(), daemon=True)
    reading.start()
    ticks = 0
    began = time.monotonic()
    while time.monotonic() - began < 0.5 or ticks <= 10_000:
        ticks += 1
        assert time.monotonic() - began < 30, "the interpreter's lock is held"
    assert reading.is_alive()
    stuck.store.open_gate()
    until(lambda: not reading.is_alive(), "the batch comes", 60)
