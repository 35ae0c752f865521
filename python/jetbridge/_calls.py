"""What each call asks of a server, and how its answer is read: the part that both clients have in common.

A call is a task on the Rust runtime and a function that reads its result. :func:`run` waits for it in this thread, with
the interpreter's lock released; :func:`wait` waits for it in an event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from jetbridge import _datafusion, _native
from jetbridge.errors import InvalidRequestError
from jetbridge.records import (
    CacheStat,
    Entry,
    Freed,
    JobStatus,
    Listing,
    Location,
    Mount,
    MountCheck,
    Pin,
    PreloadEstimate,
    ServerStatus,
    Stat,
    Worker,
)

T = TypeVar("T")

Tier = Literal["raw", "decoded", "both"]
Priority = Literal["high", "normal", "low"]


@dataclass(frozen=True)
class Call(Generic[T]):
    """One call under way."""

    task: _native.Task[Any]
    read: Callable[[Any], T]


def run(call: Call[T]) -> T:
    """The call's answer, waited for in this thread. Ctrl-C ends the wait, and the call with it."""
    return call.read(finish(call.task))


async def wait(call: Call[T]) -> T:
    """The call's answer, waited for in the running event loop. Cancelling the wait ends the call."""
    return call.read(await finish_async(call.task))


def finish(task: _native.Task[T]) -> T:
    """A task's result, waited for in this thread."""
    try:
        task.wait()
    except BaseException:
        task.cancel()
        raise
    return task.result()


