"""Secrets are references: their values are in no answer, no log, no metric and no file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from harness import files
from harness.compare import assert_same
from harness.flight import act, mount, mounts, read
from harness.metrics import get
from harness.server import Server
from harness.weed import ACCESS_KEY, SECRET_KEY, Weed


def everything_said(server: Server) -> str:
    """All that the server shows anyone who asks."""
    said = [repr(mounts(server.client)), get(f"{server.admin_uri}/metrics")[1]]
    for args in (("mount", "ls", "-o", "json"), ("mount", "ls"), ("config", "show"), ("status",)):
        done = server.cli(*args, env=Weed.environment())
        said += [done.stdout.decode(), done.stderr.decode()]
    return "\n".join(said)


def test_secrets_are_nowhere(start_server: Callable[..., Server], tmp_path: Path, weed: Weed) -> None:
    expected = files.write(tmp_path / "up/t.parquet", files.numbers(20))
    uri = weed.upload(tmp_path / "up", "secrets")
    secret_file = tmp_path / "secret.txt"
    secret_file.write_text(f"{SECRET_KEY}\n")
    server = start_server(env={**weed.environment(), "RUST_LOG": "trace"})
    mount(server.client, "/by-env", uri, **weed.options)
    mount(server.client, "/by-file", uri, **{**weed.options, "secret_access_key": f"file:{secret_file}"})
    for path in ("/by-env", "/by-file"):
        assert_same(read(server.client, path), expected)
        act(server.client, "mount.check", {"path": path})
    with pytest.raises(pa.ArrowException) as refused:
        mount(server.client, "/wrong", uri, **{**weed.options, "secret_access_key": "env:WEED_WRONG_SECRET"})
    said = f"{refused.value}\n{everything_said(server)}"
    assert mounts(server.client)["/by-env"]["options"]["secret_access_key"] == "env:WEED_SECRET"
    assert server.stop() == 0
    said += server.log
    for secret in weed.environment().values():
        assert secret not in said
        for path in server.data_dir.rglob("*"):
            assert not path.is_file() or secret.encode() not in path.read_bytes(), path


def test_the_usual_environment_is_read(start_server: Callable[..., Server], tmp_path: Path, weed: Weed) -> None:
    expected = files.write(tmp_path / "up/t.parquet", files.numbers(20))
    uri = weed.upload(tmp_path / "up", "from-env")
    environment = {
        "AWS_ENDPOINT_URL": weed.endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_ALLOW_HTTP": "true",
    }
    server = start_server(env=environment, mounts={"/lake": uri})
    assert_same(read(server.client, "/lake"), expected)
    assert SECRET_KEY not in repr(mounts(server.client)) + server.log


def test_ticket_keys_are_private_files(start_server: Callable[..., Server], tmp_path: Path) -> None:
    files.write(tmp_path / "lake/t.parquet", files.numbers(1))
    server = start_server(mounts={"/lake": f"file://{tmp_path}/lake"})
    read(server.client, "/lake")
    open_to_others = [
        path
        for path in server.data_dir.rglob("*")
        if path.is_file() and path.stat().st_mode & 0o077 and "key" in path.name
    ]
    assert not open_to_others
