"""The folder of a data set while it is being fetched: what was asked for, what exists, what has been done.

Everything lies in DATA_SET/.fetch until the pictures move to trainA and the other folders:

    request.json       what was asked for; another request in the same folder is refused
    listing-A.json     the pictures that the source of a side offers
    journal.jsonl      one line for each picture that is ready or was left out
    raw/ ready/        downloads in progress; pictures that are ready
    lock               held by the running program
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylekit.atomic import atomic_write, write_error
from stylekit.collections.prepare import Prepared
from stylekit.collections.sources import Remote

SIDES = ("A", "B")
SPLITS = ("train", "test")
REJECTED = "rejected"
"""Folder to which `cyclegan check --fix` moves pictures."""


@dataclass(frozen=True)
class Entry:
    """A line of the journal: a picture that is ready, or the reason why it was left out."""

    side: str
    split: str
    """As the source says; empty if it leaves the choice to the content."""
    name: str
    prepared: Prepared | None = None
    reason: str = ""


class Workspace:
    """A data set folder that only this program changes; use `open_workspace`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.hidden = root / ".fetch"
        self._journal = self.hidden / "journal.jsonl"
        self._lock = threading.Lock()
        self.entries: dict[tuple[str, str, str], Entry] = {}
        """By side, split and name."""

    def raw(self, side: str, picture: Remote) -> Path:
        """Where the download of a picture goes."""
        return self.hidden / "raw" / f"{picture.split}{side}-{picture.name}"

    def ready(self, side: str, picture: Remote) -> Path:
        """The folder where a prepared picture waits."""
        return self.hidden / "ready" / f"{picture.split}{side}"

    def entry(self, side: str, picture: Remote) -> Entry | None:
        """What the journal says about a picture."""
        return self.entries.get((side, picture.split, picture.name))

    def listing(self, side: str) -> tuple[list[Remote], int]:
        """The saved listing of a side and the limit it was made with; none and 0 if there is none."""
        path = self.hidden / f"listing-{side}.json"
        if not path.exists():
            return [], 0
        saved = _read_json(path)
        return [Remote(**item) for item in saved["pictures"]], saved["limit"]

    def save_listing(self, side: str, pictures: Sequence[Remote], limit: int) -> None:
        """Keep a listing, so that a later run fetches the same pictures."""
        items = [dataclasses.asdict(picture) for picture in pictures]
        _write_json(self.hidden / f"listing-{side}.json", {"limit": limit, "pictures": items})

    def add(self, entry: Entry) -> None:
        """Append a line to the journal; any thread may."""
        line = json.dumps(dataclasses.asdict(entry)) + "\n"
        with self._lock:
            self.entries[entry.side, entry.split, entry.name] = entry
            with self._journal.open("a", encoding="utf-8") as file:
                file.write(line)

    def place(self, side: str, picture: Remote) -> Path | None:
        """Where a prepared picture is: waiting, in a folder of the data set, or rejected; None if it is nowhere."""
        entry = self.entry(side, picture)
        if entry is None or entry.prepared is None:
            return None
        homes = [f"{split}{side}" for split in ([picture.split] if picture.split else SPLITS)]
        folders = [self.ready(side, picture), *(self.root / home for home in homes)]
        for home in homes:
            folders += sorted((self.root / REJECTED).glob(f"*/{home}"))
        return next((path for folder in folders if (path := folder / entry.prepared.file).exists()), None)

    def missing(self, side: str, pictures: Sequence[Remote]) -> list[Remote]:
        """The pictures that are still to be fetched."""
        return [p for p in pictures if not self.left_out(side, p) and self.place(side, p) is None]

    def left_out(self, side: str, picture: Remote) -> str:
        """Why a picture is not wanted; empty if it is."""
        entry = self.entry(side, picture)
        return entry.reason if entry else ""

    def read_journal(self) -> None:
        """Read what earlier runs did. A line that was cut off by a crash is ignored, and its picture fetched again."""
        if not self._journal.exists():
            return
        for line in self._journal.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, TypeError):
                saved = json.loads(line)
                prepared = Prepared(**saved["prepared"]) if saved["prepared"] else None
                entry = Entry(saved["side"], saved["split"], saved["name"], prepared, saved["reason"])
                self.entries[entry.side, entry.split, entry.name] = entry
        # Also ends a line that was cut off, so that the next one begins on its own.
        with atomic_write(self._journal) as file:
            for entry in self.entries.values():
                file.write((json.dumps(dataclasses.asdict(entry)) + "\n").encode())

    def clean(self) -> None:
        """Remove temporary files of a finished run."""
        for name in ("raw", "ready", "unpacked", "hub"):
            shutil.rmtree(self.hidden / name, ignore_errors=True)


@contextmanager
def open_workspace(root: Path, request: dict[str, Any]) -> Iterator[Workspace]:
    """Lock a data set folder, create it if necessary, and read what earlier runs did there.

    Args:
        request: What was asked for. The same request continues; the folder of another one is refused.

    Raises:
        FileExistsError: The folder holds something else, or another program is fetching into it.
        ValueError: It was made by another request.
        OSError: It cannot be written.
    """
    import filelock

    check_folder(root, request)
    space = Workspace(root)
    try:
        space.hidden.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(write_error(root, error.strerror)) from error
    try:
        with filelock.FileLock(space.hidden / "lock", timeout=0):
            for leftover in space.hidden.rglob(".*.part"):
                leftover.unlink()
            _write_json(space.hidden / "request.json", request)
            space.read_journal()
            yield space
    except filelock.Timeout as error:
        raise FileExistsError(f"{root}: another program is fetching into this folder; wait until it ends") from error


def check_folder(root: Path, request: dict[str, Any]) -> None:
    """Refuse a folder that holds something else, or the pictures of another request; see `open_workspace`."""
    path = root / ".fetch" / "request.json"
    for folder in (root / ".fetch", *(root / f"{split}{side}" for split in SPLITS for side in SIDES)):
        if folder.is_symlink():
            raise FileExistsError(f"{folder} is a link; nothing is written outside {root}")
    if root.exists() and not root.is_dir():
        raise FileExistsError(f"{root} is not a folder; choose another --output")
    if not path.exists():
        if root.exists() and any(child.name != ".fetch" for child in root.iterdir()):
            raise FileExistsError(f"{root} holds something else; choose another --output, or an empty folder")
        return
    try:
        saved = _read_json(path)
        different = next((key for key in sorted(request) if request[key] != saved[key]), None)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({error}); choose another --output") from error
    if different:
        raise ValueError(
            f"{root} was fetched with {different.replace('_', '-')} {saved[different]}, not {request[different]}; "
            f"choose another --output, or give the same options"
        )


def american(item: dict[str, Any]) -> dict[str, Any]:
    """A record that an older version may have written, whose key for the license was `licence`."""
    return {"license" if key == "licence" else key: value for key, value in item.items()}


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"), object_hook=american)


def _write_json(path: Path, value: Any) -> None:
    with atomic_write(path) as file:
        file.write(json.dumps(value, indent=1).encode())
