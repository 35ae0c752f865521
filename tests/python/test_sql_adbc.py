"""Flight SQL as ADBC's driver speaks it, which refuses an answer whose schema is not the promised one to the bit."""

from __future__ import annotations

import datetime as dt
import decimal
import threading
from collections.abc import Iterator

import adbc_driver_flightsql.dbapi as dbapi
import adbc_driver_manager as manager
import pyarrow as pa
import pytest

from conftest import Lake
from harness import adbc, files
from harness.cluster import until
from harness.compare import assert_same, assert_same_schema
from harness.metrics import total
from harness.types import nested_types, plain_types
from harness.values import array_of

# Long enough that it would never end by itself within a test's time.
ENDLESS = (
    "select count(*) from {t} a cross join {t} b cross join {t} c cross join {t} d where a.n + b.n + c.n + d.n = -1"
)
# Types that no query can hold as a value: nothing in SQL stands for them.
NOT_VALUES = {"list_view", "large_list_view"}


@pytest.fixture
def connection(lake: Lake) -> Iterator[dbapi.Connection]:
    """A connection to the shared server."""
    with adbc.connect(lake.server.flight_uri) as connected:
        yield connected


def name_of(lake: Lake, table: str = "t") -> str:
    """The table of a file as SQL has it: its path in quotes."""
    return f'"{lake.at(table)}"'


def schema_of(lake: Lake) -> str:
    return lake.path.strip("/")


def test_a_whole_table_is_read(lake: Lake, connection: dbapi.Connection) -> None:
    table = lake.write("t/1.parquet", files.numbers(20_000), row_group_size=3_000)
    got = adbc.table(connection, f"select * from {name_of(lake)}")
    assert_same(got.sort_by("n"), table)


def test_operators_give_the_schema_that_was_promised(lake: Lake, connection: dbapi.Connection) -> None:
    schema = pa.schema([pa.field("n", pa.int64(), nullable=False), pa.field("text", pa.string())])
    lake.write("t/1.parquet", pa.table({"n": [1, 2, 3], "text": ["a", "b", None]}, schema=schema))
    t = name_of(lake)
    for sql, expected in [
        (f"select count(*) c, sum(n) s, min(text) m from {t}", [{"c": 3, "s": 6, "m": "a"}]),
        (f"select n + 1 as m from {t} where text = 'a'", [{"m": 2}]),
        (
            f"select a.n, b.text from {t} a left join {t} b on a.n = b.n + 2 order by a.n desc limit 1",
            [{"n": 3, "text": "a"}],
        ),
        (f"select 1 as one from {t} union all select null order by 1 nulls first limit 1", [{"one": None}]),
        (f"select n from {t} where false", []),
        ("select 1 as a, 'x' as b, null as c", [{"a": 1, "b": "x", "c": None}]),
    ]:
        assert adbc.table(connection, sql).to_pylist() == expected, sql


def test_rows_come_through_the_cursor(lake: Lake, connection: dbapi.Connection) -> None:
    lake.write("t/1.parquet", files.numbers(10))
    with connection.cursor() as cursor:
        cursor.execute(f"select n, text from {name_of(lake)} order by n desc")
        assert [column[0] for column in cursor.description] == ["n", "text"]
        assert cursor.fetchone() == (9, "row 9")
        assert cursor.fetchmany(2) == [(8, "row 8"), (7, "row 7")]
        assert len(cursor.fetchall()) == 7


@pytest.mark.parametrize("kind", [*plain_types(), *nested_types()])
def test_a_parameter_of_every_type_comes_back_as_it_was(connection: dbapi.Connection, kind: str) -> None:
    if kind in NOT_VALUES:
        pytest.skip(f"no value of a query has the type {kind}")
    wanted = {**plain_types(), **nested_types()}[kind]
    sent = array_of(wanted, 1, seed=7, null_share=0.0)
    row = pa.record_batch([sent], ["$1"])
    got = adbc.table(connection, "select $1 as v", row).column("v").combine_chunks()
    # A value keeps its type, but for what SQL has no values of: a dictionary is its value, an extension its storage.
    plain = _storage(sent.dictionary_decode() if pa.types.is_dictionary(wanted) else sent)
    assert _storage(got).cast(plain.type).equals(plain), f"{got} for {sent}"


