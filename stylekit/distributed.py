"""The environment that torchrun sets up: rank, device, main process. Without torchrun, one process is rank 0 of 1."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed as dist


def rank() -> int:
    """This process's number among all processes."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """How many of them run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_main() -> bool:
    """Whether this is the one process that writes files and logs."""
    return rank() == 0


def choose_device(name: str = "auto") -> torch.device:
    """The device of this process: its own GPU under torchrun, else the fastest that there is.

    Args:
        name: "auto", "cpu", "mps", "cuda" or "cuda:N".

    Raises:
        ValueError: There is no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name}: expected auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"--device {name}: PyTorch sees no CUDA device on this machine; try --device cpu")
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if device.index >= torch.cuda.device_count():
            raise ValueError(f"no device {device}: this machine has {torch.cuda.device_count()} CUDA device(s)")
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"--device {name}: there is no such device on this machine; try --device cpu")
    return device


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started, and leave them at the end; with one process, nothing happens.

    The group can exchange CPU tensors too, so that processes can agree without waiting for a GPU.
    """
    if world_size() == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def largest(*values: float) -> list[float]:
    """The largest of each value over all processes, so that all decide alike. Values travel over the CPU."""
    if world_size() == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor.tolist()


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        dist.barrier()


def mean(values: torch.Tensor) -> list[float]:
    """The mean over all processes of each number; waits for the device that holds them."""
    values = values.detach().double().cpu()
    if world_size() > 1:
        dist.all_reduce(values)
        values /= world_size()
    return values.tolist()


def gather(value: Any) -> list[Any]:
    """The values of all processes, by rank, in the main process; elsewhere an empty list."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.gather_object(value, gathered if is_main() else None)
    return gathered if is_main() else []
