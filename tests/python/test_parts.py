"""Units and parts: a reader lists a dataset's row groups, and has them read in an order of its own."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight as flight
import pyarrow.parquet as pq
import pytest

from conftest import Lake
from harness import files
from harness.compare import assert_same
from harness.errors import expect_error
from harness.flight import act, fetch_ticket, read, splits
from harness.leftovers import until
from harness.server import Server
from harness.wire import FORMS, WIRE_HEADER

GROUP_ROWS = 10
# Files and how many row groups each has; the last row group of each is shorter.
SHAPE = {"a.parquet": 3, "deep/er/b.parquet": 5, "z.parquet": 1}


def unit_seed() -> int:
    """`JETBRIDGE_PARTS_SEED`, or another one each time."""
    number = int(os.environ.get("JETBRIDGE_PARTS_SEED") or random.randrange(1_000_000))
    print(f"JETBRIDGE_PARTS_SEED={number}")
    return number


def write(lake: Lake, name: str = "set") -> list[tuple[str, int]]:
    """The files of `SHAPE`; gives their row groups in order."""
    start = 0
    for file, groups in SHAPE.items():
        rows = groups * GROUP_ROWS - 3
        lake.write(f"{name}/{file}", files.numbers(rows, start), row_group_size=GROUP_ROWS)
        start += rows
    return [(file, group) for file, groups in SHAPE.items() for group in range(groups)]


def as_parts(units: list[tuple[str, int]]) -> list[list[Any]]:
    """The units in their order, those of one file that follow each other as one part."""
    parts: list[list[Any]] = []
    for file, group in units:
        if parts and parts[-1][0] == file:
            parts[-1][1].append(group)
        else:
            parts.append([file, [group]])
    return parts


def rows_of(folder: Path, units: list[tuple[str, int]]) -> pa.Table:
    """What pyarrow reads of these row groups, one after another."""
    return pa.concat_tables([pq.ParquetFile(folder / file).read_row_group(group) for file, group in units])


def units(lake: Lake, name: str = "set", **body: Any) -> dict[str, Any]:
    """A page of `dataset.units`."""
    return act(lake.client, "dataset.units", {"path": lake.at(name), **body})


def test_units_are_the_row_groups_in_order(lake: Lake) -> None:
    expected = write(lake)
    page = units(lake)
    assert [(unit["path"], unit["row_group"]) for unit in page["units"]] == expected
    assert [unit["rows"] for unit in page["units"]] == [10, 10, 7, 10, 10, 10, 10, 7, 7]
    assert page["next"] is None
    assert len(page["snapshot"]) == 32
    assert len({unit["generation"] for unit in page["units"]}) == len(SHAPE)
    assert all("passing" not in unit for unit in page["units"])
    narrow = units(lake, columns=["n"])["units"]
    assert [unit["bytes"] for unit in narrow] == [8 * unit["rows"] for unit in narrow]
    assert narrow[0]["bytes"] < page["units"][0]["bytes"]


def test_units_come_in_pages_of_one_version(lake: Lake) -> None:
    expected = write(lake)
    found: list[tuple[str, int]] = []
    after: int | None = 0
    snapshot = None
    while after is not None:
        page = units(lake, after=after, limit=4, snapshot=snapshot)
        found += [(unit["path"], unit["row_group"]) for unit in page["units"]]
        assert snapshot in (None, page["snapshot"])
        after, snapshot = page["next"], page["snapshot"]
    assert found == expected
    assert units(lake, after=100)["units"] == []
    lake.write("set/a.parquet", files.numbers(5, 500))
    with expect_error("ABORTED", "STALE.*version"):
        units(lake, after=4, snapshot=snapshot)


def test_a_file_alone_is_a_dataset_of_units_without_a_path(lake: Lake) -> None:
    write(lake)
    page = units(lake, "set/a.parquet")
    assert [(unit["path"], unit["row_group"]) for unit in page["units"]] == [("", 0), ("", 1), ("", 2)]
    found = lake.read("set/a.parquet", parts=[["", [2, 0]]])
    assert_same(found, rows_of(lake.folder / "set", [("a.parquet", 2), ("a.parquet", 0)]))


def test_units_that_a_filter_passes_are_counted(lake: Lake) -> None:
    write(lake)
    # n % 7 cannot be pruned by statistics, n > 33 can.
    predicate = "n % 7 = 0 and n > 33"
    page = units(lake, filter=predicate, count=True, columns=["text"])
    assert page["next"] is None
    whole = {(unit["path"], unit["row_group"]) for unit in units(lake)["units"]}
    counted = {(unit["path"], unit["row_group"]): unit["passing"] for unit in page["units"]}
    assert counted.keys() < whole, "row groups below 33 are left out"
    for (file, group), passing in counted.items():
        rows = rows_of(lake.folder / "set", [(file, group)])["n"].to_pylist()
        assert passing == sum(n % 7 == 0 and n > 33 for n in rows), (file, group)
    assert sum(counted.values()) == lake.read("set", filter=predicate).num_rows
    assert all("passing" not in unit for unit in units(lake, filter=predicate)["units"])


@pytest.mark.parametrize("round_", range(5))
def test_parts_are_read_in_their_order(lake: Lake, round_: int) -> None:
    rng = random.Random(unit_seed() + round_)
    chosen = rng.sample(write(lake), rng.randint(1, sum(SHAPE.values())))
    expected = rows_of(lake.folder / "set", chosen)
    parts = as_parts(chosen)
    assert_same(lake.read("set", parts=parts), expected)
    assert_same(lake.read("set", parts=parts, columns=["text", "n"]), expected.select(["text", "n"]))
    kept = expected.filter(pc.less(expected["n"], 40))
    assert_same(lake.read("set", parts=parts, filter="n < 40"), kept)
    limit = rng.randint(0, expected.num_rows)
    assert_same(lake.read("set", parts=parts, limit=limit), expected.slice(0, limit))


@pytest.mark.parametrize("form", FORMS)
def test_parts_keep_their_order_in_every_wire_form(lake: Lake, form: str) -> None:
    chosen = list(reversed(write(lake)))
    asked = flight.FlightDescriptor.for_command(json.dumps({"path": lake.at("set"), "parts": as_parts(chosen)}))
    info = lake.client.get_flight_info(asked)
    assert info.total_records == sum(GROUP_ROWS * groups - 3 for groups in SHAPE.values())
    told = [(split["path"], split["row_groups"]) for split in splits(info)]
    if len(told) == 1:
        assert told[0][1] == [group for _, group in chosen]
    if form == "raw":
        # A message of `raw` is a row group by itself; each says which one.
        options = flight.FlightCallOptions(headers=[(WIRE_HEADER.encode(), b"raw")])
        said = []
        for endpoint in info.endpoints:
            for chunk in lake.client.do_get(endpoint.ticket, options):
                said.append(json.loads(chunk.app_metadata.to_pybytes())["row_group"])
        assert said == [group for _, group in chosen]
        return
    options = flight.FlightCallOptions(headers=[(WIRE_HEADER.encode(), form.encode())])
    tables = [lake.client.do_get(endpoint.ticket, options).read_all() for endpoint in info.endpoints]
    assert_same(pa.concat_tables(tables), rows_of(lake.folder / "set", chosen))


def test_no_parts_are_no_rows(lake: Lake) -> None:
    write(lake)
    for parts in ([], [["a.parquet", []]]):
        found = lake.read("set", parts=parts)
        assert found.num_rows == 0
        assert found.column_names == ["n", "text", "maybe"]


def test_what_the_dataset_does_not_have_is_named(lake: Lake) -> None:
    write(lake)
    with expect_error("NOT_FOUND", 'no data file "b.parquet"'):
        lake.read("set", parts=[["b.parquet", [0]]])
    with expect_error("INVALID_ARGUMENT", r"row group 3 of /lake-\d+/set/a.parquet, which has 3"):
        lake.read("set", parts=[["a.parquet", [0, 3]]])
    with expect_error("INVALID_ARGUMENT", "parts"):
        lake.read("set", parts=[["../a.parquet", [0]]])
    with expect_error("INVALID_ARGUMENT", "given twice"):
        lake.read("set", parts=[["a.parquet", [0, 0]]])
    with expect_error("INVALID_ARGUMENT", r"parts\[0\]"):
        lake.read("set", parts=["a.parquet"])
    with expect_error("INVALID_ARGUMENT", "limit"):
        units(lake, limit=0)
    with expect_error("INVALID_ARGUMENT", "unknown field"):
        units(lake, where="n > 1")
    with expect_error("INVALID_ARGUMENT", "nn"):
        units(lake, columns=["nn"])
    with expect_error("NOT_FOUND"):
        units(lake, "elsewhere")
    lake.assert_still_serves()


def test_another_version_is_refused_and_the_same_again_is_not(lake: Lake) -> None:
    chosen = write(lake)
    snapshot = units(lake)["snapshot"]
    assert units(lake)["snapshot"] == snapshot
    assert lake.read("set", parts=as_parts(chosen), snapshot=snapshot).num_rows > 0
    assert lake.read("set", snapshot=snapshot).num_rows > 0
    lake.write("set/new.parquet", files.numbers(3, 900))
    with expect_error("ABORTED", f"STALE.*{snapshot}"):
        lake.read("set", parts=as_parts(chosen), snapshot=snapshot)
    changed = units(lake)["snapshot"]
    assert changed != snapshot
    assert lake.read("set", snapshot=changed).num_rows > 0


def test_a_cluster_reads_parts_in_their_order_whoever_owns_them(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    files.write_many(folder, 12, 100)
    server = start_server(mounts={"/many": f"file://{folder}"}, args=["--workers", "3"])
    page = act(server.client, "dataset.units", {"path": "/many"})
    chosen = [(unit["path"], unit["row_group"]) for unit in page["units"]]
    random.Random(unit_seed()).shuffle(chosen)
    spec = {"path": "/many", "parts": as_parts(chosen), "snapshot": page["snapshot"]}
    info = server.client.get_flight_info(flight.FlightDescriptor.for_command(json.dumps(spec)))
    assert len(info.endpoints) > 1, "several workers own them"
    found = pa.concat_tables([fetch_ticket(server.client, endpoint.ticket) for endpoint in info.endpoints])
    assert_same(found, rows_of(folder, chosen))
    assert_same(read(server.client, "/many"), rows_of(folder, sorted(chosen)))


def test_what_will_be_read_again_is_kept_decoded_at_the_first_read(lake: Lake) -> None:
    for name, reread in [("once", False), ("again", True)]:
        write(lake, name)
        lake.read(name, reread=reread)
        told = act(lake.client, "cache.stat", {"path": lake.at(name)})
        assert (told["decoded_bytes"] > 0) is reread, (name, told)
    with expect_error("INVALID_ARGUMENT", "reread"):
        lake.read("again", reread="yes")


def test_who_takes_stored_bytes_and_comes_again_finds_columns_later(lake: Lake) -> None:
    def form(name: str, asked: str, reread: bool) -> str:
        spec = json.dumps({"path": lake.at(name), "reread": reread})
        info = lake.client.get_flight_info(flight.FlightDescriptor.for_command(spec))
        options = flight.FlightCallOptions(headers=[(WIRE_HEADER.encode(), asked.encode())])
        forms = set()
        for endpoint in info.endpoints:
            stream = lake.client.do_get(endpoint.ticket, options)
            forms.add((stream.schema.metadata or {}).get(b"jetbridge.wire", b"arrow").decode())
            stream.read_all()
        (only,) = forms
        return only

    def decoded(name: str) -> int:
        return act(lake.client, "cache.stat", {"path": lake.at(name)})["decoded_bytes"]

    for name in ("named", "once", "again"):
        all_units = write(lake, name)
    assert form("named", "raw", True) == form("once", "auto", False) == form("again", "auto", True) == "raw"
    until(lambda: decoded("again") > 0, "columns that are decoded later")
    until(lambda: form("again", "auto", True) == "arrow", "columns of all row groups")
    assert_same(lake.read("again"), rows_of(lake.folder / "again", all_units))
    assert decoded("named") == decoded("once") == 0, "nobody said that it will come for these columns"
