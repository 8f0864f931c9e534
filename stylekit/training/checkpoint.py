"""Checkpoints: written completely or not at all, read without running code, and what a run resumes from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from stylekit.atomic import atomic_write, write_error
from stylekit.networks.weights import read_torch_file
from stylekit.options import RunConfig

load = read_torch_file

T = TypeVar("T")


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


def read_run(folder: Path, config: RunConfig, fixed: Sequence[str]) -> dict[str, Any] | None:
    """The checkpoint of a run to resume; None for a new one. `Run` names the errors."""
    path = folder / "last.pt"
    if not config.resume:
        if path.exists():
            raise FileExistsError(f"{folder} already holds a run; continue it with --resume or choose another --name")
        return None
    if not path.exists():
        raise FileNotFoundError(f"no run to resume at {path}; remove --resume, or check --name and --checkpoints-dir")
    saved = load(path)
    options = entry(saved, "config", dict, path)
    try:
        json.dumps(options)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a training checkpoint: its config is not plain ({error})") from error
    if differences := config.differences(options, "preset", *fixed):
        raise ValueError(f"{folder}: a run cannot change {', '.join(differences)}; choose another --name")
    return saved


def entry(saved: Mapping[str, Any], name: str, kind: type[T], path: Path) -> T:
    """An entry of a checkpoint, of the right type; a ValueError says what is wrong."""
    if name not in saved:
        raise ValueError(f"{path}: not a training checkpoint: it has no {name}")
    if not isinstance(saved[name], kind):
        raise ValueError(f"{path}: not a training checkpoint: its {name} is a {type(saved[name]).__name__}")
    if isinstance(saved[name], int | float) and not 0 <= saved[name] < float("inf"):
        raise ValueError(f"{path}: not a training checkpoint: its {name} is {saved[name]}")
    return saved[name]


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
