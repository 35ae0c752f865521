"""The command line, run as a user runs it."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest

from conftest import Lake
from harness import files
from harness.compare import assert_same
from harness.ports import free_port
from harness.process import clean_environment
from harness.server import Server, binary, run_cli

COMMANDS = ("serve", "mount", "ls", "stat", "get", "status", "config")


def output(lake: Lake, *args: str | Path) -> bytes:
    """The stdout of a command that works."""
    done = lake.server.cli(*args)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def json_of(lake: Lake, *args: str) -> Any:
    return json.loads(output(lake, *args, "-o", "json"))


def refused(lake: Lake, code: int, *args: str | Path) -> str:
    """What a command that fails says on stderr; stdout stays empty."""
    done = lake.server.cli(*args)
    assert done.returncode == code, (done.stdout.decode(), done.stderr.decode())
    assert done.stdout == b""
    assert b"panicked" not in done.stderr
    return done.stderr.decode()


@pytest.mark.parametrize("words", [(), *((command,) for command in COMMANDS)], ids=str)
def test_help(words: tuple[str, ...]) -> None:
    done = run_cli(*words, "--help")
    assert done.returncode == 0
    assert b"Usage" in done.stdout


def test_version() -> None:
    done = run_cli("--version")
    assert done.returncode == 0
    assert done.stdout.startswith(b"jetbridge ")


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("no-such-command",),
        ("get",),
        ("get", "/x", "--no-such-flag"),
        ("get", "/x", "--limit", "many"),
        ("get", "/x", "-o", "xml"),
        ("ls", "/", "-o", "csv"),
    ],
    ids=str,
)
def test_wrong_usage_is_exit_code_2(args: tuple[str, ...]) -> None:
    assert run_cli(*args).returncode == 2


@pytest.mark.parametrize(
    "args", [("get", "/nowhere/x"), ("stat", "/nowhere/x"), ("ls", "/nowhere/x"), ("mount", "rm", "/nowhere")], ids=str
)
def test_failure_is_exit_code_1(lake: Lake, args: tuple[str, ...]) -> None:
    assert "/nowhere" in refused(lake, 1, *args)


def test_no_server_is_exit_code_1() -> None:
    uri = f"grpc://127.0.0.1:{free_port()}"
    done = run_cli("ls", "/", "--uri", uri)
    assert done.returncode == 1
    assert uri in done.stderr.decode()


def test_uri_flag_beats_the_environment(lake: Lake) -> None:
    done = run_cli("ls", "/", "--uri", lake.server.flight_uri, env={"JETBRIDGE_URI": "grpc://127.0.0.1:1"})
    assert done.returncode == 0


def test_mount_add_ls_check_rm(lake: Lake) -> None:
    path, uri = f"{lake.path}-cli", f"file://{lake.folder}"
    lake.write("t.parquet", files.numbers(1))
    output(lake, "mount", "add", path, uri, "--option", "freshness=always", "--read-only")
    listed = {entry["path"]: entry for entry in json_of(lake, "mount", "ls")}
    assert listed[path] == {**listed[path], "uri": uri, "options": {"freshness": "always"}, "read_only": True}
    assert path in output(lake, "mount", "ls").decode()
    assert json_of(lake, "mount", "check", path)["ok"] is True
    assert path in refused(lake, 1, "mount", "add", path, uri)
    output(lake, "mount", "rm", path)
    assert path not in output(lake, "mount", "ls").decode()


def test_ls(lake: Lake) -> None:
    lake.write("set/a.parquet", files.numbers(1))
    lake.write("b c.parquet", files.numbers(1))
    entries = {entry["name"]: entry for entry in json_of(lake, "ls", lake.path)}
    assert set(entries) == {"set", "b c.parquet"}
    assert entries["b c.parquet"]["size"] == (lake.folder / "b c.parquet").stat().st_size
    assert lake.path.strip("/") in output(lake, "ls", "/").decode()
    assert "b c.parquet" in output(lake, "ls", lake.path).decode()


def test_stat(lake: Lake) -> None:
    files.hive(lake.folder / "set", {"year=2023": files.numbers(4), "year=2024": files.numbers(6)})
    said = json_of(lake, "stat", lake.at("set"))
    assert said["path"] == lake.at("set")
    assert (said["dataset"]["rows"], said["dataset"]["files"]) == (10, 2)
    assert [column["name"] for column in said["dataset"]["schema"]] == ["n", "text", "maybe", "year"]
    assert said["dataset"]["partition_columns"] == ["year"]
    text = output(lake, "stat", lake.at("set")).decode()
    assert "year" in text
    assert "10" in text


def test_status(lake: Lake) -> None:
    said = json_of(lake, "status")
    assert said["version"]
    assert said["uptime_s"] >= 0
    assert lake.server.flight_uri in output(lake, "status").decode()


def test_get_arrow_and_parquet_are_whole(lake: Lake, tmp_path: Path) -> None:
    table = lake.write("t.parquet", files.numbers(5_000), row_group_size=700)
    path = lake.at("t.parquet")
    assert_same(ipc.open_stream(output(lake, "get", path, "-o", "arrow")).read_all(), table)
    output(lake, "get", path, "-o", "arrow", "--out", tmp_path / "t.arrows")
    assert_same(ipc.open_stream((tmp_path / "t.arrows").read_bytes()).read_all(), table)
    output(lake, "get", path, "-o", "parquet", "--out", tmp_path / "t.parquet")
    assert_same(pq.ParquetFile(tmp_path / "t.parquet").read(), table)


def test_get_json_is_one_object_a_line(lake: Lake) -> None:
    table = lake.write(
        "t.parquet",
        {"n": [1, 2, None], "s": ["a\nb", 'q"q', None], "l": [[1], [], None], "o": [{"x": 1}, None, {"x": None}]},
    )
    rows = [json.loads(line) for line in output(lake, "get", lake.at("t.parquet"), "-o", "json").splitlines()]
    for got, wanted in zip(rows, table.to_pylist(), strict=True):
        assert {name: got.get(name) for name in wanted} == wanted or wanted["o"] == {"x": None}


def test_get_csv(lake: Lake) -> None:
    lake.write("t.parquet", {"n": [1, None], "s": ["with, comma", 'quote"d']})
    rows = list(csv.reader(io.StringIO(output(lake, "get", lake.at("t.parquet"), "-o", "csv").decode())))
    assert rows == [["n", "s"], ["1", "with, comma"], ["", 'quote"d']]


def test_get_table_and_its_options(lake: Lake) -> None:
    lake.write("t.parquet", files.numbers(100))
    path = lake.at("t.parquet")
    text = output(lake, "get", path, "--columns", "n,text", "--where", "n >= 10", "--limit", "3").decode()
    assert all(word in text for word in ("n", "text", "row 10", "row 11", "row 12"))
    assert "row 13" not in text
    assert "maybe" not in text
    assert "nope" in refused(lake, 1, "get", path, "--columns", "nope")
    assert refused(lake, 1, "get", path, "--where", "n <")


def test_get_nothing(lake: Lake) -> None:
    table = lake.write("t.parquet", files.numbers(10))
    path = lake.at("t.parquet")
    assert_same(ipc.open_stream(output(lake, "get", path, "--limit", "0", "-o", "arrow")).read_all(), table.slice(0, 0))
    assert output(lake, "get", path, "--where", "n < 0", "-o", "json") == b""
    assert output(lake, "get", path, "--where", "n < 0", "-o", "csv").decode().split() == ["n,text,maybe"]


def test_a_failed_get_leaves_no_half_written_file(lake: Lake, tmp_path: Path) -> None:
    lake.write("t.parquet", files.numbers(4_000), row_group_size=1_000, write_page_checksum=True)
    chunk = pq.ParquetFile(lake.folder / "t.parquet").metadata.row_group(3).column(0)
    files.flip(lake.folder / "t.parquet", range(chunk.data_page_offset + 40, chunk.data_page_offset + 200))
    out = tmp_path / "out.parquet"
    assert "t.parquet" in refused(lake, 1, "get", lake.at("t.parquet"), "-o", "parquet", "--out", out)
    assert not out.exists()
    out.write_text("mine")
    refused(lake, 1, "get", lake.at("nothing.parquet"), "-o", "parquet", "--out", out)
    assert out.read_text() == "mine"


def test_config_show_tells_where_each_value_comes_from(tmp_path: Path) -> None:
    config = tmp_path / "jetbridge.toml"
    config.write_text('memory = "123MiB"\nticket_ttl = "7m"\n')
    env = {"JETBRIDGE_TICKET_TTL": "8m", "JETBRIDGE_LOG": "debug"}
    done = run_cli("config", "show", "--config", config, "--log", "warn", env=env)
    assert done.returncode == 0, done.stderr.decode()
    lines = {line.split()[0]: line for line in done.stdout.decode().splitlines() if line.strip()}
    assert "123" in lines["memory"]
    assert str(config) in lines["memory"]
    assert "8m" in lines["ticket_ttl"]
    assert "JETBRIDGE_TICKET_TTL" in lines["ticket_ttl"]
    assert "warn" in lines["log"]
    assert "default" in lines["flight"]


def test_config_is_read_by_serve(start_server: Callable[..., Server], tmp_path: Path) -> None:
    files.write(tmp_path / "lake/t.parquet", files.numbers(3))
    config = tmp_path / "jetbridge.toml"
    config.write_text(f'[mounts."/lake"]\nuri = "file://{tmp_path}/lake"\n')
    server = start_server(env={"JETBRIDGE_CONFIG": str(config)})
    done = server.cli("get", "/lake", "-o", "json")
    assert len(done.stdout.splitlines()) == 3, done.stderr.decode()


@pytest.mark.parametrize("text", ['memroy = "1GiB"', "memory = ", 'memory = "lots"', "[serve]\nx = 1"])
def test_config_files_that_are_wrong(tmp_path: Path, text: str) -> None:
    config = tmp_path / "jetbridge.toml"
    config.write_text(text)
    done = run_cli("config", "show", "--config", config)
    assert done.returncode in (1, 2)
    assert str(config) in done.stderr.decode()


def test_output_that_nobody_reads_is_no_failure_worth_a_panic(lake: Lake) -> None:
    lake.write("t.parquet", files.numbers(200_000))
    args = [str(binary()), "get", lake.at("t.parquet"), "-o", "csv", "--uri", lake.server.flight_uri]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment()) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"n,text,maybe\n"
        reader.stdout.close()
        assert reader.stderr is not None
        said = reader.stderr.read()
    assert b"panicked" not in said
    lake.assert_still_serves()
