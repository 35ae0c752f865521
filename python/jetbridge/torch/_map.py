"""The map-style dataset."""

# Types are checked where torch is not installed.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import default_collate

from jetbridge.torch._core import Nulls, Rows, Settings, whole
from jetbridge.torch._tensors import Batch, batch_of

if TYPE_CHECKING:
    from jetbridge.scan import Scan


class MapDataset(TorchDataset[Batch]):
    """The rows of a scan by their numbers, for samplers that choose rows themselves.

    A row is read with its whole row group, of which some are kept, so a sampler that jumps about reads much: prefer
    :class:`IterableDataset`, whose shuffling reads each row group once. A DataLoader asks for a batch at a time
    (``__getitems__``); with ``collate_fn=jb.torch.collate`` it gets it as it was gathered, without a dict for each row.

    Args:
        scan: what to read; its filter is counted once, when the dataset is made.
        nulls: ``"error"``, ``"fill"`` or ``"mask"``.
        fill: what stands for a null, by column.
        cache_bytes: row groups that are kept, in decoded bytes.

    >>> data = jb.torch.MapDataset(client.dataset("/lake/trips").select("id"))
    >>> len(data), data[998]["id"].item()
    (1000, 998)
    """

    def __init__(
        self,
        scan: Scan,
        *,
        nulls: Nulls = "error",
        fill: Mapping[str, float] | None = None,
        cache_bytes: int = 256 << 20,
    ) -> None:
        whole("cache_bytes", cache_bytes, 0)
        settings = Settings(batch_size=1, nulls=nulls, fill=tuple((fill or {}).items()), prefetch_bytes=cache_bytes)
        self.rows = Rows(scan, settings)

    def __len__(self) -> int:
        return self.rows.units.total_rows

    def __getitem__(self, index: int) -> Batch:
        """One row, as tensors without dimensions."""
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"there is no row {index} of {len(self)}")
        row: Batch = Samples(batch_of(self.rows.take([number])), 1)[0]
        return row

    def __getitems__(self, indices: Sequence[int]) -> Samples:
        """Several rows at once, as DataLoader asks for them."""
        numbers = [int(index) for index in indices]
        if not numbers:
            return Samples({}, 0)
        return Samples(batch_of(self.rows.take(numbers)), len(numbers))


class Samples(Sequence[Batch]):
    """Rows that were gathered together: a sequence of rows, and a batch as it is."""

    def __init__(self, batch: Batch, rows: int) -> None:
        self.batch = batch
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"there is no sample {index} of {len(self)}")
        return {name: _row(value, number) for name, value in self.batch.items()}


def collate(samples: Any) -> Any:
    """The batch of what :class:`MapDataset` gathered, as it is; of anything else what torch makes of it."""
    return samples.batch if isinstance(samples, Samples) else default_collate(samples)


def _row(value: Any, number: int) -> Any:
    if isinstance(value, tuple):
        values, offsets = value
        return _part(values, int(offsets[number]), int(offsets[number + 1]))
    return _own(value[number])


def _part(values: Any, start: int, end: int) -> Any:
    """Some of the values of lists; of values that are lists themselves, with offsets of their own."""
    if not isinstance(values, tuple):
        return _own(values[start:end])
    inner, offsets = values
    cut = offsets[start : end + 1]
    return _part(inner, int(cut[0]), int(cut[-1])), cut - cut[0]


def _own(part: Any) -> Any:
    """A row that is kept must not keep its whole batch."""
    return part.clone() if isinstance(part, torch.Tensor) else part
