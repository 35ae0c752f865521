"""What nodes ask each other, asked by somebody who means no good: what no mount shows is not given, no harm is done."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from harness.cluster import Cluster, Node
from harness.errors import ANSWERED, kind_of
from harness.flight import act
from harness.steady import make_lake, read_alone, read_as_told

SECRET = b"what lies beside the lake is nobody's business" * 20
GIB = 1 << 30
# One call gives so much at most.
MOST_BYTES = 64 << 20
HEADS = {"given", "missing", "nothing_of_file"}
# What is said of each file by `peer.footers`, one call of which is about so many files at most.
FOUND = ("given", "as_pages", "missing", "late")
FILES_PER_CALL = 128
KNOWN_PER_CALL = 8 * 1024
REFUSALS = {"INVALID_ARGUMENT", "UNIMPLEMENTED", "NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "ABORTED"}
TIMEOUT_S = 30.0
LARGEST_GROWTH_BYTES = 256 << 20


@dataclass
class Lake:
    """A cluster without a key, so that nothing but the calls themselves is in the way."""

    cluster: Cluster
    folder: Path
    expected: pa.Table

    @property
    def worker(self) -> Node:
        return self.cluster.workers[0]

    def request(self, name: str = "lake/part-00.parquet", **other: Any) -> dict[str, Any]:
        """What a good node asks for: the first bytes of a file, as it is now, read through; `other` spoils it."""
        path = self.folder / name
        size = path.stat().st_size
        with self.worker.connect() as client:
            listed = act(client, "namespace.stat", {"path": "/" + name}) if name.startswith("lake/") else None
        good = {
            "uri": f"file://{path}",
            "generation": listed["generation"] if listed else f"modified:{path.stat().st_mtime_ns}:{size}",
            "size": size,
            "start": 0,
            "end": min(size, 100),
            "read_through": True,
            "holders": [],
        }
        return {**good, **other}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    folder = tmp_path_factory.mktemp("hostile")
    expected = make_lake(folder / "lake")
    (folder / "secret.parquet").write_bytes(SECRET)
    (folder / "lake-2").mkdir()
    (folder / "lake-2/secret.parquet").write_bytes(SECRET)
    cluster = Cluster.start(folder / "cluster", {"/lake": f"file://{folder}/lake"}, workers=2)
    yield Lake(cluster, folder, expected)
    cluster.close()


def resident_bytes(node: Node) -> int:
    """Memory that a process has now."""
    status = Path(f"/proc/{node.daemon.pid}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def call(node: Node, action: str, body: Any) -> tuple[str, bytes]:
    """What a call comes to, `given` and the like or the kind of the error, and the bytes of the answer."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    parts: list[bytes] = []
    with node.connect() as client:
        try:
            options = flight.FlightCallOptions(timeout=TIMEOUT_S)
            parts += [part.body.to_pybytes() for part in client.do_action(flight.Action(action, raw), options)]
        except ANSWERED as error:
            return kind_of(error), b"".join(parts[1:])
    return str(json.loads(parts[0])), b"".join(parts[1:])


def pages(node: Node, body: Any) -> tuple[str, bytes]:
    """A call of `peer.pages`; whatever it comes to is one of what it may be."""
    came, content = call(node, "peer.pages", body)
    assert came in HEADS | REFUSALS, came
    assert SECRET[:20] not in content
    assert b"root:" not in content
    assert len(content) <= MOST_BYTES + 8
    return came, content


def footers(node: Node, files: list[dict[str, Any]]) -> tuple[str, list[str]]:
    """A call of `peer.footers`: "" or the kind of the error, and what was said of each file."""
    found: dict[int, str] = {}
    options = flight.FlightCallOptions(timeout=TIMEOUT_S)
    with node.connect() as client:
        try:
            for part in client.do_action(flight.Action("peer.footers", json.dumps({"files": files}).encode()), options):
                file, kind = struct.unpack("<IB", part.body.to_pybytes()[:5])
                assert file not in found
                found[file] = FOUND[kind]
        except ANSWERED as error:
            return kind_of(error), []
    assert sorted(found) == list(range(len(files)))
    return "", [found[file] for file in range(len(files))]


