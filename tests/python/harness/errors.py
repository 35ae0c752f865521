"""Errors as pyarrow shows them: which exception and which words stand for which gRPC code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.flight as flight
import pytest

# pyarrow gives one exception class to several codes, but each code its own words.
_KINDS: dict[str, tuple[type[BaseException], str]] = {
    "CANCELLED": (flight.FlightCancelledError, "cancelled call"),
    "INVALID_ARGUMENT": (pa.ArrowInvalid, "returned invalid argument error"),
    "NOT_FOUND": (pa.ArrowKeyError, "returned not found error"),
    "ALREADY_EXISTS": (pa.ArrowException, "returned already exists error"),
    "PERMISSION_DENIED": (flight.FlightUnauthorizedError, "returned unauthorized error"),
    "RESOURCE_EXHAUSTED": (pa.ArrowInvalid, "returned resource exhausted error"),
    "FAILED_PRECONDITION": (pa.ArrowInvalid, "returned precondition failed error"),
    "ABORTED": (flight.FlightInternalError, "returned aborted error"),
    "UNIMPLEMENTED": (pa.ArrowNotImplementedError, "returned unimplemented error"),
    "UNAVAILABLE": (flight.FlightUnavailableError, "returned unavailable error"),
    "DATA_LOSS": (flight.FlightInternalError, "returned data loss error"),
    "UNAUTHENTICATED": (flight.FlightUnauthenticatedError, "returned unauthenticated error"),
}
# Error details travel in HTTP headers, which clients bound.
MESSAGE_LIMIT_CHARS = 8_192
# What belongs in the server's log and never in an answer.
_INSIDES = re.compile(r"panicked at|RUST_BACKTRACE|stack backtrace|\.rs:\d+")


# Every exception that a call of pyarrow.flight raises for an answer of the server.
ANSWERED = (pa.ArrowException, flight.FlightError)


def kind_of(error: BaseException) -> str:
    """Which code of the contract an exception stands for; UNKNOWN where its words are none of those."""
    text = str(error)
    found = [kind for kind, (shown_as, words) in _KINDS.items() if isinstance(error, shown_as) and words in text]
    return found[0] if found else "UNKNOWN"


@contextmanager
def expect_error(kind: str | tuple[str, ...], match: str = "") -> Iterator[None]:
    """Passes when the block fails with this kind of the contract (or one of them) and a message that matches."""
    kinds = (kind,) if isinstance(kind, str) else kind
    with pytest.raises(tuple(_KINDS[one][0] for one in kinds)) as caught:
        yield
    _check(str(caught.value), kinds, match)


@contextmanager
def allow_error(*kinds: str, match: str = "") -> Iterator[None]:
    """Passes when the block does, or when it fails with one of these kinds and a message that matches."""
    try:
        yield
    except tuple(_KINDS[one][0] for one in kinds) as error:
        _check(str(error), kinds, match)


def _check(text: str, kinds: tuple[str, ...], match: str) -> None:
    assert any(_KINDS[one][1] in text for one in kinds), f"not {' or '.join(kinds)}: {text}"
    assert re.search(match, text, re.IGNORECASE), f"does not say {match!r}: {text}"
    assert len(text) < MESSAGE_LIMIT_CHARS
    assert not _INSIDES.search(text), f"shows the server's insides: {text}"
