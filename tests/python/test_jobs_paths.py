"""Jobs on several paths, planned beside each other: what is sure to fit waits for no path that is slow to plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness import jobs
from harness.counting import CountingStore
from harness.flight import by_scan, fetch, mount
from harness.server import Server
from harness.stored import Shape, bytes_of, chunk_ranges, data_gets

SHAPE = Shape(files=2)
# Far more than a load of it takes that has begun.
QUIET_S = 3.0
# What a request waits for its answer in the test of many paths, and how many paths there are.
GET_DELAY_S, PATHS = 0.25, 24
SMALL = Shape(files=PATHS, groups=1, rows=1_024)


@dataclass
class Lake:
    """Two stores over files of a shape: one mounted at /quick, the other at /slow."""

    server: Server
    quick: CountingStore
    slow: CountingStore
    folders: tuple[Path, Path]

    def submit(self, **options: Any) -> jobs.Job:
        """A preload of both; the slow one is planned first where that is done in turn."""
        job = jobs.submit(self.server.client, ["/slow", "/quick"], **options)
        assert job["state"] in jobs.UNFINISHED
        return job

    def wait_until(self, job: jobs.Job, holds: Callable[[jobs.Job], bool], what: str) -> jobs.Job:
        return jobs.wait_until(self.server.client, job["id"], holds, what)

    @property
    def bytes_each(self) -> int:
        (one, other) = (bytes_of(chunk_ranges(folder)) for folder in self.folders)
        assert one == other
        return one


@pytest.fixture
def make_lake(start_server: Callable[..., Server], tmp_path: Path) -> Iterator[Callable[..., Lake]]:
    """Writes the files, and starts two stores and a server on them."""
    with ExitStack() as stack:

        def make(args: Sequence[str] = ()) -> Lake:
            server = start_server(args=list(args))
            folders = (tmp_path / "quick", tmp_path / "slow")
            stores = []
            for folder in folders:
                SHAPE.write(folder)
                store = stack.enter_context(CountingStore(folder))
                mount(server.client, f"/{folder.name}", store.uri, freshness="immutable", **store.options)
                store.forget()
                stores.append(store)
            return Lake(server, *stores, folders)

        yield make


def test_what_is_sure_to_fit_is_loaded_while_another_path_is_planned(make_lake: Callable[..., Lake]) -> None:
    lake = make_lake()
    with lake.slow.held_back():
        job = lake.submit(tier="raw")
        job = lake.wait_until(job, lambda job: job["bytes_done"] == lake.bytes_each, "half done")
        assert job["state"] == "RUNNING"
        assert job["listing"], "all was planned, though no footer of /slow was to be had"
        assert not data_gets(lake.slow.gets, lake.folders[1])
        lake.quick.forget()
        assert fetch(lake.server.client, by_scan("/quick")).sources == {"disk"}
        assert lake.quick.gets == []
    job = jobs.wait(lake.server.client, job["id"])
    jobs.assert_succeeded(job)
    assert (job["files"], job["bytes_done"]) == (2 * SHAPE.files, 2 * lake.bytes_each)
    lake.slow.forget()
    assert fetch(lake.server.client, by_scan("/slow")).rows == SHAPE.all_rows
    assert lake.slow.gets == []


def test_nothing_is_loaded_before_it_is_known_whether_all_fits(make_lake: Callable[..., Lake], tmp_path: Path) -> None:
    """Each path fits by itself, and both do not."""
    lake = make_lake(["--cache-dir", f"{tmp_path}/pages=6MiB"])
    assert lake.bytes_each < 0.8 * (6 << 20) < 2 * lake.bytes_each
    with lake.slow.held_back():
        job = lake.submit(tier="raw")
        job = lake.wait_until(job, lambda job: job["state"] == "RUNNING", "begun")
        time.sleep(QUIET_S)
        assert not data_gets(lake.quick.gets, lake.folders[0])
    job = jobs.wait(lake.server.client, job["id"])
    assert job["state"] == "FAILED", jobs.shown(job)
    assert "does not fit" in job["error"]
    assert not data_gets([*lake.quick.gets, *lake.slow.gets], lake.folders[0])


def test_how_much_columns_take_is_not_known_before_their_footers_are(make_lake: Callable[..., Lake]) -> None:
    lake = make_lake()
    with lake.slow.held_back():
        job = lake.submit(tier="decoded")
        job = lake.wait_until(job, lambda job: job["state"] == "RUNNING", "begun")
        time.sleep(QUIET_S)
        assert not data_gets(lake.quick.gets, lake.folders[0])
    jobs.assert_succeeded(jobs.wait(lake.server.client, job["id"]))


@pytest.mark.parametrize("partial", [False, True])
def test_many_paths_are_planned_beside_each_other(
    start_server: Callable[..., Server], tmp_path: Path, *, partial: bool
) -> None:
    SMALL.write(tmp_path / "lake")
    server = start_server()
    with CountingStore(tmp_path / "lake", delay_s=GET_DELAY_S) as store:
        mount(server.client, "/c", store.uri, freshness="immutable", **store.options)
        store.forget()
        paths = [f"/c/{SMALL.name(number)}" for number in range(PATHS)]
        with store.held_back():
            # What the submission itself asks for is not what the job's planning does.
            job = jobs.submit(server.client, paths, tier="raw", partial=partial)
            asked = len(store.gets)
        job = jobs.assert_succeeded(jobs.wait(server.client, job["id"]))
        assert (job["files"], job["row_groups_done"]) == (PATHS, PATHS)
        gets = store.gets[asked:]
        assert len(gets) > PATHS // 4, "nothing was left to ask for"
        at_once = max(sum(get.began_s <= one.began_s < (get.ended_s or 0) for get in gets) for one in gets)
    print(f"{at_once} requests at once, of {len(gets)}")
    assert at_once > 2, "paths were planned one after the other"
