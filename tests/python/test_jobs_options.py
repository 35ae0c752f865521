"""What options of jobs promise where they meet: bandwidths hold for plans too, every copy is compared, none is idle."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.flight as flight
import pytest

from harness import jobs
from harness.cluster import Cluster, until
from harness.counting import CountingStore, Get
from harness.errors import expect_error
from harness.flight import act, by_scan, fetch, mount
from harness.jobs import shown
from harness.owners import owners
from harness.server import Server
from harness.stored import Shape, bytes_of, chunk_ranges, data_gets, rot

# A file of less than 128 KiB comes whole with its footer.
SMALL = Shape(files=160, groups=1, rows=4_096)
RATE_BYTES_PER_S, MOST_OFF = 3_000_000, 0.10
# What may come beyond a rate whenever somebody else begins to plan.
BURST_FILES = 4
# Far less than a plan at the pace of the test takes, and far more than one at no pace.
AT_ONCE_S = 20.0
# What a reader had asked for in the job's name is paid off before the job asks for more.
LATER_S = 120.0
FETCH_BYTES = 256 << 10


@dataclass
class Lake:
    """A counting store over files of a shape, mounted at /c."""

    server: Server
    store: CountingStore
    folder: Path

    @property
    def client(self) -> flight.FlightClient:
        return self.server.client


@pytest.fixture
def make_lake(start_server: Callable[..., Server], tmp_path: Path) -> Iterator[Callable[..., Lake]]:
    """Writes files of a shape, and starts a store and a server on them."""
    stores: list[CountingStore] = []

    def make(shape: Shape, args: Sequence[str] = ()) -> Lake:
        folder = tmp_path / "lake"
        shape.write(folder)
        store = CountingStore(folder)
        stores.append(store)
        server = start_server(args=list(args))
        mount(server.client, "/c", store.uri, freshness="immutable", **store.options)
        # A mount is looked at when it is made.
        store.forget()
        return Lake(server, store, folder)

    yield make
    for store in stores:
        store.stop()


def assert_bounded(gets: Sequence[Get], folder: Path) -> None:
    """All that was asked for came no faster than the rate, of which it takes seconds."""
    whole = sum(path.stat().st_size for path in folder.glob("*.parquet"))
    took_s = max(get.ended_s or 0 for get in gets) - min(get.began_s for get in gets)
    came = sum(get.sent_bytes for get in gets)
    print(f"{came} bytes of {whole} in {took_s:.1f} s: {came / took_s / RATE_BYTES_PER_S:.3f} of the limit")
    assert came > 0.9 * whole, "the files did not come whole"
    most = RATE_BYTES_PER_S * took_s * (1 + MOST_OFF) + BURST_FILES * whole / SMALL.files
    assert came <= most, f"{came} bytes in {took_s:.1f} s"


@pytest.mark.parametrize("options", [{"tier": "raw"}, {"metadata_only": True}, {"partial_listing": True}], ids=str)
def test_a_plan_keeps_the_bandwidth(make_lake: Callable[..., Lake], options: dict[str, Any]) -> None:
    lake = make_lake(SMALL)
    job = jobs.preload(lake.client, "/c", bandwidth=RATE_BYTES_PER_S, **options)
    assert job["files"] == SMALL.files
    assert_bounded(lake.store.gets, lake.folder)


def test_the_owners_that_a_plan_asks_keep_the_bandwidth(tmp_path: Path) -> None:
    SMALL.write(tmp_path / "lake")
    with (
        CountingStore(tmp_path / "lake") as store,
        Cluster.start(tmp_path / "cluster", {}, 2) as cluster,
        cluster.coordinator.connect() as client,
    ):
        mount(client, "/c", store.uri, freshness="immutable", **store.options)
        store.forget()
        jobs.preload(client, "/c", metadata_only=True, bandwidth=RATE_BYTES_PER_S)
        assert_bounded(store.gets, tmp_path / "lake")


def test_who_reads_waits_for_no_plan_at_a_pace(make_lake: Callable[..., Lake]) -> None:
    """A plan that would take a minute and more; a reader of the same takes what it takes."""
    lake = make_lake(SMALL)
    job = jobs.submit(lake.client, "/c", tier="raw", bandwidth=RATE_BYTES_PER_S // 20)
    began_s = time.monotonic()
    assert fetch(lake.client, by_scan("/c")).rows == SMALL.all_rows
    took_s = time.monotonic() - began_s
    print(f"read in {took_s:.1f} s")
    assert took_s < AT_ONCE_S
    # What was read for the reader is there for the job too.
    jobs.assert_succeeded(jobs.wait(lake.client, job["id"], LATER_S))


def test_every_run_of_a_preload_that_verifies_does(make_lake: Callable[..., Lake]) -> None:
    shape = Shape(files=2, groups=2, rows=16_384)
    lake = make_lake(shape)
    job = jobs.submit(lake.client, "/c", tier="raw", verify=True, every="1s")

    def has_verified_again(job: jobs.Job) -> bool:
        # The first run found nothing to compare.
        is_later = job["runs"] >= 2 and job["state"] == "PENDING"
        return is_later and job["verified"]["row_groups"] == shape.row_groups

    jobs.wait_until(lake.client, job["id"], has_verified_again, "verified in a later run")
    jobs.cancel(lake.client, job["id"])


def test_every_copy_is_compared(tmp_path: Path) -> None:
    """A copy beyond what the mount says, which no read is told of, is damaged, and the owner's is not."""
    shape = Shape(files=1, groups=2, rows=16_384)
    shape.write(tmp_path / "lake")
    with (
        CountingStore(tmp_path / "lake") as store,
        Cluster.start(tmp_path / "cluster", {}, 2) as cluster,
        cluster.coordinator.connect() as client,
    ):
        mount(client, "/c", store.uri, freshness="immutable", **store.options)
        jobs.preload(client, "/c", tier="raw")
        once = jobs.assert_succeeded(jobs.verify(client, "/c"))
        stored = bytes_of(chunk_ranges(tmp_path / "lake"))
        assert (once["bytes"], once["verified"]["row_groups"]) == (stored, shape.row_groups)
        jobs.preload(client, "/c", tier="raw", replicas=2)
        twice = jobs.assert_succeeded(jobs.verify(client, "/c", priority="high"))
        assert (twice["bytes"], twice["verified"]["row_groups"]) == (2 * stored, 2 * shape.row_groups)
        ((owner, *_),) = owners(client, "/c").of.values()
        other = next(worker for worker in cluster.workers if worker.id != owner)
        rot(other.folder / "data", bytes_apart=50_000)
        job = jobs.verify(client, "/c", priority="low")
        assert job["state"] == "PARTIAL", shown(job)
        assert {failure["kind"] for failure in job["failures"]} == {"damaged"}
        assert all(other.id in failure["error"] for failure in job["failures"]), job["failures"]
        damaged = {worker["id"]: worker["damaged"] for worker in job["workers"]}
        assert damaged[owner] == 0 < damaged[other.id] == job["verified"]["damaged"]
        again = jobs.verify(client, "/c")
        assert again["verified"]["damaged"] == 0


