"""Flight SQL call by call: what drivers ask that ADBC's does not, and that all schemas are one to the bit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from conftest import Lake
from harness import files, flightsql, raw
from harness.errors import expect_error
from harness.flight import act, by_path, chunks, splits
from harness.flightsql import Prepared, command, fetch, listing, packed, query, rows, text
from harness.raw import length_delimited, number

ENDLESS = (
    "select count(*) from {t} a cross join {t} b cross join {t} c cross join {t} d where a.n + b.n + c.n + d.n = -1"
)
# Field numbers of GetTables.
CATALOG, SCHEMA_PATTERN, TABLE_PATTERN, TABLE_TYPES, INCLUDE_SCHEMA = 1, 2, 3, 4, 5
TABLES = ["catalog_name", "db_schema_name", "table_name", "table_type"]


def name_of(lake: Lake, table: str = "t") -> str:
    return f'"{lake.at(table)}"'


def schema_of(lake: Lake) -> str:
    return lake.path.strip("/")


def test_catalogs_schemas_and_types(lake: Lake) -> None:
    lake.write("t/1.parquet", files.numbers(1))
    lake.write("sub/deep/u.parquet", files.numbers(1))
    schema = schema_of(lake)
    assert listing(lake.client, "CommandGetCatalogs").to_pylist() == [{"catalog_name": "jetbridge"}]
    assert listing(lake.client, "CommandGetTableTypes").to_pylist() == [{"table_type": "TABLE"}]
    found = listing(lake.client, "CommandGetDbSchemas", text(2, f"{schema}%"))
    assert {"catalog_name": "jetbridge", "db_schema_name": schema} in found.to_pylist()
    nested = [entry["db_schema_name"] for entry in found.to_pylist() if entry["db_schema_name"] != schema]
    assert nested
    assert all(name.startswith(f"{schema}.") for name in nested)
    assert listing(lake.client, "CommandGetDbSchemas", text(1, "other")).num_rows == 0
    assert listing(lake.client, "CommandGetDbSchemas", text(1, "jetbridge") + text(2, schema)).num_rows == 1


def test_tables_have_four_columns_and_five_with_their_schemas(lake: Lake) -> None:
    table = lake.write("t/1.parquet", files.numbers(1))
    lake.write("other/1.parquet", {"x": [1]})
    lake.write("bad/1.parquet", {"x": [1]})
    (lake.folder / "bad/1.parquet").write_bytes(b"PAR1 this is none PAR1")
    mine = text(SCHEMA_PATTERN, schema_of(lake))
    plain = listing(lake.client, "CommandGetTables", mine)
    assert plain.column_names == TABLES
    assert {"other", "t"} <= set(plain.column("table_name").to_pylist())
    with_schemas = listing(lake.client, "CommandGetTables", mine + number(INCLUDE_SCHEMA, 1))
    assert with_schemas.column_names == [*TABLES, "table_schema"]
    schemas = {row["table_name"]: row["table_schema"] for row in with_schemas.to_pylist()}
    # One bad file hides no other table.
    assert {"other", "t"} <= set(schemas)
    told = pa.ipc.read_schema(pa.py_buffer(schemas["t"]))
    assert told.equals(fetch(lake.client, query(f"select * from {name_of(lake)}")).info.schema, check_metadata=True)
    assert told.equals(table.schema)
    only = listing(lake.client, "CommandGetTables", mine + text(TABLE_PATTERN, "o_her"))
    assert only.column("table_name").to_pylist() == ["other"]
    for types, count in [(["TABLE"], plain.num_rows), (["VIEW"], 0), (["VIEW", "TABLE"], plain.num_rows)]:
        asked = mine + b"".join(text(TABLE_TYPES, kind) for kind in types)
        assert listing(lake.client, "CommandGetTables", asked).num_rows == count
    assert listing(lake.client, "CommandGetTables", mine + text(CATALOG, "")).num_rows == 0


def test_new_mounts_appear_without_a_restart(lake: Lake) -> None:
    mine = text(SCHEMA_PATTERN, schema_of(lake))
    assert listing(lake.client, "CommandGetTables", mine).num_rows == 0
    lake.write("late/1.parquet", files.numbers(3))
    (entry,) = listing(lake.client, "CommandGetTables", mine).to_pylist()
    assert entry["table_name"] == "late"
    assert rows(lake.client, f'select count(*) as c from jetbridge."{schema_of(lake)}".late') == [{"c": 3}]


def test_the_dataset_of_a_name_is_told(lake: Lake) -> None:
    lake.write("t/1.parquet", files.numbers(3))
    lake.write("sub/deep/u.parquet", files.numbers(1))
    schema = schema_of(lake)
    for body, path in [
        ({"schema": schema, "table": "t"}, "t"),
        ({"schema": f"{schema}.t", "table": "1"}, "t/1.parquet"),
        ({"schema": f"{schema}.sub", "table": "deep"}, "sub/deep"),
        ({"table": lake.at("sub/deep/u.parquet")}, "sub/deep/u.parquet"),
    ]:
        assert act(lake.client, "dataset.find", body) == {"path": lake.at(path)}
    with expect_error("NOT_FOUND", f"there is no table {schema}.none"):
        act(lake.client, "dataset.find", {"schema": schema, "table": "none"})
    with expect_error("INVALID_ARGUMENT", "tabel"):
        act(lake.client, "dataset.find", {"tabel": "t"})


def test_keys_are_none_with_the_columns_that_drivers_expect(lake: Lake) -> None:
    asked = text(1, "jetbridge") + text(2, schema_of(lake)) + text(3, "t")
    primary = listing(lake.client, "CommandGetPrimaryKeys", asked)
    assert primary.num_rows == 0
    assert [(field.name, str(field.type), field.nullable) for field in primary.schema] == [
        ("catalog_name", "string", True),
        ("db_schema_name", "string", True),
        ("table_name", "string", False),
        ("column_name", "string", False),
        ("key_name", "string", True),
        ("key_sequence", "int32", False),
    ]
    for name in ("CommandGetExportedKeys", "CommandGetImportedKeys"):
        foreign = listing(lake.client, name, asked)
        assert foreign.num_rows == 0
        assert len(foreign.schema) == 13
        assert (str(foreign.schema.field("update_rule").type), foreign.schema.field("fk_key_name").nullable) == (
            "uint8",
            True,
        )
    cross = listing(lake.client, "CommandGetCrossReference", text(3, "t") + text(6, "u"))
    assert cross.schema.equals(foreign.schema)


def test_what_the_server_says_of_itself(lake: Lake) -> None:
    everything = listing(lake.client, "CommandGetSqlInfo")
    values = dict(zip(everything.column("info_name").to_pylist(), everything.column("value").to_pylist(), strict=True))
    assert len(values) > 80
    assert (values[0], values[3], values[5], values[8], values[9]) == ("Jetbridge", True, True, 0, True)
    assert "sqrt" in values[509]
    assert "substr" in values[510]
    some = listing(lake.client, "CommandGetSqlInfo", number(1, 0) + number(1, 8) + number(1, 999_999))
    assert some.column("info_name").to_pylist() == [0, 8]
    assert listing(lake.client, "CommandGetSqlInfo", number(1, 999_999)).num_rows == 0


def test_the_types_of_sql_are_listed(lake: Lake) -> None:
    everything = listing(lake.client, "CommandGetXdbcTypeInfo")
    assert len(everything.schema) == 19
    assert {"BIGINT", "VARCHAR", "TIMESTAMP", "DECIMAL"} <= set(everything.column("type_name").to_pylist())
    (date,) = listing(lake.client, "CommandGetXdbcTypeInfo", number(1, 91)).to_pylist()
    assert date["type_name"] == "DATE"


def test_a_bare_scan_is_the_flight_of_that_scan(lake: Lake) -> None:
    table = lake.write("t/1.parquet", files.numbers(1_000), row_group_size=100)
    for sql, expected in [
        (f"select * from {name_of(lake)}", table),
        (f"select text, n from {name_of(lake)}", table.select(["text", "n"])),
    ]:
        answer = fetch(lake.client, query(sql))
        assert answer.info.total_records == 1_000
        assert splits(answer.info)[0]["path"] == lake.at("t/1.parquet")
        assert answer.table.sort_by("n").equals(expected)
    # Nor does it become another by a limit that is none.
    unlimited = fetch(
        lake.client, query(f"select * from {name_of(lake)}"), flightsql.with_headers(x_jetbridge_sql_timeout="0")
    )
    assert unlimited.info.total_records == 1_000
    # What a scan's endpoints know nothing of makes it a query.
    limited = fetch(
        lake.client, query(f"select * from {name_of(lake)}"), flightsql.with_headers(x_jetbridge_sql_batch_size="100")
    )
    assert limited.info.total_records == -1
    assert max(batch.num_rows for batch in limited.table.to_batches()) <= 100
    assert limited.info.schema.equals(lake.client.get_flight_info(by_path(lake.at("t"))).schema, check_metadata=True)


def test_an_ordered_answer_is_one_endpoint(lake: Lake) -> None:
    lake.write("t/1.parquet", files.numbers(5_000), row_group_size=100)
    answer = fetch(lake.client, query(f"select n from {name_of(lake)} order by n desc"))
    assert len(answer.info.endpoints) == 1
    assert answer.table.column("n").to_pylist() == list(range(4_999, -1, -1))


def test_polling_gives_the_whole_flight_at_once(lake: Lake) -> None:
    lake.write("t/1.parquet", files.numbers(10))
    asked = query(f"select count(*) as c from {name_of(lake)}")
    polled = raw.poll(lake.server.flight_uri, asked)
    assert polled.next_descriptor is None
    (endpoint,) = polled.info.endpoints
    assert lake.client.do_get(endpoint.ticket).read_all().to_pylist() == [{"c": 10}]


def test_a_statements_ticket_may_come_in_the_standards_own_message(lake: Lake) -> None:
    (endpoint,) = lake.client.get_flight_info(query("select 7 as n")).endpoints
    wrapped = flight.Ticket(packed("TicketStatementQuery", length_delimited(1, endpoint.ticket.ticket)))
    assert lake.client.do_get(wrapped).read_all().to_pylist() == [{"n": 7}]


def test_messages_of_an_answer_stay_under_the_limit(lake: Lake) -> None:
    options = flightsql.with_headers(x_jetbridge_max_message_bytes=str(64 << 10))
    (endpoint,) = lake.client.get_flight_info(query("select value as n from generate_series(1, 100000)")).endpoints
    reader = lake.client.do_get(endpoint.ticket, options)
    sizes = [chunk.data.nbytes for chunk in chunks(reader)]
    assert len(sizes) > 10
    assert max(sizes) <= 64 << 10


@pytest.mark.parametrize("wire", ["lz4", "zstd", "raw"])
def test_an_answer_comes_in_the_form_that_is_asked_for(lake: Lake, wire: str) -> None:
    options = flightsql.with_headers(x_jetbridge_wire=wire)
    (endpoint,) = lake.client.get_flight_info(query("select value as n from generate_series(1, 1000)")).endpoints
    assert lake.client.do_get(endpoint.ticket, options).read_all().num_rows == 1000


def test_a_prepared_statement_promises_what_it_gives(lake: Lake) -> None:
    lake.write("t/1.parquet", files.numbers(50))
    prepared = Prepared(lake.client, f"select n, text from {name_of(lake)} where n >= $1 and text <> $2 order by n")
    assert [(field.name, field.type) for field in prepared.parameters] == [("$1", pa.int64()), ("$2", pa.string())]
    prepared.bind(pa.record_batch([pa.array([48]), pa.array(["row 48"])], ["$1", "$2"]))
    answer = prepared.fetch()
    assert answer.info.schema.equals(prepared.schema, check_metadata=True)
    assert answer.table.to_pylist() == [{"n": 49, "text": "row 49"}]
    # To bind again replaces the values.
    prepared.bind(pa.record_batch([pa.array([49]), pa.array([""])], ["$1", "$2"]))
    assert prepared.fetch().table.to_pylist() == [{"n": 49, "text": "row 49"}]


def test_a_closed_statement_is_refused(lake: Lake) -> None:
    prepared = Prepared(lake.client, "select 1 as n")
    assert prepared.fetch().table.to_pylist() == [{"n": 1}]
    prepared.close()
    for use in (prepared.fetch, lambda: prepared.bind(pa.record_batch([pa.array([1])], ["$1"]))):
        with expect_error("NOT_FOUND", "closed"):
            use()
    prepared.close()


@pytest.mark.parametrize("place", [0, 3, 10, 40, -1])
def test_a_forged_handle_is_refused(lake: Lake, place: int) -> None:
    prepared = Prepared(lake.client, "select 1 as n")
    forged = bytearray(prepared.handle)
    forged[place] ^= 1
    prepared.handle = bytes(forged)
    for use in (prepared.fetch, prepared.close):
        with expect_error("UNAUTHENTICATED"):
            use()


def test_tickets_and_handles_are_no_ones_but_their_own(lake: Lake) -> None:
    """A handle is no ticket, a ticket no handle, and neither opens as the other's kind."""
    prepared = Prepared(lake.client, "select 1 as n")
    (endpoint,) = lake.client.get_flight_info(query("select 1 as n")).endpoints
    with expect_error("UNAUTHENTICATED"):
        lake.client.do_get(flight.Ticket(prepared.handle)).read_all()
    prepared.handle = endpoint.ticket.ticket
    with expect_error("UNAUTHENTICATED"):
        prepared.fetch()
    forged = bytearray(endpoint.ticket.ticket)
    forged[-1] ^= 1
    with expect_error("UNAUTHENTICATED"):
        lake.client.do_get(flight.Ticket(bytes(forged))).read_all()


