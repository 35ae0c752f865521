"""Preload jobs on one server: each option has its effect, by the storage's own count and by what is held afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from harness import jobs
from harness.cluster import until
from harness.counting import CountingStore, Fault, Get
from harness.errors import expect_error
from harness.flight import act, by_scan, fetch, mount, plan, splits
from harness.jobs import shown
from harness.metrics import total
from harness.server import Server
from harness.stored import TAIL_BYTES, VALUE_BYTES, Shape, asked_of, bytes_of, chunk_ranges, data_gets

SHAPE = Shape()
COLUMNS = ["n", "a"]
# One file of a shape has this many bytes of data in a column.
FILE_COLUMN_BYTES = SHAPE.rows_a_file * VALUE_BYTES
# What a read of each tier says of itself, and what GetFlightInfo says of its endpoints.
SOURCE = {"raw": "disk", "decoded": "memory", "both": "memory"}
CACHED = {"raw": "raw", "decoded": "decoded", "both": "decoded"}
TIERS = list(SOURCE)
# Few requests at a time, each a little late, so that a job takes a while.
SLOW = ["--store-concurrency", "4"]
GET_DELAY_S = 0.1
BOTH_RUN_S = 3.0
# More than two turns of what repeats each second.
QUIET_S = 2.5
# What is over for too long is swept now and then.
HISTORY_TIMEOUT_S = 60.0


@dataclass
class Lake:
    """A counting store over files of a shape, mounted at /c on a server of the test's own."""

    server: Server
    store: CountingStore
    folder: Path
    shape: Shape
    table: pa.Table

    @property
    def client(self) -> Any:
        return self.server.client

    def at(self, number: int) -> str:
        """The namespace path of a file."""
        return f"/c/{self.shape.name(number)}"

    def preload(self, path: Any = "/c", **options: Any) -> jobs.Job:
        return jobs.preload(self.client, path, **options)

    def data_asked(self) -> set[str]:
        """The files of whose data anything was asked for."""
        return {get.key for get in data_gets(self.store.gets, self.folder)}

    def assert_free(self, source: str, columns: list[str] | None = None, path: str = "/c", **spec: Any) -> None:
        """A full read gives the right rows from one tier, and asks storage for nothing at all."""
        self.store.forget()
        answer = fetch(self.client, by_scan(path, columns=columns or list(self.shape.columns), **spec))
        assert self.store.gets == []
        assert self.store.others == []
        assert answer.sources == {source}
        if path == "/c" and not spec:
            assert answer.table.equals(self.table.select(columns or list(self.shape.columns)))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    """The files that most tests load, which nobody changes."""
    folder = tmp_path_factory.mktemp("jobs") / "lake"
    return folder, SHAPE.write(folder)


@pytest.fixture
def make_lake(start_server: Callable[..., Server], tmp_path: Path) -> Iterator[Callable[..., Lake]]:
    """Starts a store and a server on files of a shape, written for the test, or on a folder that has them."""
    stores: list[CountingStore] = []

    def make(
        shape: Shape = SHAPE,
        on: tuple[Path, pa.Table] | None = None,
        freshness: str = "immutable",
        args: tuple[str, ...] | list[str] = (),
    ) -> Lake:
        folder, table = on or (tmp_path / "lake", shape.write(tmp_path / "lake"))
        store = CountingStore(folder)
        stores.append(store)
        server = start_server(args=list(args))
        mount(server.client, "/c", store.uri, freshness=freshness, **store.options)
        # A mount is looked at when it is made.
        store.forget()
        return Lake(server, store, folder, shape, table)

    yield make
    for store in stores:
        store.stop()


@pytest.fixture
def lake(make_lake: Callable[..., Lake], dataset: tuple[Path, pa.Table]) -> Lake:
    """The common files, and a server that has read none of them."""
    return make_lake(on=dataset)


@pytest.mark.parametrize("tier", TIERS)
def test_what_was_preloaded_is_read_without_a_request(lake: Lake, tier: str) -> None:
    job = lake.preload(columns=COLUMNS, tier=tier)
    assert job["options"]["tier"] == tier
    asked = asked_of(lake.store.gets, chunk_ranges(lake.folder, COLUMNS))
    assert asked.once_bytes == asked.wanted_bytes == job["bytes"]
    assert asked.again_bytes == 0
    lake.assert_free(SOURCE[tier], COLUMNS)
    said = splits(plan(lake.client, "/c", columns=COLUMNS))
    assert said
    assert {split["cached"] for split in said} == {CACHED[tier]}


