import pytest
import torch
from torch.nn import functional

from johnson.models import TransformerNet
from stylekit.blocks import InstanceNorm2d


def official(width=32):
    """A state dict as fast_neural_style saves it: random, but so that pictures come out, in [0, 255]."""
    torch.manual_seed(1)
    tensors = {}

    def convolution(name, channels_in, channels_out, side):
        tensors[f"{name}.conv2d.weight"] = torch.randn(channels_out, channels_in, side, side) / (
            side * channels_in**0.5
        )
        tensors[f"{name}.conv2d.bias"] = torch.randn(channels_out)

    def norm(name, channels):
        tensors[f"{name}.weight"] = 1 + 0.3 * torch.randn(channels)
        tensors[f"{name}.bias"] = 0.3 * torch.randn(channels)

    for i, (a, b, side) in enumerate(((3, width, 9), (width, 2 * width, 3), (2 * width, 4 * width, 3)), start=1):
        convolution(f"conv{i}", a, b, side)
        norm(f"in{i}", b)
    for i in range(1, 6):
        for j in (1, 2):
            convolution(f"res{i}.conv{j}", 4 * width, 4 * width, 3)
            norm(f"res{i}.in{j}", 4 * width)
    for i, (a, b) in enumerate(((4 * width, 2 * width), (2 * width, width)), start=1):
        convolution(f"deconv{i}", a, b, 3)
        norm(f"in{i + 3}", b)
    convolution("deconv3", width, 3, 9)
    tensors["deconv3.conv2d.weight"] *= 60
    tensors["deconv3.conv2d.bias"] += 128
    return tensors


def official_forward(tensors, x):
    """What fast_neural_style does with a picture in [0, 255], step by step."""

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


def test_the_published_width_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in TransformerNet(bound=False, noise=0.0).parameters()) == 1_679_235
    assert sum(p.numel() for p in TransformerNet().parameters()) == 1_679_235 + 6 + 9 * 9 * 32
    assert sum(p.numel() for p in TransformerNet(16).parameters()) < 1_679_235 / 3.9


def test_height_and_width_stay():
    assert TransformerNet(4, 1)(torch.rand(2, 3, 16, 24)).shape == (2, 3, 16, 24)


def test_noise_that_is_not_given_is_zero():
    network, photographs = TransformerNet(4, 1), torch.rand(2, 3, 16, 24)
    network.noise = 2.0
    silence, noise = torch.zeros(2, 1, 16, 24), torch.randn(2, 1, 16, 24)
    taken = network.with_noise(photographs, noise)
    assert torch.equal(taken, torch.cat([photographs, 2 * noise], dim=1))
    assert torch.equal(network(photographs), network(torch.cat([photographs, silence], dim=1)))
    assert not torch.allclose(network(photographs), network(taken))


def test_every_normalisation_is_affine():
    norms = [m for m in TransformerNet(4, 5).modules() if isinstance(m, InstanceNorm2d)]
    assert len(norms) == 16 and all(norm.affine for norm in norms)


@pytest.mark.parametrize("width", [32, 8])
def test_an_official_file_paints_the_same_picture(tmp_path, width):
    tensors = official(width)
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


def test_an_official_file_in_half_precision_or_of_data_parallel_is_read(tmp_path):
    tensors = official(4)
    torch.save({f"module.{key}": value.half() for key, value in tensors.items()}, tmp_path / "half.pth")
    weight = TransformerNet.from_official(tmp_path / "half.pth").state_dict()["model.5.weight"]
    torch.testing.assert_close(weight, tensors["conv2.conv2d.weight"].half().float())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("in3.bias"), "missing in3.bias"),
        (lambda t: t.update(extra=torch.zeros(1)), "unexpected extra"),
        (lambda t: t.update({"in2.weight": torch.zeros(5)}), r"in2.weight has shape \(5,\), expected \(8,\)"),
        (lambda t: t.pop("conv1.conv2d.weight"), "not a network of fast_neural_style"),
        (lambda t: t.update({"in2.weight": "text"}), "in2.weight is a str"),
    ],
)
def test_another_file_is_refused_with_what_differs(tmp_path, change, says):
    tensors = official(4)
    change(tensors)
    torch.save(tensors, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=f"other.pth.*{says}"):
        TransformerNet.from_official(tmp_path / "other.pth")


@pytest.mark.parametrize("options", [{"width": 0}, {"n_blocks": -1}, {"upsample": "transposed"}, {"noise": -1}])
def test_arguments_out_of_range_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        TransformerNet(**options)
