"""Finds released weights: a folder or file, a name in weights/, a Hugging Face Hub id."""

from __future__ import annotations

import difflib
from pathlib import Path

_PLACES = (Path(__file__).parent / "_weights", Path(__file__).parent.parent / "weights")
"""Where the shipped networks lie: in an installed package, and in a checkout."""


def shipped() -> dict[str, Path]:
    """The networks that come with the library: folders with config.json and model.safetensors, by name, sorted."""
    for place in _PLACES:
        if place.is_dir():
            return {path.parent.name: path.parent for path in sorted(place.glob("*/config.json"))}
    return {}


def shipped_file(name: str) -> Path:
    """A file that comes with the library, by its path in weights/.

    Raises:
        FileNotFoundError: This copy of the library lacks it.
    """
    for place in _PLACES:
        if (place / name).is_file():
            return place / name
    raise FileNotFoundError(f"the library lacks {name}, which it ships: install it anew")


def shipped_files(folder: str, suffix: str) -> dict[str, Path]:
    """The files of one kind in a folder of weights/, by name, sorted."""
    for place in _PLACES:
        if (place / folder).is_dir():
            return {path.stem: path for path in sorted((place / folder).glob(f"*{suffix}"))}
    return {}


def find(name: str | Path) -> Path | str:
    """Where weights are: an existing path first, then a shipped name; anything like `user/model` is taken for a Hub id.

    Raises:
        FileNotFoundError: It is none of these; the message lists the shipped names.
    """
    path, names = Path(name), shipped()
    if path.exists():
        return path
    if str(name) in names:
        return names[str(name)]
    parts = str(name).split("/")
    # A Hub id has one slash; what starts with a dot, or has a suffix of a file, was meant to be a path.
    if (
        len(parts) == 2
        and all(parts)
        and not parts[0].startswith((".", "~"))
        and not path.suffix.startswith((".p", ".s"))
    ):
        return str(name)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise FileNotFoundError(
        f"no weights {name}: {hint}expected a folder, a file, a Hugging Face Hub id (user/model), or one of "
        f"{', '.join(names) or 'the shipped networks, of which there are none here'}"
    )
