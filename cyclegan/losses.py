"""The objective of CycleGAN (Zhu et al. 2017, section 3), term by term, for pictures in [-1, 1].

Functions take tensors and return tensors. Sums are returned as named terms, so the log shows exactly what is minimized.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from stylekit.pictures.color import local_mean, luma_and_chroma

GANLoss = Literal["lsgan", "vanilla"]
Scores = Tensor | Sequence[Tensor]
"""The scores of one discriminator, or of several."""

STROKE = 16
"""Width in pixels within which strokes may be lighter, darker or of another color than the photograph."""


def adversarial_loss(scores: Tensor | Sequence[Tensor], real: bool, gan_loss: GANLoss = "lsgan") -> Tensor:
    """The loss of discriminator scores against the target "real" (or "fake").

    "lsgan" is the squared distance to 1 or 0 (Mao et al. 2017; section 4 of the CycleGAN paper), "vanilla" the negative
    log-likelihood (Goodfellow et al. 2014; eq. 1), which includes the sigmoid. Generators minimize it with `real=True`,
    the non-saturating form.

    Args:
        scores: Raw scores of any shape; or those of several discriminators, which count equally.

    Returns:
        The mean over all patches: a scalar, at least float32.

    Examples:
        >>> adversarial_loss(torch.tensor([0.5, 1.0]), real=True)  # (0.5^2 + 0^2) / 2
        tensor(0.1250)
    """
    if not isinstance(scores, Tensor):
        return torch.stack([adversarial_loss(part, real, gan_loss) for part in scores]).mean()
    scores = _at_least_float32(scores)
    target = torch.full_like(scores, float(real))
    if gan_loss == "lsgan":
        return functional.mse_loss(scores, target)
    return functional.binary_cross_entropy_with_logits(scores, target)


def generator_loss(
    real: tuple[Tensor, Tensor],
    cycled: tuple[Tensor, Tensor],
    same: tuple[Tensor, Tensor] | None,
    scores: tuple[Scores, Scores],
    *,
    gan_loss: GANLoss = "lsgan",
    lambda_x: float = 10.0,
    lambda_y: float = 10.0,
    lambda_identity: float = 0.5,
) -> dict[str, Tensor]:
    """The weighted terms that G and F minimize together (eq. 3); their sum is the objective.

    The identity loss (section 5.2) keeps colors that already belong to the target domain. As in the authors' code, its
    weight is relative to the cycle loss.

    Args:
        real: real_x and real_y, (B, 3, H, W) in [-1, 1].
        cycled: F(G(real_x)) and G(F(real_y)).
        same: F(real_x) and G(real_y); None leaves out the identity loss.
        scores: D_X(F(real_y)) and D_Y(G(real_x)).

    Returns:
        Scalars: adversarial_g, adversarial_f, cycle_x, cycle_y and, with `same`, identity_x, identity_y.
    """
    scores_x, scores_y = scores
    terms = {
        "adversarial_g": adversarial_loss(scores_y, True, gan_loss),
        "adversarial_f": adversarial_loss(scores_x, True, gan_loss),
        "cycle_x": lambda_x * _l1_loss(cycled[0], real[0]),
        "cycle_y": lambda_y * _l1_loss(cycled[1], real[1]),
    }
    if same is not None:
        terms["identity_x"] = lambda_identity * lambda_x * _l1_loss(same[0], real[0])
        terms["identity_y"] = lambda_identity * lambda_y * _l1_loss(same[1], real[1])
    return terms


def one_sided_loss(
    real: Tensor,
    colors: Tensor,
    fake: Tensor,
    content: tuple[Tensor, Tensor],
    style: Tensor,
    weave: Tensor | None,
    scores: Scores,
    gan_loss: GANLoss = "lsgan",
    lambda_content: float = 0.4,
    lambda_tone: float = 4.0,
    lambda_color: float = 2.0,
    lambda_style: float = 8.0,
    lambda_weave: float = 2.0,
) -> dict[str, Tensor]:
    """The weighted terms of one generator in the one-sided stage, a departure from the paper without the way back.

    Instead of the cycle, VGG features keep the content, and local means of brightness and color the light. The style
    loss of Gatys et al. (2016) says what the other collection looks like, from the first step; it counts less in flat
    pictures, where it would paint patterns.

    Args:
        real: Pictures, (B, 3, H, W) in [-1, 1].
        colors: The same pictures, in the colors that local means should have.
        fake: Their translations.
        content: VGG features of `real` and of `fake`, (B, C, h, w).
        style: Distance of the style of `fake` from that of the collection.
        weave: Regular patterns that the generator adds to smooth areas (`MeanWeave`); None leaves them out.
        scores: Scores of `fake`.

    Returns:
        Scalars: adversarial, content, tone, color, style and, with `weave`, weave.
    """
    tone, color = _tone_and_color_loss(colors, _at_least_float32(fake))
    terms = {
        "adversarial": adversarial_loss(scores, True, gan_loss),
        "content": lambda_content * _content_loss(*content),
        "tone": lambda_tone * tone,
        "color": lambda_color * color,
        "style": lambda_style * _detail(real) * style,
    }
    if weave is not None:
        terms["weave"] = lambda_weave * weave
    return terms


def discriminator_loss(real: Scores, fake: Scores, gan_loss: GANLoss = "lsgan") -> Tensor:
    """What a discriminator minimizes, halved to slow it down relative to the generators (appendix 7.1).

    Args:
        real: D_X(real_x), or D_Y(real_y).
        fake: D_X(fake_x), or D_Y(fake_y), of detached fakes.
    """
    return 0.5 * (adversarial_loss(real, True, gan_loss) + adversarial_loss(fake, False, gan_loss))


def _content_loss(before: Tensor, after: Tensor) -> Tensor:
    """Squared difference of features, relative to their mean square, so that 1 means that nothing is kept."""
    before = _at_least_float32(before)
    return functional.mse_loss(_at_least_float32(after), before) / before.square().mean()


def _tone_and_color_loss(target: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """L1 distances of means over `STROKE` x `STROKE` pixels: of luma, and of the two chroma channels (ITU-R BT.601).

    What one would miss counts more: vivid colors more than grays, which a painter replaces, and most that they fade;
    bright areas, or clouds become wheat and blue skies gray; dark areas, or patches of teal and olive fill them. Black
    areas have no strokes: there every pixel should be like the mean of the 5 x 5 around it in the photograph.
    """
    pixels = luma_and_chroma(torch.cat([target.float(), after.float()])).transpose(0, 1)
    colors, painted = functional.avg_pool2d(pixels, STROKE).chunk(2, dim=1)
    differences = painted - colors
    bright, dark = functional.relu(colors[0]), _darkness(colors[0])
    tone = ((1 + 2 * bright + 4 * dark) * differences[0].abs()).mean()

    vividness = colors[1:].norm(dim=0)
    counts = (0.5 + (vividness / 0.35).square() + 3 * bright + 4 * dark).clamp(max=4)
    faded = functional.relu(-(differences[1:] * colors[1:]).sum(dim=0) / (vividness + 1e-3))
    color = (counts * differences[1:].abs()).mean() + 3 * ((1 + 4 * bright) * faded).mean()

    before, now = pixels.chunk(2, dim=1)
    around = local_mean(before, 5, "reflect")
    marks = _darkness(around[0]).square() * (now - around).abs()
    return tone + 10 * marks[0].mean(), color + 15 * marks[1:].mean()


def _darkness(luma: Tensor) -> Tensor:
    """From 0 for a dark gray, and all that is brighter, to 1 for black."""
    return functional.relu(-0.2 - luma) / 0.8


def _detail(pictures: Tensor) -> Tensor:
    """How much there is to paint: from 0.15 for flat pictures to 1 for foliage."""
    return (0.15 + 20 * (pictures - local_mean(pictures, 5, "reflect")).abs().mean()).clamp(max=1)


def _l1_loss(picture: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference: the L1 norm of eq. 2 divided by the number of values."""
    return functional.l1_loss(_at_least_float32(picture), target)


def _at_least_float32(x: Tensor) -> Tensor:
    """Networks may run in bfloat16, which is too coarse for the sums in a loss."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
