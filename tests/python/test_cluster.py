"""A coordinator and three workers as processes, TPC-H lineitem at scale 1: who is named for what, that the rows are
right, that what was read once is not fetched again, and that every node says the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import files, tpch
from harness.cluster import Cluster, first_named, info, locations, metadata, read, until
from harness.compare import assert_same, read_file
from harness.counting import CountingStore
from harness.flight import mount
from harness.owners import epoch, named_first, owners

WORKERS = 3
# No worker may be named for more than this many times its weight's share of the rows.
MOST_OF_SHARE = 1.25
# The same files mounted twice: with the default freshness, a minute, and as files that never change.
DEFAULT, IMMUTABLE = "/default", "/immutable"
# What the coordinator may read itself: footers.
COORDINATOR_PART = 0.01
WEIGHT_PARTS = (1, 2, 1)
SMALL_FILES = 96


@pytest.fixture(scope="module")
def expected(lineitem_sf1: Path) -> pa.Table:
    """The rows as pyarrow reads them, files by name."""
    return pa.concat_tables([read_file(file) for file in sorted(lineitem_sf1.glob("*.parquet"))])


@pytest.fixture(scope="module")
def store(lineitem_sf1: Path) -> Iterator[CountingStore]:
    """The storage below, which counts for itself."""
    with CountingStore(lineitem_sf1) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(store: CountingStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three workers of equal weight."""
    with Cluster.start(tmp_path_factory.mktemp("cluster"), {}, WORKERS) as running:
        with running.coordinator.connect() as client:
            mount(client, DEFAULT, store.uri, **store.options)
            mount(client, IMMUTABLE, store.uri, **store.options, freshness="immutable")
        yield running


@pytest.fixture(scope="module")
def weighted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Workers of weights 1, 2 and 1, and many small files."""
    folder = tmp_path_factory.mktemp("weighted")
    files.write_many(folder / "small", SMALL_FILES)
    with Cluster.start(folder, {"/small": f"file://{folder / 'small'}"}, 0) as running:
        for weight in WEIGHT_PARTS:
            running.add_worker("--weight", f"{weight}GiB")
        running.wait_for_seats(len(WEIGHT_PARTS))
        yield running


def test_endpoints_name_all_workers_and_none_too_often(cluster: Cluster) -> None:
    """Rows by first location, beside a third each."""
    with cluster.coordinator.connect() as client:
        found = info(client, DEFAULT)
    rows = first_named(found)
    assert set(rows) == {worker.uri for worker in cluster.workers}
    assert rows.total() == found.total_records == tpch.LINEITEM_ROWS_SF1
    most = max(rows.values()) / (rows.total() / WORKERS)
    print(f"{len(found.endpoints)} endpoints; the most rows of one worker are {most:.3f} of its share")
    assert most <= MOST_OF_SHARE


def test_endpoints_in_order_give_files_by_path_and_row_groups_ascending(cluster: Cluster, lineitem_sf1: Path) -> None:
    """And every row group once. An endpoint of several files names their folder, and row groups file by file."""
    with cluster.coordinator.connect() as client:
        found = [metadata(endpoint) for endpoint in info(client, DEFAULT).endpoints]
    paths = [f"{DEFAULT}/{file.name}" for file in sorted(lineitem_sf1.glob("*.parquet"))]
    counts = [pq.ParquetFile(file).num_row_groups for file in sorted(lineitem_sf1.glob("*.parquet"))]
    # In order, the numbers count up in each file and begin anew with the next.
    assert [group for entry in found for group in entry["row_groups"]] == [
        group for count in counts for group in range(count)
    ]
    file = -1
    for entry in found:
        of = []
        for group in entry["row_groups"]:
            file += group == 0
            of.append(paths[file])
        assert len(set(of)) == entry["files"]
        assert entry["path"] == (of[0] if entry["files"] == 1 else DEFAULT)


def test_every_node_gives_the_same_answer(cluster: Cluster) -> None:
    """Locations, what they stand for, and owners, from the coordinator and from each worker."""
    answers, seen = [], []
    for node in cluster.nodes:
        with node.connect() as client:
            found = info(client, DEFAULT)
            seen.append(owners(client, DEFAULT))
        answers.append([(locations(endpoint), metadata(endpoint)) for endpoint in found.endpoints])
    assert len(answers) == 1 + WORKERS
    assert len(answers[0]) > WORKERS
    for node, answer, owned in zip(cluster.nodes, answers, seen, strict=True):
        assert answer == answers[0], f"{node.folder.name} names others"
        assert owned == seen[0], f"{node.folder.name} knows other owners"


def test_the_named_node_is_the_owner(cluster: Cluster) -> None:
    """`node` of an endpoint is the id of its first location's worker, and endpoints name the owners of the splits."""
    with cluster.coordinator.connect() as client:
        found, owned = info(client, DEFAULT), owners(client, DEFAULT)
    ids = {worker.uri: worker.id for worker in cluster.workers}
    named: Counter[str] = Counter()
    for endpoint in found.endpoints:
        said = metadata(endpoint)
        assert said["node"] == ids[locations(endpoint)[0]]
        named[said["node"]] += said["rows"]
        if said["files"] == 1:
            # A row group that begins no split belongs to the split before it.
            begun = [
                owned.of[said["path"], group][0] for group in said["row_groups"] if (said["path"], group) in owned.of
            ]
            assert set(begun) <= {said["node"]}
    assert named == owned.rows_of_owners()


