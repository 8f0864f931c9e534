"""What sources offer, and the simplest source: pictures on this machine."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stylekit.pictures import images


@dataclass(frozen=True)
class Remote:
    """A picture that a source offers. Everything but the address and the name may be unknown."""

    url: str
    """Where its bytes are: an address, or the path of a file for sources on this machine."""
    name: str
    """Name of the file to write, without suffix, unique within the source."""
    title: str = ""
    author: str = ""
    license: str = ""
    page: str = ""
    """Where a person can look at it."""
    width: int = 0
    height: int = 0
    """In pixels; 0 if unknown."""
    keyed: bool = False
    """The address comes from an interface that is used with a key, so robots.txt does not apply."""
    split: str = ""
    """train or test where the source decides; empty to let the content decide."""

    @property
    def local(self) -> bool:
        """The picture is a file on this machine."""
        return "://" not in self.url


def list_folder(folder: Path, license: str, page: str = "", split: str = "") -> Iterator[Remote]:
    """Pictures of a folder and its subfolders, sorted by name. Nothing is read but names.

    Args:
        split: train or test if the folder is one side of a split. Its files keep their names, which are unique already.
    """
    paths = images.find(folder)
    if not paths:
        raise FileNotFoundError(f"no pictures in {folder}; expected {' '.join(sorted(images.FORMATS))}")
    for path in paths:
        inner = path.relative_to(folder).with_suffix("").as_posix()
        name = safe_stem(path.name) if split else file_name(inner, path.name)
        yield Remote(str(path), name, path.stem, license=license, page=page, split=split)


def safe_stem(name: str) -> str:
    """The name of a file without suffix, free of characters that some file systems refuse."""
    stem = re.sub(r"[^\w .()-]", "_", Path(name).stem).strip(". ")
    return stem[:120] or "picture"


def file_name(stem: str, url: str) -> str:
    """A file name without suffix: the words of `stem` in ASCII, and eight digits that depend on the address."""
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:80].strip("-")
    digits = hashlib.sha256(url.encode()).hexdigest()[:8]
    return f"{words}-{digits}" if words else digits


def positive(value: object) -> int:
    """A number of pixels in JSON, which may be text, missing or nonsense; 0 if it is none."""
    try:
        return max(0, int(str(value)))
    except ValueError:
        return 0


def text(value: object) -> str:
    """A text in JSON on one line, which may be missing or something else."""
    return " ".join(value.split()) if isinstance(value, str) else ""
