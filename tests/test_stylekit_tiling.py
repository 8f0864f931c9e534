import pytest
import torch
from torch import nn

from cyclegan.models import Generator
from johnson.models import TransformerNet
from stylekit import tiling
from stylekit.blocks import InstanceNorm2d

NETWORKS = {
    "johnson": lambda: TransformerNet(4, 2),
    "johnson as published": lambda: TransformerNet(4, 2, skip=False, noise=0.0),
    "johnson without blocks": lambda: TransformerNet(4, 0, "nearest"),
    "cyclegan": lambda: Generator(4, 2),
    "cyclegan as published": lambda: Generator(4, 1, "transposed"),
}


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4), (5, 64), (20, 700), (33, 47), (64, 64)])
def test_the_size_stays_whatever_it_is(size):
    # A network that changes nothing shows whether the picture comes back at its place.
    image = torch.rand(1, 3, *size)
    torch.testing.assert_close(tiling.paint(image, nn.Identity()), image)
    assert tiling.paint(image, TransformerNet(4, 1)).shape == image.shape


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(150, 230), (64, 300), (301, 40)])
@torch.no_grad()
def test_tiles_are_the_whole_picture(name, size):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    for parameter in network.parameters():
        parameter.mul_(2)  # Away from where everything is nearly linear.
    # Dark on the left, and noisy on the right: a tile alone has other statistics than the whole.
    image = torch.rand(2, network.model[1].in_channels, *size) * torch.linspace(0.1, 1, size[1])
    whole = tiling.paint(image, network)
    for tile in (64, 100):
        torch.testing.assert_close(tiling.paint(image, network, tile), whole, atol=2e-4, rtol=0)
    assert all(m.statistics is None for m in network.modules() if isinstance(m, InstanceNorm2d))
    alone = tiling.paint(image[..., : size[1] // 2], network)
    assert (alone - whole[..., : size[1] // 2]).abs().max() > 0.02


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_the_margin_does_not_shift_colours(name):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    # The border is bright, so that a margin of its reflection brightens the mean.
    image = torch.rand(1, network.model[1].in_channels, 240, 200)
    image[..., 20:-20, 20:-20] *= 0.3
    plain = network(image)[..., 100:140, 80:120]
    painted = tiling.paint(image, network)[..., 100:140, 80:120]
    margin = nn.functional.pad(image, (32, 32, 32, 32), mode="reflect")
    measured_with_it = network(margin)[..., 132:172, 112:152]
    assert (painted - plain).abs().mean() < 0.3 * (measured_with_it - plain).abs().mean()
    assert all(m.margin is None for m in network.modules() if isinstance(m, InstanceNorm2d))


def test_statistics_are_let_go_when_something_fails():
    network = TransformerNet(4, 1, noise=0.0)
    network.model[-3] = nn.Conv2d(5, 3, 9)
    with pytest.raises(RuntimeError):
        tiling.paint(torch.rand(1, 3, 100, 100), network, 64)
    assert all(m.statistics is None and m.margin is None for m in network.modules() if isinstance(m, InstanceNorm2d))


def test_a_picture_that_does_not_fit_in_half_of_the_free_memory_is_painted_in_tiles(monkeypatch):
    network = TransformerNet(4, 1, noise=0.0)
    seen = []
    network.model[1].register_forward_hook(lambda module, inputs, output: seen.append(max(output.shape[2:])))
    monkeypatch.setattr(tiling, "free_memory", lambda device: 2 * tiling.BYTES * 4 * 1000 * 1000)
    with torch.no_grad():
        tiling.paint(torch.rand(1, 3, 900, 900), network)
        assert seen == [964]
        seen.clear()
        tiling.paint(torch.rand(1, 3, 1200, 900), network)
    assert len(seen) > 4 and max(seen) < 1000