def test_the_read_is_pyarrows_and_the_second_asks_storage_for_nothing(
    cluster: Cluster, store: CountingStore, expected: pa.Table
) -> None:
    """Default freshness, within its minute: rows equal, then no request at all, by the store's count and theirs."""
    assert cached(cluster, DEFAULT) == {"none"}
    first = read(cluster.coordinator.uri, DEFAULT)
    assert first.failures == 0
    assert set(first.served_by) == {worker.uri for worker in cluster.workers}
    assert_same(first.table, expected)
    read_bytes = {node.folder.name: node.total("jetbridge_store_read_bytes_total") for node in cluster.nodes}
    print(f"bytes read from storage: {read_bytes}; the store was asked for {store.asked_bytes}")
    assert min(read_bytes[worker.folder.name] for worker in cluster.workers) > 0
    assert read_bytes["coordinator"] < COORDINATOR_PART * sum(read_bytes.values())
    until(lambda: cached(cluster, DEFAULT) <= {"raw", "decoded"}, "what was read is kept, and told")
    assert_same(read_without_storage(cluster, store, DEFAULT), expected)


def test_an_immutable_mount_is_not_looked_at_again_either(
    cluster: Cluster, store: CountingStore, expected: pa.Table
) -> None:
    """The same with freshness=immutable; the first read finds the pages of the other mount."""
    read(cluster.coordinator.uri, IMMUTABLE, columns=["l_orderkey"])
    assert_same(read_without_storage(cluster, store, IMMUTABLE), expected)


def test_each_node_finds_what_is_cached_where_it_is_named(cluster: Cluster) -> None:
    """The workers themselves say so too, of their own parts and of others'."""
    for node in cluster.nodes:
        until(lambda uri=node.uri: cached(cluster, DEFAULT, uri) <= {"raw", "decoded"}, f"{node.folder.name} says so")


def test_weights_decide_over_shares(weighted: Cluster) -> None:
    """Twice the weight, twice the rows, within the bound."""
    with weighted.coordinator.connect() as client:
        rows, owned = first_named(info(client, "/small")), owners(client, "/small").rows_of_owners()
    assert set(rows) == {worker.uri for worker in weighted.workers}
    for worker, weight in zip(weighted.workers, WEIGHT_PARTS, strict=True):
        assert rows[worker.uri] == owned[worker.id]
        of_share = rows[worker.uri] / rows.total() / (weight / sum(WEIGHT_PARTS))
        print(f"weight {weight}: {rows[worker.uri] / rows.total():.3f} of the rows, {of_share:.3f} of its share")
        assert of_share <= MOST_OF_SHARE


def test_a_restart_of_the_coordinator_changes_no_owner(weighted: Cluster) -> None:
    """Stopped, and killed: the same epoch and owners, and it names the same workers as soon as it is ready."""
    with weighted.coordinator.connect() as client:
        before, named = owners(client, "/small"), named_first(client, "/small")
    for end in (weighted.coordinator.stop, weighted.coordinator.kill):
        end()
        weighted.coordinator.start()
        weighted.wait_for_seats(len(WEIGHT_PARTS))
        with weighted.coordinator.connect() as client:
            assert owners(client, "/small") == before
            assert named_first(client, "/small") == named
            assert epoch(info(client, "/small")) == before.epoch
    assert read(weighted.coordinator.uri, "/small").table.num_rows == SMALL_FILES * 10


def cached(cluster: Cluster, path: str, uri: str = "") -> set[str]:
    """What a node's endpoints say of where their rows are."""
    node = next(node for node in cluster.nodes if node.uri == (uri or cluster.coordinator.uri))
    with node.connect() as client:
        return {metadata(endpoint)["cached"] for endpoint in info(client, path).endpoints}


def read_without_storage(cluster: Cluster, store: CountingStore, path: str) -> pa.Table:
    """Reads through the coordinator; fails where any node asks storage for anything."""
    for is_last in (path != DEFAULT, True):
        counted = [node.total("jetbridge_store_requests_total") for node in cluster.nodes]
        store.forget()
        got = read(cluster.coordinator.uri, path)
        # A minute that was over by then costs a look, with which the next one begins.
        if is_last or not store.others:
            break
    assert (store.gets, store.others) == ([], [])
    for node, before in zip(cluster.nodes, counted, strict=True):
        assert node.total("jetbridge_store_requests_total") == before, node.folder.name
    assert sum(counted) > 0
    return got.table
