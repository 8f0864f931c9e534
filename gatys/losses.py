"""The losses of Gatys, Ecker & Bethge (2016), and total variation. Tensors in, scalars out.

Equation numbers are those of the CVPR paper, where N is the number of channels of a layer and M of its positions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def content_loss(features: Tensor, target: Tensor) -> Tensor:
    """Half the sum of squared differences at one layer (eq. 1).

    A sum: it grows with the picture. `content_loss(...) / M` is what pictures of different sizes can be compared by.

    Args:
        features: Of the picture, (B, N, H, W).
        target: Of the photograph, the same shape.
    """
    return (features - target).square().sum() / 2


def gram_matrix(features: Tensor, mask: Tensor | None = None) -> Tensor:
    """Correlations between channels: what Gatys et al. (eq. 3) call the style of a layer.

    Divided by N * M (Johnson et al. 2016, eq. 3), so that pictures of different sizes have comparable styles.

    Args:
        features: (B, N, H, W).
        mask: Weights of the positions, (H, W) in [0, 1]: the style of a region (Gatys et al. 2017, section 4.2). Their
            sum then takes the place of M.

    Returns:
        (B, N, N), symmetric and positive semi-definite.
    """
    n, m = features.shape[1], features.shape[2] * features.shape[3]
    # (B, M, N): channels last, as the network leaves them in memory, and as the way back wants them.
    flat = features.flatten(2).mT
    if mask is None:
        return flat.mT @ flat / (n * m)
    weights = mask.reshape(m, 1)
    return (flat * weights).mT @ flat / (n * weights.sum().clamp(min=1e-8))


def style_loss(gram: Tensor, target: Tensor) -> Tensor:
    """A quarter of the sum of squared differences of two Gram matrices: E_l of a layer (eq. 4).

    The 1 / (N^2 M^2) of the paper is inside `gram_matrix`, there with the M of each of the two pictures.

    Args:
        gram: Of the picture, (B, N, N).
        target: Of the painting, the same shape.
    """
    return (gram - target).square().sum() / 4


def total_variation(image: Tensor) -> Tensor:
    """The mean squared difference between neighbours, in both directions (Mahendran & Vedaldi 2015, beta = 2).

    Not part of Gatys et al.; Johnson et al. (2016, section 3.2) add it against high-frequency noise.

    Args:
        image: (B, 3, H, W) in [0, 1].
    """
    differences = (image[..., 1:, :] - image[..., :-1, :], image[..., 1:] - image[..., :-1])
    parts = [difference.square().mean() for difference in differences if difference.numel()]
    return torch.stack(parts).sum() if parts else image.sum() * 0
