"""What training loops share, whatever they train: steps, schedules, signals, safety."""

from __future__ import annotations

import json
import math
import multiprocessing
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypeVar, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import save as serialize
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from stylekit.checkpoint import atomic

T = TypeVar("T")


def descend(optimizer: torch.optim.Optimizer, terms: Mapping[str, Tensor]) -> None:
    """One step down the sum of the terms."""
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()
    optimizer.step()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Let gradients pass through a module, but compute none for its parameters."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


def unwrap(module: nn.Module) -> Any:
    """The network inside the wrappers of DDP and torch.compile."""
    inner: Any = module
    while isinstance(inner, DistributedDataParallel) or hasattr(inner, "_orig_mod"):
        inner = inner.module if isinstance(inner, DistributedDataParallel) else inner._orig_mod
    return inner


def linear_decay(progress: float, decay: float) -> float:
    """The factor of the learning rate: 1, then over the last part of the run linearly down to 0.

    Args:
        progress: How much of the run is done, in [0, 1].
        decay: The share of the run that is the last part; 0 keeps the factor at 1.
    """
    return min(1.0, max(0.0, 1.0 - progress) / decay) if decay else 1.0


def use_bfloat16(amp: Literal["auto", "on", "off"], device: torch.device) -> bool:
    """Whether to run in bfloat16. By itself only where it is fast: CUDA from Ampere on, and CPUs with AMX.

    Of CPUs that merely have bfloat16 instructions (AVX-512) one was measured to be slower with it, see
    benchmarks/README.md, and another to be faster.
    """
    if amp != "auto":
        return amp == "on"
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()


def check_finite(terms: Mapping[str, float], *networks: nn.Module) -> None:
    """Make sure that a run has not diverged; waits for the device.

    Raises:
        FloatingPointError: A loss term, or a weight of a network, is infinite or not a number.
    """
    bad = [f"{name} is {value}" for name, value in terms.items() if not math.isfinite(value)]
    parameters = [p for network in networks for p in network.parameters()]
    if parameters and not torch.stack([p.detach().float().norm() for p in parameters]).isfinite().all():
        bad.append("a weight is not finite")
    if bad:
        raise FloatingPointError(", ".join(bad))


def save_network(network: nn.Module, folder: Path) -> None:
    """Write config.json and model.safetensors, each whole or not at all: what `from_pretrained` reads.

    Args:
        network: A module that is a PyTorchModelHubMixin as well.

    Raises:
        OSError: The folder cannot be written.
    """
    config = json.dumps(cast(PyTorchModelHubMixin, network)._hub_mixin_config, indent=2, sort_keys=True)
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    for name, content in (("config.json", f"{config}\n".encode()), ("model.safetensors", serialize(tensors))):
        with atomic(folder / name) as file:
            file.write(content)


@contextmanager
def collect_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying of them; a second one does what it always does."""
    caught: list[int] = []
    before: dict[signal.Signals, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, before[signal.Signals(number)])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    except ValueError:
        pass  # Not in the main thread, as in some notebooks: signals are somebody else's there.
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def iterate(loader: DataLoader[T]) -> Iterator[Iterator[T]]:
    """Iterate over a loader whose workers ignore signals, and make sure that they are gone afterwards."""
    others = set(multiprocessing.active_children())
    iterator = iter(loader)
    workers = set(multiprocessing.active_children()) - others
    try:
        yield iterator
    finally:
        # The loader asks its workers to end. One that does not would be waited for without end, as it ignores SIGTERM.
        if shut_down := getattr(iterator, "_shutdown_workers", None):
            shut_down()
        for worker in workers:
            worker.kill()
            worker.join()


def ignore_signals(worker: int) -> None:
    """For `DataLoader(worker_init_fn=...)`: Ctrl-C reaches every process of a terminal, but only the main one acts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def clock(seconds: float) -> str:
    """A duration as hours:minutes:seconds."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
