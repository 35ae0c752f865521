"""Programs that feed a PyTorch loop from a bucket: jetbridge.torch and what others have, each in its own environment.

`python epoch_sides.py NAME` with `jetbridge`, `pyarrow`, `datasets` or `mosaicml` answers lines of JSON:

* `{"epochs": {...}}` goes through the data so many times, and gives what each epoch took. `workers` are those of the
  DataLoader; the loop looks at the shape of a batch and no more, or, with `check`, sums every column.
* `{"write": {"folder": ..., "out": ..., "batch_size": ...}}`, of `mosaicml`: makes its own format of Parquet files.

A batch is a dict of eight tensors: four of whole numbers, four of doubles, which is what decimals become. The first
epoch begins before the dataset is made, and so has all that a training job waits for but imports.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as fs
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

import answering
import usage

COLUMNS = [
    *("l_orderkey", "l_partkey", "l_suppkey", "l_linenumber"),
    *("l_quantity", "l_extendedprice", "l_discount", "l_tax"),
]

Batch = dict[str, torch.Tensor]
# Batches of an epoch, by its number.
Epochs = Callable[[int], Iterable[Batch]]


@dataclass(frozen=True)
class Asked:
    """What is to be gone through, and how."""

    epochs: int
    workers: int
    batch_size: int
    check: bool
    # The bucket, and how to reach it.
    s3: dict[str, str]
    # Where Parquet files and those of MosaicML are in it.
    parquet: str
    mds: str
    # A folder of this run's own.
    scratch: str
    # Of Jetbridge: its address, its path, and whether it is asked as a server of this host.
    uri: str = ""
    path: str = ""
    local: bool = False

    def loader(self, batches: IterableDataset[Batch]) -> DataLoader[Batch]:
        """torch's own; its workers live from the first epoch to the last."""
        return DataLoader(batches, None, num_workers=self.workers, persistent_workers=self.workers > 0)


def jetbridge() -> Callable[[Asked], Epochs]:
    """Our package."""
    import jetbridge as jb

    # Imported when it is first named.
    of_torch = jb.torch

    def made(asked: Asked) -> Epochs:
        client = jb.connect(asked.uri, local=asked.local)
        scan = client.dataset(asked.path).select(*COLUMNS)
        data = of_torch.IterableDataset(scan, batch_size=asked.batch_size)
        loader = of_torch.DataLoader(data, num_workers=asked.workers, persistent_workers=asked.workers > 0)

        def epoch(number: int) -> Iterable[Batch]:
            data.set_epoch(number)
            return loader

        return epoch

    return made


class ArrowBatches(IterableDataset[Batch]):
    """What people write who have pyarrow and torch: each worker reads files of its own."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked

    def __iter__(self) -> Iterator[Batch]:
        s3 = self._asked.s3
        # Made here, since it does not survive a fork.
        store = fs.S3FileSystem(
            access_key=s3["access_key"],
            secret_key=s3["secret_key"],
            region=s3["region"],
            scheme="http",
            endpoint_override=s3["host"],
        )
        whole = ds.dataset(f"{s3['bucket']}/{self._asked.parquet}", filesystem=store, format="parquet")
        number, of = shared()
        mine = list(whole.get_fragments())[number::of]
        data = ds.FileSystemDataset(mine, whole.schema, whole.format, store)
        for batch in data.to_batches(columns=COLUMNS, batch_size=self._asked.batch_size):
            yield tensors(batch)


def pyarrow() -> Callable[[Asked], Epochs]:
    """pyarrow.dataset, which reads ahead by itself."""

    def made(asked: Asked) -> Epochs:
        loader = asked.loader(ArrowBatches(asked))
        return lambda _: loader

    return made


class Streamed(IterableDataset[Batch]):
    """Hugging Face's stream as Arrow, since its tensors have no decimals; that is its fastest form too."""

    def __init__(self, stream: Any, batch_size: int) -> None:
        self._stream, self._batch_size = stream, batch_size

    def __iter__(self) -> Iterator[Batch]:
        from datasets.distributed import split_dataset_by_node

        number, of = shared()
        mine = split_dataset_by_node(self._stream, rank=number, world_size=of) if of > 1 else self._stream
        for table in mine.iter(batch_size=self._batch_size):
            yield tensors(table.combine_chunks())