@pytest.mark.parametrize("how", [flightsql.cancel, flightsql.cancel_query])
def test_a_query_is_cancelled_by_word(lake: Lake, how: Callable[[flight.FlightClient, flight.FlightInfo], int]) -> None:
    lake.write("t/1.parquet", files.numbers(3_000))
    info = lake.client.get_flight_info(query(ENDLESS.format(t=name_of(lake))))
    ended: list[BaseException] = []

    def run() -> None:
        with lake.server.connect() as client:
            try:
                flightsql.redeem(client, info.endpoints[0].ticket)
            except flight.FlightError as error:
                ended.append(error)

    running = threading.Thread(target=run)
    running.start()
    time.sleep(1.0)
    assert running.is_alive()
    assert how(lake.client, info) == flightsql.CANCELLED
    running.join(timeout=60)
    assert not running.is_alive()
    assert isinstance(ended[0], flight.FlightCancelledError), ended
    # It does not begin any more either.
    with expect_error("CANCELLED"):
        flightsql.redeem(lake.client, info.endpoints[0].ticket)
    lake.assert_still_serves()


def test_a_scan_has_nothing_to_cancel(lake: Lake) -> None:
    lake.write("t/1.parquet", files.numbers(10))
    info = lake.client.get_flight_info(query(f"select * from {name_of(lake)}"))
    assert flightsql.cancel(lake.client, info) == flightsql.NOT_CANCELLABLE
    assert flightsql.cancel(lake.client, lake.client.get_flight_info(by_path(lake.at("t")))) == (
        flightsql.NOT_CANCELLABLE
    )


