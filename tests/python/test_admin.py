"""Seen from outside: liveness, readiness, metrics and logs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Lake
from harness import files
from harness.flight import read
from harness.metrics import get, samples, total
from harness.server import Server


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_a_running_server_is_live_and_ready(server: Server, path: str) -> None:
    status, text = get(f"{server.admin_uri}{path}")
    assert status == 200
    assert text.strip()


@pytest.mark.parametrize("path", ["/nothing", "/metrics/x", "/livez/.."])
def test_other_paths_are_not_found(server: Server, path: str) -> None:
    assert get(f"{server.admin_uri}{path}")[0] == 404


def test_metrics_have_the_project_s_names(lake: Lake) -> None:
    lake.write("t.parquet", files.numbers(100))
    lake.read("t.parquet")
    found = samples(lake.server.admin_uri)
    assert found
    names = {sample.name for sample in found}
    assert all(name.startswith("jetbridge_") for name in names), sorted(names)
    assert {
        "jetbridge_store_requests_total",
        "jetbridge_store_read_bytes_total",
        "jetbridge_cache_hits_total",
        "jetbridge_cache_misses_total",
        "jetbridge_cache_coalesced_total",
    } <= names
    _, text = get(f"{lake.server.admin_uri}/metrics")
    described = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    assert {"jetbridge_store_requests_total", "jetbridge_cache_hits_total"} <= described


def test_metric_labels_bear_no_paths(lake: Lake) -> None:
    canary = "canarypath"
    lake.write(f"{canary}/{canary}.parquet", {canary: [1, 2, 3]})
    lake.read(canary, filter=f"{canary} > 1")
    lake.read(f"{canary}/{canary}.parquet")
    assert canary not in get(f"{lake.server.admin_uri}/metrics")[1]
    for sample in samples(lake.server.admin_uri):
        for name, value in sample.labels.items():
            assert lake.path not in value, (sample.name, name)
            assert not value.startswith("/") or name == "method", (sample.name, name, value)


def test_reads_are_counted(lake: Lake) -> None:
    lake.write("t.parquet", files.numbers(5_000))
    size = (lake.folder / "t.parquet").stat().st_size
    before = total(lake.server.admin_uri, "jetbridge_store_read_bytes_total", scheme="file")
    lake.read("t.parquet")
    assert (
        0
        < total(lake.server.admin_uri, "jetbridge_store_read_bytes_total", scheme="file") - before
        <= 2 * size + 65_536
    )
    hits = total(lake.server.admin_uri, "jetbridge_cache_hits_total")
    lake.read("t.parquet")
    lake.read("t.parquet")
    assert total(lake.server.admin_uri, "jetbridge_cache_hits_total") > hits


def test_json_logs_are_json(start_server: Callable[..., Server], tmp_path: Path) -> None:
    files.write(tmp_path / "lake/t.parquet", files.numbers(5))
    server = start_server(mounts={"/lake": f"file://{tmp_path}/lake"}, args=["--log-format", "json"])
    read(server.client, "/lake")
    assert server.stop() == 0
    lines = [line for line in server.log.splitlines() if not line.startswith("jetbridge ready")]
    assert lines
    assert all(isinstance(json.loads(line), dict) for line in lines)


def test_the_ready_line_is_the_only_word_on_stdout(start_server: Callable[..., Server], tmp_path: Path) -> None:
    files.write(tmp_path / "lake/t.parquet", files.numbers(5))
    server = start_server(mounts={"/lake": f"file://{tmp_path}/lake"})
    assert server.flight_uri.startswith("grpc://127.0.0.1:")
    assert server.admin_uri.startswith("http://127.0.0.1:")
    assert read(server.client, "/lake").num_rows == 5
