"""Differentiable augmentation of what discriminators see, real and generated alike (DiffAugment, Zhao et al. 2020).

The generator does not learn the augmentation, since real pictures have it too. Shifts also break the alignment between
the strides of generator and discriminator, which otherwise grows into a regular pattern.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

BRIGHTNESS = 0.08
"""Largest change of brightness, for pictures in [-1, 1]."""

CONTRAST = 0.1
"""Largest relative change of contrast."""

SHIFT = 1 / 8
"""Largest shift, as a fraction of the shorter side."""


def diffaugment(pictures: Tensor) -> Tensor:
    """Change brightness and contrast a little and shift by whole pixels, each picture at random.

    Shape: (B, 3, H, W) in [-1, 1] -> the same, slightly beyond [-1, 1]. Borders are filled by reflection.
    """
    draws = 2 * torch.rand(len(pictures), 2, 1, 1, 1, device=pictures.device) - 1
    mean = pictures.mean((1, 2, 3), keepdim=True)
    pictures = (pictures - mean) * (1 + CONTRAST * draws[:, 1]) + mean + BRIGHTNESS * draws[:, 0]
    height, width = pictures.shape[2:]
    largest = int(SHIFT * min(height, width))
    padded = functional.pad(pictures, (largest,) * 4, mode="reflect")
    corners = torch.randint(0, 2 * largest + 1, (len(pictures), 2)).tolist()
    return torch.stack([p[:, y : y + height, x : x + width] for p, (y, x) in zip(padded, corners, strict=True)])
