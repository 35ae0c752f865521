"""Jobs, awaited."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import TYPE_CHECKING

from jetbridge import _calls, _html, _native
from jetbridge._calls import finish_async, wait
from jetbridge._progress import JobBars, JobProgress
from jetbridge.errors import JetbridgeError
from jetbridge.job import WATCH_PAUSE_S, Deadline, Lost, checked, read_status, still_running
from jetbridge.records import JobStatus

if TYPE_CHECKING:
    from jetbridge.aio.client import AsyncClient


class AsyncJob:
    """A job of the cluster: what :class:`jetbridge.Job` is, awaited.

    >>> async def state():
    ...     async with await jb.connect_async(client.uri) as other:
    ...         job = await other.dataset("/lake/trips").preload(columns=["id"])
    ...         return (await job.wait(progress=False)).state, (await job.status).files_done
    >>> asyncio.run(state())
    ('SUCCEEDED', 4)
    """

    def __init__(self, client: AsyncClient, status: JobStatus) -> None:
        self._client = client
        self._last = status

    @property
    def id(self) -> str:
        """Its id."""
        return self._last.id

    @property
    def status(self) -> Awaitable[JobStatus]:
        """How it stands now."""
        return self._asked()

    async def _asked(self) -> JobStatus:
        if not self._last.is_final:
            self._last = await wait(_calls.job(self._client._connection, self.id))
        return self._last

    async def wait(self, timeout: float | None = None, progress: JobProgress = None, check: bool = True) -> JobStatus:
        """Until it is over; as :meth:`jetbridge.Job.wait`."""
        with JobBars(progress) as bars:
            # A function that raises ends the watch, too.
            async with contextlib.aclosing(self._events(timeout)) as events:
                async for status in events:
                    bars.show(status)
        return checked(self._last) if check else self._last

    async def cancel(self) -> JobStatus:
        """Ends it."""
        self._last = await wait(_calls.cancel_job(self._client._connection, self.id))
        return self._last

    def events(self) -> AsyncIterator[JobStatus]:
        """How it stands, now and each time that its progress is written down, until it is over."""
        return self._events(None)

    async def _events(self, timeout: float | None) -> AsyncGenerator[JobStatus, None]:
        deadline = Deadline(timeout)
        lost = Lost()
        while True:
            watch = self._client._connection.watch("preload.watch", json.dumps({"id": self.id}))
            try:
                while (status := await self._next(watch, deadline)) is not None:
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
            await asyncio.sleep(WATCH_PAUSE_S)

    async def _next(self, watch: _native.Watch, deadline: Deadline) -> JobStatus | None:
        try:
            return read_status(await asyncio.wait_for(finish_async(watch.next()), deadline.left()))
        except JetbridgeError:
            # One that is a TimeoutError, too, tells of a call, and not of this wait.
            raise
        except asyncio.TimeoutError:
            raise still_running(self._last) from None

    def __repr__(self) -> str:
        return f"<AsyncJob {self.id} {self._last.kind} {self._last.path}: {self._last.state}>"

    def _repr_html_(self) -> str:
        return _html.job(self._last)
