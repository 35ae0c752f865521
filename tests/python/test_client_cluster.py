"""`LocalCluster`: started, ready, closed, and gone whatever becomes of its process; and workers that are lost."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import jetbridge as jb
import pyarrow as pa
import pytest
from jetbridge import _memory

from harness import files
from harness.leftovers import assert_nothing_is_left, held, is_alive, until
from harness.process import clean_environment
from harness.trips import ROWS, trips

# Workers that are killed within a read until one is needed.
KILLS = 8
HOLDER = """
    import os, sys, time
    import jetbridge as jb

    cluster = jb.LocalCluster(workers=2, mounts={{"/lake": {folder!r}}})
    print(cluster.data_dir, *[node.pid for node in [cluster.coordinator, *cluster.workers]], flush=True)
    {then}
"""


class Holder:
    """A program that has a cluster."""

    def __init__(self, folder: Path, then: str) -> None:
        program = textwrap.dedent(HOLDER.format(folder=str(folder), then=then))
        self.process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        data_dir, *pids = self.process.stdout.readline().split()
        self.data_dir, self.pids = Path(data_dir), [int(pid) for pid in pids]

    def assert_nothing_is_left(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()
        until(lambda: not any(map(is_alive, self.pids)), "its processes are gone", 60)


def test_a_cluster_is_ready_when_it_is_there(trips_folder: Path, jb_client: jb.Client) -> None:
    # What a process has once and for all is there, and what was read before is put away.
    jb_client.status()
    time.sleep(3)
    before = held()
    with jb.LocalCluster(workers=3, mounts={"/lake": str(trips_folder)}) as cluster:
        assert [node.is_running for node in cluster.workers] == [True] * 3
        with cluster.connect() as client:
            assert client.status().workers == 3
            assert {worker.seat for worker in client.workers()} == {True}
            assert client.dataset("/lake/trips").to_arrow().equals(trips())
        folder = cluster.data_dir
        assert folder.is_dir()
        assert "<table>" in cluster._repr_html_()
        assert "3 workers" in repr(cluster)
    assert not folder.exists()
    assert cluster.closed
    assert not any(node.is_running for node in [cluster.coordinator, *cluster.workers])
    with pytest.raises(jb.ClosedError):
        cluster.connect()
    cluster.close()
    del cluster, client
    assert_nothing_is_left(before)


def test_one_process_that_does_everything(trips_folder: Path) -> None:
    with jb.LocalCluster(workers=0, mounts={"/lake": trips_folder}, memory=256 << 20) as cluster:
        assert cluster.workers == []
        with cluster.connect() as client:
            assert client.status().role == "all"
            assert client.status().memory_budget_bytes == 256 << 20
            assert client.dataset("/lake/trips").count() == ROWS


def test_a_data_folder_outlives_its_cluster(trips_folder: Path, tmp_path: Path) -> None:
    mounts = {"/lake": {"uri": f"file://{trips_folder}", "options": {"freshness": "immutable"}, "read_only": True}}
    for _ in range(2):
        cluster = jb.LocalCluster(workers=1, mounts=mounts, data_dir=tmp_path / "data")
        with cluster, cluster.connect() as client:
            assert client.mounts()[0].read_only
            assert client.dataset("/lake/trips").count() == ROWS
            client.unmount("/lake")
    assert (tmp_path / "data" / "worker-1").is_dir()


def test_a_process_that_does_not_start_says_why(jb_client: jb.Client) -> None:
    jb_client.status()
    time.sleep(3)
    before = held()
    with pytest.raises(jb.UnavailableError, match="colour"):
        jb.LocalCluster(workers=1, args=["--colour", "blue"])
    with pytest.raises(jb.JetbridgeError):
        jb.LocalCluster(workers=0, mounts={"/lake": "nonsense://x"})
    assert_nothing_is_left(before)


def test_what_is_wrong_with_its_memory_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(jb.InvalidRequestError, match="512MiB"):
        jb.LocalCluster(workers=0, memory="lots")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("mount", "words", "nearest"),
    [
        ({"uri": "/data", "readonly": True}, '"readonly" is no key', "read_only"),
        ({"uri": "s3://data", "option": {"anonymous": "true"}}, '"option" is no key', "options"),
        ({"options": {}}, "has no uri", None),
        (7, "not 7", None),
    ],
)
def test_what_is_wrong_with_a_mount_is_said_before_anything_starts(
    mount: dict[str, object], words: str, nearest: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(jb.InvalidRequestError, match=words) as caught:
        jb.LocalCluster(workers=0, mounts={"/lake": mount})
    assert caught.value.nearest == nearest
    assert list(tmp_path.iterdir()) == []


def test_a_mount_that_is_a_dict_may_be_of_a_folder(trips_folder: Path) -> None:
    mounts = {"/lake": {"uri": trips_folder, "read_only": True}}
    with jb.LocalCluster(workers=0, mounts=mounts) as cluster, cluster.connect() as client:
        assert client.mounts()[0].uri == f"file://{trips_folder}"
        assert client.dataset("/lake/trips").count() == ROWS


class ToldError(Exception):
    """What a process is started with is known, and it need not start."""


@pytest.mark.parametrize(
    ("workers", "memory", "each"),
    [
        # What a server takes by itself, which is the same.
        (0, None, []),
        (1, None, []),
        (4, None, ["--memory", str(256 << 20)]),
        # The least that one takes.
        (64, None, ["--memory", str(64 << 20)]),
        (2, "1GiB", ["--memory", str(512 << 20)]),
    ],
)
def test_what_control_groups_allow_is_divided_among_the_workers(
    workers: int, memory: str | None, each: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def node(_name: str, words: list[str], *_: object) -> None:
        started.extend(words)
        raise ToldError

    monkeypatch.setattr("jetbridge.cluster.Node", node)
    monkeypatch.setattr(_memory, "machine_bytes", lambda: 3 << 30)
    with pytest.raises(ToldError):
        jb.LocalCluster(workers=workers, memory=memory)
    at = started.index("--memory") if "--memory" in started else len(started)
    assert started[at : at + 2] == each


GROUPS_1 = "5:cpu,cpuacct:/x\n4:memory:/x\n"


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ({}, 8 << 30),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "max\n"}, 8 << 30),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{512 << 20}\n"}, 512 << 20),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/memory.max": f"{1 << 30}\n",
                "sys/fs/cgroup/a/b/memory.max": f"{2 << 30}\n",
            },
            1 << 30,
        ),
        ({"proc/self/cgroup": GROUPS_1, "sys/fs/cgroup/memory/x/memory.limit_in_bytes": f"{2 << 30}\n"}, 2 << 30),
        ({"proc/self/cgroup": GROUPS_1, "sys/fs/cgroup/memory/x/memory.limit_in_bytes": f"{2**63 - 4096}\n"}, 8 << 30),
        ({"proc/meminfo": ""}, None),
    ],
)
def test_the_machine_is_what_servers_take_it_for(tmp_path: Path, system: dict[str, str], expected: int | None) -> None:
    """The cases of the server's own test, in `flight-server/src/config/machine.rs`."""
    for name, text in {"proc/meminfo": "MemTotal:        8388608 kB\nMemFree:  1 kB\n", **system}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert _memory.machine_bytes(tmp_path) == expected


