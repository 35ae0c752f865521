"""A worker of the cluster is killed while an epoch runs: the epoch completes, every row once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import jetbridge as jb
import pytest
from torch.utils.data import DataLoader

from conftest import TOTAL, flat
from harness.leftovers import children_of
from harness.server import Server


@pytest.mark.parametrize("processes", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_worker_is_killed_during_an_epoch(start_own: Callable[..., Server], shuffle: bool, processes: int) -> None:
    server = start_own("--workers", "3")
    workers = children_of(server.daemon.process.pid)
    assert len(workers) == 3
    with jb.connect(server.flight_uri) as client:
        options = {"batch_size": 8, "shuffle": shuffle, "shuffle_buffer": 2, "prefetch_bytes": 0}
        data = jb.torch.IterableDataset(client.dataset("/lake/rows"), **options)
        whole = [batch["n"].tolist() for batch in data]
        data.set_epoch(1)
        found = []
        for number, batch in enumerate(DataLoader(data, batch_size=None, num_workers=processes)):
            found += batch["n"].tolist()
            if number == 50:
                os.kill(workers[0], signal.SIGKILL)
        assert sorted(found) == list(range(TOTAL)) == sorted(flat(whole))
        data.set_epoch(0)
        assert [batch["n"].tolist() for batch in data] == whole, "the order does not depend on who is there"
