"""The losses of training without the cycle: content, style, local colors."""

import pytest
import torch

from cyclegan.options import PerceptualLosses
from cyclegan.perceptual import CONTENT_LAYER, LAMBDA_TONE, STYLE_LAYERS, WINDOW, MeanStyle, perceptual_loss
from gatys.losses import gram_matrix
from stylekit.pictures.color import color_moments
from stylekit.pictures.images import to_signed, to_unit


def features(batch, seed):
    """Random features, in fewer channels than those of a VGG."""
    draw = torch.Generator().manual_seed(seed)
    return {layer: torch.rand(batch, 4 + i, 6, 5, generator=draw) for i, layer in enumerate(STYLE_LAYERS)}


def pictures(batch, seed):
    """Random pictures, in random colors."""
    draw = torch.Generator().manual_seed(seed)
    color, contrast = torch.rand(2, batch, 3, 1, 1, generator=draw)
    return 0.2 + 0.3 * color + 0.3 * contrast * torch.rand(batch, 3, 8, 8, generator=draw)


def style_of(seen, found):
    style = MeanStyle()
    style.update(seen, found)
    return style


# The mean style.


def test_the_style_of_a_collection_is_the_mean_of_its_pictures():
    style, parts, seen = MeanStyle(), [features(2, 0), features(1, 1), features(3, 2)], pictures(6, 3)
    for part, batch in zip(parts, seen.split([2, 1, 3]), strict=True):
        style.update(batch, part)
    torch.testing.assert_close(style.colors, color_moments(seen))
    for layer in STYLE_LAYERS:
        torch.testing.assert_close(style.grams[layer], torch.cat([gram_matrix(part[layer]) for part in parts]).mean(0))


@pytest.mark.parametrize("amp", [False, True])
def test_after_many_pictures_the_mean_follows_the_latest(amp):
    """In bfloat16, steps of a hundredth would be lost."""
    style, old, new = MeanStyle(), features(1, 0), features(1, 1)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        for _ in range(WINDOW):
            style.update(pictures(1, 0), old)
        style.update(pictures(1, 1), new)
    each = [color_moments(pictures(1, seed)) for seed in (0, 1)]
    torch.testing.assert_close(style.colors, each[0] + (each[1] - each[0]) / WINDOW)
    for layer in STYLE_LAYERS:
        before, after = gram_matrix(old[layer])[0], gram_matrix(new[layer])[0]
        torch.testing.assert_close(style.grams[layer], before + (after - before) / WINDOW)


def test_the_style_loss_is_0_for_the_style_itself_and_1_for_nothing():
    style, ones = style_of(pictures(2, 0), features(2, 0)), torch.ones(2)
    assert style.loss(features(2, 0), ones).item() == pytest.approx(0, abs=1e-10)
    assert style.loss({layer: 0 * value for layer, value in features(2, 0).items()}, ones).item() == pytest.approx(1)
    assert 0 < style.loss(features(2, 1), ones).item() < 1
    # Positions have no style.
    shuffled = {layer: value.flip(2) for layer, value in features(2, 0).items()}
    assert style.loss(shuffled, ones).item() == pytest.approx(0, abs=1e-10)


def test_the_style_loss_has_a_gradient_and_the_mean_has_none():
    style = style_of(pictures(1, 0), {layer: value.requires_grad_() for layer, value in features(1, 0).items()})
    assert not any(gram.requires_grad for gram in style.grams.values())
    painted = {layer: value.requires_grad_() for layer, value in features(1, 1).items()}
    style.loss(painted, torch.ones(1)).backward()
    assert all(value.grad.abs().sum() > 0 for value in painted.values())


