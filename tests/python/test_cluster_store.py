"""A cluster whose coordinator, and with it the metadata store, is away: killed, or stopped in its tracks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from harness import files
from harness.cluster import Cluster, Node, until
from harness.members import asked, epoch, mounted, named, reaches_store, seats
from harness.steady import REFUSED_WITHIN_S, SteadyReads, make_lake, refused, settled

WORKERS = 2
# Longer than the workers' leases (6 s); with a grace as short as this, whoever concludes anything from the store's
# silence takes their seats.
AWAY_S, LONG_AWAY_S = 8.0, 30.0
GRACE = "2s"
# Longer than lease and grace together: what was concluded wrongly would have shown by then.
AFTERWARDS_S = 9.0
WELL_WITHIN_S = 30.0


@dataclass
class Lake:
    """A cluster, and what it serves at /lake; /spare is there to be removed, `root` holds what may be mounted."""

    cluster: Cluster
    root: Path
    expected: pa.Table

    def changes(self, number: int = 1) -> dict[str, Any]:
        """What no node may do while the store is away."""
        return {
            "mount.add": {"path": f"/refused-{number}", "uri": f"file://{self.root}/spare"},
            "mount.remove": {"path": "/spare"},
            "cluster.rotate_keys": {},
            "dataset.refresh": {"path": "/lake"},
        }

    def reads(self) -> SteadyReads:
        """Reads through the workers."""
        return SteadyReads(self.cluster.workers, "/lake", self.expected)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """One cluster for all tests here: each leaves it as it was."""
    folder = tmp_path_factory.mktemp("store")
    expected = make_lake(folder / "files/lake")
    files.write(folder / "files/spare/a.parquet", files.numbers(3))
    mounts = {path: f"file://{folder}/files{path}" for path in ("/lake", "/spare")}
    args = ["--member-grace", GRACE, "--file-root", str(folder / "files")]
    cluster = Cluster.start(folder, mounts, WORKERS, args, args)
    yield Lake(cluster, folder / "files", expected)
    cluster.close()


@dataclass
class Absence:
    """How the store goes away and comes back."""

    go: Callable[[Node], None]
    come: Callable[[Node], None]
    # Whether what it was asked meanwhile may be done afterwards.
    may_do_later: bool


ABSENCES = {
    "killed": Absence(Node.kill, Node.start, may_do_later=False),
    "frozen": Absence(Node.freeze, Node.thaw, may_do_later=True),
}


@pytest.fixture(params=list(ABSENCES))
def absence(request: pytest.FixtureRequest) -> Absence:
    return ABSENCES[request.param]


def refused_everywhere(lake: Lake) -> None:
    """Each worker refuses all changes, each by itself."""
    with ThreadPoolExecutor() as pool:
        tries = [
            pool.submit(refused, worker, {name: body})
            for name, body in lake.changes().items()
            for worker in lake.cluster.workers
            # Those of mounts go one after the other in a node; see the test of many at once.
            if name != "mount.remove" or worker is lake.cluster.workers[0]
            if name != "mount.add" or worker is lake.cluster.workers[1]
        ]
    for tried in tries:
        tried.result()


def wait_until_changes_are_made(lake: Lake, back_at_s: float) -> None:
    """A mount that is made at a worker now is seen by all, soon after the store is back; it is removed again."""
    first, *_ = lake.cluster.workers

    def can_mount() -> bool:
        try:
            asked(first, "mount.add", {**lake.changes()["mount.add"], "path": "/new-1"})
        except (pa.ArrowException, OSError):
            # What was not answered may have been done.
            return "/new-1" in mounted(first)
        return True

    def is_seen(path: str) -> bool:
        return all(path in mounted(node) for node in lake.cluster.nodes)

    until(can_mount, "a mount is made", WELL_WITHIN_S)
    made_s = time.monotonic()
    until(lambda: is_seen("/new-1"), "the mount is seen everywhere", WELL_WITHIN_S)
    seen_s = time.monotonic()
    until(lambda: all(map(reaches_store, lake.cluster.nodes)), "all reach the store", WELL_WITHIN_S)
    well_s = time.monotonic()
    asked(first, "mount.remove", {"path": "/new-1"})
    until(lambda: not is_seen("/new-1"), "the mount is gone")
    times = [moment - back_at_s for moment in (made_s, seen_s, well_s)]
    print("after the store came back: mounted {:.1f} s, seen {:.1f} s, all well {:.1f} s".format(*times))
    assert times[-1] < WELL_WITHIN_S


def store_away_for(lake: Lake, absence: Absence, away_s: float) -> None:
    """The promises of this file, while the coordinator is away for so long, and afterwards."""
    cluster = lake.cluster
    cluster.wait_for_seats(WORKERS)
    before = {worker.id: (epoch(worker), seats(worker)) for worker in cluster.workers}
    with lake.reads():
        absence.go(cluster.coordinator)
        gone_at_s = time.monotonic()
        try:
            refused_everywhere(lake)
            time.sleep(max(0.0, gone_at_s + away_s - time.monotonic()))
            assert not any(map(reaches_store, cluster.workers))
            # The view of before: each owns something still.
            told = {worker.uri: named(worker, "/lake") for worker in cluster.workers}
            assert all(names == set(told) for names in told.values()), told
        finally:
            back_at_s = time.monotonic()
            absence.come(cluster.coordinator)
        print(f"at work again after {time.monotonic() - back_at_s:.1f} s")
        print(f"away for {back_at_s - gone_at_s:.1f} s")
        wait_until_changes_are_made(lake, back_at_s)
        is_made = settled(cluster.nodes, "/refused-1")
        assert not is_made or absence.may_do_later
        time.sleep(max(0.0, back_at_s + AFTERWARDS_S - time.monotonic()))
    after = {worker.id: (epoch(worker), seats(worker)) for worker in cluster.workers}
    assert after == before
    assert {epoch(cluster.coordinator)} == {number for number, _ in before.values()}
    assert "/spare" in mounted(cluster.coordinator)


def test_the_store_is_away_for_a_moment(lake: Lake, absence: Absence) -> None:
    store_away_for(lake, absence, AWAY_S)


@pytest.mark.long
def test_the_store_is_away_for_long(lake: Lake, absence: Absence) -> None:
    store_away_for(lake, absence, LONG_AWAY_S)


def test_many_changes_at_once_are_refused_in_time(lake: Lake) -> None:
    """None of them waits for the others to fail first, at one node."""
    worker = lake.cluster.workers[0]
    changes = {f"mount.add {number}": lake.changes(number)["mount.add"] for number in range(4)}
    lake.cluster.coordinator.freeze()
    try:
        took = refused(worker, {**changes, "mount.remove": {"path": "/spare"}})
    finally:
        lake.cluster.coordinator.thaw()
    assert max(took.values()) < REFUSED_WITHIN_S
    until(lambda: all(map(reaches_store, lake.cluster.nodes)), "all reach the store")
