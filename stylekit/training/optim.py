"""One optimization step, the learning-rate schedule, the exponential moving average of weights, and Muon."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from stylekit.options import Schedule

Policy = Literal["linear", "cosine", "constant"]


def optimizer_step(optimizer: torch.optim.Optimizer, terms: Mapping[str, Tensor]) -> None:
    """One step on the sum of the loss terms."""
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()
    optimizer.step()


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Restore the state of an optimizer of the same parameters, else ValueError; its options stay those of the run.

    Tensors of the file are copied into new ones: fused kernels write beyond tensors that are smaller or expanded.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, Any]] = {}
    for number, state in saved["state"].items():
        if number not in range(len(parameters)):
            raise ValueError(f"the optimizer has no parameter {number}")
        parameter = parameters[number]
        muon = isinstance(optimizer, Muon)
        names = {"momentum"} if muon and _is_kernel(parameter) else {"step", "exp_avg", "exp_avg_sq"}
        if state and state.keys() != names:
            raise ValueError(f"the state of the optimizer does not fit parameter {number}")
        states[number] = {}
        for name, value in state.items():
            if name != "step" and value.shape != parameter.shape:
                raise ValueError(f"{name} of the optimizer does not fit parameter {number}")
            like = torch.zeros(()) if name == "step" else parameter.detach()
            # Muon counts steps in an integer, others in a tensor.
            states[number][name] = int(value) if name == "step" and muon else torch.empty_like(like).copy_(value)
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Let gradients pass through a network without computing those of its parameters."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def lr_factor(progress: float, decay: float, policy: Policy = "linear") -> float:
    """Factor of the learning rate: 1 at first, then down to 0 over the last part of the run.

    `progress` and `decay` are the fractions of the run that is done, and over which the rate decays.
    """
    if policy == "constant" or not decay:
        return 1.0
    left = min(1.0, max(0.0, 1.0 - progress) / decay)
    return left if policy == "linear" else 0.5 * (1.0 - math.cos(math.pi * left))


def learning_rate(schedule: Schedule, progress: float) -> float:
    """The learning rate when a fraction of the run is done, in [0, 1]."""
    decay = schedule.n_epochs_decay / (schedule.n_epochs + schedule.n_epochs_decay)
    return schedule.lr * lr_factor(progress, decay, schedule.lr_policy)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def build_ema(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of the weights; starts as a copy. Update it by `ema.update_parameters(network)`."""
    ema = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))
    return ema.requires_grad_(False).eval()


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for convolution kernels, Adam (Kingma & Ba 2015) for all other parameters.

    The gradient of a kernel, reshaped to (outputs, inputs x height x width), has a few large singular values and many
    small ones. Muon replaces the momentum by the nearest orthogonal matrix, which moves equally far in every direction,
    and scales it to the length of a typical Adam step (Liu et al. 2025), so one learning rate suits both.

    `torch.optim.Muon` accepts matrices only and has no fallback for other parameters.

    Kernels with at most 3 outputs (the output layer) use Adam, since orthogonalizing three rows has little effect.
    Muon has a Nesterov momentum of 0.95, Adam its usual decay rates.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr, "momentum": 0.95, "betas": (0.9, 0.999), "eps": 1e-8})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = _muon if _is_kernel(parameter) else _adam
                    update(parameter, parameter.grad, self.state[parameter], group)


def _is_kernel(parameter: Tensor) -> bool:
    """Whether Muon's own rule applies to a parameter."""
    return parameter.ndim == 4 and len(parameter) > 3


def _muon(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:
        state["momentum"] = torch.zeros_like(parameter)
    momentum = state["momentum"].lerp_(gradient, 1 - group["momentum"])
    update = orthogonalize(gradient.lerp(momentum, group["momentum"]).flatten(1))
    parameter.add_(update.view_as(parameter), alpha=-0.2 * max(update.shape) ** 0.5 * group["lr"])


def _adam(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:
        state |= {"step": 0, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
    beta1, beta2 = group["betas"]
    state["step"] += 1
    mean = state["exp_avg"].lerp_(gradient, 1 - beta1)
    square = state["exp_avg_sq"].lerp_(gradient.square(), 1 - beta2)
    deviation = (square / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
    parameter.addcdiv_(mean, deviation, value=-group["lr"] / (1 - beta1 ** state["step"]))


def orthogonalize(matrix: Tensor) -> Tensor:
    """Approximate the nearest orthogonal matrix: singular values end up between about 0.7 and 1.2.

    Five Newton-Schulz iterations, in bfloat16 on GPUs, as published. Shape and dtype are kept; zero stays zero.
    """
    # Jordan et al. (2024): x -> ax + bx^3 + cx^5 brings every singular value in (0, 1] close to 1 in five iterations.
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix
    x = x / (torch.linalg.matrix_norm(x) + 1e-7)
    if x.is_cuda:
        x = x.bfloat16()
    for _ in range(5):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).to(matrix.dtype)
