"""Color: luma and chroma (ITU-R BT.601), local means, and the first and second moments of a picture's colors."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

YCBCR = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))
"""Luma and the two chroma channels as weights of red, green and blue."""

FLAT = 1e-4  # Added to all variances, for pictures in [0, 1]: colors that hardly vary are not stretched to noise.


def luma(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W)."""
    return (pictures * pictures.new_tensor(YCBCR[0])[:, None, None]).sum(1, keepdim=True)


def luma_and_chroma(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 3, H, W)."""
    # Not torch.einsum, which autocast rounds to bfloat16.
    return (pictures[:, None] * pictures.new_tensor(YCBCR)[:, :, None, None]).sum(2)


def with_luma_of(image: Tensor, photograph: Tensor) -> Tensor:
    """Combine the luma of a picture with the chroma of a photograph; all (B, 3, H, W) in [0, 1]."""
    return (photograph + (luma(image) - luma(photograph))).clamp(0, 1)


def local_mean(x: Tensor, width: int, border: Literal["reflect", "replicate"] | None = None) -> Tensor:
    """Mean of the square around each pixel.

    Args:
        x: (B, C, H, W).
        width: Side of the square, odd.
        border: How the picture continues beyond its border; None averages only the pixels inside.
    """
    half = width // 2
    if border is not None:
        return functional.avg_pool2d(functional.pad(x, [half] * 4, mode=border), width, stride=1)
    # Rows and columns in turn: faster for large squares.
    x = functional.avg_pool2d(x, (1, width), stride=1, padding=(0, half), count_include_pad=False)
    return functional.avg_pool2d(x, (width, 1), stride=1, padding=(half, 0), count_include_pad=False)


def color_moments(pictures: Tensor) -> Tensor:
    """Mean of the products and of the values of the color channels; moments of several pictures can be averaged.

    (B, 3, H, W) in [0, 1] -> (3, 4): E[c c^T], and E[c] in the last column; float64 on the CPU.
    """
    flat = pictures.detach().cpu().double().transpose(0, 1).flatten(1)
    return torch.cat([flat @ flat.mT / flat.shape[1], flat.mean(1, keepdim=True)], dim=1)


def match_colors(picture: Tensor, target: Tensor, source: Tensor | None = None) -> Tensor:
    """Give a picture the mean and covariance of other colors.

    Gatys et al. 2016, Preserving Color in Neural Artistic Style Transfer, section 3. Of all linear maps that do so,
    this one moves colors least: it solves the Monge-Kantorovich problem for Gaussian distributions (Pitie & Kokaram
    2007, eq. 13).

    Args:
        picture: (1, 3, H, W) in [0, 1]; with `source`, (B, 3, H, W).
        target: Result of `color_moments`.
        source: The colors that become `target`, such as those of the collection of the picture; None: its own.

    Returns:
        The same shape, at least float32; colors outside of [0, 1] are clipped.
    """
    picture = picture.to(torch.promote_types(picture.dtype, torch.float32))
    with torch.autocast(picture.device.type, enabled=False):  # It would round the colors to bfloat16.
        before, center = _covariance_and_mean(color_moments(picture) if source is None else source)
        after, target_center = _covariance_and_mean(target)
        root = _square_root(before)
        inverse = torch.linalg.inv(root)
        matrix = inverse @ _square_root(root @ after @ root) @ inverse
        offset = target_center - matrix @ center
        mapped = torch.einsum("ij,bjhw->bihw", matrix.to(picture), picture) + offset.to(picture).view(3, 1, 1)
        return mapped.clamp(0, 1)


def _covariance_and_mean(moments: Tensor) -> tuple[Tensor, Tensor]:
    products, mean = moments[:, :3], moments[:, 3:]
    return products - mean @ mean.mT + FLAT * torch.eye(3, dtype=torch.double), mean


def _square_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ values.clamp(min=0).sqrt().diag() @ vectors.mT