def test_a_cluster_connects_with_all_options_that_there_are() -> None:
    ours, others = (inspect.signature(each).parameters.values() for each in (jb.LocalCluster.connect, jb.connect))
    expected = [(option.name, option.default) for option in others if option.name != "uri"]
    assert [(option.name, option.default) for option in ours if option.name != "self"] == expected


def test_a_worker_is_added_and_one_is_killed(trips_folder: Path) -> None:
    with jb.LocalCluster(workers=1, mounts={"/lake": trips_folder}) as cluster, cluster.connect() as client:
        added = cluster.add_worker()
        assert client.status().workers == 2
        added.kill()
        assert not added.is_running
        assert client.dataset("/lake/trips").to_arrow().equals(trips())
        assert cluster.workers[0].stop() == 0


def test_nothing_is_left_of_a_program_that_forgets_to_close(trips_folder: Path) -> None:
    holder = Holder(trips_folder, "")
    assert holder.process.wait(60) == 0
    holder.assert_nothing_is_left()
    assert not holder.data_dir.exists()


def test_nothing_is_left_of_a_program_that_fails(trips_folder: Path) -> None:
    holder = Holder(trips_folder, "raise SystemExit(3)")
    assert holder.process.wait(60) == 3
    holder.assert_nothing_is_left()
    assert not holder.data_dir.exists()


def test_nothing_is_left_of_a_program_that_is_killed(trips_folder: Path) -> None:
    holder = Holder(trips_folder, "time.sleep(60)")
    assert all(map(is_alive, holder.pids))
    holder.process.kill()
    holder.process.wait()
    holder.assert_nothing_is_left()
    # Its folder goes with the next cluster that makes one.
    with jb.LocalCluster(workers=0) as other:
        assert not holder.data_dir.exists()
        assert other.data_dir.is_dir()


