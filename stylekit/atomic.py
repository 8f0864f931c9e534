"""Files that are written completely or not at all.

Temporary files lie beside their target, under hidden names that nobody can predict, and never follow a link. What a
killed process left is removed when another one writes into the folder.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import secrets
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil

# Parts of temporary names: several machines may share a folder, and a later process may have the same number.
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_START = secrets.token_hex(4)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that replaces `path` once everything is on disk.

    If anything fails, the previous file at `path` is untouched and no partial file remains. Parent folders are created.

    Raises:
        OSError: The folder is not writable or the disk is full; the message names `path`. So do all functions below.
    """
    with _temporary(Path(path)) as partial:
        with partial.open("xb") as file:  # "x" fails on everything that exists, links included.
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Fill a temporary folder whose files replace those in `path` one by one, each whole, when the block succeeds."""
    path = Path(path)
    with _temporary(path) as partial:
        partial.mkdir()
        yield partial
        path.mkdir(exist_ok=True)
        for file in sorted(partial.iterdir()):
            with file.open("rb") as written:
                os.fsync(written.fileno())
            file.replace(path / file.name)


@contextmanager
def atomic_tree(path: str | Path) -> Iterator[Path]:
    """Fill a temporary folder that takes the place of the folder `path`, with all it held, when the block succeeds.

    If the process is killed between the two renames that this takes, the old folder comes back when another process
    writes into the folder around it.
    """
    path = Path(path)
    with _temporary(path) as partial:
        new, old = partial / "new", partial / "old" / path.name
        new.mkdir(parents=True)
        old.parent.mkdir()
        yield new
        if path.exists():
            path.replace(old)
        new.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON, completely or not at all."""
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=2, default=str) + "\n").encode())


def check_writable(path: str | Path) -> None:
    """Fail early if a file could not be written at `path`. Parent folders are created."""
    with _temporary(Path(path)) as partial:
        partial.touch(exist_ok=False)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A new name in the folder of `path`; what is left under it is removed at the end."""
    partial = path.with_name(f".{_HOST}-{os.getpid()}-{_START}-{secrets.token_hex(8)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path.parent)
        yield partial
    except OSError as error:
        raise OSError(write_error(path, error.strerror or str(error))) from error
    finally:
        with contextlib.suppress(OSError):  # A file that succeeded has been renamed.
            _remove(partial)


@functools.cache
def _remove_leftovers(folder: Path) -> None:
    """Remove what processes of this machine that no longer run have left in a folder; once per process."""
    for leftover in folder.glob(f".{_HOST}-*.part"):
        _, process, start, *_ = leftover.name.split("-")
        # In a container every start has the same process number.
        own = process == str(os.getpid())
        if start != _START if own else process.isdigit() and not psutil.pid_exists(int(process)):
            with contextlib.suppress(OSError):  # Another process may remove it, too.
                _remove(leftover)


def _remove(partial: Path) -> None:
    """Remove a temporary file or folder; an old folder that has no successor yet goes back to its place."""
    if not partial.is_dir() or partial.is_symlink():
        partial.unlink()
        return
    for old in partial.glob("old/*"):
        if not (partial.parent / old.name).exists():
            old.replace(partial.parent / old.name)
    shutil.rmtree(partial, ignore_errors=True)


def write_error(path: Path, reason: str | None) -> str:
    """The message for a file that could not be written."""
    untouched = "; the existing file is untouched" if path.exists() else ""
    return f"could not write {path} ({reason}){untouched}"
