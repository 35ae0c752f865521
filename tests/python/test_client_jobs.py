"""Jobs from Python: preloads that are waited for, watched, cancelled."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jetbridge as jb
import pytest
from jetbridge.records import JobStatus

from harness.cluster import until
from harness.trips import trips, write_trips


@pytest.fixture
def dataset(jb_client: jb.Client) -> jb.Dataset:
    return jb_client.dataset("/lake/trips")


@pytest.fixture
def quiet(trips_folder: Path) -> Iterator[jb.Client]:
    """A cluster that nobody has read from. What many have read lately is served by more workers than are preloaded."""
    mounts = {"/lake": trips_folder}
    with jb.LocalCluster(workers=2, mounts=mounts, memory="512MiB") as cluster, cluster.connect() as client:
        yield client


def test_a_preload_is_waited_for_and_then_read_from_memory(quiet: jb.Client) -> None:
    dataset = quiet.dataset("/lake/trips")
    job = dataset.preload(columns=["fare", "id"], tier="decoded")
    seen: list[JobStatus] = []
    status = job.wait(timeout=60, progress=seen.append)
    assert status == "SUCCEEDED"
    assert status.state == "SUCCEEDED"
    assert str(status) == "SUCCEEDED"
    assert seen[-1].is_final
    assert (status.files, status.files_done, status.failures_total) == (4, 4, 0)
    assert {worker["id"] for worker in status.workers} == {worker.id for worker in quiet.workers()}
    assert job.is_done
    # What a plan says of other nodes is what they say in a few hundred milliseconds.
    until(lambda: {split.cached for split in dataset.select("fare", "id").plan()} == {"decoded"}, "all is decoded")
    assert {batch.source for batch in dataset.select("fare", "id")} == {"memory"}


def test_a_scan_preloads_what_it_reads(dataset: jb.Dataset) -> None:
    job = dataset.select("id").filter("id < 250").preload()
    status = job.wait(timeout=60, progress=False)
    assert status.options["columns"] == ["id"]
    assert status.options["where"] == "id < 250"


def test_every_option_arrives(jb_client: jb.Client, dataset: jb.Dataset) -> None:
    job = dataset.preload(
        columns=["id"],
        where="id > 3",
        tier="raw",
        replicas=2,
        bandwidth="1GiB/s",
        verify=True,
        skip_if_cached=True,
        partial_listing=True,
        partial=True,
        priority="high",
        max_failures=3,
    )
    status = job.wait(timeout=60, progress=False)
    assert {key: status.options[key] for key in status.options if key != "every"} == {
        "columns": ["id"],
        "where": "id > 3",
        "tier": "raw",
        "replicas": 2,
        "bandwidth": 1 << 30,
        "verify": True,
        "metadata_only": False,
        "skip_if_cached": True,
        "partial_listing": True,
        "partial": True,
        "priority": "high",
        "max_failures": 3,
    }
    footers = jb_client.preload(["/lake/trips"], metadata_only=True).wait(timeout=60, progress=False)
    assert footers.options["metadata_only"] is True
    verified = jb_client.verify("/lake/trips").wait(timeout=60, progress=False)
    assert verified.kind == "verify"
    assert verified.verified is not None


def test_an_estimate_loads_nothing(jb_client: jb.Client, dataset: jb.Dataset) -> None:
    dataset.free()
    estimate = dataset.select("fare").preload_estimate(tier="raw")
    assert (estimate.files, estimate.fits) == (4, True)
    assert estimate.bytes > 0
    assert dataset.cache_stat().raw_bytes == 0
    assert jb_client.preload_estimate("/lake/trips", columns=["fare"]).bytes == estimate.bytes


def test_a_job_that_repeats_is_cancelled(jb_client: jb.Client, dataset: jb.Dataset) -> None:
    job = dataset.preload(columns=["id"], every="1h")
    assert not job.is_done
    with pytest.raises(TimeoutError, match=job.id) as caught:
        job.wait(timeout=0.3, progress=False)
    assert isinstance(caught.value, jb.DeadlineExceededError)
    assert [other.id for other in jb_client.jobs(limit=1)] == [job.id]
    job.cancel()
    with pytest.raises(jb.JobCancelledError) as cancelled:
        job.wait(timeout=60, progress=False)
    assert cancelled.value.status is not None
    assert cancelled.value.status == "CANCELLED"
    assert job.wait(timeout=60, progress=False, check=False) == "CANCELLED"
    assert job.id in [other.id for other in jb_client.jobs(state="cancelled")]
    assert job.id in repr(jb_client.jobs())
    assert job.id in jb_client.jobs()._repr_html_()


def test_events_end_with_the_job(dataset: jb.Dataset) -> None:
    job = dataset.preload(columns=["vendor"])
    states = [status.state for status in job.events()]
    assert states[-1] == "SUCCEEDED"
    assert job.status.is_final
    assert "SUCCEEDED" in repr(job)
    assert "<progress" in job._repr_html_()


def test_a_job_that_fails_says_what_failed(tmp_path: Path) -> None:
    folder = tmp_path / "lake"
    write_trips(folder / "trips")
    (folder / "trips" / "broken.parquet").write_bytes(b"PAR1 this is none PAR1")
    with jb.LocalCluster(workers=0, mounts={"/lake": folder}) as cluster, cluster.connect() as client:
        job = client.dataset("/lake/trips").preload(partial_listing=True)
        with pytest.raises(jb.JobFailedError, match=r"broken\.parquet") as caught:
            job.wait(timeout=60, progress=False)
        assert caught.value.status is not None
        assert caught.value.status.failures_total == 1


def test_bars_are_shown_where_they_are_wanted(
    dataset: jb.Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(progress: bool | None) -> str:
        dataset.preload(columns=["day"]).wait(timeout=60, progress=progress)
        return capsys.readouterr().err

    monkeypatch.delenv("JETBRIDGE_PROGRESS", raising=False)
    assert "/lake/trips" in shown(True)
    assert shown(False) == ""
    assert shown(None) == "", "nobody looks at a stderr that is no terminal"
    monkeypatch.setenv("JETBRIDGE_PROGRESS", "0")
    assert shown(True) == "", "the environment wins"


def test_a_long_read_has_a_bar_and_a_short_one_none(
    dataset: jb.Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from jetbridge import _progress

    monkeypatch.delenv("JETBRIDGE_PROGRESS", raising=False)
    assert _progress.SHOW_AFTER_S == 1.0
    # However slow the machine is.
    monkeypatch.setattr(_progress, "SHOW_AFTER_S", 100.0)
    dataset.to_arrow(progress=True)
    assert capsys.readouterr().err == "", "it was over before"
    monkeypatch.setattr(_progress, "SHOW_AFTER_S", 0.0)
    monkeypatch.setattr(_progress, "INTERVAL_S", 0.0)
    for batch in dataset.to_batches(progress=True):
        assert batch.num_rows
    assert "rows" in capsys.readouterr().err
    seen: list[jb.Progress] = []
    assert dataset.to_arrow(progress=seen.append).equals(trips())
    assert (seen[-1].rows, seen[-1].total_rows, seen[-1].done) == (1000, 1000, True)


def test_bars_without_tqdm(dataset: jb.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JETBRIDGE_PROGRESS", raising=False)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    monkeypatch.setattr(sys, "stderr", Terminal())
    job = dataset.preload(columns=["id"])
    job.wait(timeout=60)
    with pytest.raises(ImportError, match=r"jetbridge\[progress\]"):
        job.wait(timeout=60, progress=True)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_wait_goes_on_when_the_node_that_it_asks_comes_back(tmp_path: Path) -> None:
    from harness.cluster import Node

    write_trips(tmp_path / "lake" / "trips")
    node = Node(tmp_path / "node", "serve", ["--mount", f"/lake={tmp_path / 'lake'}", "--memory", "256MiB"])
    try:
        with jb.connect(node.uri) as client:
            job = client.dataset("/lake/trips").preload(columns=["id"], every="1h")
            events = job.events()
            next(events)
            node.kill()
            node.start()
            job.cancel()
            began = time.monotonic()
            assert [status.state for status in events][-1] == "CANCELLED"
            assert time.monotonic() - began < 60
    finally:
        node.kill()
