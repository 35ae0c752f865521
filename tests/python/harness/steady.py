"""What must hold whatever becomes of the metadata store: reads go on and are right, and changes are refused in time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from harness import cluster, files, flight
from harness.cluster import Node, until
from harness.errors import expect_error
from harness.members import asked, mounted

FILES = 16
GROUPS = 4
ROWS_A_FILE = 20_000
# A change is refused in this time, however silent the store is. A call to it ends after 5 s, two in a row after 10 s.
REFUSED_WITHIN_S = 9.0
READ_TIMEOUT_S = 20.0
# Until each node was read from in both ways.
ROUND_TIMEOUT_S = 120.0


def make_lake(folder: Path) -> pa.Table:
    """Enough files and row groups that every worker owns some; gives all of the rows in their order."""
    parts = [
        files.write(
            folder / f"part-{number:02}.parquet",
            files.numbers(ROWS_A_FILE, number * ROWS_A_FILE),
            row_group_size=ROWS_A_FILE // GROUPS,
        )
        for number in range(FILES)
    ]
    return pa.concat_tables(parts)


class SteadyReads:
    """Reads a dataset again and again while a block runs: from each node in turn, once all of it from that node alone,
    and once as the endpoints say. The first read that fails or gives other rows fails the block."""

    def __init__(self, nodes: Sequence[Node], path: str, expected: pa.Table) -> None:
        self._nodes, self._path, self._expected = list(nodes), path, expected
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._failure: BaseException | None = None
        self._whole = threading.Event()
        self.done: Counter[str] = Counter()
        self.slowest_s = 0.0

    def __enter__(self) -> SteadyReads:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Each at least once, however short the block was.
        if kind is None:
            self._whole.wait(ROUND_TIMEOUT_S)
        self._stop.set()
        self._thread.join(2 * READ_TIMEOUT_S)
        print(f"reads: {dict(self.done)}, slowest {self.slowest_s:.2f} s")
        if self._failure is not None:
            raise AssertionError(f"a read failed after {sum(self.done.values())} good ones") from self._failure
        if kind is None:
            assert not self._thread.is_alive(), "a read hangs"
            assert len(self.done) == 2 * len(self._nodes), f"not every node was read from in both ways: {self.done}"

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                for node in self._nodes:
                    for way, read in (("alone", read_alone), ("as told", read_as_told)):
                        self._read(f"{node.folder.name} {way}", node, read)
                self._whole.set()
        except BaseException as error:  # Raised again where the block ends.
            self._failure = error
            self._whole.set()

    def _read(self, name: str, node: Node, read: Any) -> None:
        began_s = time.monotonic()
        got = read(node, self._path)
        self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
        assert got.equals(self._expected), f"{name}: other rows than those of the files"
        self.done[name] += 1


def read_alone(node: Node, path: str) -> pa.Table:
    """GetFlightInfo and every DoGet at one node."""
    with node.connect() as client:
        return flight.read(client, path)


def read_as_told(node: Node, path: str) -> pa.Table:
    """GetFlightInfo at one node, DoGet where its endpoints say, the next location where one fails."""
    return cluster.read(node.uri, path, READ_TIMEOUT_S).table


def refused(node: Node, changes: Mapping[str, Any], kind: str = "UNAVAILABLE", match: str = "") -> dict[str, float]:
    """Asks for these changes all at once; each must be refused as this kind, in time. Gives the seconds of each."""
    with ThreadPoolExecutor(len(changes)) as pool:
        tries = {name: pool.submit(_refused_after_s, node, name, body, kind, match) for name, body in changes.items()}
    took = {name: tried.result() for name, tried in tries.items()}
    print(f"refused at {node.folder.name}: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in took.items()))
    slow = {name: seconds for name, seconds in took.items() if seconds > REFUSED_WITHIN_S}
    assert not slow, f"refused too late: {slow}"
    return took


def _refused_after_s(node: Node, name: str, body: Any, kind: str, match: str) -> float:
    began_s = time.monotonic()
    with expect_error(kind, match):
        asked(node, name.partition(" ")[0], body, timeout_s=5 * REFUSED_WITHIN_S)
    return time.monotonic() - began_s


def settled(nodes: Sequence[Node], path: str) -> bool:
    """Whether a mount that was refused has been made all the same: what lay unanswered may be carried out when a store
    that stood still goes on. All nodes must say the same; the mount is removed again."""
    until(lambda: len({path in mounted(node) for node in nodes}) == 1, f"all agree on {path}")
    is_made = path in mounted(nodes[0])
    print(f"the refused mount was {'made' if is_made else 'not made'}")
    if is_made:
        asked(nodes[0], "mount.remove", {"path": path})
        until(lambda: not any(path in mounted(node) for node in nodes), f"{path} is gone")
    return is_made
