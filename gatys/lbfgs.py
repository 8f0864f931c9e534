"""L-BFGS (Liu & Nocedal 1989), the optimiser of Gatys et al. (2016), made for pictures that grow from scale to scale.

It differs from `torch.optim.LBFGS` in what it knows before the first step: of a picture, the loss is flat along coarse
patterns and steep along fine ones, so that the first guess of the inverse Hessian falls with the frequency. And what it
learned at one scale goes on to the next.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

HISTORY = 20
"""Steps that are remembered, each as two pictures."""


class LBFGS:
    """Proposes steps from gradients.

    Args:
        size: Height and width of the picture.
        device: Where it is.
    """

    steps: list[Tensor]
    """(1, 3, H, W): those made so far, the last one last."""
    changes: list[Tensor]
    """Of the gradient, by each of these steps."""

    def __init__(self, size: tuple[int, int], device: torch.device | str = "cpu") -> None:
        self.rows, self.columns = (_cosines(n, device) for n in size)
        frequency = torch.hypot(*torch.meshgrid(*(torch.arange(n, device=device) / n for n in size), indexing="ij"))
        # The mean colour is no flatter than the coarsest pattern. The exponent was found by trial.
        self.flatness = frequency.clamp(min=1 / max(size)) ** -0.7
        self.steps, self.changes = [], []

    def propose(self, gradient: Tensor) -> Tensor:
        """The next step: minus the gradient, times what is known of the inverse Hessian (the two-loop recursion).

        Before anything was learned, its length means nothing.
        """
        step = gradient.clone()
        curvatures = [_dot(s, y) for s, y in zip(self.steps, self.changes, strict=True)]
        known = list(zip(self.steps, self.changes, curvatures, strict=True))
        factors = []
        for s, y, curvature in reversed(known):
            factors.append(_dot(s, step) / curvature)
            step -= factors[-1] * y
        step = self._flatten(step)
        if known:
            _, y, curvature = known[-1]
            step *= curvature / _dot(y, self._flatten(y))
        for (s, y, curvature), factor in zip(known, reversed(factors), strict=True):
            step += (factor - _dot(y, step) / curvature) * s
        return -step

    def learn(self, step: Tensor, change: Tensor) -> None:
        """Remember how the gradient changed by a step; not where the loss is no bowl."""
        if _dot(step, change) > 1e-10 * step.norm() * change.norm():
            self.steps = [*self.steps, step][-HISTORY:]
            self.changes = [*self.changes, change][-HISTORY:]

    def at(self, size: tuple[int, int]) -> LBFGS:
        """The same knowledge for the picture at another size."""
        # Of twice as many pixels, each has half the influence.
        shrink = self.flatness.numel() / math.prod(size)
        grown = LBFGS(size, self.flatness.device)
        for step, change in zip(self.steps, self.changes, strict=True):
            grown.learn(_resize(step, size), _resize(change, size) * shrink)
        return grown

    def _flatten(self, x: Tensor) -> Tensor:
        """Amplify what is coarse, by a cosine transform: as if the picture went on mirrored beyond its border."""
        spectrum = self.rows @ x @ self.columns.mT * self.flatness
        return self.rows.mT @ spectrum @ self.columns


def _cosines(n: int, device: torch.device | str) -> Tensor:
    """The orthonormal cosine transform (DCT-II), (n, n)."""
    k = torch.arange(n, dtype=torch.float64)
    waves = torch.cos(math.pi / n * torch.outer(k, k + 0.5)) * math.sqrt(2 / n)
    waves[0] /= math.sqrt(2)
    return waves.float().to(device)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.flatten(), b.flatten())


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(x, size, mode="bicubic", align_corners=False)
