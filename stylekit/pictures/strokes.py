"""How a painting replaces its photograph: strength, colors, and the size of the strokes."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from stylekit.options import STROKE_SIZES, Keep
from stylekit.pictures import brush, images
from stylekit.pictures.color import local_mean, luma, with_luma_of
from stylekit.pictures.inputs import Picture
from stylekit.pictures.masks import paint_weight


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
        stroke_size: Size of the strokes relative to what the network paints; see `with_stroke_size`.
        strength: Weight of the painting against the photograph, from 0 to 1.
        preserve_color: Combine the chroma of the photograph with the luminance of the painting.
        draft: Paint the photograph with brush strokes before the network sees it; see `with_draft`.
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
    painting = (with_draft if draft else with_stroke_size)(photograph, network, stroke_size)
    if preserve_color:
        painting = with_luma_of(painting, photograph)
    return torch.lerp(photograph, painting, weight)


def with_draft(photograph: Tensor, network: Callable[[Tensor], Tensor], stroke_size: float = 1.0) -> Tensor:
    """Paint a draft with brush strokes, let a network paint over it, and keep two thirds of the texture of the draft.

    The strokes of a draft grow with the picture. The network therefore runs on a longer side of at most 640 px divided
    by the stroke size, where its strokes fit those of the draft, and its result is enlarged.
    """
    longer = max(photograph.shape[2:])
    pictures = (images.to_image(picture) for picture in photograph.split(1))
    drafts = [images.to_tensor(brush.draft(picture, stroke_size=stroke_size)) for picture in pictures]
    draft = torch.cat(drafts).to(photograph)
    change = with_stroke_size(draft, network, stroke_size * max(1, longer / 640)) - draft
    # All colors of the network are kept, but only a third of its texture, which hides the strokes of the draft.
    small = [max(1, round(80 * side / longer)) for side in photograph.shape[2:]]
    resize = functools.partial(functional.interpolate, mode="bilinear", antialias=True)
    colors = resize(resize(change, small), photograph.shape[2:])
    return (draft + torch.lerp(change, colors, 2 / 3)).clamp(0, 1)


def with_stroke_size(photograph: Tensor, network: Callable[[Tensor], Tensor], stroke_size: float) -> Tensor:
    """Paint a smaller picture for broader strokes, a larger one for finer strokes, and return to the first size.

    Enlarging blurs. The detail that the photograph lost when it was shrunk is therefore added to the painting, scaled
    by how strongly the painting follows the photograph there: the slope of the local linear regression of the one on
    the other, as in the guided filter (He et al. 2010), between 0 and 1.
    """
    if stroke_size == 1:
        return network(photograph)
    height, width = photograph.shape[2:]
    resized = _resize(photograph, max(1, round(height / stroke_size)), max(1, round(width / stroke_size)))
    painted = network(resized)
    painting = _resize(painted, height, width)
    if stroke_size > 1:
        detail = luma(photograph) - luma(_resize(resized, height, width))
        gain = _local_slope(luma(resized), luma(painted))
        painting = painting + detail * functional.interpolate(gain, (height, width), mode="bilinear")
    return painting.clamp(0, 1)


def _resize(picture: Tensor, height: int, width: int) -> Tensor:
    return functional.interpolate(picture, (height, width), mode="bicubic", antialias=True).clamp(0, 1)


def _local_slope(x: Tensor, y: Tensor) -> Tensor:
    """The slope of the regression of y on x within 7 x 7 pixels, between 0 and 1."""
    mean = functools.partial(local_mean, width=7, border="replicate")
    covariance = mean(x * y) - mean(x) * mean(y)
    variance = mean(x * x) - mean(x) ** 2
    return (covariance / (variance + 1e-4)).clamp(0, 1)
