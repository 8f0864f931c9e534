"""The losses of training without the cycle (`cyclegan.pretrain`): content and color losses replace the cycle loss.

Content is compared by VGG features (Gatys et al. 2016), color by local means. The style of a collection is the mean
Gram matrix of its pictures.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from cyclegan.losses import Scores, adversarial_loss, at_least_float32
from cyclegan.options import PerceptualLosses
from gatys.losses import gram_matrix
from stylekit.pictures.color import color_moments, local_mean, luma_and_chroma, match_colors
from stylekit.pictures.images import to_signed, to_unit

CONTENT_LAYER = "relu4_1"
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", CONTENT_LAYER, "relu5_1")

WINDOW = 200
"""Number of pictures in the moving average of a style."""

STROKE = 16
"""Side in pixels of the blocks whose mean colors are compared. Within a block, colors may differ."""

LAMBDA_TONE = 4.0
"""Weight of the tone loss (local brightness); --lambda-color is that of the color loss (local chroma)."""


def perceptual_loss(
    real: Tensor,
    fake: Tensor,
    features: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    source: MeanStyle,
    target: MeanStyle,
    weave: Tensor | None,
    scores: Scores,
    losses: PerceptualLosses,
) -> dict[str, Tensor]:
    """The weighted terms of one generator; their sum is the objective.

    Args:
        real: Pictures, (B, 3, H, W) in [-1, 1].
        fake: Their translations.
        features: VGG features of `real` and of `fake`, by layer.
        source: Mean style of the collection that `real` comes from.
        target: Mean style of the collection that `fake` should look like.
        weave: Penalty on regular patterns in smooth areas (`MeanWeave.loss`); None omits the term.
        scores: The discriminators' scores of `fake`.

    Returns:
        Scalars by name: adversarial, content, tone, color, style, and weave if it is given.
    """
    before, after = features
    colors = to_signed(target.match(to_unit(real), source, losses.palette))
    tone, color = _tone_and_color_loss(colors, at_least_float32(fake))
    terms = {
        "adversarial": adversarial_loss(scores, True),
        "content": losses.lambda_content * _content_loss(before[CONTENT_LAYER], after[CONTENT_LAYER]),
        "tone": LAMBDA_TONE * tone,
        "color": losses.lambda_color * color,
        "style": losses.lambda_style * target.loss(after, _detail(real)),
    }
    if weave is not None:
        terms["weave"] = losses.lambda_weave * weave
    return terms


class MeanStyle:
    """Running means over a collection: the Gram matrix of each layer, and the moments of its colors.

    They are plain means over the first `WINDOW` pictures and exponential moving averages after that.
    """

    def __init__(self) -> None:
        self.grams: dict[str, Tensor] = {}
        self.colors: Tensor | None = None
        self.seen = 0

    @torch.no_grad()
    def update(self, pictures: Tensor, features: Mapping[str, Tensor]) -> None:
        """Add a batch of pictures, (B, 3, H, W) in [0, 1], and their features of `STYLE_LAYERS`, (B, C, h, w) each."""
        count = len(pictures)
        self.seen = min(self.seen + count, WINDOW)
        kept = 1 - count / max(self.seen, count)
        for layer in STYLE_LAYERS:
            gram = gram_matrix(features[layer]).mean(0)
            self.grams[layer] = gram.lerp(self.grams.get(layer, gram), kept)
        colors = color_moments(pictures)
        self.colors = colors if self.colors is None else colors.lerp(self.colors, kept)

    def loss(self, features: Mapping[str, Tensor], weights: Tensor) -> Tensor:
        """Squared distance between the mean Gram matrix of a batch and this one, relative to the square of this one.

        The batch is averaged first: a single crop of plain sky need not contain every stroke of the painter. `weights`,
        (B,), say how much each picture counts, and their mean scales the result. With weights of 1, the result is 0 for
        a batch in this style and 1 for features that are all 0. It is averaged over the layers.
        """
        terms = []
        for layer, mean in self.grams.items():
            gram = (weights[:, None, None] * gram_matrix(features[layer])).sum(0) / weights.sum()
            terms.append((gram - mean).square().sum() / mean.square().sum())
        return weights.mean() * torch.stack(terms).mean()

    def match(self, pictures: Tensor, source: MeanStyle, amount: float) -> Tensor:
        """Shift the colors of pictures from the collection `source` toward the colors of this collection.

        All pictures, (B, 3, H, W) in [0, 1], get the same affine map, so a picture that is paler than others stays so.
        With amount 0 nothing changes; with amount 1 the collection gets the color mean and covariance of this one.
        """
        if not amount or self.colors is None or source.colors is None:
            return pictures
        return pictures.lerp(match_colors(pictures, self.colors, source.colors), amount)

    def state_dict(self) -> dict[str, Tensor | int]:
        """What a checkpoint holds."""
        colors = {} if self.colors is None else {"colors": self.colors}
        return {**self.grams, **colors, "seen": self.seen}

    def load_state_dict(self, saved: Mapping[str, Tensor | int], device: torch.device) -> None:
        self.seen = int(saved["seen"])
        tensors = {name: value.clone() for name, value in saved.items() if isinstance(value, Tensor)}
        self.colors = tensors.pop("colors").cpu() if "colors" in tensors else None
        self.grams = {name: value.to(device) for name, value in tensors.items()}


def _content_loss(before: Tensor, after: Tensor) -> Tensor:
    """Squared difference of features, relative to their mean square before: 1 if all features after are 0."""
    before = at_least_float32(before)
    return functional.mse_loss(at_least_float32(after), before) / before.square().mean()


def _tone_and_color_loss(target: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """L1 distances between means of blocks of `STROKE` pixels: of luma, and of both chroma channels (ITU-R BT.601).

    The weights are heuristic. Vivid colors count more than grays, which a painter replaces, and most where they fade.
    Bright areas count more, or clouds turn into wheat and blue skies turn gray; so do dark areas, or patches of teal
    and olive fill them. Black areas should have no strokes: every pixel there is compared with the mean of the 5 x 5
    pixels around it in the photograph.
    """
    pixels = luma_and_chroma(torch.cat([target.float(), after.float()])).transpose(0, 1)
    colors, painted = functional.avg_pool2d(pixels, STROKE).chunk(2, dim=1)
    differences = painted - colors
    bright, dark = functional.relu(colors[0]), _darkness(colors[0])
    tone = ((1 + 2 * bright + 4 * dark) * differences[0].abs()).mean()

    vividness = colors[1:].norm(dim=0)
    weights = (0.5 + (vividness / 0.35).square() + 3 * bright + 4 * dark).clamp(max=4)
    faded = functional.relu(-(differences[1:] * colors[1:]).sum(dim=0) / (vividness + 1e-3))
    color = (weights * differences[1:].abs()).mean() + 3 * ((1 + 4 * bright) * faded).mean()

    before, now = pixels.chunk(2, dim=1)
    around = local_mean(before, 5, "reflect")
    strokes = _darkness(around[0]).square() * (now - around).abs()
    return tone + 10 * strokes[0].mean(), color + 15 * strokes[1:].mean()


def _darkness(luma: Tensor) -> Tensor:
    """From 1 for black, luma -1, to 0 for a dark gray, luma -0.2, and for everything brighter."""
    return functional.relu(-0.2 - luma) / 0.8


def _detail(pictures: Tensor) -> Tensor:
    """How much detail each picture has, (B,): from 0.15 for flat ones, where strokes would form a pattern, to 1."""
    return (0.15 + 20 * (pictures - local_mean(pictures, 5, "reflect")).abs().mean((1, 2, 3))).clamp(max=1)
