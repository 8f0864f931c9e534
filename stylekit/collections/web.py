"""HTTP client with rate limits, robots.txt, retries and resume; threads share it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin, urlsplit
from urllib.robotparser import RobotFileParser

import requests
import urllib3
from tqdm import tqdm

from stylekit import __version__

CONNECTIONS = 4  # Connections at the same time.

USER_AGENT = f"image-translation/{__version__} (data sets for research; python-requests/{requests.__version__})"

_BUSY = (408, 425, 429, 500, 502, 503, 504)
_LONGEST_WAIT = 300.0
_MOST_REDIRECTS = 5
_CHUNK = 1 << 18
_LARGEST_JSON = 50_000_000
_LARGEST_ROBOTS = 500_000  # Bytes of robots.txt that count (RFC 9309, section 2.5).


class Failure(Exception):  # noqa: N818
    """A file could not be fetched; others may. The message is one line, without the query of the address."""


class Unreachable(OSError):  # noqa: N818
    """A server cannot be reached, or asks to be left alone for long; the message names it."""


class Stopped(Exception):  # noqa: N818
    """The user stopped the program."""


class _Again(Exception):  # noqa: N818
    """The attempt failed in a way that another may not."""


@dataclass
class _Host:
    """What is known about a server."""

    interval: float  # Seconds between requests.
    next: float = 0.0  # Earliest time of the next request, as `time.monotonic` counts.
    robots: RobotFileParser | None = None
    robots_lock: threading.Lock = field(default_factory=threading.Lock)


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Leave redirects to `Web`: requests would read the body of each, however long or slow it is."""


