"""SQL that is wrong, too much, or never ends: a clear error each time, and a server that goes on."""

from __future__ import annotations

import time
from collections.abc import Callable

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from conftest import Lake
from harness import files, flightsql
from harness.errors import ANSWERED, allow_error, expect_error, kind_of
from harness.flightsql import Prepared, fetch, query, rows, with_headers
from harness.raw import number
from harness.server import Server

MEBIBYTE = 1 << 20
# For five queries of ten thousand columns; a plan that looks up each of them among all takes minutes.
WIDE_TIMEOUT_S = 120.0


def name_of(lake: Lake, table: str = "t") -> str:
    return f'"{lake.at(table)}"'


@pytest.mark.parametrize(
    ("sql", "kind", "words"),
    [
        ("", "INVALID_ARGUMENT", ""),
        (";", "INVALID_ARGUMENT", ""),
        ("-- nothing", "INVALID_ARGUMENT", ""),
        ("selec 1", "INVALID_ARGUMENT", "line 1"),
        ("select 1 +\n  from {t}", "INVALID_ARGUMENT", "line 2"),
        ("select 'never closed", "INVALID_ARGUMENT", "line 1"),
        ("select nn from {t}", "INVALID_ARGUMENT", "nn"),
        ("select maibe from {t}", "INVALID_ARGUMENT", "maybe"),
        ("select n from {t} where text + 1 = date '2024-01-01'", "INVALID_ARGUMENT", ""),
        ("select no_such_function(n) from {t}", "INVALID_ARGUMENT", "no_such_function"),
        ("select sum(text) from {t}", "INVALID_ARGUMENT", "sum"),
        ("select n, count(*) from {t}", "INVALID_ARGUMENT", "group by"),
        ("select * from no_such_table", "NOT_FOUND", "no_such_table"),
        ('select * from "/nowhere/at/all"', "NOT_FOUND", "/nowhere"),
        ("select * from other_catalog.public.t", "NOT_FOUND", "other_catalog"),
        ("select 1; select 2", "INVALID_ARGUMENT", "one statement|statements"),
        ("select 1; drop table t", "INVALID_ARGUMENT", "one statement|statements"),
        ("create table x (a int)", "UNIMPLEMENTED", ""),
        ("create view x as select 1", "UNIMPLEMENTED", ""),
        ("create external table x stored as csv location '/etc/passwd'", "UNIMPLEMENTED", ""),
        ("drop table {t}", "UNIMPLEMENTED", ""),
        ("insert into {t} select * from {t}", "UNIMPLEMENTED", ""),
        ("update {t} set n = 1", "UNIMPLEMENTED", ""),
        ("delete from {t}", "UNIMPLEMENTED", ""),
        ("copy {t} to '/tmp/stolen.parquet'", "UNIMPLEMENTED", ""),
        ("truncate table {t}", "UNIMPLEMENTED", ""),
        ("begin", "UNIMPLEMENTED", ""),
        ("grant all on {t} to everybody", "UNIMPLEMENTED", ""),
    ],
)
def test_statements_that_are_wrong(lake: Lake, sql: str, kind: str, words: str) -> None:
    lake.write("t/1.parquet", files.numbers(10))
    asked = query(sql.format(t=name_of(lake)))
    kinds = (kind, "INVALID_ARGUMENT") if kind == "UNIMPLEMENTED" else kind
    with expect_error(kinds, words):
        lake.client.get_flight_info(asked)
    with expect_error(kinds, words):
        lake.client.get_schema(asked)
    with expect_error(kinds, words):
        Prepared(lake.client, sql.format(t=name_of(lake)))


@pytest.mark.parametrize(
    "sql", ["select 1 / (n - n) from {t}", "select cast(text as int) from {t}", "select n % 0 from {t}"]
)
def test_what_fails_only_when_it_runs(lake: Lake, sql: str) -> None:
    lake.write("t/1.parquet", files.numbers(10))
    info = lake.client.get_flight_info(query(sql.format(t=name_of(lake))))
    with expect_error("INVALID_ARGUMENT"):
        lake.client.do_get(info.endpoints[0].ticket).read_all()
    lake.assert_still_serves()


def test_an_error_in_the_midst_of_an_answer_is_no_end(lake: Lake) -> None:
    """The rows before it may have come; that the answer is not whole is told."""
    numbers = pa.array(range(200_000), pa.int64())
    lake.write("t/1.parquet", {"n": numbers}, row_group_size=20_000)
    sql = f"select 100 / (n - 150000) as q from {name_of(lake)}"
    (endpoint,) = lake.client.get_flight_info(query(sql)).endpoints
    with expect_error("INVALID_ARGUMENT", "divi"):
        lake.client.do_get(endpoint.ticket).read_all()


def test_a_megabyte_of_sql(lake: Lake) -> None:
    """It is answered or refused in words, as text, as a statement that is prepared, and at any depth."""
    padded = "select 1 as n -- " + "x" * (MEBIBYTE - 100)
    assert rows(lake.client, padded) == [{"n": 1}]
    assert Prepared(lake.client, padded).fetch().table.to_pylist() == [{"n": 1}]
    for sql in [
        "select 1 -- " + "x" * (2 * MEBIBYTE),
        "select " + "(" * 100_000 + "1" + ")" * 100_000,
        "select " + "not " * 100_000 + "true",
        "select 1" + " + 1" * 200_000,
        "select * from (" * 5_000 + "select 1" + ") t" * 5_000,
    ]:
        with expect_error(("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")):
            lake.client.get_flight_info(query(sql))
    lake.assert_still_serves()


