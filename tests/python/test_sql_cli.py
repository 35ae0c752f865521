"""`jetbridge sql`, run as a user runs it, at a terminal too."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest

from conftest import Lake
from harness import files
from harness.cluster import until
from harness.compare import assert_same
from harness.metrics import total
from harness.process import clean_environment
from harness.server import binary, run_cli

PROMPT = b"jetbridge> "
WAIT_S = 60.0


def name_of(lake: Lake, table: str = "t") -> str:
    return f'"{lake.at(table)}"'


def output(lake: Lake, *args: str | Path) -> bytes:
    done = lake.server.cli("sql", *args)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def refused(lake: Lake, code: int, *args: str | Path) -> str:
    done = lake.server.cli("sql", *args)
    assert done.returncode == code, (done.stdout.decode(), done.stderr.decode())
    assert b"panicked" not in done.stderr
    return done.stderr.decode()


def test_every_form(lake: Lake, tmp_path: Path) -> None:
    table = lake.write("t/1.parquet", files.numbers(3_000), row_group_size=500)
    sql = f"select * from {name_of(lake)} order by n"
    assert_same(ipc.open_stream(output(lake, sql, "-o", "arrow")).read_all(), table)
    objects = [json.loads(line) for line in output(lake, sql, "-o", "json").splitlines()]
    assert objects == table.to_pylist()
    lines = list(csv.reader(io.StringIO(output(lake, sql, "-o", "csv").decode())))
    assert lines[0] == table.column_names
    assert len(lines) == 3_001
    output(lake, sql, "--out", tmp_path / "t.parquet")
    assert_same(pq.ParquetFile(tmp_path / "t.parquet").read(), table)
    shown = output(lake, f"select text, n from {name_of(lake)} where n in (1, 22) order by n").decode().splitlines()
    assert [line.split() for line in shown] == [["text", "n"], ["row", "1", "1"], ["row", "22", "22"]]


def test_a_scan_of_several_endpoints_is_whole(lake: Lake) -> None:
    numbers = files.numbers(100_000)
    for part in range(4):
        lake.write(f"set/{part}.parquet", numbers, row_group_size=10_000)
    found = ipc.open_stream(output(lake, f'select n from "{lake.at("set")}"', "-o", "arrow")).read_all()
    assert sorted(found.column("n").to_pylist()) == sorted(numbers.column("n").to_pylist() * 4)


def test_the_default_schema_and_the_time_limit(lake: Lake) -> None:
    lake.write("t/1.parquet", files.numbers(3_000))
    schema = lake.path.strip("/")
    assert b"3000" in output(lake, "select count(*) from t", "--schema", schema)
    assert "t" in refused(lake, 1, "select count(*) from t")
    endless = "select count(*) from t a cross join t b cross join t c cross join t d where a.n + b.n + c.n + d.n = -1"
    began = time.monotonic()
    said = refused(lake, 1, endless, "--schema", schema, "--timeout", "1s")
    assert time.monotonic() - began < WAIT_S
    assert said.startswith("jetbridge: ")
    assert "took longer than 1s" in said


def test_the_query_is_read_from_stdin(lake: Lake) -> None:
    environment = clean_environment({"JETBRIDGE_URI": lake.server.flight_uri})
    command = [str(binary()), "sql", "-", "-o", "json"]
    done = subprocess.run(command, input=b"select 1 as n;\n", capture_output=True, env=environment, check=True)
    assert json.loads(done.stdout) == {"n": 1}


def test_timing_is_told_on_stderr(lake: Lake) -> None:
    lake.write("t/1.parquet", files.numbers(10))
    done = lake.server.cli("sql", f"select n from {name_of(lake)} where n < 5", "--timing", "-o", "csv")
    assert done.stdout.split() == [b"n", b"0", b"1", b"2", b"3", b"4"]
    assert b"5 rows" in done.stderr
    assert b"planned" in done.stderr


def test_errors_are_one_line_and_leave_no_file(lake: Lake, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    for sql in ("selec 1", "select * from no_such_table", "select 1; select 2"):
        said = refused(lake, 1, sql, "--out", out)
        assert len(said.splitlines()) == 1
        assert said.startswith("jetbridge: ")
    lake.write("t/1.parquet", files.numbers(10))
    refused(lake, 1, f"select 1 / (n - 9) from {name_of(lake)}", "--out", out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("args", [("a", "b"), ("a", "-o", "xml"), ("a", "--timeout", "soon"), ("--out", "x")], ids=str)
def test_wrong_usage_is_exit_code_2(args: tuple[str, ...]) -> None:
    assert run_cli("sql", *args).returncode == 2


def test_without_a_terminal_a_query_is_needed() -> None:
    done = run_cli("sql")
    assert done.returncode == 2
    assert b"give a query" in done.stderr


class Terminal:
    """`jetbridge sql` at a terminal of its own."""

    def __init__(self, uri: str, home: Path) -> None:
        self.terminal, inner = pty.openpty()
        environment = clean_environment({"JETBRIDGE_URI": uri, "HOME": str(home), "TERM": "xterm"})
        environment.pop("XDG_STATE_HOME", None)
        # It has to be its own terminal for Ctrl-C to reach it.
        command = ["setsid", "--ctty", str(binary()), "sql"]
        self.process = subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner, env=environment)
        os.close(inner)
        self.seen = b""

    def wait_for(self, words: bytes) -> bytes:
        """What is shown up to these words."""
        deadline = time.monotonic() + WAIT_S
        while words not in self.seen:
            ready, _, _ = select.select([self.terminal], [], [], deadline - time.monotonic())
            assert ready, f"{words!r} did not come: {self.seen[-2_000:]!r}"
            try:
                self.seen += os.read(self.terminal, 65_536)
            except OSError:
                raise AssertionError(f"it ended: {self.seen[-2_000:]!r}") from None
        shown, _, self.seen = self.seen.partition(words)
        return shown

    def send(self, keys: bytes) -> None:
        os.write(self.terminal, keys)

    def ended(self) -> int:
        """Its exit code."""
        return self.process.wait(WAIT_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)


@pytest.fixture
def terminal(lake: Lake, tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(lake.server.flight_uri, tmp_path)
    opened.wait_for(PROMPT)
    yield opened
    opened.close()


def test_statements_at_the_prompt(lake: Lake, terminal: Terminal, tmp_path: Path) -> None:
    lake.write("t/1.parquet", files.numbers(12))
    schema = lake.path.strip("/")
    terminal.send(f"\\c {schema}\r".encode())
    terminal.wait_for(PROMPT)
    terminal.send(b"select count(*)\rfrom t;\r")
    terminal.wait_for(b"12")
    terminal.wait_for(PROMPT)
    terminal.send(b"selec 1;\r")
    terminal.wait_for(b"jetbridge: ")
    terminal.wait_for(PROMPT)
    terminal.send(b"\\d t\r")
    terminal.wait_for(b"maybe")
    terminal.wait_for(PROMPT)
    terminal.send(b"\\d\r")
    terminal.wait_for(schema.encode())
    terminal.wait_for(PROMPT)
    terminal.send(b"\\nonsense\r")
    terminal.wait_for(b"\\?")
    terminal.send(b"\x04")
    assert terminal.ended() == 0
    history = tmp_path / ".local/state/jetbridge/sql_history"
    assert "select count(*)" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


def test_ctrl_c_drops_what_is_typed_and_ends_a_query(lake: Lake, terminal: Terminal) -> None:
    lake.write("t/1.parquet", files.numbers(3_000))
    t = name_of(lake)
    terminal.send(b"select something unwanted\x03")
    terminal.wait_for(PROMPT)
    crossed = " cross join ".join(f"{t} {name}" for name in "abcd")
    endless = f"select count(*) from {crossed} where a.n = b.n + c.n + d.n + 1e9;"
    terminal.send(endless.encode() + b"\r")
    until(lambda: total(lake.server.admin_uri, "jetbridge_flight_streams") > 0, "the query runs")
    time.sleep(1.0)
    terminal.send(b"\x03")
    terminal.wait_for(b"interrupted")
    terminal.wait_for(PROMPT)
    terminal.send(b"select 41 + 1 as answer;\r")
    terminal.wait_for(b"42")
    terminal.wait_for(PROMPT)
    terminal.send(b"\\q\r")
    assert terminal.ended() == 0
