import dataclasses

import pytest
import torch
from torch.nn import functional

from gatys.losses import content_loss, gram_matrix, style_loss, total_variation
from gatys.objective import Objective, Region, gram_matrices, tile_size
from gatys.options import STYLE_LAYERS, StylizeConfig
from stylekit.networks.vgg import VGGFeatures

LAYERS = ("relu4_2", *STYLE_LAYERS)


@pytest.fixture(scope="module")
def network():
    return VGGFeatures(LAYERS, "compact", padding="replicate", normalize=True).double()


def pictures(height, width):
    torch.manual_seed(height)
    small = torch.rand(3, 3, height // 8 + 1, width // 8 + 1, dtype=torch.float64)
    return functional.interpolate(small, (height, width), mode="bicubic").clamp(0, 1).split(1)


def test_the_terms_and_the_gradient_are_those_of_the_paper(network):
    image, content, style = pictures(48, 64)
    config = StylizeConfig(alpha=3.0, beta=10.0, tv=7.0)
    grams = gram_matrices(network, style, STYLE_LAYERS)
    terms, grad = Objective(network, content, [Region(None, grams)], config)(image)
    leaf = image.clone().requires_grad_()
    features, target = network(leaf), network(content)["relu4_2"]
    expected = {
        "content": 3 * content_loss(features["relu4_2"], target) / target.numel(),
        "tv": 7 * total_variation(leaf),
    }
    for layer in STYLE_LAYERS:
        wanted = gram_matrix(network(style)[layer])
        expected[layer] = 10 / 5 * style_loss(gram_matrix(features[layer]), wanted)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value.detach(), msg=name)
    sum(expected.values()).backward()
    torch.testing.assert_close(grad, leaf.grad)


@pytest.mark.parametrize("size", [(150, 40), (16, 200)])
@pytest.mark.parametrize("masked", [False, True])
def test_tiling_changes_neither_terms_nor_gradient_nor_gram_matrices(network, size, masked):
    image, content, style = pictures(*size)
    grams = gram_matrices(network, style, STYLE_LAYERS)
    other = gram_matrices(network, content, STYLE_LAYERS)
    regions = [Region(None, grams)]
    if masked:
        left = (torch.arange(40) < 25).double().expand(1, 1, 30, 40)
        regions = [Region(left, grams), Region(1 - left, other)]
    config = StylizeConfig(tv=0.1)
    terms, grad = Objective(network, content, regions, config)(image)
    tiled = Objective(network, content, regions, config, tile=64)
    assert len(tiled.tiles.indices) > 2
    tiled_terms, tiled_grad = tiled(image)
    for name, value in terms.items():
        torch.testing.assert_close(tiled_terms[name], value, msg=name)
    torch.testing.assert_close(tiled_grad, grad)
    tiled_grams = gram_matrices(network, style, STYLE_LAYERS, tile=64)
    for layer, gram in grams.items():
        torch.testing.assert_close(tiled_grams[layer], gram)


def test_a_single_pixel_has_a_loss_and_a_gradient(network):
    pixel = torch.full((1, 3, 1, 1), 0.3, dtype=torch.float64)
    grams = gram_matrices(network, torch.rand(1, 3, 5, 7, dtype=torch.float64), STYLE_LAYERS)
    terms, grad = Objective(network, 1 - pixel, [Region(None, grams)], StylizeConfig())(pixel)
    assert all(value > 0 for value in terms.values())
    assert grad.abs().min() > 0


def test_each_region_approaches_its_own_style(network):
    image, content, style = pictures(64, 64)
    left = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    left[..., :16] = 1
    own = gram_matrices(network, image, STYLE_LAYERS, 1 - left)
    config = StylizeConfig(alpha=0.0, style_layers=("relu1_1",))
    grams = gram_matrices(network, style, STYLE_LAYERS)
    _, grad = Objective(network, content, [Region(left, grams), Region(1 - left, own)], config)(image)
    assert grad[..., :16].abs().max() > 0
    # The right part already has the requested style.
    torch.testing.assert_close(grad[..., 18:], torch.zeros_like(grad[..., 18:]))


def test_a_loss_that_is_not_finite_raises(network):
    image, content, style = pictures(16, 16)
    grams = gram_matrices(network, style, STYLE_LAYERS)
    with pytest.raises(FloatingPointError, match="infinite or NaN; try a smaller --lr"):
        Objective(network, content, [Region(None, grams)], StylizeConfig())(image * float("nan"))


def test_an_image_larger_than_memory_gets_tiles(network):
    config = StylizeConfig(memory=1e-3)
    assert tile_size(network, (288, 384), config) == 128
    assert tile_size(network, (288, 384), dataclasses.replace(config, memory=100.0)) is None
