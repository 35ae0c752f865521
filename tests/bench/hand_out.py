"""Chunks handed out inside the process, without a wire, by an example program, against pyarrow reading from disk."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import report
from clients import Client, Columns, Read, read_directly
from harness.server import binary
from storages import Storage

# The state that everything is held in as columns.
DECODED = "decoded"
DECODED_RATIO = 0.02


@dataclass(frozen=True)
class Handed:
    """What the program said of one state: the median of its rounds."""

    seconds: float
    rows: int
    arrow_bytes: int


def program() -> Path:
    """The example, which `make bench` builds beside the server."""
    path = binary().with_name("examples") / "hand_out"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: build it with `cargo build --release --workspace --examples`")
    return path


def run(storage: Storage, columns: Columns, rounds: int) -> list[report.Line]:
    """The two sides in turn; pyarrow in a process that has read before, which is its faster way."""
    direct, handed = [], []
    client = Client(fresh=False)
    try:
        client.read(read_directly, storage, columns)
        for number in range(rounds):
            direct.append(client.read(read_directly, storage, columns))
            handed.append(handed_out(storage, columns))
            assert {one.rows for one in handed[-1].values()} == {direct[-1].rows}, "another number of rows"
            ours = ", ".join(f"{state} {one.seconds * 1e3:.1f} ms" for state, one in handed[-1].items())
            print(f"bench: hand_out, {number + 1} of {rounds}: direct {direct[-1].seconds:.2f} s, {ours}", flush=True)
    finally:
        client.close()
    return [line(state, columns, [one[state] for one in handed], direct) for state in handed[0]]


def line(state: str, columns: Columns, ours: Sequence[Handed], direct: Sequence[Read]) -> report.Line:
    """One state against the direct read."""
    what = "whole" if columns is None else f"{len(columns)} columns"
    rate = statistics.median(one.arrow_bytes / one.seconds for one in ours) / 1e9
    note = f"plain: pyarrow, local files, used process; ours {rate:.1f} GB/s"
    named = f"inside the process, chunks handed out, no wire, {what}: {state}"
    seconds, plain = [one.seconds for one in ours], [read.seconds for read in direct]
    return report.Line(named, seconds, plain, DECODED_RATIO if state == DECODED else None, note)


def handed_out(storage: Storage, columns: Columns) -> dict[str, Handed]:
    """Runs the program once; the median of each state's rounds."""
    command = [str(program()), storage.folder, *(columns or ())]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stderr}")
    rounds: dict[str, list[Handed]] = {}
    for said in map(json.loads, done.stdout.splitlines()):
        rounds.setdefault(said["state"], []).append(Handed(said["seconds"], said["rows"], said["bytes"]))
    return {state: sorted(ones, key=lambda one: one.seconds)[len(ones) // 2] for state, ones in rounds.items()}
