"""Jobs as a client meets them: submitted, watched, waited for, cancelled, and what every job object must be."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow.flight as flight

from harness.cluster import Node
from harness.errors import ANSWERED
from harness.flight import act

Job = dict[str, Any]

WAIT_TIMEOUT_S = 60.0
POLL_INTERVAL_S = 0.05
UNFINISHED = frozenset({"PENDING", "RUNNING"})
FINAL = frozenset({"SUCCEEDED", "PARTIAL", "FAILED", "CANCELLED"})
FAILURE_KINDS = frozenset(
    {"not_found", "denied", "changed", "corrupt", "damaged", "not_kept", "storage", "capacity", "internal"}
)
# Every key of a job object, and what its value is an instance of.
NUMBER = (int, float)
FIELDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("id", "kind", "state", "path", "key"), str),
    **dict.fromkeys(("paths", "failures", "workers"), list),
    "options": dict,
    "submitted_unix_ms": int,
    **dict.fromkeys(("started_unix_ms", "finished_unix_ms", "next_run_unix_ms"), (int, type(None))),
    **dict.fromkeys(("elapsed_s", "rate_bytes_per_s"), NUMBER),
    "eta_s": (*NUMBER, type(None)),
    **dict.fromkeys(("scheduler", "waiting", "error"), (str, type(None))),
    **dict.fromkeys(("round", "runs", "retries", "failures_total"), int),
    "listing": bool,
    **dict.fromkeys(("files", "files_done", "files_skipped", "row_groups", "row_groups_done"), int),
    **dict.fromkeys(("bytes", "bytes_done", "decoded_bytes", "decoded_bytes_done"), int),
    **dict.fromkeys(("fetched_bytes", "peer_bytes"), int),
    "verified": (dict, type(None)),
}
WORKER_FIELDS = {
    "id",
    "state",
    "row_groups",
    "row_groups_done",
    "bytes",
    "bytes_done",
    "tasks_running",
    "tasks_done",
}
# The counts that a run only ever adds to.
GROWING = ("files_done", "row_groups_done", "bytes_done", "fetched_bytes", "failures_total", "retries")


def submit(client: flight.FlightClient, path: str | Sequence[str], **options: Any) -> Job:
    """Submits a preload of a path or of several; the job as it then is."""
    return _checked(act(client, "preload.submit", _body(path, options)))


def submit_verify(client: flight.FlightClient, path: str | Sequence[str], **options: Any) -> Job:
    """Submits a comparison of what is held with the storage."""
    return _checked(act(client, "verify.submit", _body(path, options)))


def dry_run(client: flight.FlightClient, path: str | Sequence[str], **options: Any) -> dict[str, Any]:
    """What a preload would load."""
    said = act(client, "preload.submit", {**_body(path, options), "dry_run": True})
    assert said["dry_run"] is True, said
    return said


def get(client: flight.FlightClient, job_id: str) -> Job:
    """A job as it is now."""
    return _checked(act(client, "preload.get", {"id": job_id}))


def cancel(client: flight.FlightClient, job_id: str) -> Job:
    """Asks for a job's end."""
    return _checked(act(client, "preload.cancel", {"id": job_id}))


def listed(client: flight.FlightClient, state: str | None = None) -> list[Job]:
    """All jobs, or those of a state; the newest first."""
    found = act(client, "preload.list", {} if state is None else {"state": state})["jobs"]
    for job in found:
        _checked(job)
    submitted = [job["submitted_unix_ms"] for job in found]
    assert submitted == sorted(submitted, reverse=True), "not the newest first"
    assert state is None or {job["state"] for job in found} <= {state}
    return found


def watch(client: flight.FlightClient, job_id: str) -> Iterator[Job]:
    """A job again and again as it goes on, the last time when it is over."""
    for result in client.do_action(flight.Action("preload.watch", json.dumps({"id": job_id}).encode())):
        yield _checked(json.loads(result.body.to_pybytes()))


def wait(client: flight.FlightClient, job_id: str, timeout_s: float = WAIT_TIMEOUT_S) -> Job:
    """The job once it is over."""
    return wait_until(client, job_id, lambda job: job["state"] in FINAL, "over", timeout_s)


def wait_until(
    client: flight.FlightClient,
    job_id: str,
    holds: Callable[[Job], bool],
    what: str,
    timeout_s: float = WAIT_TIMEOUT_S,
) -> Job:
    """The job once it is as wanted; fails where it is over without, and after a time."""
    deadline_s = time.monotonic() + timeout_s
    while not holds(job := get(client, job_id)):
        assert job["state"] in UNFINISHED, f"over, and never {what}: {shown(job)}"
        assert time.monotonic() < deadline_s, f"not {what} within {timeout_s} s: {shown(job)}"
        time.sleep(POLL_INTERVAL_S)
    return job


