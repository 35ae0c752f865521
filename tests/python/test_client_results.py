"""A call's result, asked for by several at once, while it is made, or by what makes it: whoever asks is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import jetbridge as jb
import pytest
from jetbridge import _native, errors

from harness.asking import TOLD_WITHIN_S, Asker, alone, silent
from harness.ports import free_port

Failed = Callable[[], "_native.Task[str]"]


@pytest.fixture
def failed() -> Iterator[Failed]:
    """Makes calls that have failed. Python makes the error when it is asked for, and does then what a test wants."""
    with jb.connect(f"grpc://127.0.0.1:{free_port()}", check=False, retries=0) as client:

        def begun() -> _native.Task[str]:
            task = client._connection.action("server.status", "{}")
            assert task.wait(TOLD_WITHIN_S)
            return task

        yield begun


@pytest.fixture
def at_next(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has something done when the next errors are made, so many."""
    make = errors.from_native

    def patch(work: Callable[[], object], times: int = 1) -> None:
        left = [work] * times

        def made(*words: str) -> jb.JetbridgeError:
            if left:
                left.pop()()
            return make(*words)

        monkeypatch.setattr(errors, "from_native", made)

    return patch


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def panics() -> list[type[BaseException]]:
    """What makes Rust panic where Python raises it: a class for each extension module that is made with PyO3."""
    return [kind for kind in BaseException.__subclasses__() if kind.__name__ == "PanicException"]


@pytest.mark.parametrize("times", [1, 2])
def test_a_panic_while_a_result_is_made_is_told_to_all_who_ask(
    failed: Failed, at_next: Callable[..., None], times: int
) -> None:
    """Once while the result is made; twice where the error that says so cannot be made either."""
    # The class is made when the first error is looked at.
    at_next(raising(ValueError("none of ours")))
    assert isinstance(Asker(failed().result).told(), ValueError)
    defects = 0
    for kind in panics():
        at_next(raising(kind("it breaks")), times)
        task = failed()
        told = [Asker(task.result).told() for _ in range(3)]
        if isinstance(told[0], kind):
            # It is another module's, and an error like others.
            assert len(set(map(id, told))) == 1
            continue
        assert all(isinstance(error, jb.InternalError if times == 1 else RuntimeError) for error in told)
        assert [str(error) for error in told] == ["a defect of the client: it breaks"] * 3
        defects += 1
    assert defects == 1


def test_those_who_ask_while_a_result_is_made_have_the_same(failed: Failed, at_next: Callable[..., None]) -> None:
    makes, go_on = threading.Event(), threading.Event()

    def slowly() -> None:
        makes.set()
        assert go_on.wait(TOLD_WITHIN_S)

    at_next(slowly)
    task = failed()
    askers = [Asker(task.result)]
    assert makes.wait(TOLD_WITHIN_S)
    askers += [Asker(task.result) for _ in range(5)]
    go_on.set()
    told = [asker.told() for asker in askers]
    assert isinstance(told[0], jb.UnavailableError)
    assert all(error is told[0] for error in told)


def test_a_result_is_not_waited_for_by_the_thread_that_makes_it(failed: Failed, at_next: Callable[..., None]) -> None:
    task, inner = failed(), []

    def ask() -> None:
        with pytest.raises(jb.FailedPreconditionError, match="is being made, by a call that this one was made in"):
            task.result()
        inner.append(task.done())

    at_next(ask)
    assert isinstance(Asker(task.result).told(), jb.UnavailableError)
    assert inner == [True]


UNDONE = """
import sys
import jetbridge as jb
from jetbridge import errors
client = jb.connect(sys.argv[1], check=False, connect_timeout=600, retries=0)
task = client._connection.action("server.status", "{}")
make = errors.from_native
def asking(*words):
    assert not task.done()
    return make(*words)
errors.from_native = asking
try:
    task.result()
except jb.FailedPreconditionError as error:
    print(error)
"""


def test_a_result_that_is_not_there_yet_is_refused_without_a_lock() -> None:
    """Python makes the error, and may ask for the task meanwhile, or let others do so: the interpreter stood still."""
    with silent() as uri:
        assert "it is not done yet" in alone(UNDONE, uri)
