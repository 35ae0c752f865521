"""The iterable dataset."""

# Types are checked where torch is not installed.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch.utils.data import IterableDataset as TorchIterableDataset
from torch.utils.data import get_worker_info

from jetbridge.torch._core import Epochs, Even, Iteration, Nulls, Settings, WorkerOf
from jetbridge.torch._tensors import Batch, batch_of

if TYPE_CHECKING:
    from jetbridge.scan import Scan


class IterableDataset(TorchIterableDataset[Batch]):
    """Batches of a scan as tensors, epoch after epoch; see :mod:`jetbridge.torch` for types, order and resuming.

    Args:
        scan: what to read; its filter is counted once, when the dataset is made.
        batch_size: rows of a batch; the last one of an epoch may have fewer.
        shuffle: give the rows in an order that follows from ``seed`` and the epoch.
        seed: of the order.
        shuffle_buffer: row groups whose rows are mixed with each other. So many are held in memory, and as many again
            on their way.
        rank, world_size: which rank this is, of how many; by default what ``torch.distributed`` or the environment
            says.
        even: what to do where ranks would have unequal numbers of rows: ``"drop"`` leaves a row of the longer ones out,
            ``"pad"`` gives a row of the longer ones in the shorter ones, too, ``"error"`` refuses.
        drop_last: leave out a last batch of fewer rows.
        writable: whether tensors may be written to in place. Without, and without shuffling, numbers of a batch that
            lies in one piece of what came are handed over where they lie, not copied; to write to them is wrong then,
            and ends the process where they lie in memory that the server shares.
        nulls: ``"error"``, ``"fill"`` or ``"mask"``.
        fill: what stands for a null, by column.
        prefetch_batches: batches that are made ahead.
        prefetch_bytes: row groups that are read ahead, in decoded bytes; those needed next are in any case.

    Raises:
        NotFoundError: there is no such dataset.
        InvalidRequestError: a column, a filter or an option is wrong, or there are more ranks than row groups.

    >>> data = jb.torch.IterableDataset(client.dataset("/lake/trips").select("id", "fare"), batch_size=300)
    >>> [len(batch["id"]) for batch in data]
    [300, 300, 300, 100]
    """

    def __init__(
        self,
        scan: Scan,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        shuffle_buffer: int = 8,
        rank: int | None = None,
        world_size: int | None = None,
        even: Even = "drop",
        drop_last: bool = False,
        writable: bool = True,
        nulls: Nulls = "error",
        fill: Mapping[str, float] | None = None,
        prefetch_batches: int = 4,
        prefetch_bytes: int = 256 << 20,
    ) -> None:
        super().__init__()
        settings = Settings(
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            shuffle_buffer=shuffle_buffer,
            even=even,
            drop_last=drop_last,
            writable=writable,
            nulls=nulls,
            fill=tuple((fill or {}).items()),
            prefetch_batches=prefetch_batches,
            prefetch_bytes=prefetch_bytes,
        )
        self.epochs = Epochs(scan, settings, rank, world_size)

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration goes through."""
        return self.epochs.epoch

    def set_epoch(self, epoch: int) -> None:
        """Has the next iteration go through another epoch, in workers that are running, too."""
        self.epochs.set_epoch(epoch, _worker())

    def state_dict(self) -> dict[str, Any]:
        """How far the epoch is: a dict of plain values, the same on every rank at the same step.

        Raises:
            ClosedError: DataLoader workers read, and nobody counts what the trainer took of it.
        """
        return self.epochs.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Has the next iteration go on after the last batch that was handed out, on as many ranks as there are now.

        Raises:
            StaleError: the state is of another version of the data.
            InvalidRequestError: it is of another order (seed, shuffle, shuffle_buffer, filter).
        """
        self.epochs.load_state_dict(state, _worker())

    def __iter__(self) -> Iterator[Batch]:
        return _Batches(self.epochs.columns(_worker()))

    def __len__(self) -> int:
        """Batches of the next iteration on this rank."""
        return self.epochs.steps()


class _Batches:
    """The batches of one iteration."""

    def __init__(self, iteration: Iteration) -> None:
        self._iteration = iteration

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return batch_of(next(self._iteration))


def _worker() -> WorkerOf | None:
    info = get_worker_info()
    return None if info is None else (info.id, info.num_workers)