def test_parameters_stand_for_values_of_every_common_python_type(lake: Lake, connection: dbapi.Connection) -> None:
    values = {
        "i": 7,
        "f": 2.5,
        "s": "it's",
        "b": b"\x00\xff",
        "t": True,
        "d": dt.date(2024, 2, 29),
        "ts": dt.datetime(2024, 2, 29, 12, 30, 1),
        "dec": decimal.Decimal("12.34"),
    }
    lake.write("t/1.parquet", pa.table({name: [value, None] for name, value in values.items()}))
    for name, value in values.items():
        sql = f"select count(*) from {name_of(lake)} where {name} = $1"
        assert adbc.value(connection, sql, (value,)) == 1, name
    question_marks = f"select count(*) from {name_of(lake)} where i = ? and s = ? and f < ?"
    assert adbc.value(connection, question_marks, (7, "it's", 3)) == 1
    assert adbc.value(connection, f"select count(*) from {name_of(lake)} where i is not distinct from $1", (None,)) == 1


def test_a_statement_is_prepared_once_and_run_with_other_values(lake: Lake, connection: dbapi.Connection) -> None:
    lake.write("t/1.parquet", files.numbers(100))
    sql = f"select text from {name_of(lake)} where n = $1"
    with connection.cursor() as cursor:
        schema = cursor.adbc_prepare(sql)
        assert [field.type for field in schema] == [pa.int64()]
        for number in (3, 50, 99):
            cursor.execute(sql, (number,))
            assert cursor.fetchall() == [(f"row {number}",)]


def test_values_that_do_not_fit_are_refused(lake: Lake, connection: dbapi.Connection) -> None:
    lake.write("t/1.parquet", files.numbers(10))
    sql = f"select n from {name_of(lake)} where n = $1"
    with connection.cursor() as cursor, pytest.raises(manager.ProgrammingError, match="INVALID_ARGUMENT"):
        cursor.execute(sql)
    for values in [(1, 2), ("not a number",)]:
        with pytest.raises(manager.ProgrammingError, match="INVALID_ARGUMENT"):
            adbc.table(connection, sql, values)
    two = pa.record_batch([pa.array([1, 2])], ["$1"])
    with connection.cursor() as cursor, pytest.raises(manager.ProgrammingError, match="2 rows of parameters"):
        cursor.execute(sql, two)


def test_writing_is_refused_in_words(lake: Lake, connection: dbapi.Connection) -> None:
    lake.write("t/1.parquet", files.numbers(10))
    with connection.cursor() as cursor:
        with pytest.raises(manager.NotSupportedError, match="reads"):
            cursor.executemany(f"select n from {name_of(lake)} where n = $1", [(1,), (2,)])
        with pytest.raises(manager.NotSupportedError, match="reads"):
            cursor.adbc_ingest("new", files.numbers(3), mode="create")


def test_objects_at_every_depth(lake: Lake, connection: dbapi.Connection) -> None:
    lake.write("a/1.parquet", files.numbers(1))
    lake.write("sub/b/1.parquet", files.numbers(1))
    schema = schema_of(lake)
    for depth in ("catalogs", "db_schemas", "tables", "all"):
        reader = connection.adbc_get_objects(depth=depth, db_schema_filter=f"{schema}%")
        (catalog,) = reader.read_all().to_pylist()
        assert catalog["catalog_name"] == "jetbridge"
        if depth == "catalogs":
            continue
        schemas = {entry["db_schema_name"]: entry["db_schema_tables"] for entry in catalog["catalog_db_schemas"]}
        assert set(schemas) == {schema, f"{schema}.sub"}
        if depth == "db_schemas":
            continue
        (table,) = schemas[schema]
        assert (table["table_name"], table["table_type"]) == ("a", "TABLE")
        (other,) = schemas[f"{schema}.sub"]
        assert other["table_name"] == "b"
        if depth == "all":
            columns = {column["column_name"]: column for column in table["table_columns"]}
            assert list(columns) == ["n", "text", "maybe"]
            assert columns["n"]["ordinal_position"] == 1


