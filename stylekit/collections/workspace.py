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

from stylekit.atomic import write_error, write_json
from stylekit.collections.sources import Remote

SIDES = ("A", "B")
SPLITS = ("train", "test")
FOLDERS = tuple(f"{split}{side}" for split in SPLITS for side in SIDES)
REJECTED = "rejected"  # Folder to which `cyclegan check --fix` moves pictures.


@dataclass(frozen=True)
class Prepared:
    """A picture file that is ready, and how it came about."""

    file: str
    width: int
    height: int
    bytes: int
    sha256: str
    """Of the file."""
    source_sha256: str
    """Of the file as it was downloaded."""
    hash: int
    thumbnail: str
    """`similarity.thumbnail` in hexadecimal."""
    done: str
    """What was done, in words; empty if the file is the downloaded one."""


class Workspace:
    """A data set folder that only this program changes; use `open_workspace`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.hidden = root / ".fetch"
        self._journal = self.hidden / "journal.jsonl"
        self._lock = threading.Lock()
        self._outcomes: dict[tuple[str, str, str], Prepared | str] = {}
        # A line that a crash cut off is ignored, and its picture fetched again.
        for line in self._journal.read_text(encoding="utf-8").splitlines() if self._journal.exists() else []:
            with contextlib.suppress(ValueError, TypeError, KeyError):
                saved = json.loads(line)
                outcome = Prepared(**saved["prepared"]) if saved["prepared"] else str(saved["reason"])
                self._outcomes[saved["side"], saved["split"], saved["name"]] = outcome

    def outcome(self, side: str, picture: Remote) -> Prepared | str | None:
        """What the journal says: a picture that is ready, or why it was left out; None if it says nothing."""
        return self._outcomes.get((side, picture.split, picture.name))

    def add(self, side: str, picture: Remote, outcome: Prepared | str) -> None:
        """Note in the journal what became of a picture; any thread may."""
        done, reason = (dataclasses.asdict(outcome), "") if isinstance(outcome, Prepared) else (None, outcome)
        line = {"side": side, "split": picture.split, "name": picture.name, "prepared": done, "reason": reason}
        with self._lock, self._journal.open("a", encoding="utf-8") as file:
            self._outcomes[side, picture.split, picture.name] = outcome
            file.write("\n" + json.dumps(line))  # A line that was cut off ends here, too.

    def ready(self, side: str, picture: Remote) -> Path:
        """The folder where a prepared picture waits."""
        return self.hidden / "ready" / f"{picture.split}{side}"

    def place(self, side: str, picture: Remote) -> Path | None:
        """Where a prepared picture is: waiting, in a folder of the data set, or rejected; None if it is nowhere."""
        outcome = self.outcome(side, picture)
        if not isinstance(outcome, Prepared):
            return None
        homes = [f"{split}{side}" for split in ([picture.split] if picture.split else SPLITS)]
        folders = [self.ready(side, picture), *(self.root / home for home in homes)]
        for home in homes:
            folders += sorted((self.root / REJECTED).glob(f"*/{home}"))
        return next((path for folder in folders if (path := folder / outcome.file).exists()), None)

    def missing(self, side: str, pictures: Sequence[Remote]) -> list[Remote]:
        """The pictures that are still to be fetched."""
        return [p for p in pictures if not isinstance(self.outcome(side, p), str) and self.place(side, p) is None]

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
        write_json(self.hidden / f"listing-{side}.json", {"limit": limit, "pictures": items})

    def clean(self) -> None:
        """Remove temporary files of a finished run."""
        for name in ("raw", "ready", "unpacked", "hub"):
            shutil.rmtree(self.hidden / name, ignore_errors=True)


@contextmanager
def open_workspace(root: Path, request: dict[str, Any]) -> Iterator[Workspace]:
    """Lock a data set folder, create it if necessary, and read what earlier runs did there.

    The folder of another request is refused, and so is one that holds something else.
    """
    import filelock

    _check_folder(root, request)
    hidden = root / ".fetch"
    try:
        hidden.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(write_error(root, error.strerror)) from error
    try:
        with filelock.FileLock(hidden / "lock", timeout=0):
            for leftover in hidden.rglob(".*.part"):
                leftover.unlink()
            write_json(hidden / "request.json", request)
            yield Workspace(root)
    except filelock.Timeout as error:
        raise FileExistsError(f"{root}: another program is fetching into this folder; wait until it ends") from error


def american(item: dict[str, Any]) -> dict[str, Any]:
    """A record that an older version may have written, whose key for the license was `licence`."""
    return {"license" if key == "licence" else key: value for key, value in item.items()}


def _check_folder(root: Path, request: dict[str, Any]) -> None:
    path = root / ".fetch" / "request.json"
    for folder in (root / ".fetch", *(root / name for name in FOLDERS)):
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


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"), object_hook=american)
