"""Datasets as tables of DataFusion's Python package: the same rows, no more of them read than a query needs."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import datafusion
import jetbridge as jb
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from conftest import Lake
from harness import files
from harness.compare import assert_same
from harness.leftovers import assert_nothing_is_left, held
from harness.matrix import ALL_TYPES, ROWS, matrix_table
from harness.metrics import lookups
from harness.process import clean_environment
from harness.server import Options, Server
from harness.trips import ROWS as TRIPS
from harness.trips import trips, write_trips

# An answer that takes longer is none.
SOON_S = 60
PROGRAM_TIMEOUT_S = 120
ZONES = pa.table({"vendor": ["a", "b", "c", "x"], "zone": ["north", "south", "north", "none"]})


def session(partitions: int = 4, **tables: jb.Dataset) -> datafusion.SessionContext:
    """A session with these tables."""
    context = datafusion.SessionContext(datafusion.SessionConfig().with_target_partitions(partitions))
    for name, dataset in tables.items():
        context.register_table(name, dataset)
    return context


def rows(context: datafusion.SessionContext, query: str) -> list[dict[str, object]]:
    """What a query gives."""
    got: list[dict[str, object]] = context.sql(query).to_arrow_table().to_pylist()
    return got


def scans(context: datafusion.SessionContext, query: str) -> list[str]:
    """What the plan of a query shows of its scans."""
    plans = context.sql(f"explain {query}").to_pydict()
    (plan,) = (plan for kind, plan in zip(plans["plan_type"], plans["plan"], strict=True) if kind == "physical_plan")
    return [line for line in plan.splitlines() if "RemoteScanExec" in line]


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("for-datafusion")
    write_trips(folder / "trips")
    files.write(folder / "zones" / "a.parquet", ZONES)
    return folder


@pytest.fixture(scope="module")
def own_server(own_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose lookups nobody else adds to."""
    options = Options(mounts={"/own": f"file://{own_folder}"}, file_roots=[own_folder])
    running = Server(tmp_path_factory.mktemp("own") / "data", options)
    yield running
    running.stop()


@pytest.fixture
def own(own_server: Server) -> Iterator[jb.Client]:
    with jb.connect(own_server.flight_uri) as client:
        yield client


@pytest.fixture
def both(own: jb.Client) -> datafusion.SessionContext:
    return session(trips=own.dataset("/own/trips"), zones=own.dataset("/own/zones"))


@pytest.mark.parametrize("name", sorted(ALL_TYPES))
def test_columns_of_every_type_are_those_of_the_file(lake: Lake, name: str) -> None:
    lake.write("t.parquet", matrix_table(ALL_TYPES[name]))
    with jb.connect(lake.server.flight_uri) as client:
        dataset = client.dataset(lake.at("t.parquet"))
        # In one partition, of which one endpoint is all: in the file's order.
        # Frames do not keep their session.
        one, four = session(1, t=dataset), session(t=dataset)
        assert_same(one.sql("select * from t").to_arrow_table(), dataset.to_arrow())
        assert four.sql("select number from t where number >= 10").to_arrow_table().num_rows == ROWS - 10


def cheap(table: pa.Table) -> pa.Table:
    return table.filter(pc.less(table["fare"], 5.0))