def test_objects_are_filtered(lake: Lake, connection: dbapi.Connection) -> None:
    for name in ("ab", "ac", "b_c", "bxc"):
        lake.write(f"{name}/1.parquet", files.numbers(1))

    def found(pattern: str) -> set[str]:
        filters = {"db_schema_filter": schema_of(lake), "table_name_filter": pattern}
        (catalog,) = connection.adbc_get_objects(depth="tables", **filters).read_all().to_pylist()
        return {table["table_name"] for schema in catalog["catalog_db_schemas"] for table in schema["db_schema_tables"]}

    assert found("a%") == {"ab", "ac"}
    assert found("b_c") == {"b_c", "bxc"}
    assert found(r"b\_c") == {"b_c"}
    assert found("nothing") == set()


def test_the_schema_of_a_table(lake: Lake, connection: dbapi.Connection) -> None:
    schema = pa.schema([pa.field("n", pa.int64(), nullable=False), pa.field("d", pa.decimal128(9, 2))])
    lake.write("t/1.parquet", pa.table({"n": [1], "d": [decimal.Decimal("1.25")]}, schema=schema))
    got = connection.adbc_get_table_schema("t", db_schema_filter=schema_of(lake))
    assert_same_schema(got, schema)
    with pytest.raises(manager.Error):
        connection.adbc_get_table_schema("no_such_table", db_schema_filter=schema_of(lake))
    assert connection.adbc_get_table_types() == ["TABLE"]


def test_what_the_server_says_of_itself(connection: dbapi.Connection) -> None:
    info = connection.adbc_get_info()
    assert info["vendor_name"] == "Jetbridge"
    assert info["vendor_arrow_version"].startswith("59.")


def test_the_schema_of_an_answer_without_running_it(lake: Lake, connection: dbapi.Connection) -> None:
    lake.write("t/1.parquet", files.numbers(10))
    with connection.cursor() as cursor:
        schema = cursor.adbc_execute_schema(
            f"select count(*) as c, max(text) as m, n / 0 as z from {name_of(lake)} group by n"
        )
        assert [(field.name, field.type) for field in schema] == [
            ("c", pa.int64()),
            ("m", pa.string()),
            ("z", pa.int64()),
        ]


def test_partitions_are_read_by_another_connection(lake: Lake, connection: dbapi.Connection) -> None:
    table = lake.write("t/1.parquet", files.numbers(5_000), row_group_size=500)
    t = name_of(lake)
    for sql, expected in [(f"select * from {t}", table), (f"select n from {t} where n % 2 = 0", None)]:
        with connection.cursor() as cursor:
            partitions, schema = cursor.adbc_execute_partitions(sql)
        parts = []
        for partition in partitions:
            with adbc.connect(lake.server.flight_uri) as other, other.cursor() as cursor:
                cursor.adbc_read_partition(partition)
                parts.append(cursor.fetch_arrow_table())
        got = pa.concat_tables(parts).sort_by("n")
        assert_same_schema(got.schema, schema)
        if expected is not None:
            assert_same(got, expected)
        else:
            assert got.column("n").to_pylist() == list(range(0, 5_000, 2))


def test_a_running_query_is_cancelled(lake: Lake, connection: dbapi.Connection) -> None:
    lake.write("t/1.parquet", files.numbers(3_000))
    ended = threading.Event()
    with connection.cursor() as cursor:

        def cancel() -> None:
            # A word that comes before the query has begun is for nothing.
            while not ended.wait(1.0):
                cursor.adbc_cancel()

        cancelling = threading.Thread(target=cancel)
        cancelling.start()
        try:
            with pytest.raises(manager.Error, match=r"(?i)cancel"):
                _run(cursor, ENDLESS.format(t=name_of(lake)))
        finally:
            ended.set()
            cancelling.join()
    assert adbc.value(connection, "select 1") == 1
    lake.assert_still_serves()


