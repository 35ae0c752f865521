"""Every wire form gives the same rows; the answer says which form it has, and what cannot be sent raw is sent plain."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq
import pytest

from conftest import Lake
from harness import files, types, wire
from harness.compare import assert_same
from harness.errors import expect_error
from harness.flight import act, chunks, drain, mount, plan, read
from harness.flightsql import query
from harness.metrics import total
from harness.server import Server
from harness.values import array_of

ROWS = 300
ROW_GROUP_ROWS = 110
ALL_TYPES = {**types.plain_types(), **types.nested_types()}
SMALL_LIMIT_BYTES = 64 << 10
RECEIVE_LIMIT = "grpc.max_receive_message_length"
FREED_WITHIN_S = 60.0
POLL_INTERVAL_S = 0.1


@pytest.fixture
def listener(server: Server) -> Iterator[tuple[flight.FlightClient, wire.Told]]:
    """A client that keeps what it is told of forms."""
    client, told = wire.connect(server.flight_uri)
    with client:
        yield client, told


Listener = tuple[flight.FlightClient, wire.Told]


def read_as(listener: Listener, path: str, form: str, limit_bytes: int | None = None, **spec: object) -> pa.Table:
    """The rows of a path by one form; the answers are of that form."""
    client, told = listener
    info = plan(client, path, **spec)
    assert info.endpoints
    before = len(told.forms)
    tickets = [endpoint.ticket for endpoint in info.endpoints]
    table = wire.read(client, tickets, wire.asking(form, limit_bytes))
    assert told.forms[before:] == [form] * len(tickets)
    assert table.schema.equals(info.schema, check_metadata=True)
    return table


def read_by(
    listener: Listener, path: str, forms: str, file_bytes: int | None = None, **spec: object
) -> tuple[pa.Table, set[str], set[str]]:
    """The rows of a path by a list of forms, the forms that the answers have, and the reasons that they give."""
    client, told = listener
    info = plan(client, path, **spec)
    forms_before, reasons_before = len(told.forms), len(told.reasons)
    tickets = [endpoint.ticket for endpoint in info.endpoints]
    table = wire.read(client, tickets, wire.asking(forms, file_bytes=file_bytes))
    assert table.schema.equals(info.schema, check_metadata=True)
    return table, set(told.forms[forms_before:]), set(told.reasons[reasons_before:])


def like_lineitem(rows: int, seed: int = 1) -> pa.Table:
    """Keys, decimals, dates and few words, as a table of orders has them."""
    rng = random.Random(seed)
    prices = [rng.randrange(100, 10_000_000) for _ in range(rows)]
    return pa.table(
        {
            "orderkey": pa.array(range(rows), pa.int64()),
            "price": pa.array(prices, pa.int64()).cast(pa.decimal128(19, 0)),
            "flag": pa.array([rng.choice("ANR") for _ in range(rows)], pa.string_view()),
            "shipdate": pa.array([8_000 + rng.randrange(2_500) for _ in range(rows)], pa.int32()).cast(pa.date32()),
            "comment": pa.array([f"{rng.choice(WORDS)} {rng.choice(WORDS)} deposits" for _ in range(rows)]),
        }
    )


WORDS = ("carefully", "furiously", "quickly", "blithely", "slyly", "ironic", "regular", "pending", "special", "final")


@pytest.mark.parametrize("form", wire.FORMS)
def test_every_form_gives_the_same_rows(lake: Lake, listener: Listener, form: str) -> None:
    expected = lake.write("set/a.parquet", like_lineitem(60_000), row_group_size=25_000)
    more = lake.write("set/b.parquet", like_lineitem(20_000, seed=2), data_page_version="2.0", compression="zstd")
    whole = pa.concat_tables([expected, more])
    assert_same(read_as(listener, lake.at("set"), form), whole)
    some = ["comment", "orderkey"]
    assert_same(read_as(listener, lake.at("set"), form, columns=some), whole.select(some))


@pytest.mark.parametrize("name", ALL_TYPES)
def test_every_type_by_every_form(lake: Lake, listener: Listener, name: str) -> None:
    columns = {"mixed": array_of(ALL_TYPES[name], ROWS, seed=1), "number": pa.array(range(ROWS), pa.int64())}
    lake.write("t.parquet", pa.table(columns), row_group_size=ROW_GROUP_ROWS)
    expected = lake.read("t.parquet")
    for form in ("lz4", "zstd", "raw"):
        assert_same(read_as(listener, lake.at("t.parquet"), form), expected)
        assert_same(read_as(listener, lake.at("t.parquet"), form, columns=["mixed"]), expected.select(["mixed"]))


def test_all_types_side_by_side_raw(lake: Lake, listener: Listener) -> None:
    table = pa.table({name: array_of(kind, ROWS, seed=7) for name, kind in ALL_TYPES.items()})
    for name, options in {"arrow": {}, "plain": {"store_schema": False}, "flat": {"use_dictionary": False}}.items():
        lake.write(f"{name}.parquet", table, row_group_size=ROW_GROUP_ROWS, **options)
        expected = lake.read(f"{name}.parquet")
        assert_same(read_as(listener, lake.at(f"{name}.parquet"), "raw"), expected)
        some = [column for position, column in enumerate(ALL_TYPES) if position % 3 == 1]
        assert_same(read_as(listener, lake.at(f"{name}.parquet"), "raw", columns=some), expected.select(some))


def test_parts_of_nested_columns_raw(lake: Lake, listener: Listener) -> None:
    names = {"s": "struct", "l": "list_struct_list", "m": "map_of_struct", "deep": "struct_struct_struct"}
    columns = {name: array_of(ALL_TYPES[kind], ROWS, seed=3) for name, kind in names.items()}
    lake.write("t.parquet", pa.table(columns), row_group_size=ROW_GROUP_ROWS)
    for some in (["s.x"], ["l.tags"], ["m.name"], ["deep.a.b.d"], ["m.x", "s.required", "l.n"]):
        got = read_as(listener, lake.at("t.parquet"), "raw", columns=some)
        assert_same(got, lake.read("t.parquet", columns=some))


def test_plain_arrow_is_what_is_sent_unasked(lake: Lake, listener: Listener) -> None:
    lake.write("t.parquet", files.numbers(10))
    client, told = listener
    (endpoint,) = plan(client, lake.at("t.parquet")).endpoints
    assert client.do_get(endpoint.ticket).read_all().num_rows == 10
    assert (told.forms, told.reasons) == (["arrow"], [])


NO_FORMS = ["gzip", "RAW", "", "arrow; raw", "arrow raw", "auto,,lz4", "auto, gzip", ", ".join(["raw"] * 6)]


@pytest.mark.parametrize("form", NO_FORMS)
def test_a_form_that_does_not_exist_is_refused(lake: Lake, form: str) -> None:
    lake.write("t.parquet", files.numbers(10))
    (endpoint,) = plan(lake.client, lake.at("t.parquet")).endpoints
    with expect_error("INVALID_ARGUMENT", f'"{form}".*arrow, lz4, zstd, raw, auto'):
        wire.read(lake.client, [endpoint.ticket], wire.asking(form))
    lake.assert_still_serves()


@pytest.mark.parametrize(
    ("reason", "spec", "limit_bytes"),
    [
        ("filter", {"filter": "n > 5"}, None),
        ("limit", {"limit": 7}, None),
        ("message", {}, SMALL_LIMIT_BYTES),
        ("columns", {"columns": []}, None),
    ],
)
def test_what_cannot_be_said_raw_comes_plain_and_says_why(
    lake: Lake, listener: Listener, reason: str, spec: dict[str, object], limit_bytes: int | None
) -> None:
    lake.write("t.parquet", files.numbers(40_000))
    client, told = listener
    (endpoint,) = plan(client, lake.at("t.parquet"), **spec).endpoints
    got = wire.read(client, [endpoint.ticket], wire.asking("raw", limit_bytes))
    assert told.forms == ["arrow"]
    assert len(told.reasons) == 1
    assert reason in told.reasons[0]
    assert_same(got, lake.read("t.parquet", **spec))


def test_files_whose_nested_columns_differ_come_plain(lake: Lake, listener: Listener) -> None:
    lake.write("set/a.parquet", {"s": [{"x": 1}]})
    lake.write("set/b.parquet", {"s": [{"x": 1, "y": "b"}]})
    client, told = listener
    (endpoint,) = plan(client, lake.at("set")).endpoints
    assert_same(wire.read(client, [endpoint.ticket], wire.asking("raw")), lake.read("set"))
    assert told.forms == ["arrow"]
    assert "nested" in told.reasons[0]


def test_widened_and_missing_columns_raw(lake: Lake, listener: Listener) -> None:
    lake.write("set/a.parquet", {"n": pa.array([1, 2], pa.int16()), "t": ["a", "b"]})
    lake.write("set/b.parquet", {"n": pa.array([2**40], pa.int64()), "f": [0.5]})
    got = read_as(listener, lake.at("set"), "raw")
    assert_same(got, lake.read("set"))
    assert got.column("n").to_pylist() == [1, 2, 2**40]
    assert got.column("t").to_pylist() == ["a", "b", None]


def test_partition_constants_raw(lake: Lake, listener: Listener) -> None:
    parts = {
        "year=2023/kind=a b": files.numbers(2, 0),
        "year=2024/kind=__HIVE_DEFAULT_PARTITION__": files.numbers(3, 10),
    }
    files.hive(lake.folder / "set", parts)
    assert_same(read_as(listener, lake.at("set"), "raw"), lake.read("set"))
    assert_same(
        read_as(listener, lake.at("set"), "raw", columns=["kind", "n"]), lake.read("set", columns=["kind", "n"])
    )
    client, _ = listener
    (endpoint,) = plan(client, lake.at("set"), columns=["kind", "n"]).endpoints
    said = [entry for _, entry in wire.raw_files(client.do_get(endpoint.ticket, wire.asking("raw")))]
    assert [entry["constants"] for entry in said] == [{"kind": "a b"}, {"kind": None}]
    assert [entry["file"] for entry in said] == [lake.at(f"set/{name}/data.parquet") for name in parts]


def test_the_files_stand_alone_and_say_what_they_are(lake: Lake, listener: Listener) -> None:
    table = lake.write("t.parquet", like_lineitem(10_000), row_group_size=4_000, write_page_index=True)
    client, _ = listener
    (endpoint,) = plan(client, lake.at("t.parquet"), columns=["shipdate", "flag"]).endpoints
    sent = list(wire.raw_files(client.do_get(endpoint.ticket, wire.asking("raw"))))
    assert [entry["row_group"] for _, entry in sent] == [0, 1, 2]
    assert [entry["batch"] for _, entry in sent] == [0, 1, 2]
    assert {entry["source"] for _, entry in sent} <= {"memory", "disk", "store"}
    for number, (file, entry) in enumerate(sent):
        part = pq.read_table(pa.BufferReader(file))
        expected = table.slice(number * 4_000, 4_000).select(["flag", "shipdate"])
        assert_same(part, expected)
        assert (part.num_rows, entry["file"]) == (entry["rows"], lake.at("t.parquet"))
        about = pq.ParquetFile(pa.BufferReader(file)).metadata
        assert (about.num_row_groups, about.num_columns) == (1, 2)
        assert about.created_by == pq.ParquetFile(lake.folder / "t.parquet").metadata.created_by


def test_files_without_rows(lake: Lake, listener: Listener) -> None:
    lake.write("t.parquet", files.numbers(0))
    client, told = listener
    for form in wire.FORMS:
        for endpoint in plan(client, lake.at("t.parquet")).endpoints:
            assert wire.read(client, [endpoint.ticket], wire.asking(form)).equals(lake.read("t.parquet"))
    assert told.forms in ([], list(wire.FORMS))


@pytest.mark.parametrize("form", wire.FORMS)
def test_a_file_that_changed_is_stale_in_every_form(lake: Lake, listener: Listener, form: str) -> None:
    lake.write("set/a.parquet", files.numbers(40_000), row_group_size=10_000)
    path = f"{lake.path}-immutable"
    mount(lake.client, path, f"file://{lake.folder}/set", freshness="immutable")
    info = plan(lake.client, path)
    newer = lake.write("set/a.parquet", files.numbers(50_000, 5), row_group_size=10_000)
    client, _ = listener
    with expect_error("ABORTED", "STALE"):
        for endpoint in info.endpoints:
            wire.read(client, [endpoint.ticket], wire.asking(form))
    act(lake.client, "dataset.refresh", {"path": path})
    assert_same(read_as(listener, path, form), newer)


def test_column_chunks_come_byte_for_byte(lake: Lake, listener: Listener) -> None:
    lake.write("t.parquet", files.numbers(1_000))
    client, _ = listener
    (endpoint,) = plan(client, lake.at("t.parquet")).endpoints
    stored = (lake.folder / "t.parquet").read_bytes()
    (sent,) = [file for file, _ in wire.raw_files(client.do_get(endpoint.ticket, wire.asking("raw")))]
    about = pq.ParquetFile(lake.folder / "t.parquet").metadata.row_group(0)
    assert about.num_columns == 3
    for column in map(about.column, range(about.num_columns)):
        start = column.dictionary_page_offset or column.data_page_offset
        assert stored[start : start + column.total_compressed_size] in sent.to_pybytes(), column.path_in_schema


@pytest.mark.parametrize("form", ["arrow", "lz4", "zstd"])
def test_messages_keep_the_limit(lake: Lake, form: str) -> None:
    rng = random.Random(5)
    table = lake.write("t.parquet", {"noise": [rng.randbytes(100) for _ in range(20_000)], "n": range(20_000)})
    # This client refuses larger messages by itself.
    client = flight.FlightClient(lake.server.flight_uri, generic_options=[(RECEIVE_LIMIT, SMALL_LIMIT_BYTES)])
    with client:
        (endpoint,) = plan(client, lake.at("t.parquet")).endpoints
        sent = [chunk.data for chunk in chunks(client.do_get(endpoint.ticket, wire.asking(form, SMALL_LIMIT_BYTES)))]
    assert_same(pa.Table.from_batches(sent), table)
    fewest = table.nbytes / SMALL_LIMIT_BYTES
    assert fewest < len(sent) < 2 * fewest, "too many messages"


def test_compressed_forms_send_less(lake: Lake, listener: Listener) -> None:
    lake.write("t.parquet", like_lineitem(100_000))
    client, _ = listener
    sent: dict[str, float] = {}
    for form in wire.FORMS:
        before = total(lake.server.admin_uri, "jetbridge_flight_sent_bytes_total")
        for endpoint in plan(client, lake.at("t.parquet")).endpoints:
            wire.read(client, [endpoint.ticket], wire.asking(form))
        sent[form] = total(lake.server.admin_uri, "jetbridge_flight_sent_bytes_total") - before
    assert sent["lz4"] < 0.7 * sent["arrow"], sent
    assert sent["zstd"] < 0.9 * sent["lz4"], sent
    assert sent["raw"] < 0.7 * sent["lz4"], sent


def test_raw_reads_are_kept_and_not_decoded(lake: Lake, start_server: Callable[..., Server]) -> None:
    lake.write("t.parquet", like_lineitem(50_000))
    server = start_server(mounts={"/t": f"file://{lake.folder}"})
    client, told = wire.connect(server.flight_uri)

    def counters() -> tuple[float, float]:
        store_bytes = total(server.admin_uri, "jetbridge_store_read_bytes_total")
        return store_bytes, total(server.admin_uri, "jetbridge_cache_misses_total", tier="chunk")

    with client:
        for reading in range(3):
            before = counters()
            for endpoint in plan(client, "/t/t.parquet").endpoints:
                assert wire.read(client, [endpoint.ticket], wire.asking("raw")).num_rows == 50_000
            store_bytes, decoded = (now - was for now, was in zip(counters(), before, strict=True))
            assert decoded == 0
            assert (store_bytes > 0) == (reading == 0), f"reading {reading} asked storage for {store_bytes} bytes"
    assert told.forms == ["raw"] * 3


def test_clients_that_go_away_leave_no_memory_charged(lake: Lake, start_server: Callable[..., Server]) -> None:
    lake.write("t.parquet", like_lineitem(200_000), row_group_size=10_000)
    server = start_server(mounts={"/t": f"file://{lake.folder}"})
    for form in wire.FORMS:
        client, _ = wire.connect(server.flight_uri)
        for endpoint in plan(client, "/t/t.parquet").endpoints:
            reader = client.do_get(endpoint.ticket, wire.asking(form))
            assert reader.read_chunk().data.num_rows > 0
            reader.cancel()
        client.close()
    deadline = time.monotonic() + FREED_WITHIN_S
    while total(server.admin_uri, "jetbridge_cache_budget_used_bytes", purpose="scans") > 0:
        assert time.monotonic() < deadline, "memory is still charged for readers that have gone"
        time.sleep(POLL_INTERVAL_S)
    assert read(server.client, "/t/t.parquet").num_rows == 200_000


def test_auto_is_raw_until_columns_are_kept(lake: Lake, start_server: Callable[..., Server]) -> None:
    """The first read leaves nothing decoded, the second is decoded and kept, the third comes from memory."""
    expected = lake.write("t.parquet", like_lineitem(50_000), row_group_size=20_000)
    server = start_server(mounts={"/t": f"file://{lake.folder}"})
    listener = wire.connect(server.flight_uri)
    with listener[0] as client:
        for form, is_decoded in (("raw", False), ("arrow", True), ("arrow", True)):
            table, forms, reasons = read_by(listener, "/t/t.parquet", "auto")
            assert_same(table, expected)
            assert (forms, reasons) == ({form}, set())
            assert (act(client, "cache.stat", {"path": "/t"})["decoded_bytes"] > 0) == is_decoded
        for endpoint in plan(client, "/t/t.parquet").endpoints:
            _, said = drain(client.do_get(endpoint.ticket, wire.asking("auto")))
            assert {entry["source"] for entry in said} == {"memory"}
        for wanted, form in {"auto, lz4": "lz4", "auto,zstd": "zstd", "auto, raw": "raw", "raw, auto": "raw"}.items():
            table, forms, reasons = read_by(listener, "/t/t.parquet", wanted)
            assert_same(table, expected)
            assert (forms, reasons) == ({form}, set()), wanted


def test_auto_looks_at_the_columns_that_are_asked_for(lake: Lake, start_server: Callable[..., Server]) -> None:
    expected = lake.write("t.parquet", like_lineitem(50_000))
    server = start_server(mounts={"/t": f"file://{lake.folder}"})
    listener = wire.connect(server.flight_uri)
    with listener[0]:
        for form in ("raw", "arrow"):
            assert read_by(listener, "/t/t.parquet", "auto", columns=["flag"])[1] == {form}
        # What is decoded of it by now are a few of its bytes.
        for form in ("raw", "arrow"):
            table, forms, _ = read_by(listener, "/t/t.parquet", "auto")
            assert_same(table, expected)
            assert forms == {form}


def test_a_rule_that_nothing_is_kept_keeps_auto_raw(lake: Lake, listener: Listener) -> None:
    expected = lake.write("set/a.parquet", like_lineitem(5_000))
    path = f"{lake.path}-never"
    mount(lake.client, path, f"file://{lake.folder}/set", cache_rules="never **")
    for _ in range(3):
        table, forms, _ = read_by(listener, path, "auto")
        assert_same(table, expected)
        assert forms == {"raw"}


@pytest.mark.parametrize(
    ("wanted", "form"),
    [("auto", "arrow"), ("raw, lz4", "lz4"), ("raw, auto, zstd", "zstd"), ("auto, arrow, lz4", "arrow")],
)
@pytest.mark.parametrize(("reason", "spec"), [("filter", {"filter": "n > 5"}), ("limit", {"limit": 7})])
def test_a_list_says_what_comes_instead_of_raw(
    lake: Lake, listener: Listener, wanted: str, form: str, reason: str, spec: dict[str, object]
) -> None:
    lake.write("t.parquet", files.numbers(1_000))
    table, forms, reasons = read_by(listener, lake.at("t.parquet"), wanted, **spec)
    assert_same(table, lake.read("t.parquet", **spec))
    assert forms == {form}
    (said,) = reasons
    assert reason in said


def test_rows_of_statements_come_in_the_form_after_auto(listener: Listener) -> None:
    client, told = listener
    (endpoint,) = client.get_flight_info(query("SELECT 7 AS n")).endpoints
    table = wire.read(client, [endpoint.ticket], wire.asking("auto, lz4"))
    assert table.to_pydict() == {"n": [7]}
    assert told.forms == ["lz4"]
    assert "query" in told.reasons[0]


def test_files_have_a_limit_of_their_own(lake: Lake, listener: Listener) -> None:
    client, told = listener
    small, large = SMALL_LIMIT_BYTES, 4 << 20
    for message_bytes, file_bytes, form in [
        (small, None, "arrow"),
        (large, small, "arrow"),
        (None, small, "arrow"),
        (small, large, "raw"),
        (None, large, "raw"),
    ]:
        expected = lake.write(f"{message_bytes}-{file_bytes}/t.parquet", like_lineitem(20_000))
        (endpoint,) = plan(client, lake.at(f"{message_bytes}-{file_bytes}")).endpoints
        # This order, since a scan for want of `raw` is a read that `auto` would see.
        for wanted in ("auto", "raw"):
            before = len(told.reasons)
            table = wire.read(client, [endpoint.ticket], wire.asking(wanted, message_bytes, file_bytes))
            assert_same(table, expected)
            assert told.forms[-1] == form, (wanted, message_bytes, file_bytes)
            assert ["message" in reason for reason in told.reasons[before:]] == [True] * (form == "arrow")


@pytest.mark.parametrize("file_bytes", [0, SMALL_LIMIT_BYTES - 1, wire.RAW_LIMIT_BYTES + 1])
def test_limits_of_files_are_within_bounds(lake: Lake, file_bytes: int) -> None:
    lake.write("t.parquet", files.numbers(10))
    (endpoint,) = plan(lake.client, lake.at("t.parquet")).endpoints
    with expect_error("INVALID_ARGUMENT", wire.FILE_LIMIT_HEADER):
        wire.read(lake.client, [endpoint.ticket], wire.asking("arrow", file_bytes=file_bytes))
    lake.assert_still_serves()


def test_cold_reads_by_auto_ask_storage_for_what_raw_asks_for(lake: Lake, start_server: Callable[..., Server]) -> None:
    tables = [
        lake.write("set/a.parquet", like_lineitem(60_000), row_group_size=20_000),
        lake.write("set/b.parquet", like_lineitem(20_000, seed=2)),
    ]
    asked: dict[str, tuple[float, ...]] = {}
    for wanted in ("raw", "auto"):
        server = start_server(wanted, mounts={"/t": f"file://{lake.folder}/set"})
        listener = wire.connect(server.flight_uri)
        with listener[0]:
            table, forms, _ = read_by(listener, "/t", wanted)
        assert_same(table, pa.concat_tables(tables))
        assert forms == {"raw"}
        counters = ("jetbridge_store_requests_total", "jetbridge_store_read_bytes_total")
        asked[wanted] = tuple(total(server.admin_uri, counter) for counter in counters)
    assert asked["auto"] == asked["raw"]
    assert all(asked["raw"])