QUERIES: dict[str, Callable[[pa.Table], pa.Table]] = {
    "select * from trips": lambda table: table,
    "select fare, id from trips": lambda table: table.select(["fare", "id"]),
    "select id, day from trips where id >= 240 and id < 260": lambda table: table.slice(240, 20).select(["id", "day"]),
    "select id from trips where vendor in ('a', 'b') and not id = 5": lambda table: table.filter(
        pc.and_(pc.is_in(table["vendor"], pa.array(["a", "b"])), pc.not_equal(table["id"], 5))
    ).select(["id"]),
    "select id from trips where fare < 5.0": lambda table: cheap(table).select(["id"]),
    "select id from trips where fare is null": lambda table: table.filter(pc.is_null(table["fare"])).select(["id"]),
    "select id from trips where id % 7 = 3": lambda table: table.filter(
        pc.equal(pc.subtract(table["id"], pc.multiply(pc.divide(table["id"], 7), 7)), 3)
    ).select(["id"]),
    "select id from trips where false": lambda table: table.slice(0, 0).select(["id"]),
    "select id from trips order by id desc limit 7": lambda table: table.slice(TRIPS - 7).select(["id"]),
    "select vendor, count(*) as n, sum(id) as ids, max(fare) as most from trips group by vendor": lambda table: (
        table.group_by("vendor")
        .aggregate([([], "count_all"), ("id", "sum"), ("fare", "max")])
        .rename_columns(["vendor", "n", "ids", "most"])
    ),
    "select t.id, z.zone from trips t join zones z on t.vendor = z.vendor where t.fare < 5.0": lambda table: (
        cheap(table).join(ZONES, "vendor", join_type="inner").select(["id", "zone"])
    ),
    "select vendor, count(id) as n from zones left join trips using (vendor) group by vendor": lambda table: (
        ZONES.join(table, "vendor").group_by("vendor").aggregate([("id", "count")]).rename_columns(["vendor", "n"])
    ),
}


@pytest.mark.parametrize("query", QUERIES)
def test_queries_give_what_pyarrow_computes(both: datafusion.SessionContext, query: str) -> None:
    def in_order(table: pa.Table) -> list[dict[str, object]]:
        return sorted(table.to_pylist(), key=repr)

    got = both.sql(query).to_arrow_table()
    assert got.column_names == QUERIES[query](trips()).column_names
    assert in_order(got) == in_order(QUERIES[query](trips()))


def test_a_limit_gives_so_many_rows(both: datafusion.SessionContext) -> None:
    for query in ("select * from trips limit 13", "select id from trips where fare < 5.0 limit 13"):
        assert both.sql(query).to_arrow_table().num_rows == 13
    assert both.sql("select id from trips limit 0").to_arrow_table().num_rows == 0


def test_columns_conditions_and_limits_are_in_the_scan(both: datafusion.SessionContext) -> None:
    (all_of_it,) = scans(both, "select * from trips")
    assert "columns=[id, vendor, fare, day]" in all_of_it
    assert "filter=" not in all_of_it
    assert "limit=" not in all_of_it
    (some,) = scans(both, "select fare from trips where id < 250 and vendor = 'a'")
    for words in ("columns=[fare]", '"id" < 250', """"vendor" = 'a'"""):
        assert words in some
    assert "endpoints=1," in some, "the other files cannot have such rows"
    (first,) = scans(both, "select id from trips limit 10")
    assert "limit=10" in first
    assert len(scans(both, "select * from trips natural join zones")) == 2


def test_what_is_not_asked_for_is_not_read(own_server: Server, both: datafusion.SessionContext) -> None:
    def looked_up(query: str) -> float:
        before = lookups(own_server.admin_uri)["chunk"]
        both.sql(query).collect()
        return lookups(own_server.admin_uri)["chunk"].since(before).all

    # Four files of two row groups of four columns.
    assert looked_up("select * from trips") == 32
    assert looked_up("select fare from trips") == 8
    assert looked_up("select fare from trips where id < 125") <= 2
    assert looked_up("select count(*) from trips") == 0, "the plan knows it"


def test_the_workers_of_a_cluster_are_read_at_once(jb_client: jb.Client) -> None:
    dataset = jb_client.dataset("/lake/trips")
    context = session(2, trips=dataset)
    (shown,) = scans(context, "select * from trips")
    assert "partitions=2" in shown
    # By chance one worker may own all of the four files.
    assert f"locations={len({split.locations[0] for split in dataset.plan()})}" in shown
    assert context.sql("select * from trips").to_arrow_table().sort_by("id").equals(trips())


