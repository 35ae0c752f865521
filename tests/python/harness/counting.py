"""An S3 server over one folder that remembers each GET, and can be slow, silent, refusing or cut short.

It shows a folder as a bucket, unsigned, by path style: listings, HEAD, GET with ranges, strong ETags, If-Match. Mount
its `uri` with its `options`. What a file holds is read when it is asked for, so a file may change under it. Listings
come in one page unless `list_slowly` says otherwise, bodies as fast as they are taken unless `pace` does.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import urllib.parse
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from xml.sax.saxutils import escape

BUCKET = "counted"
WAIT_TIMEOUT_S = 60.0
# Bodies go out in parts of this size, so that what was sent is known when a client goes away.
PART_BYTES = 64 << 10
# A paced body waits this long between its parts.
PACE_TICK_S = 0.02


@dataclass(frozen=True)
class Fault:
    """What happens to one GET: another status, a body cut after some bytes, or silence until the server stops."""

    status: int = 0
    cut_bytes: int = -1
    hang: bool = False


@dataclass
class Get:
    """One GET of an object: which bytes it asked for, when, and what it was answered."""

    key: str
    start: int
    end: int
    began_s: float
    status: int = 0
    sent_bytes: int = 0
    ended_s: float | None = None

    @property
    def length_bytes(self) -> int:
        return self.end - self.start


@dataclass
class Listing:
    """One page of a listing: when it was asked for and answered, and how many names it had."""

    began_s: float
    ended_s: float | None = None
    names: int = 0


# What happens to a GET that no `fail_next` is meant for.
Weather = Callable[[Get], Fault]


@dataclass
class _State:
    """What the handlers share."""

    folder: Path
    lock: threading.Condition = field(default_factory=threading.Condition)
    gets: list[Get] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    lists: list[Listing] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    weather: Weather | None = None
    open: bool = True
    stopped: bool = False
    delay_s: float = 0.0
    pace_bytes_per_s: float | None = None
    list_page: int | None = None
    list_delay_s: float = 0.0

    def wait(self, *, until_stopped: bool = False) -> None:
        """Until the gate is open, or the server stops."""
        with self.lock:
            self.lock.wait_for(lambda: self.stopped or (self.open and not until_stopped))


class CountingStore:
    """The server, running from its making to `stop` (or to the end of a `with`)."""

    def __init__(self, folder: Path, delay_s: float = 0.0) -> None:
        self._state = _State(folder, delay_s=delay_s)
        handler = type("Handler", (_Handler,), {"state": self._state})
        self._server = _Quiet(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> CountingStore:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()

    @property
    def uri(self) -> str:
        """The folder's URI, to be mounted with `options`."""
        return f"s3://{BUCKET}"

    @property
    def options(self) -> dict[str, str]:
        """Mount options for it."""
        port = self._server.server_address[1]
        return {"endpoint": f"http://127.0.0.1:{port}", "region": "any", "anonymous": "true", "allow_http": "true"}

    @property
    def gets(self) -> list[Get]:
        """The GETs of objects so far, in the order they came."""
        with self._state.lock:
            return list(self._state.gets)

    @property
    def others(self) -> list[str]:
        """Listings and HEADs so far: method and what of."""
        with self._state.lock:
            return list(self._state.others)

    @property
    def lists(self) -> list[Listing]:
        """The pages of listings so far."""
        with self._state.lock:
            return list(self._state.lists)

    @property
    def in_flight(self) -> list[Get]:
        """The GETs that are being answered, or wait to be."""
        return [get for get in self.gets if get.ended_s is None]

    @property
    def asked_bytes(self) -> int:
        """Bytes that all GETs so far asked for."""
        return sum(get.length_bytes for get in self.gets)

    def forget(self) -> None:
        """Begins to count anew."""
        with self._state.lock:
            self._state.gets, self._state.others, self._state.lists = [], [], []

    def delay(self, seconds: float) -> None:
        """Holds each answer to a GET back for so long."""
        self._state.delay_s = seconds

    def pace(self, bytes_per_s: float | None) -> None:
        """Sends each body at this rate, or as fast as it is taken."""
        self._state.pace_bytes_per_s = bytes_per_s

    def list_slowly(self, names_a_page: int, delay_s: float) -> None:
        """Lists so many names at a time, and takes so long for each page."""
        self._state.list_page, self._state.list_delay_s = names_a_page, delay_s

    def weather(self, of: Weather | None) -> None:
        """Decides over each GET that comes from now on; none for fair weather."""
        self._state.weather = of

    def fail_next(self, *faults: Fault) -> None:
        """Does this to the next GETs, one each."""
        with self._state.lock:
            self._state.faults += faults

    @property
    def faults_left(self) -> int:
        """How many faults have met no GET yet."""
        with self._state.lock:
            return len(self._state.faults)

    def heal(self) -> None:
        """Forgets the faults that have met no GET yet, and the weather."""
        with self._state.lock:
            self._state.faults.clear()
            self._state.weather = None

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """No GET is answered before `open_gate`, or the end of the block."""
        self._state.open = False
        try:
            yield
        finally:
            self.open_gate()

    def open_gate(self) -> None:
        """Answers what was held back, and what comes."""
        with self._state.lock:
            self._state.open = True
            self._state.lock.notify_all()

    def wait_for_gets(self, count: int) -> None:
        """Until so many GETs have come; fails where they do not."""
        with self._state.lock:
            come = self._state.lock.wait_for(lambda: len(self._state.gets) >= count, WAIT_TIMEOUT_S)
        assert come, f"{len(self.gets)} GETs, not {count}, in {WAIT_TIMEOUT_S} s"

    def stop(self) -> None:
        """Ends it; what still waits is cut off."""
        with self._state.lock:
            self._state.stopped = True
            self._state.lock.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def overlapping(gets: Iterable[Get]) -> list[tuple[Get, Get]]:
    """Pairs of GETs that asked for the same bytes of an object."""
    by_key: dict[str, list[Get]] = defaultdict(list)
    for get in gets:
        by_key[get.key].append(get)
    found = []
    for same in by_key.values():
        for left, right in itertools.combinations(sorted(same, key=lambda get: get.start), 2):
            if right.start < left.end:
                found.append((left, right))
    return found


