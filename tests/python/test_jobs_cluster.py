"""Jobs on a coordinator and three workers: what is loaded lies where reads are sent, whoever dies meanwhile."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq
import pytest

from harness import jobs
from harness.cluster import REUSE, Cluster, Node, info, locations, metadata, until
from harness.compare import assert_same
from harness.counting import CountingStore
from harness.errors import ANSWERED
from harness.etcd import Etcd
from harness.etcd_cluster import EtcdCluster
from harness.flight import act, drain, mount, plan
from harness.jobs import shown
from harness.members import asked, wait_for_seats
from harness.owners import owners
from harness.stored import Asked, Shape, asked_of, bytes_of, chunk_ranges, data_gets, measured_rate, rot

WORKERS = 3
# A number, a decimal, a date and a text of lineitem.
LINEITEM_COLUMNS = ["l_orderkey", "l_quantity", "l_shipdate", "l_shipmode"]
SOURCE = {"raw": "disk", "decoded": "memory", "both": "memory"}
CACHED = {"raw": "raw", "decoded": "decoded", "both": "decoded"}
# Larger columns than a file's end, so that this has bytes of the last one only.
SMALL = Shape(files=48, groups=2, rows=9_216)
COLUMNS = ["n", "a"]
# How long a job takes in which somebody is killed, and what of it is done by then.
JOB_S = 5.0
KILLED_AT = 0.3
# What may come twice: what was under way, or not written yet, when a worker was killed.
MOST_AGAIN = 0.02
# What was under way at its old owner when a part went to a newcomer.
MOST_AGAIN_WHEN_MOVED = 0.1
MOST_BY_MEAN = 1.2
GRACE = "2s"
# Calls between nodes, and those of them by which they ask each other for files.
PEER_CALLS = "jetbridge_peer_calls_total"
FILE_CALLS = ("peer.footers", "peer.known", "peer.pages")
# Many files go into one call: of all calls together there is one for at least so many files.
LEAST_FILES_A_CALL = 4
# Requests that are let go of are over at once, and on a busy machine well before their bodies have come.
ENDED_WITHIN_S = 3.0
# A machine that stands still for a moment changes a rate that is measured, but not each time.
RATE_BYTES_PER_S, MOST_OFF, TRIES = 3_000_000, 0.10, 3


@dataclass
class Lake:
    """A cluster, and files on a counting store that it has mounted at /c."""

    cluster: Any
    store: CountingStore
    folder: Path
    nodes: list[Node]

    def read(self, path: str = "/c", columns: list[str] | None = None) -> tuple[pa.Table, Counter[str]]:
        """Every endpoint from the node that it names first: the rows, and how many batches came from which tier."""
        sources: Counter[str] = Counter()
        with self.nodes[0].connect() as client:
            found = info(client, path, **({"columns": columns} if columns else {}))
        batches = []
        for endpoint in found.endpoints:
            place = locations(endpoint)[0]
            with flight.connect(self.nodes[0].uri if place.startswith(REUSE) else place) as client:
                some, said = drain(client.do_get(endpoint.ticket))
            batches += some
            sources.update(entry["source"] for entry in said)
        return pa.Table.from_batches(batches, found.schema), sources

    def asked(self, columns: list[str] | None = None, *, sent: bool = False) -> Asked:
        """What the store was asked for of these columns, or sent."""
        return asked_of(self.store.gets, chunk_ranges(self.folder, columns), sent=sent)

    def assert_free(self, source: str, expected: pa.Table, columns: list[str] | None = None) -> None:
        """A full read is right, from one tier, and no node asks storage for anything."""
        self.store.forget()
        table, sources = self.read(columns=columns)
        assert self.store.gets == []
        assert self.store.others == []
        assert set(sources) == {source}, sources
        assert_same(table, expected)

    def file_calls(self) -> dict[str, float]:
        """Calls by which nodes asked each other for files so far, by action."""
        return {action: sum(node.total(PEER_CALLS, action=action) for node in self.nodes) for action in FILE_CALLS}

    def holders(self) -> dict[str, set[str]]:
        """The nodes that hold a file's pages, by file."""
        found = defaultdict(set)
        for node in self.nodes:
            if not node.is_running():
                continue
            for part in asked(node, "cache.stat", {"path": "/c", "by": "file", "scope": "node"})["by_file"]:
                if part["raw_bytes"] > part["bytes"] / 2:
                    found[part["path"]].add(node.id)
        return found


