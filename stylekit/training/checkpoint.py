"""Checkpoints: named objects in one file, written completely or not at all, and read without running code."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylekit.atomic import atomic_write, write_error
from stylekit.networks.weights import read_torch_file

load = read_torch_file


def save(path: str | Path, **objects: Any) -> None:
    """Write tensors, numbers, strings, and lists or dicts of them to one file, atomically.

    Raises:
        OSError: The file cannot be written; an existing file is untouched.
    """
    try:
        with atomic_write(path) as file:
            torch.save(objects, file)
    except RuntimeError as error:
        # torch.save reports a failed write as a RuntimeError of its zip writer.
        cause = next((e for e in _causes(error) if isinstance(e, OSError)), None)
        raise OSError(write_error(Path(path), cause.strerror if cause else str(error).splitlines()[0])) from error


def check_finite(objects: Any, name: str = "") -> None:
    """Check that all numbers and tensors in nested dicts and lists are finite; synchronizes with their device.

    Raises:
        FloatingPointError: One is infinite or NaN; the message names it.
    """
    if isinstance(objects, Mapping):
        for key, value in objects.items():
            check_finite(value, f"{name}.{key}" if name else str(key))
    elif isinstance(objects, Sequence) and not isinstance(objects, str | bytes):
        for i, value in enumerate(objects):
            check_finite(value, f"{name}.{i}")
    elif isinstance(objects, Tensor):
        if objects.is_floating_point() and not objects.isfinite().all():
            raise FloatingPointError(f"{name} is not finite")
    elif isinstance(objects, float) and not math.isfinite(objects):
        raise FloatingPointError(f"{name} is {objects}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
