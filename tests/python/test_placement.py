"""Whether `catalog/PLACEMENT.md` says enough: placement written again from it agrees with the recorded answers."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import xxhash

VECTORS = json.loads((Path(__file__).parents[2] / "catalog/testdata/placement.json").read_text())
MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
GROUP_SLOTS = 4

Split = tuple[int, int, int]  # file, index, bytes


def split_key(file: int, index: int) -> int:
    return xxhash.xxh3_64_intdigest(struct.pack("<QI", file, index))


def mix(a: int, b: int) -> int:
    z = (a + (b + 1) * GOLDEN) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def cost(draw: int) -> int:
    """-log2(draw / 2^64) in units of 2^-32."""
    number = max(draw, 1)
    whole = number.bit_length() - 1
    mantissa, bits = number << (63 - whole), whole
    for _ in range(32):
        mantissa = mantissa * mantissa >> 63
        bit = mantissa >> 64
        mantissa >>= bit
        bits = bits << 1 | bit
    return (64 << 32) - bits


def load_of(split: Split) -> int:
    return min(max(split[2], 1), 2**40)


@dataclass
class Placement:
    """Slots with their weights, and the vacant ones in the order in which they were vacated."""

    given: list[int]
    vacant: list[int] = field(default_factory=list)

    @cached_property
    def weights(self) -> list[int]:
        shift = max(max(self.given).bit_length() - 31, 0)
        return [max(weight >> shift, 1) for weight in self.given]

    @cached_property
    def taken(self) -> list[int]:
        return [slot for slot in range(len(self.given)) if slot not in self.vacant]

    def ranked(self, key: int, slots: list[int]) -> list[int]:
        """The slots, best first; fractions are compared exactly."""

        def order(slot: int) -> tuple[Exact, int, int]:
            draw = mix(key, slot)
            return (Exact(cost(draw), self.weights[slot]), -draw, slot)

        return sorted(slots, key=order)

    def replicas(self, owner: int, key: int) -> list[int]:
        groups = max(len(self.given) // GROUP_SLOTS, 1)
        group_of = [min(slot // GROUP_SLOTS, groups - 1) for slot in range(len(self.given))]
        found: list[int] = []
        for step in range(groups):
            group = (group_of[owner] + step) % groups
            found += self.ranked(key, [slot for slot in self.taken if group_of[slot] == group and slot != owner])
        return found

    def assign(self, splits: list[Split], replicas: int) -> list[list[int]]:
        owners: list[int] = []
        files = [list(group) for _, group in groupby(splits, key=lambda split: split[0])]
        for file in files:
            owners += self.place_file(file)
        if len(files) > 1:
            self.bound(splits, owners)
        keys = [split_key(file, index) for file, index, _ in splits]
        return [[owner, *self.replicas(owner, key)][:replicas] for owner, key in zip(owners, keys, strict=True)]

    def place_file(self, splits: list[Split]) -> list[int]:
        file, total = splits[0][0], sum(map(load_of, splits))
        line = sorted(range(len(splits)), key=lambda at: ((file + splits[at][1] * GOLDEN) & MASK, at))
        held = [line, *([] for _ in self.weights[1:])]
        for slot in range(1, len(self.weights)):
            self.take(slot, file, total, held, splits)
        left = set(range(len(self.weights)))
        for slot in self.vacant:
            left.remove(slot)
            self.give_up(slot, total, left, held, splits)
        owner_of = {at: slot for slot, ats in enumerate(held) for at in ats}
        return [owner_of[at] for at in range(len(splits))]

    def take(self, slot: int, file: int, total: int, held: list[list[int]], splits: list[Split]) -> None:
        draw, up_to = mix(file, slot) >> 32, sum(self.weights[: slot + 1])
        claim, mine = total * self.weights[slot], 0

        def fullness(donor: int) -> tuple[Exact, int]:
            *rest, last = [load_of(splits[at]) for at in held[donor]]
            return Exact((sum(rest) << 32) + (mix(file, donor) >> 32) * last, self.weights[donor]), -donor

        while donors := [donor for donor in range(slot) if held[donor]]:
            donor = max(donors, key=fullness)
            load = load_of(splits[held[donor][-1]])
            whole = (mine + load) * up_to <= claim
            if not whole and draw * load * up_to >= (claim - mine * up_to) << 32:
                return
            held[slot].append(held[donor].pop())
            mine += load
            if not whole:
                return

    def give_up(self, slot: int, total: int, left: set[int], held: list[list[int]], splits: list[Split]) -> None:
        whole = sum(self.weights[other] for other in left)
        while held[slot]:
            at = held[slot].pop()
            loads = {other: sum(load_of(splits[mine]) for mine in held[other]) for other in left}
            below = self.below(loads, total, whole)
            held[self.ranked(split_key(*splits[at][:2]), below)[0]].append(at)

    def below(self, loads: dict[int, int], total: int, whole: int) -> list[int]:
        return [slot for slot, load in loads.items() if load * whole < total * self.weights[slot]]

    def bound(self, splits: list[Split], owners: list[int]) -> None:
        loads = dict.fromkeys(self.taken, 0)
        for split, owner in zip(splits, owners, strict=True):
            loads[owner] += load_of(split)
        total, largest = sum(loads.values()), max(map(load_of, splits))
        whole = sum(self.weights[slot] for slot in self.taken)

        def is_above(slot: int) -> bool:
            return loads[slot] * whole * 8 > 9 * total * self.weights[slot] + 8 * largest * whole

        moved = []
        for key, at in sorted((split_key(*split[:2]), at) for at, split in enumerate(splits)):
            if is_above(owners[at]):
                loads[owners[at]] -= load_of(splits[at])
                moved.append((key, at))
        for key, at in moved:
            owners[at] = self.ranked(key, self.below(loads, total, whole))[0]
            loads[owners[at]] += load_of(splits[at])


@dataclass(frozen=True)
class Exact:
    """A fraction that compares by cross multiplication."""

    part: int
    whole: int

    def __lt__(self, other: Exact) -> bool:
        return self.part * other.whole < other.part * self.whole

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Exact) and self.part * other.whole == other.part * self.whole


def test_keys() -> None:
    keys = VECTORS["keys"]
    file = xxhash.xxh3_64_intdigest(keys["uri"].encode())
    assert file == keys["file"]
    assert [split_key(file, index) for index in (0, 1, 1000)] == keys["splits"]


def test_ranked() -> None:
    ranked = VECTORS["ranked"]
    placement = Placement(ranked["weights"])
    assert len(ranked["cases"]) >= 20
    for key, slots in ranked["cases"]:
        assert placement.ranked(key, placement.taken)[: len(slots)] == slots


@pytest.mark.parametrize("case", VECTORS["assign"], ids=lambda case: f"{len(case['weights'])}-{len(case['splits'])}")
def test_assign(case: dict[str, Any]) -> None:
    placement = Placement(case["weights"], case["vacant"])
    splits = [(file, index, size) for file, index, size in case["splits"]]
    assert placement.assign(splits, 3) == case["owners"]
