"""Each Flight call as the contract has it, by plain pyarrow.flight, or by plain gRPC where pyarrow has no such call."""

from __future__ import annotations

import datetime as dt
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from conftest import Lake
from harness import files, raw
from harness.compare import assert_same
from harness.errors import expect_error
from harness.flight import act, by_path, by_scan, expiry, fetch, fetch_ticket, listed, plan, read, splits
from harness.metrics import total

REUSE = b"arrow-flight-reuse-connection://?"
READERS = 24


def test_list_flights_names_every_dataset(lake: Lake) -> None:
    for name in ("trips/a.parquet", "deep/er/zones/year=2024/x.parquet", "deep/er/other/y.parquet"):
        lake.write(name, files.numbers(3))
    expected = [lake.at(name) for name in ("deep/er/other", "deep/er/zones", "trips")]
    assert listed(lake.client, lake.path) == expected
    assert set(expected) <= set(listed(lake.client))
    assert all(read(lake.client, path).num_rows == 3 for path in expected)


@pytest.mark.parametrize("criteria", ["/trips", "/t*", "/*ps", "/**/trips"])
def test_list_flights_by_prefix_and_glob(lake: Lake, criteria: str) -> None:
    for name in ("trips/a.parquet", "zones/b.parquet"):
        lake.write(name, files.numbers(3))
    assert listed(lake.client, lake.path + criteria) == [lake.at("trips")]


def test_list_flights_of_nothing(lake: Lake) -> None:
    assert listed(lake.client, lake.path) == []
    assert listed(lake.client, "/no/such/mount") == []


def test_path_command_and_uri_are_the_same_dataset(lake: Lake) -> None:
    expected = lake.write("set/a.parquet", files.numbers(9))
    uri = f"file://{lake.folder}/set"
    for asked in (by_path(lake.at("set")), by_scan(lake.at("set")), by_scan(uri), by_scan(f"{uri}/a.parquet")):
        assert_same(fetch(lake.client, asked).table, expected)


def test_get_schema_equals_the_data_s(lake: Lake) -> None:
    files.hive(lake.folder / "set", {"year=2024": files.numbers(2)})
    for asked in (by_path(lake.at("set")), by_scan(lake.at("set"), columns=["year", "n"])):
        schema = lake.client.get_schema(asked).schema
        assert schema.equals(fetch(lake.client, asked).table.schema, check_metadata=True)


def test_endpoints_say_what_they_hold(lake: Lake) -> None:
    files.write_many(lake.folder / "set", 3, rows=100)
    info = plan(lake.client, lake.at("set"))
    (said,) = splits(info)
    assert (said["path"], said["files"], said["row_groups"]) == (lake.at("set"), 3, [0, 0, 0])
    assert said["rows"] == info.total_records == 300
    assert said["bytes"] > 0
    assert said["cached"] in ("none", "raw")
    for _ in range(3):
        lake.read("set")
    (said,) = splits(plan(lake.client, lake.at("set")))
    assert said["cached"] == "decoded"
    (said,) = splits(plan(lake.client, lake.at("set/part-000001.parquet")))
    assert (said["path"], said["rows"]) == (lake.at("set/part-000001.parquet"), 100)


def test_endpoints_have_locations_and_an_expiry(lake: Lake) -> None:
    lake.write("t.parquet", files.numbers(5))
    (endpoint,) = plan(lake.client, lake.at("t.parquet")).endpoints
    uris = [location.uri for location in endpoint.locations]
    assert uris[-1] == REUSE
    life = expiry(endpoint) - dt.datetime.now(dt.timezone.utc)
    assert dt.timedelta(minutes=8) < life <= dt.timedelta(minutes=10)
    for uri in uris[:-1]:
        with flight.connect(uri) as other:
            assert fetch_ticket(other, endpoint.ticket).num_rows == 5


def test_big_datasets_have_several_endpoints(lake: Lake) -> None:
    numbers = pa.array(range(1_000_000), pa.int64())
    table = lake.write("t.parquet", {f"c{index}": numbers for index in range(80)}, row_group_size=100_000)
    info = plan(lake.client, lake.at("t.parquet"))
    groups = [group for entry in splits(info) for group in entry["row_groups"]]
    assert groups == list(range(10))
    assert len(info.endpoints) >= 2
    got = lake.read("t.parquet", columns=["c7"])
    assert_same(got, table.select(["c7"]))


def test_batches_tell_their_source_and_the_cache_works(lake: Lake) -> None:
    lake.write("t.parquet", files.numbers(20_000), row_group_size=2_000)
    first = fetch(lake.client, by_path(lake.at("t.parquet")))
    assert "store" in first.sources or first.sources == {"memory"}
    before = total(lake.server.admin_uri, "jetbridge_store_read_bytes_total")
    for _ in range(2):
        again = fetch(lake.client, by_path(lake.at("t.parquet")))
    assert again.sources == {"memory"}
    assert_same(again.table, first.table)
    assert total(lake.server.admin_uri, "jetbridge_store_read_bytes_total") == before


