"""A cluster of real processes on free ports, and a client that tries an endpoint's next location."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight

from harness import metrics
from harness.flight import act, descriptor
from harness.ports import free_port
from harness.process import STOP_TIMEOUT_S, Daemon, clean_environment, freeze
from harness.server import READY, binary

START_TIMEOUT_S = 60.0
SETTLE_TIMEOUT_S = 60.0
POLL_INTERVAL_S = 0.05
REUSE = "arrow-flight-reuse-connection"
STORE_REQUESTS = "jetbridge_store_requests_total"
STORE_BYTES = "jetbridge_store_read_bytes_total"


class Node:
    """`jetbridge coordinator` or `jetbridge worker` with a data folder of its own; starts again at the same port."""

    def __init__(
        self,
        folder: Path,
        role: str,
        args: Sequence[str | Path],
        env: Mapping[str, str] | None = None,
        *,
        port: int | None = None,
        wait: bool = True,
    ) -> None:
        self.folder, self.role, self.args, self.env = folder, role, list(args), dict(env or {})
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self.launch()
        if wait:
            self.wait_until_ready()

    def start(self) -> None:
        """Starts it, at the port that it had; returns when it is ready."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Starts it and does not wait."""
        listen = ["--flight", f"127.0.0.1:{self.port}", "--admin", "127.0.0.1:0"]
        command = [binary(), self.role, "--data-dir", self.folder / "data", *listen, *self.args]
        self.daemon = Daemon(command, self.folder / "log", clean_environment(self.env))

    def wait_until_ready(self) -> None:
        """Waits for the line that says so; kills it where that does not come."""
        try:
            ready = self.daemon.wait_for_line(READY, START_TIMEOUT_S)
        except BaseException:
            self.daemon.kill()
            raise
        self.uri, self.admin_uri = ready.group(1), ready.group(2)

    @property
    def id(self) -> str:
        """Its persisted id."""
        return str(json.loads((self.folder / "data" / "node.json").read_text())["id"])

    def connect(self) -> flight.FlightClient:
        """A new connection to it."""
        return flight.connect(self.uri)

    def kill(self) -> None:
        """kill -9."""
        self.daemon.kill()

    def stop(self) -> int:
        """SIGTERM, then its exit code."""
        return self.daemon.stop(STOP_TIMEOUT_S)

    def terminate(self) -> None:
        """SIGTERM, and does not wait."""
        self.daemon.terminate()

    def wait_until_ended(self) -> int:
        """Its exit code, after `terminate`."""
        try:
            return self.daemon.wait(STOP_TIMEOUT_S)
        finally:
            self.daemon.close()

    def freeze(self) -> None:
        """SIGSTOP."""
        freeze(self.daemon.pid)

    def thaw(self) -> None:
        """SIGCONT."""
        self.daemon.process.send_signal(signal.SIGCONT)

    def is_running(self) -> bool:
        return self.daemon.process.poll() is None

    def total(self, name: str, **labels: str) -> float:
        """A metric of it, summed."""
        return metrics.total(self.admin_uri, name, **labels)