# Lineitem.


@pytest.fixture(scope="module")
def lineitem(lineitem_sf1: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """TPC-H lineitem at scale 1 on three workers."""
    with (
        CountingStore(lineitem_sf1) as store,
        Cluster.start(tmp_path_factory.mktemp("lineitem"), {}, WORKERS) as cluster,
    ):
        with cluster.coordinator.connect() as client:
            mount(client, "/c", store.uri, freshness="immutable", **store.options)
        yield Lake(cluster, store, lineitem_sf1, cluster.nodes)


@pytest.fixture(scope="module")
def lineitem_rows(lineitem_sf1: Path) -> pa.Table:
    """The columns as pyarrow reads them."""
    files = sorted(lineitem_sf1.glob("*.parquet"))
    return pa.concat_tables([pq.ParquetFile(file).read(LINEITEM_COLUMNS) for file in files])


@pytest.mark.parametrize("tier", ["raw", "decoded", "both"])
def test_lineitem_is_read_without_a_request(lineitem: Lake, lineitem_rows: pa.Table, tier: str) -> None:
    """By the storage's count and the nodes' own; each batch from where the tier is; on the worker that is named."""
    cluster = lineitem.cluster
    with cluster.coordinator.connect() as client:
        act(client, "cache.free", {"path": "/"})
        lineitem.store.forget()
        job = jobs.preload(client, "/c", columns=LINEITEM_COLUMNS, tier=tier)
        loaded = lineitem.asked(LINEITEM_COLUMNS)
        # What a plan says of other nodes is what they say in a few hundred milliseconds.
        until(lambda: told(client, LINEITEM_COLUMNS) == {CACHED[tier]}, "the plan says where all of it is")
    before = cluster.store_requests()
    lineitem.assert_free(SOURCE[tier], lineitem_rows, LINEITEM_COLUMNS)
    assert cluster.store_requests() == before
    assert job["bytes"] == loaded.wanted_bytes == loaded.once_bytes
    assert loaded.again_bytes == 0
    workers = {worker["id"]: worker for worker in job["workers"]}
    assert workers.keys() == {worker.id for worker in cluster.workers}
    assert sum(worker["bytes_done"] for worker in workers.values()) == job["bytes_done"]
    counts = [worker["row_groups_done"] for worker in workers.values()]
    balance = max(counts) / (sum(counts) / len(counts))
    print(f"{tier}: {job['elapsed_s']:.1f} s, {loaded.wanted_bytes} bytes, row groups {counts}, max/mean {balance:.3f}")
    assert balance <= MOST_BY_MEAN


# Small files.


@dataclass
class Small:
    """Small files in a folder of a test's own, and all their rows."""

    folder: Path
    table: pa.Table

    def rows(self, columns: list[str] | None = None) -> pa.Table:
        return self.table.select(columns) if columns else self.table


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("small") / "lake"
    return Small(folder, SMALL.write(folder))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Lake]]:
    """Starts a cluster and a store on files."""
    running: list[Any] = []

    def begin(folder: Path, *args: str, freshness: str = "immutable", workers: int = WORKERS) -> Lake:
        store = CountingStore(folder)
        running.append(store.stop)
        cluster = Cluster.start(tmp_path / "cluster", {}, workers, args=args, worker_args=args)
        running.append(cluster.close)
        with cluster.coordinator.connect() as client:
            mount(client, "/c", store.uri, freshness=freshness, **store.options)
            # A mount is looked at when it is made; the footers count, since they come with some data.
            store.forget()
            info(client, "/c")
        return Lake(cluster, store, folder, cluster.nodes)

    yield begin
    for end in reversed(running):
        end()


@pytest.fixture
def lake(start: Callable[..., Lake], small: Small) -> Lake:
    """A coordinator and three workers, and small files that nobody changes."""
    return start(small.folder)


