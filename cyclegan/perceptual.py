"""The losses of training without the cycle (`cyclegan.pretrain`): content and color losses replace the cycle loss.

They compare VGG features (Gatys et al. 2016) and local means of colors. The style of the target collection is the mean
of the Gram matrices of its pictures.
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
"""Width in pixels within which strokes may be lighter, darker or of another color than the photograph."""

LAMBDA_TONE = 4.0
"""Weight of local brightness, beside --lambda-color."""


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
        source: The style of the collection of `real`.
        target: The style that `fake` should have.
        weave: Regular patterns that the generator adds to smooth areas (`MeanWeave`); None leaves them out.
        scores: The discriminators' scores of `fake`.

    Returns:
        Scalars: adversarial, content, tone, color, style and, with `weave`, weave.
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
    """The mean Gram matrix of each layer, and colors: of all pictures seen, and from `WINDOW` on a moving average."""

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
        """Squared distance of the mean Gram matrix of a batch from this one, relative to it, averaged over the layers.

        The mean over the batch is compared: a single crop of a plain sky need not hold every stroke of the painter. The
        scalar is the mean of the `weights` of the pictures, (B,), times 0 for this style, 1 for flat pictures.
        """
        terms = []
        for layer, mean in self.grams.items():
            gram = (weights[:, None, None] * gram_matrix(features[layer])).sum(0) / weights.sum()
            terms.append((gram - mean).square().sum() / mean.square().sum())
        return weights.mean() * torch.stack(terms).mean()

    def match(self, pictures: Tensor, source: MeanStyle, amount: float) -> Tensor:
        """Shift the colors of pictures of another collection toward those of this one.

        All pictures, (B, 3, H, W) in [0, 1], get the same map, so that a pale picture stays pale among others. With
        amount 1, their collection, whose style is `source`, has the mean and covariance of this one.
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
    """Squared difference of features, relative to their mean square, so that 1 means that nothing is kept."""
    before = at_least_float32(before)
    return functional.mse_loss(at_least_float32(after), before) / before.square().mean()


def _tone_and_color_loss(target: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """L1 distances of means over `STROKE` x `STROKE` pixels: of luma, and of the two chroma channels (ITU-R BT.601).

    Heuristic weights: vivid colors count more than grays, which a painter replaces, and most where they fade; bright
    areas count more, or clouds become wheat and blue skies gray; dark areas too, or patches of teal and olive fill
    them. Black areas have no strokes: there every pixel should be like the mean of the 5 x 5 around it in the
    photograph.
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
    """From 0 for a dark gray, and all that is brighter, to 1 for black."""
    return functional.relu(-0.2 - luma) / 0.8


def _detail(pictures: Tensor) -> Tensor:
    """How much there is to paint in each picture: from 0.15 for flat ones, where strokes would be a pattern, to 1."""
    return (0.15 + 20 * (pictures - local_mean(pictures, 5, "reflect")).abs().mean((1, 2, 3))).clamp(max=1)
