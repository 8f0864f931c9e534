"""Files of named objects that are written whole or not at all, and that cannot run code when read."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor


@contextmanager
def atomic(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that takes the place of `path` only when everything is on the disk.

    If anything fails, what was at `path` before is still there, and nothing is left beside it. Folders are made as
    needed.

    Raises:
        OSError: The folder cannot be written, the disk is full; the message names `path`.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise OSError(_failed(path, error.strerror or str(error))) from error
    finally:
        # After a success there is none; after a failure, of the disk for example, there may not even be a folder.
        with contextlib.suppress(OSError):
            unfinished.unlink()


def check_writable(path: str | Path) -> None:
    """Make sure, before the work for it is done, that a file could be written at `path`. Its folder is made.

    Raises:
        OSError: It could not; the message names `path`.
    """
    path = Path(path)
    trial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise OSError(_failed(path, error.strerror)) from error


def save(path: str | Path, **objects: Any) -> None:
    """Write named objects (tensors, numbers, strings, lists, dicts of them) to one file, atomically.

    Raises:
        OSError: The file cannot be written; what was there before is untouched.
    """
    try:
        with atomic(path) as file:
            torch.save(objects, file)
    except RuntimeError as error:
        # torch.save reports a write that failed as a RuntimeError of its zip writer.
        cause = next((e for e in _causes(error) if isinstance(e, OSError)), None)
        raise OSError(_failed(Path(path), cause.strerror if cause else str(error).splitlines()[0])) from error


def load(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a file that `save` wrote. Only tensors and plain values are read; nothing in it can run code.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is cut short, holds pickled objects, or is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        objects = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        if "unsupported" in str(error).lower():
            raise ValueError(f"{path}: holds a pickled object, which could run code; expected tensors only") from error
        raise ValueError(f"{path}: damaged or no PyTorch file; expected tensors saved by torch.save") from error
    except (RuntimeError, OSError, EOFError, ValueError, LookupError) as error:
        raise ValueError(f"{path}: cut short or damaged; expected a whole file saved by torch.save") from error
    if not isinstance(objects, dict):
        raise ValueError(f"{path}: holds a {type(objects).__name__}; expected a dict of named objects")
    return objects


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict: a `.safetensors` file or one of torch.save.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or holds anything but named tensors.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: cut short or damaged ({error})") from error
    objects = load(path)
    other = next(
        (f"{name} is a {type(value).__name__}" for name, value in objects.items() if not isinstance(value, Tensor)), ""
    )
    if other:
        raise ValueError(f"{path}: {other}; expected a state dict, every entry a tensor")
    return objects


def check_shapes(
    tensors: Mapping[str, Tensor], expected: Mapping[str, torch.Size], path: str | Path, what: str
) -> None:
    """Make sure that a state dict is that of a network: the same names and shapes.

    Args:
        path: The file, for the message.
        what: The network, for the message.

    Raises:
        ValueError: It is not; the message says what differs.
    """
    differences = [f"missing {key}" for key in expected if key not in tensors]
    differences += [f"unexpected {key}" for key in tensors if key not in expected]
    differences += [
        f"{key} has shape {tuple(tensors[key].shape)}, expected {tuple(shape)}"
        for key, shape in expected.items()
        if key in tensors and tensors[key].shape != shape
    ]
    if differences:
        shown = "; ".join(differences[:4]) + ("; ..." if len(differences) > 4 else "")
        raise ValueError(f"{path}: does not fit {what}: {shown}")


def _failed(path: Path, reason: str | None) -> str:
    before = "; the file that was there before is untouched" if path.exists() else ""
    return f"could not write {path} ({reason}){before}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
