"""No answer is a mixture of versions or older than promised while objects are overwritten, cut, deleted, made again."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from harness import files
from harness.flight import act, read
from harness.metrics import total
from harness.places import BucketPlace, LocalPlace, Place
from harness.server import Server
from harness.storm import Storm, Tally
from harness.versions import table_of
from harness.weed import Weed

SHORT_READS = 1_200
# Times eight combinations.
LONG_READS = 12_500
CACHE_BYTES = 2_097_152
CONFIGURATIONS = {
    "usual": [],
    "pages in memory": ["--cache-dir", "none"],
    "small pages": ["--page-bytes", "4KiB", "--fetch-gap-bytes", "0"],
    "evicting": ["--memory", "64MiB", "--cache-dir", f"{{cache}}={CACHE_BYTES}", "--page-bytes", "4KiB"],
}
# What is read besides where something is to be evicted: more, decoded, than half of 64 MiB.
BALLAST_FILES = 40
BALLAST_ROWS = 22_000

_numbers = itertools.count()


def seed() -> int:
    """`JETBRIDGE_STORM_SEED`, or another one each time."""
    return int(os.environ.get("JETBRIDGE_STORM_SEED") or random.randrange(1_000_000))


def ballast(server: Server, root: Path) -> Callable[[Tally], None]:
    """Reads one of many other files, which do not change."""
    for index in range(BALLAST_FILES):
        files.write(root / f"{index}.parquet", table_of(index + 1, BALLAST_ROWS))
    act(server.client, "mount.add", {"path": "/ballast", "uri": f"file://{root}"})
    turns = itertools.cycle(range(BALLAST_FILES))

    def work(tally: Tally) -> None:
        index = next(turns)
        assert read(server.client, f"/ballast/{index}.parquet").equals(table_of(index + 1, BALLAST_ROWS))
        tally.add("ballast")

    return work


def storm(
    server: Server, place: Place, reads: int, name: str, beside: Callable[[Tally], None] | None = None
) -> dict[str, int]:
    """Storms, settles, prints and gives what was done."""
    number = seed()
    print(f"storm {name}: JETBRIDGE_STORM_SEED={number}")
    running = Storm(place, server.connect, f"storm-{next(_numbers)}", number)
    running.begin(server.client)
    started_s = time.monotonic()
    running.run(reads, [beside] if beside else [])
    took_s = time.monotonic() - started_s
    running.settle(server.client)
    done = dict(sorted(running.tally.counts.items()))
    print(f"storm {name}: {took_s:.1f} s, {done}")
    assert server.daemon.process.poll() is None
    return done


def check(done: dict[str, int], reads: int, local: bool) -> None:
    """That the storm was one: most of all that can happen did."""
    assert done["reads"] == reads
    happened = ["whole", "whole, old ticket", "whole folders", "stale", "stale, old ticket", "not found", "refreshes"]
    happened += ["same size", "shrunk", "grown", "deleted", "recreated"]
    happened += ["written in place", "half written"] if local and reads > SHORT_READS else []
    assert not [what for what in happened if not done.get(what)], done
    assert done["whole"] + done["whole, old ticket"] > reads / 3


def run(
    start_server: Callable[..., Server], place: Place, root: Path, weed_environment: dict[str, str], **how: object
) -> None:
    """One storm on a server of its own."""
    configuration, reads = str(how["configuration"]), int(str(how["reads"]))
    args = [word.format(cache=root / "cache") for word in CONFIGURATIONS[configuration]]
    server = start_server(file_roots=[root], args=args, env=weed_environment)
    evicting = configuration == "evicting"
    beside = ballast(server, root / "ballast") if evicting else None
    where = "local" if isinstance(place, LocalPlace) else "S3"
    check(storm(server, place, reads, f"{where}, {configuration}", beside), reads, where == "local")
    assert total(server.admin_uri, "jetbridge_cache_checksum_failures_total") == 0
    if evicting:
        check_evictions(server)
    assert server.stop() == 0


def check_evictions(server: Server) -> None:
    """That neither tier could keep all that it was given."""
    held = act(server.client, "cache.stat", {"path": "/ballast"})
    evicted = total(server.admin_uri, "jetbridge_cache_evictions_total", tier="chunk", reason="capacity")
    print(f"storm, evicting: {evicted:.0f} chunks evicted, {held['raw_bytes']} of {held['bytes']} bytes held raw")
    assert evicted > 0
    assert 0 < held["raw_bytes"] <= CACHE_BYTES < held["bytes"]


@pytest.mark.parametrize("configuration", ["usual", "evicting"])
def test_a_storm_over_local_files(
    start_server: Callable[..., Server], tmp_path: Path, weed_environment: dict[str, str], configuration: str
) -> None:
    place = LocalPlace(tmp_path / "root")
    run(start_server, place, tmp_path / "root", weed_environment, configuration=configuration, reads=SHORT_READS)


@pytest.mark.parametrize("configuration", ["pages in memory", "small pages"])
def test_a_storm_over_a_bucket(
    start_server: Callable[..., Server],
    tmp_path: Path,
    weed: Weed,
    weed_environment: dict[str, str],
    configuration: str,
) -> None:
    with closing(BucketPlace(weed, f"storm-{next(_numbers)}")) as place:
        run(start_server, place, tmp_path, weed_environment, configuration=configuration, reads=SHORT_READS)


@pytest.mark.long
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("store", ["local", "s3"])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_a_long_storm(
    start_server: Callable[..., Server],
    tmp_path: Path,
    weed: Weed,
    weed_environment: dict[str, str],
    configuration: str,
    store: str,
) -> None:
    root = tmp_path / "root"
    with closing(LocalPlace(root) if store == "local" else BucketPlace(weed, f"storm-{next(_numbers)}")) as place:
        run(start_server, place, root, weed_environment, configuration=configuration, reads=LONG_READS)
