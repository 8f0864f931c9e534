"""The losses of Johnson, Alahi & Fei-Fei (2016, section 3.2), in terms of those of Gatys et al. (`gatys.losses`).

They differ only by constants: for content weight 1, style weight w and L layers, the sum is twice that of `gatys` with
alpha = 1 and beta = 2 L w.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from gatys.colors import match_colors
from gatys.losses import content_loss, gram_matrix, style_loss, total_variation
from johnson.options import TrainConfig

AREA = 16
"""Side in pixels of the areas whose mean colours the palette loss compares: strokes in them may differ."""


def feature_loss(features: Tensor, target: Tensor) -> Tensor:
    """Squared Euclidean distance divided by C * H * W, averaged over the batch.

    On features this is the feature reconstruction loss (eq. 2), on pictures the pixel loss (section 3.2).

    Args:
        features: (B, C, H, W).
        target: The same shape.
    """
    return 2 * content_loss(features, target) / features.numel()


def style_reconstruction_loss(features: Tensor, target: Tensor) -> Tensor:
    """Squared Frobenius distance of Gram matrices normalised by C * H * W (eq. 3 and 4), averaged over the batch.

    Args:
        features: Features of the pictures at a layer, (B, C, H, W).
        target: Gram matrix of the style, (1, C, C).
    """
    return 4 * style_loss(gram_matrix(features), target) / len(features)


def palette_loss(stylized: Tensor, photographs: Tensor, colors: Tensor) -> Tensor:
    """Squared distance of the mean colours of areas to those of the photograph in the colours of the painting.

    A departure from the paper. Gram matrices do not say where a colour belongs, so a network that sees only them paints
    patches that ignore the photograph. Each photograph gets a map of its own, as instance normalisation makes all
    pictures alike in mean and contrast.

    Args:
        stylized: (B, 3, H, W), roughly in [0, 1].
        photographs: The same shape, in [0, 1].
        colors: Those of the painting, a result of `color_moments`.
    """
    area = min(AREA, *stylized.shape[2:])
    mapped = [match_colors(photograph, colors) for photograph in photographs.split(1)]
    target = functional.avg_pool2d(torch.cat(mapped), area)
    return feature_loss(functional.avg_pool2d(stylized, area), target)


def perceptual_loss(
    stylized: Tensor,
    photographs: Tensor,
    features: Mapping[str, Tensor],
    content: Tensor,
    grams: Mapping[str, Tensor],
    config: TrainConfig,
    colors: Tensor | None = None,
    weave: Tensor | None = None,
) -> dict[str, Tensor]:
    """The weighted terms of the objective (eq. 5); their sum is minimised.

    Args:
        stylized: Output of the network, (B, 3, H, W), roughly in [0, 1].
        photographs: (B, 3, H, W) in [0, 1].
        features: Features of the output, by layer.
        content: Features of the photographs at the content layer.
        grams: Gram matrices of the style by layer, (1, C, C).
        config: The weights; terms with weight 0 are omitted.
        colors: What `palette_loss` needs; None omits it.
        weave: Regular patterns that the network adds to smooth areas (`MeanWeave`); None omits them.

    Returns:
        Terms by name, in this order: "content", one per style layer, "pixel", "palette", "weave", "tv".
    """
    terms = {}
    if config.content_weight:
        terms["content"] = config.content_weight * feature_loss(features[config.content_layer], content)
    if config.style_weight:
        weights = config.layer_weights or (1.0,) * len(grams)
        for (layer, gram), weight in zip(grams.items(), weights, strict=True):
            relative = weight * len(weights) / sum(weights)
            terms[layer] = config.style_weight * relative * style_reconstruction_loss(features[layer], gram)
    if config.pixel_weight:
        terms["pixel"] = config.pixel_weight * feature_loss(stylized, photographs)
    if colors is not None:
        terms["palette"] = config.palette_weight * palette_loss(stylized, photographs, colors)
    if weave is not None:
        terms["weave"] = config.weave_weight * weave
    if config.tv_weight:
        terms["tv"] = config.tv_weight * total_variation(stylized)
    return terms
