"""Substrait plans over Flight SQL: they give what their SQL gives, and what is no such plan is refused in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as dbapi
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import Lake
from harness import adbc, files, flightsql, raw, substrait, tpch
from harness.answers import Row, assert_same_rows
from harness.cluster import Cluster, until
from harness.errors import ANSWERED, expect_error
from harness.flight import mount, splits
from harness.flightsql import Prepared, command, fetch, listing, packed, query, with_headers
from harness.members import mounted
from harness.raw import length_delimited
from harness.server import Options, Server

# The least at which each of TPC-H's queries finds something.
SMALL = 0.1
CLUSTER_SCALE, PARTS, WORKERS = 0.05, 12, 3
# Everything is spread, however little it reads.
SPREAD = ("--sql-spread-bytes", "0B")
EXCHANGED = "jetbridge_sql_exchange_bytes_total"
COLUMNS = {"n": "i64", "text": "string"}
SCHEMA = files.numbers(1).schema


def name_of(lake: Lake, table: str = "t") -> str:
    return f'"{lake.at(table)}"'


def schema_of(lake: Lake) -> str:
    return lake.path.strip("/")


def plan_of(lake: Lake, sql: str, table: str = "t") -> bytes:
    """The plan of a query over the table, under the same name as the SQL has it."""
    return substrait.plan(sql, {lake.at(table): SCHEMA})


@pytest.mark.parametrize(
    "sql",
    [
        "select * from {t}",
        "select text, n from {t}",
        "select text, n * 2 + 1 as m from {t} where n >= 90 and maybe is not null order by n desc",
        "select n % 7 as k, count(*) as c, sum(maybe) as s, min(text) as m from {t} group by 1 order by 1",
        "select count(distinct n % 3) as c, avg(n) as a from {t}",
        "select a.n, b.text from {t} a left join {t} b on a.n = b.n + 95 order by a.n desc limit 7",
        "select n from {t} x where exists (select 1 from {t} y where y.n = x.n + 98) order by n",
        "select n from {t} where n = (select max(n) from {t})",
        "select n from {t} where n not in (select n + 1 from {t})",
        "select n, row_number() over (partition by n % 2 order by n desc) as r from {t} order by n limit 5",
        "select n from {t} where n < 2 union all select n * 10 from {t} where n > 97 order by 1",
        "select distinct n % 4 as k from {t} order by k",
        "select case when n > 50 then 'high' else 'low' end as v, upper(text) from {t} order by n limit 60 offset 9",
        "select cast(n as double) as d, cast(text as varchar) as t from {t} where text like '%9' order by n",
        "select n from {t} where n in (3, 5, 1000) order by n",
        "select date '2024-02-29' as d, timestamp '2024-02-29 12:00:00' as ts, 1.5 as f, null as nothing",
        "select 1 as one, 'x' as two",
    ],
)
def test_a_plan_gives_what_its_sql_gives(lake: Lake, sql: str) -> None:
    """Rows and schema, to the bit."""
    lake.write("t/1.parquet", files.numbers(100), row_group_size=30)
    sql = sql.format(t=name_of(lake))
    expected = fetch(lake.client, query(sql))
    got = fetch(lake.client, flightsql.substrait(plan_of(lake, sql)))
    assert got.info.schema.equals(expected.info.schema, check_metadata=True)
    assert got.table.num_rows > 0
    ordered = "order by" in sql or got.table.num_rows == 1
    pair = [table if ordered else table.sort_by("n") for table in (got.table, expected.table)]
    assert pair[0].to_pylist() == pair[1].to_pylist()


def test_a_bare_scan_is_the_flight_of_that_scan(lake: Lake) -> None:
    table = lake.write("t/1.parquet", files.numbers(1_000), row_group_size=100)
    answer = fetch(lake.client, flightsql.substrait(plan_of(lake, f"select * from {name_of(lake)}")))
    assert answer.info.total_records == 1_000
    assert splits(answer.info)[0]["path"] == lake.at("t/1.parquet")
    assert answer.table.sort_by("n").equals(table)


def test_a_table_has_one_to_three_names_or_its_path(lake: Lake) -> None:
    lake.write("t/1.parquet", files.numbers(10))
    lake.write("sub/deep/u.parquet", files.numbers(10))
    schema, here = schema_of(lake), with_headers(x_jetbridge_sql_schema=schema_of(lake))
    for names, options in [
        (["t"], here),
        ([schema, "t"], None),
        (["jetbridge", schema, "t"], None),
        ([f"{schema}.sub", "deep"], None),
        ([schema, "sub", "deep"], None),
        ([lake.at("t")], None),
        ([f"file://{lake.folder}/t"], None),
    ]:
        read = flightsql.substrait(substrait.written(substrait.read(names, COLUMNS)))
        assert fetch(lake.client, read, options).table.num_rows == 10, names
    # A session's default schema holds for whoever makes the plan too.
    made = substrait.plan(f'select count(*) as c from jetbridge."{schema}".t', {"t": SCHEMA}, schema)
    assert fetch(lake.client, flightsql.substrait(made)).table.to_pylist() == [{"c": 10}]
    for names, kind, words in [
        ([schema, "tt"], "NOT_FOUND", f"did you mean {schema}.t"),
        (["/nowhere/at/all"], "NOT_FOUND", "/nowhere"),
        (["t"], "NOT_FOUND", "no table t"),
        ([], "INVALID_ARGUMENT", "table name"),
        (["jetbridge", schema, "sub", "deep"], "INVALID_ARGUMENT", "more names"),
    ]:
        with expect_error(kind, words):
            lake.client.get_flight_info(flightsql.substrait(substrait.written(substrait.read(names, COLUMNS))))


def test_the_catalog_tells_of_itself(lake: Lake) -> None:
    lake.write("t/1.parquet", files.numbers(1))
    names = ["information_schema", "tables"]
    read = substrait.written(substrait.read(names, {"table_schema": "string", "table_name": "string"}))
    found = fetch(lake.client, flightsql.substrait(read)).table.to_pylist()
    assert {"table_schema": schema_of(lake), "table_name": "t"} in found


def test_polling_gives_the_whole_flight_at_once(lake: Lake) -> None:
    lake.write("t/1.parquet", files.numbers(10))
    asked = flightsql.substrait(plan_of(lake, f"select count(*) as c from {name_of(lake)}"))
    polled = raw.poll(lake.server.flight_uri, asked)
    assert polled.next_descriptor is None
    (endpoint,) = polled.info.endpoints
    assert lake.client.do_get(endpoint.ticket).read_all().to_pylist() == [{"c": 10}]


@pytest.mark.parametrize("version", ["0.1.0", "0.85.0", "7.0.0", "no version"])
def test_a_plan_of_any_version_is_taken_where_it_can_be_read(lake: Lake, version: str) -> None:
    asked = flightsql.substrait(plan_of(lake, "select 1 as one"), version)
    assert fetch(lake.client, asked).table.to_pylist() == [{"one": 1}]


def test_a_prepared_plan_is_a_prepared_statement(lake: Lake) -> None:
    lake.write("t/1.parquet", files.numbers(50))
    sql = f"select n, text from {name_of(lake)} where n >= $1 and text <> $2 order by n"
    prepared, expected = Prepared(lake.client, plan_of(lake, sql)), Prepared(lake.client, sql)
    assert prepared.schema.equals(expected.schema, check_metadata=True)
    assert prepared.parameters.equals(expected.parameters)
    with expect_error("INVALID_ARGUMENT", "2 parameters without values"):
        prepared.fetch()
    for number, row in [(48, "row 48"), (49, "")]:
        prepared.bind(pa.record_batch([pa.array([number]), pa.array([row])], ["$1", "$2"]))
        answer = prepared.fetch()
        assert answer.info.schema.equals(prepared.schema, check_metadata=True)
        assert answer.table.to_pylist() == [{"n": 49, "text": "row 49"}]
    with expect_error("INVALID_ARGUMENT"):
        prepared.bind(pa.record_batch([pa.array([1])], ["$1"]))
    prepared.close()
    with expect_error("NOT_FOUND", "closed"):
        prepared.fetch()


@pytest.fixture
def connection(lake: Lake) -> Iterator[dbapi.Connection]:
    """A connection to the shared server."""
    with adbc.connect(lake.server.flight_uri) as connected:
        yield connected


def test_adbc_sends_plans(lake: Lake, connection: dbapi.Connection) -> None:
    """As bytes in place of SQL, which it prepares, and as its statement has it."""
    lake.write("t/1.parquet", files.numbers(100))
    sql = f"select count(*) as c, max(text) as m from {name_of(lake)} where n > 10"
    expected = adbc.table(connection, sql)
    assert adbc.table(connection, plan_of(lake, sql)).equals(expected)
    with connection.cursor() as cursor:
        statement = cursor.adbc_statement
        statement.set_substrait_plan(plan_of(lake, sql))
        stream, _ = statement.execute_query()
        assert pa.RecordBatchReader.from_stream(stream).read_all().equals(expected)
    bound = plan_of(lake, f"select text from {name_of(lake)} where n = $1")
    with connection.cursor() as cursor:
        for number in (3, 99):
            cursor.execute(bound, (number,))
            assert cursor.fetchall() == [(f"row {number}",)]


def test_the_server_says_that_it_takes_plans(lake: Lake) -> None:
    told = listing(lake.client, "CommandGetSqlInfo", b"".join(raw.number(1, asked) for asked in (5, 6, 7)))
    takes, oldest, newest = told.column("value").to_pylist()
    assert takes is True
    assert [len(version.split(".")) for version in (oldest, newest)] == [3, 3]


def call(name: str, *arguments: dict[str, Any]) -> dict[str, Any]:
    """What a plan is written with that filters the table by one function."""
    extension = {"extensionFunction": {"functionAnchor": 1, "name": name}}
    function = {"functionReference": 1, "arguments": [{"value": argument} for argument in arguments]}
    condition = {"scalarFunction": function}
    read = substrait.read(["t"], COLUMNS)
    return {"relation": {"filter": {"input": read, "condition": condition}}, "extensions": [extension]}


def field(at: int) -> dict[str, Any]:
    return {"selection": {"directReference": {"structField": {"field": at}}, "rootReference": {}}}


READ = substrait.read(["t"], COLUMNS)


@pytest.mark.parametrize(
    ("written", "kind", "words"),
    [
        ({"relation": {"write": {"input": READ, "op": "WRITE_OP_INSERT"}}}, "UNIMPLEMENTED", "WriteRel.*reads"),
        ({"relation": {"ddl": {"op": "DDL_OP_DROP"}}}, "UNIMPLEMENTED", "DdlRel.*reads"),
        ({"relation": {"update": {}}}, "UNIMPLEMENTED", "UpdateRel.*reads"),
        ({"relation": {"fetch": {"input": {"write": {"input": READ}}}}}, "UNIMPLEMENTED", "WriteRel.*reads"),
        ({"relation": {"hashJoin": {"left": READ, "right": READ}}}, "UNIMPLEMENTED", "HashJoinRel"),
        ({"relation": {"extensionLeaf": {}}}, "UNIMPLEMENTED", "ExtensionLeafRel"),
        ({"relation": {"read": {"localFiles": {}}}}, "UNIMPLEMENTED", "files by their paths"),
        (call("no_such_function:any", field(0)), "UNIMPLEMENTED", "no_such_function"),
        (call("sum:i64", field(0)), "UNIMPLEMENTED", "sum"),
        (call("gt:any_any", field(0), field(7)), "INVALID_ARGUMENT", "refers to one"),
        ({"relation": {"join": {"left": READ}}}, "INVALID_ARGUMENT", "lacks a part"),
        ({"relation": {"sort": {"sorts": []}}}, ("UNIMPLEMENTED", "INVALID_ARGUMENT"), "input"),
        ({"relation": {}}, "INVALID_ARGUMENT", "rel_type"),
        ({"relation": substrait.read(["t"], {"n": "string"})}, "INVALID_ARGUMENT", "'n'"),
        ({"relation": substrait.read(["t"], {"maibe": "fp64"})}, "INVALID_ARGUMENT", "did you mean maybe"),
        (call("equal:any_any", field(0)), ("UNIMPLEMENTED", "INVALID_ARGUMENT"), "two arguments"),
    ],
)
def test_plans_that_are_wrong(lake: Lake, written: dict[str, Any], kind: str | tuple[str, ...], words: str) -> None:
    lake.write("t/1.parquet", files.numbers(10))
    more = {name: value for name, value in written.items() if name != "relation"}
    plan, here = substrait.written(written["relation"], **more), with_headers(x_jetbridge_sql_schema=schema_of(lake))
    with expect_error(kind, words):
        lake.client.get_flight_info(flightsql.substrait(plan), here)
    with expect_error(kind, words):
        lake.client.get_schema(flightsql.substrait(plan), here)
    with expect_error(kind, words):
        Prepared(lake.client, plan, here)
    lake.assert_still_serves()


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (b"", "no relation"),
        (b"select 1", "no Substrait plan"),
        (b"\xff" * 100, "no Substrait plan"),
        (b"\x00" * (2 << 20), "bytes"),
        (substrait.nested(60), "nests deeper"),
        (substrait.nested(5_000), "nests deeper"),
    ],
    ids=["empty", "text", "noise", "long", "deep", "deeper"],
)
def test_bytes_that_are_no_plan(lake: Lake, plan: bytes, words: str) -> None:
    with expect_error("INVALID_ARGUMENT", words):
        lake.client.get_flight_info(flightsql.substrait(plan))
    with expect_error("INVALID_ARGUMENT", words):
        Prepared(lake.client, plan)
    lake.assert_still_serves()


def test_plans_that_are_short_and_would_be_much(lake: Lake) -> None:
    """Trees as deep as a list is long, columns that are all compared with all, and what doubles with each level."""
    lake.write("t/1.parquet", files.numbers(10))
    here = with_headers(x_jetbridge_sql_schema=schema_of(lake))
    truth = {"literal": {"boolean": True}}
    both = call("and:bool", *[truth] * 20_000)
    for plan, words in [
        (substrait.written({"set": {"inputs": [READ] * 5_000, "op": "SET_OP_UNION_ALL"}}), "relations"),
        (substrait.written(both["relation"], extensions=both["extensions"]), "conditions"),
        (substrait.written({"project": {"input": READ, "expressions": [field(0)] * 40_000}}), "columns"),
        (
            substrait.written({"project": {"common": {"emit": {"outputMapping": [0] * 400_000}}, "input": READ}}),
            "columns",
        ),
    ]:
        with expect_error("INVALID_ARGUMENT", words):
            lake.client.get_flight_info(flightsql.substrait(plan), here)
    lake.assert_still_serves()


def test_messages_without_a_plan_and_in_the_wrong_place(lake: Lake) -> None:
    with expect_error("INVALID_ARGUMENT", "no Substrait plan"):
        lake.client.get_flight_info(command("CommandStatementSubstraitPlan"))
    for name in ("CreatePreparedSubstraitPlan", "CreatePreparedStatement"):
        with expect_error("INVALID_ARGUMENT"):
            flightsql.act(lake.client, name, packed("ActionCreatePreparedSubstraitPlanRequest"))
    plan = length_delimited(1, length_delimited(1, plan_of(lake, "select 1 as one")))
    with expect_error("UNIMPLEMENTED", "transaction"):
        lake.client.get_flight_info(command("CommandStatementSubstraitPlan", plan + length_delimited(2, b"t1")))
    with expect_error("UNIMPLEMENTED", "reads"):
        writer, reader = lake.client.do_put(command("CommandStatementSubstraitPlan", plan), SCHEMA)
        writer.done_writing()
        reader.read()
        writer.close()


def test_a_plan_runs_under_the_options_of_its_session(lake: Lake) -> None:
    asked = flightsql.substrait(plan_of(lake, "select n from (values (1), (2), (3), (4), (5)) as v(n)"))
    limited = fetch(lake.client, asked, with_headers(x_jetbridge_sql_batch_size="2"))
    assert sorted(limited.table.column("n").to_pylist()) == [1, 2, 3, 4, 5]
    assert max(batch.num_rows for batch in limited.table.to_batches()) <= 2
    lake.write("t/1.parquet", files.numbers(3_000))
    crossed = ", ".join(f"{name_of(lake)} {name}" for name in "abcd")
    endless = plan_of(lake, f"select count(*) as c from {crossed} where a.n + b.n + c.n + d.n = -1")
    info = lake.client.get_flight_info(flightsql.substrait(endless), with_headers(x_jetbridge_sql_timeout="1"))
    with pytest.raises(ANSWERED, match="took longer"):
        flightsql.redeem(lake.client, info.endpoints[0].ticket)
    lake.assert_still_serves()


@dataclass(frozen=True)
class Tables:
    """A server with the eight tables of TPC-H in schema `tpch`, and their schemas."""

    connection: dbapi.Connection
    schemas: dict[str, pa.Schema]


def schemas_of(data: Path) -> dict[str, pa.Schema]:
    """The schemas of TPC-H's tables."""
    return {table: pq.read_schema(next((data / table).glob("*.parquet"))) for table in tpch.TABLES}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tables]:
    folder = tmp_path_factory.mktemp("tpch")
    data = tpch.tables(folder, SMALL)
    with ExitStack() as stack:
        server = Server(folder / "data", Options(mounts={"/tpch": f"file://{data}"}))
        stack.callback(server.stop)
        header = {f"{adbc.HEADER}x-jetbridge-sql-schema": "tpch"}
        yield Tables(stack.enter_context(adbc.connect(server.flight_uri, **header)), schemas_of(data))


