"""Jobs: preloads and verifications, which go on whoever asked for them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from jetbridge import _calls, _html, _native, _text
from jetbridge._calls import finish, run
from jetbridge._progress import JobBars, JobProgress
from jetbridge.errors import (
    DeadlineExceededError,
    JetbridgeError,
    JobCancelledError,
    JobFailedError,
    UnavailableError,
)
from jetbridge.records import JobStatus

if TYPE_CHECKING:
    from jetbridge.client import Client

_log = logging.getLogger(__name__)

# A watch whose connection was lost is begun anew this often, so long after the other.
WATCH_TRIES = 20
WATCH_PAUSE_S = 0.5


class Job:
    """A job of the cluster. Interrupting a wait does not end it; :meth:`cancel` does.

    >>> job = client.dataset("/lake/trips").preload(columns=["id"])
    >>> job.wait(progress=False).state, job.status.files_done
    ('SUCCEEDED', 4)
    """

    def __init__(self, client: Client, status: JobStatus) -> None:
        self._client = client
        self._last = status

    @property
    def id(self) -> str:
        """Its id, by which any client finds it again: ``client.job(id)``.

        >>> client.job(client.jobs()[0].id).id == client.jobs()[0].id
        True
        """
        return self._last.id

    @property
    def status(self) -> JobStatus:
        """How it stands now: ``state``, what is done of how much, what failed, each worker's part. Asks the server,
        until the job is over.

        >>> client.jobs()[0].status.is_final
        True
        """
        if not self._last.is_final:
            self._last = run(_calls.job(self._client._connection, self.id))
        return self._last

    @property
    def is_done(self) -> bool:
        """Whether it is over.

        >>> client.jobs()[0].is_done
        True
        """
        return self.status.is_final

    def wait(self, timeout: float | None = None, progress: JobProgress = None, check: bool = True) -> JobStatus:
        """Until it is over; how it stands then.

        Args:
            timeout: seconds to wait at most.
            progress: None for bars where somebody looks, True, False, or a function of a :class:`JobStatus`.
            check: whether to raise where it did not succeed.

        Raises:
            JobFailedError: it ended ``FAILED`` or ``PARTIAL``; ``error.status`` tells what failed.
            JobCancelledError: it was cancelled.
            DeadlineExceededError: it is not over yet. It goes on.

        >>> seen = []
        >>> client.dataset("/lake/trips").preload(columns=["vendor"]).wait(timeout=60, progress=seen.append).state
        'SUCCEEDED'
        >>> seen[-1].is_final
        True
        """
        with JobBars(progress) as bars:
            for status in self._events(timeout):
                bars.show(status)
        return checked(self._last) if check else self._last

    def cancel(self) -> JobStatus:
        """Ends it: what it asked of storage is dropped; what is loaded stays.

        >>> client.jobs()[0].cancel().is_final
        True
        """
        self._last = run(_calls.cancel_job(self._client._connection, self.id))
        return self._last

    def events(self) -> Iterator[JobStatus]:
        """How it stands, now and each time that its progress is written down, until it is over. A connection that is
        lost is made anew.

        >>> [status.state for status in client.jobs()[0].events()]
        ['SUCCEEDED']
        """
        return self._events(None)

    def _events(self, timeout: float | None) -> Iterator[JobStatus]:
        deadline = Deadline(timeout)
        lost = Lost()
        while True:
            watch = self._client._connection.watch("preload.watch", json.dumps({"id": self.id}))
            try:
                while (status := self._next(watch, deadline)) is not None:
                    self._last = status
                    lost.forget()
                    yield status
                if self._last.is_final:
                    return
                lost.ended(self._last)
            except JetbridgeError as error:
                lost.failed(error, deadline)
            finally:
                watch.close()
            time.sleep(WATCH_PAUSE_S)

    def _next(self, watch: _native.Watch, deadline: Deadline) -> JobStatus | None:
        task = watch.next()
        left = deadline.left()
        if left is not None and not task.wait(left):
            task.cancel()
            raise still_running(self._last)
        return read_status(finish(task))

    def __reduce__(self) -> tuple[type[Job], tuple[Client, JobStatus]]:
        return type(self), (self._client, self._last)

    def __repr__(self) -> str:
        last = self._last
        return f"<Job {self.id} {last.kind} {_text.cut(last.path)}: {last.state}, {_text.job_line(last)}>"

    def _repr_html_(self) -> str:
        return _html.job(self._last)


class Deadline:
    """When a wait is over."""

    def __init__(self, timeout: float | None) -> None:
        self._at = None if timeout is None else time.monotonic() + timeout

    def left(self) -> float | None:
        """Seconds until then, 0 at the least; None for no end."""
        return None if self._at is None else max(self._at - time.monotonic(), 0.0)

    @property
    def has_passed(self) -> bool:
        """Whether it is over."""
        return self.left() == 0.0


class Lost:
    """How often a watch was lost since it last told something."""

    def __init__(self) -> None:
        self._times = 0

    def forget(self) -> None:
        """It told something."""
        self._times = 0

    def ended(self, last: JobStatus) -> None:
        """It ended before the job did: the node that told of it goes away.

        Raises:
            UnavailableError: that happened too often.
        """
        self._times += 1
        if self._times > WATCH_TRIES:
            raise UnavailableError(f"the job {last.id} cannot be watched any more", hint="it goes on; wait again later")

    def failed(self, error: JetbridgeError, deadline: Deadline) -> None:
        """It failed.

        Raises:
            JetbridgeError: the same, where trying again is of no use.
        """
        self._times += 1
        if not error.retryable or self._times > WATCH_TRIES or deadline.has_passed:
            raise error
        _log.warning("a job cannot be watched, and is looked for again: %s", error.message)


class Jobs(list[Job]):
    """Jobs, the latest first; a list that shows itself as a table, as things stood when it was made.

    >>> len(client.jobs(state="SUCCEEDED")) > 0
    True
    """

    def __repr__(self) -> str:
        return _text.table(*self._table())

    def _repr_html_(self) -> str:
        return _html.table(*self._table())

    def _table(self) -> tuple[list[str], list[list[str]]]:
        rows = [
            [job.id, job._last.kind, job._last.state, _text.cut(job._last.path), _text.job_line(job._last)]
            for job in self
        ]
        return ["id", "kind", "state", "path", "progress"], rows


def checked(status: JobStatus) -> JobStatus:
    """The status of a job that succeeded.

    Raises:
        JobFailedError: it did not.
    """
    if status.state == "SUCCEEDED":
        return status
    kind = JobCancelledError if status.state == "CANCELLED" else JobFailedError
    reasons = [status.error] if status.error else []
    reasons += [f"{failure.get('path')}: {failure.get('error')}" for failure in status.failures[:3]]
    words = f"the job {status.id} ended {status.state}" + "".join(f"; {_text.cut(reason, 300)}" for reason in reasons)
    error = kind(words, hint="error.status has all of it")
    error.status = status
    raise error


def still_running(last: JobStatus) -> DeadlineExceededError:
    """What a wait says that takes too long."""
    words = f"the job {last.id} is still {last.state}: {_text.job_line(last)}"
    return DeadlineExceededError(words, hint="it goes on; wait again, or cancel it")


def read_status(text: str | None) -> JobStatus | None:
    """One message of a watch."""
    return None if text is None else JobStatus.read(json.loads(text))
