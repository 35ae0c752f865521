"""The metadata store in etcd: that its contract is checked against a real one, and not skipped without a word."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.etcd import Etcd, EtcdMissingError
from harness.process import clean_environment

CONTRACT = "meta::etcd::tests::etcd_keeps_the_contract"
CONTRACT_TIMEOUT_S = 240


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    """An etcd of the test's own; the test is skipped, and says why, where there is none."""
    try:
        running = Etcd(tmp_path / "etcd")
    except EtcdMissingError as missing:
        pytest.skip(str(missing))
    yield running
    running.kill()


def rust_tests() -> Path:
    """The tests of the catalog as `make test-rust` built them last."""
    folder = Path(os.environ["JETBRIDGE_BIN"]).parent / "deps"
    built = [file for file in folder.glob("jetbridge_catalog-*") if not file.suffix and os.access(file, os.X_OK)]
    if not built:
        pytest.skip(f"the Rust tests were not built in {folder}: `make test-rust` builds and runs them")
    return max(built, key=lambda file: file.stat().st_mtime)


def test_the_contract_is_checked_against_a_real_etcd(etcd: Etcd) -> None:
    """The conformance suite of the Rust tests passes on an etcd that was started here, and says that it ran."""
    done = subprocess.run(
        [rust_tests(), "--exact", CONTRACT, "--nocapture"],
        env=clean_environment({"JETBRIDGE_TEST_ETCD": etcd.endpoint}),
        capture_output=True,
        text=True,
        timeout=CONTRACT_TIMEOUT_S,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert f"etcd at {etcd.endpoint} keeps the contract" in said, said
    assert "skipped" not in said, said


def test_it_keeps_its_data_when_it_is_killed_and_loses_it_when_it_is_emptied(etcd: Etcd) -> None:
    """What the tests of clusters rest on."""
    etcd.put("/jetbridge/a", b"\x00\xff")
    etcd.kill()
    etcd.start()
    assert etcd.get("/jetbridge/a") == b"\x00\xff"
    etcd.kill()
    etcd.empty()
    etcd.start()
    assert etcd.get("/jetbridge/a") is None
    etcd.pause()
    with pytest.raises(TimeoutError):
        etcd.get("/jetbridge/a")
    etcd.resume()
    assert etcd.get("/jetbridge/a") is None
