import copy
import re

import pytest
import torch
from torch import nn
from torch.nn import functional

from cyclegan.models import Cycle, Generator, GeneratorPair
from cyclegan.options import GeneratorConfig
from stylekit.networks.blocks import InstanceNorm2d, count_parameters
from stylekit.networks.weights import config_of


def official_layout(ngf, n_blocks, dropout=False):
    """The published generator built from PyTorch's own layers according to the appendix of the paper."""

    class Block(nn.Module):
        def __init__(self, c):
            super().__init__()
            layers = [nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), nn.InstanceNorm2d(c), nn.ReLU()]
            layers += [nn.Dropout(0.5)] if dropout else []
            self.conv_block = nn.Sequential(*layers, nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), nn.InstanceNorm2d(c))

        def forward(self, x):
            return x + self.conv_block(x)

    layers = [nn.ReflectionPad2d(3), nn.Conv2d(3, ngf, 7), nn.InstanceNorm2d(ngf), nn.ReLU()]
    for i, o in ((ngf, 2 * ngf), (2 * ngf, 4 * ngf)):
        layers += [nn.Conv2d(i, o, 3, 2, 1), nn.InstanceNorm2d(o), nn.ReLU()]
    layers += [Block(4 * ngf) for _ in range(n_blocks)]
    for i, o in ((4 * ngf, 2 * ngf), (2 * ngf, ngf)):
        layers += [nn.ConvTranspose2d(i, o, 3, 2, 1, 1), nn.InstanceNorm2d(o), nn.ReLU()]
    layers += [nn.ReflectionPad2d(3), nn.Conv2d(ngf, 3, 7), nn.Tanh()]
    network = nn.Module()
    network.model = nn.Sequential(*layers)
    return network.eval()


@pytest.mark.parametrize(("n_blocks", "parameters"), [(9, 11_378_179), (6, 7_837_699)])
def test_generator_has_the_published_number_of_parameters(n_blocks, parameters):
    with torch.device("meta"):
        assert count_parameters(Generator(GeneratorConfig(64, n_blocks, "transposed"))) == parameters
        assert count_parameters(Generator(GeneratorConfig(64, n_blocks, "resize"))) == parameters


@pytest.mark.parametrize("upsample", ["resize", "transposed"])
def test_generator_keeps_the_size_and_its_output_is_in_range(upsample):
    painted = Generator(GeneratorConfig(4, 1, upsample))(torch.randn(2, 3, 16, 24))
    assert painted.shape == (2, 3, 16, 24)
    assert painted.abs().max() <= 1


def test_weights_are_initialised_as_in_the_paper():
    weight = Generator(GeneratorConfig(32, 2)).model[4].weight
    assert abs(weight.std().item() - 0.02) < 0.001


def test_a_limit_holds_for_all_features():
    torch.manual_seed(0)
    network, free, found = Generator(GeneratorConfig(4, 2, limit=1.5)), Generator(GeneratorConfig(4, 2)), []
    free.load_state_dict(network.state_dict())
    for module in network.modules():
        if isinstance(module, InstanceNorm2d):
            module.register_forward_hook(lambda module, inputs, output: found.append(output.abs().max().item()))
    photograph = torch.zeros(1, 3, 32, 32)
    photograph[..., 8, 8] = 1  # A single value is many standard deviations away from the others.
    assert not torch.allclose(network(photograph), free(photograph))
    assert len(found) == 9 and max(found) == 1.5
    assert config_of(network)["limit"] == 1.5


def test_kept_colors_tell_a_bright_photograph_from_a_dark_one():
    torch.manual_seed(0)
    keeping, forgetting = Generator(GeneratorConfig(4, 1, keep_colors=0.5)), Generator(GeneratorConfig(4, 1))
    keeping.load_state_dict(forgetting.state_dict())
    photograph = torch.rand(1, 3, 32, 32) - 0.5
    bright, dark = photograph + 0.4, photograph - 0.4
    torch.testing.assert_close(forgetting(bright), forgetting(dark), atol=1e-4, rtol=0)
    assert (keeping(bright) - keeping(dark)).mean().item() == pytest.approx(0.5 * 0.8, abs=0.01)


@pytest.mark.parametrize("dropout", [False, True])
def test_an_official_file_gives_the_output_of_the_official_network(tmp_path, dropout):
    official = official_layout(8, 3, dropout)
    torch.save(official.state_dict(), tmp_path / "latest_net_G.pth")
    ours = Generator.from_official(tmp_path / "latest_net_G.pth")
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(ours(x), official.model(x))