@pytest.mark.parametrize("tier", TIERS)
def test_progress_is_what_the_cache_holds(lake: Lake, tier: str) -> None:
    job = lake.preload(columns=COLUMNS, tier=tier)
    held = jobs.columns(lake.client, "/c")
    wanted = [held[name] for name in COLUMNS]
    stored = bytes_of(chunk_ranges(lake.folder, COLUMNS))
    assert sum(column["bytes"] for column in wanted) == stored == job["bytes"] == job["bytes_done"]
    raw = {name: column["raw_bytes"] for name, column in held.items()}
    if tier == "decoded":
        # Pages of the file's end came with its footer, and hold of these columns nothing or little.
        assert sum(raw[name] for name in COLUMNS) < stored / 20, raw
    else:
        assert sum(raw[name] for name in COLUMNS) == stored
    decoded = SHAPE.decoded_bytes(len(COLUMNS)) if tier != "raw" else 0
    assert sum(column["decoded_bytes"] for column in wanted) == decoded
    assert job["decoded_bytes"] == job["decoded_bytes_done"] == decoded
    assert (job["files"], job["row_groups"]) == (SHAPE.files, SHAPE.row_groups)
    assert stored <= job["fetched_bytes"] <= lake.store.asked_bytes
    assert job["peer_bytes"] == 0


def test_columns_bring_no_others(lake: Lake) -> None:
    lake.preload(columns=["a"], tier="both")
    held = jobs.columns(lake.client, "/c")
    assert held["a"]["raw_bytes"] == held["a"]["bytes"]
    assert held["a"]["decoded_bytes"] == SHAPE.decoded_bytes(1)
    assert held["n"]["decoded_bytes"] == held["b"]["decoded_bytes"] == 0
    # Page boundaries and the ends of the files, which were read with the footers.
    others = asked_of(lake.store.gets, chunk_ranges(lake.folder, ["n", "b"]))
    assert others.once_bytes <= SHAPE.files * TAIL_BYTES + 2 * 4096 * SHAPE.row_groups
    assert held["n"]["raw_bytes"] < held["n"]["bytes"] / 5


def test_where_brings_only_row_groups_that_can_pass(lake: Lake) -> None:
    limit = SHAPE.rows * 2
    job = lake.preload(where=f"n < {limit}", tier="both")
    assert (job["files"], job["row_groups"]) == (1, 2)
    assert lake.data_asked() == {SHAPE.name(0)}
    wanted = chunk_ranges(lake.folder, None, lambda key, group: key == SHAPE.name(0) and group < 2)
    assert job["bytes"] == bytes_of(wanted)
    by_file = {part["path"]: part for part in jobs.stat(lake.client, "/c", by="file")["by_file"]}
    assert by_file[lake.at(0)]["decoded_bytes"] == limit * VALUE_BYTES * len(SHAPE.columns)
    assert by_file[lake.at(1)]["decoded_bytes"] == 0
    lake.assert_free("memory", filter=f"n < {limit}")
    lake.store.forget()
    fetch(lake.client, by_scan("/c"))
    assert lake.data_asked() == {SHAPE.name(number) for number in range(SHAPE.files)}


def test_a_list_of_paths_loads_these_and_no_others(lake: Lake) -> None:
    wanted = [lake.at(2), lake.at(0), lake.at(2)]
    job = lake.preload(wanted)
    assert sorted(job["paths"]) == sorted(set(wanted))
    assert job["files"] == 2
    assert lake.data_asked() == {SHAPE.name(0), SHAPE.name(2)}
    lake.assert_free("memory", path=lake.at(0))
    lake.assert_free("memory", path=lake.at(2))


