"""One epoch of PyTorch in batches of four columns, through Jetbridge or by pyarrow; says how long it took, as JSON.

It runs where torch is installed, which need not be where the rest of the demo runs.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator

import torch

DATASET = "/lake/lineitem"
COLUMNS = ["l_orderkey", "l_partkey", "l_suppkey", "l_linenumber"]
BATCH_ROWS = 4096


def through(uri: str) -> Iterable[dict[str, torch.Tensor]]:
    """Batches that are made in the package's threads."""
    import jetbridge as jb

    return jb.torch.IterableDataset(jb.connect(uri).dataset(DATASET).select(*COLUMNS), batch_size=BATCH_ROWS)


def directly(folder: str) -> Iterator[dict[str, torch.Tensor]]:
    """The same of the files."""
    import pyarrow.dataset as ds

    for batch in ds.dataset(folder).to_batches(columns=COLUMNS, batch_size=BATCH_ROWS):
        # torch warns of memory that it must not write to.
        yield {name: torch.from_numpy(column.to_numpy().copy()) for name, column in zip(COLUMNS, batch, strict=True)}


def main() -> None:
    """Takes `through URI` or `directly FOLDER`."""
    way, place = sys.argv[1:]
    began = time.perf_counter()
    rows, total = 0, 0
    for batch in through(place) if way == "through" else directly(place):
        rows += len(batch[COLUMNS[0]])
        total += sum(int(column.sum()) for column in batch.values())
    print(json.dumps({"seconds": time.perf_counter() - began, "rows": rows, "sum": total}))


if __name__ == "__main__":
    main()
