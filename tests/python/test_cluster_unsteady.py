"""Workers that cannot be reached where they say, and workers that come and go each second: clients get their data, and
the placement does not follow what will be over in a moment."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness import files
from harness.cluster import Cluster, Node, first_named, info, read, until
from harness.compare import assert_same
from harness.owners import epoch, named_first, owners

WORKERS = 3
FILES = 48
ROWS = 1_000
DATA = "/small"
NOWHERE = "127.0.0.1:1"
FLAPPING_S = 15.0
FLAP_INTERVAL_S = 1.0
LOOK_INTERVAL_S = 0.1
# Longer than the grace away, and shorter up than the settling time after the third time.
CYCLES, AWAY_S, UP_S = 4, 3.0, 3.5
# After so many returns it still gets its seat soon.
TRUSTED = 2
# How long it may take until there were flaps and reads enough, on a busy machine.
LATEST_S = 90.0
# A worker that had a seat never lost it.
SEATED_S = 60.0
# A newcomer that flaps may be taken for one that stays, once.
NEWCOMER_EPOCHS = 1


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three workers and small files, read once."""
    files.write_many(tmp_path / "small", FILES, ROWS)
    with Cluster.start(tmp_path, {DATA: f"file://{tmp_path / 'small'}"}, WORKERS) as running:
        read(running.coordinator.uri, DATA)
        yield running


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Cluster]:
    """Three workers whose seats are soon given up."""
    grace = ["--member-grace", "2s"]
    with Cluster.start(tmp_path, {}, WORKERS, args=grace, worker_args=grace) as running:
        yield running


def test_data_of_a_worker_that_advertises_an_unreachable_address(cluster: Cluster) -> None:
    """It is named at an address where nobody listens; whoever is asked instead gives the rows."""
    cluster.add_worker("--advertise", NOWHERE)
    cluster.wait_for_seats(WORKERS + 1)
    with cluster.coordinator.connect() as client:
        until(lambda: f"grpc://{NOWHERE}" in named_first(client, DATA), "the unreachable address is named")
    failures = 0
    for node in cluster.nodes:
        with node.connect() as client:
            named = first_named(info(client, DATA))
        began = time.monotonic()
        got = read(node.uri, DATA)
        print(f"{node.folder.name} named {dict(named)}; {got.failures} tries failed, {time.monotonic() - began:.2f} s")
        assert_same(got.table, files.numbers(FILES * ROWS))
        assert f"grpc://{NOWHERE}" not in got.served_by
        failures += got.failures
    # A node that found out itself names it no more for a while; it names itself to the end.
    assert failures > 0


def test_the_placement_does_not_follow_a_worker_that_is_killed_each_second(cluster: Cluster) -> None:
    """kill -9 and a new start, each second: epoch and owners as before, throughout and after; reads whole meanwhile."""
    flap(cluster, cluster.workers[0], Node.kill, most_epochs=0)


@pytest.mark.long
def test_the_placement_does_not_follow_a_worker_that_is_restarted_each_second(cluster: Cluster) -> None:
    """The same by SIGTERM, after which it is ready again at once."""
    flap(cluster, cluster.workers[1], lambda node: node.stop(), most_epochs=0)


def test_the_placement_hardly_follows_a_newcomer_that_is_restarted_each_second(cluster: Cluster) -> None:
    """A fourth worker that is new to the cluster: at most one epoch for it. It gets a seat when it has stayed for as
    long as its flaps have made it suspicious, which after so many is minutes; that is the simulation's to show."""
    flap(cluster, cluster.add_worker(wait=False), lambda node: node.stop(), most_epochs=NEWCOMER_EPOCHS)


def test_a_worker_that_keeps_coming_and_going_is_trusted_less_each_time(impatient: Cluster) -> None:
    """Away for longer than the grace, then up for a while, again and again: it settles for 1 s, for 2 s, and then for
    longer than it is ever up. So the epoch goes up twice with each of the first two returns, and once more."""
    worker = impatient.workers[0]
    before, seated = impatient.members()["epoch"], []
    for cycle in range(CYCLES):
        assert worker.stop() == 0
        time.sleep(AWAY_S)
        until(lambda: worker.id not in impatient.seated(), "its seat is taken away")
        worker.launch()
        if cycle < TRUSTED:
            until(lambda: worker.id in impatient.seated(), "it has its seat again")
        else:
            time.sleep(UP_S)
        seated.append(worker.id in impatient.seated())
    epochs = impatient.members()["epoch"] - before
    print(f"{CYCLES} times away and back: {epochs} epochs, with a seat in the end: {seated}")
    # Two of the returns and three of the departures; the third return, too, where the worker was stopped late.
    assert 5 <= epochs <= 7
    assert not seated[-1]


def flap(cluster: Cluster, worker: Node, end: Callable[[Node], object], most_epochs: int) -> None:
    """Ends and starts a worker each second for a while; fails where the epoch follows, or a read is not whole."""
    with cluster.coordinator.connect() as client:
        before = owners(client, DATA)
    done = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        reads: Counter[str] = Counter()
        looking = pool.submit(look_until, done, cluster, reads)
        flaps, first_s = 0, time.monotonic()
        least = FLAPPING_S / FLAP_INTERVAL_S / 2
        try:
            while (began := time.monotonic()) < first_s + FLAPPING_S or flaps < least or reads["whole"] <= least:
                assert began < first_s + LATEST_S, f"{flaps} flaps, {reads['whole']} reads"
                if looking.done():
                    break
                end(worker)
                worker.launch()
                flaps += 1
                time.sleep(max(0.0, began + FLAP_INTERVAL_S - time.monotonic()))
        finally:
            done.set()
        epochs = looking.result()
    began = time.monotonic()
    worker.wait_until_ready()
    print(f"{flaps} flaps, {reads['whole']} reads whole, {reads['failed over']} of them failed over, epochs {epochs}")
    print(f"ready {time.monotonic() - began:.1f} s after the last start")
    assert max(epochs) - before.epoch <= most_epochs
    if not most_epochs:
        until(lambda: worker.id in cluster.seated(), "it has its seat", SEATED_S)
        with cluster.coordinator.connect() as client:
            assert owners(client, DATA) == before
            until(lambda: worker.uri in named_first(client, DATA), "the worker is named again")


def look_until(done: threading.Event, cluster: Cluster, reads: Counter[str]) -> list[int]:
    """The epochs that the coordinator told; counts how reads through it went."""
    epochs: set[int] = set()
    with cluster.coordinator.connect() as client:
        while not done.wait(LOOK_INTERVAL_S):
            epochs.add(epoch(info(client, DATA)))
            got = read(cluster.coordinator.uri, DATA)
            assert_same(got.table, files.numbers(FILES * ROWS))
            reads["whole"] += 1
            reads["failed over"] += got.failures > 0
    return sorted(epochs)
