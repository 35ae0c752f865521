"""Requests that are wrong: a clear error of the contract's kind, and the server goes on."""

from __future__ import annotations

import json
import random
from typing import Any

import pyarrow.flight as flight
import pytest

from conftest import Lake
from harness import files
from harness.compare import assert_same
from harness.errors import expect_error
from harness.flight import act, by_path, by_scan, fetch_ticket, plan

RANDOM_TRIES = 200


@pytest.mark.parametrize("name", ["nothing", "t.parquet/inside", "T.parquet"])
def test_unknown_path(lake: Lake, name: str) -> None:
    lake.write("t.parquet", files.numbers(1))
    for asked in (by_path(lake.at(name)), by_scan(lake.at(name)), by_scan(f"file://{lake.folder}/{name}")):
        for call in (lake.client.get_flight_info, lake.client.get_schema):
            with expect_error("NOT_FOUND", name):
                call(asked)
    lake.assert_still_serves()


@pytest.mark.parametrize("path", ["/nowhere", "/nowhere/t", "s3://no-such-mount/key", "file:///etc"])
def test_unmounted_path(lake: Lake, path: str) -> None:
    with expect_error("NOT_FOUND", path):
        lake.client.get_flight_info(by_scan(path))
    lake.assert_still_serves()


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ({"path": "/x", "colums": ["a"]}, "colums"),
        ({"path": "/x", "columns": "a"}, "columns"),
        ({"path": "/x", "columns": [1]}, "columns"),
        ({"path": "/x", "filter": 5}, "filter"),
        ({"path": "/x", "limit": "ten"}, "limit"),
        ({"path": "/x", "limit": 1.5}, "limit"),
        ({"path": "/x", "limit": -1}, "limit"),
        ({"path": "/x", "limit": 2**70}, "limit"),
        ({"path": "/x", "ordered": "yes"}, "ordered"),
        ({"path": 7}, "path"),
        ({"path": None}, "path"),
        ({"columns": ["a"]}, "path"),
        ({}, "path"),
        ([], "object|map|struct|JSON"),
        ("text", "object|map|struct|JSON"),
        (None, "object|map|struct|JSON"),
    ],
    ids=str,
)
def test_scans_of_the_wrong_shape(lake: Lake, body: Any, match: str) -> None:
    with expect_error("INVALID_ARGUMENT", match):
        lake.client.get_flight_info(flight.FlightDescriptor.for_command(json.dumps(body)))
    lake.assert_still_serves()


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"path": "/x"', '{"path": "/x"} extra', "{'path': '/x'}", '{"path": "/x", "path": "/y"}', "[" * 100_000],
)
def test_scans_that_are_no_json(lake: Lake, text: str) -> None:
    with expect_error("INVALID_ARGUMENT"):
        lake.client.get_flight_info(flight.FlightDescriptor.for_command(text))
    lake.assert_still_serves()


def test_scan_of_ten_megabytes(lake: Lake) -> None:
    lake.write("t.parquet", files.numbers(1))
    with expect_error("INVALID_ARGUMENT", "large|big|long|limit|exceed|bytes"):
        lake.client.get_flight_info(by_scan(lake.at("t.parquet"), filter="n = 1 OR " * 1_200_000 + "n = 1"))
    lake.assert_still_serves()


