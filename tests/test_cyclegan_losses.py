import math

import pytest
import torch

from cyclegan.losses import adversarial_loss, discriminator_loss, generator_loss, one_sided_loss


def test_least_squares_by_hand():
    scores = torch.tensor([[0.0, 1.0], [2.0, 0.5]])
    assert adversarial_loss(scores, real=True).item() == pytest.approx((1 + 0 + 1 + 0.25) / 4)
    assert adversarial_loss(scores, real=False).item() == pytest.approx((0 + 1 + 4 + 0.25) / 4)


def test_log_likelihood_by_hand():
    scores = torch.tensor([0.0, 2.0])
    sigmoid = [0.5, 1 / (1 + math.exp(-2))]
    real = -sum(math.log(s) for s in sigmoid) / 2
    fake = -sum(math.log(1 - s) for s in sigmoid) / 2
    assert adversarial_loss(scores, real=True, gan_loss="vanilla").item() == pytest.approx(real)
    assert adversarial_loss(scores, real=False, gan_loss="vanilla").item() == pytest.approx(fake)


@pytest.mark.parametrize("gan_loss", ["lsgan", "vanilla"])
def test_gradients_of_the_adversarial_losses_are_right(gan_loss):
    scores = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: adversarial_loss(x, True, gan_loss), scores)


def terms(shift, scores, identity=True, **weights):
    """The terms for black pictures that come back brighter or darker by multiples of `shift`."""
    real_x, real_y = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    return generator_loss(
        real=(real_x, real_y),
        cycled=(real_x + shift, real_y - 2 * shift),
        same=(real_x + 3 * shift, real_y - 4 * shift) if identity else None,
        scores=scores,
        **weights,
    )


def test_the_terms_of_the_generators_by_hand():
    scores = (torch.full((1, 1, 2, 2), 3.0), torch.full((1, 1, 2, 2), 0.5))
    found = terms(0.1, scores, gan_loss="lsgan", lambda_x=10.0, lambda_y=5.0, lambda_identity=0.5)
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
    found = terms(0.0, (torch.zeros(1), torch.zeros(1)), gan_loss="vanilla")
    assert found["adversarial_g"].item() == found["adversarial_f"].item() == pytest.approx(math.log(2))


def test_a_perfect_cycle_costs_nothing():
    assert sum(terms(0.0, (torch.ones(1), torch.ones(1))).values()).item() == 0


def test_without_identity_pictures_there_are_no_identity_terms():
    found = terms(0.1, (torch.ones(1), torch.ones(1)), identity=False)
    assert set(found) == {"adversarial_g", "adversarial_f", "cycle_x", "cycle_y"}


def test_the_loss_of_the_discriminators_is_halved():
    assert discriminator_loss(torch.tensor([0.0]), torch.tensor([1.0])).item() == 0.5 * (1 + 1)
    assert discriminator_loss(torch.tensor([1.0]), torch.tensor([2.0])).item() == 0.5 * (0 + 4)


def test_several_discriminators_count_equally_however_many_scores_they_give():
    scores = [torch.zeros(1, 5, 8, 8), torch.ones(1, 1, 2, 2)]
    assert adversarial_loss(scores, real=True).item() == 0.5


def test_the_one_sided_terms_by_hand():
    gray, features = torch.zeros(1, 3, 16, 16), torch.full((1, 4, 2, 2), 2.0)
    brighter = gray + 0.5
    weights = {"lambda_content": 8.0, "lambda_tone": 2.0, "lambda_style": 3.0, "lambda_weave": 5.0}
    style, weave = torch.tensor(0.5), torch.tensor(0.25)
    found = one_sided_loss(gray, gray, brighter, (features, features + 1), style, weave, torch.zeros(1), **weights)
    # Content: the squared difference 1 over the mean square 4. Style counts 0.15 in a flat picture.
    expected = {"adversarial": 1.0, "content": 2.0, "tone": 1.0, "color": 0.0, "style": 0.225, "weave": 1.25}
    assert {name: round(term.item(), 6) for name, term in found.items()} == expected
    redder = gray + torch.tensor([0.4, -0.4 * 0.299 / 0.587, 0.0]).view(3, 1, 1)  # The same luma.
    found = one_sided_loss(gray, gray, redder, (features, features), style, None, torch.ones(1))
    assert list(found) == ["adversarial", "content", "tone", "color", "style"]
    assert found["tone"].item() == pytest.approx(0, abs=1e-3) and found["color"].item() > 0.1
    # Only means over 16 x 16 pixels count: brush strokes are free.
    stripes = gray + torch.tensor([0.5, -0.5]).repeat_interleave(4).repeat(2)
    found = one_sided_loss(
        stripes, stripes, stripes, (features, features), style, None, torch.ones(1), lambda_style=3.0
    )
    assert found["style"].item() == pytest.approx(1.5)
    found = one_sided_loss(gray, gray, stripes, (features, features), style, None, torch.ones(1))
    assert found["tone"].item() == pytest.approx(0, abs=1e-6)


