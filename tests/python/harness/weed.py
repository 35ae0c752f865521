"""SeaweedFS as the S3 server of the tests: a real server on free ports, with credentials that it enforces."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.fs as fs

from harness.ports import free_pairs
from harness.process import Daemon, clean_environment

START_TRIES = 3
START_TIMEOUT_S = 60.0
POLL_INTERVAL_S = 0.1
ACCESS_KEY = "jetbridge-test"
SECRET_KEY = "canary-secret-of-the-tests"
REGION = "us-east-1"


class Weed:
    """One `weed server` with S3, and how to reach it. What it stores goes with it, unless it has a folder for that."""

    def __init__(self, data: Path | None = None) -> None:
        # A short path: the server puts unix sockets below it.
        self.folder = Path(tempfile.mkdtemp(prefix="jbw-", dir="/tmp"))
        self._data = data
        self._config = self.folder / "s3.json"
        self._config.write_text(json.dumps(_identities()))
        for tries_left in reversed(range(START_TRIES)):
            try:
                self._start()
                return
            except (TimeoutError, RuntimeError):
                # Another process may have taken a port between the look and the bind.
                self.daemon.kill()
                if not tries_left:
                    raise

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def options(self) -> dict[str, str]:
        """Mount options for it; the secret is in the environment of the server (see `environment`)."""
        return {
            "endpoint": self.endpoint,
            "region": REGION,
            "access_key_id": ACCESS_KEY,
            "secret_access_key": "env:WEED_SECRET",
            "allow_http": "true",
        }

    @staticmethod
    def environment() -> dict[str, str]:
        """What a Jetbridge server that mounts it has in its environment."""
        return {"WEED_SECRET": SECRET_KEY, "WEED_WRONG_SECRET": "canary-wrong-secret"}

    @staticmethod
    def credentials() -> dict[str, str]:
        """The same as S3 programs find them in their environment."""
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": REGION}

    def filesystem(self, **more: Any) -> fs.S3FileSystem:
        """pyarrow's own S3 client on it."""
        return filesystem(self.port, **more)

    def upload(self, folder: Path, bucket: str, prefix: str = "") -> str:
        """Copies a folder into a bucket that is made if need be; its `s3://` URI."""
        store = self.filesystem()
        store.create_dir(bucket)
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            key = "/".join(part for part in (bucket, prefix, file.relative_to(folder).as_posix()) if part)
            with store.open_output_stream(key) as out:
                out.write(file.read_bytes())
        return "/".join(part for part in (f"s3://{bucket}", prefix) if part)

    def stop(self) -> None:
        """Ends the server and removes its files."""
        self.daemon.kill()
        for port in (*self._ports, *(port + 10_000 for port in self._ports)):
            for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                socket.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        self._ports = free_pairs(4)
        self.port, filer, master, volume = self._ports
        data = self._data or self.folder / f"data-{self.port}"
        data.mkdir(parents=True, exist_ok=True)
        self.daemon = Daemon(
            [
                *(weed_binary(), "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
                *("-filer", f"-filer.port={filer}", f"-master.port={master}", f"-volume.port={volume}"),
                *("-s3", f"-s3.port={self.port}", f"-s3.config={self._config}"),
                *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
                *("-volume.max=100", "-master.volumeSizeLimitMB=256"),
            ],
            self.folder / "weed.log",
            clean_environment({"HOME": str(self.folder)}),
        )
        self._wait_until_it_writes()

    def _wait_until_it_writes(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.daemon.process.poll() is not None:
                raise RuntimeError(f"SeaweedFS ended:\n{self.daemon.log_tail}")
            try:
                store = self.filesystem(retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1))
                store.create_dir("ready-probe")
                with store.open_output_stream("ready-probe/object") as out:
                    out.write(b"ready")
                return
            except OSError:
                time.sleep(POLL_INTERVAL_S)
        raise TimeoutError(f"SeaweedFS not ready in {START_TIMEOUT_S} s:\n{self.daemon.log_tail}")


def filesystem(port: int, **more: Any) -> fs.S3FileSystem:
    """pyarrow's S3 client on a server's port; a function of its own, so that it travels to other processes."""
    return fs.S3FileSystem(
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        region=REGION,
        scheme="http",
        endpoint_override=f"127.0.0.1:{port}",
        allow_bucket_creation=True,
        allow_bucket_deletion=True,
        connect_timeout=3,
        request_timeout=20,
        **more,
    )


def weed_binary() -> Path:
    """The `weed` that the virtual environment has."""
    return Path(sys.executable).with_name("weed")


def _identities() -> dict[str, Any]:
    credentials = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    return {
        "identities": [{"name": "tests", "credentials": credentials, "actions": ["Admin", "Read", "List", "Write"]}]
    }
