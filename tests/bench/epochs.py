"""Samples per second that a PyTorch loop is handed from a bucket, against what others have for that.

Eight numeric columns of TPC-H lineitem, two epochs: cold, with nothing held anywhere, and warm, with what the first one
has left behind. A third one of ours stands beside them in the table, since columns are kept decoded once they are read
a second time. Against pyarrow.dataset, Hugging Face's datasets that stream Parquet, and MosaicML's streaming with its
own format, all from one bucket of an S3 server on this machine, near and far. The sides take turns, each in a process
of its own that has been through it before.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import programs
import report
import usage
from clients import PATH
from environments import AbsentError, Environments
from harness.server import Options, Server
from harness.tpch import folder_name, lineitem
from storages import BUCKET, S3, SHAPED, Bucket, served

SIDES = Path(__file__).with_name("epoch_sides.py")
BATCH_ROWS = 4096
WORKERS = (0, 2)
EPOCHS, OUR_EPOCHS = 2, 3
COLD, WARM = range(EPOCHS)
NAMES = ("cold", "warm", "third")
GB, MIB = 1e9, 1 << 20
# Of sums of doubles in another order.
TOLERANCE = 1e-9

OURS, TCP, SAME_HOST = "jetbridge", "jetbridge, TCP", "jetbridge, same host"
IS_LOCAL = {TCP: False, SAME_HOST: True}
PYARROW, DATASETS, MOSAICML = "pyarrow.dataset", "datasets", "mosaicml-streaming"
# The others' programs; what is not in torch's environment lies in one of that name over it.
RIVALS = {PYARROW: "pyarrow", DATASETS: "datasets", MOSAICML: "mosaicml"}
# What the bucket holds, by prefix.
PARQUET, MDS = "lineitem", "mds"

# The most that an epoch's time may be, by that of the quickest of the others in the same round.
TARGETS = {
    (S3, COLD, TCP): 1.0,
    (S3, COLD, SAME_HOST): 1.0,
    (S3, WARM, TCP): 1.0,
    (S3, WARM, SAME_HOST): 1 / 3,
    (SHAPED, WARM, TCP): 1 / 5,
    (SHAPED, WARM, SAME_HOST): 1 / 5,
}


@dataclass(frozen=True)
class Epoch:
    """One way through the data, as the process that did it saw it."""

    rows: int
    seconds: float
    first_batch_s: float
    cpu_s: float
    peak_bytes: int
    # Where it was checked: the sum of each column, and the bytes of all tensors.
    sums: dict[str, float] = field(default_factory=dict)
    value_bytes: int = 0


@dataclass(frozen=True)
class Run:
    """The epochs of one side in one round; of ours, what the server took for all of them."""

    epochs: Sequence[Epoch]
    server_s: float = 0.0
    server_peak_bytes: int = 0


# The epochs of one side, checked or not.
Go = Callable[[bool], Run]
Found = dict[str, list[Run]]


@dataclass
class Sides:
    """The Python of each program, and why one is missing, by the name of its side."""

    pythons: dict[str, Path]
    absent: dict[str, str]


def run(
    work_dir: Path, scale_factor: float, rounds: int, environments: Environments
) -> tuple[list[report.Line], list[report.Table]]:
    """Without and with DataLoader workers, near and far; nothing but the reason where torch cannot be had."""
    try:
        sides = found_sides(environments)
    except AbsentError as error:
        return [], [report.Table(f"PyTorch: nothing was measured, since torch cannot be had: {error}", ["side"], [])]
    folder = lineitem(work_dir, scale_factor)
    folders = {PARQUET: folder}
    if MOSAICML in sides.pythons:
        folders[MDS] = written(work_dir, folder, sides.pythons[MOSAICML], scale_factor)
    lines: list[report.Line] = []
    tables = []
    with served(work_dir, folders) as bucket:
        for workers in WORKERS:
            with contextlib.ExitStack() as stack:
                started = started_programs(stack, work_dir, sides)
                for place in bucket.ports:
                    where = f"{place}, {workers or 'no'} DataLoader workers"
                    goes = ways(started, work_dir, bucket, place, workers)
                    value_bytes = checked(goes, sides)
                    found = measured(goes, rounds, where)
                    lines += compared(found, place, where, value_bytes, sides)
                    tables.append(table(found, where, value_bytes))
    return lines, tables


def found_sides(environments: Environments) -> Sides:
    """All that can be had; ours and pyarrow have the environment of torch itself."""
    venv = environments.torch()
    python = venv / "bin/python"
    sides = Sides({OURS: python, PYARROW: python}, {})
    for name in (DATASETS, MOSAICML):
        try:
            sides.pythons[name] = environments.python(RIVALS[name], over=venv)
        except AbsentError as error:
            sides.absent[name] = f"cannot be had: {error}"
    return sides


def written(work_dir: Path, folder: Path, python: Path, scale_factor: float) -> Path:
    """lineitem in MosaicML's format; made when it is not there whole."""
    out = work_dir / f"{folder_name(scale_factor, 'SNAPPY')}-mds"
    done = out / "complete"
    if not done.exists():
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        with program(work_dir, MOSAICML, python) as writer:
            writer.ask(write={"folder": str(folder), "out": str(out / MDS), "batch_size": BATCH_ROWS})
        done.touch()
    return out / MDS


