"""A DataLoader that counts what it hands out."""

# Types are checked where torch is not installed.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import replace
from itertools import chain
from typing import Any, cast

from torch.utils.data import DataLoader as TorchDataLoader

from jetbridge.errors import InvalidRequestError
from jetbridge.torch._dataset import IterableDataset
from jetbridge.torch._packs import Pack, batches_of_pack, pack
from jetbridge.torch._tensors import Batch


class DataLoader(TorchDataLoader[Batch]):
    """torch's DataLoader over an :class:`IterableDataset`, with ``state_dict`` and ``load_state_dict``.

    It takes torch's arguments but those about batches, which the dataset makes. What is counted is what the loop over
    it was handed: batches that workers hold ready do not count, and come again after a resumption.

    Workers send several batches at a time, in one piece of shared memory of about 2 MiB, unless there is a
    ``collate_fn``; ``prefetch_factor`` and ``timeout`` are of such pieces. A tensor that is kept, or pickled, brings
    all of its piece: ``clone()`` what outlives its step.

    >>> data = jb.torch.IterableDataset(client.dataset("/lake/trips").select("id"), batch_size=300)
    >>> loader = jb.torch.DataLoader(data)
    >>> batches = iter(loader)
    >>> len(next(batches)["id"]), loader.state_dict()["taken"]
    (300, [[1, 300, 1]])
    """

    def __init__(self, dataset: IterableDataset, **options: Any) -> None:
        for name in ("batch_size", "shuffle", "sampler", "batch_sampler", "drop_last"):
            given = options.pop(name, None)
            if given is not None and given is not False:
                raise InvalidRequestError(f"{name} is an argument of the dataset, which makes the batches")
        if not options.get("in_order", True):
            raise InvalidRequestError("in_order=False leaves open which batches a state counts: use torch's DataLoader")
        own = options.get("collate_fn") is None
        if own:
            options["collate_fn"] = as_made
        super().__init__(dataset, batch_size=None, **options)
        self._options = options
        #: Batches of a piece; None where each comes by itself.
        self._pack: int | None = None
        if own and self.num_workers > 0:
            epochs, ahead = dataset.epochs, self.prefetch_factor or 2
            self._pack = batches_of_pack(epochs.batch_bytes(), epochs.steps(), self.num_workers, ahead)
        #: What starts the workers, where they outlive an epoch.
        self._packs: TorchDataLoader[Pack] | None = None

    def __iter__(self) -> Any:
        # Before workers share them.
        self._data.epochs.take_numbers()
        if self._pack is not None:
            return self._counted(chain.from_iterable(self._packed(self._pack)))
        batches = super().__iter__()
        if self.num_workers == 0:
            # The dataset counts itself what is taken in this process.
            return batches
        return self._counted(batches)

    def _packed(self, batches: int) -> Iterator[Pack]:
        packs = self._packs
        if packs is None:
            data = copy(self._data)
            data.epochs = data.epochs.in_packs_of(batches)
            options: dict[str, Any] = {**self._options, "collate_fn": pack}
            # Of packs, which torch's types do not say of what collate_fn gives.
            packs = cast("TorchDataLoader[Pack]", TorchDataLoader(data, batches, **options))
            if self.persistent_workers:
                self._packs = packs
        return iter(packs)

    def state_dict(self) -> dict[str, Any]:
        """How far the loop is."""
        return self._data.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Has the next loop go on from there."""
        self._data.load_state_dict(state)

    @property
    def _data(self) -> IterableDataset:
        assert isinstance(self.dataset, IterableDataset)
        return self.dataset

    def _counted(self, batches: Any) -> Iterator[Batch]:
        epochs = self._data.epochs
        # The workers have begun, with their copies of a loaded state.
        position = epochs.begin_outside()
        epochs.note(position)
        return _counting(batches, epochs, position)


def as_made(batch: Batch) -> Batch:
    """The batch as the dataset made it, where torch would make lists of the pairs of values and offsets."""
    return batch


def _counting(batches: Any, epochs: Any, position: Any) -> Iterator[Batch]:
    for batch in batches:
        world, batch_size, steps = position.now
        position = replace(position, now=(world, batch_size, steps + 1))
        epochs.note(position)
        yield batch
