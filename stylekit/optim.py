"""The optimiser of feed-forward networks: `Muon`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# Of Jordan et al. (2024): x -> ax + bx^3 + cx^5 brings every singular value in (0, 1] close to 1 in five steps.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for the kernels of convolutions, Adam (Kingma & Ba 2015) for all else.

    The gradient of a kernel, seen as a matrix of outputs by inputs x height x width, has a few large directions and
    many small ones; Muon follows all of them equally far, by replacing the momentum with the nearest orthogonal matrix.
    Its length is then that of a typical step of Adam (Liu et al. 2025), so that learning rates mean the same.

    `torch.optim.Muon` takes matrices only, and no learning rate for the rest.

    Args:
        params: Parameters. A kernel with at most 3 outputs, which paints the picture, is left to Adam: three rows are
            no matrix to speak of.
        lr: Learning rate of both.
        momentum: Of Muon, with Nesterov's look ahead.
        betas: Of Adam.
        eps: Of Adam.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if parameter.ndim == 4 and len(parameter) > 3:
                    _muon(parameter, parameter.grad, state, group)
                else:
                    _adam(parameter, parameter.grad, state, group)
        return loss


def _muon(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:
        state["momentum"] = torch.zeros_like(parameter)
    momentum = state["momentum"].lerp_(gradient, 1 - group["momentum"])
    update = orthogonalize(gradient.lerp(momentum, group["momentum"]).flatten(1))
    parameter.add_(update.view_as(parameter), alpha=-0.2 * max(update.shape) ** 0.5 * group["lr"])


def _adam(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:
        state["step"] = 0
        state["exp_avg"] = torch.zeros_like(parameter)
        state["exp_avg_sq"] = torch.zeros_like(parameter)
    beta1, beta2 = group["betas"]
    state["step"] += 1
    mean = state["exp_avg"].lerp_(gradient, 1 - beta1)
    square = state["exp_avg_sq"].lerp_(gradient.square(), 1 - beta2)
    deviation = (square / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
    parameter.addcdiv_(mean, deviation, value=-group["lr"] / (1 - beta1 ** state["step"]))


def orthogonalize(matrix: Tensor) -> Tensor:
    """The orthogonal matrix nearest to one, nearly: its singular values come out between about 0.7 and 1.2.

    Five steps of Newton and Schulz's iteration, in bfloat16 on GPUs, as published.

    Args:
        matrix: (rows, columns). One of zeros stays as it is.

    Returns:
        The same shape and type.
    """
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix
    x = x / (torch.linalg.matrix_norm(x) + 1e-7)
    if x.is_cuda:
        x = x.bfloat16()
    for _ in range(_STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).to(matrix.dtype)
