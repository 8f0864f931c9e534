import pytest
import torch

from gatys.objective import gram_matrices
from gatys.options import STYLE_LAYERS, StylizeConfig
from gatys.regions import COLORS, blend_grams, resize, split_by_color
from gatys.styles import Preset, style_network


@pytest.fixture(scope="module")
def network():
    return style_network("compact", None, "max")


@pytest.fixture(scope="module")
def paintings():
    return torch.rand(2, 3, 40, 60, generator=torch.Generator().manual_seed(0)).split(1)


def test_every_color_of_the_photograph_is_a_region():
    pixels = [[int(bit) for bit in f"{i:03b}"] for i in range(8)]
    mask = torch.tensor(pixels).T.reshape(1, 3, 1, 8) * 0.8 + 0.1
    regions = split_by_color(mask, [mask.flip(3)], 1)
    assert len(regions) == len(COLORS) == 8
    for i, region in enumerate(regions):
        assert region.content.flatten().nonzero().tolist() == [[i]]
        assert region.styles[0].flatten().nonzero().tolist() == [[7 - i]]


def test_without_regions_the_only_one_is_the_whole_picture():
    assert split_by_color(None, [], 3) == [(None, [None] * 3)]


def test_a_color_that_a_style_lacks_is_named():
    black, red = torch.zeros(1, 3, 2, 2), torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    with pytest.raises(ValueError, match="style regions 2 have no red"):
        split_by_color(red, [red, black], 2)


def test_blended_gram_matrices_are_the_weighted_mean(network, paintings):
    config = StylizeConfig(style_weights=(1, 3), style_layers=("relu1_1", "relu3_1"))
    each = [gram_matrices(network, painting, config.style_layers) for painting in paintings]
    blended = blend_grams(paintings, [None, None], network, config, 60)
    assert tuple(blended) == config.style_layers
    for layer, gram in blended.items():
        torch.testing.assert_close(gram, each[0][layer] / 4 + 3 * each[1][layer] / 4)


def test_a_preset_is_blended_like_a_painting(network, paintings):
    grams = gram_matrices(network, paintings[0], STYLE_LAYERS)
    preset = Preset({60: grams}, network.fingerprint)
    blended = blend_grams([preset], [None], network, StylizeConfig(), 60)
    for layer, gram in blend_grams(paintings[:1], [None], network, StylizeConfig(), 60).items():
        torch.testing.assert_close(blended[layer], gram)


def test_a_painting_is_shrunk_to_the_requested_size_and_never_enlarged(network, paintings):
    config = StylizeConfig(style_layers=("relu1_1",))
    small = gram_matrices(network, resize(paintings[0], (20, 30)), config.style_layers)
    torch.testing.assert_close(blend_grams(paintings[:1], [None], network, config, 30), small)
    whole = gram_matrices(network, paintings[0], config.style_layers)
    torch.testing.assert_close(blend_grams(paintings[:1], [None], network, config, 500), whole)


def test_resize_returns_a_copy_in_range():
    image = torch.rand(1, 3, 5, 7).round()
    same = resize(image, (5, 7))
    assert torch.equal(same, image) and same.data_ptr() != image.data_ptr()
    larger = resize(image, (9, 4))
    assert larger.shape == (1, 3, 9, 4) and larger.min() >= 0 and larger.max() <= 1
