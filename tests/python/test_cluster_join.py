"""Workers that come and go for good: a newcomer takes its share and no more, and has its first bytes from its peers; a
worker that stays away longer than its grace loses its seat, and its splits go to the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from harness import files
from harness.cluster import STORE_BYTES, Cluster, info, locations, read, until
from harness.compare import assert_same, read_file
from harness.counting import CountingStore
from harness.flight import mount
from harness.jobs import stat
from harness.owners import epoch, named_first, owners

WORKERS = 3
# A newcomer's share may be exceeded by this much in what moves.
MOVE_SLACK = 1.1
# Of what a newcomer owns, this part may be read from storage.
MOST_FROM_STORE = 0.05
KEPT_SHARE = 0.99
PEER_BYTES = "jetbridge_peer_read_bytes_total"
DATA = "/lineitem"
SMALL = "/small"
SMALL_FILES = 200
GRACE_S = 2
LEASE_S = 6
# How much later it may be noticed on a busy machine; without the setting it would be minutes.
LATE_S = 30


@pytest.fixture
def store(lineitem_sf1: Path) -> Iterator[CountingStore]:
    """Storage below whose URIs, and with them the placement, are the same in every run."""
    with CountingStore(lineitem_sf1) as running:
        yield running


def test_a_newcomer_takes_its_share_and_reads_it_from_its_peers(
    store: CountingStore, lineitem_sf1: Path, tmp_path: Path
) -> None:
    """Of lineitem's 56 splits, read once before: moves, bytes from storage on all nodes, bytes from peers, rows."""
    expected = pa.concat_tables([read_file(file) for file in sorted(lineitem_sf1.glob("*.parquet"))])
    with Cluster.start(tmp_path, {}, WORKERS) as cluster, cluster.coordinator.connect() as client:
        mount(client, DATA, store.uri, **store.options, freshness="immutable")
        read(cluster.coordinator.uri, DATA)
        # What was read is kept a while later, and given to others from then on.
        until(lambda: stat(client, DATA)["raw_share"] > KEPT_SHARE, "it is kept")
        before = owners(client, DATA)
        newcomer = cluster.add_worker()
        cluster.wait_for_seats(WORKERS + 1)
        after = owners(client, DATA)
        moved = after.moved_since(before)
        mine = after.splits_of(newcomer.id)
        print(f"{len(moved)} of {len(after.of)} splits moved, {len(moved) / len(after.of) * 4:.2f} times a quarter")
        assert mine <= moved
        assert 0 < len(moved) <= MOVE_SLACK / (WORKERS + 1) * len(after.of)
        assert after.epoch == before.epoch + 1

        until(lambda: newcomer.uri in named_first(client, DATA), "the newcomer is named")
        store.forget()
        from_store = cluster.store_bytes()
        got = read(cluster.coordinator.uri, DATA)
        from_peers = newcomer.total(PEER_BYTES)
        # The raw bytes of what it owns, as its part of all that was read before.
        owned_bytes = len(mine) / len(after.of) * sum(file.stat().st_size for file in lineitem_sf1.glob("*.parquet"))
        part = (cluster.store_bytes() - from_store) / owned_bytes
        print(f"{from_peers / 1e6:.1f} MB from peers, {part:.4f} of its {owned_bytes / 1e6:.1f} MB from storage")
        assert_same(got.table, expected)
        assert got.failures == 0
        assert got.served_by[newcomer.uri] > 0
        assert part <= MOST_FROM_STORE
        assert store.asked_bytes <= MOST_FROM_STORE * owned_bytes
        assert from_peers >= (1 - MOST_FROM_STORE) * owned_bytes
        assert newcomer.total(STORE_BYTES) <= MOST_FROM_STORE * owned_bytes


def test_a_worker_that_stays_away_loses_its_seat_after_its_grace(tmp_path: Path) -> None:
    """With a grace of 2 s: only its own splits move, spread over the others; when it is back, so are they."""
    expected = files.write_many(tmp_path / "small", SMALL_FILES)
    grace = ["--member-grace", f"{GRACE_S}s"]
    mounts = {SMALL: f"file://{tmp_path / 'small'}"}
    with (
        Cluster.start(tmp_path, mounts, WORKERS + 1, args=grace, worker_args=grace) as cluster,
        cluster.coordinator.connect() as client,
    ):
        before = owners(client, SMALL)
        gone = cluster.workers[1]
        node_id = gone.id
        gone.kill()
        gone_s = until(lambda: node_id not in cluster.seated(), "its seat is taken away", LEASE_S + GRACE_S + LATE_S)
        after = owners(client, SMALL)
        moved, own = after.moved_since(before), before.splits_of(node_id)
        heirs = {worker.folder.name: len(moved & after.splits_of(worker.id)) for worker in cluster.workers}
        print(
            f"seat gone after {gone_s:.1f} s; {len(moved)} of {SMALL_FILES} splits moved, {len(own)} its own: {heirs}"
        )
        assert gone_s > GRACE_S
        assert own <= moved
        assert len(moved) <= MOVE_SLACK / (WORKERS + 1) * SMALL_FILES + len(own)
        assert after.epoch == before.epoch + 1
        assert after.splits_of(node_id) == set()
        assert sum(count > 0 for count in heirs.values()) == WORKERS
        assert_same(read(cluster.coordinator.uri, SMALL).table, expected)
        found = info(client, SMALL)
        assert epoch(found) == after.epoch
        assert gone.uri not in {place for endpoint in found.endpoints for place in locations(endpoint)}

        gone.start()
        cluster.wait_for_seats(WORKERS + 1)
        again = owners(client, SMALL)
        assert again.of == before.of
        assert again.epoch == after.epoch + 1