def test_two_copies_cost_the_storage_one(lake: Lake, small: Small) -> None:
    """The owner and another hold each byte; the other has it from the owner, and stands in when the owner is lost."""
    with lake.cluster.coordinator.connect() as client:
        job = jobs.preload(client, "/c", replicas=2)
        owned = owners(client, "/c")
    once = lake.asked()
    assert once.once_bytes == once.wanted_bytes
    assert once.again_bytes == 0
    assert job["bytes"] == 2 * once.wanted_bytes == job["bytes_done"]
    assert job["fetched_bytes"] <= lake.store.asked_bytes
    assert job["peer_bytes"] >= 0.9 * once.wanted_bytes
    holders = lake.holders()
    assert len(holders) == SMALL.files
    for (path, _), (owner, *_) in owned.of.items():
        assert owner in holders[path]
        assert len(holders[path]) == 2, f"{path} is held by {holders[path]}"
    with lake.cluster.workers[0].connect() as client:
        held = jobs.columns(client, "/c")
    # Of the last column more, since it lies in the files' ends, which come with their footers.
    assert {name: held[name]["raw_bytes"] / held[name]["bytes"] for name in COLUMNS} == dict.fromkeys(COLUMNS, 2.0)
    lake.assert_free("memory", small.rows())
    # Without an owner of a third of it, still nothing is asked for.
    victim = lake.cluster.workers[0]
    lost = [path for (path, _), (owner, *_) in owned.of.items() if owner == victim.id]
    assert lost
    victim.kill()
    until(lambda: victim.uri not in first_places(lake), "the lost worker is not named first")
    lake.store.forget()
    table, _ = lake.read()
    assert_same(table, small.rows())
    assert lake.asked().once_bytes == 0


def told(client: flight.FlightClient, columns: list[str]) -> set[str]:
    """What a plan says of where the rows of its endpoints are."""
    return {metadata(endpoint)["cached"] for endpoint in info(client, "/c", columns=columns).endpoints}


def first_places(lake: Lake) -> set[str]:
    """The nodes that are named first for any part of the dataset."""
    with lake.nodes[0].connect() as client:
        return {locations(endpoint)[0] for endpoint in info(client, "/c").endpoints}


def test_one_copy_is_one(lake: Lake) -> None:
    """So that two above are the option's doing."""
    with lake.cluster.coordinator.connect() as client:
        jobs.preload(client, "/c")
    assert {len(nodes) for nodes in lake.holders().values()} == {1}


def test_any_node_takes_jobs_and_knows_of_them(lake: Lake) -> None:
    _, first, second, third = lake.nodes
    with lake.store.held_back():
        with first.connect() as client:
            job = jobs.submit(client, "/c", columns=["a"], priority="low")
        for node in lake.nodes:
            with node.connect() as client:
                assert jobs.get(client, job["id"])["options"] == job["options"]
                assert [listed["id"] for listed in jobs.listed(client)] == [job["id"]]
                assert jobs.submit(client, "/c", columns=["a"], priority="low")["id"] == job["id"]
        with second.connect() as client:
            jobs.wait_until(client, job["id"], lambda job: job["state"] == "RUNNING", "running")
        with third.connect() as client:
            jobs.cancel(client, job["id"])
    for node in lake.nodes:
        with node.connect() as client:
            assert jobs.wait(client, job["id"])["state"] == "CANCELLED"
            assert [seen["state"] for seen in jobs.watch(client, job["id"])] == ["CANCELLED"]
    with second.connect() as client:
        seen = list(jobs.watch(client, jobs.submit(client, "/c", columns=["b"])["id"]))
    jobs.assert_succeeded(seen[-1])
    jobs.assert_never_falls(seen)


def test_cancelled_on_all_workers(lake: Lake) -> None:
    # Bodies of 15 s.
    lake.store.pace(15_000)
    with lake.cluster.workers[2].connect() as client:
        job = jobs.submit(client, "/c", tier="raw")
        until(lambda: len(lake.store.in_flight) >= WORKERS * 4, "many requests are under way")
        under_way = len(lake.store.in_flight)
        asked_s = time.monotonic()
        jobs.cancel(client, job["id"])
        until(lambda: not lake.store.in_flight, "no request is under way", ENDED_WITHIN_S)
        ended_s = time.monotonic()
        print(f"{under_way} requests ended within {ended_s - asked_s:.2f} s")
        assert jobs.wait(client, job["id"])["state"] == "CANCELLED"
        time.sleep(2)
    # What was on its way may come a little later.
    assert not [get for get in lake.store.gets if get.began_s > ended_s + 1.0]


