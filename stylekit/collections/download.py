"""Fetch and prepare the pictures of a data set, several at a time; each is ready completely or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from stylekit.collections.prepare import Preparation, Unsuitable, prepare
from stylekit.collections.records import Remote
from stylekit.collections.web import Failure, Unreachable, Web
from stylekit.collections.workspace import Entry, Workspace

LARGEST = 200_000_000
"""Bytes of the largest picture that is downloaded."""

_UNAVAILABLE_HOSTS = 20
"""The run ends when so many pictures in a row could not be fetched because nobody answered."""


@dataclass(frozen=True)
class Failed:
    """A picture that could not be fetched now; the next run tries again."""

    remote: Remote
    reason: str


def fetch_pictures(
    space: Workspace,
    todo: Sequence[tuple[str, Remote]],
    web: Web,
    steps: Preparation,
    connections: int,
) -> list[Failed]:
    """Fetch pictures into the workspace and note each in its journal.

    Args:
        todo: Sides and pictures.
        connections: Downloads at the same time.

    Returns:
        Pictures that failed.

    Raises:
        Unreachable: The server stays silent; what has been fetched is kept.
        OSError: The disk is full or not writable.
        KeyboardInterrupt: Ctrl-C; threads have stopped, and what has been fetched is kept.
    """
    failed: list[Failed] = []
    silent = 0
    waiting = iter(todo)
    running: dict[Future[None], Remote] = {}
    bar = tqdm(total=len(todo), unit="picture", disable=None, delay=1)
    # Some threads wait for the network while others prepare pictures.
    slots = threading.BoundedSemaphore(connections)
    threads = connections + (os.cpu_count() or 1)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="fetch")
    try:
        while True:
            # Few at a time: queued work would still be done after an error.
            for side, remote in waiting:
                running[pool.submit(_fetch_one, space, side, remote, web, slots, steps)] = remote
                if len(running) >= 2 * threads:
                    break
            if not running:
                return failed
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                remote = running.pop(future)
                bar.update()
                try:
                    future.result()
                    silent = 0
                except Unreachable as error:
                    silent += 1
                    failed.append(Failed(remote, str(error)))
                    if silent >= _UNAVAILABLE_HOSTS or silent >= len(todo):
                        raise
                except Failure as error:
                    failed.append(Failed(remote, str(error)))
                    silent = 0
    finally:
        web.stop.set()
        pool.shutdown(cancel_futures=True)
        bar.close()


def _fetch_one(
    space: Workspace, side: str, remote: Remote, web: Web, slots: threading.BoundedSemaphore, steps: Preparation
) -> None:
    raw = space.raw(side, remote)
    local = "://" not in remote.url
    try:
        if local:
            raw.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(remote.url, raw)
        else:
            with slots:
                web.file(remote.url, raw, LARGEST, robots=not remote.keyed)
        prepared = prepare(raw, space.ready(side, remote), remote.name, steps)
    except Unsuitable as reason:
        space.add(Entry(side, remote.split, remote.name, reason=str(reason)))
    except ValueError as error:
        reason_given = str(error).removeprefix(f"{raw}: ")
        if local:  # It will not get better.
            space.add(Entry(side, remote.split, remote.name, reason=reason_given))
        else:
            raise Failure(f"{remote.url}: {_what_came(raw) or reason_given}") from error
    except FileNotFoundError as error:
        raise Failure(f"{remote.url}: {error.strerror}") from error
    else:
        space.add(Entry(side, remote.split, remote.name, prepared))
    finally:
        if not web.stop.is_set():
            with contextlib.suppress(FileNotFoundError):
                raw.unlink()


def _what_came(raw: Path) -> str:
    """A better reason than "not a picture" if a web page came instead; empty if it did not."""
    try:
        start = raw.read_bytes()[:1000].lower()
    except OSError:
        return ""
    return "got a web page instead of a picture" if b"<html" in start or b"<!doctype" in start else ""
