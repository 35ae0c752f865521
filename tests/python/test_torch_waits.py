"""Epochs that are waited for: by several at once, by signals' handlers, until they are closed.

No torch, and a server that is silent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import jetbridge as jb
import pytest
from jetbridge import _native

from harness.asking import Asker, alone, silent
from harness.leftovers import until
from harness.ports import free_port

FOREVER_S = 600.0
REQUEST = json.dumps(
    {
        "scan": {"path": "/lake/set", "snapshot": "s"},
        "files": ["a"],
        "units": [(0, 0, 5, 40)],
        "world": 1,
        "rank": 0,
        "batch_size": 5,
        "even": "drop",
        "drop_last": False,
    }
)


@pytest.fixture
def loader() -> Iterator[_native.EpochLoader]:
    """An epoch whose batches do not come."""
    with silent() as uri, jb.connect(uri, check=False, connect_timeout=FOREVER_S, retries=0) as client:
        loader = _native.EpochEngine(client._connection).load(REQUEST)
        yield loader
        loader.close()


def test_one_reads_at_a_time_and_a_close_ends_its_wait(loader: _native.EpochLoader) -> None:
    askers = [Asker(loader.next) for _ in range(2)]
    until(lambda: any(asker.is_told for asker in askers), "one of the two is refused")
    (refused,) = (asker for asker in askers if asker.is_told)
    error = refused.told()
    assert isinstance(error, jb.FailedPreconditionError)
    assert "already being read by another thread" in str(error)
    loader.close()
    (waiting,) = (asker for asker in askers if asker is not refused)
    closed = waiting.told()
    assert isinstance(closed, jb.ClosedError)
    assert "the epoch was closed" in str(closed)
    loader.close()
    with pytest.raises(jb.ClosedError, match="the epoch was closed"):
        loader.next()


def test_an_epoch_that_failed_has_no_end() -> None:
    """Whoever asks again after an error does not take what came for all of it."""
    with jb.connect(f"grpc://127.0.0.1:{free_port()}", check=False, retries=0) as client:
        loader = _native.EpochEngine(client._connection).load(REQUEST)
        for _ in range(3):
            with pytest.raises(jb.UnavailableError, match="cannot connect"):
                loader.next()
        loader.close()
        with pytest.raises(jb.UnavailableError, match="cannot connect"):
            loader.next()


def test_an_epoch_without_rows_has_an_end_and_keeps_it() -> None:
    with jb.connect(f"grpc://127.0.0.1:{free_port()}", check=False, retries=0) as client:
        nothing = json.dumps(json.loads(REQUEST) | {"units": []})
        loader = _native.EpochEngine(client._connection).load(nothing)
        assert [loader.next(), loader.next()] == [None, None]
        loader.close()
        assert loader.next() is None


def test_as_many_batches_may_be_made_ahead_as_one_may_say() -> None:
    with jb.connect(f"grpc://127.0.0.1:{free_port()}", check=False, retries=0) as client:
        many = json.dumps(json.loads(REQUEST) | {"units": [], "ahead_batches": 2**64 - 1})
        assert _native.EpochEngine(client._connection).load(many).next() is None


SIGNALLED = """
import os, signal, sys, threading
import jetbridge as jb
from jetbridge import _native

client = jb.connect(sys.argv[1], check=False, connect_timeout=600, retries=0)
engine = _native.EpochEngine(client._connection)
seen, stop = [], threading.Event()

def signals():
    # Until one has come while the main thread waits.
    while not stop.wait(0.2):
        os.kill(os.getpid(), signal.SIGUSR1)
"""

NEXT_IN_A_HANDLER = """
loader = engine.load(sys.argv[2])

def handler(*_):
    try:
        loader.next()
    except jb.JetbridgeError as error:
        seen.append(error)
    loader.close()

signal.signal(signal.SIGUSR1, handler)
try:
    threading.Thread(target=signals, daemon=True).start()
    loader.next()
except jb.ClosedError:
    stop.set()
    print(type(seen[0]).__name__, seen[0])
"""

TAKE_IN_A_HANDLER = """
taker = engine.taker(sys.argv[2])

def handler(*_):
    seen.append(taker.take([]))
    raise InterruptedError

signal.signal(signal.SIGUSR1, handler)
try:
    threading.Thread(target=signals, daemon=True).start()
    taker.take([0])
except InterruptedError:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    stop.set()
    print(seen)
"""


def test_a_handler_that_asks_for_a_batch_is_refused_and_may_close() -> None:
    """It runs in the thread that waits, which cannot go on before it returns."""
    with silent() as uri:
        said = alone(SIGNALLED + NEXT_IN_A_HANDLER, uri, REQUEST)
    assert said.startswith("FailedPreconditionError")
    assert "already being read by a call that this one was made in" in said


def test_a_handler_that_asks_for_rows_does_not_wait_for_others() -> None:
    alone_request = json.dumps(json.loads(REQUEST) | {"alone": True})
    with silent() as uri:
        assert alone(SIGNALLED + TAKE_IN_A_HANDLER, uri, alone_request) == "[[]]\n"


def test_threads_that_ask_for_rows_do_not_wait_for_each_other() -> None:
    with silent() as uri, jb.connect(uri, check=False, connect_timeout=FOREVER_S, retries=0) as client:
        taker = _native.EpochEngine(client._connection).taker(REQUEST)
        waiting = [Asker(lambda: taker.take([0])) for _ in range(3)]
        assert Asker(lambda: taker.take([])).told() == []
        assert not any(asker.is_told for asker in waiting)


def test_threads_that_need_the_same_rows_are_all_told_of_a_failure_and_the_next_begins_anew() -> None:
    """They wait for one read between them."""
    with jb.connect(f"grpc://127.0.0.1:{free_port()}", check=False, retries=0) as client:
        taker = _native.EpochEngine(client._connection).taker(REQUEST)
        for _ in range(2):
            askers = [Asker(lambda: taker.take([0])) for _ in range(3)]
            assert [type(asker.told()) for asker in askers] == [jb.UnavailableError] * 3