def program(work_dir: Path, name: str, python: Path) -> contextlib.AbstractContextManager[programs.Program]:
    """One side's program. Nothing of Hugging Face's is asked for over the network."""
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(work_dir / "huggingface"), "TOKENIZERS_PARALLELISM": "false"}
    word = RIVALS.get(name, OURS)
    return programs.started(python, SIDES, [word], work_dir / f"epochs-{word}.log", quiet)


def started_programs(stack: contextlib.ExitStack, work_dir: Path, sides: Sides) -> dict[str, programs.Program]:
    """New ones for each number of workers: S3 clients and forks do not go together."""
    return {
        name: stack.enter_context(program(work_dir, name, python))
        for name, python in sides.pythons.items()
        if name not in sides.absent
    }


def ways(
    started: dict[str, programs.Program], work_dir: Path, bucket: Bucket, place: str, workers: int
) -> dict[str, Go]:
    """How each side goes through the data."""
    asked = {
        "workers": workers,
        "batch_size": BATCH_ROWS,
        "s3": bucket.settings(place),
        "parquet": PARQUET,
        "mds": MDS,
        "scratch": str(work_dir / "epochs-scratch"),
    }
    environment = bucket.environment(place)
    client = started[OURS]
    ours = {name: partial(our_run, client, work_dir, environment, asked, local) for name, local in IS_LOCAL.items()}
    return {**ours, **{name: partial(their_run, started[name], asked) for name in RIVALS if name in started}}


def our_run(
    client: programs.Program,
    work_dir: Path,
    environment: dict[str, str],
    asked: dict[str, Any],
    local: bool,
    check: bool,
) -> Run:
    """With a server that holds nothing before."""
    data_dir = work_dir / "data"
    shutil.rmtree(data_dir, ignore_errors=True)
    server = Server(data_dir, Options(mounts={PATH: f"s3://{BUCKET}/{PARQUET}"}, env=environment))
    try:
        before_s = server.daemon.cpu_seconds()
        where = {"uri": server.flight_uri, "path": PATH, "local": local}
        said = client.ask(epochs={**asked, **where, "epochs": OUR_EPOCHS, "check": check})
        server_s = server.daemon.cpu_seconds() - before_s
        return Run([*map(epoch_of, said["epochs"])], server_s, usage.peak_of(server.daemon.pid))
    finally:
        server.stop()


def their_run(client: programs.Program, asked: dict[str, Any], check: bool) -> Run:
    """With nothing kept from the run before."""
    said = client.ask(epochs={**asked, "epochs": EPOCHS, "check": check})
    return Run([*map(epoch_of, said["epochs"])])


def epoch_of(said: dict[str, Any]) -> Epoch:
    """As a program says it."""
    cpu_s = said["user_s"] + said["system_s"]
    checked = {name: said[name] for name in ("sums", "value_bytes") if name in said}
    return Epoch(said["rows"], said["seconds"], said["first_batch_s"], cpu_s, said["peak_bytes"], **checked)


def checked(goes: dict[str, Go], sides: Sides) -> int:
    """Goes through it once by each way, and fails where one gives other rows; the bytes of an epoch's tensors.

    One of the others that fails is left out from then on, and why is told.
    """
    expected: Epoch | None = None
    for name, go in [*goes.items()]:
        try:
            epochs = go(True).epochs
        except programs.FailedError as error:
            if name not in RIVALS:
                raise
            sides.absent[name] = f"failed: {str(error).splitlines()[0]}"
            del goes[name]
            continue
        expected = expected or epochs[0]
        for epoch in epochs:
            size = (epoch.rows, epoch.value_bytes)
            assert size == (expected.rows, expected.value_bytes), f"{name}: {size}, not as {expected}"
            for column, total in epoch.sums.items():
                same = math.isclose(total, expected.sums[column], rel_tol=TOLERANCE)
                assert same, f"{name}: {column} sums to {total}, not to {expected.sums[column]}"
    assert expected
    return expected.value_bytes