def test_random_bytes_as_command(lake: Lake) -> None:
    rng = random.Random(5)
    for size in (1, 7, 64, 4_096, 200_000):
        for _ in range(RANDOM_TRIES // 5):
            with expect_error(("INVALID_ARGUMENT", "UNIMPLEMENTED")):
                lake.client.get_flight_info(flight.FlightDescriptor.for_command(rng.randbytes(size)))
    lake.assert_still_serves()


def test_random_bytes_as_ticket(lake: Lake) -> None:
    rng = random.Random(6)
    for size in (0, 1, 7, 64, 4_096, 200_000):
        for _ in range(RANDOM_TRIES // 5):
            with expect_error(("UNAUTHENTICATED", "INVALID_ARGUMENT")):
                lake.client.do_get(flight.Ticket(rng.randbytes(size))).read_all()
    lake.assert_still_serves()


def test_altered_tickets(lake: Lake) -> None:
    table = lake.write("t.parquet", files.numbers(10))
    (endpoint,) = plan(lake.client, lake.at("t.parquet")).endpoints
    good = endpoint.ticket.ticket
    rng = random.Random(7)
    for at in sorted(rng.sample(range(len(good)), min(len(good), RANDOM_TRIES))):
        altered = bytearray(good)
        altered[at] ^= 1 << rng.randrange(8)
        # The first bytes say whose ticket it is: without them it is nobody's.
        kinds = ("UNAUTHENTICATED", "INVALID_ARGUMENT") if at < 8 else ("UNAUTHENTICATED",)
        with expect_error(kinds):
            lake.client.do_get(flight.Ticket(bytes(altered))).read_all()
    for cut in (good[:-1], good[1:], good + b"\0", good[: len(good) // 2], good * 2):
        with expect_error(("UNAUTHENTICATED", "INVALID_ARGUMENT")):
            lake.client.do_get(flight.Ticket(cut)).read_all()
    assert_same(fetch_ticket(lake.client, endpoint.ticket), table)


@pytest.mark.parametrize(
    ("name", "body", "match"),
    [
        ("mount.add", {"path": "/new"}, "uri"),
        ("mount.add", {"uri": "file:///tmp"}, "path"),
        ("mount.add", {"path": "/new", "uri": "file:///tmp", "optoins": {}}, "optoins"),
        ("mount.add", {"path": "/new", "uri": "ftp://host/x"}, "ftp|scheme"),
        ("mount.add", {"path": "/new", "uri": "not a uri"}, "uri|scheme"),
        ("mount.add", {"path": "/a/../b", "uri": "file:///tmp"}, r"\.\."),
        ("mount.add", {"path": "/new", "uri": "file:///tmp/../etc"}, r"\.\."),
        ("mount.add", {"path": "/new", "uri": "s3://user:pw@bucket/x"}, "user|credential|secret|authority"),
        ("mount.add", {"path": "/new", "uri": "s3://bucket", "options": {"endpoit": "x"}}, "endpoit"),
        ("mount.add", {"path": "/new", "uri": "s3://bucket", "options": {"allow_http": "maybe"}}, "allow_http"),
        (
            "mount.add",
            {"path": "/new", "uri": "memory://x", "options": {"freshness": "sometimes"}},
            "freshness|sometimes",
        ),
        ("mount.add", {"path": "/new", "uri": "memory://x", "options": {"freshness": 5}}, "freshness|options"),
        ("mount.remove", {}, "path"),
        ("mount.remove", {"path": "/x", "force": True}, "force"),
        ("mount.check", {"pth": "/x"}, "pth|path"),
        ("mount.list", {"extra": 1}, "extra"),
        ("dataset.refresh", {"path": "/x", "deep": True}, "deep"),
        ("dataset.refresh", [], "object|map|struct|JSON"),
    ],
    ids=str,
)
def test_action_bodies_of_the_wrong_shape(lake: Lake, name: str, body: Any, match: str) -> None:
    with expect_error("INVALID_ARGUMENT", match):
        act(lake.client, name, body)
    lake.assert_still_serves()


@pytest.mark.parametrize("name", ["mount.remove", "mount.check", "dataset.refresh"])
def test_actions_on_unknown_paths(lake: Lake, name: str) -> None:
    with expect_error("NOT_FOUND", "/nowhere"):
        act(lake.client, name, {"path": "/nowhere"})
    lake.assert_still_serves()


def test_random_bytes_as_action_body(lake: Lake) -> None:
    rng = random.Random(8)
    for action in lake.client.list_actions():
        if action.type != "mount.list":
            with expect_error(("INVALID_ARGUMENT", "NOT_FOUND")):
                list(lake.client.do_action(flight.Action(action.type, rng.randbytes(100))))
    lake.assert_still_serves()