def test_a_fork_of_it_keeps_nothing_and_ends_nothing(trips_folder: Path) -> None:
    then = """
    if os.fork() == 0:
        time.sleep(120)
        os._exit(0)
    child = os.fork()
    if child == 0:
        cluster.close()
        sys.exit(0)
    os.waitpid(child, 0)
    print(cluster.connect().status().workers, flush=True)
    time.sleep(60)
    """.replace("\n    ", "\n    ")
    holder = Holder(trips_folder, textwrap.indent(textwrap.dedent(then), "    ").strip())
    assert holder.process.stdout is not None
    assert holder.process.stdout.readline() == "2\n", "the fork that ended took nothing with it"
    holder.process.kill()
    holder.process.wait()
    # The other fork sleeps on, and holds nothing of it.
    holder.assert_nothing_is_left()


def test_ctrl_c_in_a_terminal_is_for_the_program_alone(trips_folder: Path) -> None:
    then = """
    try:
        print("waiting", flush=True)
        time.sleep(200)
    except KeyboardInterrupt:
        print(cluster.connect().dataset("/lake/trips").count(), flush=True)
    """
    holder = Holder(trips_folder, textwrap.indent(textwrap.dedent(then), "    ").strip())
    assert holder.process.stdout is not None
    assert holder.process.stdout.readline() == "waiting\n"
    # A terminal sends it to all processes of the foreground's group.
    os.kill(holder.process.pid, signal.SIGINT)
    out, _ = holder.process.communicate(timeout=90)
    assert out == f"{ROWS}\n"
    holder.assert_nothing_is_left()


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two million numbers in eight files of many row groups."""
    folder = tmp_path_factory.mktemp("numbers")
    for number in range(8):
        rows = range(number * 250_000, (number + 1) * 250_000)
        table = pa.table({"n": pa.array(rows, pa.int64()), "text": [f"row {row}" for row in rows]})
        files.write(folder / "numbers" / f"{number}.parquet", table, row_group_size=10_000)
    return folder


@pytest.mark.parametrize("ordered", [True, False])
def test_a_worker_that_is_killed_in_the_middle_of_a_read(numbers: Path, ordered: bool) -> None:
    """All rows come, each time; and the worker must have been needed once.

    It is not where it has sent all before: that lies in its socket, and memory that was handed over outlives it.
    """
    assert any(_failovers(numbers, ordered) for _ in range(KILLS)), "the worker was never needed when it went"


def _failovers(numbers: Path, ordered: bool) -> int:
    """Reads everything while a worker is killed; how often an endpoint was gone on with elsewhere."""
    cluster = jb.LocalCluster(workers=3, mounts={"/n": numbers}, memory="768MiB")
    with cluster, jb.connect(cluster.uri, buffer_bytes=1 << 20) as client:
        rows = client.dataset("/n/numbers").select("n", "text")
        rows = rows if ordered else rows.unordered()
        plan = rows.plan()
        assert len({split.owner for split in plan}) == 3
        stream = rows._stream(plan._native)
        seen: list[pa.RecordBatch] = []
        while (batch := _next(stream)) is not None:
            seen.append(pa.record_batch(batch))
            if len(seen) == 2:
                cluster.workers[1].kill()
        values = pa.Table.from_batches(seen).column("n").to_pylist()
        assert (values if ordered else sorted(values)) == list(range(2_000_000))
        assert rows.count() == 2_000_000
        return stream.failovers


def _next(stream: jb._native.Stream) -> jb.RecordBatch | None:
    task = stream.next()
    task.wait()
    return task.result()


def test_serve_with_workers_from_the_package_itself(trips_folder: Path, tmp_path: Path) -> None:
    """`python -m jetbridge serve --workers 2`: what it starts is the same program."""
    words = ["serve", "--workers", "2", "--until-stdin-closes", "--data-dir", str(tmp_path), "--flight", "127.0.0.1:0"]
    words += ["--admin", "127.0.0.1:0", "--mount", f"/lake={trips_folder}", "--memory", "256MiB"]
    process = subprocess.Popen(
        [sys.executable, "-m", "jetbridge", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**clean_environment(), "JETBRIDGE_PROGRESS": "0"},
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        ready = process.stdout.readline()
        uri = ready.split("flight=")[1].split()[0]
        with jb.connect(uri) as client:
            assert client.status().workers == 2
            assert client.dataset("/lake/trips").count() == ROWS
        process.stdin.close()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