def test_a_query_whose_client_goes_ends(lake: Lake) -> None:
    lake.write("t/1.parquet", files.numbers(3_000))
    (endpoint,) = lake.client.get_flight_info(query(ENDLESS.format(t=name_of(lake)))).endpoints
    options = flight.FlightCallOptions(timeout=1.0)
    with pytest.raises(flight.FlightTimedOutError):
        lake.client.do_get(endpoint.ticket, options).read_all()
    lake.assert_still_serves()


def test_an_endpoint_of_a_query_is_renewed(lake: Lake) -> None:
    (endpoint,) = lake.client.get_flight_info(query("select 3 as n")).endpoints
    body = length_delimited(1, endpoint.serialize())
    answer = flightsql.act(lake.client, "RenewFlightEndpoint", body)
    assert answer is not None
    renewed = flight.FlightEndpoint.deserialize(answer)
    assert lake.client.do_get(renewed.ticket).read_all().to_pylist() == [{"n": 3}]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("BeginTransaction", packed("ActionBeginTransactionRequest")),
        ("EndTransaction", packed("ActionEndTransactionRequest")),
        ("BeginSavepoint", packed("ActionBeginSavepointRequest")),
        ("EndSavepoint", packed("ActionEndSavepointRequest")),
    ],
)
def test_what_is_not_there_says_so(lake: Lake, name: str, body: bytes) -> None:
    with expect_error("UNIMPLEMENTED", "transaction"):
        flightsql.act(lake.client, name, body)
    assert name in {action.type for action in lake.client.list_actions()}


