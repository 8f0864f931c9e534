"""The colors of pictures as first and second moments, and pictures in the colors of others."""

from __future__ import annotations

import torch
from torch import Tensor

FLAT = 1e-4
"""Added to all variances, for pictures in [0, 1]: colors that hardly vary are not stretched to noise."""


def color_moments(pictures: Tensor) -> Tensor:
    """Mean of the products and of the values of the color channels; moments of several pictures can be averaged.

    Args:
        pictures: (B, 3, H, W) in [0, 1].

    Returns:
        (3, 4): E[c c^T], and E[c] in the last column.
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
        The same shape; colors outside of [0, 1] are clipped.
    """
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