@dataclass
class Web:
    """A client for all servers."""

    rate: float | None = 5
    """Requests per second to one server; None for no limit."""
    timeout: float = 20
    """Seconds to wait for a connection, and for each part of an answer."""
    attempts: int = 6
    """How often to ask for the same file."""
    backoff: float = 0.5
    """Seconds before the second attempt; doubled each time. Retry-After of the server goes first."""
    slowest: float = 1000
    """Bytes per second below which a connection is closed and tried again, averaged over `timeout`."""

    def __post_init__(self) -> None:
        self.stop = threading.Event()
        """Set it to make all threads raise `Stopped` soon."""
        self._lock = threading.Lock()
        self._hosts: dict[str, _Host] = {}
        self._session = _Session()
        self._session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})

    def json(self, url: str, params: Mapping[str, str | int] | None = None, robots: bool = True) -> Any:
        """Fetch a JSON document. `robots`: whether robots.txt applies; not to interfaces that are used with a key."""
        if robots:
            self._check_robots(url)
        sink = io.BytesIO()
        full = requests.Request("GET", url, params=params).prepare().url or url
        self._fetch(full, sink, _LARGEST_JSON, self.attempts, None, None)
        try:
            return json.loads(sink.getvalue())
        except ValueError as error:
            kind = "a web page" if b"<html" in sink.getvalue()[:1000].lower() else "something"
            raise Failure(f"{_shown(url)}: got {kind} that is not JSON; try again later") from error

    def file(self, url: str, path: Path, limit: int, robots: bool = True, bar: tqdm[Any] | None = None) -> None:
        """Download a file; a part that an earlier call left behind is continued if the server still has the same file.

        Args:
            path: Appears when it is complete; until then its bytes are in PATH.part, and its version in PATH.stamp.
            limit: Refuse files with more bytes.
            bar: Shows the bytes.
        """
        if robots:
            self._check_robots(url)
        part, stamp = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.stamp")
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as sink:
            self._fetch(url, sink, limit, self.attempts, stamp, bar)
            sink.flush()
            os.fsync(sink.fileno())
        part.replace(path)
        stamp.unlink(missing_ok=True)

    def _fetch(
        self, url: str, sink: IO[bytes], limit: int, attempts: int, stamp: Path | None, bar: tqdm[Any] | None
    ) -> None:
        """Write a document to `sink`, after the part of the version in `stamp` that is there already."""
        for attempt in range(1, attempts + 1):
            version = stamp.read_text() if stamp and stamp.exists() else ""
            if not version:
                sink.truncate(sink.seek(0))
            try:
                with self._ask(url, sink.tell(), version) as response:
                    encoded = response.headers.get("Content-Encoding", "identity") != "identity"
                    self._check_status(url, response, sink)
                    if stamp:
                        stamp.write_text("" if encoded else _version(response))
                    length = response.headers.get("Content-Length", "")
                    # Only files are refused at once: of a long robots.txt the beginning counts.
                    total = sink.tell() + int(length) if stamp and length.isdigit() and not encoded else 0
                    self._read(url, response, sink, limit, total, bar)
                return
            except _Again as error:
                if attempt == attempts:
                    said = f"{_shown(url)}: {error.args[0]}, {attempt} times"
                    raise (Unreachable(f"{said}; check the network") if error.args[1:] else Failure(said)) from error
                self.stop.wait(2 ** (attempt - 1) * self.backoff)

    def _ask(self, url: str, start: int, version: str) -> requests.Response:
        self._wait_turn(self._host(url))
        headers = {"Range": f"bytes={start}-", "If-Range": version} if start else {}
        place = url
        for _ in range(1 + _MOST_REDIRECTS):
            try:
                response = self._session.get(place, headers=headers, stream=True, timeout=self.timeout)
            except requests.Timeout as error:
                raise _Again(f"no answer within {self.timeout:g} s", "unreachable") from error
            except ValueError:
                raise Failure(f"{_shown(url)}: not an address that can be fetched") from None
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                raise _Again(f"no connection ({_reason(error)})", "unreachable") from error
            if not (target := requests.Session.get_redirect_target(self._session, response)):
                return response
            response.close()
            place = urljoin(response.url, target)
        raise Failure(f"{_shown(url)}: redirected in a circle")

    def _check_status(self, url: str, response: requests.Response, sink: IO[bytes]) -> None:
        """Raise what a status means, or leave `sink` where the answer begins."""
        status, start = response.status_code, sink.tell()
        said = f"the server answers {status} {response.reason}".rstrip()
        if "photo_unavailable" in urlsplit(response.url).path:  # Where Flickr redirects to instead of saying 404.
            raise Failure(f"{_shown(url)}: the picture has been removed")
        if status == 206 and start and response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            return
        if status in (200, 206, 416):
            sink.truncate(sink.seek(0))
        if status in (206, 416):
            raise _Again(f"the server answers {status} to a request for the rest")
        if status in _BUSY:
            self._obey_retry_after(url, response)
            raise _Again(said)
        if status != 200:
            raise Failure(f"{_shown(url)}: {said}")

    def _read(
        self, url: str, response: requests.Response, sink: IO[bytes], limit: int, total: int, bar: tqdm[Any] | None
    ) -> None:
        window, arrived = time.monotonic(), 0
        while True:
            done = sink.tell()
            if (size := max(done, total)) > limit:
                raise Failure(f"{_shown(url)}: {size:,} bytes are more than the limit of {limit:,}")
            if bar is not None:
                bar.total = total or None
                bar.update(done - bar.n)
            if self.stop.is_set():
                raise Stopped
            try:
                # What has arrived, not a full chunk: a server that sends a byte a second is to be noticed.
                data = response.raw.read1(_CHUNK, decode_content=True)
            except urllib3.exceptions.ReadTimeoutError as error:
                raise _Again(f"nothing for {self.timeout:g} s after {done:,} bytes") from error
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise _Again(f"the connection broke after {done:,} bytes") from error
            if not data:
                return
            sink.write(data)
            arrived += len(data)
            if (elapsed := time.monotonic() - window) > self.timeout:
                if arrived < self.slowest * elapsed:
                    raise _Again(f"less than {self.slowest:g} bytes per second")
                window, arrived = time.monotonic(), 0

    def _check_robots(self, url: str) -> None:
        """Ask a server once what it allows. Without an answer everything is, since the request itself will notice."""
        parts, host = urlsplit(url), self._host(url)
        with host.robots_lock:
            if host.robots is None:
                text, robots = io.BytesIO(), RobotFileParser()
                with contextlib.suppress(Failure, Unreachable):
                    self._fetch(f"{parts.scheme}://{parts.netloc}/robots.txt", text, _LARGEST_ROBOTS, 1, None, None)
                robots.parse(text.getvalue().decode("utf-8", "replace").splitlines())
                host.interval = max(host.interval, float(robots.crawl_delay(USER_AGENT) or 0))
                host.robots = robots
        if not host.robots.can_fetch(USER_AGENT, url):
            raise Failure(f"{_shown(url)}: robots.txt of {parts.netloc} does not allow it")

    def _obey_retry_after(self, url: str, response: requests.Response) -> None:
        with contextlib.suppress(urllib3.exceptions.InvalidHeader):
            seconds = urllib3.Retry().get_retry_after(response.raw) or 0
            if seconds > _LONGEST_WAIT:
                raise Unreachable(
                    f"{urlsplit(url).netloc} asks to be left alone for {seconds / 60:.0f} minutes; "
                    f"run the same command again then"
                )
            host = self._host(url)
            with self._lock:
                host.next = max(host.next, time.monotonic() + seconds)

    def _host(self, url: str) -> _Host:
        with self._lock:
            return self._hosts.setdefault(urlsplit(url).netloc, _Host(1 / self.rate if self.rate else 0.0))

    def _wait_turn(self, host: _Host) -> None:
        """Wait until the rate, and the server's last Retry-After, allow another request."""
        while not self.stop.is_set():
            with self._lock:
                now = time.monotonic()
                if host.next <= now:
                    host.next = now + host.interval
                    return
                pause = host.next - now
            self.stop.wait(pause)
        raise Stopped


def _version(response: requests.Response) -> str:
    """What identifies this version of the file: a strong ETag or a date; empty if there is neither."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _shown(url: str) -> str:
    """An address without its query, which may hold a key."""
    return urlsplit(url)._replace(query="", fragment="").geturl()


def _reason(error: BaseException) -> str:
    """The innermost reason of a failed connection, such as "Connection refused"."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return getattr(error, "strerror", None) or type(error).__name__
