"""A cluster of this machine's own, for notebooks, tests and trying things out: the same program, as child processes."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from jetbridge import _html, _memory, _text
from jetbridge._options import Wire
from jetbridge._spec import meant
from jetbridge.client import Client, connect
from jetbridge.errors import ClosedError, DeadlineExceededError, InvalidRequestError, UnavailableError

_log = logging.getLogger(__name__)

# How long a process may take to be ready, and to stop once it was asked to.
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
SEAT_INTERVAL_S = 0.05
LOG_TAIL_BYTES = 4000
MAX_WORKERS = 64
# Of the machine's memory the part that servers take by default, what they take where it is unknown, and their least.
MEMORY_SHARE = 3
FALLBACK_MEMORY_BYTES = 1 << 30
LEAST_MEMORY_BYTES = 64 << 20
# What a mount may be told of, where it is a dict.
MOUNT_KEYS = ("uri", "options", "read_only")

_READY = "jetbridge ready "
# Temporary folders, and the file in each that says whose it is.
_FOLDER_PREFIX = "jetbridge-"
_OWNER = "owner.pid"
_open: weakref.WeakSet[LocalCluster] = weakref.WeakSet()


class Node:
    """One process of a local cluster.

    >>> cluster.workers[0].is_running
    True
    """

    def __init__(self, name: str, words: Sequence[str], folder: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.log_path = folder / f"{name}.log"
        self._owner = os.getpid()
        # Not the folder that this runs in: something there may have our name.
        safe = ["-P"] if sys.version_info >= (3, 11) else []
        with self.log_path.open("ab") as log:
            # It ends when its standard input does: whatever becomes of this process, nothing is left behind.
            self._process = subprocess.Popen(
                [sys.executable, *safe, "-m", "jetbridge", *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=dict(env),
                # Ctrl-C in a terminal is meant for the program that has the cluster; it decides what becomes of it.
                start_new_session=True,
            )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=_pump, args=(self._process, self._lines), name=f"jetbridge-{name}", daemon=True).start()
        self.uri = ""
        self.admin = ""

    @property
    def pid(self) -> int:
        """Its process id.

        >>> cluster.workers[0].pid > 0
        True
        """
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended.

        >>> cluster.coordinator.is_running
        True
        """
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """The end of what it has logged.

        >>> cluster.coordinator.log.count("ready") > 0 or len(cluster.coordinator.log) > 1000
        True
        """
        with contextlib.suppress(OSError):
            return self.log_path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
        return ""

    def kill(self) -> None:
        """Ends it at once, as a crash would.

        >>> with jb.LocalCluster(workers=2) as other:
        ...     other.workers[1].kill()
        ...     [worker.is_running for worker in other.workers]
        [True, False]
        """
        self._require_owner()
        self._process.kill()
        self._process.wait()
        self._close_pipes()

    def stop(self, timeout: float = STOP_TIMEOUT_S) -> int:
        """Lets it end in order, and ends it if it takes longer; its exit code.

        >>> with jb.LocalCluster(workers=1) as other:
        ...     other.workers[0].stop()
        0
        """
        self._require_owner()
        self._ask_to_stop()
        return self._wait(timeout)

    def _ask_to_stop(self) -> None:
        if self.is_running:
            self._process.terminate()

    def _wait(self, timeout: float) -> int:
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            _log.warning("%s did not stop in time, and was killed", self.name)
            self._process.kill()
            code = self._process.wait()
        self._close_pipes()
        return code

    def _wait_until_ready(self, deadline: float) -> None:
        while True:
            try:
                line = self._lines.get(timeout=max(deadline - time.monotonic(), 0.0))
            except queue.Empty:
                words = f"{self.name} was not ready within {START_TIMEOUT_S:.0f} s"
                raise DeadlineExceededError(words, hint=self.log.strip() or None) from None
            if line is None:
                words = f"{self.name} ended with {self._process.wait()} instead of being ready"
                raise UnavailableError(words, hint=self.log.strip() or None)
            if line.startswith(_READY):
                said = dict(word.split("=", 1) for word in line[len(_READY) :].split())
                self.uri, self.admin = said["flight"], said["admin"]
                _log.info("%s is ready at %s, process %d", self.name, self.uri, self.pid)
                return

    def _require_owner(self) -> None:
        if self._owner != os.getpid():
            raise ClosedError(f"{self.name} belongs to the process {self._owner}, from which this one was forked")

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                # The thread that reads ends with the process, which has closed its side.
                with contextlib.suppress(OSError):
                    pipe.close()

    def _forget(self) -> None:
        """In a forked process: lets go of the end of the pipe that keeps the child running."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        # It is not this process's child, to wait for or to warn of.
        self._process.returncode = 0

    def __repr__(self) -> str:
        return f"<Node {self.name} {self.uri} pid {self.pid}{'' if self.is_running else ' (ended)'}>"


class LocalCluster:
    """A coordinator and workers on this machine, ready when this returns, gone when it is closed, when the interpreter
    ends, and when its process is killed.

    Args:
        workers: how many worker processes; 0 for one process that does everything.
        mounts: what to mount where: a URI or a folder, or a dict of it as ``uri``, ``options`` and ``read_only``.
        memory: what all workers together may hold in memory, such as ``"2GiB"`` or a number of bytes; a third of
            the machine by default, for which a control group's limit counts.
        data_dir: where data and logs go; a temporary folder that goes away with the cluster, by default.
        file_roots: folders that ``file://`` mounts may lie in, besides those of ``mounts``.
        args: more words for the command line of each process, such as ``["--log", "debug"]``.
        env: more variables of their environment, such as secrets that mounts refer to.

    Raises:
        UnavailableError: a process ended instead of being ready; the hint has the end of its log.
        InvalidRequestError: an argument is wrong.

    >>> with jb.LocalCluster(workers=2, mounts={"/lake": folder}) as other:
    ...     other.connect().dataset("/lake/trips").count()
    1000
    """

    def __init__(
        self,
        workers: int = 1,
        mounts: Mapping[str, str | os.PathLike[str] | Mapping[str, Any]] | None = None,
        *,
        memory: int | str | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        file_roots: Sequence[str | os.PathLike[str]] = (),
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        if isinstance(workers, bool) or not isinstance(workers, int) or not 0 <= workers <= MAX_WORKERS:
            raise InvalidRequestError(f"workers is a number, 0 to {MAX_WORKERS}, and not {workers!r}")
        mounted = {path: _mount_of(path, place) for path, place in (mounts or {}).items()}
        roots = [os.fspath(root) for root in _each("file_roots", file_roots)]
        self._owner = os.getpid()
        self._env = {**_own_environment(), **(env or {})}
        self._args = _each("args", args)
        self._memory = None if memory is None else _bytes_of(memory)
        self._nodes: list[Node] = []
        self._owns_folder = data_dir is None
        # Last: what fails before leaves nothing behind.
        self._folder = _temporary_folder() if data_dir is None else Path(data_dir).absolute()
        self._closed = False
        _open.add(self)
        try:
            self._start(workers, mounted, roots)
        except BaseException:
            self.close()
            raise

    @property
    def uri(self) -> str:
        """The address to connect to.

        >>> cluster.uri
        'grpc://127.0.0.1:...'
        """
        return self.coordinator.uri

    @property
    def coordinator(self) -> Node:
        """The process that plans; of a cluster without workers, the one that does everything.

        >>> cluster.coordinator.name
        'coordinator'
        """
        return self._nodes[0]

    @property
    def workers(self) -> list[Node]:
        """The worker processes, those that ended too.

        >>> [worker.name for worker in cluster.workers]
        ['worker-1', 'worker-2']
        """
        return self._nodes[1:]

    @property
    def data_dir(self) -> Path:
        """Where data and logs are.

        >>> (cluster.data_dir / "coordinator.log").is_file()
        True
        """
        return self._folder

    @property
    def closed(self) -> bool:
        """Whether it was closed.

        >>> cluster.closed
        False
        """
        return self._closed

    def connect(
        self,
        *,
        timeout: float | None = None,
        connect_timeout: float = 5.0,
        headers: Mapping[str, str] | None = None,
        buffer_bytes: int = 256 << 20,
        streams_per_worker: int = 2,
        local: bool = True,
        wire: Wire = "auto",
        retries: int = 4,
        check_values: bool = False,
        check: bool = True,
    ) -> Client:
        """A client of it; the options are those of :func:`jetbridge.connect`.

        >>> cluster.connect().status().workers
        2
        """
        if self._closed:
            raise ClosedError("the cluster is closed")
        return connect(
            self.uri,
            timeout=timeout,
            connect_timeout=connect_timeout,
            headers=headers,
            buffer_bytes=buffer_bytes,
            streams_per_worker=streams_per_worker,
            local=local,
            wire=wire,
            retries=retries,
            check_values=check_values,
            check=check,
        )

    def add_worker(self) -> Node:
        """Starts one more worker, and waits until it has its share.

        It may hold in memory what each would have if ``memory`` were divided among all workers that there are then.
        That is on top: the others keep theirs.

        >>> with jb.LocalCluster(workers=1) as other:
        ...     worker = other.add_worker()
        ...     other.connect().status().workers
        2
        """
        self._require_open()
        node = self._launch_worker(len(self._nodes), len(self._nodes))
        try:
            node._wait_until_ready(time.monotonic() + START_TIMEOUT_S)
        except BaseException:
            node.kill()
            self._nodes.remove(node)
            raise
        self._wait_for_seats({node.uri})
        return node

    def close(self) -> None:
        """Ends all its processes, and removes its folder if it is a temporary one. Twice is once.

        >>> other = jb.LocalCluster(workers=0)
        >>> other.close()
        >>> other.coordinator.is_running
        False
        """
        if self._closed or self._owner != os.getpid():
            return
        self._closed = True
        for node in reversed(self._nodes):
            node._ask_to_stop()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for node in reversed(self._nodes):
            node._wait(max(deadline - time.monotonic(), 0.0))
        if self._owns_folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, workers: int, mounts: dict[str, str | dict[str, Any]], file_roots: list[str]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        role = "coordinator" if workers else "serve"
        words = [role, *self._listen("coordinator"), *self._memory_words(max(workers, 1))]
        later = {path: mounted for path, mounted in mounts.items() if isinstance(mounted, dict)}
        for path, mounted in mounts.items():
            if isinstance(mounted, str):
                words += ["--mount", f"{path}={mounted}"]
        roots = [*file_roots, *(_folder_of(mounted) for mounted in later.values())]
        words += [word for root in roots if root for word in ("--file-root", root)]
        deadline = time.monotonic() + START_TIMEOUT_S
        coordinator = Node("coordinator", [*words, *self._args], self._folder, self._env)
        self._nodes.append(coordinator)
        coordinator._wait_until_ready(deadline)
        started = [self._launch_worker(number, workers) for number in range(1, workers + 1)]
        for node in started:
            node._wait_until_ready(deadline)
        if started:
            self._wait_for_seats({node.uri for node in started})
        if later:
            with self.connect() as client:
                for path, mounted in later.items():
                    client.mount(path, mounted["uri"], mounted.get("options"), read_only=mounted.get("read_only"))

    def _launch_worker(self, number: int, of: int) -> Node:
        name = f"worker-{number}"
        joined = ["worker", "--coordinator", self.coordinator.uri]
        words = [*joined, *self._listen(name), *self._memory_words(of), *self._args]
        node = Node(name, words, self._folder, self._env)
        self._nodes.append(node)
        return node

    def _listen(self, name: str) -> list[str]:
        folder = str(self._folder / name)
        return ["--until-stdin-closes", "--data-dir", folder, "--flight", "127.0.0.1:0", "--admin", "127.0.0.1:0"]

    def _memory_words(self, of: int) -> list[str]:
        if self._memory is not None:
            return ["--memory", str(self._memory // of)]
        if of == 1:
            # What a server takes by itself.
            return []
        return ["--memory", str(max(_default_memory() // of, LEAST_MEMORY_BYTES))]

    def _wait_for_seats(self, addresses: set[str]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        with self.connect() as client:
            while True:
                seated = {worker.address for worker in client.workers() if worker.seat and worker.state == "serving"}
                if addresses <= seated:
                    return
                if time.monotonic() > deadline:
                    raise DeadlineExceededError(f"the workers {addresses - seated} have no share of the data yet")
                time.sleep(SEAT_INTERVAL_S)

    def _require_open(self) -> None:
        if self._closed or self._owner != os.getpid():
            raise ClosedError("the cluster is closed, or belongs to the process that this one was forked from")

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_closed"):
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self.uri}, {len(self.workers)} workers"
        return f"<LocalCluster {state}>"

    def _repr_html_(self) -> str:
        rows = [[node.name, node.uri, str(node.pid), _text.shown("", node.is_running)] for node in self._nodes]
        return _html.titled(repr(self).strip("<>"), _html.table(["process", "address", "pid", "running"], rows))


def _temporary_folder() -> Path:
    """A new folder for a cluster. Those of processes that were killed, which could not remove theirs, go."""
    for owner in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*/{_OWNER}"):
        # What belongs to somebody else, or is on its way out, is left alone.
        with contextlib.suppress(OSError, ValueError):
            if owner.stat().st_uid == os.getuid() and not _is_running(int(owner.read_text())):
                shutil.rmtree(owner.parent, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX))
    (folder / _OWNER).write_text(str(os.getpid()))
    return folder


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _pump(process: subprocess.Popen[bytes], lines: queue.SimpleQueue[str | None]) -> None:
    assert process.stdout is not None
    # A pipe that was closed on this side is an end, too.
    with contextlib.suppress(OSError, ValueError):
        for raw in process.stdout:
            lines.put(raw.decode(errors="replace").rstrip("\n"))
    lines.put(None)


def _own_environment() -> dict[str, str]:
    """This process's, without the settings that are those of other servers and clients, and with this package."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("JETBRIDGE_")}
    places = [str(Path(__file__).absolute().parents[1]), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(places)}