def test_old_statistics_and_prefixes_in_an_official_file_are_removed(tmp_path):
    tensors = official_layout(4, 2).state_dict()
    expected = copy.deepcopy(tensors)
    for place in ("model.2", "model.10.conv_block.2"):
        tensors[f"{place}.running_mean"] = torch.zeros(4)
        tensors[f"{place}.running_var"] = torch.ones(4)
        tensors[f"{place}.num_batches_tracked"] = torch.tensor(7)
    torch.save({f"module._orig_mod.{key}": value for key, value in tensors.items()}, tmp_path / "net.pth")
    loaded = Generator.from_official(tmp_path / "net.pth").state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)


def damaged(change):
    tensors = dict(official_layout(4, 2).state_dict())
    change(tensors)
    return tensors


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.clear(), "missing model.1.weight"),
        (lambda t: t.pop("model.4.bias"), "missing model.4.bias"),
        (lambda t: t.update({"model.99.weight": torch.ones(1)}), "unexpected model.99.weight"),
        (lambda t: t.update({"model.4.bias": torch.ones(3)}), r"model.4.bias has shape \(3,\), expected \(8,\)"),
        (lambda t: t.update({"model.2.weight": torch.ones(4)}), "batch normalization"),
        (lambda t: t.update({"model.7.filt": torch.ones(8, 1, 3, 3)}), "anti-aliased"),
        (lambda t: t.update({"model.1.weight": torch.ones(4, 1, 7, 7)}), "1 channels"),
    ],
)
def test_the_error_for_another_file_names_the_differences(tmp_path, change, says):
    torch.save(damaged(change), tmp_path / "net.pth")
    with pytest.raises(ValueError, match=says) as error:
        Generator.from_official(tmp_path / "net.pth")
    assert re.search("net.pth", str(error.value))


def test_a_generator_saved_in_half_precision_loads_in_single_precision(tmp_path):
    network = Generator(GeneratorConfig(4, 1, dropout=True)).eval()
    x = torch.rand(1, 3, 16, 16)
    painted = network(x)
    network.half().save_pretrained(tmp_path)
    loaded = Generator.from_pretrained(tmp_path)
    assert loaded.model[1].weight.dtype == torch.float32
    torch.testing.assert_close(loaded.eval()(x), painted, atol=2e-3, rtol=0)


def test_the_generator_pair_computes_every_picture_of_the_cycle():
    pair = GeneratorPair(Generator(GeneratorConfig(4, 1)), Generator(GeneratorConfig(4, 1)))
    real_x, real_y = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    cycle = pair(real_x, real_y)
    expected = Cycle(
        fake_x=pair.F(real_y),
        fake_y=pair.G(real_x),
        cycled_x=pair.F(pair.G(real_x)),
        cycled_y=pair.G(pair.F(real_y)),
        same_x=pair.F(real_x),
        same_y=pair.G(real_y),
    )
    torch.testing.assert_close(tuple(cycle), tuple(expected))
    assert pair(real_x, real_y, identity=False).same_x is None


@pytest.mark.parametrize("size", [1, 4])
def test_noise_is_new_in_training_and_the_same_in_eval_mode(size):
    network = Generator(GeneratorConfig(4, 1, noise=0.2, noise_size=size))
    x = torch.rand(2, 3, 16, 16)
    assert not torch.equal(network(x), network(x))
    network.eval()
    state = torch.get_rng_state()
    first = network(x)
    assert torch.equal(first, network(x)) and torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(first[1:], network(x[1:]))
    noisy = network.with_noise(x)
    assert noisy.shape == (2, 4, 16, 16) and torch.equal(noisy[:, :3], x)
    assert noisy[:, 3].std().item() == pytest.approx(0.2, rel=0.4)
    assert Generator(GeneratorConfig(4, 1)).with_noise(x) is x


def test_antialiasing_makes_features_follow_a_shift_of_the_picture():
    x = torch.rand(1, 3, 64, 64) * 2 - 1

    def error(antialias):
        """How far features of a picture, shifted by half a position, are from shifted features; relative."""
        torch.manual_seed(0)
        model = Generator(GeneratorConfig(4, 1, antialias=antialias)).eval().model[:5]
        features, shifted = model(x), model(torch.roll(x, (1, 1), (2, 3)))
        between = functional.avg_pool2d(functional.pad(features, (1, 0, 1, 0), mode="reflect"), 2, 1)
        return ((shifted - between)[..., 4:-4, 4:-4].square().mean() / features.var()).item()

    assert error(True) < 0.7 * error(False)