def wait_anywhere(nodes: Sequence[Node], job_id: str, timeout_s: float = WAIT_TIMEOUT_S) -> Job:
    """The job once it is over, asked of whichever node answers; nodes may come and go meanwhile."""
    deadline_s, last = time.monotonic() + timeout_s, "nobody answered"
    while time.monotonic() < deadline_s:
        for node in (node for node in nodes if node.is_running()):
            try:
                with node.connect() as client:
                    job = get(client, job_id)
            except (*ANSWERED, OSError) as error:
                last = str(error)
                continue
            if job["state"] in FINAL:
                return job
            last = shown(job)
        time.sleep(POLL_INTERVAL_S)
    raise AssertionError(f"not over within {timeout_s} s: {last}")


def preload(client: flight.FlightClient, path: str | Sequence[str], **options: Any) -> Job:
    """Preloads and waits; fails where that does not end SUCCEEDED and whole."""
    return assert_succeeded(wait(client, submit(client, path, **options)["id"]))


def verify(client: flight.FlightClient, path: str | Sequence[str], **options: Any) -> Job:
    """Compares what is held with the storage, to the end; all of it must have been looked at."""
    return wait(client, submit_verify(client, path, **options)["id"])


def assert_succeeded(job: Job) -> Job:
    """It is over, all of it is done, nothing failed."""
    assert job["state"] == "SUCCEEDED", shown(job)
    assert (job["failures"], job["failures_total"], job["error"]) == ([], 0, None), shown(job)
    for done, of in (("files_done", "files"), ("row_groups_done", "row_groups"), ("bytes_done", "bytes")):
        assert job[done] == job[of], f"{done} is {job[done]} of {job[of]}: {shown(job)}"
    assert job["finished_unix_ms"] >= job["started_unix_ms"] >= job["submitted_unix_ms"], shown(job)
    assert not job["listing"]
    return job


def assert_failures(job: Job, kind: str, *paths: str) -> list[dict[str, Any]]:
    """Of these paths and no others something failed, all as this kind; gives the failures."""
    failures = job["failures"]
    assert failures, shown(job)
    assert {failure["path"] for failure in failures} == set(paths), shown(job)
    assert {failure["kind"] for failure in failures} == {kind}, shown(job)
    assert job["failures_total"] >= len(failures)
    assert all(failure["error"] and failure["tries"] >= 1 for failure in failures), shown(job)
    return failures


def assert_never_falls(seen: Sequence[Job]) -> None:
    """States only go on, and what is done is not undone within a run."""
    order = ["PENDING", "RUNNING"]
    states = [order.index(job["state"]) if job["state"] in order else len(order) for job in seen]
    assert states == sorted(states), [job["state"] for job in seen]
    for name in GROWING:
        values = [job[name] for job in seen]
        assert values == sorted(values), f"{name} falls: {values}"
    for job in seen:
        for done, of in (("files_done", "files"), ("row_groups_done", "row_groups"), ("bytes_done", "bytes")):
            assert job[done] <= job[of], f"{done} is beyond {of}: {shown(job)}"


def stat(client: flight.FlightClient, path: str, **more: Any) -> dict[str, Any]:
    """What the caches hold of a path."""
    return act(client, "cache.stat", {"path": path, **more})


def columns(client: flight.FlightClient, path: str, **more: Any) -> dict[str, dict[str, Any]]:
    """What the caches hold of each column of a path."""
    return {part["column"]: part for part in stat(client, path, by="column", **more)["by_column"]}


def shown(job: Job) -> str:
    """A job for the message of a failure: what is nothing is left out."""
    return json.dumps({key: value for key, value in job.items() if value not in (None, [], 0, False, "")})


def _body(path: str | Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
    where = {"path": path} if isinstance(path, str) else {"paths": list(path)}
    return {**where, **options}


def _checked(job: Job) -> Job:
    """Every field is there, as what it should be, whatever the job's state."""
    missing = FIELDS.keys() - job.keys()
    assert not missing, f"a job without {sorted(missing)}: {job}"
    wrong = {name: job[name] for name, kind in FIELDS.items() if not isinstance(job[name], kind)}
    assert not wrong, f"fields of other kinds: {wrong}"
    assert job["state"] in UNFINISHED | FINAL, job["state"]
    assert job["path"] == job["paths"][0]
    assert len(job["failures"]) <= min(100, job["failures_total"])
    assert {failure["kind"] for failure in job["failures"]} <= FAILURE_KINDS
    for worker in job["workers"]:
        assert worker.keys() >= WORKER_FIELDS, worker
    # One that repeats rests between two runs, and then knows when the last was over.
    rests = job["state"] == "PENDING" and job["runs"] > 0
    assert (job["finished_unix_ms"] is not None) == (job["state"] in FINAL or rests), shown(job)
    return job