def test_many_cold_readers_fetch_once(lake: Lake) -> None:
    table = lake.write("t.parquet", files.numbers(200_000), row_group_size=50_000)
    size = (lake.folder / "t.parquet").stat().st_size
    before = total(lake.server.admin_uri, "jetbridge_store_read_bytes_total")
    start = threading.Barrier(READERS)

    def one_reader(_: int) -> pa.Table:
        with lake.server.connect() as client:
            start.wait(30)
            return read(client, lake.at("t.parquet"))

    with ThreadPoolExecutor(READERS) as pool:
        for got in pool.map(one_reader, range(READERS)):
            assert_same(got, table)
    assert total(lake.server.admin_uri, "jetbridge_store_read_bytes_total") - before <= 1.5 * size + 131_072


def test_a_ticket_can_be_used_again(lake: Lake) -> None:
    table = lake.write("t.parquet", files.numbers(100))
    (endpoint,) = plan(lake.client, lake.at("t.parquet")).endpoints
    for _ in range(3):
        assert_same(fetch_ticket(lake.client, endpoint.ticket), table)


def test_a_reader_that_leaves_does_no_harm(lake: Lake) -> None:
    lake.write("t.parquet", files.numbers(500_000), row_group_size=10_000)
    for _ in range(5):
        (endpoint, *_rest) = plan(lake.client, lake.at("t.parquet")).endpoints
        reader = lake.client.do_get(endpoint.ticket)
        reader.read_chunk()
        reader.cancel()
    lake.assert_still_serves()


def test_poll_flight_info_is_done_at_once(lake: Lake) -> None:
    table = lake.write("t.parquet", files.numbers(30))
    answer = raw.poll(lake.server.flight_uri, by_path(lake.at("t.parquet")))
    assert answer.next_descriptor is None
    assert answer.info.schema.equals(table.schema)
    tables = [fetch_ticket(lake.client, endpoint.ticket) for endpoint in answer.info.endpoints]
    assert_same(pa.concat_tables(tables), table)


def test_handshake_is_accepted(lake: Lake) -> None:
    assert len(raw.handshake(lake.server.flight_uri)) <= 1
    lake.assert_still_serves()


def test_list_actions_lists_what_works(lake: Lake) -> None:
    actions = {action.type: action.description for action in lake.client.list_actions()}
    assert {"mount.add", "mount.list", "mount.remove", "mount.check", "dataset.refresh"} <= set(actions)
    assert all(actions.values())
    for name in sorted(actions):
        try:
            list(lake.client.do_action(flight.Action(name, b"{}")))
        except pa.ArrowNotImplementedError:
            pytest.fail(f"{name} is listed and not implemented")
        except pa.ArrowException:
            pass  # An empty body is wrong for most; that it was looked at is what counts here.


@pytest.mark.parametrize("name", ["preload.submit", "no.such.action", ""])
def test_actions_that_do_not_exist(lake: Lake, name: str) -> None:
    if name in {action.type for action in lake.client.list_actions()}:
        pytest.skip(f"{name} is implemented")
    with expect_error("UNIMPLEMENTED", name):
        act(lake.client, name, {})


def test_renew_flight_endpoint(lake: Lake) -> None:
    if "RenewFlightEndpoint" not in {action.type for action in lake.client.list_actions()}:
        pytest.skip("RenewFlightEndpoint is not offered")
    table = lake.write("t.parquet", files.numbers(10))
    (endpoint,) = plan(lake.client, lake.at("t.parquet")).endpoints
    body = raw.length_delimited(1, endpoint.serialize())
    (result,) = lake.client.do_action(flight.Action("RenewFlightEndpoint", body))
    renewed = flight.FlightEndpoint.deserialize(result.body.to_pybytes())
    assert expiry(renewed) >= expiry(endpoint)
    assert_same(fetch_ticket(lake.client, renewed.ticket), table)


def test_put_and_exchange_are_not_built(lake: Lake) -> None:
    table = files.numbers(3)
    with expect_error("UNIMPLEMENTED"):
        writer, _ = lake.client.do_put(by_path(lake.at("new")), table.schema)
        with writer:
            writer.write_table(table)
    with expect_error("UNIMPLEMENTED"):
        writer, reader = lake.client.do_exchange(by_path(lake.at("new")))
        with writer:
            writer.done_writing()
            reader.read_all()
    lake.assert_still_serves()


def test_ordered_is_accepted_and_answered(lake: Lake) -> None:
    expected = files.write_many(lake.folder / "set", 5)
    assert_same(lake.read("set", ordered=True), expected)
    assert plan(lake.client, lake.at("set"), ordered=True).ordered


def test_endpoint_metadata_is_small(lake: Lake) -> None:
    files.write_many(lake.folder / "set", 300, rows=1)
    info = plan(lake.client, lake.at("set"))
    assert all(json.loads(endpoint.app_metadata) for endpoint in info.endpoints)
    assert len(info.endpoints) <= 300
