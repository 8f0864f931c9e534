import math

import pytest
import torch

from cyclegan.losses import adversarial_loss, discriminator_loss, generator_loss
from cyclegan.options import CycleLosses


def test_least_squares_by_hand():
    scores = torch.tensor([[0.0, 1.0], [2.0, 0.5]])
    assert adversarial_loss(scores, real=True).item() == pytest.approx((1 + 0 + 1 + 0.25) / 4)
    assert adversarial_loss(scores, real=False).item() == pytest.approx((0 + 1 + 4 + 0.25) / 4)


def test_log_likelihood_by_hand():
    scores = torch.tensor([0.0, 2.0])
    sigmoid = [0.5, 1 / (1 + math.exp(-2))]
    real = -sum(math.log(s) for s in sigmoid) / 2
    fake = -sum(math.log(1 - s) for s in sigmoid) / 2
    assert adversarial_loss(scores, real=True, gan_mode="vanilla").item() == pytest.approx(real)
    assert adversarial_loss(scores, real=False, gan_mode="vanilla").item() == pytest.approx(fake)


def terms(shift, scores, identity=True, **weights):
    """The terms for black pictures that come back brighter or darker by multiples of `shift`."""
    real_x, real_y = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    return generator_loss(
        real=(real_x, real_y),
        cycled=(real_x + shift, real_y - 2 * shift),
        same=(real_x + 3 * shift, real_y - 4 * shift) if identity else None,
        scores=scores,
        losses=CycleLosses(**weights),
    )


def test_the_terms_of_the_generators_by_hand():
    scores = (torch.full((1, 1, 2, 2), 3.0), torch.full((1, 1, 2, 2), 0.5))
    found = terms(0.1, scores, gan_mode="lsgan", lambda_x=10.0, lambda_y=5.0, lambda_identity=0.5)
    assert {name: round(term.item(), 5) for name, term in found.items()} == {
        "adversarial_g": 0.25,  # D_Y scores G: (0.5 - 1)^2
        "adversarial_f": 4.0,  # D_X scores F: (3 - 1)^2
        "cycle_x": 1.0,  # 10 * 0.1
        "cycle_y": 1.0,  # 5 * 0.2
        "identity_x": 1.5,  # 0.5 * 10 * 0.3
        "identity_y": 1.0,  # 0.5 * 5 * 0.4
    }


def test_the_default_weights_are_those_of_the_paper():
    scores = (torch.ones(1), torch.ones(1))
    assert terms(0.1, scores) == terms(0.1, scores, lambda_x=10.0, lambda_y=10.0, lambda_identity=0.5)


def test_the_log_likelihood_reaches_the_generators():
    found = terms(0.0, (torch.zeros(1), torch.zeros(1)), identity=False, gan_mode="vanilla")
    assert {name: term.item() for name, term in found.items()} == {
        "adversarial_g": pytest.approx(math.log(2)),
        "adversarial_f": pytest.approx(math.log(2)),
        "cycle_x": 0,
        "cycle_y": 0,
    }


def test_the_loss_of_the_discriminators_is_halved():
    assert discriminator_loss(torch.tensor([0.0]), torch.tensor([1.0])).item() == 0.5 * (1 + 1)
    assert discriminator_loss(torch.tensor([1.0]), torch.tensor([2.0])).item() == 0.5 * (0 + 4)


def test_several_discriminators_count_equally_however_many_scores_they_give():
    scores = [torch.zeros(1, 5, 8, 8), torch.ones(1, 1, 2, 2)]
    assert adversarial_loss(scores, real=True).item() == 0.5


def test_losses_are_float32_whatever_the_pictures_and_scores_are():
    half = torch.ones(1, 3, 4, 4, dtype=torch.bfloat16)
    real = torch.zeros(1, 3, 4, 4)
    found = generator_loss((real, real), (half, half), (half, half), (half, half), CycleLosses())
    assert {term.dtype for term in found.values()} == {torch.float32}
