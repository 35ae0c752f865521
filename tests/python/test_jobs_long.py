"""Jobs on a storage that fails a fifth of all requests, and jobs in the middle of which nodes die, again and again."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pytest

from harness import jobs
from harness.cluster import Cluster, Node, read
from harness.counting import CountingStore, Fault, Get
from harness.errors import ANSWERED
from harness.flight import act, mount, plan
from harness.stored import Shape, asked_of, bytes_of, chunk_ranges

# Others by the environment; every run prints its own.
SEED = int(os.environ.get("JETBRIDGE_JOBS_SEED", "1"))
ROUNDS = int(os.environ.get("JETBRIDGE_JOBS_ROUNDS", "50"))
WORKERS = 3

# Of each hundred requests so many meet this; the rest is fair.
WEATHER = {"503": 10, "429": 5, "cut": 5, "hang": 1}
STORMY = Shape(files=40, groups=80, rows=1_024)
REQUEST_TIMEOUT = "2s"
MOST_AMPLIFIED = 1.3

KILLED = Shape(files=48, groups=4, rows=9_216)
# Without the last, which lies in the files' ends, which come with their footers to whoever plans.
COLUMNS = ["n", "a"]
JOB_S = 2.0
MOST_AGAIN = 0.02
END_TIMEOUT_S = 90.0


class Deck:
    """Weather of exact shares: each hundred requests meet the same faults, in an order that the seed decides."""

    def __init__(self, seed: int) -> None:
        self._rng, self._lock = random.Random(seed), threading.Lock()
        self._cards: list[str] = []
        self.dealt: Counter[str] = Counter()

    def __call__(self, get: Get) -> Fault:
        with self._lock:
            if not self._cards:
                bad = [kind for kind, count in WEATHER.items() for _ in range(count)]
                self._cards = bad + ["fair"] * (100 - len(bad))
                self._rng.shuffle(self._cards)
            card = self._cards.pop()
            self.dealt[card] += 1
            cut_bytes = self._rng.randrange(get.length_bytes)
        match card:
            case "503" | "429":
                return Fault(status=int(card))
            case "cut":
                return Fault(cut_bytes=cut_bytes)
            case "hang":
                return Fault(hang=True)
        return Fault()


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("tier", ["raw", "decoded", "both"])
def test_a_storm_is_lived_through_with_few_requests_more(tmp_path: Path, tier: str) -> None:
    """503 to a tenth, 429 to a twentieth, a twentieth cut, a hundredth silent: all there, for under 1.3 times the
    requests. What each request costs on average if it is made again until it is well is 1/0.79 = 1.27."""
    print(f"JETBRIDGE_JOBS_SEED={SEED}")
    expected = STORMY.write(tmp_path / "lake")
    made: dict[str, list[Get]] = {}
    for weather in ("fair", "storm"):
        deck = Deck(SEED)
        with (
            CountingStore(tmp_path / "lake") as store,
            Cluster.start(tmp_path / weather, {}, WORKERS, ["--store-request-timeout", REQUEST_TIMEOUT]) as cluster,
            cluster.coordinator.connect() as client,
        ):
            mount(client, "/c", store.uri, freshness="immutable", timeout=REQUEST_TIMEOUT, **store.options)
            plan(client, "/c")
            store.forget()
            store.weather(deck if weather == "storm" else None)
            job = jobs.wait(client, jobs.submit(client, "/c", tier=tier)["id"], 600)
            store.heal()
            jobs.assert_succeeded(job)
            made[weather] = store.gets
            asked = asked_of(store.gets, chunk_ranges(tmp_path / "lake"), sent=True)
            print(f"{weather}: {len(store.gets)} requests in {job['elapsed_s']:.1f} s, {job['retries']} retries")
            print(f"  {asked.again_share:.2%} of the bytes came again")
            store.forget()
            assert read(cluster.coordinator.uri, "/c").table.equals(expected)
            assert store.gets == []
    amplification = len(made["storm"]) / len(made["fair"])
    print(f"amplification {amplification:.3f}; dealt {dict(deck.dealt)}")
    assert deck.dealt.keys() == {*WEATHER, "fair"}
    # Nearly: the files' ends came with their footers.
    assert len(made["fair"]) > 0.9 * STORMY.row_groups
    assert 1.2 < amplification < MOST_AMPLIFIED


@dataclass
class Lake:
    """A cluster that loses nodes, and what it loads."""

    cluster: Cluster
    store: CountingStore
    folder: Path
    table: pa.Table
    rng: random.Random = field(default_factory=lambda: random.Random(SEED))

    def free(self) -> None:
        """Forgets all that was loaded."""
        with self.cluster.coordinator.connect() as client:
            act(client, "cache.free", {"path": "/"})
            held = jobs.columns(client, "/c")
        assert [held[name]["raw_bytes"] for name in COLUMNS] == [0, 0]
        self.store.forget()


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    table = KILLED.write(tmp_path / "lake")
    with CountingStore(tmp_path / "lake") as store, Cluster.start(tmp_path / "cluster", {}, WORKERS) as cluster:
        with cluster.coordinator.connect() as client:
            mount(client, "/c", store.uri, freshness="immutable", **store.options)
        yield Lake(cluster, store, tmp_path / "lake", table)


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_kills_at_random(lake: Lake) -> None:
    """kill -9 of the scheduler or of a worker at a random moment of a job: it ends SUCCEEDED, with all pages and none
    twice, and at most 2 % of the bytes fetched again."""
    print(f"JETBRIDGE_JOBS_SEED={SEED} JETBRIDGE_JOBS_ROUNDS={ROUNDS}")
    ranges = chunk_ranges(lake.folder, COLUMNS)
    whole = bytes_of(ranges)
    killed: Counter[str] = Counter()
    interrupted, again_bytes, worst, slowest_s = 0, 0, 0.0, 0.0
    for number in range(ROUNDS):
        lake.free()
        node = lake.rng.choice(lake.cluster.nodes)
        tier = lake.rng.choice(["raw", "both"])
        job, was_running = run_and_kill(lake, node, tier, whole)
        jobs.assert_succeeded(job)
        assert job["options"] == {**job["options"], "tier": tier, "columns": COLUMNS, "priority": "high"}
        with lake.cluster.coordinator.connect() as client:
            held = jobs.columns(client, "/c")
        assert sum(held[name]["raw_bytes"] for name in COLUMNS) == whole
        came = asked_of(lake.store.gets, ranges, sent=True)
        assert came.once_bytes == whole
        killed[node.role] += 1
        interrupted += was_running
        again_bytes, worst = again_bytes + came.again_bytes, max(worst, came.again_share)
        slowest_s = max(slowest_s, job["elapsed_s"])
        print(f"{number}: {tier}, {node.folder.name}, {came.again_share:.2%} again, {job['elapsed_s']:.1f} s")
        assert came.again_share <= MOST_AGAIN
        if tier == "both":
            lake.store.forget()
            table = read(lake.cluster.coordinator.uri, "/c", columns=COLUMNS).table
            assert table.equals(lake.table.select(COLUMNS))
            assert lake.store.gets == []
    print(f"{dict(killed)} killed, {interrupted} in the middle; {again_bytes / (whole * ROUNDS):.3%} of all bytes came")
    print(f"again, at worst {worst:.2%}; the slowest job took {slowest_s:.1f} s")
    assert interrupted >= ROUNDS / 2, "too few kills came before the job's end"
    assert min(killed.values()) > 0 or ROUNDS < 10


def run_and_kill(lake: Lake, node: Node, tier: str, whole: int) -> tuple[jobs.Job, bool]:
    """A job in which a node is killed and started again, once it is over; whether it was under way then."""
    with lake.cluster.workers[0].connect() as client:
        options = {"columns": COLUMNS, "tier": tier, "bandwidth": int(whole / JOB_S), "priority": "high"}
        submitted = jobs.submit(client, "/c", **options)
        time.sleep(lake.rng.uniform(0, JOB_S))
        was_running = jobs.get(client, submitted["id"])["state"] in jobs.UNFINISHED
    node.kill()
    again(node.start)
    return jobs.wait_anywhere(lake.cluster.nodes, submitted["id"], END_TIMEOUT_S), was_running


def again(start: Callable[[], None]) -> None:
    """Starts a node; the port of one that was killed may be taken for a moment."""
    try:
        start()
    except (RuntimeError, *ANSWERED):
        time.sleep(1)
        start()
