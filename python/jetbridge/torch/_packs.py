"""Batches on their way from DataLoader workers, several in one piece of shared memory.

torch sends every tensor by itself: a file, its descriptor over a connection made for it, a mapping. For batches of a
few columns that takes longer than making them. So a worker lays all tensors of some batches into one tensor of bytes,
and the loop takes them out where they lie.
"""

# Types are checked where torch is not installed.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from jetbridge.torch._tensors import Batch

#: Bytes of a pack, about. A loader with W workers has 3 W packs on their way by default: those of eight workers fit the
#: 64 MiB of /dev/shm that containers have unless told otherwise.
PACK_BYTES = 2 << 20
#: Packs that a worker has ready, unless the loader is told otherwise (``prefetch_factor``); of more, each is smaller.
USUALLY_AHEAD = 2
#: Batches of a pack at most.
MAX_BATCHES = 64
#: Packs that each worker makes in an epoch at least, so that none of them idles at its end.
LEAST_PACKS = 4
#: Where tensors begin in a pack: any type may lie there.
ALIGNMENT_BYTES = 64


class Place(NamedTuple):
    """A tensor's place in a pack."""

    start: int
    size: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def of(self, memory: torch.Tensor) -> torch.Tensor:
        """The tensor there."""
        part = memory[self.start : self.start + self.size].view(self.dtype).view(self.shape)
        # A tensor of its own for autograd too: writing to one is no change of the others.
        return part.data


class Pack:
    """Batches whose tensors lie in one piece of memory."""

    def __init__(self, memory: torch.Tensor, batches: Sequence[Batch]) -> None:
        self._memory = memory
        #: With places in place of tensors.
        self._batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return map(self._taken_out, self._batches)

    def pin_memory(self) -> Pack:
        """The same in memory that a device can copy from by itself: DataLoader asks for it."""
        return Pack(self._memory.pin_memory(), self._batches)

    def _taken_out(self, value: Any) -> Any:
        return value.of(self._memory) if isinstance(value, Place) else inside(value, self._taken_out)


def inside(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same dict, or tuple of values and offsets, with all that is in it changed; what is neither, as it is."""
    if type(value) is dict:
        return {name: change(part) for name, part in value.items()}
    return tuple(map(change, value)) if type(value) is tuple else value


def pack(batches: Sequence[Batch]) -> Pack:
    """Lays these batches into shared memory; texts go beside, and whatever else a dataset of one's own gives."""
    tensors: list[tuple[Place, torch.Tensor]] = []
    end = 0

    def placed(value: Any) -> Any:
        nonlocal end
        if isinstance(value, torch.Tensor):
            place = Place(end, value.numel() * value.element_size(), value.dtype, tuple(value.shape))
            end += -(-place.size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
            tensors.append((place, value))
            return place
        return inside(value, placed)

    laid = [*map(placed, batches)]
    memory = torch.empty(end, dtype=torch.uint8)
    if end:
        memory.share_memory_()
    for place, tensor in tensors:
        place.of(memory).copy_(tensor)
    return Pack(memory, laid)


def batches_of_pack(batch_bytes: int, steps: int, workers: int, ahead: int) -> int:
    """How many batches of this size go in one pack, of an epoch of so many steps; ``ahead`` packs are ready."""
    by_bytes = PACK_BYTES * USUALLY_AHEAD // max(USUALLY_AHEAD, ahead) // max(1, batch_bytes)
    by_steps = steps // (LEAST_PACKS * max(1, workers))
    return max(1, min(by_bytes, by_steps, MAX_BATCHES))
