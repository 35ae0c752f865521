"""Clients on the server's own host: Flight over a unix socket, rows as shared memory, and who is offered either."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from harness import files
from harness.compare import assert_same
from harness.errors import expect_error
from harness.flight import act, by_path, descriptor, drain, fetch
from harness.memory import Connection, socket_path
from harness.metrics import total
from harness.server import Server

ROWS = 300_000
MAX_CONNECTIONS = 256
WAIT_S = 30.0
# A client that reads a ticket as shared memory, says so, and waits to be killed.
READER = """
import sys
from pathlib import Path
from harness.memory import Connection
connection = Connection(Path(sys.argv[1]))
connection.get(bytes.fromhex(sys.argv[2]))
print(len(connection.mapped), flush=True)
sys.stdin.read()
"""


def asking(words: str) -> flight.FlightCallOptions:
    """The call options of a client that asks for the sockets of its host."""
    return flight.FlightCallOptions(headers=[(b"x-jetbridge-local", words.encode())])


def offered(info: flight.FlightInfo) -> tuple[list[list[str]], list[str | None]]:
    """Locations of the endpoints, and their sockets of shared memory."""
    locations = [[location.uri.decode() for location in endpoint.locations] for endpoint in info.endpoints]
    return locations, [json.loads(endpoint.app_metadata).get("memory") for endpoint in info.endpoints]


def numbers() -> pa.Table:
    """Two columns, one of them numbers that tell their row."""
    return pa.table({"n": pa.array(range(ROWS), pa.int64()), "t": pa.array([f"row {row}" for row in range(ROWS)])})


def leased_bytes(server: Server) -> float:
    return total(server.admin_uri, "jetbridge_memory_leased_bytes")


def eventually(holds: Callable[[], bool]) -> None:
    """Waits until something holds, for a bounded time."""
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def serving(start_server: Callable[..., Server], tmp_path: Path) -> Server:
    """A server in a folder with odd characters, and a table at /lake that it keeps decoded."""
    files.write(tmp_path / "lake/t.parquet", numbers())
    server = start_server("d ä%", mounts={"/lake": f"file://{tmp_path / 'lake'}"})
    for _ in range(2):
        fetch(server.client, by_path("/lake"))
    return server


def test_only_those_who_ask_are_offered_the_sockets(serving: Server) -> None:
    network = [serving.flight_uri, "arrow-flight-reuse-connection://?"]
    info = serving.client.get_flight_info(by_path("/lake"))
    assert offered(info) == ([network], [None])
    locations, memory = offered(serving.client.get_flight_info(by_path("/lake"), asking("unix, memory")))
    unix = locations[0][0]
    assert unix.startswith("grpc+unix:///")
    assert locations == [[unix, *network]]
    assert socket_path(unix) == serving.data_dir / "flight.sock"
    assert memory[0] is not None
    assert socket_path(memory[0]) == serving.data_dir / "memory.sock"
    assert offered(serving.client.get_flight_info(by_path("/lake"), asking("memory"))) == ([network], memory)
    listed = list(serving.client.list_flights(b"/lake", asking("unix")))
    assert offered(listed[0]) == ([[unix, *network]], [None])
    with expect_error("INVALID_ARGUMENT", "rdma"):
        serving.client.get_flight_info(by_path("/lake"), asking("unix,rdma"))


def test_a_client_of_another_host_is_not_offered_them(start_server: Callable[..., Server], tmp_path: Path) -> None:
    address = own_address()
    files.write(tmp_path / "lake/t.parquet", files.numbers(10))
    mounts = {"/lake": f"file://{tmp_path / 'lake'}"}
    server = start_server(mounts=mounts, flight="0.0.0.0:0", args=["--insecure"])
    port = server.flight_uri.rsplit(":", 1)[1]
    with flight.connect(f"grpc://{address}:{port}") as client:
        locations, memory = offered(client.get_flight_info(by_path("/lake"), asking("unix,memory")))
    assert memory == [None]
    assert not any("unix" in uri for uri in locations[0])


def own_address() -> str:
    """An address of this host that is not loopback; connecting a datagram socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this host has loopback only")
        return probe.getsockname()[0]