def test_nothing_runs_when_a_flight_is_asked_for(lake: Lake, connection: dbapi.Connection) -> None:
    lake.write("t/1.parquet", files.numbers(1_000))
    with connection.cursor() as cursor:
        # It would never end, and its division would fail with the first row.
        partitions, _ = cursor.adbc_execute_partitions(ENDLESS.format(t=name_of(lake)))
        assert len(partitions) == 1
        cursor.adbc_execute_partitions(f"select 1 / (n - n) as z from {name_of(lake)}")
    with pytest.raises(manager.Error, match=r"(?i)divi"):
        adbc.table(connection, f"select 1 / (n - n) as z from {name_of(lake)}")
    until(lambda: total(lake.server.admin_uri, "jetbridge_flight_streams") == 0, "no stream is open")


@pytest.mark.parametrize("cookies", ["true", "false"])
def test_the_current_schema_is_a_sessions_own(lake: Lake, cookies: str) -> None:
    lake.write("t/1.parquet", files.numbers(4))
    uri = lake.server.flight_uri
    with adbc.connect(uri, **{adbc.COOKIES: cookies}) as one, adbc.connect(uri, **{adbc.COOKIES: cookies}) as other:
        assert one.adbc_current_catalog == "jetbridge"
        default = one.adbc_current_db_schema
        one.adbc_current_db_schema = schema_of(lake)
        assert one.adbc_current_db_schema == schema_of(lake)
        assert adbc.value(one, "select count(*) from t") == 4
        assert other.adbc_current_db_schema == default
        with pytest.raises(manager.ProgrammingError, match="NOT_FOUND"):
            adbc.value(other, "select count(*) from t")
        with pytest.raises(manager.Error):
            one.adbc_current_catalog = "elsewhere"
        with pytest.raises(manager.Error):
            one.adbc_current_db_schema = "no.such.schema"
        assert one.adbc_current_db_schema == schema_of(lake)


def test_a_header_sets_the_schema_without_a_session(lake: Lake) -> None:
    lake.write("t/1.parquet", files.numbers(6))
    header = {f"{adbc.HEADER}x-jetbridge-sql-schema": schema_of(lake)}
    with adbc.connect(lake.server.flight_uri, **header) as connected:
        assert adbc.value(connected, "select count(*) from t") == 6


def test_a_login_by_name_and_password_is_let_in(lake: Lake) -> None:
    with adbc.connect(lake.server.flight_uri, username="somebody", password="secret") as connected:
        assert adbc.value(connected, "select 1") == 1


@pytest.mark.parametrize(
    ("sql", "error", "words"),
    [
        ("selec 1", manager.ProgrammingError, "INVALID_ARGUMENT.*line 1"),
        ("select nn from {t}", manager.ProgrammingError, 'INVALID_ARGUMENT.*"?n"?'),
        ("select * from {t}_and_more", manager.ProgrammingError, "NOT_FOUND"),
        ("select n + text from {t} where n like 3", manager.ProgrammingError, "INVALID_ARGUMENT"),
        ("select 1; select 2", manager.ProgrammingError, "INVALID_ARGUMENT"),
        ("create table x (a int)", manager.NotSupportedError, "(?i)not implemented|unimplemented"),
        ("insert into {t} values (1, 'a', 2)", manager.NotSupportedError, "(?i)not implemented|unimplemented"),
    ],
)
def test_errors_are_told_apart(
    lake: Lake, connection: dbapi.Connection, sql: str, error: type[Exception], words: str
) -> None:
    lake.write("t/1.parquet", files.numbers(10))
    path = lake.at("t")
    text = sql.replace("{t}_and_more", f'"{path}_and_more"').replace("{t}", f'"{path}"')
    with pytest.raises(error, match=f"(?s){words}"):
        adbc.table(connection, text)


def _storage(array: pa.Array) -> pa.Array:
    """The array without extension types, at its top and in its lists."""
    if isinstance(array, pa.ExtensionArray):
        return array.storage
    if pa.types.is_list(array.type) and isinstance(array.type.value_type, pa.BaseExtensionType):
        return pa.ListArray.from_arrays(array.offsets, array.flatten().storage)
    return array


def _run(cursor: dbapi.Cursor, sql: str) -> None:
    cursor.execute(sql)
    cursor.fetchall()