def test_a_long_list_of_values(lake: Lake) -> None:
    lake.write("t/1.parquet", files.numbers(50))
    values = ", ".join(str(value) for value in range(25, 50_000))
    with allow_error("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"):
        assert rows(lake.client, f"select count(*) as c from {name_of(lake)} where n in ({values})") == [{"c": 25}]
    lake.assert_still_serves()


def test_ten_thousand_columns(lake: Lake) -> None:
    """All of them, one of them and none of them are asked for like those of any table."""
    written = lake.write("t/1.parquet", {f"c{index}": [index, -index] for index in range(10_000)})
    t, began = name_of(lake), time.monotonic()
    for sql in (f"select * from {t}", f"select * from {t} where c9999 >= -9999 order by c1 desc limit 2"):
        answer = fetch(lake.client, query(sql))
        assert answer.table.replace_schema_metadata().equals(written), sql
    for sql, expected in (
        (f"select c9999 + c5 as s from {t} where c1 = 1", [{"s": 10_004}]),
        (f"select c7 as s from {t} where c9999 < 0", [{"s": -7}]),
        (f"select count(*) as s from {t}", [{"s": 2}]),
    ):
        assert fetch(lake.client, query(sql)).table.to_pylist() == expected, sql
    assert time.monotonic() - began < WIDE_TIMEOUT_S
    lake.write("wide/1.parquet", {f"c{index}": [index] for index in range(1_000)})
    many = ", ".join(f"c{index} + 1 as d{index}" for index in range(1_000))
    answer = fetch(lake.client, query(f"select {many} from {name_of(lake, 'wide')}"))
    assert answer.table.column("d999").to_pylist() == [1_000]
    lake.assert_still_serves()


def test_a_join_that_would_never_end_is_bounded(
    start_server: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """By its time, by its memory; and the server answers others meanwhile and afterwards."""
    folder = tmp_path_factory.mktemp("lake")
    numbers = pa.array(range(200_000), pa.int64())
    files.write(folder / "t.parquet", {"n": numbers, "text": pa.array([f"row {n}" for n in range(200_000)])})
    server = start_server(mounts={"/lake": f"file://{folder}"}, args=["--memory", "256MiB"])
    crossed = 'from "/lake/t.parquet" a cross join "/lake/t.parquet" b cross join "/lake/t.parquet" c'
    for sql in [
        f"select count(*) {crossed} where a.n + b.n + c.n = -1",
        f"select a.text, count(distinct b.text || c.text) {crossed} group by a.text",
        f"select a.n, b.n, c.text {crossed} order by c.text desc, b.n, a.n",
    ]:
        info = server.client.get_flight_info(query(sql), with_headers(x_jetbridge_sql_timeout="3"))
        with pytest.raises(ANSWERED) as caught:
            server.client.do_get(info.endpoints[0].ticket).read_all()
        said = str(caught.value)
        assert kind_of(caught.value) == "RESOURCE_EXHAUSTED" or "deadline" in said.lower(), said
        assert rows(server.client, 'select count(*) as c from "/lake/t.parquet"') == [{"c": 200_000}]
    assert server.daemon.process.poll() is None


def test_parameters_of_the_wrong_number_and_type(lake: Lake) -> None:
    lake.write("t/1.parquet", files.numbers(10))
    sql = f"select n from {name_of(lake)} where n = $1 and text = $2"
    one, word = pa.array([1]), pa.array(["row 1"])
    unbound = Prepared(lake.client, sql)
    with expect_error("INVALID_ARGUMENT", "2 parameters without values"):
        unbound.fetch()
    for columns in ([one], [one, word, one], [word, word], [pa.array([[1]]), word]):
        prepared = Prepared(lake.client, sql)
        names = [f"${at + 1}" for at in range(len(columns))]
        with expect_error("INVALID_ARGUMENT"):
            prepared.bind(pa.record_batch(columns, names))
            prepared.fetch()
    for count in (0, 2):
        with expect_error("INVALID_ARGUMENT", f"{count} rows of parameters"):
            unbound.bind(pa.record_batch([pa.array([1] * count), pa.array(["x"] * count)], ["$1", "$2"]))
    with expect_error("RESOURCE_EXHAUSTED", "bytes"):
        unbound.bind(pa.record_batch([one, pa.array(["x" * MEBIBYTE])], ["$1", "$2"]))
    with expect_error("INVALID_ARGUMENT", "parameters"):
        lake.client.get_flight_info(query(sql))
    lake.assert_still_serves()


def test_a_put_that_says_nothing(lake: Lake) -> None:
    with expect_error(("INVALID_ARGUMENT", "UNIMPLEMENTED")):
        writer, reader = lake.client.do_put(flight.FlightDescriptor.for_command(b""), pa.schema([]))
        writer.done_writing()
        reader.read()
        writer.close()
    lake.assert_still_serves()


def test_a_table_that_changes_between_plan_and_run(lake: Lake) -> None:
    """The answer is of the promised columns, or the ticket is stale; never of others."""
    lake.write("t/1.parquet", {"n": [1, 2, 3]})
    info = lake.client.get_flight_info(query(f"select * from {name_of(lake)} order by n"))
    lake.write("t/1.parquet", {"n": ["now", "it", "is text"], "more": [1, 2, 3]})
    with expect_error("ABORTED", "STALE"):
        lake.client.do_get(info.endpoints[0].ticket).read_all()
    lake.assert_still_serves()


def test_too_many_numbers_and_types_in_a_listing(lake: Lake) -> None:
    everything = b"".join(number(1, value) for value in range(200_000))
    assert flightsql.listing(lake.client, "CommandGetSqlInfo", everything).num_rows > 80
    types = b"".join(flightsql.text(4, f"T{value}") for value in range(100_000))
    assert flightsql.listing(lake.client, "CommandGetTables", types).num_rows == 0
