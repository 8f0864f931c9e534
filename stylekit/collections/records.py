"""What a source says about a picture, and what a source is."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


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


class Source(Protocol):
    """Where the pictures of one side of a data set come from."""

    def list(self, limit: int) -> Iterator[Remote]:
        """Yield up to `limit` pictures, the same order every time.

        Raises:
            ValueError: The source does not know what was asked for, or the key is missing.
            OSError: The source cannot be reached.
        """
        ...


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
