"""Sessions: options set once, by cookie, by connection, by header; on whichever node."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from conftest import Lake
from harness import files, flightsql
from harness.cluster import Cluster
from harness.errors import expect_error
from harness.flightsql import Cookies, Prepared, close_session, get_options, query, rows, set_options, with_headers

# Errors of SetSessionOptions.
INVALID_NAME, INVALID_VALUE = 1, 2
DEFAULTS = {"catalog": "jetbridge", "schema": "public", "timeout": 0.0}


def schema_of(lake: Lake) -> str:
    return lake.path.strip("/")


def test_without_a_session_the_defaults_hold(lake: Lake) -> None:
    with lake.server.connect() as client:
        options = get_options(client)
        assert options == {**options, **DEFAULTS}
        assert options["batch_size"] > 0


def test_options_are_kept_by_a_cookie(lake: Lake) -> None:
    lake.write("t/1.parquet", files.numbers(5))
    cookies = Cookies()
    with cookies.connect(lake.server.flight_uri) as client:
        assert set_options(client, {"schema": schema_of(lake), "timeout": 30, "batch_size": 2}) == {}
        assert get_options(client) == {
            "catalog": "jetbridge",
            "schema": schema_of(lake),
            "timeout": 30.0,
            "batch_size": 2,
        }
        answer = flightsql.fetch(client, query("select n from t where n >= 0"))
        assert [batch.num_rows for batch in answer.table.to_batches()] == [2, 2, 1]
    # The cookie is the session: on a new connection it is the same one.
    with cookies.connect(lake.server.flight_uri) as again:
        assert rows(again, "select count(*) as c from t") == [{"c": 5}]
        assert close_session(again) == 1
        assert cookies.kept == {}
        assert get_options(again)["schema"] == DEFAULTS["schema"]


def test_a_client_without_cookies_has_the_session_of_its_connection(lake: Lake) -> None:
    lake.write("t/1.parquet", files.numbers(5))
    # Clients of one process may share a connection, so this one is told apart by an option of its own.
    with lake.server.connect() as client:
        set_options(client, {"schema": schema_of(lake)})
        assert rows(client, "select count(*) as c from t") == [{"c": 5}]
        assert close_session(client) == 1
        with expect_error("NOT_FOUND"):
            rows(client, "select count(*) as c from t")


def test_a_proxys_connection_keeps_no_session(lake: Lake) -> None:
    with lake.server.connect() as client:
        proxied = with_headers(via="2 proxy")
        set_options(client, {"schema": schema_of(lake), "batch_size": 3}, proxied)
        assert get_options(client, proxied)["batch_size"] != 3
        assert get_options(client)["batch_size"] != 3


def test_an_option_is_unset_and_the_others_stay(lake: Lake) -> None:
    with Cookies().connect(lake.server.flight_uri) as client:
        set_options(client, {"timeout": "90s", "batch_size": 7})
        assert set_options(client, {"timeout": None}) == {}
        options = get_options(client)
        assert (options["timeout"], options["batch_size"]) == (0.0, 7)


def test_what_makes_no_sense_is_refused_and_the_rest_is_set(lake: Lake) -> None:
    with Cookies().connect(lake.server.flight_uri) as client:
        wrong = {
            "catalog": "elsewhere",
            "schema": "no.such.schema",
            "timeout": "soon",
            "batch_size": 0,
            "colour": "red",
        }
        assert set_options(client, wrong) == dict.fromkeys(wrong, INVALID_VALUE) | {"colour": INVALID_NAME}
        assert set_options(client, {"timeout": True, "batch_size": 9}) == {"timeout": INVALID_VALUE}
        assert get_options(client)["batch_size"] == 9


def test_a_forged_cookie_is_refused_and_can_be_closed(lake: Lake) -> None:
    cookies = Cookies()
    with cookies.connect(lake.server.flight_uri) as client:
        set_options(client, {"batch_size": 9})
        good = cookies.kept[flightsql.COOKIE]
        for forged in ("x", good[:-4] + "AAAA", good + good):
            cookies.kept[flightsql.COOKIE] = forged
            with expect_error("UNAUTHENTICATED"):
                get_options(client)
            with expect_error("UNAUTHENTICATED"):
                rows(client, "select 1")
        assert close_session(client) == 1
        assert cookies.kept == {}


def test_cookies_are_for_nobody_but_the_server(lake: Lake) -> None:
    cookies = Cookies()
    with cookies.connect(lake.server.flight_uri) as client:
        set_options(client, {"batch_size": 9})
    (cookie,) = cookies.seen
    assert "HttpOnly" in cookie
    assert len(cookie) < 4096


def test_headers_set_options_of_one_call(lake: Lake) -> None:
    lake.write("t/1.parquet", files.numbers(3))
    assert rows(lake.client, "select count(*) as c from t", x_jetbridge_sql_schema=schema_of(lake)) == [{"c": 3}]
    with expect_error("INVALID_ARGUMENT", "x-jetbridge-sql-timeout"):
        rows(lake.client, "select 1", x_jetbridge_sql_timeout="soon")


def test_a_query_is_given_up_when_its_time_is_over(lake: Lake) -> None:
    lake.write("t/1.parquet", files.numbers(3_000))
    t = f'"{lake.at("t")}"'
    endless = f"select count(*) from {t} a cross join {t} b cross join {t} c where a.n + b.n + c.n = -1"
    info = lake.client.get_flight_info(query(endless), with_headers(x_jetbridge_sql_timeout="1"))
    with pytest.raises(Exception, match=r"(?i)deadline|timed? ?out|took longer"):
        lake.client.do_get(info.endpoints[0].ticket).read_all()
    lake.assert_still_serves()


def test_sessions_statements_and_cancelling_work_across_nodes(tmp_path: Path) -> None:
    table = files.write_many(tmp_path / "lake" / "t", 4, rows=1_000)
    with Cluster.start(tmp_path / "cluster", {"/lake": f"file://{tmp_path / 'lake'}"}, workers=2) as cluster:
        cookies = Cookies()
        first, second = (cookies.connect(node.uri) for node in cluster.workers)
        with first, second, cluster.coordinator.connect() as coordinator:
            # A session that was opened on one node is known on the other.
            assert set_options(first, {"schema": "lake"}) == {}
            assert rows(second, "select count(*) as c from t") == [{"c": table.num_rows}]
            # So is a prepared statement, at each of its steps.
            prepared = Prepared(first, "select n from t where n = $1")
            prepared.bind(pa.record_batch([pa.array([17])], ["$1"]), second)
            assert prepared.fetch(coordinator).table.to_pylist() == [{"n": 17}]
            # A ticket of a query is redeemed anywhere.
            info = first.get_flight_info(query("select sum(n) as s from t"))
            expected = [{"s": sum(table.column("n").to_pylist())}]
            for node in (first, second, coordinator):
                assert node.do_get(info.endpoints[0].ticket).read_all().to_pylist() == expected
            # The word that ends one reaches all.
            assert flightsql.cancel(second, info) == flightsql.CANCELLED
            for node in (first, second, coordinator):
                with expect_error("CANCELLED"):
                    flightsql.redeem(node, info.endpoints[0].ticket)
            # A bare scan lies on its owners.
            scan = first.get_flight_info(query("select n from t"))
            named = {location.uri.decode() for endpoint in scan.endpoints for location in endpoint.locations[:1]}
            assert named <= {node.uri for node in cluster.workers}
