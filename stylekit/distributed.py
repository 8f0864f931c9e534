"""Processes under torchrun, in training and over files: ranks, DDP and collectives.

Without torchrun a single process is rank 0 of 1, and the same code runs.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")

PATIENT = timedelta(days=30)  # For processes that work on their own until the end.


def rank() -> int:
    """Index of this process among all processes."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes that work together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """Number of these processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes files and logs (rank 0)."""
    return rank() == 0


def wrap_ddp(network: nn.Module, device: torch.device, compile: bool = False) -> nn.Module:
    """A network ready to be trained: in DDP if there are several processes, compiled on request."""
    if world_size() > 1:
        # Buffers are constants, or computed alike on every rank from the same weights.
        ids = [device] if device.type == "cuda" else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # Newer versions rename the option, which older ones lack.
            network = DistributedDataParallel(network, device_ids=ids, broadcast_buffers=False)
    return cast(nn.Module, torch.compile(network)) if compile else network


def unwrap(network: nn.Module) -> Any:
    """The network inside DDP and torch.compile."""
    inner: Any = network
    while isinstance(inner, DistributedDataParallel) or hasattr(inner, "_orig_mod"):
        inner = inner.module if isinstance(inner, DistributedDataParallel) else inner._orig_mod
    return inner


@contextmanager
def process_group(device: torch.device, timeout: timedelta | None = None) -> Iterator[None]:
    """Join the processes that torchrun started and leave at the end; does nothing for a single process.

    On CUDA the group has a gloo backend as well, so that processes can agree without waiting for a GPU. Processes
    fail if they wait longer than the timeout for each other; None is PyTorch's default, 10 to 30 minutes.
    """
    if world_size() == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=timeout)
    try:
        yield
    finally:
        dist.destroy_process_group()


def is_lost_process(error: BaseException) -> bool:
    """Whether a collective failed since another process is gone."""
    return world_size() > 1 and bool(re.search("gloo|NCCL|Connection (closed|reset)", str(error)))


def share(items: Sequence[T]) -> Sequence[T]:
    """The part of the items that this process takes: every N-th."""
    return items[rank() :: world_size()]


def wait_for_all() -> None:
    """Wait until all processes have come here."""
    all_max(0)


def all_max(*values: float) -> list[float]:
    """The maximum of each value over all processes, so that every process decides the same. Runs on the CPU."""
    if world_size() == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor.tolist()


def all_mean(values: Tensor) -> list[float]:
    """The mean of each value over all processes; synchronizes with the device that holds them."""
    values = values.detach().double().cpu()
    if world_size() > 1:
        dist.all_reduce(values)
        values /= world_size()
    return values.tolist()


def gather(value: Any) -> list[Any]:
    """The values of all processes by rank in the main process; an empty list elsewhere."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.gather_object(value, gathered if is_main() else None)
    return gathered if is_main() else []
