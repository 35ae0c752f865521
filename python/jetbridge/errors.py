"""What can go wrong, as exceptions: each is a :class:`JetbridgeError` and also the built-in that a user expects.

>>> import jetbridge as jb
>>> try:
...     client.dataset("/lake/tripz").schema
... except FileNotFoundError as error:
...     print(isinstance(error, jb.JetbridgeError), error.code)
True NOT_FOUND
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from jetbridge.records import JobStatus

# How the server ends a message that names what was probably meant.
_NEAREST = re.compile(r"did you mean (?:\"((?:[^\"\\]|\\.)*)\"|([^\s?]+?))(?:\(\))?\?")


class JetbridgeError(Exception):
    """The root of all errors of this package.

    Attributes:
        code: the gRPC code by name, such as ``NOT_FOUND``; of errors that no server made, the nearest one.
        hint: what to do about it, or None.
        nearest: the name that was probably meant, where a name was wrong and one is like it.
        retryable: whether the same may succeed when it is tried again.

    >>> jb.JetbridgeError("it went wrong", hint="try the other one").hint
    'try the other one'
    """

    default_code: ClassVar[str] = "UNKNOWN"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str = "", *, code: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.code: str = code or self.default_code
        self.hint: str | None = hint

    @property
    def message(self) -> str:
        """What went wrong, without the hint.

        >>> jb.JetbridgeError("it went wrong", hint="try again").message
        'it went wrong'
        """
        return str(self.args[0]) if self.args else ""

    @property
    def nearest(self) -> str | None:
        """The name that was probably meant, as the server says it.

        >>> jb.InvalidRequestError('no column "fahre"; did you mean "fare"?').nearest
        'fare'
        """
        found = _NEAREST.search(self.message)
        return None if found is None else (found.group(1) or found.group(2))

    def __str__(self) -> str:
        return f"{self.message}\nHint: {self.hint}" if self.hint else self.message


class NotFoundError(JetbridgeError, FileNotFoundError):
    """There is no such path, dataset, job or pin.

    >>> issubclass(jb.NotFoundError, FileNotFoundError)
    True
    """

    default_code = "NOT_FOUND"


class AlreadyExistsError(JetbridgeError, FileExistsError):
    """Something else is there already, such as a mount.

    >>> issubclass(jb.AlreadyExistsError, FileExistsError)
    True
    """

    default_code = "ALREADY_EXISTS"


class PermissionDeniedError(JetbridgeError, PermissionError):
    """The server, or the storage behind it, does not allow it.

    >>> issubclass(jb.PermissionDeniedError, PermissionError)
    True
    """

    default_code = "PERMISSION_DENIED"


class UnauthenticatedError(PermissionDeniedError):
    """The server does not know who asks, or a ticket is not valid (any more).

    >>> issubclass(jb.UnauthenticatedError, PermissionError)
    True
    """

    default_code = "UNAUTHENTICATED"


class DeadlineExceededError(JetbridgeError, TimeoutError):
    """It took longer than it was given.

    >>> issubclass(jb.DeadlineExceededError, TimeoutError)
    True
    """

    default_code = "DEADLINE_EXCEEDED"
    retryable = True


class InvalidRequestError(JetbridgeError, ValueError):
    """A column, filter, query, address or option that is wrong; the message says what and where.

    >>> issubclass(jb.InvalidRequestError, ValueError)
    True
    """

    default_code = "INVALID_ARGUMENT"


class FailedPreconditionError(JetbridgeError, RuntimeError):
    """The state of things does not allow it: files that are not one table, a path that is pinned.

    >>> issubclass(jb.FailedPreconditionError, RuntimeError)
    True
    """

    default_code = "FAILED_PRECONDITION"


class StaleError(JetbridgeError, RuntimeError):
    """The data changed while it was read: read it again, from the beginning.

    >>> jb.StaleError.retryable
    True
    """

    default_code = "ABORTED"
    retryable = True


class DataLossError(JetbridgeError, OSError):
    """A file that is corrupt; the message names the file and the row group.

    >>> issubclass(jb.DataLossError, OSError)
    True
    """

    default_code = "DATA_LOSS"


class ResourceExhaustedError(JetbridgeError, RuntimeError):
    """There is no room for it on the server, or it is over a limit.

    >>> issubclass(jb.ResourceExhaustedError, RuntimeError)
    True
    """

    default_code = "RESOURCE_EXHAUSTED"


class ResultTooLargeError(JetbridgeError, MemoryError):
    """The result would not fit in this process's memory; the message has the figures, the hint the ways out.

    >>> issubclass(jb.ResultTooLargeError, MemoryError)
    True
    """

    default_code = "RESOURCE_EXHAUSTED"


class UnavailableError(JetbridgeError, ConnectionError):
    """No server answers, or none can now: trying again is safe.

    >>> issubclass(jb.UnavailableError, ConnectionError), jb.UnavailableError.retryable
    (True, True)
    """

    default_code = "UNAVAILABLE"
    retryable = True


class UnsupportedError(JetbridgeError, NotImplementedError):
    """The server has not got this.

    >>> issubclass(jb.UnsupportedError, NotImplementedError)
    True
    """

    default_code = "UNIMPLEMENTED"


class InternalError(JetbridgeError, RuntimeError):
    """A defect of the server's or of this package; please report it.

    >>> issubclass(jb.InternalError, RuntimeError)
    True
    """

    default_code = "INTERNAL"


class ClosedError(JetbridgeError, ValueError):
    """The client, the stream or the cluster was closed, or belongs to the process that this one was forked from.

    >>> issubclass(jb.ClosedError, ValueError)
    True
    """

    default_code = "CANCELLED"


class JobFailedError(JetbridgeError, RuntimeError):
    """A job that was waited for ended otherwise than it should.

    Attributes:
        status: the :class:`JobStatus` with which it ended.

    >>> issubclass(jb.JobFailedError, RuntimeError)
    True
    """

    default_code = "ABORTED"
    status: JobStatus | None = None


class JobCancelledError(JobFailedError):
    """A job that was waited for was cancelled.

    >>> issubclass(jb.JobCancelledError, jb.JobFailedError)
    True
    """

    default_code = "CANCELLED"


class MissingExtraError(JetbridgeError, ImportError):
    """A package that this needs is not installed, or of another version; the line that installs it is said, too.

    >>> issubclass(jb.MissingExtraError, ImportError)
    True
    """

    default_code = "FAILED_PRECONDITION"


_BY_CODE: dict[str, type[JetbridgeError]] = {
    kind.default_code: kind
    for kind in (
        NotFoundError,
        AlreadyExistsError,
        PermissionDeniedError,
        UnauthenticatedError,
        DeadlineExceededError,
        InvalidRequestError,
        FailedPreconditionError,
        StaleError,
        DataLossError,
        ResourceExhaustedError,
        UnavailableError,
        UnsupportedError,
        InternalError,
        ClosedError,
    )
}
_BY_CODE["OUT_OF_RANGE"] = InvalidRequestError
# The server says ABORTED where data changed, and hardly ever else; the native client tells the two apart.
_BY_CODE["STALE"] = _BY_CODE.pop("ABORTED")

_HINTS: dict[str, str] = {
    "NOT_FOUND": "client.ls(path) shows what there is",
    "UNAUTHENTICATED": 'name who you are: connect(..., headers={"authorization": "Bearer ..."}), or read again where '
    "a ticket was too old",
    "STALE": "the data changed under the read; read it again",
    "UNAVAILABLE": "see whether the server still runs, and try again",
    "UNIMPLEMENTED": "the server may be older than this package",
    "DEADLINE_EXCEEDED": "give it longer: connect(..., timeout=seconds)",
}


def from_native(code: str, message: str, hint: str | None = None) -> JetbridgeError:
    """The exception for what the native client says; called by it."""
    if code == "TOO_LARGE":
        return ResultTooLargeError(message, hint=hint)
    kind = _BY_CODE.get(code, JetbridgeError)
    return kind(message, code="ABORTED" if code == "STALE" else code, hint=hint or _HINTS.get(code))
