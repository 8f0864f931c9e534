"""Polite, stubborn HTTP: identified, limited in rate, obeying robots.txt and Retry-After, resuming what breaks off."""

from __future__ import annotations

import contextlib
import io
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit
from urllib.robotparser import RobotFileParser

import requests
import urllib3

from stylekit import __version__

USER_AGENT = f"image-translation/{__version__} (data sets for research; python-requests/{requests.__version__})"

_BUSY = (408, 425, 429, 500, 502, 503, 504)
_LONGEST_WAIT = 300.0
_CHUNK = 1 << 18


class Failure(Exception):  # noqa: N818
    """A file could not be fetched; others may. The message is one line, without the query of the address."""


class Unreachable(OSError):  # noqa: N818
    """A server cannot be reached, or asks to be left alone for long; the message names it."""


class Stopped(Exception):  # noqa: N818
    """The user stopped the program."""


class _Again(Exception):  # noqa: N818
    """The attempt failed in a way that another may not."""


class Web:
    """A client for all servers. Threads share it.

    Args:
        rate: Requests per second to one server; None for no limit.
        connections: Connections kept open to one server.
        timeout: Seconds to wait for a connection, and for each part of an answer.
        attempts: How often to ask for the same file.
        backoff: Seconds before the second attempt; doubled each time. Retry-After of the server goes first.
        slowest: Bytes per second below which a connection is closed and tried again, averaged over `timeout`.
    """

    def __init__(
        self,
        rate: float | None = 5,
        connections: int = 4,
        timeout: float = 20,
        attempts: int = 6,
        backoff: float = 0.5,
        slowest: float = 1000,
    ) -> None:
        self.timeout = timeout
        self.attempts = attempts
        self.backoff = backoff
        self.slowest = slowest
        self.stop = threading.Event()
        """Set it to make all threads raise `Stopped` soon."""
        self._interval = 0.0 if rate is None else 1 / rate
        self._lock = threading.Lock()
        self._next: dict[str, float] = {}
        self._crawl_delay: dict[str, float] = {}
        self._robots: dict[str, RobotFileParser] = {}
        self._robots_lock = threading.Lock()
        self._session = requests.Session()
        self._session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
        self._session.max_redirects = 5
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=connections, max_retries=0)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def json(self, url: str, params: Mapping[str, str | int] | None = None, robots: bool = True) -> Any:
        """Fetch a JSON document.

        Args:
            robots: Whether robots.txt applies; it is not for interfaces that are used with a key.

        Raises:
            Failure: The server answers with an error, or with something else than JSON.
            Unreachable: It does not answer.
        """
        sink = io.BytesIO()
        self._fetch(url, sink, params, robots, 50_000_000)
        try:
            return json.loads(sink.getvalue())
        except ValueError as error:
            kind = "a web page" if b"<html" in sink.getvalue()[:1000].lower() else "something"
            raise Failure(f"{_shown(url)}: got {kind} that is not JSON; try again later") from error

    def file(
        self,
        url: str,
        path: Path,
        limit: int,
        robots: bool = True,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Download a file; a part that an earlier call left behind is continued if the server still has the same file.

        Args:
            path: Appears when it is complete; until then its bytes are in PATH.part.
            limit: Refuse files with more bytes.
            progress: Called with the bytes so far and in total (0 if unknown).

        Raises:
            Failure: The server refuses or keeps failing; what has arrived is kept.
            Unreachable: It does not answer.
            OSError: The file cannot be written.
        """
        part, stamp = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.stamp")
        path.parent.mkdir(parents=True, exist_ok=True)
        known = stamp.read_text() if stamp.exists() else ""
        with part.open("r+b" if part.exists() and known else "w+b") as sink:
            sink.seek(0, os.SEEK_END)
            self._fetch(url, sink, None, robots, limit, known, stamp.write_text, progress)
            sink.flush()
            os.fsync(sink.fileno())
        part.replace(path)
        stamp.unlink(missing_ok=True)

    def _fetch(
        self,
        url: str,
        sink: IO[bytes],
        params: Mapping[str, str | int] | None,
        robots: bool,
        limit: int,
        stamp: str = "",
        remember: Callable[[str], Any] = lambda stamp: None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        if robots:
            self._check_robots(url)
        for attempt in range(1, self.attempts + 1):
            try:
                with self._ask(url, params, sink.tell(), stamp) as response:
                    self._check_status(url, response, sink)
                    if (now := _stamp(response)) != stamp:
                        stamp = now
                        remember(stamp)
                    self._read(url, response, sink, limit, progress)
                return
            except _Again as error:
                if not stamp:
                    _empty(sink)
                if attempt == self.attempts:
                    said = f"{_shown(url)}: {error.args[0]}, {attempt} times"
                    raise (Unreachable(f"{said}; check the network") if error.args[1:] else Failure(said)) from error
                self._pause(2 ** (attempt - 1) * self.backoff)

    def _ask(
        self, url: str, params: Mapping[str, str | int] | None, start: int, stamp: str
    ) -> contextlib.closing[requests.Response]:
        self._wait_turn(urlsplit(url).netloc)
        headers = {"Range": f"bytes={start}-", "If-Range": stamp} if start and stamp else {}
        try:
            return contextlib.closing(
                self._session.get(url, params=params, headers=headers, stream=True, timeout=self.timeout)
            )
        except requests.TooManyRedirects as error:
            raise Failure(f"{_shown(url)}: redirected in a circle") from error
        except (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL, requests.exceptions.MissingSchema):
            raise Failure(f"{_shown(url)}: not an address that can be fetched") from None
        except requests.Timeout as error:
            raise _Again(f"no answer within {self.timeout:g} s", "unreachable") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _Again(f"no connection ({_reason(error)})", "unreachable") from error

    def _check_status(self, url: str, response: requests.Response, sink: IO[bytes]) -> None:
        status, start = response.status_code, sink.tell()
        if "photo_unavailable" in urlsplit(response.url).path:  # Where Flickr redirects to instead of saying 404.
            raise Failure(f"{_shown(url)}: the picture has been removed")
        if status == 206 and start and response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            return
        if status == 200:
            _empty(sink)
            return
        if status in _BUSY:
            self._obey_retry_after(url, response)
            raise _Again(f"the server answers {status} {response.reason}".rstrip())
        if status in (206, 416):  # Not the part that was asked for: begin again.
            _empty(sink)
            raise _Again(f"the server answers {status} to a request for the rest")
        raise Failure(f"{_shown(url)}: the server answers {status} {response.reason}".rstrip())

    def _read(
        self,
        url: str,
        response: requests.Response,
        sink: IO[bytes],
        limit: int,
        progress: Callable[[int, int], None],
    ) -> None:
        encoded = response.headers.get("Content-Encoding", "identity") != "identity"
        size = response.headers.get("Content-Length", "")
        total = sink.tell() + int(size) if size.isdigit() and not encoded else 0
        window, arrived = time.monotonic(), 0
        while True:
            done = sink.tell()
            if max(done, total) > limit:
                raise Failure(f"{_shown(url)}: {max(done, total):,} bytes are more than the limit of {limit:,}")
            progress(done, total)
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
                break
            sink.write(data)
            arrived += len(data)
            if (elapsed := time.monotonic() - window) > self.timeout:
                if arrived < self.slowest * elapsed:
                    raise _Again(f"less than {self.slowest:g} bytes per second")
                window, arrived = time.monotonic(), 0
        if total and done < total:
            raise _Again(f"the connection broke after {done:,} of {total:,} bytes")

    def _check_robots(self, url: str) -> None:
        parts = urlsplit(url)
        with self._robots_lock:
            if parts.netloc not in self._robots:
                self._robots[parts.netloc] = parser = RobotFileParser()
                parser.parse(self._read_robots(f"{parts.scheme}://{parts.netloc}/robots.txt"))
                self._crawl_delay[parts.netloc] = float(parser.crawl_delay(USER_AGENT) or 0)
            parser = self._robots[parts.netloc]
        if not parser.can_fetch(USER_AGENT, url):
            raise Failure(f"{_shown(url)}: robots.txt of {parts.netloc} does not allow it")

    def _read_robots(self, url: str) -> list[str]:
        """The lines of robots.txt; none if there is no such file or no answer, which the request itself will notice."""
        self._wait_turn(urlsplit(url).netloc)
        try:
            response = self._session.get(url, timeout=self.timeout)
        except (requests.RequestException, urllib3.exceptions.HTTPError):
            return []
        return response.text[:500_000].splitlines() if response.status_code == 200 else []

    def _obey_retry_after(self, url: str, response: requests.Response) -> None:
        host, header = urlsplit(url).netloc, response.headers.get("Retry-After")
        if header is None:
            return
        try:
            seconds = urllib3.Retry().parse_retry_after(header)
        except urllib3.exceptions.InvalidHeader:
            return
        if seconds > _LONGEST_WAIT:
            raise Unreachable(
                f"{host} asks to be left alone for {seconds / 60:.0f} minutes; run the same command again then"
            )
        with self._lock:
            self._next[host] = max(self._next.get(host, 0), time.monotonic() + seconds)

    def _wait_turn(self, host: str) -> None:
        """Wait until the rate, and the server's last Retry-After, allow another request."""
        while True:
            with self._lock:
                now, turn = time.monotonic(), self._next.get(host, 0)
                if turn <= now:
                    self._next[host] = now + max(self._interval, self._crawl_delay.get(host, 0))
                    break
            self._pause(turn - now)
        if self.stop.is_set():
            raise Stopped

    def _pause(self, seconds: float) -> None:
        if self.stop.wait(max(0, seconds)):
            raise Stopped


def _stamp(response: requests.Response) -> str:
    """What identifies this version of the file: a strong ETag or a date; empty if there is neither."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _empty(sink: IO[bytes]) -> None:
    sink.seek(0)
    sink.truncate()


def _shown(url: str) -> str:
    """An address without its query, which may hold a key."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def _reason(error: BaseException) -> str:
    """The innermost reason of a failed connection, such as "Connection refused"."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return getattr(error, "strerror", None) or type(error).__name__
