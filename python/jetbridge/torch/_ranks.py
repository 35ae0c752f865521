"""Which rank this process is, of how many. Imports torch only where the program has."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from jetbridge.errors import InvalidRequestError


@dataclass(frozen=True)
class Ranks:
    """One rank of several."""

    rank: int
    world: int


def ranks(rank: int | None, world: int | None) -> Ranks:
    """What was given, else what ``torch.distributed`` says, else what the environment says, else the only one."""
    if (rank is None) != (world is None):
        raise InvalidRequestError("rank and world_size belong together: give both, or neither")
    if rank is None or world is None:
        rank, world = _distributed() or _environment() or (0, 1)
    if not 0 <= rank < world:
        raise InvalidRequestError(f"rank {rank} of {world} does not exist: ranks are counted from 0")
    return Ranks(rank, world)


def is_told() -> bool:
    """Whether a process group or the environment says which rank this is."""
    return (_distributed() or _environment()) is not None


def _distributed() -> tuple[int, int] | None:
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed.get_rank(), distributed.get_world_size()


def _environment() -> tuple[int, int] | None:
    rank, world = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
    if rank is None or world is None:
        return None
    try:
        return int(rank), int(world)
    except ValueError:
        raise InvalidRequestError(f"RANK={rank!r} and WORLD_SIZE={world!r} are not two numbers") from None
