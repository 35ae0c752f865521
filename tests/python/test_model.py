"""The whole system against a model that just reads the objects, whatever was read, written, freed or restarted before.

One client does random things to one server over a local folder and a bucket. Every answer must equal what pyarrow reads
from the objects at that moment; what is said of the cache must add up; and every column chunk that a read needs must be
counted as one hit or miss.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.compare import assert_same
from harness.errors import expect_error
from harness.flight import Answer, act, by_scan, fetch, mounts
from harness.metrics import lookups
from harness.objects import COLUMNS, FOLDERS, NAMES, Objects, random_filter
from harness.places import BucketPlace, LocalPlace
from harness.server import Options, Server
from harness.weed import Weed

SHORT_S = 30.0
LONG_S = 600.0
# How much longer it may take on a slow machine until all has happened.
LATE_S = 120.0
HISTORY = 25
SETTLE_S = 60.0
POLL_INTERVAL_S = 0.01
# Looks at the cache that show the same before it counts as quiet. What is small is kept half a second after it came.
QUIET_LOOKS = 70
PAGE_SIZES = ("4KiB", "16KiB", "64KiB", "1MiB")
# The first three are enough for all that is read; a folder without a size has much.
ROOMY = ("", "", "=256MiB")
CAPACITIES = (*ROOMY, "=0", "=64KiB", "=1MiB")
MEMORY_SIZES = ("64MiB", "80MiB", "256MiB", "1GiB")
# Pages that were on disk and are still there after the process was killed.
SURVIVING_SHARE = 0.95


def seconds(usual_s: float) -> float:
    """`JETBRIDGE_MODEL_SECONDS`, or what is usual."""
    return float(os.environ.get("JETBRIDGE_MODEL_SECONDS") or usual_s)


def seed() -> int:
    """`JETBRIDGE_MODEL_SEED`, or another one each time."""
    return int(os.environ.get("JETBRIDGE_MODEL_SEED") or random.randrange(1_000_000))


class Model:
    """The server under test, and what is done to it."""

    def __init__(self, folder: Path, roots: list[Objects], env: dict[str, str], rng: random.Random) -> None:
        self._folder, self._roots, self._env, self._rng = folder, roots, env, rng
        self._args: list[str] = []
        self.done: Counter[str] = Counter()
        self.steps = 0
        self.history: deque[str] = deque(maxlen=HISTORY)
        for root in roots:
            for name in NAMES[::2]:
                root.write(name)
        self.server = self._start()
        for root in roots:
            options = {**root.place.options, "freshness": "immutable"}
            act(self.server.client, "mount.add", {"path": root.path, "uri": root.place.uri, "options": options})

    def step(self) -> None:
        """One random thing."""
        works = {
            self.read: 60,
            self.overwrite: 10,
            self.delete: 2,
            self.refresh: 2,
            self.look: 8,
            self.free: 5,
            self.free_generation: 2,
            self.restart: 1,
            self.kill: 1,
        }
        self.steps += 1
        (work,) = self._rng.choices(list(works), list(works.values()))
        work()

    def note(self, what: str, more: object = "") -> None:
        self.done[what] += 1
        self.history.append(f"{what} {more}")

    # What changes the objects.

    def overwrite(self) -> None:
        root, name = self._rng.choice(self._roots), self._rng.choice(NAMES)
        self.note("overwrites" if name in root.names else "new files", f"{root.path}/{name}")
        root.write(name)
        self._refresh_above(root, name)

    def delete(self) -> None:
        root = self._rng.choice(self._roots)
        if root.names:
            name = self._rng.choice(sorted(root.names))
            self.note("deletes", f"{root.path}/{name}")
            root.delete(name)
            self._refresh_above(root, name)

    def refresh(self) -> None:
        root, name = self._somewhere()
        self.note("refreshes", f"{root.path}/{name}")
        act(self.server.client, "dataset.refresh", {"path": at(root, name)})

    def _refresh_above(self, root: Objects, name: str) -> None:
        path = self._rng.choice((name, name.partition("/")[0], ""))
        act(self.server.client, "dataset.refresh", {"path": at(root, path)})

    # Reading.

    def read(self) -> None:
        root, name = self._somewhere()
        spec, expected, chunks = self._question(root, name)
        self.note("reads", f"{at(root, name)} {spec}")
        if expected is None:
            with expect_error("NOT_FOUND"):
                fetch(self.server.client, by_scan(at(root, name), **spec))
            self.done["reads of nothing"] += 1
            return
        before = lookups(self.server.admin_uri)["chunk"]
        answer = fetch(self.server.client, by_scan(at(root, name), **spec))
        check_answer(answer, spec, expected)
        if chunks is not None:
            found = lookups(self.server.admin_uri)["chunk"].since(before)
            assert found.all == chunks, f"{found} are not {chunks} lookups"
            self.done["chunk lookups"] += chunks
            self.done["chunk hits"] += int(found.hits)
        for source in answer.sources:
            self.done[f"from {source}"] += 1

    def _question(self, root: Objects, name: str) -> tuple[dict[str, Any], pa.Table | None, int | None]:
        """A scan, its right answer (none where there is no data), and its count of column chunks if that is sure."""
        rng, spec = self._rng, dict[str, Any]()
        files = root.files(name)
        columns = list(COLUMNS)
        if rng.random() < 0.6:
            spec["columns"] = columns = rng.sample(columns, rng.randint(0, len(columns)))
        chosen = random_filter(rng) if rng.random() < 0.4 else None
        if chosen:
            spec["filter"] = chosen.sql
        if rng.random() < 0.25:
            spec["limit"] = rng.choice((0, 1, rng.randint(2, 5_000)))
        if rng.random() < 0.5 or "limit" in spec:
            spec["ordered"] = True
        if not files:
            return spec, None, None
        expected = pa.concat_tables([file.read() for file in files])
        if chosen:
            expected = expected.filter(chosen.keeps(expected))
        expected = expected.slice(0, spec.get("limit"))
        sure = not chosen and "limit" not in spec
        # A group without rows is not read.
        groups = sum(file.metadata.row_group(at).num_rows > 0 for file in files for at in range(file.num_row_groups))
        return spec, expected.select(columns), groups * len(columns) if sure else None

    # What is said of the cache.

    def look(self) -> None:
        root, name = self._somewhere(existing=True)
        if not root.below(name):
            return
        self.note("stats", at(root, name))
        stat, files = self._settled(root, name), root.files(name)
        assert (stat["files"], stat["bytes"]) == (len(files), root.bytes(name))
        assert stat["rows"] == sum(file.metadata.num_rows for file in files)
        by_file = self._stat(root, name, by="file")
        check_files(stat, by_file["by_file"])
        check_columns(stat, self._stat(root, name, by="column")["by_column"], files)

    def free(self) -> None:
        root, name = self._somewhere(existing=True)
        if not root.below(name):
            return
        stat, dry = self._settled(root, name), self._rng.random() < 0.3
        self.note("dry frees" if dry else "frees", at(root, name))
        told = act(self.server.client, "cache.free", {"path": at(root, name), "dry_run": dry})
        assert told["bytes"] == stat["raw_bytes"] + stat["decoded_bytes"] + stat["outdated_bytes"]
        assert told["dry_run"] is dry
        after = self._stat(root, name)
        if dry:
            assert after == stat
            return
        assert (after["raw_bytes"], after["decoded_bytes"], after["outdated_bytes"]) == (0, 0, 0)
        self.done["bytes freed"] += told["bytes"]

    def free_generation(self) -> None:
        root = self._rng.choice(self._roots)
        if not root.names:
            return
        before = self._settled(root, "")
        listed = self._stat(root, "", by="file")["by_file"]
        held = [file for file in listed if file["raw_bytes"] + file["decoded_bytes"]]
        if not held:
            return
        one = self._rng.choice(held)
        self.note("frees of a generation", one["path"])
        told = act(self.server.client, "cache.free", {"path": root.path, "generation": one["generation"]})
        same = [file for file in held if file["generation"] == one["generation"]]
        assert told["raw_bytes"] == sum(file["raw_bytes"] for file in same)
        assert told["decoded_bytes"] == sum(file["decoded_bytes"] for file in same)
        after = self._stat(root, "")
        sizes = ("raw_bytes", "decoded_bytes", "outdated_bytes")
        assert sum(after[size] for size in sizes) == sum(before[size] for size in sizes) - told["bytes"]

    def _stat(self, root: Objects, name: str, **more: Any) -> dict[str, Any]:
        return act(self.server.client, "cache.stat", {"path": at(root, name), **more})

    def _settled(self, root: Objects, name: str) -> dict[str, Any]:
        """What is held once nothing is on its way any more: pages are kept after their readers were answered."""
        looks: deque[dict[str, Any]] = deque(maxlen=QUIET_LOOKS)
        deadline_s = time.monotonic() + SETTLE_S
        while len(looks) < QUIET_LOOKS or any(look != looks[0] for look in looks):
            assert time.monotonic() < deadline_s, f"what is held never settles: {list(looks)}"
            looks.append(self._stat(root, name))
            if not self._keeper_rests():
                looks.clear()
            time.sleep(POLL_INTERVAL_S)
        return looks[0]

    def _keeper_rests(self) -> bool:
        """Whether the thread that keeps pages waits for work: on a busy machine it is seldom let do what it has."""
        for task in Path(f"/proc/{self.server.daemon.pid}/task").iterdir():
            # A thread may end between being listed and being looked at.
            with suppress(FileNotFoundError, ProcessLookupError):
                name, _, more = (task / "stat").read_text().rpartition(")")
                if name.endswith("(keep-pages") and more.split()[0] != "S":
                    return False
        return True

    # Restarts.

    def restart(self) -> None:
        self._restart(self.server.stop, 1.0)

    def kill(self) -> None:
        def kill() -> int:
            self.server.client.close()
            self.server.daemon.kill()
            return 0

        self._restart(kill, SURVIVING_SHARE)

    def _restart(self, end: Callable[[], int], share: float) -> None:
        same = self._rng.random() < 0.4
        before = {root.path: self._settled(root, "")["raw_bytes"] for root in self._roots if root.names}
        args = self._args if same else self._settings()
        how = "restarts after SIGTERM" if share == 1.0 else "restarts after SIGKILL"
        self.note(how, args)
        assert end() == 0
        self._args = args
        self.server = self._start()
        assert {root.path for root in self._roots} <= set(mounts(self.server.client))
        if same and keeps_all(args):
            self.done["restarts that keep their pages"] += 1
            for root in (root for root in self._roots if root.names):
                held = self._stat(root, "")["raw_bytes"]
                assert held >= share * before[root.path], f"{root.path}: {held} bytes of {before[root.path]} are held"

    def _settings(self) -> list[str]:
        rng = self._rng
        args = ["--memory", rng.choice(MEMORY_SIZES), "--page-bytes", rng.choice(PAGE_SIZES)]
        args += ["--decode-threads", str(rng.randint(1, 3)), "--fetch-gap-bytes", rng.choice(("0", "64KiB", "1MiB"))]
        folders = rng.choice(([], ["one"], ["two"], ["one", "two"], ["two", "one"], ["none"]))
        for name in folders:
            folder = name if name == "none" else f"{self._folder / name}{rng.choice(CAPACITIES)}"
            args += ["--cache-dir", folder]
        return args

    def _start(self) -> Server:
        options = Options(file_roots=[self._folder], args=self._args, env=self._env)
        return Server(self._folder / "data", options)

    def _somewhere(self, existing: bool = False) -> tuple[Objects, str]:
        """A root and the name of a file or folder in it, perhaps of none."""
        root = self._rng.choice(self._roots)
        names = sorted(root.names) if existing else NAMES
        return root, self._rng.choice(["", *FOLDERS, *names, *names])


def keeps_all(args: list[str]) -> bool:
    """Whether a server that is started so keeps all that is read on its disks, and over a restart."""
    sizes = [word.partition("=")[2] for flag, word in itertools.pairwise(args) if flag == "--cache-dir"]
    return "none" not in args and all(f"={size}" in ROOMY or not size for size in sizes)


def at(root: Objects, name: str) -> str:
    """The namespace path of a file or folder."""
    return f"{root.path}/{name}" if name else root.path


def check_answer(answer: Answer, spec: dict[str, Any], expected: pa.Table) -> None:
    """Same rows in the same order; only their number where no column was asked for."""
    if spec.get("columns") == []:
        assert answer.table.num_columns == 0
        assert answer.rows == expected.num_rows
    else:
        assert_same(answer.table, expected)


def check_files(stat: dict[str, Any], by_file: list[dict[str, Any]]) -> None:
    """What is held of the files sums up to what is held of all."""
    current = [file for file in by_file if file["current"]]
    for size in ("rows", "bytes", "raw_bytes", "decoded_bytes"):
        assert stat[size] == sum(file[size] for file in current), size
    outdated = [file["raw_bytes"] + file["decoded_bytes"] for file in by_file if not file["current"]]
    assert stat["outdated_bytes"] == sum(outdated)
    assert all(0 <= file["raw_bytes"] <= file["bytes"] for file in by_file)
    assert stat["raw_share"] == pytest.approx(stat["raw_bytes"] / max(1, stat["bytes"]), abs=1e-5)


def check_columns(stat: dict[str, Any], by_column: list[dict[str, Any]], files: list[pq.ParquetFile]) -> None:
    """What is held of the columns: all that is decoded, and of the raw bytes those that are within columns."""
    assert [column["column"] for column in by_column] == list(COLUMNS)
    assert sum(column["decoded_bytes"] for column in by_column) == stat["decoded_bytes"]
    assert sum(column["raw_bytes"] for column in by_column) <= stat["raw_bytes"]
    for column in by_column:
        assert column["raw_bytes"] <= column["bytes"]
        assert column["bytes"] == sum(size for file in files for size in chunk_sizes(file, column["column"]))


def chunk_sizes(file: pq.ParquetFile, column: str) -> Iterator[int]:
    """The lengths of a column's chunks in the file."""
    for index in range(file.num_row_groups):
        group = file.metadata.row_group(index)
        chunks = [group.column(leaf) for leaf in range(group.num_columns)]
        yield from (c.total_compressed_size for c in chunks if c.path_in_schema.split(".")[0] == column)