def measured(goes: dict[str, Go], rounds: int, where: str) -> Found:
    """So many runs of each side, in turn."""
    found: Found = {name: [] for name in goes}
    for number in range(rounds):
        for name, go in goes.items():
            found[name].append(go(False))
        told = "; ".join(f"{name} {said(ones[-1])}" for name, ones in found.items())
        print(f"bench: torch, {where}, round {number + 1} of {rounds}: {told}", flush=True)
    return found


def said(one: Run) -> str:
    """The rates of a run."""
    return ", ".join(f"{epoch.rows / epoch.seconds / 1e6:.2f}" for epoch in one.epochs) + " M/s"


def compared(found: Found, place: str, where: str, value_bytes: int, sides: Sides) -> Iterator[report.Line]:
    """Each of our two ways by the quickest of the others, epoch by epoch."""
    missing = "".join(f"; {name} {why}" for name, why in sides.absent.items())
    rivals = [name for name in RIVALS if name in found]
    for name in IS_LOCAL:
        for epoch in (COLD, WARM):
            ours = [one.epochs[epoch].seconds for one in found[name]]
            best = [min(ones) for ones in zip(*(times(found[rival], epoch) for rival in rivals), strict=True)]
            quickest = min(rivals, key=lambda rival: statistics.median(times(found[rival], epoch)))
            note = "; ".join(
                f"{side}: {beside([one.epochs[epoch] for one in found[which]], value_bytes)}"
                for side, which in (("ours", name), (f"the quickest, {quickest}", quickest))
            )
            what = f"PyTorch, {NAMES[epoch]} epoch, {where}, {name}: time by the quickest of {len(rivals)} others"
            yield report.Line(what, ours, best, TARGETS.get((place, epoch, name)), note + missing)


def times(runs: Sequence[Run], epoch: int) -> list[float]:
    """Seconds of an epoch, run by run."""
    return [one.epochs[epoch].seconds for one in runs]


def beside(epochs: Sequence[Epoch], value_bytes: int) -> str:
    """What else is to be told of an epoch."""
    rate, first_ms, cpu, peak = figures(epochs, value_bytes)
    return f"{rate} samples/s, first batch {first_ms} ms, CPU {cpu} s/GB, peak RSS {peak} MiB"


def figures(epochs: Sequence[Epoch], value_bytes: int) -> tuple[str, str, str, str]:
    """Samples a second, ms to the first batch, the client's CPU seconds a GB of tensors; and the worst peak in MiB."""
    rate = statistics.median(epoch.rows / epoch.seconds for epoch in epochs)
    first_s = statistics.median(epoch.first_batch_s for epoch in epochs)
    cpu = statistics.median(epoch.cpu_s for epoch in epochs) / value_bytes * GB
    return f"{rate:,.0f}", f"{first_s * 1e3:,.0f}", f"{cpu:.2f}", f"{max(e.peak_bytes for e in epochs) / MIB:,.0f}"


def table(found: Found, where: str, value_bytes: int) -> report.Table:
    """Every side and epoch."""
    head = ["side", "epoch", "samples/s", "first batch ms", "client's CPU s/GB", "client's peak RSS MiB", "server"]
    rows = []
    for name, runs in found.items():
        for number in range(len(runs[0].epochs)):
            row = figures([one.epochs[number] for one in runs], value_bytes)
            rows.append([name, NAMES[number], *row, server_of(runs, value_bytes) if not number else ""])
    how = f"8 columns of lineitem in order, batches of {BATCH_ROWS}; memory is the sum over all processes of a side"
    return report.Table(f"PyTorch, {where}, {how}", head, rows)


def server_of(runs: Sequence[Run], value_bytes: int) -> str:
    """What our server took for all epochs of a run."""
    if not runs[0].server_peak_bytes:
        return ""
    cpu = statistics.median(one.server_s for one in runs) / value_bytes / len(runs[0].epochs) * GB
    peak = max(one.server_peak_bytes for one in runs) / MIB
    return f"CPU {cpu:.2f} s/GB over all epochs, peak RSS {peak:,.0f} MiB"
