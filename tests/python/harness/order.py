"""An epoch's order as `python/ORDER.md` writes it down, in the plainest way: every position in a list."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15

Row = tuple[int, int]  # unit, row in it
Taken = tuple[int, int, int]  # ranks, rows of a batch, steps


def mix(a: int, b: int) -> int:
    z = (a + (b + 1) * _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def shuffled(count: int, key: int) -> list[int]:
    order = list(range(count))
    for draw, place in enumerate(range(count - 1, 0, -1)):
        other = (mix(key, draw) * (place + 1)) >> 64
        order[place], order[other] = order[other], order[place]
    return order


@dataclass(frozen=True)
class How:
    """What an order follows from."""

    seed: int = 0
    epoch: int = 0
    # Units of a clump; none where nothing is shuffled.
    buffer: int | None = None

    def key(self, stream: int, index: int) -> int:
        return mix(mix(mix(self.seed, self.epoch), stream), index)


def epoch(unit_rows: Sequence[int], how: How) -> list[Row]:
    """All rows of an epoch, by position."""
    if how.buffer is None:
        return [(unit, row) for unit, rows in enumerate(unit_rows) for row in range(rows)]
    units = shuffled(len(unit_rows), how.key(1, 0))
    positions: list[Row] = []
    for number, start in enumerate(range(0, len(units), how.buffer)):
        clump = sorted(units[start : start + how.buffer])
        rows = [(unit, row) for unit in clump for row in range(unit_rows[unit])]
        positions += [rows[place] for place in shuffled(len(rows), how.key(2, number))]
    return positions


def stretches(left: list[Row], world: int) -> list[list[Row]]:
    cuts = [rank * len(left) // world for rank in range(world + 1)]
    return [left[start:end] for start, end in itertools.pairwise(cuts)]


def after(left: list[Row], taken: Sequence[Taken]) -> list[Row]:
    """What is left of an epoch when so much was handed out."""
    for world, batch_size, steps in taken:
        left = [row for stretch in stretches(left, world) for row in stretch[steps * batch_size :]]
    return left


def steps(left: list[Row], world: int, batch_size: int, even: str, drop_last: bool) -> list[list[list[Row]]]:
    """For each rank its batches, to the end of the epoch."""
    each = -(-len(left) // world) if even == "pad" else len(left) // world
    if drop_last:
        each -= each % batch_size
    if even == "error" and each * world != len(left):
        raise ValueError("not even")
    ranks = []
    cut = stretches(left, world)
    longest = max(map(len, cut))
    for rank, stretch in enumerate(cut):
        rows = stretch[:each]
        if len(rows) < each:
            rows.append(next(longer for longer in cut[rank + 1 :] if len(longer) == longest)[-1])
        ranks.append([rows[start : start + batch_size] for start in range(0, each, batch_size)])
    return ranks
