"""Devices: choice, precision, memory format, free memory, CPU threads."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar, cast

import psutil
import torch
from torch import Tensor, nn

T = TypeVar("T", bound="nn.Module | Tensor")


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads; None keeps PyTorch's choice, OMP_NUM_THREADS or else one per core."""
    if threads is not None:
        torch.set_num_threads(threads)


def choose_device(name: str = "auto") -> torch.device:
    """The device for this process; "auto" is the fastest one available, and "cuda" under torchrun its own GPU.

    A ValueError says that the name is not "auto", "cpu", "mps", "cuda" or "cuda:N", or the machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if not re.fullmatch(r"(cpu|mps|cuda)(:\d{1,2})?", name):
        raise ValueError(f"--device {name}: expected auto, cpu, cuda, cuda:N or mps")
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"--device {name}: PyTorch finds no CUDA device on this machine; try --device cpu")
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if device.index >= torch.cuda.device_count():
            raise ValueError(f"--device {device}: this machine has {torch.cuda.device_count()} CUDA device(s)")
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"--device {name}: not available on this machine; try --device cpu")
    return device


def use_bfloat16(amp: Literal["auto", "on", "off"], device: torch.device) -> bool:
    """Whether to run networks in bfloat16; "auto" does where it is fast: CUDA since Ampere, and CPUs with AMX.

    Of two CPUs that have bfloat16 instructions (AVX-512) but no AMX, one was slower with it (benchmarks/README.md) and
    one faster.
    """
    if amp != "auto":
        return amp == "on"
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()


def memory_format(device: torch.device | str) -> torch.memory_format:
    """The fastest memory format: contiguous on CPUs without AMX, channels_last elsewhere.

    Convolutions are equally fast in both on a CPU with AVX2, but instance normalization copies channels_last, and
    `stylekit.networks.convolutions` needs contiguous tensors (benchmarks/README.md).
    """
    plain = torch.device(device).type == "cpu" and not torch.cpu._is_amx_tile_supported()
    return torch.contiguous_format if plain else torch.channels_last


def to_device(x: T, device: torch.device | str) -> T:
    """A network or a batch on its device, in its memory format."""
    moved = x.to(device=device, non_blocking=True, memory_format=memory_format(device))  # type: ignore[call-overload]
    return cast(T, moved)


def free_memory(device: torch.device) -> int:
    """Free memory in bytes: of the GPU for CUDA, of the machine otherwise."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out; on CPUs PyTorch raises a plain RuntimeError."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


@contextmanager
def memory_hint(hint: str) -> Iterator[None]:
    """Turn errors that mean that memory ran out into a MemoryError: "out of memory" and a hint at what helps."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(f"out of memory{hint}") from error
