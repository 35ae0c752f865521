"""Cache folders that are damaged, full, gone, linked, or of other settings: reads stay right and go on."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from harness import files
from harness.flight import act, by_path, by_scan, fetch
from harness.metrics import samples, total
from harness.server import Server, run_cli
from harness.stored import data_offset

SEED = 11
COLUMNS = [f"c{number}" for number in range(8)]
ROWS = 262_144
GROUP_ROWS = 65_536
TMPFS_BYTES = 16 << 20
HEADER_BYTES = 4_096
POLL_INTERVAL_S = 0.02
POLL_TIMEOUT_S = 60.0
# Pages are kept as whole pages of the tests' two files, so what is held is all or nearly all.
MOST_OF_IT = 0.99
# What telling what is held reads itself, and keeps: the footers of two files, in two pages each at most.
FOOTERS_BYTES = 4 * 65_536


@dataclass(frozen=True)
class Lake:
    """A folder of two files, of 16 MiB each, that do not compress."""

    folder: Path
    table: pa.Table

    @property
    def mounts(self) -> dict[str, str]:
        return {"/lake": f"file://{self.folder}"}

    @property
    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.iterdir())

    def assert_reads(self, server: Server, *columns: str) -> None:
        """All rows of these columns (of all where none is given) come and are right."""
        wanted = list(columns) or COLUMNS
        assert fetch(server.client, by_scan("/lake", columns=wanted)).table.equals(self.table.select(wanted))


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    folder, rng = tmp_path_factory.mktemp("lake"), np.random.default_rng(SEED)
    tables = [pa.table({name: rng.integers(0, 2**62, ROWS) for name in COLUMNS}) for _ in range(2)]
    for number, table in enumerate(tables):
        files.write(folder / f"{number}.parquet", table, row_group_size=GROUP_ROWS, use_dictionary=False)
    return Lake(folder, pa.concat_tables(tables))


def held(server: Server) -> int:
    """Bytes of the lake's files that are held as pages."""
    return int(act(server.client, "cache.stat", {"path": "/lake"})["raw_bytes"])


def asked(server: Server) -> float:
    """Bytes that the server has read from storage so far."""
    return total(server.admin_uri, "jetbridge_store_read_bytes_total")


def filled(server: Server, lake: Lake) -> Server:
    """The server once it has read all and kept it."""
    lake.assert_reads(server)
    wait_until(lambda: held(server) > MOST_OF_IT * lake.size_bytes, "not all pages were kept")
    return server


def wait_until(holds: Callable[[], bool], failing: str) -> None:
    """Until something is so; fails where it never is."""
    deadline = time.monotonic() + POLL_TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline, failing
        time.sleep(POLL_INTERVAL_S)


def cached(folder: Path) -> list[Path]:
    """The files of file versions in a cache folder; there are some."""
    found = sorted(folder.glob("??/*.pages"))
    assert found
    return found


def flip_bits(path: Path, count: int, rng: random.Random, within: int | None = None) -> None:
    """Flips bits of a file that is in use, in place; of so many bytes from its beginning on, where that is said."""
    size = within or path.stat().st_size
    with path.open("r+b", buffering=0) as file:
        for _ in range(count):
            at = rng.randrange(size)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << rng.randrange(8)]))


@contextlib.contextmanager
def tmpfs(at: Path, *options: str) -> Iterator[Path]:
    """A small file system of its own; the test is skipped where this process may not mount one."""
    at.mkdir()
    words = ",".join([f"size={TMPFS_BYTES}", *options])
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", words, "tmpfs", at], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"this process may not mount a tmpfs: {done.stderr.decode().strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)