def test_every_step_is_seen_by_who_watches(make_lake: Callable[..., Lake], dataset: tuple[Path, pa.Table]) -> None:
    lake = make_lake(on=dataset)
    began_s = time.monotonic()
    stored = bytes_of(chunk_ranges(lake.folder))
    submitted = jobs.submit(lake.client, "/c", bandwidth=stored // 4)
    assert submitted["state"] in jobs.UNFINISHED
    seen = list(jobs.watch(lake.client, submitted["id"]))
    took_s = time.monotonic() - began_s
    assert {job["id"] for job in seen} == {submitted["id"]}
    jobs.assert_never_falls(seen)
    # About one a second, and the last is the end.
    print(f"{len(seen)} looks in {took_s:.1f} s: {[(job['state'], job['bytes_done']) for job in seen]}")
    assert took_s / 2 <= len(seen) <= 10 * took_s
    last = jobs.assert_succeeded(seen[-1])
    running = [job for job in seen if job["state"] == "RUNNING"]
    assert any(0 < job["bytes_done"] < job["bytes"] for job in running)
    assert any(job["eta_s"] is not None and job["eta_s"] > 0 for job in running)
    assert any(0 < job["row_groups_done"] < job["row_groups"] for job in running)
    assert last["eta_s"] in (None, 0)
    (worker,) = last["workers"]
    for name in ("row_groups", "row_groups_done", "bytes", "bytes_done"):
        assert worker[name] == last[name], name
    assert worker["tasks_running"] == 0
    assert worker["tasks_done"] > 0
    # Over the whole run, not of the last moments, nor twice what it was.
    assert last["rate_bytes_per_s"] == pytest.approx(last["bytes"] / last["elapsed_s"], rel=0.1)
    assert 0 < last["elapsed_s"] <= took_s + 1
    assert list(jobs.watch(lake.client, submitted["id"])) == [last]


def test_the_same_again_is_the_same_job_while_it_runs(lake: Lake) -> None:
    body = {"columns": ["a"], "priority": "low"}
    plan(lake.client, "/c")
    with lake.store.held_back():
        first = jobs.submit(lake.client, "/c", **body)
        assert jobs.submit(lake.client, "/c", **body)["id"] == first["id"]
        # Said in other words, and with a default said.
        assert jobs.submit(lake.client, ["/c/"], tier="both", **body)["id"] == first["id"]
        other = jobs.submit(lake.client, "/c", **{**body, "columns": ["b"]})
        assert other["id"] != first["id"]
        assert {job["id"] for job in jobs.listed(lake.client)} == {first["id"], other["id"]}
    for job in (first, other):
        jobs.assert_succeeded(jobs.wait(lake.client, job["id"]))
    lake.store.forget()
    again = lake.preload(**body)
    assert again["id"] not in (first["id"], other["id"])
    assert (again["fetched_bytes"], lake.store.gets) == (0, [])


def test_what_is_cached_is_skipped_and_what_is_half_cached_is_not(lake: Lake) -> None:
    """A file of which half the row groups are held is brought whole; files that are whole are left alone."""
    lake.preload([lake.at(0), lake.at(1)])
    lake.preload(lake.at(2), where=f"n < {2 * SHAPE.rows_a_file + 2 * SHAPE.rows}")
    lake.store.forget()
    job = lake.preload(skip_if_cached=True)
    assert (job["files"], job["files_skipped"]) == (SHAPE.files, 2)
    rest = chunk_ranges(
        lake.folder, None, lambda key, group: key == SHAPE.name(3) or (key == SHAPE.name(2) and group >= 2)
    )
    asked = asked_of(lake.store.gets, rest)
    # The ends of the files are held since their footers were read.
    assert asked.wanted_bytes - 2 * TAIL_BYTES <= asked.once_bytes <= asked.wanted_bytes
    assert lake.data_asked() == {SHAPE.name(2), SHAPE.name(3)}
    lake.assert_free("memory")
    assert lake.preload(skip_if_cached=True)["files_skipped"] == SHAPE.files
    assert lake.preload(skip_if_cached=False, priority="high")["files_skipped"] == 0


def test_skipped_is_not_verified_and_other_is(lake: Lake) -> None:
    lake.preload()
    skipped = lake.preload(skip_if_cached=True, verify=True)
    lake.store.forget()
    verified = lake.preload(verify=True)
    assert (skipped["verified"] or {"row_groups": 0})["row_groups"] == 0
    assert verified["verified"]["row_groups"] == SHAPE.row_groups
    stored = bytes_of(chunk_ranges(lake.folder))
    # Footers are compared too.
    assert stored <= verified["verified"]["bytes"] <= stored + 2 * SHAPE.files * TAIL_BYTES
    # Compared with the storage means read from there.
    assert asked_of(lake.store.gets, chunk_ranges(lake.folder)).once_bytes == stored


def test_metadata_alone(lake: Lake) -> None:
    job = lake.preload(metadata_only=True)
    assert (job["files"], job["decoded_bytes"]) == (SHAPE.files, 0)
    assert not lake.data_asked()
    assert 0 < lake.store.asked_bytes <= 2 * SHAPE.files * TAIL_BYTES
    lake.store.forget()
    info = plan(lake.client, "/c")
    assert info.total_records == SHAPE.all_rows
    assert (lake.store.gets, lake.store.others) == ([], [])
    assert {split["cached"] for split in splits(info)} == {"none"}
    assert jobs.stat(lake.client, "/c")["decoded_bytes"] == 0


def test_a_dry_run_tells_and_does_nothing(lake: Lake) -> None:
    told = jobs.dry_run(lake.client, "/c", columns=COLUMNS)
    assert jobs.listed(lake.client) == []
    assert not lake.data_asked()
    assert jobs.stat(lake.client, "/c")["decoded_bytes"] == 0
    (worker,) = told["workers"]
    assert (worker["bytes"], worker["decoded_bytes"]) == (told["bytes"], told["decoded_bytes"])
    assert worker["raw_capacity_bytes"] > told["bytes"]
    assert worker["decoded_capacity_bytes"] > told["decoded_bytes"]
    assert told["fits"] is True
    done = lake.preload(columns=COLUMNS)
    assert len(jobs.listed(lake.client)) == 1
    figures = ("path", "paths", "options", "files", "row_groups", "bytes", "decoded_bytes")
    assert {name: told[name] for name in figures} == {name: done[name] for name in figures}


@pytest.mark.parametrize("partial_listing", [True, False])
def test_loading_begins_before_the_listing_ends(make_lake: Callable[..., Lake], partial_listing: bool) -> None:
    """Ten pages of names, each a while coming; without the option the data comes after the last of them."""
    shape = Shape(files=30, groups=1, rows=12_288)
    lake = make_lake(shape)
    lake.store.list_slowly(3, 0.5)
    lake.store.forget()
    submitted = jobs.submit(lake.client, "/c", partial_listing=partial_listing, tier="raw")
    seen = list(jobs.watch(lake.client, submitted["id"]))
    assert len(lake.store.lists) >= 10
    first_data_s = min(get.began_s for get in data_gets(lake.store.gets, lake.folder))
    began_s, listed_s = lake.store.lists[0].began_s, max(page.ended_s or 0 for page in lake.store.lists)
    print(f"listed after {listed_s - began_s:.2f} s, the first data asked for after {first_data_s - began_s:.2f} s")
    assert (first_data_s < listed_s) == partial_listing
    last = jobs.assert_succeeded(seen[-1])
    assert (last["files"], last["bytes"]) == (shape.files, bytes_of(chunk_ranges(lake.folder)))
    if partial_listing:
        assert any(job["listing"] and job["files"] < shape.files for job in seen)
    # Who reads the whole may list it once more, where it was only listed in parts.
    lake.store.list_slowly(1000, 0)
    lake.store.forget()
    assert fetch(lake.client, by_scan("/c")).sources == {"disk"}
    assert lake.store.gets == []


@pytest.mark.parametrize(("first", "second"), [("low", "high"), ("high", "low"), ("normal", "normal")])
def test_a_worker_does_more_for_the_more_urgent(
    make_lake: Callable[..., Lake], tmp_path: Path, first: str, second: str
) -> None:
    """Of two jobs that run at once, as long as both do; the first has the worker's hands full when the second comes."""
    # More than comes with a footer, so that a plan leaves something to load.
    shape = Shape(files=480, groups=1, rows=24_576, columns=("n",))
    for folder in ("x", "y"):
        shape.write(tmp_path / "lake" / folder)
    lake = make_lake(shape, on=(tmp_path / "lake", pa.table({})), args=SLOW)
    for folder in ("/c/x", "/c/y"):
        plan(lake.client, folder)
    lake.store.delay(GET_DELAY_S)
    began = jobs.submit(lake.client, "/c/x", priority=first, tier="raw")
    jobs.wait_until(lake.client, began["id"], lambda job: job["row_groups_done"] > 0, "begun")
    later = jobs.submit(lake.client, "/c/y", priority=second, tier="raw")
    jobs.wait_until(lake.client, later["id"], lambda job: job["row_groups_done"] > 0, "begun too")
    early = [jobs.get(lake.client, job["id"]) for job in (began, later)]
    assert [job["options"]["priority"] for job in early] == [first, second]
    time.sleep(BOTH_RUN_S)
    late = [jobs.get(lake.client, job["id"]) for job in (began, later)]
    assert {job["state"] for job in late} == {"RUNNING"}, list(map(shown, late))
    done = [after["row_groups_done"] - before["row_groups_done"] for before, after in zip(early, late, strict=True)]
    print(f"{first} then {second}: {done} row groups were done while both ran")
    assert min(done) > 0, "one starves"
    if first == second:
        assert max(done) < 3 * min(done)
    else:
        urgent, patient = done if first == "high" else reversed(done)
        # It is 16 to 1 of the worker's hands, less what was on its way to the store already.
        assert urgent > 3 * patient
    for job in (began, later):
        jobs.cancel(lake.client, job["id"])


def refuse(lake: Lake, numbers: set[int], status: int) -> None:
    """The store refuses the data of these files from now on."""
    names = {lake.shape.name(number) for number in numbers}
    ends = {name: (lake.folder / name).stat().st_size - TAIL_BYTES for name in names}

    def of(get: Get) -> Fault:
        return Fault(status=status if get.key in names and get.start < ends[get.key] else 0)

    lake.store.weather(of)


def test_what_is_denied_is_listed_and_not_tried_again(lake: Lake) -> None:
    refuse(lake, {1, 3}, 403)
    job = jobs.wait(lake.client, jobs.submit(lake.client, "/c")["id"])
    assert job["state"] == "PARTIAL", shown(job)
    failures = jobs.assert_failures(job, "denied", lake.at(1), lake.at(3))
    assert {failure["tries"] for failure in failures} == {1}
    assert job["retries"] == 0
    assert (job["files"], job["files_done"]) == (4, 2)
    refused = [get for get in lake.store.gets if get.status == 403]
    assert len(refused) <= 2 * SHAPE.groups
    assert job["bytes_done"] == bytes_of(chunk_ranges(lake.folder)) // 2
    # Nothing of what failed is remembered.
    lake.store.heal()
    lake.preload()
    lake.assert_free("memory")


def test_what_the_store_fails_is_tried_again(make_lake: Callable[..., Lake], dataset: tuple[Path, pa.Table]) -> None:
    lake = make_lake(on=dataset, args=["--store-retry-timeout", "1s"])
    refuse(lake, {2}, 500)
    submitted = jobs.submit(lake.client, "/c")
    jobs.wait_until(lake.client, submitted["id"], lambda job: job["retries"] > 0, "tried again")
    lake.store.heal()
    job = jobs.assert_succeeded(jobs.wait(lake.client, submitted["id"]))
    assert job["retries"] > 0
    lake.assert_free("memory")


def test_what_the_store_fails_for_good_ends_the_job_as_partial(
    make_lake: Callable[..., Lake], dataset: tuple[Path, pa.Table]
) -> None:
    lake = make_lake(on=dataset, args=["--store-retry-timeout", "500ms"])
    refuse(lake, {2}, 500)
    job = jobs.wait(lake.client, jobs.submit(lake.client, "/c")["id"])
    assert job["state"] == "PARTIAL", shown(job)
    failures = jobs.assert_failures(job, "storage", lake.at(2))
    assert min(failure["tries"] for failure in failures) > 1
    print(f"given up after {job['elapsed_s']:.1f} s, {max(failure['tries'] for failure in failures)} tries")


@pytest.mark.parametrize(("most", "state"), [(0, "FAILED"), (1, "FAILED"), (2, "PARTIAL"), (None, "PARTIAL")])
def test_more_failures_than_allowed_end_the_job(lake: Lake, most: int | None, state: str) -> None:
    refuse(lake, {1, 3}, 403)
    options = {} if most is None else {"max_failures": most}
    job = jobs.wait(lake.client, jobs.submit(lake.client, "/c", **options)["id"])
    assert job["state"] == state, shown(job)
    assert job["options"]["max_failures"] == most
    if state == "FAILED":
        assert job["error"]
    else:
        jobs.assert_failures(job, "denied", lake.at(1), lake.at(3))


def test_all_failed_is_failed(lake: Lake) -> None:
    refuse(lake, {0, 1, 2, 3}, 403)
    job = jobs.wait(lake.client, jobs.submit(lake.client, "/c")["id"])
    assert job["state"] == "FAILED", shown(job)
    assert job["error"]
    jobs.assert_failures(job, "denied", *map(lake.at, range(4)))


def test_a_file_that_is_none_is_a_failure_with_its_name(make_lake: Callable[..., Lake]) -> None:
    lake = make_lake(Shape(files=3))
    path = lake.folder / lake.shape.name(1)
    start, _ = chunk_ranges(lake.folder, ["a"])[path.name][0]
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * 4096)
    job = jobs.wait(lake.client, jobs.submit(lake.client, "/c", tier="decoded")["id"])
    assert job["state"] == "PARTIAL", shown(job)
    (failure,) = jobs.assert_failures(job, "corrupt", lake.at(1))
    assert failure["row_group"] == 0
    assert failure["tries"] == 1
    assert job["files_done"] == 2