def test_a_client_is_a_catalog(own: jb.Client, own_folder: Path) -> None:
    context = datafusion.SessionContext(datafusion.SessionConfig().with_information_schema())
    context.register_catalog_provider("jetbridge", own)
    catalog = context.catalog("jetbridge")
    assert set(catalog.schema_names()) == {"own"}
    assert set(catalog.schema("own").table_names()) == {"trips", "zones"}
    query = "select count(*) as n from jetbridge.own.trips t join jetbridge.own.zones z on t.vendor = z.vendor"
    assert rows(context, query) == [{"n": 600}]
    assert rows(context, 'select max(id) as top from jetbridge.own."/own/trips"') == [{"top": TRIPS - 1}]
    # One that came later is there for queries, too.
    files.write(own_folder / "later" / "a.parquet", {"n": [1, 2, 3]})
    assert rows(context, "select sum(n) as n from jetbridge.own.later") == [{"n": 6}]
    with pytest.raises(Exception, match="nosuch"):
        context.sql("select * from jetbridge.own.nosuch")


def test_another_schema_takes_a_table(own: jb.Client) -> None:
    context = datafusion.SessionContext()
    context.catalog().schema().register_table("t", own.dataset("/own/trips"))
    assert rows(context, "select count(id) as n from t where id < 9") == [{"n": 9}]
    assert context.read_table(own.dataset("/own/zones")).to_arrow_table().equals(ZONES)