def test_a_saved_mean_goes_on():
    first, second = style_of(pictures(1, 0), features(1, 0)), MeanStyle()
    second.load_state_dict(first.state_dict(), torch.device("cpu"))
    for style in (first, second):
        style.update(pictures(2, 1), features(2, 1))
    assert second.seen == 3
    assert all(torch.equal(gram, second.grams[layer]) for layer, gram in first.grams.items())
    assert torch.equal(first.colors, second.colors) and first.grams.keys() == set(STYLE_LAYERS)


def test_a_collection_gets_the_colors_of_the_other():
    seen = pictures(3, 0), pictures(4, 1)
    assert torch.equal(MeanStyle().match(seen[0], MeanStyle(), 1.0), seen[0])  # Nothing is known yet.
    photographs, paintings = style_of(seen[0], features(3, 0)), style_of(seen[1], features(4, 1))
    matched = paintings.match(seen[0], photographs, 1.0)
    torch.testing.assert_close(color_moments(matched)[:, 3], color_moments(seen[1])[:, 3], atol=5e-3, rtol=0)
    torch.testing.assert_close(paintings.match(seen[0], photographs, 0.5), (seen[0] + matched) / 2)
    assert torch.equal(paintings.match(seen[0], photographs, 0.0), seen[0])
    # One map for all: the order of brightness stays.
    assert torch.equal(matched.mean((1, 2, 3)).argsort(), seen[0].mean((1, 2, 3)).argsort())


# The terms.


def terms(real, fake, before=1.0, after=1.0, style=1.0, weave=None, scores=1.0, **weights):
    """The terms for pictures whose features have the same value everywhere."""

    def uniform(value):
        return {layer: torch.full((len(real), 4, 2, 2), value) for layer in STYLE_LAYERS}

    target = style_of(real, uniform(style))
    losses = PerceptualLosses(**({"palette": 0.0} | weights))
    weave = None if weave is None else torch.tensor(weave)
    given = (uniform(before), uniform(after)), MeanStyle(), target, weave, (torch.tensor(scores),), losses
    return {name: term.item() for name, term in perceptual_loss(real, fake, *given).items()}


def tone_and_color(real, fake):
    found = terms(*(picture.expand(1, 3, 16, 16) for picture in (real, fake)))
    return found["tone"] / LAMBDA_TONE, found["color"]


def color(*rgb):
    return torch.tensor(rgb).view(1, 3, 1, 1)


def gray(level):
    return torch.full((1, 3, 1, 1), level)


def test_the_terms_by_hand():
    flat = torch.zeros(1, 3, 16, 16)
    weights = {"lambda_content": 8.0, "lambda_style": 4.0, "lambda_weave": 5.0}
    found = terms(flat, flat + 0.5, before=2.0, after=3.0, style=6**0.5, weave=0.25, scores=0.0, **weights)
    # Content: the squared difference 1 over the mean square 4. Style: (9 - 6)^2 / 6^2, which counts 0.15 when flat.
    expected = {"adversarial": 1.0, "content": 2.0, "tone": 2.0, "color": 0.0, "style": 0.15, "weave": 1.25}
    assert {name: round(term, 6) for name, term in found.items()} == expected
    assert list(terms(flat, flat)) == ["adversarial", "content", "tone", "color", "style"]


def test_colors_are_compared_with_the_shifted_ones():
    seen = 0.2 + 0.2 * torch.rand(2, 3, 16, 16), 0.5 + 0.3 * torch.rand(2, 3, 16, 16)
    found = features(2, 0)
    source, target = style_of(seen[0], found), style_of(seen[1], found)
    fake = to_signed(target.match(seen[0], source, 1.0))
    losses = PerceptualLosses(palette=1.0)
    given = (found, found), source, target, None, (torch.ones(1),), losses
    shifted, same = (perceptual_loss(to_signed(seen[0]), x, *given)["tone"] for x in (fake, to_signed(seen[0])))
    assert shifted < 0.2 * same