@dataclass
class Cluster:
    """A coordinator and its workers."""

    folder: Path
    coordinator: Node
    worker_args: Sequence[str | Path] = ()
    # What every node has in its environment.
    env: Mapping[str, str] = field(default_factory=dict)
    workers: list[Node] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        folder: Path,
        mounts: Mapping[str, str],
        workers: int = 3,
        args: Sequence[str] = (),
        worker_args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> Cluster:
        """A coordinator with these mounts, and so many workers, all seated."""
        mounted = [part for path, uri in mounts.items() for part in ("--mount", f"{path}={uri}")]
        coordinator = Node(folder / "coordinator", "coordinator", [*mounted, *args], env)
        cluster = cls(folder, coordinator, worker_args, env or {})
        for _ in range(workers):
            cluster.add_worker()
        cluster.wait_for_seats(workers)
        return cluster

    def add_worker(self, *args: str, wait: bool = True) -> Node:
        """One more worker; returns when it is ready, or at once."""
        name = f"worker-{len(self.workers) + 1}"
        memory = [] if "--memory" in self.worker_args else ["--memory", "512MiB"]
        joined = ["--coordinator", self.coordinator.uri, *memory, *self.worker_args, *args]
        worker = Node(self.folder / name, "worker", joined, self.env, wait=wait)
        self.workers.append(worker)
        return worker

    @property
    def nodes(self) -> list[Node]:
        return [self.coordinator, *self.workers]

    def members(self, at: Node | None = None) -> dict[str, Any]:
        """What `cluster.members` says at the coordinator, or at another node."""
        with (at or self.coordinator).connect() as client:
            return act(client, "cluster.members", {})

    def seated(self, at: Node | None = None) -> set[str]:
        """Ids of those with a seat."""
        return {member["id"] for member in self.members(at)["members"] if member["seat"]}

    def wait_for_seats(self, seats: int, at: Node | None = None) -> None:
        """Until so many workers have seats, as a node sees it."""
        until(lambda: len(self.seated(at)) == seats, f"{seats} seats")

    def store_requests(self) -> float:
        """Requests to storage, summed over all running nodes."""
        return sum(node.total(STORE_REQUESTS) for node in self.nodes if node.is_running())

    def store_bytes(self) -> float:
        """Bytes read from storage, summed over all running nodes."""
        return sum(node.total(STORE_BYTES) for node in self.nodes if node.is_running())

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends all that still runs, the workers first."""
        for node in [*self.workers, self.coordinator]:
            if node.is_running():
                node.kill()


def until(condition: Callable[[], bool], what: str, timeout_s: float = SETTLE_TIMEOUT_S) -> float:
    """Waits for a condition; gives the seconds that it took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > timeout_s:
            raise TimeoutError(f"not within {timeout_s} s: {what}")
        time.sleep(POLL_INTERVAL_S)
    return time.monotonic() - began


@dataclass(frozen=True)
class Read:
    """One read of a dataset, and how it went."""

    table: pa.Table
    # What each endpoint was read from in the end, and how many tries failed before.
    served_by: Counter[str]
    failures: int


def info(client: flight.FlightClient, path: str, **spec: Any) -> flight.FlightInfo:
    """GetFlightInfo of a dataset or scan."""
    return client.get_flight_info(descriptor(path, **spec))


def locations(endpoint: flight.FlightEndpoint) -> list[str]:
    """The locations of an endpoint, as text."""
    return [location.uri.decode() for location in endpoint.locations]


def metadata(endpoint: flight.FlightEndpoint) -> dict[str, Any]:
    """What an endpoint says of itself."""
    return json.loads(endpoint.app_metadata)


def first_named(found: flight.FlightInfo) -> Counter[str]:
    """How many rows each first location has."""
    rows: Counter[str] = Counter()
    for endpoint in found.endpoints:
        rows[locations(endpoint)[0]] += metadata(endpoint)["rows"]
    return rows


def read(
    uri: str, path: str, timeout_s: float = 60.0, on_endpoint: Callable[[str], None] | None = None, **spec: Any
) -> Read:
    """Reads a dataset as a client does that survives a lost worker: an endpoint that fails is read anew from its next
    location; the connection that gave the endpoints stands for the last of them. A location that failed is tried last
    from then on. `on_endpoint` hears where each endpoint came from."""
    options = flight.FlightCallOptions(timeout=timeout_s)
    clients: dict[str, flight.FlightClient] = {}
    served_by: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    parts = []
    try:
        clients[REUSE] = flight.connect(uri)
        found = clients[REUSE].get_flight_info(descriptor(path, **spec), options)
        for endpoint in found.endpoints:
            for place in sorted(_places(endpoint), key=lambda place: place in failed):
                if place not in clients:
                    clients[place] = flight.connect(place)
                try:
                    parts.append(clients[place].do_get(endpoint.ticket, options).read_all())
                except (flight.FlightError, pa.ArrowException, OSError):
                    failed[place] += 1
                    continue
                served_by[uri if place == REUSE else place] += 1
                if on_endpoint:
                    on_endpoint(place)
                break
            else:
                raise AssertionError(f"no location of {_places(endpoint)} gave the rows")
    finally:
        for client in clients.values():
            client.close()
    table = pa.concat_tables(parts) if parts else found.schema.empty_table()
    return Read(table, served_by, failed.total())


def _places(endpoint: flight.FlightEndpoint) -> list[str]:
    places = locations(endpoint) or [REUSE]
    return [REUSE if place.startswith(REUSE) else place for place in places]