def test_more_copies_than_workers_are_refused_with_figures(make_lake: Callable[..., Lake]) -> None:
    lake = make_lake(Shape(files=2, groups=2, rows=4_096))
    # A server has its seat a moment after it answers; before that, nothing is said of how many there are.
    until(lambda: any(one["seat"] for one in act(lake.client, "cluster.members")["members"]), "it has its seat")
    with expect_error("RESOURCE_EXHAUSTED", "2 workers"):
        jobs.submit(lake.client, "/c", replicas=2)
    with expect_error("RESOURCE_EXHAUSTED", "2 workers"):
        jobs.submit(lake.client, "/c", replicas=2, partial_listing=True)
    assert jobs.listed(lake.client) == []
    assert jobs.dry_run(lake.client, "/c", replicas=2)["fits"] is False
    assert jobs.dry_run(lake.client, "/c", replicas=1)["fits"] is True
    # As many as there are, where that is asked for; and the job says what is missing.
    job = jobs.wait(lake.client, jobs.submit(lake.client, "/c", replicas=2, partial=True)["id"])
    assert job["state"] == "PARTIAL", shown(job)
    (failure,) = job["failures"]
    assert failure["kind"] == "capacity"
    assert "4 copies of 4 row groups" in failure["error"]
    assert job["row_groups_done"] == job["row_groups"] == 4


@pytest.mark.parametrize(
    "option", [{"tier": "both"}, {"verify": True}, {"skip_if_cached": True}, {"partial": True}], ids=str
)
def test_what_is_about_data_goes_with_no_footers_alone(server: Server, option: dict[str, Any]) -> None:
    (name,) = option
    with expect_error("INVALID_ARGUMENT", name):
        jobs.submit(server.client, "/c", metadata_only=True, **option)


def test_a_verification_asks_for_as_much_at_once_as_a_read_may(make_lake: Callable[..., Lake]) -> None:
    lake = make_lake(Shape(files=1, groups=1, rows=131_072), ["--fetch-bytes", f"{FETCH_BYTES >> 10}KiB"])
    jobs.preload(lake.client, "/c", tier="raw")
    lake.store.forget()
    jobs.assert_succeeded(jobs.verify(lake.client, "/c"))
    asked = [get.length_bytes for get in data_gets(lake.store.gets, lake.folder)]
    print(f"{len(asked)} requests, the largest of {max(asked)} bytes")
    assert max(asked) <= FETCH_BYTES
