"""Fetch and prepare the pictures of a data set, several at a time; each is ready completely or not at all."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from stylekit.collections.prepare import Preparation, Unsuitable, prepare
from stylekit.collections.sources import Remote
from stylekit.collections.web import CONNECTIONS, Failure, Unreachable, Web
from stylekit.collections.workspace import Entry, Workspace

LARGEST = 200_000_000
"""Bytes of the largest picture that is downloaded."""

_SILENCE = 20
"""The run ends when so many pictures in a row could not be fetched because nobody answered."""


def fetch_pictures(space: Workspace, todo: Sequence[tuple[str, Remote]], web: Web, steps: Preparation) -> list[str]:
    """Fetch pictures into the workspace and note each in its journal.

    Args:
        todo: Sides and pictures.

    Returns:
        Why pictures failed; the next run tries them again.

    Raises:
        Unreachable: The server stays silent; what has been fetched is kept.
        OSError: The disk is full or not writable.
        KeyboardInterrupt: Ctrl-C; threads have stopped, and what has been fetched is kept.
    """
    failed: list[str] = []
    silent = 0
    # Some threads wait for the network while others prepare pictures.
    slots = threading.BoundedSemaphore(CONNECTIONS)
    pool = ThreadPoolExecutor(CONNECTIONS + (os.cpu_count() or 1), thread_name_prefix="fetch")
    try:
        running = [pool.submit(_fetch_one, space, side, remote, web, slots, steps) for side, remote in todo]
        for future in tqdm(as_completed(running), total=len(todo), unit="picture", disable=None, delay=1):
            try:
                future.result()
                silent = 0
            except Failure as error:
                failed.append(str(error))
                silent = 0
            except Unreachable as error:
                failed.append(str(error))
                silent += 1
                if silent >= min(_SILENCE, len(todo)):
                    raise
    finally:
        web.stop.set()
        pool.shutdown(cancel_futures=True)
    return failed


def _fetch_one(
    space: Workspace, side: str, remote: Remote, web: Web, slots: threading.BoundedSemaphore, steps: Preparation
) -> None:
    raw = space.raw(side, remote)
    try:
        if remote.local:
            raw.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(remote.url, raw)
        else:
            with slots:
                web.file(remote.url, raw, LARGEST, robots=not remote.keyed)
        entry = Entry(side, remote.split, remote.name, prepare(raw, space.ready(side, remote), remote.name, steps))
    except FileNotFoundError as error:
        raise Failure(f"{remote.url}: {error.strerror}") from error
    except (ValueError, Unsuitable) as error:
        reason = str(error).removeprefix(f"{raw}: ")
        if isinstance(error, ValueError) and not remote.local:  # Another download may be intact.
            raise Failure(f"{remote.url}: {_what_came(raw) or reason}") from error
        entry = Entry(side, remote.split, remote.name, reason=reason)
    finally:
        raw.unlink(missing_ok=True)
    space.add(entry)


def _what_came(raw: Path) -> str:
    """A better reason than "not a picture" if a web page came instead; empty if it did not."""
    start = raw.read_bytes()[:1000].lower()
    return "got a web page instead of a picture" if b"<html" in start or b"<!doctype" in start else ""