def test_bits_flip_under_a_running_server(start_server: Callable[..., Server], lake: Lake) -> None:
    print(f"SEED={SEED}")
    rng, server = random.Random(SEED), start_server(mounts=lake.mounts)
    folder = filled(server, lake).data_dir / "cache"
    tables = {path: data_offset(path.read_bytes()) for path in cached(folder)}
    for column in COLUMNS:
        # Each column is read for the second time: from its pages, not from memory.
        for path in cached(folder):
            # In its pages, mostly, and in its table.
            flip_bits(path, 20, rng)
            flip_bits(path, 20, rng, within=tables[path])
        flip_bits(folder / "superblock", 20, rng)
        lake.assert_reads(server, column)
    failures = total(server.admin_uri, "jetbridge_cache_checksum_failures_total")
    # All but a few of the flips in pages are in the pages of columns that were still to be read.
    assert failures >= len(COLUMNS)
    lake.assert_reads(server)


def test_bits_flip_while_the_server_is_down(start_server: Callable[..., Server], lake: Lake) -> None:
    print(f"SEED={SEED}")
    rng, first = random.Random(SEED), filled(start_server(mounts=lake.mounts), lake)
    folder = first.data_dir / "cache"
    first.stop()
    for path in cached(folder):
        flip_bits(path, 10, rng)
    second = start_server(mounts=lake.mounts)
    before = asked(second)
    lake.assert_reads(second)
    assert total(second.admin_uri, "jetbridge_cache_checksum_failures_total") > 0
    assert 0 < asked(second) - before < lake.size_bytes


def spoil_header(at: int) -> Callable[[bytes], bytes]:
    return lambda raw: raw[:at] + bytes([raw[at] ^ 0x03]) + raw[at + 1 :]


def zero_slots(raw: bytes) -> bytes:
    at = data_offset(raw)
    return raw[:HEADER_BYTES] + bytes(at - HEADER_BYTES) + raw[at:]


