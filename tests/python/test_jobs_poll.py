"""PollFlightInfo while a preload runs: endpoints come as they become warm, each once, and in the end all are there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from harness import jobs
from harness.counting import CountingStore
from harness.flight import by_path, by_scan, drain, mount, plan, splits
from harness.http2 import RawClient, RefusedError
from harness.polling import Poll, poll
from harness.server import Server
from harness.stored import Shape, asked_of, bytes_of, chunk_ranges

SHAPE = Shape(files=8, groups=2, rows=16_384)
# One endpoint a file or so.
ENDPOINTS = ["--endpoint-bytes", "512KiB"]
JOB_S = 4
NOT_FOUND, ABORTED = 5, 10
MOST_POLLS = 200


@dataclass
class Lake:
    """A server with a counting store at /c, and a connection that polls."""

    server: Server
    store: CountingStore
    folder: Path
    table: pa.Table
    polls: RawClient


@pytest.fixture
def lake(start_server: Callable[..., Server], tmp_path: Path) -> Iterator[Lake]:
    table = SHAPE.write(tmp_path / "lake")
    with CountingStore(tmp_path / "lake") as store:
        server = start_server(args=ENDPOINTS)
        mount(server.client, "/c", store.uri, freshness="immutable", **store.options)
        plan(server.client, "/c")
        store.forget()
        with RawClient(server.flight_uri) as polls:
            yield Lake(server, store, tmp_path / "lake", table, polls)


def poll_to_the_end(lake: Lake, asked: flight.FlightDescriptor) -> list[Poll]:
    """All answers, the last of which is the whole."""
    answers = [poll(lake.polls, asked)]
    while (following := answers[-1].next) is not None:
        assert answers[-1].has_expiration
        assert len(answers) < MOST_POLLS
        answers.append(poll(lake.polls, following))
    return answers


def slow_preload(lake: Lake, **options: object) -> jobs.Job:
    """A job that takes a few seconds."""
    whole = bytes_of(chunk_ranges(lake.folder))
    return jobs.submit(lake.server.client, "/c", bandwidth=whole // JOB_S, **options)


def test_without_a_preload_the_first_answer_is_whole(lake: Lake) -> None:
    (answer,) = poll_to_the_end(lake, by_path("/c"))
    assert len(answer.info.endpoints) == len(plan(lake.server.client, "/c").endpoints) > 4
    assert answer.progress == 1
    assert answer.info.total_records == SHAPE.all_rows


def test_endpoints_come_as_they_become_warm(lake: Lake) -> None:
    job = slow_preload(lake)
    answers = poll_to_the_end(lake, by_path("/c"))
    counts = [len(answer.info.endpoints) for answer in answers]
    print(f"endpoints: {counts}, progress {[answer.progress for answer in answers]}")
    assert len(counts) >= 4
    assert counts[0] < counts[-1] == len(plan(lake.server.client, "/c").endpoints)
    assert counts == sorted(counts)
    progress = [answer.progress for answer in answers]
    assert progress == sorted(progress)
    assert progress[-1] == 1
    for before, after in itertools.pairwise(answers):
        given = [endpoint.app_metadata for endpoint in before.info.endpoints]
        kept = [endpoint.app_metadata for endpoint in after.info.endpoints[: len(given)]]
        # How warm they are may be told anew; what they are stays.
        assert [strip(data) for data in kept] == [strip(data) for data in given]
    paths = [(split["path"], tuple(split["row_groups"])) for split in splits(answers[-1].info)]
    assert len(set(paths)) == len(paths)
    jobs.assert_succeeded(jobs.wait(lake.server.client, job["id"]))


def strip(data: bytes) -> bytes:
    """An endpoint's metadata without how warm it is."""
    return data.split(b'"cached"')[0]


def test_what_is_given_is_warm(lake: Lake) -> None:
    """Reading what a poll gave asks storage for nothing beyond what the job does: no byte is asked for twice."""
    job = slow_preload(lake)
    asked, read, batches = by_path("/c"), 0, []
    for _ in range(MOST_POLLS):
        answer = poll(lake.polls, asked)
        for endpoint in answer.info.endpoints[read:]:
            some, said = drain(lake.server.client.do_get(endpoint.ticket))
            assert {entry["source"] for entry in said} <= {"memory", "disk"}
            batches += some
        read = len(answer.info.endpoints)
        if answer.next is None:
            break
        asked = answer.next
    assert sum(batch.num_rows for batch in batches) == SHAPE.all_rows
    assert pa.Table.from_batches(batches).sort_by("n").equals(lake.table)
    jobs.assert_succeeded(jobs.wait(lake.server.client, job["id"]))
    assert asked_of(lake.store.gets, chunk_ranges(lake.folder)).again_bytes == 0


def test_an_ordered_scan_comes_in_order(lake: Lake) -> None:
    slow_preload(lake)
    answers = poll_to_the_end(lake, by_scan("/c", ordered=True))
    whole = [strip(endpoint.app_metadata) for endpoint in answers[-1].info.endpoints]
    for answer in answers:
        given = [strip(endpoint.app_metadata) for endpoint in answer.info.endpoints]
        assert given == whole[: len(given)]


def test_a_cancelled_preload_ends_the_wait(lake: Lake) -> None:
    job = slow_preload(lake)
    first = poll(lake.polls, by_path("/c"))
    assert first.next is not None
    jobs.cancel(lake.server.client, job["id"])
    jobs.wait(lake.server.client, job["id"])
    last = poll(lake.polls, first.next)
    assert last.next is None
    assert len(last.info.endpoints) == len(plan(lake.server.client, "/c").endpoints)


def test_what_changes_meanwhile_is_stale(lake: Lake) -> None:
    slow_preload(lake)
    first = poll(lake.polls, by_path("/c"))
    assert first.next is not None
    SHAPE.write_one(lake.folder, 0, seed=99)
    jobs.act(lake.server.client, "dataset.refresh", {"path": "/c"})
    with pytest.raises(RefusedError, match="STALE") as refused:
        poll(lake.polls, first.next)
    assert refused.value.status == ABORTED


def test_polls_for_nothing(lake: Lake) -> None:
    with pytest.raises(RefusedError, match="nowhere") as refused:
        poll(lake.polls, by_path("/nowhere"))
    assert refused.value.status == NOT_FOUND
