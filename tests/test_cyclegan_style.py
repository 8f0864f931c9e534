import pytest
import torch

from cyclegan.style import STYLE_LAYERS, WINDOW, MeanStyle
from gatys.losses import gram_matrix


def features(batch, seed):
    """Random features, in fewer channels than those of a VGG."""
    draw = torch.Generator().manual_seed(seed)
    return {layer: torch.rand(batch, 4 + i, 6, 5, generator=draw) for i, layer in enumerate(STYLE_LAYERS)}


def test_the_style_of_a_collection_is_the_mean_of_its_pictures():
    style, parts = MeanStyle(), [features(2, 0), features(1, 1), features(3, 2)]
    for part in parts:
        style.update(part)
    for layer in STYLE_LAYERS:
        expected = torch.cat([gram_matrix(part[layer]) for part in parts]).mean(0)
        torch.testing.assert_close(style.grams[layer], expected)


def test_after_many_pictures_the_mean_follows_the_latest():
    style, old, new = MeanStyle(), features(1, 0), features(1, 1)
    for _ in range(WINDOW):
        style.update(old)
    style.update(new)
    for layer in STYLE_LAYERS:
        before, after = gram_matrix(old[layer])[0], gram_matrix(new[layer])[0]
        torch.testing.assert_close(style.grams[layer], before + (after - before) / WINDOW)


def test_the_loss_is_0_for_the_style_itself_and_1_for_nothing():
    style = MeanStyle()
    style.update(features(2, 0))
    assert style.loss(features(2, 0)).item() == pytest.approx(0, abs=1e-10)
    assert style.loss({layer: 0 * value for layer, value in features(2, 0).items()}).item() == pytest.approx(1)
    assert 0 < style.loss(features(2, 1)).item() < 1
    # Positions have no style.
    shuffled = {layer: value.flip(2) for layer, value in features(2, 0).items()}
    assert style.loss(shuffled).item() == pytest.approx(0, abs=1e-10)


def test_the_loss_has_a_gradient_and_the_mean_has_none():
    style = MeanStyle()
    seen = {layer: value.requires_grad_() for layer, value in features(1, 0).items()}
    style.update(seen)
    assert not any(gram.requires_grad for gram in style.grams.values())
    painted = {layer: value.requires_grad_() for layer, value in features(1, 1).items()}
    style.loss(painted).backward()
    assert all(value.grad.abs().sum() > 0 for value in painted.values())


def test_a_saved_mean_goes_on():
    first, second = MeanStyle(), MeanStyle()
    first.update(features(1, 0))
    second.load_state_dict(first.state_dict(), torch.device("cpu"))
    for style in (first, second):
        style.update(features(2, 1))
    assert second.seen == 3
    assert all(torch.equal(gram, second.grams[layer]) for layer, gram in first.grams.items())