def tone_and_color(target, after):
    features = torch.ones(1, 4, 2, 2)
    target, after = (x.expand(1, 3, 16, 16) for x in (target, after))
    found = one_sided_loss(0 * target, target, after, (features, features), torch.zeros(()), None, torch.ones(1))
    return found["tone"].item(), found["color"].item()


def color(*rgb):
    return torch.tensor(rgb).view(1, 3, 1, 1)


def test_vivid_and_bright_colors_are_kept_and_grays_are_free():
    change = color(0.0, -0.1, 0.2 * 0.587 / 0.114 / 2)
    assert abs((change * color(0.299, 0.587, 0.114)).sum()) < 1e-6  # The same luma.
    gray, white, red = (
        tone_and_color(start, start + change)[1]
        for start in (torch.zeros(1, 3, 1, 1), torch.full((1, 3, 1, 1), 0.9), color(0.9, -0.7, -0.7))
    )
    assert white / gray == pytest.approx(3.2 / 0.5, rel=0.01)
    assert red / gray > 6


def test_colors_that_fade_cost_more_than_colors_that_grow():
    red, gray = color(0.5, -0.3, -0.3), color(-0.06, -0.06, -0.06)
    faded, grown = (tone_and_color(red, red + amount * (red - gray))[1] for amount in (-0.3, 0.3))
    assert faded > 1.5 * grown


def test_bright_colors_that_fade_cost_most():
    blue = color(-0.2, 0.0, 0.3)
    luma = (blue * color(0.299, 0.587, 0.114)).sum().item()
    price = {}
    for light in (-0.5, 0.5):
        faded, grown = (tone_and_color(blue + light, blue * (1 + amount) + light)[1] for amount in (-0.3, 0.3))
        price[light] = faded - grown
    assert price[0.5] / price[-0.5] == pytest.approx(1 + 4 * (0.5 + luma), rel=0.01)


def test_the_one_sided_terms_are_as_exact_with_autocast():
    torch.manual_seed(0)
    target = torch.rand(1, 3, 16, 16) * 2 - 1
    exact = tone_and_color(target, target * 0.99)
    with torch.autocast("cpu", torch.bfloat16):
        assert tone_and_color(target, target * 0.99) == exact


def test_bright_and_dark_areas_keep_their_tone():
    for start, factor in ((-0.1, 1.0), (0.8, 2.6), (-0.6, 5.5)):
        before = torch.full((1, 3, 1, 1), start)
        assert tone_and_color(before, before - 0.1)[0] == pytest.approx(4 * 0.1 * factor, rel=0.01)


def test_specks_and_blotches_cost_in_black_areas_only():
    specks, blotches = torch.zeros(2, 1, 3, 16, 16)
    specks[:, 0, ::4, ::4], specks[:, 0, 2::4, 2::4] = 0.5, -0.5
    blotches[..., :8] = torch.tensor([0.2, 0.1, -0.1]).view(3, 1, 1)
    blotches[..., 8:] = -blotches[..., :8]
    black, gray = torch.full((1, 3, 1, 1), -0.9), torch.zeros(1, 3, 1, 1)
    for painted, least in ((specks, 0.1), (blotches, 0.5)):  # Both are without brightness and color on average.
        assert tone_and_color(gray, gray + painted) == pytest.approx((0, 0), abs=1e-6)
        assert tone_and_color(black, black + painted)[1] > least
    assert tone_and_color(black, black + blotches)[0] > 1


def test_losses_are_float32_whatever_the_scores_are():
    assert adversarial_loss(torch.ones(4, dtype=torch.bfloat16), real=False).dtype == torch.float32


def test_cycle_losses_are_float32_whatever_the_pictures_are():
    half = torch.ones(1, 3, 4, 4, dtype=torch.bfloat16)
    real = torch.zeros(1, 3, 4, 4)
    found = generator_loss(real=(real, real), cycled=(half, half), same=(half, half), scores=(half, half))
    assert {term.dtype for term in found.values()} == {torch.float32}