def run(folder: Path, weed: Weed, env: dict[str, str], for_s: float, happened: Collection[str]) -> None:
    """A server over a folder and a bucket, and random things for so long, in which each of these happens."""
    number = seed()
    print(f"JETBRIDGE_MODEL_SEED={number}, {for_s:.0f} s")
    rng = random.Random(number)
    with closing(BucketPlace(weed, f"model-{number}-{time.monotonic_ns()}")) as bucket:
        roots = [Objects("/local", LocalPlace(folder / "root"), rng), Objects("/s3", bucket, rng)]
        model = Model(folder, roots, env, rng)
        go_on(model, for_s, happened)
    print(f"seed {number}: {model.steps} steps, {dict(sorted(model.done.items()))}")
    assert not [what for what in happened if not model.done[what]], model.done


def go_on(model: Model, for_s: float, happened: Collection[str]) -> None:
    """Random things for so long, and a while longer until all of these happened; shows what came before a failure."""
    deadline_s = time.monotonic() + for_s
    latest_s = deadline_s + LATE_S
    try:
        while time.monotonic() < (deadline_s if all(model.done[what] for what in happened) else latest_s):
            model.step()
            assert model.server.daemon.process.poll() is None
    except BaseException:
        print(f"the last of {model.steps} steps:", *model.history, sep="\n  ")
        print(model.server.daemon.log_tail)
        model.server.daemon.kill()
        raise
    assert model.server.stop() == 0
    assert "panicked" not in model.server.log


def test_answers_are_what_the_objects_hold(tmp_path: Path, weed: Weed, weed_environment: dict[str, str]) -> None:
    happened = ("reads", "overwrites", "stats", "frees", "chunk hits", "from store")
    run(tmp_path, weed, weed_environment, seconds(SHORT_S), happened)


@pytest.mark.long
@pytest.mark.timeout(2 * LONG_S)
def test_answers_are_what_the_objects_hold_for_long(
    tmp_path: Path, weed: Weed, weed_environment: dict[str, str]
) -> None:
    restarts = ("restarts after SIGTERM", "restarts after SIGKILL", "restarts that keep their pages")
    frees = ("frees", "dry frees", "frees of a generation", "bytes freed")
    happened = (*frees, *restarts, "deletes", "reads of nothing", "from memory", "from disk", "from store")
    run(tmp_path, weed, weed_environment, seconds(LONG_S), happened)