async def finish_async(
    task: _native.Task[T], tick: Callable[[], object] | None = None, interval_s: float | None = None
) -> T:
    """A task's result, waited for in the running event loop; `tick` is called now and then meanwhile."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle() -> None:
        if not done.done():
            done.set_result(None)

    def wake() -> None:
        # Called on a thread of the runtime. A loop that has been closed in the meantime waits for nothing.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle)

    task.on_done(wake)
    try:
        while tick is not None and not (await asyncio.wait({done}, timeout=interval_s))[0]:
            tick()
        await done
    except BaseException:
        task.cancel()
        raise
    return task.result()


def action(native: _native.Client, name: str, body: Mapping[str, object], read: Callable[[Any], T]) -> Call[T]:
    """A DoAction with a JSON body and one JSON answer; keys without a value are left out."""
    said = {key: value for key, value in body.items() if value is not None}
    return Call(native.action(name, _json(said)), lambda text: read(json.loads(text)))


def mounts(native: _native.Client) -> Call[Listing[Mount]]:
    return action(native, "mount.list", {}, lambda answer: Listing(Mount.read(entry) for entry in answer["mounts"]))


def mount(
    native: _native.Client, path: str, uri: str, options: Mapping[str, str] | None, read_only: bool | None
) -> Call[None]:
    body = {"path": path, "uri": uri, "options": dict(options or {}), "read_only": read_only}
    return action(native, "mount.add", body, _nothing)


def unmount(native: _native.Client, path: str) -> Call[None]:
    return action(native, "mount.remove", {"path": path}, _nothing)


def check_mount(native: _native.Client, path: str) -> Call[MountCheck]:
    return action(native, "mount.check", {"path": path}, MountCheck.read)


def ls(native: _native.Client, path: str, limit: int | None) -> Call[Listing[Entry]]:
    def read(answer: Any) -> Listing[Entry]:
        entries = (Entry.read(entry) for entry in answer["entries"])
        return Listing(entries, truncated=bool(answer["truncated"]))

    return action(native, "namespace.list", {"path": path, "limit": limit}, read)


def datasets(native: _native.Client, prefix: str) -> Call[list[str]]:
    return Call(native.datasets(prefix), sorted)


def workers(native: _native.Client) -> Call[Listing[Worker]]:
    return action(native, "cluster.members", {}, lambda answer: Listing(map(Worker.read, answer["members"])))


def status(native: _native.Client) -> Call[ServerStatus]:
    return action(native, "server.status", {}, ServerStatus.read)


def stat(native: _native.Client, path: str) -> Call[Stat]:
    return action(native, "namespace.stat", {"path": path}, Stat.read)


def cache_stat(native: _native.Client, path: str, by: Literal["file", "column"] | None) -> Call[CacheStat]:
    return action(native, "cache.stat", {"path": path, "by": by}, CacheStat.read)


def locate(native: _native.Client, path: str) -> Call[Listing[Location]]:
    return action(native, "locate", {"path": path}, lambda answer: Listing(map(Location.read, answer["splits"])))


def free(native: _native.Client, path: str, dry_run: bool) -> Call[Freed]:
    return action(native, "cache.free", {"path": path, "dry_run": dry_run}, Freed.read)


def pin(native: _native.Client, path: str, tier: Tier | None) -> Call[Pin]:
    return action(native, "cache.pin", {"path": path, "tier": tier}, Pin.read)


def unpin(native: _native.Client, path: str) -> Call[Pin]:
    return action(native, "cache.unpin", {"path": path}, Pin.read)


def pins(native: _native.Client) -> Call[Listing[Pin]]:
    return action(native, "cache.pins", {}, lambda answer: Listing(map(Pin.read, answer["pins"])))


def refresh(native: _native.Client, path: str) -> Call[None]:
    return action(native, "dataset.refresh", {"path": path}, _nothing)


def jobs(native: _native.Client, state: str | None, limit: int | None) -> Call[list[JobStatus]]:
    body = {"state": None if state is None else state.upper(), "limit": limit}
    return action(native, "preload.list", body, lambda answer: [JobStatus.read(job) for job in answer["jobs"]])


def job(native: _native.Client, job_id: str) -> Call[JobStatus]:
    return action(native, "preload.get", {"id": job_id}, JobStatus.read)


def cancel_job(native: _native.Client, job_id: str) -> Call[JobStatus]:
    return action(native, "preload.cancel", {"id": job_id}, JobStatus.read)


@dataclass(frozen=True)
class PreloadOptions:
    """What a preload is asked for, in the words of the command line."""

    columns: Sequence[str] | None = None
    where: str | None = None
    tier: Tier | None = None
    replicas: int | None = None
    bandwidth: int | str | None = None
    verify: bool = False
    metadata_only: bool = False
    skip_if_cached: bool = False
    partial_listing: bool = False
    partial: bool = False
    priority: Priority | None = None
    max_failures: int | None = None
    every: float | str | None = None

    def body(self, paths: Sequence[str], dry_run: bool = False) -> dict[str, object]:
        """The body of ``preload.submit``; what was not asked for is not said."""
        said = {key: value for key, value in vars(self).items() if value is not None and value is not False}
        if self.columns is not None:
            said["columns"] = names(self.columns)
        return {"paths": list(paths), **said, **({"dry_run": True} if dry_run else {})}


def preload(native: _native.Client, paths: Sequence[str], options: PreloadOptions) -> Call[JobStatus]:
    return action(native, "preload.submit", options.body(paths), JobStatus.read)


def preload_estimate(native: _native.Client, paths: Sequence[str], options: PreloadOptions) -> Call[PreloadEstimate]:
    return action(native, "preload.submit", options.body(paths, dry_run=True), PreloadEstimate.read)


def verify(native: _native.Client, paths: Sequence[str], options: PreloadOptions) -> Call[JobStatus]:
    return action(native, "verify.submit", options.body(paths), JobStatus.read)


def plan(native: _native.Client, scan: Mapping[str, object]) -> Call[_native.Plan]:
    return Call(native.plan(_json(scan)), _same)


def plan_sql(native: _native.Client, query: str) -> Call[_native.Plan]:
    return Call(native.plan_sql(query), _same)


def schema(native: _native.Client, scan: Mapping[str, object]) -> Call[_native.Schema]:
    return Call(native.schema(_json(scan)), _same)


def datafusion_table(native: _native.Client, path: str, session: object) -> Call[object]:
    return Call(native.datafusion_table(path, _datafusion.codec_of(session)), _same)


def datafusion_catalog(native: _native.Client, session: object) -> Call[object]:
    return Call(native.datafusion_catalog(_datafusion.codec_of(session)), _same)


def paths_of(path: str | Sequence[str]) -> list[str]:
    """One path or several, as a list."""
    return [path] if isinstance(path, str) else list(path)


def names(columns: Sequence[str]) -> list[str]:
    """Column names as a list; one name alone is a mistake that would be read letter by letter."""
    if isinstance(columns, str):
        raise InvalidRequestError(f"columns is a list of names: write columns=[{columns!r}]")
    return list(columns)


def _json(body: Mapping[str, object]) -> str:
    try:
        return json.dumps(body, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"this cannot be sent: {error}") from None


def _nothing(_: object) -> None:
    return None


def _same(answer: T) -> T:
    return answer