@pytest.mark.parametrize("number", tpch.QUERIES)
def test_a_query_of_tpch_as_a_plan(tables: Tables, number: int) -> None:
    """All 22, each against its own text."""
    sql = tpch.query(number, SMALL)
    expected = adbc.table(tables.connection, sql)
    got = adbc.table(tables.connection, substrait.plan(sql, tables.schemas))
    assert expected.num_rows > 0
    assert got.schema.equals(expected.schema)
    assert_same_rows(rows(got), rows(expected), tpch.SORTED_BY.get(number))


def rows(table: pa.Table) -> list[Row]:
    return [tuple(row.values()) for row in table.to_pylist()]


def test_three_workers_run_a_plan(tmp_path: Path) -> None:
    """It is spread as its text is, and its ticket says all, to whichever node."""
    data = tpch.tables(tmp_path, CLUSTER_SCALE, PARTS)
    arguments = (*SPREAD, "--file-root", str(data))
    here = with_headers(x_jetbridge_sql_schema="tpch")
    with Cluster.start(tmp_path, {}, WORKERS, args=arguments, worker_args=arguments) as cluster:
        with cluster.coordinator.connect() as client:
            mount(client, "/tpch", f"file://{data}", freshness="immutable")
        until(lambda: all("/tpch" in mounted(node) for node in cluster.nodes), "the mount is seen")
        exchanged = sum(node.total(EXCHANGED) for node in cluster.nodes)
        for number in (1, 3, 13):
            sql = tpch.query(number, CLUSTER_SCALE)
            asked = flightsql.substrait(substrait.plan(sql, schemas_of(data)))
            with cluster.coordinator.connect() as client, cluster.workers[1].connect() as other:
                expected = rows(fetch(client, query(sql), here).table)
                (endpoint,) = client.get_flight_info(asked, here).endpoints
                for node in (client, other):
                    got = rows(node.do_get(endpoint.ticket).read_all())
                    assert_same_rows(got, expected, tpch.SORTED_BY.get(number))
        assert sum(node.total(EXCHANGED) for node in cluster.nodes) > exchanged