def test_brush_strokes_of_the_same_mean_cost_nothing():
    flat = torch.zeros(1, 3, 16, 16)
    stripes = flat + torch.tensor([0.5, -0.5]).repeat_interleave(4).repeat(2)
    assert tone_and_color(flat, stripes) == pytest.approx((0, 0), abs=1e-6)


def test_flat_pictures_count_less_in_the_style_also_beside_detailed_ones():
    detailed = 2 * torch.rand(1, 3, 32, 32) - 1
    real = torch.cat([torch.zeros_like(detailed), detailed])
    same = features(1, 0)
    painted = {layer: value.repeat(2, 1, 1, 1).requires_grad_() for layer, value in same.items()}
    target = style_of(to_unit(detailed), features(1, 1))
    given = ({CONTENT_LAYER: painted[CONTENT_LAYER].detach()}, painted), MeanStyle(), target, None, (torch.ones(1),)
    perceptual_loss(real, real, *given, PerceptualLosses(palette=0.0))["style"].backward()
    for value in painted.values():
        flat, other = value.grad.flatten(1).norm(dim=1)
        assert flat / other == pytest.approx(0.15, rel=1e-3)


def test_vivid_and_bright_colors_are_kept_and_grays_are_free():
    change = color(0.0, -0.1, 0.2 * 0.587 / 0.114 / 2)
    assert abs((change * color(0.299, 0.587, 0.114)).sum()) < 1e-6  # The same luma.
    dull, white, red = (
        tone_and_color(start, start + change)[1] for start in (gray(0.0), gray(0.9), color(0.9, -0.7, -0.7))
    )
    assert white / dull == pytest.approx(3.2 / 0.5, rel=0.01)
    assert red / dull > 6


def test_colors_that_fade_cost_more_than_colors_that_grow_and_most_where_it_is_bright():
    red, dull = color(0.5, -0.3, -0.3), color(-0.06, -0.06, -0.06)
    faded, grown = (tone_and_color(red, red + amount * (red - dull))[1] for amount in (-0.3, 0.3))
    assert faded > 1.5 * grown
    blue = color(-0.2, 0.0, 0.3)
    luma = (blue * color(0.299, 0.587, 0.114)).sum().item()
    price = {}
    for light in (-0.5, 0.5):
        faded, grown = (tone_and_color(blue + light, blue * (1 + amount) + light)[1] for amount in (-0.3, 0.3))
        price[light] = faded - grown
    assert price[0.5] / price[-0.5] == pytest.approx(1 + 4 * (0.5 + luma), rel=0.01)


def test_the_terms_are_as_exact_with_autocast():
    real = torch.rand(1, 3, 16, 16) * 2 - 1
    exact = tone_and_color(real, real * 0.99)
    with torch.autocast("cpu", torch.bfloat16):
        assert tone_and_color(real, real * 0.99) == exact


def test_bright_and_dark_areas_keep_their_tone():
    for start, factor in ((-0.1, 1.0), (0.8, 2.6), (-0.6, 5.5)):
        assert tone_and_color(gray(start), gray(start) - 0.1)[0] == pytest.approx(0.1 * factor, rel=0.01)


def test_specks_and_blotches_cost_in_black_areas_only():
    specks, blotches = torch.zeros(2, 1, 3, 16, 16)
    specks[:, 0, ::4, ::4], specks[:, 0, 2::4, 2::4] = 0.5, -0.5
    blotches[..., :8] = torch.tensor([0.2, 0.1, -0.1]).view(3, 1, 1)
    blotches[..., 8:] = -blotches[..., :8]
    for painted, least in ((specks, 0.1), (blotches, 0.5)):  # Both are without brightness and color on average.
        assert tone_and_color(gray(0.0), gray(0.0) + painted) == pytest.approx((0, 0), abs=1e-6)
        assert tone_and_color(gray(-0.9), gray(-0.9) + painted)[1] > least
    assert tone_and_color(gray(-0.9), gray(-0.9) + blotches)[0] > 1 / LAMBDA_TONE
