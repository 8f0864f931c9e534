"""Checkpoints: named objects in one file, written completely or not at all, and read without running code."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylekit.atomic import atomic_write, write_error
from stylekit.networks.weights import read_torch_file

load = read_torch_file


def save(path: str | Path, **objects: Any) -> None:
    """Write tensors, numbers, strings, and lists or dicts of them to one file, atomically; OSError if that fails."""
    try:
        with atomic_write(path) as file:
            torch.save(objects, file)
    except RuntimeError as error:
        # torch.save reports a failed write as a RuntimeError of its zip writer.
        cause: BaseException | None = error
        while cause and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        reason = cause.strerror if isinstance(cause, OSError) else str(error).splitlines()[0]
        raise OSError(write_error(Path(path), reason)) from error


def check_finite(objects: Any, name: str = "") -> None:
    """Raise a FloatingPointError that names a number or tensor in nested dicts and lists that is infinite or NaN."""
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