def test_all_workers_together_keep_the_bandwidth(tmp_path: Path) -> None:
    shape = Shape(files=12, groups=8, rows=8_192)
    shape.write(tmp_path / "lake")
    with (
        CountingStore(tmp_path / "lake") as store,
        Cluster.start(tmp_path / "cluster", {}, 3) as cluster,
        cluster.coordinator.connect() as client,
    ):
        mount(client, "/c", store.uri, freshness="immutable", **store.options)
        plan(client, "/c")

        def is_kept() -> bool:
            store.forget()
            job = jobs.preload(client, "/c", bandwidth=RATE_BYTES_PER_S)
            rate = measured_rate(data_gets(store.gets, tmp_path / "lake"))
            of_each = [worker["bytes"] for worker in job["workers"]]
            print(f"{rate / RATE_BYTES_PER_S:.3f} of the limit, {of_each} bytes each")
            assert len(list(filter(None, of_each))) == 3
            act(client, "cache.free", {"path": "/"})
            return abs(rate / RATE_BYTES_PER_S - 1) <= MOST_OFF

        assert any(is_kept() for _ in range(TRIES)), "the rate is another"


def test_work_is_shared_evenly(start: Callable[..., Lake], tmp_path: Path) -> None:
    """Many equal files: no worker has much more than its third, and nobody asks another for them one by one."""
    shape = Shape(files=600, groups=1, rows=1_024, columns=("n", "a"))
    expected = shape.write(tmp_path / "many")
    lake = start(tmp_path / "many")
    planned = lake.file_calls()
    with lake.cluster.coordinator.connect() as client:
        job = jobs.preload(client, "/c")
    print(f"calls for {shape.files} files: {planned} to plan them, {lake.file_calls()} in the end")
    assert planned["peer.footers"] >= WORKERS
    assert LEAST_FILES_A_CALL * sum(lake.file_calls().values()) <= shape.files
    for name in ("row_groups_done", "bytes_done", "tasks_done"):
        counts = [worker[name] for worker in job["workers"]]
        print(f"{name}: {counts}, max/mean {max(counts) / (sum(counts) / WORKERS):.3f}")
        assert len(counts) == WORKERS
        assert name == "tasks_done" or max(counts) / (sum(counts) / WORKERS) <= MOST_BY_MEAN
    print(f"{shape.files} files in {job['elapsed_s']:.2f} s")
    lake.assert_free("memory", expected)


# Who dies meanwhile.


def midway(lake: Lake, node: Node, columns: list[str] | None = COLUMNS, **options: Any) -> jobs.Job:
    """A job that takes a few seconds, when a part of it is done."""
    copies = options.get("replicas", 1)
    whole = bytes_of(chunk_ranges(lake.folder, columns))
    spec = {"columns": columns} if columns else {}
    with node.connect() as client:
        job = jobs.submit(client, "/c", bandwidth=int(whole / JOB_S), **spec, **options)
        return jobs.wait_until(
            client, job["id"], lambda job: job["bytes_done"] > KILLED_AT * copies * whole, "partly done"
        )


def assert_went_on(
    lake: Lake, before: jobs.Job, columns: list[str] | None = COLUMNS, most_again: float = MOST_AGAIN
) -> jobs.Job:
    """It ends well, as what it was, and little of it came twice."""
    job = jobs.assert_succeeded(jobs.wait_anywhere(lake.nodes, before["id"]))
    assert job["options"] == before["options"]
    assert (job["key"], job["paths"], job["submitted_unix_ms"]) == (
        before["key"],
        before["paths"],
        before["submitted_unix_ms"],
    )
    came = lake.asked(columns, sent=True)
    print(f"{came.again_share:.2%} of the bytes came twice; {job['elapsed_s']:.1f} s, {job['round']} rounds")
    assert came.once_bytes == came.wanted_bytes
    assert came.again_share <= most_again
    return job


def test_it_outlives_its_scheduler(lake: Lake, small: Small) -> None:
    """kill -9, and started again: tier, columns and copies are still those that were asked for."""
    before = midway(lake, lake.cluster.workers[0], tier="raw", replicas=2, priority="high", max_failures=3)
    lake.cluster.coordinator.kill()
    lake.cluster.coordinator.start()
    job = assert_went_on(lake, before)
    assert job["bytes"] == 2 * bytes_of(chunk_ranges(lake.folder, COLUMNS))
    with lake.cluster.coordinator.connect() as client:
        held = jobs.columns(client, "/c")
        assert [held[name]["raw_bytes"] / held[name]["bytes"] for name in COLUMNS] == [2, 2]
        assert sum(column["decoded_bytes"] for column in held.values()) == 0
    # Of the other column nothing but the pages that it shares; its end comes with the footers.
    other = asked_of(lake.store.gets, chunk_ranges(lake.folder, ["b"], lambda _, group: group == 0))
    assert other.once_bytes <= SMALL.files * 2 * 4096
    lake.assert_free("disk", small.rows(COLUMNS), COLUMNS)


