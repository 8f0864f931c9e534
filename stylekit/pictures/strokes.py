"""How a painting replaces its photograph: strength, colors, and the size of the strokes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from stylekit.options import STROKE_SIZES, Keep
from stylekit.pictures import brush, images
from stylekit.pictures.color import local_mean, luma, with_luma_of
from stylekit.pictures.inputs import Picture
from stylekit.pictures.masks import paint_weight

LONGER_SIDE = 640
"""Longer side in pixels up to which networks see a picture as it is; strokes grow with larger ones."""


def render(
    photograph: Tensor,
    network: Callable[[Tensor], Tensor],
    stroke_size: float = 1.0,
    strength: float = 1.0,
    preserve_color: bool = False,
    draft: bool = False,
    mask: Picture | Tensor | None = None,
    keep: Keep | None = None,
) -> Tensor:
    """Run a network on a photograph, and combine the result with it.

    Args:
        photograph: (B, 3, H, W) in [0, 1].
        network: Paints pictures of any size, (B, 3, H, W) in [0, 1] -> the same.
        stroke_size: Size of the strokes. 1 is that of the network on a picture whose longer side is `LONGER_SIDE`;
            strokes grow with larger pictures.
        draft: Paint the photograph with brush strokes before the network sees it; see `with_draft`.
        strength: Weight of the painting against the photograph, from 0 to 1.
        preserve_color: Combine the chroma of the photograph with the luminance of the painting.
        mask, keep: Where the photograph remains; see `paint_weight`.

    Raises:
        ValueError: The strength or the stroke size is out of range, or the mask is invalid.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be in [0, 1], got {strength}")
    least, largest = STROKE_SIZES
    if not least <= stroke_size <= largest:
        raise ValueError(f"stroke size must be in [{least:g}, {largest:g}], got {stroke_size}")
    weight = strength * paint_weight(photograph, mask, keep)
    if draft:
        painting = with_draft(photograph, network, stroke_size)
    else:
        painting = with_stroke_size(photograph, network, _scaled(stroke_size, photograph))
    return combine(photograph, painting, weight, preserve_color)


def combine(photograph: Tensor, painting: Tensor, weight: Tensor | float = 1.0, preserve_color: bool = False) -> Tensor:
    """Blend a painting with its photograph; both are (B, 3, H, W) in [0, 1].

    Args:
        weight: Weight of the painting, in [0, 1]; a number, or a tensor that can be broadcast.
        preserve_color: Combine the chroma of the photograph with the luminance of the painting.
    """
    if preserve_color:
        painting = with_luma_of(painting, photograph)
    return torch.lerp(photograph, painting, weight)


def with_draft(photograph: Tensor, network: Callable[[Tensor], Tensor], stroke_size: float = 1.0) -> Tensor:
    """Paint a draft with brush strokes, let a network paint over it, and keep two thirds of the texture of the draft.

    The network runs where its strokes fit those of the draft, and its result is enlarged.
    """
    longer = max(photograph.shape[2:])
    draft = torch.empty_like(photograph)
    for i, picture in enumerate(photograph):
        draft[i] = images.to_tensor(brush.draft(images.to_image(picture), stroke_size=stroke_size))[0]
    change = with_stroke_size(draft, network, _scaled(stroke_size, photograph)) - draft
    # All colors of the network are kept, but only a third of its texture, which hides the strokes of the draft.
    small = [max(1, round(80 * side / longer)) for side in photograph.shape[2:]]
    resize = functools.partial(functional.interpolate, mode="bilinear", antialias=True)
    colors = resize(resize(change, small), photograph.shape[2:])
    # In place, since pictures may be large.
    return change.lerp_(colors, 2 / 3).add_(draft).clamp_(0, 1)


def with_stroke_size(photograph: Tensor, network: Callable[[Tensor], Tensor], stroke_size: float) -> Tensor:
    """Paint a smaller picture for broader strokes, a larger one for finer strokes, and return to the first size.

    Enlarging blurs. The detail that the photograph lost when it was shrunk is therefore added to the painting, scaled
    by how strongly the painting follows the photograph there: the slope of the local linear regression of the one on
    the other, as in the guided filter (He et al. 2010), between 0 and 1.
    """
    if math.isclose(stroke_size, 1, abs_tol=0.01):
        return network(photograph)
    height, width = photograph.shape[2:]
    resized = _resize(photograph, max(1, round(height / stroke_size)), max(1, round(width / stroke_size)))
    painted = network(resized)
    if stroke_size <= 1:
        return _resize(painted, height, width)
    detail = luma(photograph) - luma(_resize(resized, height, width))
    gain = _local_slope(luma(resized), luma(painted))
    detail *= functional.interpolate(gain, (height, width), mode="bilinear")
    return _resize(painted, height, width).add_(detail).clamp_(0, 1)


def _scaled(stroke_size: float, photograph: Tensor) -> float:
    """The size of strokes for a network, which paints them in pixels. Pictures are enlarged at most four times."""
    return max(0.25, stroke_size * max(1.0, max(photograph.shape[2:]) / LONGER_SIDE))


def _resize(picture: Tensor, height: int, width: int) -> Tensor:
    return functional.interpolate(picture, (height, width), mode="bicubic", antialias=True).clamp_(0, 1)


def _local_slope(x: Tensor, y: Tensor) -> Tensor:
    """The slope of the regression of y on x within 7 x 7 pixels, between 0 and 1."""
    mean = functools.partial(local_mean, width=7, border="replicate")
    covariance = mean(x * y) - mean(x) * mean(y)
    variance = mean(x * x) - mean(x) ** 2
    return (covariance / (variance + 1e-4)).clamp(0, 1)
