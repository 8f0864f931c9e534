"""The objective of CycleGAN (Zhu et al. 2017, section 3), term by term, for pictures in [-1, 1].

Functions take tensors and return tensors. Sums are returned as named terms, so the log shows exactly what is minimized.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from cyclegan.options import CycleLosses

GANMode = Literal["lsgan", "vanilla"]
Scores = Tensor | Sequence[Tensor]
"""The scores of one discriminator, or of several."""


def adversarial_loss(scores: Scores, real: bool, gan_mode: GANMode = "lsgan") -> Tensor:
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
        return torch.stack([adversarial_loss(part, real, gan_mode) for part in scores]).mean()
    scores = at_least_float32(scores)
    distance = functional.mse_loss if gan_mode == "lsgan" else functional.binary_cross_entropy_with_logits
    return distance(scores, torch.full_like(scores, float(real)))


def generator_loss(
    real: tuple[Tensor, Tensor],
    cycled: tuple[Tensor, Tensor],
    same: tuple[Tensor, Tensor] | None,
    scores: tuple[Scores, Scores],
    losses: CycleLosses,
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
        "adversarial_g": adversarial_loss(scores_y, True, losses.gan_mode),
        "adversarial_f": adversarial_loss(scores_x, True, losses.gan_mode),
        "cycle_x": losses.lambda_x * _l1_loss(cycled[0], real[0]),
        "cycle_y": losses.lambda_y * _l1_loss(cycled[1], real[1]),
    }
    if same is not None:
        terms["identity_x"] = losses.lambda_identity * losses.lambda_x * _l1_loss(same[0], real[0])
        terms["identity_y"] = losses.lambda_identity * losses.lambda_y * _l1_loss(same[1], real[1])
    return terms


def discriminator_loss(real: Scores, fake: Scores, gan_mode: GANMode = "lsgan") -> Tensor:
    """What a discriminator minimizes, halved to slow it down relative to the generators (appendix 7.1).

    Args:
        real: D_X(real_x), or D_Y(real_y).
        fake: D_X(fake_x), or D_Y(fake_y), of detached fakes.
    """
    return 0.5 * (adversarial_loss(real, True, gan_mode) + adversarial_loss(fake, False, gan_mode))


def split_scores(scores: Sequence[Tensor]) -> tuple[Scores, Scores]:
    """Split the scores of a batch of real pictures, then as many fakes: of the real ones, and of the fakes."""
    halves = [part.chunk(2) for part in scores]
    return tuple(real for real, _ in halves), tuple(fake for _, fake in halves)


def _l1_loss(picture: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference: the L1 norm of eq. 2 divided by the number of values."""
    return functional.l1_loss(at_least_float32(picture), target)


def at_least_float32(x: Tensor) -> Tensor:
    """Networks may run in bfloat16, which is too coarse for the sums in a loss."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