def footer_of(asked: dict[str, Any], **other: Any) -> dict[str, Any]:
    """What `peer.footers` is asked about the file of a call of `peer.pages`; `other` spoils it."""
    return {**{key: asked[key] for key in ("uri", "generation", "size")}, **other}


def test_what_a_good_node_asks_is_given(lake: Lake) -> None:
    """So that the refusals below are for what was wrong."""
    asked = lake.request()
    came, content = pages(lake.worker, asked)
    assert came == "given"
    assert content[:-8] == (lake.folder / "lake/part-00.parquet").read_bytes()[: asked["end"]]


WRONG_RANGES = {
    "start after end": {"start": 50, "end": 10},
    "nothing": {"start": 10, "end": 10},
    "beyond the file": {"start": 0, "end": 1 << 30},
    "far beyond": {"start": 10 * GIB, "end": 10 * GIB + 10},
    "10 GB of a file that is said to be as large": {"size": 10 * GIB, "start": 0, "end": 10 * GIB},
    "all numbers": {"size": 2**64 - 1, "start": 0, "end": 2**64 - 1},
    "negative": {"start": -1, "end": 10},
    "too great a number": {"start": 0, "end": 2**64},
    "a fraction": {"start": 0.5, "end": 10},
}


@pytest.mark.parametrize("wrong", WRONG_RANGES.values(), ids=WRONG_RANGES)
@pytest.mark.parametrize("read_through", [True, False])
def test_ranges_that_are_none(lake: Lake, wrong: dict[str, Any], read_through: bool) -> None:
    came, content = pages(lake.worker, lake.request(**wrong, read_through=read_through))
    assert came == "INVALID_ARGUMENT"
    assert not content


def test_a_file_that_is_said_to_be_larger_gives_nothing_beyond_its_end(lake: Lake) -> None:
    real = lake.request()["size"]
    largest = 2**64 - 1
    starts = {10 * GIB: (real - 10, real, real + 100 * 4096, 10 * GIB - 10), largest: (real - 10, largest - 10)}
    for size, start in ((size, start) for size, some in starts.items() for start in some):
        asked = lake.request(size=size, start=start, end=min(start + 20, size))
        came, content = pages(lake.worker, asked)
        print(f"bytes {asked['start']}..{asked['end']} of {real}: {came}, {len(content)} bytes")
        # Of a file of that size nothing is there; there may be an answer in the middle of which that turns out.
        assert not content


def outside(lake: Lake) -> dict[str, str]:
    """URIs of files that no mount shows."""
    folder = lake.folder
    return {
        "the system's": "file:///etc/passwd",
        "beside the mount": f"file://{folder}/secret.parquet",
        "a folder whose name begins alike": f"file://{folder}/lake-2/secret.parquet",
        "up": f"file://{folder}/lake/../secret.parquet",
        "up, written otherwise": f"file://{folder}/lake/%2e%2e/secret.parquet",
        "up, twice written otherwise": f"file://{folder}/lake/%252e%252e/secret.parquet",
        "a slash, written otherwise": f"file://{folder}/lake/..%2fsecret.parquet",
        "a namespace path": "/lake/../secret.parquet",
        "a host": f"file://localhost{folder}/secret.parquet",
        "another store": "s3://bucket/secret.parquet",
        "the metadata of a machine": "http://169.254.169.254/latest/meta-data",
        "no scheme": f"{folder}/secret.parquet",
        "no uri": "\u0000\n",
        "nothing": "",
    }