FILE_FAULTS: dict[str, Callable[[bytes], bytes]] = {
    "other version": spoil_header(8),
    "other page size": spoil_header(17),
    "cut in its header": lambda raw: raw[:100],
    "cut in its slots": lambda raw: raw[: HEADER_BYTES + 20 * 16 + 7],
    "cut in its pages": lambda raw: raw[: len(raw) // 2],
    "torn in its header": lambda raw: raw[:100] + bytes(HEADER_BYTES - 100) + raw[HEADER_BYTES:],
    "empty": lambda raw: raw[:0],
    "zeros": lambda raw: bytes(len(raw)),
    "zero slots": zero_slots,
    "noise": lambda raw: random.Random(SEED).randbytes(len(raw)),
    "longer": lambda raw: raw + random.Random(SEED).randbytes(1 << 20),
}


@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_files_that_cannot_be_used(start_server: Callable[..., Server], lake: Lake, fault: str) -> None:
    first = filled(start_server(mounts=lake.mounts), lake)
    spoilt, sound = cached(first.data_dir / "cache")
    first.stop()
    spoilt.write_bytes(FILE_FAULTS[fault](spoilt.read_bytes()))
    second = start_server(mounts=lake.mounts)
    kept = held(second)
    lake.assert_reads(second)
    # What the other file has is served; what this one had is read anew, but for what it still has.
    assert lake.size_bytes - kept <= asked(second) + FOOTERS_BYTES
    assert kept >= MOST_OF_IT * lake.size_bytes / 2
    assert (kept > MOST_OF_IT * lake.size_bytes) == (fault == "longer")
    assert sound.exists()
    filled(second, lake)


@pytest.mark.parametrize("fault", ["other version", "cut", "zeros", "removed"])
def test_superblocks_that_cannot_be_used(start_server: Callable[..., Server], lake: Lake, fault: str) -> None:
    first = filled(start_server(mounts=lake.mounts), lake)
    superblock = first.data_dir / "cache/superblock"
    first.stop()
    raw = superblock.read_bytes()
    spoilt = {"other version": spoil_header(8)(raw), "cut": raw[:20], "zeros": bytes(len(raw)), "removed": None}[fault]
    superblock.unlink()
    if spoilt is not None:
        superblock.write_bytes(spoilt)
    if fault == "removed":
        # Files without a word whose they are: they might be anybody's, and are left alone.
        done = run_cli("serve", "--data-dir", first.data_dir, "--flight", "127.0.0.1:0", "--admin", "127.0.0.1:0")
        assert done.returncode == 1
        assert str(superblock.parent) in done.stderr.decode()
        assert cached(superblock.parent)
        return
    second = start_server(mounts=lake.mounts)
    assert held(second) <= FOOTERS_BYTES
    filled(second, lake)


@pytest.mark.parametrize("size", ["1GiB", "1TiB", "8EiB"])
def test_more_capacity_than_the_disk_has(
    start_server: Callable[..., Server], lake: Lake, tmp_path: Path, size: str
) -> None:
    with tmpfs(tmp_path / "small") as folder:
        args = ["--cache-dir", f"{folder}={size}"]
        server = start_server(mounts=lake.mounts, args=args)
        for _ in range(2):
            lake.assert_reads(server)
            act(server.client, "dataset.refresh", {"path": "/lake"})
        wait_until(lambda: total(server.admin_uri, "jetbridge_cache_folder_full_total") > 0, "it is never full")
        wait_until(lambda: held(server) > TMPFS_BYTES / 2, "too little is kept")
        assert held(server) <= TMPFS_BYTES
        server.daemon.kill()
        again = start_server(mounts=lake.mounts, args=args)
        kept = held(again)
        assert kept > TMPFS_BYTES / 2
        lake.assert_reads(again)
        assert asked(again) < lake.size_bytes
        assert again.stop() == 0


def test_others_fill_the_disk(start_server: Callable[..., Server], lake: Lake, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small") as disk:
        server = start_server(mounts=lake.mounts, args=["--cache-dir", f"{disk / 'pages'}=8MiB"])
        lake.assert_reads(server, "c0")
        fill_up(disk)
        for column in COLUMNS:
            lake.assert_reads(server, column)
        lake.assert_reads(server)
        assert server.stop() == 0


def test_a_disk_that_is_full_at_the_start(start_server: Callable[..., Server], lake: Lake, tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small") as disk:
        args = ["--cache-dir", f"{disk / 'pages'}=8MiB"]
        first = start_server(mounts=lake.mounts, args=args)
        lake.assert_reads(first, "c0")
        wait_until(lambda: held(first) > 1 << 20, "nothing was kept")
        first.stop()
        fill_up(disk)
        second = start_server(mounts=lake.mounts, args=args)
        assert held(second) > 1 << 20
        for _ in range(2):
            lake.assert_reads(second)
        assert second.stop() == 0


def test_a_new_folder_on_a_full_disk_is_refused_by_name(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small") as disk:
        pages = disk / "pages"
        pages.mkdir()
        fill_up(disk)
        where = ["--data-dir", tmp_path / "data", "--flight", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        done = run_cli("serve", *where, "--cache-dir", f"{pages}=8MiB")
        assert done.returncode == 1
        assert f"{pages}: No space left" in done.stderr.decode()


def fill_up(disk: Path) -> None:
    """Takes all that is left of a disk."""
    with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
        while file.write(bytes(1 << 12)):
            pass


def test_a_folder_on_a_read_only_disk_is_refused_by_name(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", "ro") as folder:
        where = ["--data-dir", tmp_path / "data", "--flight", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        done = run_cli("serve", *where, "--cache-dir", folder)
        assert done.returncode == 1
        assert str(folder) in done.stderr.decode()
        assert "panicked" not in done.stderr.decode()


def test_a_folder_goes_while_it_is_read(start_server: Callable[..., Server], lake: Lake, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    args = [part for folder in folders for part in ("--cache-dir", folder)]
    server = filled(start_server(mounts=lake.mounts, args=args), lake)
    gone = threading.Event()

    def remove() -> None:
        for folder in folders:
            # What is written meanwhile goes with the next turn.
            while folder.exists():
                shutil.rmtree(folder, ignore_errors=True)
        gone.set()

    remover = threading.Thread(target=remove)
    for number, column in enumerate(COLUMNS):
        if number == 1:
            remover.start()
        lake.assert_reads(server, column)
    remover.join()
    assert gone.is_set()
    for _ in range(2):
        lake.assert_reads(server)
    assert server.stop() == 0


def test_a_linked_folder_is_the_folder(start_server: Callable[..., Server], lake: Lake, tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real, target_is_directory=True)
    first = filled(start_server(mounts=lake.mounts, args=["--cache-dir", link]), lake)
    assert cached(real)
    where = ["--data-dir", tmp_path / "other", "--flight", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    for words in (["--cache-dir", real], ["--cache-dir", link, "--cache-dir", real]):
        done = run_cli("serve", *where, *words)
        assert done.returncode == 1
        assert str(real) in done.stderr.decode() or str(link) in done.stderr.decode()
    first.stop()
    second = start_server(mounts=lake.mounts, args=["--cache-dir", real])
    assert held(second) > MOST_OF_IT * lake.size_bytes
    lake.assert_reads(second)
    assert asked(second) <= FOOTERS_BYTES


def test_a_link_to_nothing_and_a_link_in_a_ring(tmp_path: Path) -> None:
    where = ["--data-dir", tmp_path / "data", "--flight", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    (tmp_path / "ring").symlink_to("ring")
    (tmp_path / "file").write_bytes(b"not a folder")
    for name in ("ring", "file"):
        done = run_cli("serve", *where, "--cache-dir", tmp_path / name)
        assert done.returncode == 1
        assert str(tmp_path / name) in done.stderr.decode()


@pytest.mark.parametrize("size_mib", [0, 1, 4, 16])
def test_less_capacity_after_a_restart(
    start_server: Callable[..., Server], lake: Lake, tmp_path: Path, size_mib: int
) -> None:
    folder = tmp_path / "pages"
    first = filled(start_server(mounts=lake.mounts, args=["--cache-dir", f"{folder}=64MiB"]), lake)
    first.stop()
    second = start_server(mounts=lake.mounts, args=["--cache-dir", f"{folder}={size_mib}MiB"])
    kept = held(second)
    # What goes and stays is extents of 16 pages, and tables take their part.
    assert max(0, size_mib - 1) << 20 <= kept <= size_mib << 20
    lake.assert_reads(second)
    assert lake.size_bytes - kept <= asked(second) + FOOTERS_BYTES
    assert on_disk(folder) <= (size_mib << 20) + (1 << 20)
    second.stop()
    third = start_server(mounts=lake.mounts, args=["--cache-dir", f"{folder}=64MiB"])
    filled(third, lake)
    assert third.stop() == 0


def on_disk(folder: Path) -> int:
    """Bytes that the file system has for a folder's files."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def test_settings_change_from_run_to_run(start_server: Callable[..., Server], lake: Lake, tmp_path: Path) -> None:
    print(f"SEED={SEED}")
    rng, folders = random.Random(SEED), [tmp_path / name for name in "abc"]
    for number in range(8):
        chosen = rng.sample(folders, rng.randrange(1, 4))
        dirs = [f"{folder}={rng.choice(['0', '1MiB', '10MiB', '64MiB'])}" for folder in chosen]
        page = rng.choice(["4KiB", "64KiB", "64KiB", "1MiB"])
        words = [part for one in dirs for part in ("--cache-dir", one)]
        server = start_server(mounts=lake.mounts, args=[*words, "--page-bytes", page])
        try:
            lake.assert_reads(server, *rng.sample(COLUMNS, 4))
            lake.assert_reads(server)
        except AssertionError as error:
            raise AssertionError(f"run {number}: {dirs}, pages of {page}") from error
        if rng.random() < 0.5:
            server.daemon.kill()
        else:
            assert server.stop() == 0


def test_no_folder_has_an_error_where_nothing_is_wrong(start_server: Callable[..., Server], lake: Lake) -> None:
    server = filled(start_server(mounts=lake.mounts), lake)
    assert fetch(server.client, by_path("/lake")).sources == {"disk"}
    wrong = [
        sample
        for sample in samples(server.admin_uri)
        if sample.name.startswith(("jetbridge_cache_folder_", "jetbridge_cache_checksum_", "jetbridge_cache_unkept_"))
    ]
    assert not any(sample.value for sample in wrong), wrong
