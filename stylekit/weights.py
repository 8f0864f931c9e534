"""Finds released weights: a folder or file, a name in weights/, a Hugging Face Hub id."""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import textwrap
from pathlib import Path
from typing import Any, TypeVar

N = TypeVar("N", bound=Any)

_PLACES = (Path(__file__).parent / "_weights", Path(__file__).parent.parent / "weights")
"""Where the shipped networks lie: in an installed package, and in a checkout."""


def shipped(kind: str = "") -> dict[str, Path]:
    """The networks that come with the library: folders with config.json and model.safetensors, by name, sorted.

    Args:
        kind: The folder in weights/ that they lie in.
    """
    for place in _PLACES:
        if (place / kind).is_dir():
            return {path.parent.name: path.parent for path in sorted((place / kind).glob("*/config.json"))}
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


def find(name: str | Path, kind: str = "") -> Path | str:
    """Where weights are: an existing path first, then a shipped name; anything like `user/model` is taken for a Hub id.

    Args:
        kind: The folder in weights/ that shipped networks of this kind lie in.

    Raises:
        FileNotFoundError: It is none of these; the message lists the shipped names.
    """
    path, names = Path(name), shipped(kind)
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


def load(network: type[N], found: Path | str, what: str, run: str) -> N:
    """Read a network, ready for use: a folder with config.json and model.safetensors, an official file, or a Hub id.

    Args:
        network: Its class, with `from_pretrained` and `from_official`.
        found: What `find` returns.
        what: What the network is called in a message, such as "a generator".
        run: What else could have been given, such as "a training run".

    Raises:
        FileNotFoundError: The folder lacks a file.
        ValueError: The weights are damaged, or of another network.
        OSError: The Hub cannot be reached.
    """
    from safetensors import SafetensorError

    if isinstance(found, Path):
        if found.is_file():
            return network.from_official(found)
        missing = [file for file in ("config.json", "model.safetensors") if not (found / file).is_file()]
        if missing:
            raise FileNotFoundError(
                f"no {' and no '.join(missing)} in {found}; expected a folder with config.json and model.safetensors, "
                f"or {run}"
            )
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # huggingface_hub prints where it reads from.
            return network.from_pretrained(str(found), strict=True).eval()
    except (json.JSONDecodeError, TypeError, ValueError) as error:
        raise ValueError(f"{found}: config.json does not describe {what} ({_first_line(error)})") from error
    except SafetensorError as error:
        raise ValueError(f"{found}: model.safetensors is cut short or damaged ({_first_line(error)})") from error
    except RuntimeError as error:
        raise ValueError(f"{found}: model.safetensors does not fit config.json ({_first_line(error)})") from error
    except OSError as error:
        raise OSError(f"{found}: not on this machine, and not to be had from the Hub ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    """The first line that says something: PyTorch's lists begin with a heading."""
    lines = [line.strip() for line in str(error).splitlines() if not line.endswith(":")]
    return textwrap.shorten((lines or [type(error).__name__])[0], 200)
