import pytest
import torch

from gatys.losses import content_loss, gram_matrix, style_loss
from johnson.losses import feature_loss, perceptual_loss, style_reconstruction_loss
from johnson.options import LossConfig


def test_the_feature_loss_is_the_mean_of_squares():
    # Two pictures of 2 channels and 3 positions; one value is off by 6: 36 / (2 * 3), and the mean over both.
    features = torch.zeros(2, 2, 1, 3)
    target = features.clone()
    target[0, 1, 0, 2] = 6
    assert feature_loss(features, target) == 3


def test_the_style_loss_is_the_squared_distance_of_gram_matrices():
    # One channel, two positions with the values 2 and 4: the Gram matrix is (4 + 16) / 2 = 10.
    features = torch.tensor([2.0, 4.0]).view(1, 1, 1, 2)
    assert style_reconstruction_loss(features, torch.full((1, 1, 1), 7.0)) == 9
    # A second picture, which already has the style, halves the mean.
    both = torch.cat([features, torch.full((1, 1, 1, 2), 7.0**0.5)])
    assert style_reconstruction_loss(both, torch.full((1, 1, 1), 7.0)).item() == pytest.approx(4.5, rel=1e-5)


def terms(weave=None, **weights):
    """Random inputs, the same at every call, and the terms of the loss."""
    torch.manual_seed(0)
    photographs, stylized = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    features = {"early": torch.rand(2, 4, 8, 8), "late": torch.rand(2, 5, 4, 4)}
    grams = {name: gram_matrix(torch.rand(1, x.shape[1], 9, 9)) for name, x in features.items()}
    content = torch.rand(2, 5, 4, 4)
    found = perceptual_loss(
        stylized, photographs, features, content, grams, LossConfig(content_layer="late", **weights), weave
    )
    return (features, grams, content), found


def test_the_terms_are_named_and_weighted():
    names = ("content_weight", "style_weight", "pixel_weight", "weave_weight")
    _, once = terms(torch.tensor(0.5), **dict.fromkeys(names, 1))
    assert list(once) == ["content", "early", "late", "pixel", "weave"]
    _, weighted = terms(torch.tensor(0.5), **dict(zip(names, (2, 3, 5, 6), strict=True)))
    for name, factor in zip(once, (2, 3, 3, 5, 6), strict=True):
        assert weighted[name].item() == pytest.approx(factor * once[name].item(), rel=1e-6)


def test_a_term_with_weight_0_is_left_out():
    assert list(terms(content_weight=1, style_weight=0, pixel_weight=0)[1]) == ["content"]
    assert list(terms(content_weight=0, style_weight=1, pixel_weight=0)[1]) == ["early", "late"]


def test_the_objective_is_that_of_gatys_times_a_constant():
    (features, grams, content), ours = terms(content_weight=1, style_weight=3)
    # beta = 2 L w, for L = 2 layers of equal weights 1 / L.
    for i in range(2):
        one = {name: x[i : i + 1] for name, x in features.items()}
        alpha = content_loss(one["late"], content[i : i + 1]) / content[0].numel()
        beta = (2 * 2 * 3) / 2 * torch.stack([style_loss(gram_matrix(one[name]), grams[name]) for name in grams]).sum()
        ours["content"], ours["early"] = ours["content"] - alpha, ours["early"] - beta
    torch.testing.assert_close(ours["content"], torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(ours["early"] + ours["late"], torch.tensor(0.0), atol=1e-4, rtol=0)