def test_every_run_fetches_only_what_is_new_or_changed(make_lake: Callable[..., Lake]) -> None:
    shape = Shape(files=3, groups=2, rows=12_288)
    lake = make_lake(shape, freshness="always")
    submitted = jobs.submit(lake.client, "/c", every="1s")
    try:
        assert after_runs(lake, submitted, 1)["options"]["every"] == 1
        lake.store.forget()
        after_runs(lake, submitted, 2)
        assert lake.store.gets == []
        shape.write_one(lake.folder, 7)
        after_runs(lake, submitted, 2)
        assert {get.key for get in lake.store.gets} == {shape.name(7)}
        lake.store.forget()
        shape.write_one(lake.folder, 1, seed=99)
        after_runs(lake, submitted, 2)
        assert {get.key for get in lake.store.gets} == {shape.name(1)}
        lake.store.forget()
        answer = fetch(lake.client, by_scan("/c"))
        assert (answer.rows, answer.sources, lake.store.gets) == (4 * shape.rows_a_file, {"memory"}, [])
    finally:
        ended = jobs.cancel(lake.client, submitted["id"])
    assert jobs.wait(lake.client, ended["id"])["state"] == "CANCELLED"
    lake.store.forget()
    time.sleep(QUIET_S)
    assert (lake.store.gets, lake.store.others) == ([], [])


