"""The optimizers: L-BFGS (Liu & Nocedal 1989), as in Gatys et al. (2016), and Adam, for an image that grows.

Departures from `torch.optim.LBFGS`: the initial inverse Hessian falls with spatial frequency, because the loss is flat
along coarse patterns and steep along fine ones; the history carries over to the next scale; the step length is limited
instead of searched for, since a line search would cost a second evaluation per step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from gatys.options import StylizeConfig

HISTORY = 20
"""Number of past steps that L-BFGS keeps, two images each."""
FIRST_STEP, LONGEST_STEP = 0.02, 0.2
"""Length of the first L-BFGS step and limit of later ones, as root mean squares over the pixels."""
AVERAGE = 0.9
"""With Adam, decay of the moving average of the images, which is the result."""

Closure = Callable[[Tensor], tuple[dict[str, Tensor], Tensor]]
"""Maps an image to its loss terms and the gradient of their sum."""
Steps = Iterator[tuple[dict[str, Tensor], Tensor]]
"""After each step, the loss terms before the step and the image after it."""


@dataclass
class OptimizerState:
    """State of L-BFGS, or the moments of Adam, carried from one scale to the next; empty before the first."""

    lbfgs: LBFGS | None = None
    moments: dict[str, Tensor] = field(default_factory=dict)


def optimize(image: Tensor, closure: Closure, config: StylizeConfig, state: OptimizerState) -> Steps:
    """Run `config.steps` steps at one scale, starting from an image (1, 3, H, W), which Adam overwrites.

    L-BFGS may leave [0, 1] slightly. Adam yields the moving average over the steps.
    """
    return (_run_lbfgs if config.optimizer == "lbfgs" else _run_adam)(image, closure, config, state)


class LBFGS:
    """Proposes steps from gradients.

    Args:
        size: Height and width of the image.

    Attributes:
        steps: The last steps, oldest first, (1, 3, H, W) each.
        changes: Changes of the gradient over these steps, (1, 3, H, W) each.
    """

    def __init__(self, size: tuple[int, int], device: torch.device | str = "cpu") -> None:
        self.rows, self.columns = (_dct_matrix(n, device) for n in size)
        frequency = torch.hypot(*torch.meshgrid(*(torch.arange(n, device=device) / n for n in size), indexing="ij"))
        # The mean color is no flatter than the coarsest pattern. The exponent was found by trial.
        self.inverse_hessian = frequency.clamp(min=1 / max(size)) ** -0.7
        self.steps: list[Tensor] = []
        self.changes: list[Tensor] = []

    def propose(self, gradient: Tensor) -> Tensor:
        """Minus the gradient times the inverse Hessian (two-loop recursion); without a history, of any length."""
        step = gradient.clone()
        curvatures = [_dot(s, y) for s, y in zip(self.steps, self.changes, strict=True)]
        history = list(zip(self.steps, self.changes, curvatures, strict=True))
        factors = []
        for s, y, curvature in reversed(history):
            factors.append(_dot(s, step) / curvature)
            step -= factors[-1] * y
        step = self._precondition(step)
        if history:
            _, y, curvature = history[-1]
            step *= curvature / _dot(y, self._precondition(y))
        for (s, y, curvature), factor in zip(history, reversed(factors), strict=True):
            step += (factor - _dot(y, step) / curvature) * s
        return -step

    def update(self, step: Tensor, change: Tensor) -> None:
        """Add a step and the change of the gradient over it; skip pairs with non-positive curvature."""
        if _dot(step, change) > 1e-10 * step.norm() * change.norm():
            self.steps = [*self.steps, step][-HISTORY:]
            self.changes = [*self.changes, change][-HISTORY:]

    def resized(self, size: tuple[int, int]) -> LBFGS:
        """A copy with the history resampled to another image size."""
        # With twice as many pixels, each has half the gradient.
        shrink = self.inverse_hessian.numel() / math.prod(size)
        copy = LBFGS(size, self.inverse_hessian.device)
        for step, change in zip(self.steps, self.changes, strict=True):
            step, change = (functional.interpolate(x, size, mode="bicubic") for x in (step, change))
            copy.update(step, change * shrink)
        return copy

    def _precondition(self, x: Tensor) -> Tensor:
        """Multiply by the initial inverse Hessian: amplify low frequencies of the cosine transform."""
        spectrum = self.rows @ x @ self.columns.mT * self.inverse_hessian
        return self.rows.mT @ spectrum @ self.columns


def _run_lbfgs(image: Tensor, closure: Closure, config: StylizeConfig, state: OptimizerState) -> Steps:
    size = (image.shape[2], image.shape[3])
    state.lbfgs = lbfgs = LBFGS(size, image.device) if state.lbfgs is None else state.lbfgs.resized(size)
    previous: tuple[Tensor, Tensor] | None = None
    for _ in range(config.steps):
        terms, gradient = closure(image)
        if previous is not None:
            lbfgs.update(image - previous[0], gradient - previous[1])
        step = lbfgs.propose(gradient) * (config.lr or 1.0)
        length = float(step.square().mean().sqrt())
        wanted = min(length, LONGEST_STEP) if lbfgs.steps else FIRST_STEP
        if wanted != length:
            step *= wanted / max(length, 1e-30)
        previous = image, gradient
        image = image + step
        yield terms, image


def _run_adam(image: Tensor, closure: Closure, config: StylizeConfig, state: OptimizerState) -> Steps:
    optimizer = torch.optim.Adam([image], lr=config.lr or 0.03, betas=(0.9, 0.99))
    if moments := state.moments:
        size = tuple(image.shape[2:])
        resized = {n: functional.interpolate(moments[n], size, mode="bilinear") for n in ("exp_avg", "exp_avg_sq")}
        optimizer.state[image] = {"step": moments["step"], **resized}
    average, weight = image.clone(), 0.0
    for _ in range(config.steps):
        terms, image.grad = closure(image)
        optimizer.step()
        image.clamp_(0, 1)
        # Bias correction, as for Adam's moments: the first images must not weigh more than later ones.
        weight = AVERAGE * weight + 1 - AVERAGE
        average.lerp_(image, (1 - AVERAGE) / weight)
        state.moments.update(optimizer.state[image])
        yield terms, average


def _dct_matrix(n: int, device: torch.device | str) -> Tensor:
    """The orthonormal cosine transform (DCT-II), (n, n)."""
    k = torch.arange(n, dtype=torch.float64)
    waves = torch.cos(math.pi / n * torch.outer(k, k + 0.5)) * math.sqrt(2 / n)
    waves[0] /= math.sqrt(2)
    return waves.float().to(device)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.flatten(), b.flatten())
