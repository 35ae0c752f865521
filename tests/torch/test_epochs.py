"""Epochs in this process: rows, order, ranks, resuming, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jetbridge as jb
import pytest
import torch
from jetbridge.client import Client
from jetbridge.scan import Dataset

from conftest import TOTAL, flat, write
from harness.server import Server


def numbers(data: Any) -> list[list[int]]:
    """The rows of each batch, by number; what else a batch has must belong to them."""
    found = []
    for batch in data:
        n = batch["n"]
        assert torch.equal(batch["x"], (n / 2).float())
        assert torch.equal(batch["even"], n % 2 == 0)
        assert batch["text"] == [f"row {number}" for number in n.tolist()]
        found.append(n.tolist())
    return found


def test_rows_come_in_order_without_shuffling(rows: Dataset) -> None:
    data = jb.torch.IterableDataset(rows, batch_size=300)
    found = numbers(data)
    assert flat(found) == list(range(TOTAL))
    assert [len(batch) for batch in found] == [300] * 16 + [200]
    assert len(data) == len(found)
    assert numbers(data) == found, "again"


@pytest.mark.parametrize("batch_size", [1, 7, 1_000, 10_000])
def test_every_row_comes_once_when_shuffled(rows: Dataset, batch_size: int) -> None:
    data = jb.torch.IterableDataset(rows, batch_size=batch_size, shuffle=True, seed=5, shuffle_buffer=3)
    first = numbers(data)
    assert sorted(flat(first)) == list(range(TOTAL))
    assert len(first) == len(data)
    assert numbers(data) == first
    data.set_epoch(1)
    assert numbers(data) != first
    again = jb.torch.IterableDataset(rows, batch_size=batch_size, shuffle=True, seed=5, shuffle_buffer=3)
    assert numbers(again) == first


def test_the_order_is_the_one_that_is_written_down(rows: Dataset) -> None:
    from harness import order

    groups = [130] * 7 + [90]
    data = jb.torch.IterableDataset(rows.select("n"), batch_size=100, shuffle=True, seed=9, shuffle_buffer=4)
    data.set_epoch(2)
    expected = order.epoch(groups * 5, order.How(9, 2, 4))
    places = [(unit // 8) * 1_000 + (unit % 8) * 130 + row for unit, row in expected]
    assert [n for batch in data for n in batch["n"].tolist()] == places


def test_a_filter_is_counted(rows: Dataset) -> None:
    kept = rows.filter("n % 3 = 0").filter("n > 1234")
    expected = [n for n in range(TOTAL) if n % 3 == 0 and n > 1234]
    data = jb.torch.IterableDataset(kept, batch_size=100)
    assert len(data) == -(-len(expected) // 100)
    assert flat(numbers(data)) == expected
    shuffled = jb.torch.IterableDataset(kept, batch_size=100, shuffle=True)
    assert sorted(flat(numbers(shuffled))) == expected
    nothing = jb.torch.IterableDataset(rows.filter("n < 0"), batch_size=100, rank=0, world_size=1)
    assert numbers(nothing) == []
    assert len(nothing) == 0


def test_a_batch_may_have_rows_of_many_row_groups(rows: Dataset) -> None:
    options: dict[str, Any] = {"batch_size": 1_500, "shuffle": True, "shuffle_buffer": 2}
    whole = numbers(jb.torch.IterableDataset(rows, **options))
    assert numbers(jb.torch.IterableDataset(rows, prefetch_bytes=0, **options)) == whole
    assert sorted(flat(whole)) == list(range(TOTAL))


@pytest.mark.parametrize("even", ["drop", "pad"])
@pytest.mark.parametrize("world", [2, 3, 7])
def test_ranks_share_an_epoch(rows: Dataset, world: int, even: Any) -> None:
    options: dict[str, Any] = {"batch_size": 64, "shuffle": True, "shuffle_buffer": 3, "even": even}
    ranks = [numbers(jb.torch.IterableDataset(rows, rank=rank, world_size=world, **options)) for rank in range(world)]
    assert len({tuple(map(len, rank)) for rank in ranks}) == 1, "equal steps of equal size"
    found = [n for rank in ranks for batch in rank for n in batch]
    if even == "drop":
        assert len(set(found)) == len(found) == TOTAL - TOTAL % world
    else:
        assert set(found) == set(range(TOTAL))
        assert len(found) < TOTAL + world


def test_resuming_goes_on_at_the_row(rows: Dataset) -> None:
    options: dict[str, Any] = {"batch_size": 64, "shuffle": True, "shuffle_buffer": 3, "seed": 3}
    whole = numbers(jb.torch.IterableDataset(rows, **options))
    data = jb.torch.IterableDataset(rows, **options)
    batches = iter(data)
    taken = [next(batches)["n"].tolist() for _ in range(20)]
    state = json.loads(json.dumps(data.state_dict()))
    assert taken == whole[:20]
    resumed = jb.torch.IterableDataset(rows, **options)
    resumed.load_state_dict(state)
    assert len(resumed) == len(whole) - 20
    assert numbers(resumed) == whole[20:]
    # On three ranks: exactly what is left, each row once, but those that do not divide.
    left = {n for batch in whole[20:] for n in batch}
    ranks = []
    for rank in range(3):
        other = jb.torch.IterableDataset(rows, rank=rank, world_size=3, **options)
        other.load_state_dict(state)
        ranks += [n for batch in numbers(other) for n in batch]
    assert len(set(ranks)) == len(ranks) == len(left) - len(left) % 3
    assert set(ranks) <= left


def test_changed_data_is_refused(client: Client, folder: Path) -> None:
    (folder / "changing").mkdir(exist_ok=True)
    write(folder / "changing/a.parquet", 0, 500)
    client.refresh("/lake/changing")
    scan = client.dataset("/lake/changing")
    data = jb.torch.IterableDataset(scan, batch_size=10)
    batches = iter(data)
    next(batches)
    state = data.state_dict()
    batches = None
    write(folder / "changing/b.parquet", 500, 500)
    client.refresh("/lake/changing")
    with pytest.raises(jb.StaleError, match="version"):
        numbers(data)
    changed = jb.torch.IterableDataset(scan, batch_size=10)
    with pytest.raises(jb.StaleError, match="the state is of the version"):
        changed.load_state_dict(state)


def test_what_is_wrong_is_said_when_the_dataset_is_made(client: Client, rows: Dataset) -> None:
    make: Callable[..., Any] = jb.torch.IterableDataset
    with pytest.raises(FileNotFoundError):
        make(client.dataset("/lake/nowhere"), batch_size=1)
    with pytest.raises(ValueError, match='did you mean "text"'):
        make(rows.select("tex"), batch_size=1)
    with pytest.raises(ValueError, match="filter"):
        make(rows.filter("n >"), batch_size=1)
    with pytest.raises(ValueError, match="leave out limit"):
        make(rows.limit(5), batch_size=1)
    with pytest.raises(ValueError, match="100 ranks are more than the 40 row groups"):
        make(rows, batch_size=1, rank=0, world_size=100)
    with pytest.raises(ValueError, match="do not divide evenly"):
        list(make(rows, batch_size=1, rank=0, world_size=3, even="error"))


def test_a_server_that_is_gone_is_said(start_own: Callable[[], Server]) -> None:
    server = start_own()
    data = jb.torch.IterableDataset(jb.connect(server.flight_uri).dataset("/lake/rows"), batch_size=10)
    server.daemon.kill()
    with pytest.raises(ConnectionError):
        list(data)


def test_a_broken_off_iteration_ends(rows: Dataset) -> None:
    data = jb.torch.IterableDataset(rows, batch_size=10, shuffle=True)
    for _ in range(30):
        for batch in data:
            assert len(batch["n"]) == 10
            break
    assert len(numbers(data)) == 500


def test_map_style_rows_by_number(rows: Dataset) -> None:
    data = jb.torch.MapDataset(rows)
    assert len(data) == TOTAL
    assert data[1_234]["n"].item() == 1_234
    assert data[-1]["text"] == f"row {TOTAL - 1}"
    with pytest.raises(IndexError):
        data[TOTAL]
    picked = [4_999, 0, 17, 17, 2_500]
    samples = data.__getitems__(picked)
    assert [sample["n"].item() for sample in samples] == picked
    assert jb.torch.collate(samples)["text"] == [f"row {number}" for number in picked]
    loader = torch.utils.data.DataLoader(data, batch_size=100, shuffle=True, collate_fn=jb.torch.collate)
    found = numbers(loader)
    assert sorted(flat(found)) == list(range(TOTAL))
    default = torch.utils.data.DataLoader(data, batch_size=3)
    assert next(iter(default))["n"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="cache_bytes"):
        jb.torch.MapDataset(rows, cache_bytes=-1)
    kept = jb.torch.MapDataset(rows.filter("n % 1000 = 1"))
    assert [kept[number]["n"].item() for number in range(len(kept))] == [1, 1_001, 2_001, 3_001, 4_001]
