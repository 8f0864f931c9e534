"""The colours of pictures as first and second moments, and the linear map that turns some colours into others."""

from __future__ import annotations

import torch
from torch import Tensor

FLAT = 1e-4
"""Added to all variances, for pictures in [0, 1]: colours that hardly vary are not stretched to noise."""


def color_moments(pictures: Tensor) -> Tensor:
    """Mean of the products and of the values of the colour channels; moments of several pictures can be averaged.

    Args:
        pictures: (B, 3, H, W) in [0, 1].

    Returns:
        (3, 4): E[c c^T], and E[c] in the last column.
    """
    flat = pictures.detach().cpu().double().transpose(0, 1).flatten(1)
    return torch.cat([flat @ flat.mT / flat.shape[1], flat.mean(1, keepdim=True)], dim=1)


def color_map(source: Tensor, target: Tensor) -> Tensor:
    """The linear map that gives colours the mean and covariance of others, and moves them as little as possible.

    It is the solution of the Monge-Kantorovich problem for Gaussian distributions (Pitie & Kokaram 2007, eq. 13).

    Args:
        source: Result of `color_moments`.
        target: The same.

    Returns:
        (3, 4): a matrix, and in the last column what is added.
    """
    (before, center), (after, target_center) = _covariance_and_mean(source), _covariance_and_mean(target)
    root = _square_root(before)
    inverse = torch.linalg.inv(root)
    matrix = inverse @ _square_root(root @ after @ root) @ inverse
    return torch.cat([matrix, target_center - matrix @ center], dim=1)


def map_colors(pictures: Tensor, mapping: Tensor) -> Tensor:
    """Apply a `color_map` to pictures, (B, 3, H, W) in [0, 1]; colours outside of [0, 1] are clipped."""
    mapping = mapping.to(pictures)
    mapped = torch.einsum("ij,bjhw->bihw", mapping[:, :3], pictures) + mapping[:, 3].view(3, 1, 1)
    return mapped.clamp(0, 1)


def match_colors(painting: Tensor, photograph: Tensor) -> Tensor:
    """Give a painting the mean and covariance of a photograph's colours; both (1, 3, H, W) in [0, 1], of any size.

    Gatys et al. 2016, Preserving Color in Neural Artistic Style Transfer, section 3; of all maps that do so, the one
    that moves colours least.
    """
    return map_colors(painting, color_map(color_moments(painting), color_moments(photograph)))


def _covariance_and_mean(moments: Tensor) -> tuple[Tensor, Tensor]:
    products, mean = moments[:, :3], moments[:, 3:]
    return products - mean @ mean.mT + FLAT * torch.eye(3, dtype=torch.double), mean


def _square_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ values.clamp(min=0).sqrt().diag() @ vectors.mT