def after_runs(lake: Lake, job: jobs.Job, more: int) -> jobs.Job:
    """A repeating job once so many more of its runs are over; of two the second began after the call."""
    before = jobs.get(lake.client, job["id"])["runs"]

    def look() -> jobs.Job:
        now = jobs.get(lake.client, job["id"])
        assert now["state"] in jobs.UNFINISHED, shown(now)
        return now

    until(lambda: look()["runs"] >= before + more, f"{more} more runs")
    return look()


@pytest.mark.parametrize("tier", ["raw", "decoded"])
def test_it_is_all_there_though_the_cache_was_full_of_other_data(
    make_lake: Callable[..., Lake], tmp_path: Path, tier: str
) -> None:
    """Five files of a third of the tier each, read until the tier is full; then two others are preloaded, and stay."""
    shape = Shape(files=7, groups=8, rows=32_768 if tier == "raw" else 65_536, columns=("n", "a"))
    args = ["--cache-dir", f"{tmp_path}/pages=12MiB"] if tier == "raw" else ["--memory", "64MiB"]
    lake = make_lake(shape, args=args)
    others, wanted = [lake.at(number) for number in range(5)], [lake.at(5), lake.at(6)]
    for _ in range(3):
        for path in others:
            fetch(lake.client, by_scan(path))
    held = "raw_bytes" if tier == "raw" else "decoded_bytes"
    file_bytes = shape.rows_a_file * 2 * VALUE_BYTES

    def others_held() -> int:
        return sum(jobs.stat(lake.client, path)[held] for path in others)

    # Pages come to the disk a while after they were read.
    until(lambda: others_held() > file_bytes, "more than one file is held")
    full = others_held()
    print(f"{full / file_bytes:.1f} files were held before")
    lake.preload(wanted, tier=tier)
    for path in wanted:
        lake.assert_free(SOURCE[tier], path=path)
    # Something had to go.
    assert others_held() < full