def _each(name: str, words: Sequence[str | os.PathLike[str]]) -> list[Any]:
    """Several as a list; one alone would be read letter by letter."""
    if isinstance(words, str | os.PathLike):
        raise InvalidRequestError(f"{name} is a list: write {name}=[{words!r}]")
    return list(words)


def _mount_of(path: str, mounted: object) -> str | dict[str, Any]:
    """What is to be mounted: a URI, or a folder with its whole path; or a dict that has a URI."""
    if not isinstance(mounted, Mapping):
        return _absolute(path, mounted)
    hint = f"a mount is told of by {', '.join(MOUNT_KEYS)}"
    for key in mounted:
        if key not in MOUNT_KEYS:
            raise InvalidRequestError(f'"{key}" is no key of the mount {path}{meant(str(key), MOUNT_KEYS)}', hint=hint)
    if "uri" not in mounted:
        raise InvalidRequestError(f"the mount {path} has no uri", hint=hint)
    place = _absolute(path, mounted["uri"])
    return {**mounted, "uri": place if "://" in place else f"file://{place}"}


def _folder_of(mounted: Mapping[str, Any]) -> str | None:
    scheme, _, folder = mounted["uri"].partition("://")
    return folder if scheme == "file" else None


def _absolute(path: str, mounted: object) -> str:
    if not isinstance(mounted, str | os.PathLike):
        raise InvalidRequestError(f"the mount {path} is a URI, a folder or a dict, and not {mounted!r}")
    uri: str = os.fspath(mounted)
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def _bytes_of(memory: object) -> int:
    size = _size(memory) if isinstance(memory, str) else memory
    if isinstance(size, bool) or not isinstance(size, int) or size <= 0:
        raise InvalidRequestError(f"memory is a size such as 512MiB or 2GiB, and not {memory!r}")
    return size


def _size(text: str) -> int | None:
    number, unit = text.strip(), 1
    for suffix, size in (("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)):
        if number.endswith(suffix):
            number, unit = number[: -len(suffix)], size
    try:
        return int(float(number) * unit)
    except (ValueError, OverflowError):
        return None


def _default_memory() -> int:
    """What one server alone would take of this machine."""
    machine = _memory.machine_bytes()
    return FALLBACK_MEMORY_BYTES if machine is None else machine // MEMORY_SHARE


def _close_all() -> None:
    for cluster in list(_open):
        cluster.close()


def _forget_all() -> None:
    for cluster in list(_open):
        for node in cluster._nodes:
            node._forget()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)