def test_files_outside_of_the_namespace_are_not_given(lake: Lake) -> None:
    kinds = {}
    for name, uri in outside(lake).items():
        for path in (Path("/etc/passwd"), lake.folder / "secret.parquet"):
            stat = path.stat()
            for generation in (f"modified:{stat.st_mtime_ns}:{stat.st_size}", "etag:a", "version:1"):
                asked = {**lake.request(), "uri": uri, "generation": generation, "size": stat.st_size, "end": 20}
                for node in lake.cluster.nodes:
                    came, content = pages(node, asked)
                    kinds.setdefault(name, set()).add(came)
                    assert came != "given"
                    assert not content, f"{name}: {content[:40]!r}"
    print(kinds)


def test_another_version_of_a_file_is_not_given(lake: Lake) -> None:
    """What is there now is not what was asked for, so it is not the answer."""
    before = lake.request()
    for generation in ("etag:0-0-0", "version:9", f"modified:1:{before['size']}"):
        came, content = pages(lake.worker, {**before, "generation": generation})
        print(f"{generation}: {came}, {len(content)} bytes")
        assert not content
    for generation in ("", "nonsense", "modified:x:y", "etag:", "modified:1"):
        assert pages(lake.worker, {**before, "generation": generation})[0] == "INVALID_ARGUMENT"


def test_footers_outside_of_the_namespace_or_of_another_version_are_not_given(lake: Lake) -> None:
    """And a version whose name does not tell it from others, which no good node asks for."""
    good = lake.request()
    weak = f"modified:1:{good['size']}"
    wrong = [footer_of(good, generation=generation) for generation in ("etag:0-0-0", "version:9", weak)]
    wrong += [footer_of(good, generation="etag:a", size=size) for size in (0, 11, 12, 10 * GIB, 2**64 - 1)]
    for uri in outside(lake).values():
        for path in (Path("/etc/passwd"), lake.folder / "secret.parquet"):
            wrong.append(footer_of(good, uri=uri, generation="etag:a", size=path.stat().st_size))
    for node in lake.cluster.nodes:
        refused, found = footers(node, wrong)
        print(f"{node.folder.name}: {found}")
        assert not refused
        assert "given" not in found


def test_lists_of_files_that_are_none(lake: Lake) -> None:
    good = footer_of(lake.request())
    assert footers(lake.worker, []) == ("", [])
    assert footers(lake.worker, [good] * FILES_PER_CALL) == ("", ["given"] * FILES_PER_CALL)
    wrong = [
        [good] * (FILES_PER_CALL + 1),
        [good, {**good, "generation": "nonsense"}],
        [{**good, "size": -1}],
        [{**good, "size": 2**64}],
        [{**good, "color": "red"}],
    ]
    for files in wrong:
        assert footers(lake.worker, files)[0] == "INVALID_ARGUMENT"
    with lake.worker.connect() as client:
        ids = ["", "nonsense", "f" * 32, "f" * 33, "\u0000", "0" * 10_000]
        assert act(client, "peer.known", {"files": ids}) == {"known": [False] * len(ids)}
    assert call(lake.worker, "peer.known", {"files": [""] * (KNOWN_PER_CALL + 1)})[0] == "INVALID_ARGUMENT"


WRONG_BODIES: dict[str, bytes] = {
    "empty": b"",
    "no object": b"[]",
    "no JSON": b"{",
    "unknown key": b'{"uri": "file:///a", "color": "red"}',
    "deep": b"[" * 100_000,
    "large": b'{"uri": "' + b"a" * (2 << 20) + b'"}',
    "no UTF-8": b'{"uri": "\xff"}',
}


@pytest.mark.parametrize(
    "action", ["peer.pages", "peer.footers", "peer.known", "peer.residency", "meta.call", "meta.watch"]
)
def test_bodies_that_are_none(lake: Lake, action: str) -> None:
    for name, raw in WRONG_BODIES.items():
        for node in lake.cluster.nodes:
            came, content = call(node, action, raw)
            assert came in REFUSALS, f"{name} at {node.folder.name}: {came}"
            assert not content