def test_footers_stay_footers_when_the_scheduler_dies(lake: Lake) -> None:
    with lake.cluster.workers[0].connect() as client, lake.store.held_back():
        job = jobs.submit(client, "/c", metadata_only=True)
        lake.cluster.coordinator.kill()
        lake.cluster.coordinator.start()
    job = jobs.assert_succeeded(jobs.wait_anywhere(lake.nodes, job["id"]))
    assert job["options"]["metadata_only"] is True
    assert job["files"] == SMALL.files
    starts = chunk_ranges(lake.folder, ["n"])
    assert not [get for get in lake.store.gets if get.start <= starts[get.key][0][0]]


@pytest.mark.parametrize("tier", ["raw", "decoded", "both"])
def test_it_outlives_a_worker(lake: Lake, small: Small, tier: str) -> None:
    """kill -9 of a worker, which comes back: what it had on disk is there, what it had in memory is made again."""
    before = midway(lake, lake.cluster.coordinator, tier=tier)
    victim = lake.cluster.workers[0]
    victim.kill()
    victim.start()
    if tier == "decoded":
        # Nothing of it was on disk: a worker's part of what was done comes again.
        job = jobs.assert_succeeded(jobs.wait_anywhere(lake.nodes, before["id"]))
        came = lake.asked(COLUMNS, sent=True)
        print(f"{came.again_share:.2%} of the bytes came twice")
        assert 0 < came.again_share < 0.5
        assert job["options"] == before["options"]
    else:
        assert_went_on(lake, before)
    lake.assert_free(SOURCE[tier], small.rows(COLUMNS), COLUMNS)


def test_it_waits_for_a_lost_worker_and_says_so(lake: Lake, small: Small) -> None:
    before = midway(lake, lake.cluster.coordinator, tier="raw")
    victim = lake.cluster.workers[1]
    victim.kill()
    with lake.cluster.coordinator.connect() as client:
        waiting = jobs.wait_until(client, before["id"], lambda job: job["waiting"] is not None, "waiting")
        print(waiting["waiting"])
        assert victim.id in waiting["waiting"]
        assert {worker["id"]: worker["state"] for worker in waiting["workers"]}[victim.id] != "serving"
    victim.start()
    assert assert_went_on(lake, before)["waiting"] is None
    lake.assert_free("disk", small.rows(COLUMNS), COLUMNS)


def test_others_take_over_from_a_worker_that_stays_away(start: Callable[..., Lake], small: Small) -> None:
    lake = start(small.folder, "--member-grace", GRACE)
    before = midway(lake, lake.cluster.coordinator)
    victim = lake.cluster.workers[2]
    victim.kill()
    job = jobs.assert_succeeded(jobs.wait_anywhere(lake.nodes, before["id"]))
    print(f"{job['elapsed_s']:.1f} s, {job['round']} rounds")
    assert job["round"] > before["round"]
    assert {worker["id"] for worker in job["workers"]} == {worker.id for worker in lake.cluster.workers[:2]}
    lake.assert_free("memory", small.rows(COLUMNS), COLUMNS)


def test_a_worker_that_joins_meanwhile_gets_its_part(lake: Lake, small: Small) -> None:
    before = midway(lake, lake.cluster.coordinator)
    newcomer = lake.cluster.add_worker()
    lake.nodes.append(newcomer)
    job = assert_went_on(lake, before, most_again=MOST_AGAIN_WHEN_MOVED)
    assert newcomer.id in {worker["id"] for worker in job["workers"] if worker["bytes_done"]}
    with lake.cluster.coordinator.connect() as client:
        found = info(client, "/c", columns=COLUMNS)
        assert newcomer.uri in {locations(endpoint)[0] for endpoint in found.endpoints}
        until(lambda: told(client, COLUMNS) == {"decoded"}, "the plan says where all of it is")
    lake.assert_free("memory", small.rows(COLUMNS), COLUMNS)


