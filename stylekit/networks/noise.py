"""The input noise of networks in use: the same for every picture, and the same in exported files."""

from __future__ import annotations

import torch
from torch import Tensor

PERIOD = 2**20
"""Pixels after which the noise repeats. An exported network contains this many values, in 2 MB."""

_VALUES = torch.randn(PERIOD, generator=torch.Generator().manual_seed(0)).half()


def fixed_noise(height: int, width: int) -> Tensor:
    """Noise from N(0, 1), rounded to half precision, that depends only on the size.

    Returns:
        (1, 1, height, width), float32.
    """
    return _VALUES[torch.arange(height * width) % PERIOD].float().view(1, 1, height, width)