@pytest.mark.parametrize("name", ["CommandStatementUpdate", "CommandStatementIngest", "CommandPreparedStatementUpdate"])
def test_updates_are_refused_in_words(lake: Lake, name: str) -> None:
    with expect_error("UNIMPLEMENTED", "reads"):
        lake.client.get_flight_info(command(name))
    table = files.numbers(1)
    with expect_error("UNIMPLEMENTED", "reads"):
        writer, reader = lake.client.do_put(command(name), table.schema)
        writer.write_table(table)
        writer.done_writing()
        reader.read()
        writer.close()


def test_a_transaction_is_refused(lake: Lake) -> None:
    with expect_error("UNIMPLEMENTED", "transaction"):
        lake.client.get_flight_info(command("CommandStatementQuery", text(1, "select 1") + length_delimited(2, b"t1")))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xff",
        packed("ActionBeginTransactionRequest"),
        packed("ActionCreatePreparedStatementRequest", b"\xff"),
    ],
)
def test_bodies_that_are_no_message_are_refused(lake: Lake, body: bytes) -> None:
    with expect_error(("INVALID_ARGUMENT", "UNIMPLEMENTED")):
        flightsql.act(lake.client, "CreatePreparedStatement", body)
    with expect_error(("INVALID_ARGUMENT", "UNIMPLEMENTED", "UNAUTHENTICATED")):
        lake.client.get_flight_info(flight.FlightDescriptor.for_command(body or b"\x00"))
    lake.assert_still_serves()