def test_holders_that_are_none_do_no_harm(lake: Lake) -> None:
    for holders in (["", "\u0000", "../../x", "x" * 100_000], [f"node-{number}" for number in range(10_000)]):
        came, _ = pages(lake.worker, lake.request(holders=holders))
        assert came == "given"


def test_tickets_that_are_none_are_held_nowhere(lake: Lake) -> None:
    tickets = ["", "!!!", base64.b64encode(b"nonsense").decode(), "A" * 10_000]
    with lake.worker.connect() as client:
        assert act(client, "peer.residency", {"tickets": tickets}) == {"cached": ["none"] * 4}
    assert call(lake.worker, "peer.residency", {"tickets": ["AA=="] * 10_001})[0] == "INVALID_ARGUMENT"


META_NONSENSE: dict[str, Any] = {
    "no key": {"get": {"key": ""}},
    "control characters": {"get": {"key": "a\u0000b"}},
    "a long key": {"get": {"key": "a" * 100_000}},
    "a value that is no base64": {"put": {"key": "x/a", "value": "!", "expect": "any", "lease": None}},
    "a value of 3 MiB": {"put": {"key": "x/a", "value": "AAAA" * (1 << 20), "expect": "any", "lease": None}},
    "a lease that is none": {"put": {"key": "x/a", "value": "", "expect": "any", "lease": 12345}},
    "a lease for no time": {"grant": {"ttl_ms": 0}},
    "a lease for ever": {"grant": {"ttl_ms": 2**64 - 1}},
    "to keep a lease that is none": {"keep_alive": {"lease": 2**64 - 1}},
    "to end a lease that is none": {"revoke": {"lease": 0}},
    "another cluster's": None,
    "an unknown operation": {"drop": {}},
}


@pytest.mark.parametrize("name", META_NONSENSE)
def test_calls_of_the_store_that_are_none(lake: Lake, name: str) -> None:
    """Refused, as an error or as data; nothing is changed, and the node that has no store says so."""
    body = {"cluster": None, "operation": META_NONSENSE[name]}
    if name == "another cluster's":
        body = {"cluster": "none", "operation": {"delete": {"key": "nodes/placement", "expect": "any"}}}
    with lake.cluster.coordinator.connect() as client:
        raw = json.dumps(body).encode()
        options = flight.FlightCallOptions(timeout=TIMEOUT_S)
        try:
            (answer,) = client.do_action(flight.Action("meta.call", raw), options)
            said = json.loads(answer.body.to_pybytes())
        except ANSWERED as error:
            said = {"failed": kind_of(error)} if kind_of(error) in REFUSALS else str(error)
    print(said)
    assert "failed" in said or (said == "done" and name == "to end a lease that is none"), said
    assert call(lake.worker, "meta.call", body)[0] in {"UNIMPLEMENTED", "INVALID_ARGUMENT"}


def test_the_cluster_goes_on(lake: Lake) -> None:
    """After all of this, and after many calls for much memory at once: the same processes, right rows."""
    before = [resident_bytes(node) for node in lake.cluster.nodes]
    for _ in range(200):
        for node in lake.cluster.workers:
            pages(node, lake.request(size=10 * GIB, start=0, end=MOST_BYTES))
    after = [resident_bytes(node) for node in lake.cluster.nodes]
    print(f"resident: {[f'{a >> 20} -> {b >> 20} MiB' for a, b in zip(before, after, strict=True)]}")
    assert all(b - a < LARGEST_GROWTH_BYTES for a, b in zip(before, after, strict=True))
    for node in lake.cluster.nodes:
        assert read_alone(node, "/lake").equals(lake.expected)
        assert read_as_told(node, "/lake").equals(lake.expected)
    for node in lake.cluster.nodes:
        assert node.is_running()
        assert "panicked" not in node.daemon.log