class _Quiet(ThreadingHTTPServer):
    """Clients that go away in the middle are no news."""

    daemon_threads = True
    # Many clients connect at once.
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing: a client that went away shows in what it got."""


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    state: _State
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Nothing: the state remembers."""

    def do_HEAD(self) -> None:
        """An object's length and ETag."""
        self._remember(f"HEAD {self.path}")
        path = self._object()
        if not path.is_file():
            self._answer(404, b"")
            return
        self._head(200, path, path.stat().st_size)

    def do_GET(self) -> None:
        """A listing, or (a range of) an object."""
        url = urllib.parse.urlsplit(self.path)
        if url.path.rstrip("/") == f"/{BUCKET}":
            self._remember(f"LIST {url.query}")
            self._list(dict(urllib.parse.parse_qsl(url.query)))
            return
        path = self._object()
        if not path.is_file():
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        self._get(path)

    def _list(self, query: dict[str, str]) -> None:
        listing = Listing(time.monotonic())
        with self.state.lock:
            self.state.lists.append(listing)
        if self.state.list_delay_s:
            time.sleep(self.state.list_delay_s)
        listing.names, body = _listing(self.state.folder, query, self.state.list_page)
        listing.ended_s = time.monotonic()
        self._answer(200, body)

    def _get(self, path: Path) -> None:
        size = path.stat().st_size
        start, end = self._range(size)
        get = Get(path.relative_to(self.state.folder).as_posix(), start, end, time.monotonic())
        fault = self._take(get)
        if self.state.delay_s:
            time.sleep(self.state.delay_s)
        self.state.wait(until_stopped=fault.hang)
        try:
            self._answer_get(path, get, fault)
        finally:
            get.ended_s = time.monotonic()

    def _answer_get(self, path: Path, get: Get, fault: Fault) -> None:
        wanted = self.headers.get("if-match")
        get.status = fault.status or (412 if wanted and wanted != _etag(path) else 206)
        if get.status != 206:
            self._answer(get.status, b"<Error><Code>Refused</Code></Error>")
            return
        with path.open("rb") as file:
            file.seek(get.start)
            body = file.read(get.length_bytes)
        self._head(206, path, len(body), f"bytes {get.start}-{get.end - 1}/{path.stat().st_size}")
        if fault.cut_bytes >= 0:
            body, self.close_connection = body[: fault.cut_bytes], True
        for part in self._parts(body):
            # Counted before it goes: whoever has it may look at once.
            get.sent_bytes += len(part)
            try:
                self.wfile.write(part)
            except OSError:
                get.sent_bytes -= len(part)
                raise

    def _parts(self, body: bytes) -> Iterator[bytes]:
        """A body in parts, each when its time has come."""
        at, began_s = 0, time.monotonic()
        while at < len(body):
            rate = self.state.pace_bytes_per_s
            length = PART_BYTES if rate is None else max(1, int(rate * PACE_TICK_S))
            if rate is not None:
                time.sleep(max(0.0, began_s + (at + length) / rate - time.monotonic()))
            yield body[at : at + length]
            at += length

    def _take(self, get: Get) -> Fault:
        with self.state.lock:
            self.state.gets.append(get)
            self.state.lock.notify_all()
            if self.state.faults:
                return self.state.faults.pop(0)
            return self.state.weather(get) if self.state.weather else Fault()

    def _remember(self, what: str) -> None:
        with self.state.lock:
            self.state.others.append(what)

    def _range(self, size: int) -> tuple[int, int]:
        first, _, last = self.headers.get("range", "").removeprefix("bytes=").partition("-")
        if not first and last:
            return max(0, size - int(last)), size
        return int(first or 0), min(int(last) + 1, size) if last else size

    def _object(self) -> Path:
        key = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        return self.state.folder / key.removeprefix(f"/{BUCKET}/")

    def _head(self, status: int, path: Path, length: int, place: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", _etag(path))
        self.send_header("Last-Modified", formatdate(path.stat().st_mtime, usegmt=True))
        if place:
            self.send_header("Content-Range", place)
        self.end_headers()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _etag(path: Path) -> str:
    about = path.stat()
    return f'"{about.st_mtime_ns:x}-{about.st_size:x}"'


def _listing(folder: Path, query: dict[str, str], page: int | None) -> tuple[int, bytes]:
    """ListObjectsV2: how many names a page has, and the page; all names in one where `page` is none."""
    prefix, delimiter, after = query.get("prefix", ""), "delimiter" in query, query.get("continuation-token", "")
    names: dict[str, str] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        key = path.relative_to(folder).as_posix()
        below, slash, _ = key.removeprefix(prefix).partition("/")
        if not key.startswith(prefix):
            continue
        if delimiter and slash:
            common = f"{prefix}{below}/"
            names[common] = f"<CommonPrefixes><Prefix>{escape(common)}</Prefix></CommonPrefixes>"
        else:
            names[key] = _entry(key, path)
    left = [name for name in sorted(names) if name > after]
    shown = left[:page]
    # Objects before folders: not every client takes them mixed.
    entries = [names[name] for name in sorted(shown, key=lambda name: (name.endswith("/"), name))]
    if len(shown) < len(left):
        token = escape(shown[-1])
        entries.append(f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>")
    return len(shown), f"<ListBucketResult>{''.join(entries)}</ListBucketResult>".encode()


def _entry(key: str, path: Path) -> str:
    about = path.stat()
    modified = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(about.st_mtime))
    return (
        f"<Contents><Key>{escape(key)}</Key><LastModified>{modified}</LastModified>"
        f"<ETag>{escape(_etag(path))}</ETag><Size>{about.st_size}</Size></Contents>"
    )