def test_jobs_outlive_a_restart_of_the_server(
    start_server: Callable[..., Server], make_lake: Callable[..., Lake]
) -> None:
    """A job in the middle of which the server is killed goes on with its options; one that was over is still listed."""
    lake = make_lake(SHAPE)
    over = lake.preload(lake.at(0), columns=["n"])
    stored = bytes_of(chunk_ranges(lake.folder, COLUMNS))
    options = {"columns": COLUMNS, "tier": "raw", "bandwidth": stored // 3, "priority": "high", "max_failures": 5}
    submitted = jobs.submit(lake.client, "/c", **options)
    halfway = jobs.wait_until(
        lake.client, submitted["id"], lambda job: job["bytes_done"] > stored / 4, "a quarter done"
    )
    lake.client.close()
    lake.server.daemon.kill()
    second = start_server()
    job = jobs.assert_succeeded(jobs.wait(second.client, submitted["id"]))
    assert job["options"] == halfway["options"]
    assert jobs.get(second.client, over["id"]) == over
    assert jobs.columns(second.client, "/c")["b"]["raw_bytes"] < jobs.columns(second.client, "/c")["b"]["bytes"] / 5
    asked = asked_of(lake.store.gets, chunk_ranges(lake.folder, COLUMNS), sent=True)
    print(f"{asked.again_share:.1%} of the bytes came twice")
    assert asked.once_bytes == asked.wanted_bytes
    assert asked.again_share < 0.25
    lake.store.forget()
    answer = fetch(second.client, by_scan("/c", columns=COLUMNS))
    assert (answer.sources, lake.store.gets) == ({"disk"}, [])
    act(second.client, "mount.remove", {"path": "/c"})


def test_metrics_and_log_lines_tell_of_jobs(make_lake: Callable[..., Lake], dataset: tuple[Path, pa.Table]) -> None:
    lake = make_lake(on=dataset, args=["--log-format", "json"])
    job = lake.preload()
    metric = partial(total, lake.server.admin_uri)
    assert metric("jetbridge_jobs_submitted_total") == 1
    # It is said and counted when it is written down, which is when others see it.
    until(lambda: metric("jetbridge_jobs_finished_total", state="SUCCEEDED") == 1, "its end is counted")
    assert metric("jetbridge_job_row_groups_total") == SHAPE.row_groups
    assert metric("jetbridge_job_held_bytes_total") == job["bytes"]
    assert metric("jetbridge_job_tasks_total", outcome="done") == sum(w["tasks_done"] for w in job["workers"])
    lines = [json.loads(line) for line in lake.server.log.splitlines() if line.startswith("{")]
    about = [line for line in lines if job["id"] in json.dumps(line)]
    # At least that it was submitted, and how it ended.
    assert len(about) >= 2
    assert any("SUCCEEDED" in json.dumps(line) for line in about)


@pytest.mark.long
def test_jobs_that_are_over_are_kept_for_a_time(make_lake: Callable[..., Lake], dataset: tuple[Path, pa.Table]) -> None:
    lake = make_lake(on=dataset, args=["--job-history", "5s"])
    job = lake.preload(lake.at(0))
    over_s = time.monotonic()
    assert [listed["id"] for listed in jobs.listed(lake.client)] == [job["id"]]
    until(lambda: jobs.listed(lake.client) == [], "the job is forgotten", HISTORY_TIMEOUT_S)
    assert time.monotonic() - over_s >= 4
    with expect_error("NOT_FOUND", job["id"]):
        jobs.get(lake.client, job["id"])