@pytest.mark.parametrize("what", ["a worker joins", "the scheduler dies"])
def test_what_a_verification_found_stays_found(lake: Lake, what: str) -> None:
    """Damaged pages go when they are found, so what comes later cannot find them again, and must not need to."""
    with lake.cluster.coordinator.connect() as client:
        jobs.preload(client, "/c", tier="raw")
    for worker in lake.cluster.workers:
        rot(worker.folder / "data")
    whole = bytes_of(chunk_ranges(lake.folder))
    with lake.cluster.workers[0].connect() as client:
        job = jobs.submit_verify(client, "/c", bandwidth=int(whole / JOB_S))
        found = jobs.wait_until(
            client, job["id"], lambda job: (job["verified"] or {"damaged": 0})["damaged"] > 3, "damage"
        )
    if what == "a worker joins":
        lake.nodes.append(lake.cluster.add_worker())
    else:
        lake.cluster.coordinator.kill()
        lake.cluster.coordinator.start()
    job = jobs.wait_anywhere(lake.nodes, job["id"])
    print(f"{found['verified']} and then {job['verified']}, {job['round']} rounds")
    assert job["state"] == "PARTIAL", shown(job)
    assert job["verified"]["damaged"] >= found["verified"]["damaged"]
    assert {failure["kind"] for failure in job["failures"]} == {"damaged"}
    known = {(failure["path"], failure["row_group"]) for failure in found["failures"]}
    assert known <= {(failure["path"], failure["row_group"]) for failure in job["failures"]}


# Two coordinators.


@pytest.fixture
def on_etcd(etcd: Etcd, small: Small, tmp_path: Path) -> Iterator[Lake]:
    """Two coordinators and two workers that have their metadata in etcd."""
    cluster = EtcdCluster.start(tmp_path, etcd, f"jobs-{tmp_path.name.replace('_', '-')}", {})
    with CountingStore(small.folder) as store:
        with cluster.coordinators[0].connect() as client:
            mount(client, "/c", store.uri, freshness="immutable", **store.options)
        for node in cluster.nodes:
            until(lambda node=node: "/c" in json.dumps(asked(node, "mount.list")), "the mount is seen")
        yield Lake(cluster, store, small.folder, cluster.nodes)
        cluster.close()


def of_id(lake: Lake, node_id: str) -> Node:
    """The node of an id."""
    return next(node for node in lake.nodes if node.id == node_id)


def test_the_other_coordinator_takes_over(on_etcd: Lake, small: Small) -> None:
    """kill -9 of the one that schedules, which stays away."""
    before = midway(on_etcd, on_etcd.cluster.workers[0], tier="both", priority="high")
    victim = of_id(on_etcd, before["scheduler"])
    assert victim in on_etcd.cluster.coordinators
    victim.kill()
    job = assert_went_on(on_etcd, before)
    assert job["scheduler"] not in (None, before["scheduler"])
    on_etcd.nodes = [node for node in on_etcd.nodes if node is not victim]
    on_etcd.assert_free("memory", small.rows(COLUMNS), COLUMNS)


def test_a_scheduler_that_stood_still_changes_nothing_when_it_goes_on(on_etcd: Lake, small: Small) -> None:
    """SIGSTOP until another has taken over and finished: fenced, it leaves the job as it ended."""
    before = midway(on_etcd, on_etcd.cluster.workers[0])
    frozen = of_id(on_etcd, before["scheduler"])
    others = [node for node in on_etcd.nodes if node is not frozen]
    frozen.freeze()
    try:
        job = jobs.assert_succeeded(jobs.wait_anywhere(others, before["id"]))
        assert job["scheduler"] not in (None, before["scheduler"])
    finally:
        frozen.thaw()
    wait_for_seats([frozen], len(on_etcd.cluster.workers))
    time.sleep(3)
    for node in on_etcd.nodes:
        with node.connect() as client:
            assert jobs.get(client, before["id"]) == job
    # It may schedule again, or the other does: the next job is done all the same.
    with frozen.connect() as client:
        jobs.preload(client, "/c", columns=["b"])
    on_etcd.assert_free("memory", small.rows(["b"]), ["b"])


def test_cancelled_while_nobody_schedules(lake: Lake) -> None:
    """What is asked for while the scheduler is away is done when it is back, and until then nothing is lost."""
    before = midway(lake, lake.cluster.coordinator)
    lake.cluster.coordinator.kill()
    with lake.cluster.workers[0].connect() as client:
        try:
            jobs.cancel(client, before["id"])
            was_taken = True
        except ANSWERED:
            was_taken = False
    lake.cluster.coordinator.start()
    job = jobs.wait_anywhere(lake.nodes, before["id"])
    assert job["state"] == ("CANCELLED" if was_taken else "SUCCEEDED"), shown(job)
