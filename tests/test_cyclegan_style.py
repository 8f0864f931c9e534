import pytest
import torch
from cyclegan.style import STYLE_LAYERS, WINDOW, MeanStyle

from gatys.losses import gram_matrix
from stylekit.pictures.color import color_moments


def features(batch, seed):
    """Random features, in fewer channels than those of a VGG."""
    draw = torch.Generator().manual_seed(seed)
    return {layer: torch.rand(batch, 4 + i, 6, 5, generator=draw) for i, layer in enumerate(STYLE_LAYERS)}


def pictures(batch, seed):
    """Random pictures, in random colors."""
    draw = torch.Generator().manual_seed(seed)
    color, contrast = torch.rand(2, batch, 3, 1, 1, generator=draw)
    return 0.2 + 0.3 * color + 0.3 * contrast * torch.rand(batch, 3, 8, 8, generator=draw)


def test_the_style_of_a_collection_is_the_mean_of_its_pictures():
    style, parts, seen = MeanStyle(), [features(2, 0), features(1, 1), features(3, 2)], pictures(6, 3)
    for part, batch in zip(parts, seen.split([2, 1, 3]), strict=True):
        style.update(batch, part)
    torch.testing.assert_close(style.colors, color_moments(seen))
    for layer in STYLE_LAYERS:
        expected = torch.cat([gram_matrix(part[layer]) for part in parts]).mean(0)
        torch.testing.assert_close(style.grams[layer], expected)


def test_after_many_pictures_the_mean_follows_the_latest():
    style, old, new = MeanStyle(), features(1, 0), features(1, 1)
    for _ in range(WINDOW):
        style.update(pictures(1, 0), old)
    style.update(pictures(1, 1), new)
    each = [color_moments(pictures(1, seed)) for seed in (0, 1)]
    torch.testing.assert_close(style.colors, each[0] + (each[1] - each[0]) / WINDOW)
    for layer in STYLE_LAYERS:
        before, after = gram_matrix(old[layer])[0], gram_matrix(new[layer])[0]
        torch.testing.assert_close(style.grams[layer], before + (after - before) / WINDOW)


def test_mixed_precision_does_not_stall_the_mean():
    style = MeanStyle()
    for _ in range(WINDOW):
        style.update(pictures(1, 0), features(1, 0))
    old, new = style.grams["relu1_1"], {layer: 1.5 * value for layer, value in features(1, 0).items()}
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(300):
            style.update(pictures(1, 0), new)
    expected = 2.25 - 1.25 * (1 - 1 / WINDOW) ** 300
    torch.testing.assert_close(style.grams["relu1_1"], expected * old, rtol=1e-4, atol=0)


def test_the_loss_is_0_for_the_style_itself_and_1_for_nothing():
    style = MeanStyle()
    style.update(pictures(2, 0), features(2, 0))
    assert style.loss(features(2, 0)).item() == pytest.approx(0, abs=1e-10)
    assert style.loss({layer: 0 * value for layer, value in features(2, 0).items()}).item() == pytest.approx(1)
    assert 0 < style.loss(features(2, 1)).item() < 1
    # Positions have no style.
    shuffled = {layer: value.flip(2) for layer, value in features(2, 0).items()}
    assert style.loss(shuffled).item() == pytest.approx(0, abs=1e-10)


def test_the_loss_has_a_gradient_and_the_mean_has_none():
    style = MeanStyle()
    seen = {layer: value.requires_grad_() for layer, value in features(1, 0).items()}
    style.update(pictures(1, 0), seen)
    assert not any(gram.requires_grad for gram in style.grams.values())
    painted = {layer: value.requires_grad_() for layer, value in features(1, 1).items()}
    style.loss(painted).backward()
    assert all(value.grad.abs().sum() > 0 for value in painted.values())


def test_a_saved_mean_goes_on():
    first, second = MeanStyle(), MeanStyle()
    first.update(pictures(1, 0), features(1, 0))
    second.load_state_dict(first.state_dict(), torch.device("cpu"))
    for style in (first, second):
        style.update(pictures(2, 1), features(2, 1))
    assert second.seen == 3
    assert all(torch.equal(gram, second.grams[layer]) for layer, gram in first.grams.items())
    assert torch.equal(first.colors, second.colors) and first.grams.keys() == set(STYLE_LAYERS)


def test_a_collection_gets_the_colors_of_the_other():
    photographs, paintings, seen = MeanStyle(), MeanStyle(), (pictures(3, 0), pictures(4, 1))
    assert torch.equal(paintings.paint(seen[0], photographs, 1.0), seen[0])  # Nothing is known yet.
    photographs.update(seen[0], features(3, 0))
    paintings.update(seen[1], features(4, 1))
    painted = paintings.paint(seen[0], photographs, 1.0)
    torch.testing.assert_close(color_moments(painted)[:, 3], color_moments(seen[1])[:, 3], atol=5e-3, rtol=0)
    half = paintings.paint(seen[0], photographs, 0.5)
    torch.testing.assert_close(half, (seen[0] + painted) / 2)
    assert torch.equal(paintings.paint(seen[0], photographs, 0.0), seen[0])
    # One map for all: the order of brightness stays.
    assert torch.equal(painted.mean((1, 2, 3)).argsort(), seen[0].mean((1, 2, 3)).argsort())