def test_pyarrow_reads_over_the_unix_socket(serving: Server) -> None:
    info = serving.client.get_flight_info(by_path("/lake"), asking("unix"))
    (endpoint,) = info.endpoints
    with flight.connect(endpoint.locations[0]) as client:
        batches, _ = drain(client.do_get(endpoint.ticket))
        assert_same(pa.Table.from_batches(batches), numbers())
        # A client of the socket is of this host, and is offered it too.
        assert offered(client.get_flight_info(by_path("/lake"), asking("unix")))[0] == offered(info)[0]


def test_rows_come_as_shared_memory(serving: Server) -> None:
    info = serving.client.get_flight_info(by_path("/lake"), asking("memory"))
    with Connection(serving.data_dir / "memory.sock") as connection:
        batches = connection.get(info.endpoints[0].ticket.ticket)
        assert {batch["source"] for batch in batches} == {"memory"}
        assert not any(batch["inline"] for batch in batches)
        values = in_place(connection, batches)
        assert values.equals(numbers()["n"])
        assert leased_bytes(serving) >= ROWS * 8
        assert total(serving.admin_uri, "jetbridge_memory_connections") == 1
        assert total(serving.admin_uri, "jetbridge_memory_sent_bytes_total", kind="shared") >= ROWS * 8
        # What is freed stays readable for those who hold it, and charged.
        act(serving.client, "cache.free", {"path": "/lake"})
        assert values.equals(numbers()["n"])
        eventually(lambda: held_bytes(serving) >= ROWS * 8)
    eventually(lambda: leased_bytes(serving) == 0)
    eventually(lambda: held_bytes(serving) == 0)
    assert values.equals(numbers()["n"])


def in_place(connection: Connection, batches: list[dict[str, Any]]) -> pa.ChunkedArray:
    """The first column, which is numbers without nulls, over the memory that it is in."""
    columns = [(batch, batch["columns"][0]) for batch in batches]
    arrays = [
        pa.Array.from_buffers(
            pa.int64(),
            column["length"],
            [None, *(pa.py_buffer(connection.buffer(batch, place)) for place in column["buffers"])],
            offset=column["offset"],
        )
        for batch, column in columns
    ]
    return pa.chunked_array(arrays)


def held_bytes(server: Server) -> float:
    """Bytes of decoded columns that the server's budget is charged with, as of the last second."""
    return total(server.admin_uri, "jetbridge_cache_held_bytes", tier="chunk")


