import pytest
import torch
from conftest import official_johnson
from torch.nn import functional

from johnson.models import TransformerNet
from johnson.options import NetworkConfig
from stylekit.networks.blocks import InstanceNorm2d, count_parameters
from stylekit.networks.noise import fixed_noise
from stylekit.networks.weights import config_of


def official_forward(tensors, x):
    """The forward pass of fast_neural_style for a picture in [0, 255]."""

    def convolution(x, name, stride=1):
        weight = tensors[f"{name}.conv2d.weight"]
        x = functional.pad(x, (weight.shape[-1] // 2,) * 4, mode="reflect")
        return functional.conv2d(x, weight, tensors[f"{name}.conv2d.bias"], stride)

    def norm(x, name):
        return functional.instance_norm(x, weight=tensors[f"{name}.weight"], bias=tensors[f"{name}.bias"])

    for i, stride in ((1, 1), (2, 2), (3, 2)):
        x = norm(convolution(x, f"conv{i}", stride), f"in{i}").relu()
    for i in range(1, 6):
        y = norm(convolution(x, f"res{i}.conv1"), f"res{i}.in1").relu()
        x = x + norm(convolution(y, f"res{i}.conv2"), f"res{i}.in2")
    for i in (1, 2):
        x = functional.interpolate(x, scale_factor=2, mode="nearest")
        x = norm(convolution(x, f"deconv{i}"), f"in{i + 3}").relu()
    return convolution(x, "deconv3")


def test_the_published_architecture_has_the_published_number_of_parameters():
    assert count_parameters(TransformerNet(NetworkConfig(bound=False, noise=0.0))) == 1_679_235
    assert count_parameters(TransformerNet()) == 1_679_235 + 6 + 9 * 9 * 32
    assert count_parameters(TransformerNet(NetworkConfig(16))) < 1_679_235 / 3.9


def test_height_and_width_are_kept():
    assert TransformerNet(NetworkConfig(4, 1))(torch.rand(2, 3, 16, 24)).shape == (2, 3, 16, 24)


def test_noise_is_scaled_and_the_same_in_every_call_unless_it_is_given():
    network, photographs, noise = (
        TransformerNet(NetworkConfig(4, 1)),
        torch.rand(2, 3, 16, 24),
        torch.randn(2, 1, 16, 24),
    )
    network.noise = 2.0
    assert torch.equal(network.with_noise(photographs, noise), torch.cat([photographs, 2 * noise], dim=1))
    assert torch.equal(network(photographs), network(photographs, fixed_noise(16, 24).expand(2, -1, -1, -1)))
    assert not torch.allclose(network(photographs), network(photographs, noise))
    assert TransformerNet(NetworkConfig(4, 1, noise=0.0)).with_noise(photographs, noise) is photographs


def test_a_limit_holds_for_all_features_and_not_for_the_colors():
    network, found = TransformerNet(NetworkConfig(4, 1, limit=1.5)), []
    for module in network.modules():
        if isinstance(module, InstanceNorm2d):
            module.register_forward_hook(lambda module, inputs, output: found.append(output.abs().max().item()))
    photograph = torch.zeros(1, 3, 32, 32)
    photograph[..., 8, 8] = 1  # A single value is many standard deviations away from the others.
    network(photograph)
    assert max(found[:-1]) == 1.5 and found[-1] > 1.5
    assert config_of(network)["limit"] == 1.5


def test_every_normalisation_is_affine():
    norms = [m for m in TransformerNet(NetworkConfig(4, 5)).modules() if isinstance(m, InstanceNorm2d)]
    assert len(norms) == 16 and all(norm.affine for norm in norms)


@pytest.mark.parametrize("width", [32, 8])
def test_an_official_file_gives_the_output_of_the_official_network(tmp_path, width):
    tensors = official_johnson(width)
    assert len(tensors) == 62
    stale = {f"in{i}.running_{kind}": torch.zeros(width) for i in (1, 5) for kind in ("mean", "var")}
    stale |= {"res3.in2.running_mean": torch.zeros(4 * width)}
    torch.save(tensors | stale, tmp_path / "mosaic.pth")
    network = TransformerNet.from_official(tmp_path / "mosaic.pth")
    photograph = torch.rand(1, 3, 40, 56)
    with torch.no_grad():
        expected = official_forward(tensors, photograph * 255).clamp(0, 255)
        painted = network(photograph).clamp(0, 1) * 255
    assert expected.std() > 20
    assert (painted - expected).abs().max() < 0.1


def test_an_official_file_from_data_parallel_in_half_precision_is_loaded(tmp_path):
    tensors = official_johnson(4)
    torch.save({f"module.{key}": value.half() for key, value in tensors.items()}, tmp_path / "half.pth")
    weight = TransformerNet.from_official(tmp_path / "half.pth").state_dict()["model.5.weight"]
    torch.testing.assert_close(weight, tensors["conv2.conv2d.weight"].half().float())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("in3.bias"), "missing in3.bias"),
        (lambda t: t.update(extra=torch.zeros(1)), "unexpected extra"),
        (lambda t: t.update({"in2.weight": torch.zeros(5)}), r"in2.weight has shape \(5,\), expected \(8,\)"),
        (lambda t: t.pop("conv1.conv2d.weight"), "not a fast_neural_style network"),
        (lambda t: t.update({"in2.weight": "text"}), "in2.weight is a str"),
    ],
)
def test_the_error_for_another_file_names_the_differences(tmp_path, change, says):
    tensors = official_johnson(4)
    change(tensors)
    torch.save(tensors, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=f"other.pth.*{says}"):
        TransformerNet.from_official(tmp_path / "other.pth")
