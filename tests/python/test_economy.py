"""What reads cost storage: every byte asked for once, however many read, and little that nobody asked for."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import files, tpch
from harness.counting import CountingStore, Fault, Get, overlapping
from harness.errors import expect_error
from harness.flight import Answer, act, by_path, by_scan, fetch, mount, plan
from harness.metrics import total
from harness.server import Server

READERS = 100
FILES = 4
GROUPS_A_FILE = 4
ROWS_A_GROUP = 24_576
COLUMNS = ("a", "b", "c")
CHUNKS = FILES * GROUPS_A_FILE * len(COLUMNS)
POLL_INTERVAL_S = 0.02
POLL_TIMEOUT_S = 60.0

# TPC-H at scale 1 has the same row groups, only more of them.
SCALE_FACTOR = 0.25
MOST_ASKED_OF_ALL = 1.05
MOST_ASKED_OF_TWO_COLUMNS = 1.3
PAIRS = [
    ("l_orderkey", "l_comment"),
    ("l_partkey", "l_extendedprice"),
    ("l_extendedprice", "l_comment"),
    ("l_orderkey", "l_partkey"),
    ("l_quantity", "l_extendedprice"),
    ("l_shipdate", "l_receiptdate"),
    ("l_discount", "l_tax"),
    ("l_returnflag", "l_linestatus"),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    """A folder of several files of several row groups that do not compress, and its rows."""
    folder, rng = tmp_path_factory.mktemp("counted"), np.random.default_rng(7)
    rows = GROUPS_A_FILE * ROWS_A_GROUP
    tables = [pa.table({name: rng.integers(0, 2**62, rows) for name in COLUMNS}) for _ in range(FILES)]
    for number, table in enumerate(tables):
        files.write(folder / f"{number}.parquet", table, row_group_size=ROWS_A_GROUP, use_dictionary=False)
    return folder, pa.concat_tables(tables)


@pytest.fixture
def store(dataset: tuple[Path, pa.Table]) -> Iterator[CountingStore]:
    with CountingStore(dataset[0]) as running:
        yield running


@pytest.fixture(scope="module")
def lineitem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tpch.lineitem(tmp_path_factory.mktemp("tpch"), SCALE_FACTOR)


def mounted(server: Server, store: CountingStore) -> Server:
    """The server with the store at /c and all that planning needs read already; the store counts from then on."""
    mount(server.client, "/c", store.uri, **store.options)
    plan(server.client, "/c")
    store.forget()
    return server


def read_by(server: Server, readers: int) -> list[Answer]:
    """What so many readers at once get, each with a connection of its own."""

    def one(_: int) -> Answer:
        with server.connect() as client:
            return fetch(client, by_path("/c"))

    with ThreadPoolExecutor(readers) as pool:
        return list(pool.map(one, range(readers)))


def wait_until(server: Server, name: str, holds: Callable[[float], bool], **labels: str) -> None:
    """Until a metric is as wanted; fails where it never is."""
    deadline = time.monotonic() + POLL_TIMEOUT_S
    while not holds(value := total(server.admin_uri, name, **labels)):
        assert time.monotonic() < deadline, f"{name} {labels} is still {value}"
        time.sleep(POLL_INTERVAL_S)


def asked_once(gets: Sequence[Get]) -> None:
    """No two GETs asked for the same byte, and there were some."""
    assert gets
    assert not overlapping(gets)


def chunk_loads(server: Server) -> float:
    """How many column chunks were decoded so far."""
    missed = total(server.admin_uri, "jetbridge_cache_misses_total", tier="chunk")
    return missed - total(server.admin_uri, "jetbridge_cache_coalesced_total", tier="chunk")


def test_a_hundred_cold_readers_cost_as_much_as_one(
    start_server: Callable[..., Server], store: CountingStore, dataset: tuple[Path, pa.Table]
) -> None:
    alone = mounted(start_server("alone"), store)
    assert read_by(alone, 1)[0].table.equals(dataset[1])
    of_one = store.gets
    asked_once(of_one)
    many = mounted(start_server("many"), store)
    with store.held_back(), ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_by, many, READERS)
        # Nothing comes before some wait for what others began to load, so that they do however slow the machine is.
        wait_until(many, "jetbridge_cache_coalesced_total", lambda waiting: waiting > CHUNKS, tier="chunk")
        store.open_gate()
        answers = reading.result()
    assert all(answer.table.equals(dataset[1]) for answer in answers)
    asked_once(store.gets)
    assert len(store.gets) == len(of_one)
    assert store.asked_bytes == sum(get.length_bytes for get in of_one)
    # Once for the reader that came first, once more for all others: the second touch is kept.
    assert CHUNKS <= chunk_loads(many) <= 2 * CHUNKS


def test_readers_that_come_together_decode_once(
    start_server: Callable[..., Server], store: CountingStore, dataset: tuple[Path, pa.Table]
) -> None:
    server = mounted(start_server(), store)
    read_by(server, 1)
    loads, asked = chunk_loads(server), len(store.gets)
    answers = read_by(server, READERS)
    assert all(answer.table.equals(dataset[1]) for answer in answers)
    assert chunk_loads(server) - loads == CHUNKS
    assert len(store.gets) == asked
    assert all(answer.sources == {"memory"} for answer in read_by(server, 2))


def test_a_load_outlives_the_reader_that_began_it(
    start_server: Callable[..., Server], store: CountingStore, dataset: tuple[Path, pa.Table]
) -> None:
    server = mounted(start_server(), store)
    with store.held_back(), ThreadPoolExecutor(READERS) as pool:
        first = server.connect()
        reader = first.do_get(plan(server.client, "/c").endpoints[0].ticket)
        store.wait_for_gets(1)
        reader.cancel()
        first.close()
        wait_until(server, "jetbridge_flight_streams", lambda streams: streams == 0)
        begun = len(store.gets)
        others = pool.submit(read_by, server, READERS)
        wait_until(server, "jetbridge_flight_streams", lambda streams: streams == READERS)
        assert not any(get.sent_bytes for get in store.gets)
        store.open_gate()
        answers = others.result()
    assert begun > 0
    assert all(answer.table.equals(dataset[1]) for answer in answers)
    assert total(server.admin_uri, "jetbridge_cache_coalesced_total", tier="page") > 0
    asked_once(store.gets)


def test_readers_of_other_columns_ask_for_no_byte_again(
    start_server: Callable[..., Server], store: CountingStore, dataset: tuple[Path, pa.Table]
) -> None:
    server = mounted(start_server(), store)
    # What lies between the columns of the first is what the second wants.
    wanted = [["a", "c"], ["b"]]
    with ThreadPoolExecutor(len(wanted)) as pool, store.held_back():
        asked = []
        for number, columns in enumerate(wanted):
            asked.append(pool.submit(fetch, server.connect(), by_scan("/c", columns=columns)))
            wait_until(server, "jetbridge_flight_streams", lambda streams, now=number + 1: streams == now)
            store.wait_for_gets(FILES * GROUPS_A_FILE)
        store.open_gate()
        answers = [one.result() for one in asked]
    for columns, answer in zip(wanted, answers, strict=True):
        assert answer.table.equals(dataset[1].select(columns))
    asked_once(store.gets)


def test_a_body_that_is_cut_is_resumed_where_it_broke(
    start_server: Callable[..., Server], store: CountingStore, dataset: tuple[Path, pa.Table]
) -> None:
    server = mounted(start_server(), store)
    store.fail_next(Fault(cut_bytes=100_000), Fault(cut_bytes=0))
    assert all(answer.table.equals(dataset[1]) for answer in read_by(server, 10))
    assert store.faults_left == 0
    cut, other = store.gets[:2]
    assert (cut.sent_bytes, other.sent_bytes) == (100_000, 0)
    resumed = [get.start for get in store.gets[2:] if (get.key, get.end) == (cut.key, cut.end)]
    assert resumed == [cut.start + 100_000]
    assert sum(get.sent_bytes for get in store.gets) == len_of(store.gets)


def len_of(gets: Sequence[Get]) -> int:
    """How many different bytes were asked for."""
    spans = sorted({(get.key, get.start, get.end) for get in gets})
    length, key_before, end_before = 0, "", 0
    for key, start, end in spans:
        begin = max(start, end_before) if key == key_before else start
        length += max(0, end - begin)
        key_before, end_before = key, max(end, begin)
    return length


def test_silence_and_refusals_are_tried_again_for_all_who_wait(
    start_server: Callable[..., Server], store: CountingStore, dataset: tuple[Path, pa.Table]
) -> None:
    server = mounted(start_server(args=["--store-request-timeout", "2s"]), store)
    store.fail_next(Fault(hang=True), Fault(status=503), Fault(status=500))
    assert all(answer.table.equals(dataset[1]) for answer in read_by(server, 10))
    assert store.faults_left == 0
    assert len([get for get in store.gets if get.status in (500, 503)]) == 2


def test_an_error_reaches_all_who_wait_and_nobody_later(
    start_server: Callable[..., Server], store: CountingStore, dataset: tuple[Path, pa.Table]
) -> None:
    server = mounted(start_server(), store)
    tickets = [endpoint.ticket for endpoint in plan(server.client, "/c").endpoints]

    def refused(_: int) -> None:
        with server.connect() as client, expect_error("PERMISSION_DENIED"):
            client.do_get(tickets[0]).read_all()

    with ThreadPoolExecutor(10) as pool, store.held_back():
        store.fail_next(*[Fault(status=403)] * 100)
        failing = [pool.submit(refused, number) for number in range(10)]
        wait_until(server, "jetbridge_flight_streams", lambda streams: streams == 10)
        begun = len(store.gets)
        store.open_gate()
        for one in failing:
            one.result()
    assert begun <= len(store.gets) < 10 * FILES * GROUPS_A_FILE
    store.heal()
    store.forget()
    assert read_by(server, 1)[0].table.equals(dataset[1])
    asked_once(store.gets)


def test_a_cold_full_scan_asks_for_little_more_than_the_files(
    start_server: Callable[..., Server], lineitem: Path
) -> None:
    with CountingStore(lineitem) as store:
        server = start_server()
        mount(server.client, "/c", store.uri, **store.options)
        store.forget()
        answer = fetch(server.client, by_path("/c"))
        size = sum(path.stat().st_size for path in lineitem.iterdir())
        assert answer.rows == sum(pq.ParquetFile(path).metadata.num_rows for path in lineitem.iterdir())
        share = store.asked_bytes / size
        print(f"asked for {share:.4f} of {size} bytes, {len(store.gets)} GETs")
        assert 1 <= share <= MOST_ASKED_OF_ALL
        assert store.asked_bytes == total(server.admin_uri, "jetbridge_cache_read_bytes_total", source="store")


def columns_bytes(folder: Path, columns: Sequence[str]) -> int:
    """Compressed bytes of these columns in all files of a folder."""
    needed = 0
    for path in folder.iterdir():
        metadata = pq.ParquetFile(path).metadata
        for group, column in itertools.product(range(metadata.num_row_groups), range(metadata.num_columns)):
            chunk = metadata.row_group(group).column(column)
            needed += chunk.total_compressed_size if chunk.path_in_schema in columns else 0
    assert needed
    return needed


def share_asked(server: Server, store: CountingStore, folder: Path, columns: Sequence[str]) -> float:
    """What a cold read of these columns asks for, footers included, as a part of their bytes."""
    act(server.client, "cache.free", {"path": "/"})
    act(server.client, "dataset.refresh", {"path": "/c"})
    store.forget()
    answer = fetch(server.client, by_scan("/c", columns=list(columns)))
    assert answer.sources == {"store"}
    asked_once(store.gets)
    return store.asked_bytes / columns_bytes(folder, columns)


@pytest.mark.parametrize("columns", PAIRS, ids="+".join)
def test_two_columns_ask_for_little_more_than_they_are(
    start_server: Callable[..., Server], lineitem: Path, columns: tuple[str, str]
) -> None:
    with CountingStore(lineitem) as store:
        share = share_asked(mounted(start_server(), store), store, lineitem, columns)
    print(f"{'+'.join(columns)}: asked for {share:.2f} of their bytes")
    assert 1 <= share <= MOST_ASKED_OF_TWO_COLUMNS
