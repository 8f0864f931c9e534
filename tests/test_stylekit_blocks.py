import pytest
import torch
from torch import nn
from torch.nn import functional

from stylekit.networks.blocks import (
    DownsampleConv2d,
    EncoderDecoder,
    InstanceNorm2d,
    ResidualBlock,
    UpsampleConv2d,
    normal_init,
)
from stylekit.networks.keep_colors import KeepColors


def test_instance_norm_equals_that_of_pytorch():
    x = torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(InstanceNorm2d(3)(x), nn.InstanceNorm2d(3)(x))


def test_instance_norm_with_the_statistics_of_the_whole_picture_normalises_a_part_like_the_whole():
    x = torch.randn(2, 3, 8, 8) * 3 + 1
    norm = InstanceNorm2d(3, affine=True)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    whole = norm(x)
    statistics = (x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True))
    norm.measure = lambda part: statistics
    torch.testing.assert_close(norm(x[..., :4, 2:]), whole[..., :4, 2:])


def test_instance_norm_of_a_single_position_is_zero():
    assert InstanceNorm2d(3)(torch.randn(1, 3, 1, 1)).abs().max() < 1e-4


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (64, 64)])
def test_kept_colors_move_a_painting_towards_its_photograph(size):
    red, blue = (torch.tensor(c).view(1, 3, 1, 1).expand(1, 3, *size) for c in ((0.9, 0.3, 0.3), (0.3, 0.5, 0.8)))
    torch.testing.assert_close(KeepColors(0.25, black=0)(red, blue), 0.75 * red + 0.25 * blue)
    torch.testing.assert_close(KeepColors(1, black=0)(red, blue), blue)


def test_kept_colors_leave_strokes_and_contours():
    y, x = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    hill = torch.where(y > 48, -0.4, 0.6).expand(1, 3, 96, 96)  # A dark hill before a bright sky.
    strokes = 0.2 * torch.sin(2 * torch.pi * (x + y) / 8)
    painted = KeepColors(1, black=-1)(0.5 * hill + strokes, hill)
    inside = slice(8, -8)  # At the border, where a stroke is cut off, its mean is not 0.
    torch.testing.assert_close((painted - strokes)[..., :24, inside], hill[..., :24, inside], atol=0.01, rtol=0)
    contour = (painted - strokes)[..., 48, inside] - (painted - strokes)[..., 49, inside]
    assert contour.min() == pytest.approx(0.5, abs=0.05)  # As high as painted.


@pytest.mark.parametrize("black", [-1.0, 0.0])
def test_strokes_fade_in_black_areas_but_not_around_a_light(black):
    photograph = torch.full((1, 3, 64, 64), black)
    photograph[..., 32, 32] = 1
    strokes = 0.3 * torch.rand(1, 3, 64, 64)
    painted, everywhere = (KeepColors(0.5, value)(photograph + strokes, photograph) for value in (black, None))
    assert torch.equal(painted[..., :20, :], photograph[..., :20, :])
    assert (everywhere - photograph)[..., :20, :].std() == pytest.approx(0.3 / 12**0.5, rel=0.1)
    assert (painted - photograph)[..., 30:35, 30:35].std() == pytest.approx(0.3 / 12**0.5, rel=0.3)


def test_residual_block_without_weights_is_the_identity():
    block = ResidualBlock(4)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 4, 6, 5)
    torch.testing.assert_close(block(x), x)


def test_dropout_moves_the_second_convolution_of_a_residual_block_by_one_index():
    assert "conv_block.5.weight" in ResidualBlock(4).state_dict()
    assert "conv_block.6.weight" in ResidualBlock(4, dropout=True).state_dict()


def encoder_decoder(skip):
    torch.manual_seed(0)
    down = (nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 2, stride=2), nn.ReLU())
    return EncoderDecoder(*down, ResidualBlock(8), UpsampleConv2d(8, 4), nn.ReLU(), nn.Conv2d(4, 3, 1), skip=skip)


def test_an_encoder_decoder_runs_its_modules_in_sequence():
    network, x = encoder_decoder(skip=False), torch.rand(1, 3, 8, 8)
    expected = x
    for module in network:
        expected = module(expected)
    torch.testing.assert_close(network(x), expected)
    assert [len(part) for part in network.parts()] == [4, 1, 3]


def test_skip_adds_the_features_of_the_encoder_to_those_of_the_decoder_at_the_same_resolution():
    network, x = encoder_decoder(skip=True), torch.rand(1, 3, 8, 8)
    first, _, second, _, block, up, _, last = network
    fine = first(x).relu()
    torch.testing.assert_close(network(x), last(up(block(second(fine).relu())).relu() + fine))
    assert network.state_dict().keys() == encoder_decoder(skip=False).state_dict().keys()


def test_upsampling_causes_no_checkerboard_unlike_transposed_convolution():
    torch.manual_seed(0)
    flat = torch.ones(1, 8, 16, 16)
    ours = UpsampleConv2d(8, 1)(flat)[..., 4:-4, 4:-4]
    transposed = nn.ConvTranspose2d(8, 1, 3, stride=2, padding=1, output_padding=1)(flat)[..., 4:-4, 4:-4]
    assert ours.std() < 1e-6
    assert transposed.std() > 1e-3


def test_upsampling_is_bilinear_interpolation_and_a_convolution_with_reflection_padding():
    layer = UpsampleConv2d(2, 3)
    x = torch.randn(1, 2, 3, 3)
    # Every new pixel is interpolated at a quarter of the distance between two old ones; the border is repeated.
    between = torch.tensor([[4, 0, 0], [3, 1, 0], [1, 3, 0], [0, 3, 1], [0, 1, 3], [0, 0, 4]]) / 4
    enlarged = between @ x @ between.mT
    padded = functional.pad(enlarged, (1, 1, 1, 1), mode="reflect")
    torch.testing.assert_close(layer(x), functional.conv2d(padded, layer.weight, layer.bias))


@pytest.mark.parametrize("layer", [nn.Conv2d(64, 64, 3), nn.ConvTranspose2d(64, 64, 3), UpsampleConv2d(64, 64)])
def test_normal_init_draws_from_the_distribution_of_the_paper(layer):
    nn.init.ones_(layer.bias)
    layer.apply(normal_init)
    assert abs(layer.weight.std().item() - 0.02) < 0.001
    assert abs(layer.weight.mean().item()) < 0.001
    assert layer.bias.abs().max() == 0


def test_downsampling_with_a_blur_does_not_see_the_nyquist_frequency():
    columns = torch.tensor([1.0, -1.0]).repeat(8).expand(1, 1, 16, 16)
    blurred, plain = DownsampleConv2d(1, 1), nn.Conv2d(1, 1, 3, stride=2, padding=1, padding_mode="reflect")
    plain.load_state_dict(blurred.state_dict())
    assert (blurred(columns) - blurred.bias).abs().max() < 1e-6
    assert (plain(columns) - plain.bias).abs().max() > 1e-2
    flat = torch.full((1, 1, 16, 16), 0.7)
    torch.testing.assert_close(blurred(flat), plain(flat))
    assert blurred(flat).shape == (1, 1, 8, 8)
    assert "blur" not in blurred.state_dict()
