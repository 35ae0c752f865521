"""Shared memory: the rows that DoGet gives, in place; what a client holds stays valid, and goes with its connection."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from conftest import Lake
from harness import files
from harness.compare import assert_same
from harness.flight import act, by_path, fetch, plan, splits
from harness.matrix import ALL_TYPES, ROW_GROUP_ROWS, matrix_table
from harness.metrics import total
from harness.server import Server
from harness.shared_memory import LENGTHS, MemoryRefusedError, Shared, SharedMemory, plan_local, read_shared

ALIGNMENT_BYTES = 64
# At once, with room for a busy machine.
GONE_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 30.0
ROWS = 200_000
GROUP_ROWS = 50_000
# As often as it takes for columns to be kept.
WARM_READS = 3
GARBAGE_SEED = 1
GARBAGE_TRIES = 50


@pytest.mark.parametrize("name", ALL_TYPES)
def test_every_type_is_what_do_get_gives(lake: Lake, name: str) -> None:
    lake.write("t.parquet", matrix_table(ALL_TYPES[name]), row_group_size=ROW_GROUP_ROWS)
    for _ in range(WARM_READS):
        same_as_do_get(lake, "t.parquet")


@pytest.mark.parametrize("name", ["dictionary_string", "list_of_text", "struct", "map", "bool", "string_view"])
def test_types_in_large_chunks(lake: Lake, name: str) -> None:
    table = pa.concat_tables([matrix_table(ALL_TYPES[name])] * (ROWS // 1_000))
    lake.write("t.parquet", table, row_group_size=GROUP_ROWS)
    for _ in range(WARM_READS):
        shared, segments = same_as_do_get(lake, "t.parquet")
    assert segments, "nothing was shared"
    shared.table.validate(full=True)


def test_rows_without_columns_and_files_without_rows(lake: Lake) -> None:
    lake.write("some.parquet", files.numbers(10))
    lake.write("none.parquet", files.numbers(0))
    same_as_do_get(lake, "none.parquet")
    with shared_read(lake, "some.parquet", columns=[]) as (shared, _):
        assert sum(batch.num_rows for batch in shared.batches) == 10


def test_filters_limits_and_projections(lake: Lake) -> None:
    lake.write("t.parquet", large(), row_group_size=GROUP_ROWS)
    same_as_do_get(lake, "t.parquet", filter="n % 3 = 0", columns=["text", "n"])
    same_as_do_get(lake, "t.parquet", limit=GROUP_ROWS + 7, ordered=True)


def test_only_who_asks_is_offered_it(lake: Lake) -> None:
    lake.write("t.parquet", files.numbers(3))
    assert all("memory" not in split for split in splits(plan(lake.client, lake.at("t.parquet"))))
    assert plan_local(lake.client, by_path(lake.at("t.parquet")))[1].startswith("unix://")


def test_valid_after_the_cache_lets_go(lake: Lake) -> None:
    expected = warm(lake)
    with shared_read(lake, "t.parquet") as (shared, connection):
        assert connection.segments
        act(lake.client, "cache.free", {"path": lake.path})
        assert_same(shared.table, expected)
        connection.release(list(connection.segments))
        assert_same(shared.table, expected)
    assert_same(shared.table, expected)


def test_valid_after_the_server_was_killed(start_server: Callable[..., Server], tmp_path: Path) -> None:
    expected = files.write(tmp_path / "lake/t.parquet", large(), row_group_size=GROUP_ROWS)
    server = start_server(mounts={"/lake": f"file://{tmp_path / 'lake'}"})
    for _ in range(WARM_READS):
        fetch(server.client, by_path("/lake"))
    info, uri = plan_local(server.client, by_path("/lake"))
    with SharedMemory(uri) as connection:
        shared = read_shared(connection, info)
        assert connection.segments
        server.daemon.kill()
        assert_same(shared.table, expected)


def test_leases_go_with_the_connection(lake: Lake) -> None:
    warm(lake)
    with shared_read(lake, "t.parquet") as (_, connection):
        assert leased_bytes(lake) >= sum(connection.segments.values()) > 0
    wait_until_let_go(lake)


def test_leases_go_when_released(lake: Lake) -> None:
    expected = warm(lake)
    with shared_read(lake, "t.parquet") as (_, connection):
        connection.release(list(connection.segments))
        wait_until_let_go(lake)
        # What was released is sent anew.
        info, _ = plan_local(lake.client, by_path(lake.at("t.parquet")))
        assert_same(read_shared(connection, info).table, expected)
        assert connection.segments


def test_a_killed_client_leaves_no_lease(lake: Lake) -> None:
    warm(lake)
    info, uri = plan_local(lake.client, by_path(lake.at("t.parquet")))
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    tickets = [endpoint.ticket.ticket for endpoint in info.endpoints]
    process = context.Process(target=hold, args=(uri, tickets, theirs), daemon=True)
    process.start()
    assert ours.poll(ANSWER_TIMEOUT_S * 3), "the client came to nothing"
    assert leased_bytes(lake) >= ours.recv() > 0
    process.kill()
    process.join()
    wait_until_let_go(lake)


def test_many_clients_at_once(lake: Lake) -> None:
    expected = warm(lake)
    failures: list[BaseException] = []

    def one() -> None:
        try:
            with shared_read(lake, "t.parquet") as (shared, _):
                assert_same(shared.table, expected)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=one) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    wait_until_let_go(lake)


@pytest.mark.parametrize("ticket", [b"", b"no ticket", b"\0" * 1_000])
def test_tickets_that_are_none(lake: Lake, ticket: bytes) -> None:
    expected = warm(lake)
    info, uri = plan_local(lake.client, by_path(lake.at("t.parquet")))
    with SharedMemory(uri) as connection:
        with pytest.raises(MemoryRefusedError) as refused:
            connection.read(ticket)
        assert refused.value.code_name in ("UNAUTHENTICATED", "INVALID_ARGUMENT")
        # The connection is none the worse for it.
        assert_same(read_shared(connection, info).table, expected)


@pytest.mark.parametrize(
    "sent",
    [
        LENGTHS.pack(0xFFFF_FFFF, 0),
        LENGTHS.pack(2, 0xFFFF_FFFF) + b"{}",
        LENGTHS.pack(2, 0) + b"{}",
        LENGTHS.pack(2, 0) + b"[]",
        LENGTHS.pack(0, 0),
        LENGTHS.pack(12, 0) + b'{"fetch": 1}',
        LENGTHS.pack(10, 0) + b'{"get": 1}',
        LENGTHS.pack(14, 0) + b'{"release": 1}',
        LENGTHS.pack(19, 0) + b'{"release": [9, 9]}',
        LENGTHS.pack(200_000, 0) + b'{"get":' * 25_000,
        LENGTHS.pack(100, 0) + b"half a fr",
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=lambda sent: repr(sent[:24]),
)
def test_garbage_frames(lake: Lake, sent: bytes) -> None:
    warm(lake)
    offend(lake, sent)
    same_as_do_get(lake, "t.parquet")


def test_random_bytes(lake: Lake) -> None:
    warm(lake)
    rng = random.Random(GARBAGE_SEED)
    for _ in range(GARBAGE_TRIES):
        header = rng.randbytes(rng.randint(0, 60))
        offend(lake, LENGTHS.pack(len(header), 0) + header if rng.random() < 0.5 else header)
    same_as_do_get(lake, "t.parquet")
    wait_until_let_go(lake)


def test_clients_that_go_within_an_answer(lake: Lake) -> None:
    warm(lake)
    info, uri = plan_local(lake.client, by_path(lake.at("t.parquet")))
    cut = 0
    for received_bytes in (0, 1, 8, 100, 1_000, 5_000):
        with SharedMemory(uri) as connection:
            connection.ask(info.endpoints[0].ticket.ticket)
            cut += len(connection.socket.recv(received_bytes)) if received_bytes else 1
    assert cut > 1
    wait_until_let_go(lake)
    same_as_do_get(lake, "t.parquet")


def test_a_client_that_passes_descriptors(lake: Lake) -> None:
    """The server wants none; those that come must not stay open in it."""
    warm(lake)
    _, uri = plan_local(lake.client, by_path(lake.at("t.parquet")))
    descriptors = Path(f"/proc/{lake.server.daemon.pid}/fd")
    with SharedMemory(uri) as connection, Path("/dev/null").open() as passed:
        before = len(list(descriptors.iterdir()))
        for _ in range(20):
            socket.send_fds(connection.socket, [LENGTHS.pack(14, 0) + b'{"release":[]}'], [passed.fileno()] * 10)
        time.sleep(0.2)
        assert len(list(descriptors.iterdir())) < before + 100
    same_as_do_get(lake, "t.parquet")


def large() -> pa.Table:
    """What fills memory files: as lineitem has it, numbers, decimals, dates, texts and flags, with nulls in some."""
    random_numbers = np.random.default_rng(1).integers(0, 10_000, ROWS)
    some = pa.array(random_numbers, mask=random_numbers % 7 == 0)
    return pa.table(
        {
            "n": np.arange(ROWS),
            "some": some,
            "price": some.cast(pa.int32()).cast(pa.decimal128(15, 2)),
            "day": some.cast(pa.int32()).cast(pa.date32()),
            "text": pa.array([f"row {number}" for number in random_numbers]),
            "view": pa.array(
                [f"a text that is too long for a view {number}" for number in random_numbers], pa.string_view()
            ),
            "flag": pa.array(random_numbers % 2 == 0),
        }
    )


def warm(lake: Lake) -> pa.Table:
    """A file whose columns are kept; its rows."""
    table = lake.write("t.parquet", large(), row_group_size=GROUP_ROWS)
    for _ in range(WARM_READS):
        lake.read("t.parquet")
    return table


@contextlib.contextmanager
def shared_read(lake: Lake, name: str, **spec: object) -> Iterator[tuple[Shared, SharedMemory]]:
    """The rows of a file, and the connection that they came by."""
    asked = by_path(lake.at(name)) if not spec else plan(lake.client, lake.at(name), **spec).descriptor
    info, uri = plan_local(lake.client, asked)
    with SharedMemory(uri) as connection:
        yield read_shared(connection, info), connection


def same_as_do_get(lake: Lake, name: str, **spec: object) -> tuple[Shared, dict[int, int]]:
    """Equal rows by either way, at aligned addresses; what was shared."""
    expected = lake.read(name, **spec)
    with shared_read(lake, name, **spec) as (shared, connection):
        assert_same(shared.table, expected)
        assert_aligned(shared.batches)
        return shared, connection.segments


def assert_aligned(batches: list[pa.RecordBatch]) -> None:
    """Every buffer that has bytes lies at a multiple of 64."""
    columns = [column for batch in batches for column in batch.columns]
    buffers = [buffer for column in columns for buffer in column.buffers() if buffer is not None and buffer.size]
    wrong = [buffer.address for buffer in buffers if buffer.address % ALIGNMENT_BYTES]
    assert not wrong, f"{len(wrong)} of {len(buffers)} buffers, such as {wrong[0]:#x}"


def leased_bytes(lake: Lake) -> float:
    return total(lake.server.admin_uri, "jetbridge_memory_leased_bytes")


def wait_until_let_go(lake: Lake) -> None:
    """Until no lease is left; fails where that takes longer than promised."""
    deadline_s = time.monotonic() + GONE_TIMEOUT_S
    while left := leased_bytes(lake):
        assert time.monotonic() < deadline_s, f"{left} bytes are leased after {GONE_TIMEOUT_S} s"
        time.sleep(0.01)


def hold(uri: str, tickets: list[bytes], told: Connection) -> None:
    """A client that holds what it got until it is killed."""
    connection = SharedMemory(uri)
    held = [connection.read(ticket) for ticket in tickets]
    told.send(sum(connection.segments.values()) if held else 0)
    time.sleep(60)


def offend(lake: Lake, sent: bytes) -> None:
    """Sends bytes, then no more, and reads what comes: an error frame or nothing, then the end."""
    _, uri = plan_local(lake.client, by_path(lake.at("t.parquet")))
    with SharedMemory(uri) as connection:
        connection.socket.settimeout(ANSWER_TIMEOUT_S)
        with contextlib.suppress(ConnectionError, MemoryRefusedError, BrokenPipeError):
            connection.socket.sendall(sent)
            connection.socket.shutdown(socket.SHUT_WR)
            said, _ = connection.frame()
            raise AssertionError(f"an answer to nonsense: {said}")