def datasets() -> Callable[[Asked], Epochs]:
    """Hugging Face's datasets, streaming Parquet."""
    import datasets as hf
    import s3fs

    def made(asked: Asked) -> Epochs:
        s3 = asked.s3
        reach = {"endpoint_url": f"http://{s3['host']}", "region_name": s3["region"]}
        options = {"key": s3["access_key"], "secret": s3["secret_key"], "client_kwargs": reach}
        # Another port is another bucket, and so is the same one in the next run.
        s3fs.S3FileSystem.clear_instance_cache()
        listed = s3fs.S3FileSystem(**options).glob(f"{s3['bucket']}/{asked.parquet}/*.parquet")
        files = [f"s3://{name}" for name in listed]
        stream = hf.load_dataset(
            "parquet", data_files=files, split="train", streaming=True, columns=COLUMNS, storage_options=options
        )
        loader = asked.loader(Streamed(stream.with_format("arrow"), asked.batch_size))
        return lambda _: loader

    return made


class Unwrapped(IterableDataset[Batch]):
    """MosaicML's samples, each of which is a whole batch here."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __iter__(self) -> Iterator[Batch]:
        for sample in self._data:
            yield {name: torch.from_numpy(sample[name]) for name in COLUMNS}


def mosaicml() -> Callable[[Asked], Epochs]:
    """MosaicML's streaming, which keeps what it has fetched on the local disk."""
    import streaming
    from streaming.base.util import clean_stale_shared_memory

    def made(asked: Asked) -> Epochs:
        s3 = asked.s3
        os.environ.update(
            S3_ENDPOINT_URL=f"http://{s3['host']}",
            AWS_ACCESS_KEY_ID=s3["access_key"],
            AWS_SECRET_ACCESS_KEY=s3["secret_key"],
            AWS_DEFAULT_REGION=s3["region"],
        )
        clean_stale_shared_memory()
        data = streaming.StreamingDataset(remote=f"s3://{s3['bucket']}/{asked.mds}", local=asked.scratch, batch_size=1)
        loader = asked.loader(Unwrapped(data))
        return lambda _: loader

    return made


def write_mds(folder: str, out: str, batch_size: int) -> int:
    """MosaicML's format of Parquet files, with its own defaults but for one thing; gives the rows.

    A sample is a batch of rows. With a row each, as in its examples, it hands out some ten thousand rows a second,
    since each sample is read and decoded by itself; so this is its quicker way, at the price of shuffling batches.
    """
    from streaming import MDSWriter

    table = ds.dataset(folder).to_table(columns=COLUMNS)
    batches = map(tensors, table.combine_chunks().to_batches(max_chunksize=batch_size))
    first = next(batches)
    kinds = {name: f"ndarray:{str(column.dtype).removeprefix('torch.')}" for name, column in first.items()}
    with MDSWriter(out=out, columns=kinds) as writer:
        for batch in itertools.chain([first], batches):
            writer.write({name: column.numpy() for name, column in batch.items()})
    return table.num_rows


def tensors(batch: pa.RecordBatch | pa.Table) -> Batch:
    """The columns of a batch, where they lie if they can."""
    return {name: tensor(column) for name, column in zip(COLUMNS, batch.columns, strict=True)}


def tensor(column: pa.Array | pa.ChunkedArray) -> torch.Tensor:
    """A column, decimals as doubles."""
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
    return torch.from_dlpack(column.cast(pa.float64()) if pa.types.is_decimal(column.type) else column)


def shared() -> tuple[int, int]:
    """Which worker of a DataLoader this is, of how many."""
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)


def gone_through(made: Callable[[Asked], Epochs], asked: Asked) -> list[dict[str, Any]]:
    """So many epochs."""
    found = []
    epochs: Epochs | None = None
    for number in range(asked.epochs):
        meter = usage.Meter()
        rows, value_bytes, first_s = 0, 0, 0.0
        sums = dict.fromkeys(COLUMNS, 0.0)
        epochs = epochs or made(asked)
        for batch in epochs(number):
            first_s = first_s or meter.seconds()
            rows += batch[COLUMNS[0]].shape[0]
            if asked.check:
                value_bytes += sum(column.nbytes for column in batch.values())
                sums = {name: sums[name] + float(batch[name].sum(dtype=torch.float64)) for name in COLUMNS}
        took = asdict(meter.read())
        checked = {"sums": sums, "value_bytes": value_bytes} if asked.check else {}
        found.append({**took, "rows": rows, "first_batch_s": first_s, **checked})
    return found


SIDES = {"jetbridge": jetbridge, "pyarrow": pyarrow, "datasets": datasets, "mosaicml": mosaicml}


def main() -> None:
    """Serves one side."""
    made = SIDES[sys.argv[1]]()

    def answer(said: dict[str, Any]) -> dict[str, Any]:
        if "write" in said:
            return {"rows": write_mds(**said["write"])}
        asked = Asked(**said["epochs"])
        try:
            return {"epochs": gone_through(made, asked)}
        finally:
            shutil.rmtree(Path(asked.scratch), ignore_errors=True)

    answering.serve(answer)


if __name__ == "__main__":
    main()
