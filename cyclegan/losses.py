"""The objective of CycleGAN (Zhu et al. 2017, section 3), term by term, for pictures in [-1, 1].

Every function here takes tensors and returns tensors; each sum has its terms by name, so that what is logged is what is
minimised.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

GANLoss = Literal["lsgan", "vanilla"]


class Weights(Protocol):
    """What the objective needs to know; `options.TrainConfig` has it."""

    @property
    def gan_loss(self) -> GANLoss: ...
    @property
    def lambda_x(self) -> float: ...
    @property
    def lambda_y(self) -> float: ...
    @property
    def lambda_identity(self) -> float: ...


class CycleTensors(Protocol):
    """The pictures of one step; `models.Cycle` has them."""

    @property
    def cycled_x(self) -> Tensor: ...
    @property
    def cycled_y(self) -> Tensor: ...
    @property
    def same_x(self) -> Tensor | None: ...
    @property
    def same_y(self) -> Tensor | None: ...


def adversarial_loss(scores: Tensor, real: bool, gan_loss: GANLoss = "lsgan") -> Tensor:
    """How far the scores of a discriminator are from saying "real" (or, with `real=False`, "fake").

    "lsgan" is the squared distance to 1 or 0 (Mao et al. 2017; section 4 of the CycleGAN paper), "vanilla" the negative
    log-likelihood (Goodfellow et al. 2014; eq. 1), with the sigmoid inside. A generator minimises it with `real=True`:
    the non-saturating form.

    Args:
        scores: Any shape, raw.

    Returns:
        The mean over all patches, a scalar in float32 (in float64 for such scores).
    """
    scores = _at_least_float32(scores)
    target = torch.full_like(scores, float(real))
    if gan_loss == "lsgan":
        return functional.mse_loss(scores, target)
    return functional.binary_cross_entropy_with_logits(scores, target)


def generator_loss(
    cycle: CycleTensors,
    real_x: Tensor,
    real_y: Tensor,
    scores: tuple[Tensor, Tensor],
    weights: Weights,
) -> dict[str, Tensor]:
    """What G and F minimise together (eq. 3), weighted, term by term; their sum is the objective.

    The identity loss (section 5.2) keeps colours where the target domain already has them. Its weight is relative to
    that of the cycle loss, as in the authors' code.

    Args:
        cycle: The pictures made from real_x and real_y, (B, 3, H, W) in [-1, 1].
        scores: D_X(fake_x) and D_Y(fake_y).

    Returns:
        adversarial_g, adversarial_f, cycle_x, cycle_y and, unless its weight is 0, identity_x, identity_y: scalars.
    """
    scores_x, scores_y = scores
    terms = {
        "adversarial_g": adversarial_loss(scores_y, True, weights.gan_loss),
        "adversarial_f": adversarial_loss(scores_x, True, weights.gan_loss),
        "cycle_x": weights.lambda_x * _distance(cycle.cycled_x, real_x),
        "cycle_y": weights.lambda_y * _distance(cycle.cycled_y, real_y),
    }
    if cycle.same_x is not None and cycle.same_y is not None:
        identity = weights.lambda_identity
        terms["identity_x"] = identity * weights.lambda_x * _distance(cycle.same_x, real_x)
        terms["identity_y"] = identity * weights.lambda_y * _distance(cycle.same_y, real_y)
    return terms


def discriminator_loss(
    real: tuple[Tensor, Tensor], fake: tuple[Tensor, Tensor], gan_loss: GANLoss = "lsgan"
) -> dict[str, Tensor]:
    """What D_X and D_Y minimise, each halved, which slows them down against the generators (appendix 7.1).

    Args:
        real: D_X(real_x) and D_Y(real_y).
        fake: D_X(fake_x) and D_Y(fake_y), of pictures without gradient.

    Returns:
        d_x and d_y: scalars.
    """
    return {
        name: 0.5 * (adversarial_loss(r, True, gan_loss) + adversarial_loss(f, False, gan_loss))
        for name, r, f in zip(("d_x", "d_y"), real, fake, strict=True)
    }


def _distance(picture: Tensor, target: Tensor) -> Tensor:
    """The mean absolute difference: the L1 norm of eq. 2, per value."""
    return functional.l1_loss(_at_least_float32(picture), target)


def _at_least_float32(x: Tensor) -> Tensor:
    """Networks may run in bfloat16, whose sums are too coarse for a loss."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
