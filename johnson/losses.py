"""The losses of Johnson, Alahi & Fei-Fei (2016, sections 3.1 and 3.2), built of those of Gatys et al. (`gatys.losses`).

They differ from these by constants only: with a content weight of 1 and a style weight of w, for L layers, the sum is
twice that of `gatys` with alpha = 1 and beta = 2 L w.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from gatys.losses import content_loss, gram_matrix, style_loss, total_variation
from johnson.options import TrainConfig


def feature_loss(features: Tensor, target: Tensor) -> Tensor:
    """The squared Euclidean distance divided by C * H * W, the mean over a batch.

    Of features it is the feature reconstruction loss (eq. 2), of pictures the pixel loss (section 3.2).

    Args:
        features: (B, C, H, W).
        target: The same shape.
    """
    return 2 * content_loss(features, target) / features.numel()


def style_reconstruction_loss(features: Tensor, target: Tensor) -> Tensor:
    """The squared Frobenius distance of Gram matrices over C * H * W (eq. 3 and 4), the mean over a batch.

    Args:
        features: Of the pictures at one layer, (B, C, H, W).
        target: The Gram matrix of the style, (1, C, C).
    """
    return 4 * style_loss(gram_matrix(features), target) / len(features)


def perceptual_loss(
    painted: Tensor,
    photographs: Tensor,
    seen: Mapping[str, Tensor],
    content: Tensor,
    grams: Mapping[str, Tensor],
    config: TrainConfig,
) -> dict[str, Tensor]:
    """The weighted terms of the objective (eq. 5), whose sum is minimised.

    Args:
        painted: What the network made of the photographs, (B, 3, H, W), about in [0, 1].
        photographs: (B, 3, H, W) in [0, 1].
        seen: The features of what was painted, by layer.
        content: Of the photographs, those of the content layer.
        grams: The style, by layer, (1, C, C).
        config: The weights; a term whose weight is 0 is left out.

    Returns:
        By name, in this order: "content", one term for each layer of the style, "pixel", "tv".
    """
    terms = {}
    if config.content_weight:
        terms["content"] = config.content_weight * feature_loss(seen[config.content_layer], content)
    if config.style_weight:
        weights = config.layer_weights or (1.0,) * len(grams)
        for (layer, gram), weight in zip(grams.items(), weights, strict=True):
            share = weight * len(weights) / sum(weights)
            terms[layer] = config.style_weight * share * style_reconstruction_loss(seen[layer], gram)
    if config.pixel_weight:
        terms["pixel"] = config.pixel_weight * feature_loss(painted, photographs)
    if config.tv_weight:
        terms["tv"] = config.tv_weight * total_variation(painted)
    return terms
