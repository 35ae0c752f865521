"""Jobs as a user types them: preload, verify and jobs, their exit codes, what they print for people and programs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.flight as flight
import pytest

from harness import jobs
from harness.cluster import until
from harness.counting import CountingStore, Fault
from harness.flight import by_scan, fetch, mount, plan
from harness.process import clean_environment
from harness.server import Server, binary, run_cli
from harness.stored import Shape, bytes_of, chunk_ranges, rot

SHAPE = Shape(files=3, groups=2, rows=12_288)
UNKNOWN = "01900000-0000-7000-8000-000000000000"
COMMAND_TIMEOUT_S = 60.0
# What terminals are sent to go back and paint over.
CONTROL = (b"\x1b", b"\r")


@dataclass
class Lake:
    """A counting store mounted at /c, and the commands run against its server."""

    server: Server
    store: CountingStore
    folder: Path

    @property
    def client(self) -> flight.FlightClient:
        return self.server.client

    def at(self, number: int) -> str:
        return f"/c/{SHAPE.name(number)}"

    def run(self, code: int, *args: str | Path) -> subprocess.CompletedProcess[bytes]:
        """A command that ends with this code."""
        done = self.server.cli(*args)
        assert done.returncode == code, (done.returncode, done.stdout.decode(), done.stderr.decode())
        assert b"panicked" not in done.stderr
        return done

    def text(self, *args: str | Path) -> str:
        """What a command that works prints, for people, though nobody looks at a terminal."""
        done = self.run(0, *args)
        for control in CONTROL:
            assert control not in done.stdout + done.stderr
        return done.stdout.decode()

    def json(self, *args: str | Path) -> Any:
        return json.loads(self.run(0, *args, "-o", "json").stdout)

    def jobs(self) -> list[jobs.Job]:
        return jobs.listed(self.client)

    def refuse(self, number: int) -> None:
        """The store refuses a file's data from now on."""
        end = (self.folder / SHAPE.name(number)).stat().st_size - (64 << 10)
        name = SHAPE.name(number)
        self.store.weather(lambda get: Fault(status=403 if get.key == name and get.start < end else 0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "lake"
    SHAPE.write(folder)
    return folder


@pytest.fixture
def lake(start_server: Callable[..., Server], folder: Path) -> Iterator[Lake]:
    with CountingStore(folder) as store:
        server = start_server()
        mount(server.client, "/c", store.uri, freshness="immutable", **store.options)
        yield Lake(server, store, folder)


@pytest.mark.parametrize("words", [("preload",), ("verify",), ("jobs",), ("jobs", "watch")], ids=" ".join)
def test_help(words: tuple[str, ...]) -> None:
    done = run_cli(*words, "--help")
    assert done.returncode == 0
    assert b"Usage" in done.stdout


@pytest.mark.parametrize(
    "args",
    [
        ("preload",),
        ("preload", "/c", "--tier", "tape"),
        ("preload", "/c", "--priority", "urgent"),
        ("preload", "/c", "--replicas", "many"),
        ("preload", "/c", "--max-failures", "-1"),
        ("preload", "/c", "--bandwith", "1MiB/s"),
        ("preload", "/c", "-o", "csv"),
        ("verify",),
        ("jobs",),
        ("jobs", "show"),
        ("jobs", "frobnicate"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(args: tuple[str, ...]) -> None:
    done = run_cli(*args, env={"JETBRIDGE_URI": "grpc://127.0.0.1:1"})
    assert done.returncode == 2, done.stderr.decode()
    assert done.stdout == b""


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("preload", "/nowhere"), "/nowhere"),
        (("preload", "/c", "--columns", "nope"), "nope"),
        (("preload", "/c", "--where", "n <"), ""),
        (("preload", "/c", "--bandwidth", "0"), "bandwidth"),
        (("preload", "/c", "--wait", "--columns", "nope"), "nope"),
        (("verify", "/nowhere"), "/nowhere"),
        (("jobs", "show", UNKNOWN), UNKNOWN),
        (("jobs", "cancel", UNKNOWN), UNKNOWN),
        (("jobs", "watch", UNKNOWN), UNKNOWN),
    ],
    ids=str,
)
def test_failure_says_what_on_stderr(lake: Lake, args: tuple[str, ...], word: str) -> None:
    done = lake.server.cli(*args)
    assert done.returncode in (1, 2), done.stdout.decode()
    assert done.stdout == b""
    assert word in done.stderr.decode()
    assert len(done.stderr.decode().splitlines()) <= 6
    assert lake.jobs() == []


def test_preload_returns_at_once_with_the_id(lake: Lake) -> None:
    # What is wrong is said at once, so the footers are read before the command returns; the data is not.
    plan(lake.client, "/c")
    with lake.store.held_back():
        text = lake.text("preload", "/c")
        (job,) = lake.jobs()
        assert job["state"] in jobs.UNFINISHED
        assert job["id"] in text
        said = lake.json("preload", "/c")
        assert said["id"] == job["id"]
    jobs.assert_succeeded(jobs.wait(lake.client, job["id"]))


def test_preload_that_waits(lake: Lake) -> None:
    text = lake.text("preload", "/c", "--wait")
    (job,) = lake.jobs()
    assert job["state"] == "SUCCEEDED"
    assert job["id"] in text
    assert "SUCCEEDED" in text
    lake.store.forget()
    assert fetch(lake.client, by_scan("/c")).sources == {"memory"}
    assert lake.store.gets == []


def test_preload_that_waits_for_programs(lake: Lake) -> None:
    lines = lake.run(0, "preload", "/c", "--wait", "-o", "json").stdout.splitlines()
    last = json.loads(lines[-1])
    assert last["state"] == "SUCCEEDED"
    assert last == jobs.get(lake.client, last["id"])
    assert {json.loads(line)["id"] for line in lines} == {last["id"]}


def test_every_option_arrives(lake: Lake) -> None:
    options = {
        "--columns": "n,a",
        "--where": "n >= 5",
        "--tier": "raw",
        "--replicas": "1",
        "--bandwidth": "3MiB/s",
        "--priority": "high",
        "--max-failures": "7",
        "--every": "1h",
    }
    switches = ["--verify", "--skip-if-cached", "--partial-listing", "--partial"]
    said = lake.json("preload", "/c", *(word for pair in options.items() for word in pair), *switches)
    assert said["options"] == {
        "columns": ["n", "a"],
        "where": "n >= 5",
        "tier": "raw",
        "replicas": 1,
        "bandwidth": 3 << 20,
        "priority": "high",
        "max_failures": 7,
        "every": 3600,
        "verify": True,
        "skip_if_cached": True,
        "partial_listing": True,
        "partial": True,
        "metadata_only": False,
    }
    plain = lake.json("preload", "/c", "--metadata-only")["options"]
    assert plain["metadata_only"] is True
    assert not any(plain[name] for name in ("verify", "skip_if_cached", "partial_listing", "partial", "every"))
    assert (plain["tier"], plain["priority"]) == ("both", "normal")


def test_several_paths_and_a_list_of_them(lake: Lake, tmp_path: Path) -> None:
    said = lake.json("preload", lake.at(0), lake.at(1), "--wait")
    assert (said["paths"], said["files"]) == ([lake.at(0), lake.at(1)], 2)
    names = tmp_path / "paths.txt"
    names.write_text(f"{lake.at(1)}\n\n{lake.at(2)}\n")
    said = lake.json("preload", "--paths-from", names, "--wait")
    assert said["paths"] == [lake.at(1), lake.at(2)]
    missing = lake.run(1, "preload", "--paths-from", tmp_path / "none.txt")
    assert b"none.txt" in missing.stderr


def test_a_dry_run_says_how_much(lake: Lake) -> None:
    stored = bytes_of(chunk_ranges(lake.folder))
    said = lake.json("preload", "/c", "--dry-run")
    assert (said["dry_run"], said["files"], said["bytes"], said["fits"]) == (True, SHAPE.files, stored, True)
    text = lake.text("preload", "/c", "--dry-run")
    assert str(SHAPE.files) in text
    assert lake.jobs() == []


def test_what_does_not_end_well_is_exit_code_1_where_it_is_waited_for(lake: Lake) -> None:
    lake.refuse(1)
    done = lake.run(1, "preload", "/c", "--wait")
    assert "PARTIAL" in done.stdout.decode() + done.stderr.decode()
    assert lake.at(1) in done.stdout.decode() + done.stderr.decode()
    (job,) = lake.jobs()
    lake.run(1, "jobs", "watch", job["id"])
    # Asking for it is no failure, nor is submitting it.
    assert "PARTIAL" in lake.text("jobs", "show", job["id"])
    assert lake.at(1) in lake.text("jobs", "show", job["id"])
    lake.run(0, "preload", "/c", "--priority", "low")


def test_jobs_ls_show_and_cancel(lake: Lake) -> None:
    done = jobs.preload(lake.client, "/c", columns=["n"])
    with lake.store.held_back():
        running = jobs.submit(lake.client, "/c", columns=["a"])
        jobs.wait_until(lake.client, running["id"], lambda job: job["state"] == "RUNNING", "running")
        listed = lake.json("jobs", "ls")
        assert [job["id"] for job in listed] == [running["id"], done["id"]]
        text = lake.text("jobs", "ls")
        for word in (running["id"], done["id"], "RUNNING", "SUCCEEDED", "/c"):
            assert word in text
        assert lake.json("jobs", "show", done["id"]) == done
        shown = lake.text("jobs", "show", done["id"])
        assert done["id"] in shown
        assert "SUCCEEDED" in shown
        lake.run(0, "jobs", "cancel", running["id"])
        until(lambda: jobs.get(lake.client, running["id"])["state"] == "CANCELLED", "cancelled")
    assert "CANCELLED" in lake.text("jobs", "ls")
    lake.run(0, "jobs", "cancel", done["id"])
    assert jobs.get(lake.client, done["id"]) == done


def slow_job(lake: Lake) -> jobs.Job:
    """A job of about five seconds: much longer than a command takes to start on a busy machine."""
    return jobs.submit(lake.client, "/c", bandwidth=bytes_of(chunk_ranges(lake.folder)) // 5)


def test_watching_for_programs_is_one_object_a_line(lake: Lake) -> None:
    job = slow_job(lake)
    lines = [json.loads(line) for line in lake.run(0, "jobs", "watch", job["id"], "-o", "json").stdout.splitlines()]
    assert len(lines) >= 3
    assert {line["id"] for line in lines} == {job["id"]}
    jobs.assert_never_falls(lines)
    jobs.assert_succeeded(lines[-1])
    assert any(0 < line["bytes_done"] < line["bytes"] for line in lines)


def test_watching_without_a_terminal_is_plain_lines(lake: Lake) -> None:
    job = slow_job(lake)
    lines = lake.text("jobs", "watch", job["id"]).splitlines()
    print("\n".join(lines))
    assert 2 <= len(lines) <= 30
    assert any("RUNNING" in line for line in lines)
    assert "SUCCEEDED" in lines[-1] or "SUCCEEDED" in "\n".join(lines)
    assert any("%" in line for line in lines)
    assert max(map(len, lines)) < 300


def test_lines_come_as_it_goes_on(lake: Lake) -> None:
    """Not all at its end."""
    job = slow_job(lake)
    args = [str(binary()), "jobs", "watch", job["id"], "-o", "json", "--uri", lake.server.flight_uri]
    with subprocess.Popen(args, stdout=subprocess.PIPE, env=clean_environment()) as watching:
        assert watching.stdout is not None
        first = json.loads(watching.stdout.readline())
        assert first["state"] in jobs.UNFINISHED
        rest = watching.stdout.read().splitlines()
        assert watching.wait(COMMAND_TIMEOUT_S) == 0
    assert json.loads(rest[-1])["state"] == "SUCCEEDED"


def test_who_watches_may_go(lake: Lake) -> None:
    """Ending the command does not end the job."""
    job = slow_job(lake)
    args = [str(binary()), "preload", "/c", "--wait", "--bandwidth", str(job["options"]["bandwidth"])]
    with subprocess.Popen(
        [*args, "--uri", lake.server.flight_uri],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
    ) as watching:
        jobs.wait_until(lake.client, job["id"], lambda job: job["bytes_done"] > 0, "begun")
        assert watching.poll() is None
        watching.terminate()
        watching.communicate(timeout=COMMAND_TIMEOUT_S)
    done = jobs.assert_succeeded(jobs.wait(lake.client, job["id"]))
    assert [listed["id"] for listed in lake.jobs()] == [done["id"]]


def test_verify(lake: Lake) -> None:
    jobs.preload(lake.client, "/c", tier="raw")
    said = lake.json("verify", "/c", "--wait")
    assert (said["kind"], said["state"]) == ("verify", "SUCCEEDED")
    assert said["verified"]["row_groups"] == SHAPE.row_groups
    rot(lake.server.data_dir, 50_000)
    done = lake.run(1, "verify", "/c", "--wait")
    text = done.stdout.decode() + done.stderr.decode()
    assert "PARTIAL" in text
    assert "damaged" in text
    jobs.preload(lake.client, "/c", tier="raw")
    assert "SUCCEEDED" in lake.text("verify", "/c", "--wait")
