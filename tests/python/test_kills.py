"""kill -9 in the middle of fills: what was held before is held after, and no byte is ever wrong."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from harness import files
from harness.cluster import until
from harness.counting import CountingStore
from harness.flight import act, by_path, fetch, mount
from harness.server import Server

# Another one by the environment; every run prints its own.
SEED = int(os.environ.get("JETBRIDGE_KILL_SEED", "1"))
FILES = 8
ROWS = 131_072
GROUP_ROWS = 32_768
# Many small requests, each a little late, so that a fill takes a while and a kill falls into it.
FETCH = ["--fetch-bytes", "256KiB", "--fetch-gap-bytes", "0", "--store-concurrency", "4"]
GET_DELAY_S = 0.02
LONGEST_FILL_S = 0.3
LEAST_HELD_SHARE = 0.95
READ_TIMEOUT_S = 60.0


@dataclass
class Lake:
    """Files on a counting store, each with the rows that it has now."""

    store: CountingStore
    folder: Path
    rng: random.Random
    tables: dict[str, pa.Table] = field(default_factory=dict)

    def rewrite(self, name: str) -> None:
        """New rows for one file, of the same number, so of about the same size."""
        values = np.random.default_rng(self.rng.getrandbits(32)).integers(0, 2**62, (2, ROWS))
        table = pa.table({"a": values[0], "b": values[1]})
        aside = self.folder.with_name("aside.parquet")
        files.write(aside, table, row_group_size=GROUP_ROWS, use_dictionary=False)
        aside.rename(self.folder / name)
        self.tables[name] = table

    @property
    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.iterdir())

    @property
    def expected(self) -> pa.Table:
        return pa.concat_tables(self.tables[name] for name in sorted(self.tables))


@dataclass
class Tally:
    """What all rounds came to."""

    rounds: int = 0
    interrupted: int = 0
    held_bytes: int = 0
    found_bytes: int = 0
    served_bytes: int = 0
    least_share: float = 1.0


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    folder = tmp_path / "lake"
    folder.mkdir()
    with CountingStore(folder, delay_s=GET_DELAY_S) as store:
        lake = Lake(store, folder, random.Random(SEED))
        for number in range(FILES):
            lake.rewrite(f"{number}.parquet")
        yield lake


def held_bytes(server: Server) -> int:
    """Bytes of the files, as they are now, that are held as pages."""
    return int(act(server.client, "cache.stat", {"path": "/c"})["raw_bytes"])


def check_what_was_kept(server: Server, lake: Lake, held_before: int, tally: Tally) -> None:
    """After a kill: right rows, and the store asked for no more than what was not held."""
    found = held_bytes(server)
    lake.store.forget()
    assert fetch(server.client, by_path("/c")).table.equals(lake.expected)
    served = lake.size_bytes - lake.store.asked_bytes
    if held_before:
        share = min(found, served) / held_before
        tally.least_share = min(tally.least_share, share)
        assert share >= LEAST_HELD_SHARE, f"{held_before} bytes were held, {found} found, {served} served without GETs"
    tally.held_bytes += held_before
    tally.found_bytes += min(found, held_before)
    tally.served_bytes += min(served, held_before)
    # What was read is kept a while later; the next kill is to find it.
    until(lambda: held_bytes(server) >= LEAST_HELD_SHARE * lake.size_bytes, "what was read is kept")


def fill_until_killed(server: Server, lake: Lake, tally: Tally) -> int:
    """Frees some files, writes another anew, reads all, and kills the server meanwhile; what was held just before."""
    for name in lake.rng.sample(sorted(lake.tables), lake.rng.randrange(3, FILES)):
        act(server.client, "cache.free", {"path": f"/c/{name}"})
    lake.rewrite(lake.rng.choice(sorted(lake.tables)))
    lake.store.forget()
    outcome: list[bool] = []
    reader = threading.Thread(target=lambda: outcome.append(reads_to_the_end(server)))
    reader.start()
    lake.store.wait_for_gets(1)
    time.sleep(lake.rng.uniform(0, LONGEST_FILL_S))
    held = held_bytes(server)
    server.daemon.kill()
    reader.join(READ_TIMEOUT_S)
    assert outcome, "the reader hangs though the server is dead"
    tally.interrupted += not outcome[0]
    return held


def reads_to_the_end(server: Server) -> bool:
    """Reads all with a connection of its own; false where the server dies meanwhile."""
    try:
        with server.connect() as client:
            fetch(client, by_path("/c"))
    except pa.ArrowException:
        return False
    return True


def kill_again_and_again(start_server: Callable[..., Server], lake: Lake, folders: list[Path], rounds: int) -> Tally:
    """So many kills, each followed by a start on the same folders and a look at what they hold."""
    print(f"JETBRIDGE_KILL_SEED={SEED}")
    args = [part for folder in folders for part in ("--cache-dir", folder)]
    tally, held = Tally(), 0
    while True:
        server = start_server(args=[*FETCH, *args])
        if not tally.rounds:
            mount(server.client, "/c", lake.store.uri, freshness="always", **lake.store.options)
        check_what_was_kept(server, lake, held, tally)
        if tally.rounds == rounds:
            break
        held = fill_until_killed(server, lake, tally)
        tally.rounds += 1
    print(tally)
    assert tally.interrupted >= rounds / 2, "too few kills came before the fill's end"
    assert tally.held_bytes > rounds * lake.size_bytes / 10, "too little was held when the kills came"
    return tally


@pytest.mark.parametrize("folders", [1, 2])
def test_a_killed_server_finds_its_pages_again(
    start_server: Callable[..., Server], lake: Lake, tmp_path: Path, folders: int
) -> None:
    kill_again_and_again(start_server, lake, [tmp_path / f"cache-{number}" for number in range(folders)], rounds=4)


@pytest.mark.long
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("folders", [1, 2])
def test_a_hundred_kills(start_server: Callable[..., Server], lake: Lake, tmp_path: Path, folders: int) -> None:
    kill_again_and_again(start_server, lake, [tmp_path / f"cache-{number}" for number in range(folders)], rounds=50)
