"""The losses of Johnson, Alahi & Fei-Fei (2016, section 3.2), in terms of those of Gatys et al. (`gatys.losses`).

They differ only by constants: for content weight 1, style weight w and L layers, the sum is twice that of `gatys` with
alpha = 1 and beta = 2 L w.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from gatys.losses import content_loss, gram_matrix, style_loss
from johnson.options import LossConfig


def feature_loss(features: Tensor, target: Tensor) -> Tensor:
    """Squared Euclidean distance divided by C * H * W, averaged over the batch.

    On features this is the feature reconstruction loss (eq. 2), on pictures the pixel loss (section 3.2).
    Both arguments are (B, C, H, W).
    """
    return 2 * content_loss(features, target) / features.numel()


def style_reconstruction_loss(features: Tensor, target: Tensor) -> Tensor:
    """Squared Frobenius distance of Gram matrices normalized by C * H * W (eq. 3 and 4), averaged over the batch.

    The features of the pictures are (B, C, H, W), the target is the Gram matrix of the style, (1, C, C).
    """
    return 4 * style_loss(gram_matrix(features), target) / len(features)


def perceptual_loss(
    stylized: Tensor,
    photographs: Tensor,
    features: Mapping[str, Tensor],
    content: Tensor,
    grams: Mapping[str, Tensor],
    losses: LossConfig,
    weave: Tensor | None = None,
) -> dict[str, Tensor]:
    """The weighted terms of the objective (eq. 5); their sum is minimized.

    Args:
        stylized: Output of the network, (B, 3, H, W), roughly in [0, 1].
        photographs: (B, 3, H, W) in [0, 1].
        features: Features of the output, by layer.
        content: Features of the photographs at the content layer.
        grams: Gram matrices of the style by layer, (1, C, C).
        losses: The weights; terms with weight 0 are omitted.
        weave: Regular patterns that the network adds to smooth areas (`MeanWeave`); None omits them.

    Returns:
        Terms by name, in this order: "content", one per style layer, "pixel", "weave".
    """
    terms = {}
    if losses.content_weight:
        terms["content"] = losses.content_weight * feature_loss(features[losses.content_layer], content)
    if losses.style_weight:
        for layer, gram in grams.items():
            terms[layer] = losses.style_weight * style_reconstruction_loss(features[layer], gram)
    if losses.pixel_weight:
        terms["pixel"] = losses.pixel_weight * feature_loss(stylized, photographs)
    if weave is not None:
        terms["weave"] = losses.weave_weight * weave
    return terms
