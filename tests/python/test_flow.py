"""A client that does not take what it asked for costs little, for a bounded time, and nobody else's reads."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight
import pytest

from harness import files, wire
from harness.errors import expect_error
from harness.flight import chunks, drain, plan, read
from harness.metrics import total
from harness.server import Server

# Far more than windows of HTTP/2, buffers of sockets and the client's own take in.
ROWS = 12_000_000
GROUP_ROWS = 500_000
# Much longer than the server takes to publish what is held: after half of it, the scan gives back what it has.
STALL_S = 6.0
# Where nothing that takes time is to be seen meanwhile.
SHORT_STALL_S = 2.0
WAIT_S = 60.0


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    """A folder with one file of two columns of random numbers, 192 MB when decoded, and what it holds."""
    random = np.random.default_rng(7)
    table = pa.table({"n": random.integers(0, 1 << 60, ROWS), "x": random.random(ROWS)})
    folder = tmp_path_factory.mktemp("numbers")
    files.write(folder / "n.parquet", table, row_group_size=GROUP_ROWS, compression="none", use_dictionary=False)
    return folder, table


def held(server: Server) -> tuple[float, float]:
    """Streams that are open, and bytes of the budget that scans hold."""
    admin = server.admin_uri
    return (
        total(admin, "jetbridge_flight_streams"),
        total(admin, "jetbridge_cache_budget_used_bytes", purpose="scans"),
    )


def wait_until(seen: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> float:
    """Waits for a condition; how long that took."""
    began = time.monotonic()
    while not seen():
        assert time.monotonic() - began < timeout_s, f"still not after {timeout_s} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - began


def test_a_stalled_client_is_let_go_of(start_server: Callable[..., Server], numbers: tuple[Path, pa.Table]) -> None:
    server = start_server(mounts={"/n": f"file://{numbers[0]}"}, args=["--stall-timeout", f"{STALL_S}s"])
    ticket = plan(server.client, "/n").endpoints[0].ticket
    with closing(server.connect()) as idle:
        reader = idle.do_get(ticket)
        assert reader.read_chunk().data.num_rows > 0
        wait_until(lambda: held(server)[1] > 0, "the scan holds memory")
        wait_until(lambda: held(server) == (0, 0), "everything is given back")
        assert total(server.admin_uri, "jetbridge_flight_streams_stalled_total") == 1
        # Nobody is told that the end has come who has not read to the end.
        with pytest.raises(flight.FlightError) as caught:
            list(chunks(reader))
        assert isinstance(caught.value, flight.FlightUnavailableError)
    assert read(server.client, "/n", columns=["n"], limit=10).num_rows == 10


def test_a_client_that_comes_back_gets_every_row(
    start_server: Callable[..., Server], numbers: tuple[Path, pa.Table]
) -> None:
    server = start_server(mounts={"/n": f"file://{numbers[0]}"}, args=["--stall-timeout", "14s"])
    admin = server.admin_uri
    reader = server.client.do_get(plan(server.client, "/n").endpoints[0].ticket)
    batches = [reader.read_chunk().data]
    for pauses in (1, 2):
        # Half of the stall timeout after the last byte left.
        wait_until(lambda n=pauses: total(admin, "jetbridge_flight_streams_paused_total") == n, "the scan is paused")
        wait_until(lambda: held(server)[1] < 2**23, "what it held is given back")
        batches += [reader.read_chunk().data for _ in range(20)]
    batches += drained(reader)
    table = pa.Table.from_batches(batches)
    assert table.equals(numbers[1].slice(0, table.num_rows).cast(table.schema))
    assert table.num_rows > ROWS / 2


def test_a_client_of_raw_that_comes_back_gets_every_row(
    start_server: Callable[..., Server], numbers: tuple[Path, pa.Table]
) -> None:
    server = start_server(mounts={"/n": f"file://{numbers[0]}"}, args=["--stall-timeout", "14s"])
    client, told = wire.connect(server.flight_uri)
    with closing(client):
        reader = client.do_get(plan(client, "/n").endpoints[0].ticket, wire.asking("raw"))
        schema, groups = wire.raw_schema(reader.schema), wire.raw_files(reader)
        assert schema is not None
        assert told.forms == ["raw"]
        tables = [wire.rows_of(*next(groups), schema)]
        # A row group has 8 MiB: one or two are the transport's, and more are read ahead of them.
        wait_until(lambda: held(server)[1] > 40 << 20, "row groups are read ahead")
        paused = "jetbridge_flight_streams_paused_total"
        wait_until(lambda: total(server.admin_uri, paused) == 1, "the scan is paused")
        wait_until(lambda: held(server)[1] < 24 << 20, "what was read ahead is given back")
        tables += [wire.rows_of(file, said, schema) for file, said in groups]
    table = pa.concat_tables(tables)
    assert table.equals(numbers[1].slice(0, table.num_rows).cast(table.schema))
    assert table.num_rows > ROWS / 2


def drained(reader: flight.FlightStreamReader) -> list[pa.RecordBatch]:
    """What is left of a stream."""
    return [chunk.data for chunk in chunks(reader)]


def test_a_slow_client_is_served_to_the_end(
    start_server: Callable[..., Server], numbers: tuple[Path, pa.Table]
) -> None:
    server = start_server(mounts={"/n": f"file://{numbers[0]}"}, args=["--stall-timeout", f"{STALL_S}s"])
    info = plan(server.client, "/n")
    rows, began = 0, time.monotonic()
    for chunk in chunks(server.client.do_get(info.endpoints[0].ticket)):
        rows += chunk.data.num_rows
        # Slower than the stall timeout in all, faster at each step.
        if time.monotonic() - began < 1.5 * STALL_S:
            time.sleep(STALL_S / 20)
    assert time.monotonic() - began > 1.2 * STALL_S
    assert rows > 0
    assert total(server.admin_uri, "jetbridge_flight_streams_stalled_total") == 0


def test_what_one_stalled_stream_of_a_connection_waits_for_does_not_stop_the_others(
    start_server: Callable[..., Server], numbers: tuple[Path, pa.Table]
) -> None:
    server = start_server(mounts={"/n": f"file://{numbers[0]}"}, args=["--stall-timeout", f"{SHORT_STALL_S}s"])
    ticket = plan(server.client, "/n", columns=["n"]).endpoints[0].ticket
    stalled = server.client.do_get(ticket)
    stalled.read_chunk()
    began, read_streams = time.monotonic(), 0
    # A client widens its windows while other streams are large, and would take all of this one in the end.
    small = plan(server.client, "/n", columns=["n"], limit=GROUP_ROWS).endpoints[0].ticket
    while not total(server.admin_uri, "jetbridge_flight_streams_stalled_total"):
        assert time.monotonic() - began < WAIT_S, "the stream is not seen to stall"
        batches, _ = drain(server.client.do_get(small))
        assert sum(batch.num_rows for batch in batches) > 0
        read_streams += 1
    assert read_streams > 0
    assert drain(server.client.do_get(ticket))[0], "the connection goes on"
    del stalled


def test_streams_beyond_the_limit_are_refused_and_may_be_tried_again(
    start_server: Callable[..., Server], numbers: tuple[Path, pa.Table]
) -> None:
    server = start_server(mounts={"/n": f"file://{numbers[0]}"}, args=["--max-streams", "2"])
    ticket = plan(server.client, "/n").endpoints[0].ticket
    open_streams = [server.client.do_get(ticket) for _ in range(2)]
    for stream in open_streams:
        stream.read_chunk()
    with expect_error("UNAVAILABLE", "max_streams"):
        server.client.do_get(ticket).read_all()
    for stream in open_streams:
        stream.cancel()
    wait_until(lambda: held(server)[0] == 0, "the cancelled streams are gone")
    assert server.client.do_get(ticket).read_all().num_rows > 0


def test_a_deadline_ends_the_stream(start_server: Callable[..., Server], numbers: tuple[Path, pa.Table]) -> None:
    server = start_server(mounts={"/n": f"file://{numbers[0]}"})
    ticket = plan(server.client, "/n").endpoints[0].ticket
    reader = server.client.do_get(ticket, flight.FlightCallOptions(timeout=4.0))
    reader.read_chunk()
    time.sleep(4.1)
    with pytest.raises(flight.FlightTimedOutError):
        list(chunks(reader))
    wait_until(lambda: held(server) == (0, 0), "everything is given back")