@pytest.mark.parametrize("version", ["54.0.0", "56.1.0", "5.5", "dev"])
def test_a_package_of_another_version_is_refused_in_words(
    own: jb.Client, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    context = datafusion.SessionContext()
    monkeypatch.setattr(datafusion, "__version__", version)
    for register in (
        lambda: context.register_table("t", own.dataset("/own/trips")),
        lambda: context.register_catalog_provider("jetbridge", own),
    ):
        with pytest.raises(jb.MissingExtraError, match=re.escape(version)) as refused:
            register()
        assert isinstance(refused.value, ImportError)
        assert refused.value.hint == f"pip install 'datafusion==55.*' in place of {version}"


def test_what_is_no_session_is_refused(own: jb.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = own.dataset("/own/trips")
    with pytest.raises(TypeError, match="PyCapsule"):
        dataset.__datafusion_table_provider__(object())
    with pytest.raises(ValueError, match="incorrect name"):
        dataset.__datafusion_table_provider__(dataset.schema.__arrow_c_schema__())
    monkeypatch.delitem(sys.modules, "datafusion")
    with pytest.raises(jb.MissingExtraError, match="imported is None"):
        dataset.__datafusion_table_provider__(object())


def test_the_package_is_built_for_the_version_that_the_tests_have() -> None:
    assert datafusion.__version__.partition(".")[0] == str(jb._native.DATAFUSION_MAJOR)


def test_errors_at_registration_are_ours(own: jb.Client) -> None:
    context = datafusion.SessionContext()
    with pytest.raises(jb.NotFoundError, match="/own/trip"):
        context.register_table("t", own.dataset("/own/tripz"))
    with pytest.raises(jb.UnavailableError):
        context.register_catalog_provider("t", jb.connect("grpc://127.0.0.1:9", check=False, retries=0))


def test_a_server_that_is_gone_is_an_error_soon(start_server: Callable[..., Server], own_folder: Path) -> None:
    server = start_server(mounts={"/own": f"file://{own_folder}"}, file_roots=[own_folder])
    with jb.connect(server.flight_uri) as client:
        context = session(trips=client.dataset("/own/trips"))
        assert rows(context, "select count(id) as n from trips where id < 3") == [{"n": 3}]
        server.daemon.kill()
        began = time.monotonic()
        with pytest.raises(Exception, match="planning a scan of /own/trips"):
            context.sql("select * from trips").collect()
        assert time.monotonic() - began < SOON_S


def test_a_closed_client_ends_its_tables(own_server: Server) -> None:
    client = jb.connect(own_server.flight_uri)
    context = session(trips=client.dataset("/own/trips"))
    context.register_catalog_provider("jetbridge", client)
    other = session(1, trips=client.dataset("/own/trips"))
    stream = other.sql("select * from trips").execute_stream()
    client.close()
    with pytest.raises(Exception, match="was closed"):
        for _ in stream:
            pass
    with pytest.raises(Exception, match="was closed"):
        context.sql("select * from trips").collect()
    with pytest.raises(Exception, match="was closed"):
        context.sql("select * from jetbridge.own.trips")
    with pytest.raises(jb.ClosedError):
        context.register_table("t", client.dataset("/own/trips"))


def test_a_table_needs_none_of_the_objects_that_it_was_made_of(own_server: Server) -> None:
    context = datafusion.SessionContext(datafusion.SessionConfig().with_batch_size(10))
    context.register_table("trips", jb.connect(own_server.flight_uri).dataset("/own/trips"))
    gc.collect()
    stream = iter(context.sql("select id from trips").execute_stream())
    seen = [next(stream).to_pyarrow()]
    context.deregister_table("trips")
    gc.collect()
    seen += [batch.to_pyarrow() for batch in stream]
    assert sorted(pa.Table.from_batches(seen)["id"].to_pylist()) == list(range(TRIPS))


def test_threads_share_a_session(both: datafusion.SessionContext) -> None:
    wrong: list[object] = []

    def ask(start: int) -> None:
        for at in range(start, start + 10):
            got = rows(both, f"select count(id) as n from trips where id >= {at}")
            if got != [{"n": TRIPS - at}]:
                wrong.append((at, got))

    threads = [threading.Thread(target=ask, args=(number * 100,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_nothing_is_left_of_sessions(own_server: Server) -> None:
    def once() -> None:
        with jb.connect(own_server.flight_uri) as client:
            context = session(trips=client.dataset("/own/trips"))
            context.register_catalog_provider("jetbridge", client)
            assert rows(context, "select sum(id) as n from trips") == [{"n": TRIPS * (TRIPS - 1) // 2}]
            # One that is not read to its end.
            next(iter(context.sql("select * from jetbridge.own.trips").execute_stream()))

    for _ in range(3):
        once()
    time.sleep(3)
    before = held()
    for _ in range(30):
        once()
    assert_nothing_is_left(before)


IN_A_FORK = """
    import os, sys, warnings
    warnings.simplefilter("ignore")
    import datafusion
    import jetbridge as jb

    client = jb.connect({uri!r})
    dataset = client.dataset("/own/trips")
    context = datafusion.SessionContext()
    context.register_table("trips", dataset)
    pid = os.fork()
    if pid == 0:
        try:
            context.sql("select * from trips where id < 3").collect()
        except Exception as error:
            print("parent's:", *str(error).split(), flush=True)
        context.register_table("mine", dataset)
        print("mine:", context.sql("select max(id) as top from mine").to_pydict(), flush=True)
        del context
        os._exit(0)
    print("child:", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    print("parent:", context.sql("select max(id) as top from trips").to_pydict(), flush=True)
"""


def test_a_forked_process_registers_its_tables_itself(own_server: Server) -> None:
    """DataFusion's own threads begin with its first query, and no fork has them: so the parent asks after it."""
    program = textwrap.dedent(IN_A_FORK.format(uri=own_server.flight_uri))
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT_S,
        check=False,
        env=clean_environment(),
    )
    said = done.stdout.splitlines()
    assert len(said) == 4, done.stdout + done.stderr
    assert re.match("parent's: .*register it again", said[0])
    assert said[1:] == ["mine: {'top': [999]}", "child: 0", "parent: {'top': [999]}"]


def test_datafusion_is_not_imported_before_it_is_used() -> None:
    program = "import sys, jetbridge; assert not {'datafusion', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, env=clean_environment())
