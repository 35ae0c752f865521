"""Jobs at their limits: a rate that is kept, an end that is one, many at once, too much, and data that goes wrong."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from harness import jobs
from harness.cluster import until
from harness.counting import CountingStore
from harness.errors import allow_error, expect_error
from harness.flight import act, by_scan, fetch, mount, plan
from harness.jobs import shown
from harness.server import Server
from harness.stored import TAIL_BYTES, Shape, asked_of, bytes_of, chunk_ranges, data_gets, measured_rate, rot

SHAPE = Shape()
# Small row groups, so that a rate is one: each is one request of this size.
FINE = Shape(files=2, groups=32, rows=8_192)
FINE_GET_BYTES = 8_192 * 8 * 3
RATE_BYTES_PER_S = 3_000_000
MOST_OFF = 0.10
# A machine that stands still for a moment changes a rate that is measured, but not each time.
TRIES = 3
# Bodies this slow that many are always under way, for 20 s each.
SLOW_BODY_BYTES_PER_S = 30_000
# Requests that are let go of are over at once, and on a busy machine well before their bodies have come.
ENDED_WITHIN_S = 3.0
# What was on its way may come this much later.
STRAGGLING_S = 0.5
LOOKED_AFTER_S = 2.0
MANY = 1_000
MANY_TIMEOUT_S = 240.0
MOST_RUNNING = 16
SUBMITTERS = 8
MESSAGE_LIMIT_BYTES = 4 << 20
# Of a file whose footer alone was read, so many row groups may count as held in part.
ENDS_ROW_GROUPS = 2


@dataclass
class Lake:
    """A counting store over files of a shape, mounted at /c."""

    server: Server
    store: CountingStore
    folder: Path
    shape: Shape

    @property
    def client(self) -> flight.FlightClient:
        return self.server.client

    def at(self, number: int) -> str:
        """The namespace path of a file."""
        return f"/c/{self.shape.name(number)}"

    def end(self, **options: Any) -> jobs.Job:
        """A preload of all, once it is over, however it ended."""
        return jobs.wait(self.client, jobs.submit(self.client, "/c", **options)["id"])


@pytest.fixture
def make_lake(start_server: Callable[..., Server], tmp_path: Path) -> Iterator[Callable[..., Lake]]:
    """Writes files of a shape, and starts a store and a server on them."""
    stores: list[CountingStore] = []

    def make(shape: Shape = SHAPE, args: Sequence[str] = (), freshness: str = "immutable") -> Lake:
        folder = tmp_path / "lake"
        shape.write(folder)
        store = CountingStore(folder)
        stores.append(store)
        server = start_server(args=list(args))
        mount(server.client, "/c", store.uri, freshness=freshness, **store.options)
        # A mount is looked at when it is made.
        store.forget()
        return Lake(server, store, folder, shape)

    yield make
    for store in stores:
        store.stop()


# The rate.


@pytest.mark.parametrize("tier", ["raw", "decoded"])
def test_the_bandwidth_is_kept(make_lake: Callable[..., Lake], tier: str) -> None:
    lake = make_lake(FINE)
    plan(lake.client, "/c")
    assert any(is_rate_kept(lake, tier) for _ in range(TRIES)), "the rate is another"
    least_s = bytes_of(chunk_ranges(lake.folder)) / RATE_BYTES_PER_S
    unlimited = jobs.assert_succeeded(lake.end(tier=tier))
    assert unlimited["elapsed_s"] < 0.8 * least_s


def is_rate_kept(lake: Lake, tier: str) -> bool:
    """Whether a job of the lake asks as fast as it may; nothing is held before and after."""
    lake.store.forget()
    job = jobs.assert_succeeded(lake.end(tier=tier, bandwidth=f"{RATE_BYTES_PER_S}B/s"))
    assert job["options"]["bandwidth"] == RATE_BYTES_PER_S
    gets = data_gets(lake.store.gets, lake.folder)
    rate, took_s = measured_rate(gets), max(get.ended_s or 0 for get in gets) - min(get.began_s for get in gets)
    print(
        f"{rate / RATE_BYTES_PER_S:.3f} of the limit, over {took_s:.1f} s; the job says {job['rate_bytes_per_s']:.0f}"
    )
    whole = sum(get.sent_bytes for get in gets)
    act(lake.client, "cache.free", {"path": "/"})
    return (
        abs(rate / RATE_BYTES_PER_S - 1) <= MOST_OFF
        # Neither a burst at the beginning: over all of it the rate is not passed by more than a request or two.
        and whole <= RATE_BYTES_PER_S * took_s * (1 + MOST_OFF) + 2 * FINE_GET_BYTES
        and job["rate_bytes_per_s"] <= RATE_BYTES_PER_S * 1.2
    )


def test_the_bandwidth_of_a_row_group_larger_than_a_second(make_lake: Callable[..., Lake]) -> None:
    """One request of four seconds' worth is not had at once."""
    lake = make_lake(Shape(files=3, groups=1, rows=131_072))
    whole = bytes_of(chunk_ranges(lake.folder))
    began_s = time.monotonic()
    jobs.assert_succeeded(lake.end(tier="raw", bandwidth=whole // 4))
    took_s = time.monotonic() - began_s
    print(f"{took_s:.1f} s for what takes 4 s at the limit")
    # Were each charged for twice, it would take 8 s.
    assert 2.5 < took_s < 7.5


# The end.


@pytest.mark.parametrize("tier", ["raw", "decoded"])
def test_a_cancelled_job_asks_for_nothing_more(make_lake: Callable[..., Lake], tier: str) -> None:
    lake = make_lake(args=["--store-request-timeout", "60s"])
    plan(lake.client, "/c")
    lake.store.pace(SLOW_BODY_BYTES_PER_S)
    lake.store.forget()
    job = jobs.submit(lake.client, "/c", tier=tier)
    lake.store.wait_for_gets(SHAPE.row_groups // 2)
    jobs.wait_until(lake.client, job["id"], lambda job: job["state"] == "RUNNING", "running")
    under_way = len(lake.store.in_flight)
    assert under_way > 0
    asked_s = time.monotonic()
    jobs.cancel(lake.client, job["id"])
    until(lambda: not lake.store.in_flight, "no request is under way", ENDED_WITHIN_S)
    ended_s = max(get.ended_s or 0 for get in lake.store.gets) - asked_s
    print(f"{under_way} requests under way ended within {ended_s:.2f} s")
    assert jobs.wait(lake.client, job["id"])["state"] == "CANCELLED"
    over_s = time.monotonic() + STRAGGLING_S
    time.sleep(STRAGGLING_S + LOOKED_AFTER_S)
    assert [get for get in lake.store.gets if get.began_s > over_s] == []
    assert not lake.store.in_flight
    # It neither comes back nor harms who reads the same.
    lake.store.pace(None)
    assert fetch(lake.client, by_scan("/c")).rows == SHAPE.all_rows
    assert jobs.get(lake.client, job["id"])["state"] == "CANCELLED"


def test_a_reader_of_the_same_is_not_cancelled_too(make_lake: Callable[..., Lake]) -> None:
    lake = make_lake(args=["--store-request-timeout", "60s"])
    plan(lake.client, "/c")
    lake.store.pace(SLOW_BODY_BYTES_PER_S * 8)
    lake.store.forget()
    job = jobs.submit(lake.client, "/c")
    lake.store.wait_for_gets(SHAPE.row_groups // 2)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(fetch, lake.server.connect(), by_scan("/c"))
        until(lambda: act(lake.client, "preload.get", {"id": job["id"]})["state"] == "RUNNING", "running")
        time.sleep(0.3)
        jobs.cancel(lake.client, job["id"])
        until(lambda: jobs.get(lake.client, job["id"])["state"] == "CANCELLED", "cancelled")
        lake.store.pace(None)
        assert reading.result().rows == SHAPE.all_rows


def test_a_waiting_job_is_cancelled_too(make_lake: Callable[..., Lake]) -> None:
    lake = make_lake()
    plan(lake.client, "/c")
    with lake.store.held_back():
        all_of_them = [jobs.submit(lake.client, "/c", max_failures=number) for number in range(MOST_RUNNING + 4)]
        until(lambda: len(jobs.listed(lake.client, "RUNNING")) == MOST_RUNNING, "as many as may run do")
        waiting = jobs.listed(lake.client, "PENDING")
        assert len(waiting) == 4
        for job in all_of_them:
            jobs.cancel(lake.client, job["id"])
        for job in all_of_them:
            assert jobs.wait(lake.client, job["id"])["state"] == "CANCELLED"
    assert len(jobs.listed(lake.client, "CANCELLED")) == len(all_of_them)


def test_cancelling_what_is_over_changes_nothing(make_lake: Callable[..., Lake]) -> None:
    lake = make_lake()
    done = jobs.preload(lake.client, "/c")
    assert jobs.cancel(lake.client, done["id"]) == done
    assert jobs.get(lake.client, done["id"]) == done


@pytest.mark.parametrize("unknown", ["00000000-0000-0000-0000-000000000000", "nonsense", "", "../job", "x" * 2_000])
@pytest.mark.parametrize("action", ["get", "cancel", "watch"])
def test_unknown_jobs(server: Server, action: str, unknown: str) -> None:
    with expect_error("NOT_FOUND"):
        list(server.client.do_action(flight.Action(f"preload.{action}", b'{"id": "%s"}' % unknown.encode())))


# Many.


def test_a_thousand_jobs_at_once(make_lake: Callable[..., Lake]) -> None:
    """All accepted, few at a time, all listed, all done; and the server has time for readers meanwhile."""
    lake = make_lake(Shape(files=1, groups=4, rows=4_096))
    plan(lake.client, "/c")

    def submit_some(start: int) -> list[str]:
        with lake.server.connect() as client:
            return [jobs.submit(client, "/c", max_failures=n)["id"] for n in range(start, MANY, SUBMITTERS)]

    began_s = time.monotonic()
    with ThreadPoolExecutor(SUBMITTERS) as pool:
        ids = {job_id for some in pool.map(submit_some, range(SUBMITTERS)) for job_id in some}
    submitted_s = time.monotonic() - began_s
    assert len(ids) == MANY
    states: Counter[str] = Counter()
    most_running, slowest_s, over = 0, 0.0, set[str]()
    while states["SUCCEEDED"] < MANY:
        listing = jobs.listed(lake.client)
        assert {job["id"] for job in listing} == ids
        states = Counter(job["state"] for job in listing)
        now_over = {job["id"] for job in listing if job["state"] in jobs.FINAL}
        assert over <= now_over, f"{len(over - now_over)} jobs that were over are so no more"
        over = now_over
        assert states.keys() <= {"PENDING", "RUNNING", "SUCCEEDED"}, states
        most_running = max(most_running, states["RUNNING"])
        read_s = time.monotonic()
        assert fetch(lake.client, by_scan("/c")).rows == lake.shape.all_rows
        slowest_s = max(slowest_s, time.monotonic() - read_s)
        assert time.monotonic() - began_s < MANY_TIMEOUT_S, states
    took_s = time.monotonic() - began_s
    print(f"submitted in {submitted_s:.1f} s, done in {took_s:.1f} s, at most {most_running} at once")
    print(f"the slowest read meanwhile took {slowest_s:.2f} s")
    assert 0 < most_running <= MOST_RUNNING
    answer = list(lake.client.do_action(flight.Action("preload.list", b"{}")))
    largest = max(len(part.body) for part in answer)
    print(f"the list is {largest} bytes")
    assert largest < MESSAGE_LIMIT_BYTES


# Too much.


@pytest.mark.parametrize("tier", ["raw", "decoded", "both"])
def test_more_than_fits_is_refused_with_figures(make_lake: Callable[..., Lake], tmp_path: Path, tier: str) -> None:
    """Before anything is loaded; `partial` loads as much as fits, and keeps it."""
    shape = Shape(files=32, groups=4, rows=32_768)
    capacity = 16 << 20 if tier == "raw" else None
    args = ["--cache-dir", f"{tmp_path}/pages=16MiB"] if capacity else ["--memory", "64MiB"]
    lake = make_lake(shape, args)
    told = jobs.dry_run(lake.client, "/c", tier=tier)
    assert told["fits"] is False
    (worker,) = told["workers"]
    most = worker["raw_capacity_bytes" if tier == "raw" else "decoded_capacity_bytes"]
    assert most < told["bytes"] if tier == "raw" else most < told["decoded_bytes"]
    assert capacity is None or most <= capacity
    lake.store.forget()
    with expect_error("RESOURCE_EXHAUSTED", r"\d{6,}.*\d{6,}"):
        jobs.submit(lake.client, "/c", tier=tier)
    assert not data_gets(lake.store.gets, lake.folder)
    assert jobs.listed(lake.client) == []
    job = lake.end(tier=tier, partial=True)
    assert job["state"] in ("SUCCEEDED", "PARTIAL"), shown(job)
    held = jobs.stat(lake.client, "/c")["raw_bytes" if tier == "raw" else "decoded_bytes"]
    print(f"{tier}: {job['state']}, {held / most:.0%} of the capacity is held")
    assert 0.6 * most < held <= most
    done = job["bytes_done"] if tier == "raw" else job["decoded_bytes_done"]
    # What it says is there is there.
    assert done <= held
    assert done > 0.6 * most


def test_what_fits_beside_nothing_else_is_taken(make_lake: Callable[..., Lake], tmp_path: Path) -> None:
    """So that the refusals above are for the size: a little less than the capacity is loaded, and is there."""
    lake = make_lake(Shape(files=5, groups=8, rows=16_384), ["--cache-dir", f"{tmp_path}/pages=18MiB"])
    whole = bytes_of(chunk_ranges(lake.folder))
    assert whole > 0.8 * (18 << 20)
    jobs.preload(lake.client, "/c", tier="raw")
    lake.store.forget()
    assert fetch(lake.client, by_scan("/c")).sources == {"disk"}
    assert lake.store.gets == []


# What goes wrong below.


def test_verify_finds_what_rotted(make_lake: Callable[..., Lake]) -> None:
    lake = make_lake()
    jobs.preload(lake.client, "/c", tier="raw")
    clean = jobs.assert_succeeded(jobs.verify(lake.client, "/c"))
    assert clean["kind"] == "verify"
    stored = bytes_of(chunk_ranges(lake.folder))
    told = clean["verified"]
    assert {**told, "bytes": 0} == {"row_groups": SHAPE.row_groups, "bytes": 0, "damaged": 0, "changed": 0}
    # Whole pages are compared, and footers too.
    assert stored <= told["bytes"] < 1.1 * stored
    rot(lake.server.data_dir)
    job = jobs.verify(lake.client, "/c", priority="high")
    assert job["state"] == "PARTIAL", shown(job)
    assert 0 < job["verified"]["damaged"] < 200
    assert {failure["kind"] for failure in job["failures"]} == {"damaged"}
    assert {failure["path"] for failure in job["failures"]} <= set(map(lake.at, range(SHAPE.files)))
    assert all(failure["row_group"] is not None for failure in job["failures"])
    # Damaged pages are held no more, and others are: little comes anew.
    lake.store.forget()
    jobs.preload(lake.client, "/c", tier="raw")
    again = asked_of(lake.store.gets, chunk_ranges(lake.folder))
    print(f"{job['verified']['damaged']} damaged pages; {again.once_bytes} of {stored} bytes came anew")
    assert 0 < again.once_bytes < stored / 2
    assert jobs.verify(lake.client, "/c", priority="low")["verified"]["damaged"] == 0


def test_a_verifying_preload_mends_what_rotted(make_lake: Callable[..., Lake]) -> None:
    lake = make_lake()
    jobs.preload(lake.client, "/c", tier="raw")
    rot(lake.server.data_dir)
    job = lake.end(tier="raw", verify=True)
    assert job["state"] == "PARTIAL", shown(job)
    assert job["verified"]["damaged"] > 0
    assert {failure["kind"] for failure in job["failures"]} == {"damaged"}
    assert jobs.stat(lake.client, "/c")["raw_bytes"] >= bytes_of(chunk_ranges(lake.folder))
    lake.store.forget()
    answer = fetch(lake.client, by_scan("/c"))
    assert answer.table.equals(pa.concat_tables(SHAPE.table(number, SHAPE.seed) for number in range(SHAPE.files)))
    assert (answer.sources, lake.store.gets) == ({"disk"}, [])
    assert jobs.assert_succeeded(lake.end(tier="raw", verify=True))["verified"]["damaged"] == 0


@pytest.mark.parametrize("tier", ["raw", "decoded", "both"])
def test_verify_compares_with_what_the_storage_has(make_lake: Callable[..., Lake], tier: str) -> None:
    """An object whose bytes change though nothing else of it does: only a look at the bytes tells."""
    lake = make_lake()
    jobs.preload(lake.client, "/c", tier=tier)
    path = lake.folder / SHAPE.name(1)
    about = path.stat()
    start, _ = chunk_ranges(lake.folder, ["a"])[path.name][1]
    with path.open("r+b") as file:
        # Well within the values of a page.
        file.seek(start + 10_000)
        file.write(os.urandom(64))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    job = jobs.verify(lake.client, "/c")
    assert job["state"] == "PARTIAL", shown(job)
    (failure,) = jobs.assert_failures(job, "damaged", lake.at(1))
    assert failure["row_group"] == 1
    assert job["verified"]["damaged"] >= 1


@pytest.mark.parametrize("freshness", ["immutable", "max-age=60s"])
def test_verify_finds_an_object_that_changed(make_lake: Callable[..., Lake], freshness: str) -> None:
    lake = make_lake(freshness=freshness)
    jobs.preload(lake.client, "/c")
    SHAPE.write_one(lake.folder, 2, seed=99)
    job = jobs.verify(lake.client, "/c")
    assert job["state"] == "PARTIAL", shown(job)
    jobs.assert_failures(job, "changed", lake.at(2))
    assert job["verified"]["changed"] == 1
    assert job["verified"]["damaged"] == 0


def test_verify_where_changes_are_seen_at_once_finds_nothing_outdated(make_lake: Callable[..., Lake]) -> None:
    """The plan itself finds that the object is another, of which nothing is held; what was held of it is let go of."""
    lake = make_lake(freshness="always")
    jobs.preload(lake.client, "/c")
    SHAPE.write_one(lake.folder, 2, seed=99)
    job = jobs.verify(lake.client, "/c")
    assert (job["verified"]["damaged"], job["verified"]["changed"] in (0, 1)) == (0, True)
    assert job["verified"]["row_groups"] <= SHAPE.row_groups - SHAPE.groups + ENDS_ROW_GROUPS
    assert jobs.stat(lake.client, "/c")["outdated_bytes"] == 0


def test_verify_of_what_is_not_held_loads_nothing(make_lake: Callable[..., Lake]) -> None:
    lake = make_lake()
    jobs.preload(lake.client, lake.at(0), tier="raw")
    plan(lake.client, "/c")
    held = jobs.stat(lake.client, "/c")
    job = jobs.assert_succeeded(jobs.verify(lake.client, "/c"))
    # The ends of the other files are held, for their footers.
    ends = (SHAPE.files - 1) * ENDS_ROW_GROUPS
    assert SHAPE.groups <= job["verified"]["row_groups"] <= SHAPE.groups + ends < SHAPE.row_groups
    assert jobs.stat(lake.client, "/c")["raw_bytes"] <= held["raw_bytes"] + SHAPE.files * TAIL_BYTES


def slowly(lake: Lake, path: str | list[str] = "/c", **options: Any) -> jobs.Job:
    """A job that takes about four seconds, once its first tenth is done."""
    whole = bytes_of(chunk_ranges(lake.folder))
    job = jobs.submit(lake.client, path, bandwidth=whole // 4, **options)
    return jobs.wait_until(lake.client, job["id"], lambda job: job["bytes_done"] > whole / 10, "begun")


def least_loaded(lake: Lake) -> int:
    """The file of which the least has been asked for."""
    asked = Counter({SHAPE.name(number): 0 for number in range(SHAPE.files)})
    for get in lake.store.gets:
        asked[get.key] += get.length_bytes
    return min(range(SHAPE.files), key=lambda number: asked[SHAPE.name(number)])


@pytest.mark.parametrize("named", [False, True], ids=["in a folder", "by its name"])
def test_a_file_that_is_deleted_meanwhile(make_lake: Callable[..., Lake], named: bool) -> None:
    """A folder is then without it, and all of that is there; a file that was asked for by its name is missed."""
    lake = make_lake()
    job = slowly(lake, list(map(lake.at, range(SHAPE.files))) if named else "/c")
    gone = least_loaded(lake)
    (lake.folder / SHAPE.name(gone)).unlink()
    job = jobs.wait(lake.client, job["id"])
    if named or job["state"] != "SUCCEEDED":
        assert job["state"] == "PARTIAL", shown(job)
        (failure,) = jobs.assert_failures(job, "not_found", lake.at(gone))
        assert failure["tries"] == 1
        assert job["files"] == SHAPE.files
    else:
        assert jobs.assert_succeeded(job)["files"] == SHAPE.files - 1
    assert job["files_done"] == SHAPE.files - 1
    lake.store.forget()
    for number in set(range(SHAPE.files)) - {gone}:
        assert fetch(lake.client, by_scan(lake.at(number))).sources == {"memory"}
    assert data_gets(lake.store.gets, lake.folder) == []


@pytest.mark.parametrize("freshness", ["immutable", "always"])
def test_a_file_that_changes_meanwhile(make_lake: Callable[..., Lake], freshness: str) -> None:
    """Either version may be there in the end, never a mixture: the new one whole, or the job says that it changed."""
    lake = make_lake(freshness=freshness)
    job = slowly(lake, tier="raw")
    last = least_loaded(lake)
    changed = SHAPE.write_one(lake.folder, last, seed=99)
    job = jobs.wait(lake.client, job["id"])
    print(f"{freshness}: {job['state']} after {job['round']} rounds")
    if job["state"] != "SUCCEEDED":
        assert job["state"] == "PARTIAL", shown(job)
        jobs.assert_failures(job, "changed", lake.at(last))
    act(lake.client, "dataset.refresh", {"path": "/c"})
    lake.store.forget()
    answer = fetch(lake.client, by_scan(lake.at(last)))
    assert answer.table.equals(changed)
    if job["state"] == "SUCCEEDED":
        assert lake.store.gets == []


def test_a_mount_that_goes_meanwhile(make_lake: Callable[..., Lake]) -> None:
    lake = make_lake()
    job = slowly(lake)
    act(lake.client, "mount.remove", {"path": "/c"})
    gone_s = time.monotonic()
    job = jobs.wait(lake.client, job["id"])
    print(f"{job['state']} after {time.monotonic() - gone_s:.1f} s: {job['error']}")
    assert job["state"] in ("PARTIAL", "FAILED"), shown(job)
    said = f"{job['error']} {job['failures']}"
    assert "/c" in said
    time.sleep(0.5)
    lake.store.forget()
    time.sleep(LOOKED_AFTER_S)
    assert (lake.store.gets, lake.store.others) == ([], [])


# What is asked for wrongly.


@pytest.mark.parametrize(
    ("body", "kind", "word"),
    [
        ({"path": "/c", "bandwith": 1}, "INVALID_ARGUMENT", "bandwith"),
        ({"path": "/c", "bandwidth": 0}, "INVALID_ARGUMENT", "bandwidth"),
        ({"path": "/c", "bandwidth": "0MiB/s"}, "INVALID_ARGUMENT", "bandwidth"),
        ({"path": "/c", "bandwidth": -1}, "INVALID_ARGUMENT", ""),
        ({"path": "/c", "bandwidth": "fast"}, "INVALID_ARGUMENT", "fast"),
        ({"path": "/c", "columns": ["n", "nope"]}, "INVALID_ARGUMENT", "nope"),
        ({"path": "/c", "where": "nope > 1"}, "INVALID_ARGUMENT", "nope"),
        ({"path": "/c", "where": "n <"}, "INVALID_ARGUMENT", ""),
        ({"path": "/c", "tier": "tape"}, "INVALID_ARGUMENT", "tape"),
        ({"path": "/c", "priority": "urgent"}, "INVALID_ARGUMENT", "urgent"),
        ({"path": "/c", "replicas": 0}, "INVALID_ARGUMENT", "replicas"),
        ({"path": "/c", "every": "0s"}, "INVALID_ARGUMENT", "every"),
        ({"path": "/c", "every": "soon"}, "INVALID_ARGUMENT", "every"),
        ({"path": "/c", "max_failures": -1}, "INVALID_ARGUMENT", ""),
        ({"path": "/c", "verify": "yes"}, "INVALID_ARGUMENT", ""),
        ({"path": ["/c"]}, "INVALID_ARGUMENT", ""),
        ({"paths": []}, "INVALID_ARGUMENT", "path"),
        ({}, "INVALID_ARGUMENT", "path"),
        ({"path": "/c/nope.parquet"}, "NOT_FOUND", "nope"),
        ({"path": "/c/empty"}, "NOT_FOUND", "empty"),
        ({"path": "/nowhere"}, "NOT_FOUND", "nowhere"),
        ({"paths": ["/c", "/nowhere"]}, "NOT_FOUND", "nowhere"),
    ],
    ids=str,
)
def test_what_cannot_be(asked_wrongly: Lake, body: dict[str, Any], kind: str, word: str) -> None:
    with expect_error(kind, re.escape(word)):
        act(asked_wrongly.client, "preload.submit", body)
    assert jobs.listed(asked_wrongly.client) == []


@pytest.fixture(scope="module")
def asked_wrongly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """A server that no job is ever to run on."""
    folder = tmp_path_factory.mktemp("wrongly")
    shape = Shape(files=1, groups=1, rows=100)
    shape.write(folder / "lake")
    (folder / "lake/empty").mkdir()
    with CountingStore(folder / "lake") as store:
        server = Server(folder / "data")
        mount(server.client, "/c", store.uri, **store.options)
        yield Lake(server, store, folder / "lake", shape)
        server.stop()


@pytest.mark.parametrize("action", ["preload.submit", "preload.get", "preload.list", "verify.submit"])
@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b'{"id": 1, "path": 2, "state": 3}', b"null"])
def test_bodies_that_are_none(asked_wrongly: Lake, action: str, raw: bytes) -> None:
    if (action, raw) == ("preload.list", b""):
        assert act(asked_wrongly.client, "preload.list") == {"jobs": []}
        return
    with expect_error("INVALID_ARGUMENT"):
        list(asked_wrongly.client.do_action(flight.Action(action, raw)))


def test_a_state_that_is_none(asked_wrongly: Lake) -> None:
    with expect_error("INVALID_ARGUMENT", "DONE"):
        act(asked_wrongly.client, "preload.list", {"state": "DONE"})


@pytest.mark.parametrize("options", [{}, {"partial_listing": True}, {"tier": "raw"}, {"metadata_only": True}], ids=str)
def test_where_that_selects_nothing(make_lake: Callable[..., Lake], options: dict[str, Any]) -> None:
    lake = make_lake(Shape(files=2, groups=1))
    job = jobs.preload(lake.client, "/c", where="n < 0", **options)
    counts = ("files", "files_done", "row_groups", "bytes", "decoded_bytes", "bytes_done")
    assert {name: job[name] for name in counts} == dict.fromkeys(counts, 0)
    assert not data_gets(lake.store.gets, lake.folder)


def test_an_unknown_column_of_a_partial_listing(make_lake: Callable[..., Lake]) -> None:
    """What is not listed yet cannot be told then, and must be told later."""
    lake = make_lake(Shape(files=2, groups=1))
    job = None
    with allow_error("INVALID_ARGUMENT", match="nope"):
        job = jobs.submit(lake.client, "/c", columns=["nope"], partial_listing=True)
    if job is not None:
        job = jobs.wait(lake.client, job["id"])
        assert job["state"] == "FAILED", shown(job)
        assert "nope" in job["error"]


def test_a_folder_that_is_emptied_before_the_next_run(make_lake: Callable[..., Lake]) -> None:
    """A job that repeats outlives a run that finds nothing, and finds what comes later."""
    lake = make_lake(Shape(files=2, groups=1, rows=16_384), freshness="always")
    job = jobs.submit(lake.client, "/c", every="1s")
    jobs.wait_until(lake.client, job["id"], lambda job: job["runs"] >= 1, "run once")
    aside = lake.folder.with_name("aside")
    shutil.move(lake.folder, aside)
    lake.folder.mkdir()
    runs = jobs.get(lake.client, job["id"])["runs"]
    jobs.wait_until(lake.client, job["id"], lambda job: job["runs"] >= runs + 2, "run on nothing")
    shutil.rmtree(lake.folder)
    shutil.move(aside, lake.folder)
    lake.shape.write_one(lake.folder, 5)
    runs = jobs.get(lake.client, job["id"])["runs"]
    jobs.wait_until(lake.client, job["id"], lambda job: job["runs"] >= runs + 2, "run on what came")
    lake.store.forget()
    assert fetch(lake.client, by_scan("/c")).sources == {"memory"}
    assert lake.store.gets == []
    jobs.cancel(lake.client, job["id"])
