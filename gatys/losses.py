"""The losses of Gatys, Ecker & Bethge (2016), with the equation numbers of the CVPR paper, and total variation.

N is the number of channels of a layer and M the number of its positions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def content_loss(features: Tensor, target: Tensor) -> Tensor:
    """Half the sum of squared differences at one layer (eq. 1), of features of image and photograph, (B, N, H, W).

    A sum grows with the image; divide by N * M to compare images of different sizes.
    """
    return (features - target).square().sum() / 2


def gram_matrix(features: Tensor, mask: Tensor | None = None) -> Tensor:
    """Correlations between channels: what Gatys et al. (eq. 3) call the style of a layer.

    Divided by N * M (Johnson et al. 2016, eq. 3), so images of different sizes have comparable styles.

    Args:
        features: (B, N, H, W).
        mask: Weights of the positions, (H, W) in [0, 1], for the style of a region (Gatys et al. 2017, section 4.2).
            The sum of the mask replaces M.

    Returns:
        (B, N, N), symmetric and positive semi-definite; at least float32, under autocast too.

    Examples:
        >>> features = torch.tensor([[[[1.0, 2.0]], [[0.0, 3.0]]]])  # 2 channels, 1 x 2 positions
        >>> gram_matrix(features)
        tensor([[[1.2500, 1.5000],
                 [1.5000, 2.2500]]])
    """
    n, m = features.shape[1], features.shape[2] * features.shape[3]
    # (B, M, N): the network's output is channels last in memory, and the backward pass wants it so.
    flat = features.to(torch.promote_types(features.dtype, torch.float32)).flatten(2).mT
    with torch.autocast(features.device.type, enabled=False):  # Sums over all positions: bfloat16 is too coarse.
        if mask is None:
            return flat.mT @ flat / (n * m)
        weights = mask.reshape(m, 1)
        return (flat * weights).mT @ flat / (n * weights.sum().clamp(min=1e-8))


def style_loss(gram: Tensor, target: Tensor) -> Tensor:
    """A quarter of the sum of squared differences between two Gram matrices, (B, N, N): E_l of a layer (eq. 4).

    The paper's factor 1 / (N^2 M^2) is part of `gram_matrix`, which uses the M of each image.
    """
    return (gram - target).square().sum() / 4


def total_variation(image: Tensor) -> Tensor:
    """Mean squared difference between neighboring pixels, rows plus columns (Mahendran & Vedaldi 2015, beta = 2).

    Not part of Gatys et al.; Johnson et al. (2016, section 3.2) add it to suppress high-frequency noise. The image is
    (B, 3, H, W) in [0, 1].
    """
    differences = (image[..., 1:, :] - image[..., :-1, :], image[..., 1:] - image[..., :-1])
    parts = [difference.square().mean() for difference in differences if difference.numel()]
    return torch.stack(parts).sum() if parts else image.sum() * 0
