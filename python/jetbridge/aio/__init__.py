"""The same for asyncio: the methods have the names that they have in :class:`jetbridge.Client`, and are awaited.

What is a property there is awaited as one here: ``await dataset.schema``, ``await job.status``. What asks nothing is
not awaited: ``client.dataset(path)``, ``scan.select(...)``. Waiting is done by the Rust runtime, which wakes the event
loop; no thread is held meanwhile, and cancelling a task ends what it asked for.
"""

from jetbridge.aio.client import AsyncClient, connect_async
from jetbridge.aio.job import AsyncJob
from jetbridge.aio.rows import AsyncRows
from jetbridge.aio.scan import AsyncDataset, AsyncScan
from jetbridge.aio.sql import AsyncResult

__all__ = ["AsyncClient", "AsyncDataset", "AsyncJob", "AsyncResult", "AsyncRows", "AsyncScan", "connect_async"]