def test_a_client_that_dies_holds_nothing(serving: Server) -> None:
    info = serving.client.get_flight_info(by_path("/lake"))
    command = [sys.executable, "-c", READER, serving.data_dir / "memory.sock", info.endpoints[0].ticket.ticket.hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        # Those of the columns, and that of the offsets with which all texts of a row group are one array.
        assert int(reader.stdout.readline()) == 3
        assert leased_bytes(serving) > 0
        reader.send_signal(signal.SIGKILL)
        reader.wait(WAIT_S)
    eventually(lambda: leased_bytes(serving) == 0)
    assert fetch(serving.client, by_path("/lake")).table.num_rows == ROWS


def test_clients_that_say_nothing_whole_are_dropped(serving: Server) -> None:
    path = serving.data_dir / "memory.sock"
    with Connection(path) as silent, Connection(path) as halting, Connection(path) as idle:
        halting.socket.sendall(b"\x05\x00")
        idle.say(release=[])
        begun = time.monotonic()
        for dropped in (silent, halting):
            with pytest.raises((EOFError, ConnectionError)):
                dropped.hear()
        assert 8 < time.monotonic() - begun < WAIT_S
        info = serving.client.get_flight_info(by_path("/lake"))
        assert sum(batch["rows"] for batch in idle.get(info.endpoints[0].ticket.ticket)) == ROWS


def test_further_connections_wait(serving: Server) -> None:
    path = serving.data_dir / "memory.sock"
    with contextlib.ExitStack() as others, Connection(path) as first:
        first.say(release=[])
        for _ in range(MAX_CONNECTIONS - 1):
            others.enter_context(Connection(path)).say(release=[])
        eventually(lambda: total(serving.admin_uri, "jetbridge_memory_connections") == MAX_CONNECTIONS)
        one_more = others.enter_context(Connection(path))
        one_more.say(get={"ticket": ""})
        one_more.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            one_more.hear()
        first.socket.close()
        one_more.socket.settimeout(WAIT_S)
        assert one_more.hear().said["code_name"] == "UNAUTHENTICATED"


def test_streams_have_the_limits_of_the_settings(start_server: Callable[..., Server], tmp_path: Path) -> None:
    """`max_streams` counts those of shared memory, and a client that takes nothing is cut after `stall_timeout`."""
    files.write(tmp_path / "lake/t.parquet", numbers())
    args = ["--max-streams", "1", "--stall-timeout", "5s"]
    server = start_server(mounts={"/lake": f"file://{tmp_path / 'lake'}"}, args=args)
    # Rows that a filter leaves are sent as bytes, more of them than the socket holds.
    (endpoint,) = server.client.get_flight_info(descriptor("/lake", filter="n % 2 = 0")).endpoints
    ticket = endpoint.ticket
    asked = {"ticket": base64.b64encode(ticket.ticket).decode()}
    path = server.data_dir / "memory.sock"
    with Connection(path) as idle, Connection(path) as other:
        idle.say(get=asked)
        assert idle.hear().kind == "schema"
        other.say(get=asked)
        refused = other.hear()
        assert (refused.kind, refused.said["code_name"]) == ("error", "UNAVAILABLE")
        assert "max_streams" in refused.said["message"]
        with expect_error("UNAVAILABLE", "max_streams"):
            drain(server.client.do_get(ticket))
        eventually(lambda: total(server.admin_uri, "jetbridge_memory_streams") == 0)
        assert sum(batch["rows"] for batch in other.get(ticket.ticket)) == ROWS / 2


def test_sockets_are_private_and_go_with_the_server(serving: Server) -> None:
    sockets = [serving.data_dir / name for name in ("flight.sock", "memory.sock")]
    for path in sockets:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with Connection(sockets[1]) as idle:
        idle.say(release=[])
        assert serving.stop() == 0
        assert not any(path.exists() for path in sockets)
        with pytest.raises((EOFError, ConnectionError)):
            idle.hear()


def test_sockets_of_a_dead_server_are_replaced(start_server: Callable[..., Server], tmp_path: Path) -> None:
    files.write(tmp_path / "lake/t.parquet", files.numbers(10))
    mounts = {"/lake": f"file://{tmp_path / 'lake'}"}
    start_server(mounts=mounts).daemon.kill()
    server = start_server(mounts=mounts)
    with flight.connect(f"grpc+unix://{server.data_dir / 'flight.sock'}") as client:
        assert fetch(client, by_path("/lake")).table.num_rows == 10


@pytest.mark.parametrize("why", ["too long", "switched off"])
def test_without_sockets_nothing_is_offered(start_server: Callable[..., Server], tmp_path: Path, why: str) -> None:
    files.write(tmp_path / "lake/t.parquet", files.numbers(10))
    name, args = ("x" * 110, []) if why == "too long" else ("data", ["--local-sockets=false"])
    server = start_server(name, mounts={"/lake": f"file://{tmp_path / 'lake'}"}, args=args)
    locations, memory = offered(server.client.get_flight_info(by_path("/lake"), asking("unix,memory")))
    assert memory == [None]
    assert not any("unix" in uri for uri in locations[0])
    assert not any(entry.endswith(".sock") for entry in os.listdir(server.data_dir))
    assert ("107 bytes" in server.log) == (why == "too long")
