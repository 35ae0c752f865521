"""Fixtures: real servers on free ports, a folder that one of them serves, and a SeaweedFS with buckets."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from harness import files, tpch
from harness.etcd import Etcd, EtcdMissingError
from harness.flight import act, mount, mounts, read
from harness.server import Options, Server
from harness.trips import write_trips
from harness.weed import Weed

if TYPE_CHECKING:
    import jetbridge as jb

_numbers = itertools.count()
_stash = pytest.StashKey[list[Server]]()


@dataclass(frozen=True)
class Lake:
    """A folder of one test, mounted for it alone on a server that others use too; changes are seen at once."""

    server: Server
    folder: Path
    path: str

    @property
    def client(self) -> flight.FlightClient:
        return self.server.client

    def at(self, name: str) -> str:
        """The namespace path of a file or folder in it."""
        return f"{self.path}/{name}" if name else self.path

    def read(self, name: str = "", **spec: Any) -> pa.Table:
        """The rows of a file or folder in it."""
        return read(self.client, self.at(name), **spec)

    def write(self, name: str, data: Any, **options: Any) -> pa.Table:
        """Writes one Parquet file into it."""
        return files.write(self.folder / name, data, **options)

    def assert_still_serves(self) -> None:
        """A good read after bad ones: the same process, and right rows."""
        expected = self.write("still-serves/good.parquet", files.numbers(7))
        assert self.read("still-serves").equals(expected)
        assert self.server.daemon.process.poll() is None


@pytest.fixture(scope="session")
def shared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of all that the shared server may read."""
    return tmp_path_factory.mktemp("lake")


@pytest.fixture(scope="session")
def server(
    shared_root: Path, weed_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The server that most tests share."""
    options = Options(file_roots=[shared_root], env=weed_environment)
    running = Server(tmp_path_factory.mktemp("shared") / "data", options)
    yield running
    assert running.stop() == 0, running.daemon.log_tail


@pytest.fixture(scope="session")
def weed_environment() -> dict[str, str]:
    """The secrets that S3 mounts refer to, there before SeaweedFS itself is started."""
    return Weed.environment()


@pytest.fixture
def lake(server: Server, shared_root: Path) -> Iterator[Lake]:
    """A new folder, mounted with freshness `always`; its mount and what was mounted below or beside it go again."""
    number = next(_numbers)
    folder = shared_root / f"lake-{number}"
    folder.mkdir()
    path = f"/lake-{number}"
    mount(server.client, path, f"file://{folder}", freshness="always")
    yield Lake(server, folder, path)
    shutil.rmtree(folder)
    if server.daemon.process.poll() is None:
        mine = [mounted for mounted in mounts(server.client) if re.match(rf"{path}($|[-/])", mounted)]
        for mounted in sorted(mine, reverse=True):
            act(server.client, "mount.remove", {"path": mounted})


@pytest.fixture
def start_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers of the test's own; what still runs at its end is stopped."""
    started: list[Server] = request.node.stash.setdefault(_stash, [])

    def start(name: str = "data", **options: Any) -> Server:
        server = Server(tmp_path / name, Options(**options))
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def lineitem_sf1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TPC-H lineitem at scale 1, made once for the whole run."""
    return tpch.lineitem(tmp_path_factory.mktemp("tpch"), 1)


@pytest.fixture(scope="session")
def weed() -> Iterator[Weed]:
    """One SeaweedFS for the whole run."""
    running = Weed()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """One etcd that is neither killed nor emptied."""
    running = _etcd(tmp_path_factory.mktemp("etcd"))
    yield running
    running.kill()


@pytest.fixture(scope="module")
def frail_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """An etcd for one file of tests that do to it what they like, and leave it as it was."""
    running = _etcd(tmp_path_factory.mktemp("frail-etcd"))
    yield running
    running.kill()


@pytest.fixture(scope="session")
def trips_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset `trips`, for tests of the Python package."""
    folder = tmp_path_factory.mktemp("trips-lake")
    write_trips(folder / "trips")
    return folder


@pytest.fixture(scope="session")
def local_cluster(trips_folder: Path) -> Iterator[jb.LocalCluster]:
    """A coordinator and two workers, started by the Python package, with `/lake/trips`."""
    import jetbridge as jb

    with jb.LocalCluster(workers=2, mounts={"/lake": trips_folder}, memory="512MiB") as cluster:
        yield cluster


@pytest.fixture
def jb_client(local_cluster: jb.LocalCluster) -> Iterator[jb.Client]:
    """A client of the package's own, of that cluster."""
    with local_cluster.connect() as client:
        yield client


def _etcd(folder: Path) -> Etcd:
    try:
        return Etcd(folder)
    except EtcdMissingError as missing:
        pytest.skip(str(missing))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Shows the end of the servers' logs with a failure."""
    report = yield
    if call.excinfo is not None and report.failed:
        servers = list(item.stash.get(_stash, []))
        used = getattr(item, "funcargs", {}).values()
        servers += [
            value.server if isinstance(value, Lake) else value for value in used if isinstance(value, Lake | Server)
        ]
        for number, server in enumerate(dict.fromkeys(servers)):
            report.sections.append((f"server {number} log (end)", server.daemon.log_tail))
    return report
