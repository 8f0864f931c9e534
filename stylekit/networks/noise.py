"""The input noise of networks: drawn anew in training; in use the same for every picture, and in exported files."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

PERIOD = 2**20  # Values after which the noise in use repeats. An exported network contains this many at most, in 2 MB.
SIDE = 2**10  # Height and width in pixels after which noise with larger grains repeats.

_REMAINING = 0.857  # What bicubic interpolation leaves of the standard deviation of independent values.
_VALUES = torch.randn(PERIOD, generator=torch.Generator().manual_seed(0)).half()


def random_noise(count: int, height: int, width: int, size: int, device: torch.device) -> Tensor:
    """New noise with mean 0 and standard deviation 1, (count, 1, height, width), whose grains are `size` pixels wide.

    1 is white noise, of which nothing remains where a network averages over the width of a stroke; larger grains,
    interpolated between independent values, remain.
    """
    if size == 1:
        return torch.randn(count, 1, height, width, device=device)
    grid = torch.randn(count, 1, -(-height // size) + 4, -(-width // size) + 4, device=device)
    return _enlarge(grid, size)[..., :height, :width]


def fixed_noise(height: int, width: int, tile: Tensor | None = None) -> Tensor:
    """Noise with mean 0 and standard deviation 1, (1, 1, height, width), that depends only on the sizes.

    It repeats a tile of `noise_tile`; without one, it is white noise. Values are rounded to half precision.
    """
    if tile is None:
        return _VALUES[torch.arange(height * width) % PERIOD].float().view(1, 1, height, width)
    rows, columns = (torch.arange(n, device=tile.device) % tile.shape[2] for n in (height, width))
    return tile.index_select(2, rows).index_select(3, columns).float()


def noise_tile(size: int) -> Tensor:
    """Noise with grains of this size that continues seamlessly at its borders, always the same.

    (1, 1, S, S), float16, where S is the multiple of `size` next to `SIDE`.
    """
    n = max(SIDE // size, 2)
    grid = _VALUES[: n * n].float().view(1, 1, n, n)
    return _enlarge(functional.pad(grid, (2, 2, 2, 2), mode="circular"), size).half()


def _enlarge(grid: Tensor, size: int) -> Tensor:
    """Interpolate; the outer two values on each side only support the interpolation and are cut off."""
    enlarged = functional.interpolate(grid, scale_factor=size, mode="bicubic")
    return enlarged[..., 2 * size : -2 * size, 2 * size : -2 * size] / _REMAINING
