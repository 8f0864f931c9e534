"""Exported networks compute what the library computes."""

import sys

import pytest
import torch
from conftest import exit_code, one_error, plain_network

import cyclegan.cli
import johnson.cli
from cyclegan.models import Generator
from cyclegan.options import GeneratorConfig
from cyclegan.translate import forward as translate_whole
from cyclegan.translate import load_generator, translate
from johnson.models import TransformerNet
from johnson.options import NetworkConfig
from johnson.stylize import forward as stylize_whole
from johnson.stylize import stylize
from stylekit.networks import weights
from stylekit.networks.blocks import InstanceNorm2d
from stylekit.networks.convolutions import Conv2d
from stylekit.networks.export import SMALLEST, export, load_exported, run_whole
from stylekit.networks.noise import PERIOD, SIDE, fixed_noise, noise_tile, random_noise
from stylekit.networks.tiling import run_tiled
from stylekit.pictures import images


def levels(a, b):
    """Largest difference in gray levels."""
    return float((a - b).abs().max() * 255)


@pytest.mark.parametrize("length", range(SMALLEST, SMALLEST + 5))
def test_padding_and_cropping_by_indices_equal_those_of_run_tiled(length):
    image, padded = torch.rand(1, 3, length, length + 7), []
    for run in (run_tiled, run_whole):
        network = plain_network()
        network.model.register_forward_hook(lambda module, inputs, output: padded.append(output))
        assert torch.equal(run(image, network), image)
    assert torch.equal(*padded)


@pytest.mark.parametrize("size", [(36, 47), (45, 66), (54, 43)])
def test_a_whole_picture_is_painted_as_in_tiles(size):
    image = torch.rand(2, 3, *size)
    network = TransformerNet(NetworkConfig(4, 1, noise=0.5, keep_colors=0.5)).eval()
    generator = Generator(GeneratorConfig(4, 1, antialias=True, noise=0.5, noise_size=3, keep_colors=0.5)).eval()
    with torch.no_grad():
        torch.testing.assert_close(stylize_whole(image, network), stylize(image, network), atol=1e-5, rtol=0)
        torch.testing.assert_close(translate_whole(image, generator), translate(image, generator), atol=1e-5, rtol=0)


def test_a_bundled_network_with_plain_convolutions_paints_the_same(pictures):
    photograph = images.to_tensor(pictures[0])
    generator = load_generator("landscape2vangogh")
    with torch.no_grad():
        alone = translate(photograph, generator, draft=False)
        assert levels(translate_whole(photograph, generator), alone) < 0.1


def test_the_noise_repeats_after_its_period():
    noise = fixed_noise(1030, 1024).flatten()
    assert torch.equal(noise[:6144], noise[PERIOD:])
    assert torch.equal(noise[: 40 * 30], fixed_noise(40, 30).flatten())
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01


@pytest.mark.parametrize("size", [2, 4, 7])
def test_noise_with_grains_has_neighbors_alike_and_continues_after_its_period(size):
    tile = noise_tile(size)
    fixed = fixed_noise(1050, 1100, tile)
    assert fixed.shape == (1, 1, 1050, 1100) and torch.equal(fixed[..., :30, :40], fixed_noise(30, 40, tile))
    period = SIDE // size * size
    assert torch.equal(fixed[..., : 1050 - period, :], fixed[..., period:, :])
    new = random_noise(2, 301, 402, size, torch.device("cpu"))
    assert new.shape == (2, 1, 301, 402) and not torch.equal(new[0], new[1])
    for noise in (fixed, new):
        assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
        # Adjacent values are alike, also across the border of the period; values two grains away are independent.
        steps = (noise[..., 1:, :] - noise[..., :-1, :]).abs().mean((1, 3))
        assert steps.max() < 1.5 / size**0.5
        assert abs((noise[..., 2 * size :, :] * noise[..., : -2 * size, :]).mean()) < 0.2


def test_an_onnx_file_paints_pictures_of_any_size_and_number(tmp_path, pictures, capsys):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra export")
    pytest.importorskip("onnxscript", reason="needs the extra export")
    weights.save(Generator(GeneratorConfig(4, 0, antialias=True, noise=0.5, noise_size=4)), tmp_path / "network")
    path = tmp_path / "network.onnx"
    assert exit_code(cyclegan.cli.main, "export", "-w", tmp_path / "network", "-o", path) == 0
    out = capsys.readouterr().out
    assert "at 320 x 214 px: " in out and "at 229 x 153 px: " in out
    generator = load_generator(tmp_path / "network")
    exported = load_exported(path, "uint8")
    for size in ((36, 61), (47, 46)):
        # One value in two lies between two gray levels, and may be rounded to either.
        batch = torch.cat([images.to_tensor(picture.resize(size)) for picture in pictures[:3]])
        assert levels(exported(batch), translate(batch, generator)) < 1.01
    session = onnxruntime.InferenceSession(path)
    assert session.get_inputs()[0].shape == session.get_outputs()[0].shape == ["batch", "height", "width", 3]
    assert session.get_modelmeta().custom_metadata_map["pixels"] == "uint8"


def test_a_torch_program_paints_pictures_of_any_size(tmp_path):
    # Tracing takes seconds for a whole network.
    network = plain_network(Conv2d(3, 3, 7, padding=3), InstanceNorm2d(3))
    path = tmp_path / "network.pt2"
    export(network, run_whole, path, "float32", {})
    image = torch.rand(3, 3, 41, 58)
    with torch.no_grad():
        torch.testing.assert_close(load_exported(path, "float32")(image), run_tiled(image, network))


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("-o", "network.pth"), "--output network.pth: expected a .onnx or .pt2 file"),
        (("--threads", "0"), "--threads must be at least 1, got 0"),
        (("-w", "missing"), "no network missing; "),
    ],
)
def test_bad_options_are_named(args, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for program, prog in ((cyclegan.cli.main, "cyclegan"), (johnson.cli.main, "johnson")):
        assert exit_code(program, "export", *args) == 2
        assert expected in one_error(capsys, prog)
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_and_a_missing_folder_are_named_before_the_work(tmp_path, monkeypatch, capsys):
    weights.save(Generator(GeneratorConfig(4, 1)), tmp_path / "network")
    (tmp_path / "file").touch()
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    assert exit_code(cyclegan.cli.main, "export", "-w", tmp_path / "network", "-o", tmp_path / "a.onnx") == 2
    assert 'export needs the extra "export": pip install ".[export]"' in one_error(capsys, "cyclegan")
    args = ("-w", tmp_path / "network", "-o", tmp_path / "file" / "a.pt2")
    assert exit_code(cyclegan.cli.main, "export", *args) == 2
    assert f"could not write {tmp_path}/file/a.pt2" in one_error(capsys, "cyclegan")


@pytest.mark.parametrize(("suffix", "pixels"), [("onnx", "uint8"), ("pt2", "float32")])
def test_a_file_that_differs_from_pytorch_is_an_error(suffix, pixels, tmp_path, monkeypatch, capsys):
    calls = []

    def fake_export(network, paint, path, *args):
        calls.append((network.noise, paint, path, args[0]))
        path.touch()

    weights.save(TransformerNet(NetworkConfig(4, 1, noise=0.5)), tmp_path / "network")
    path = tmp_path / f"a.{suffix}"
    monkeypatch.setattr("stylekit.networks.export.check_packages", lambda suffix: None)
    monkeypatch.setattr("stylekit.networks.export.export", fake_export)
    monkeypatch.setattr("stylekit.networks.export.load_exported", lambda *_: lambda image: 1 - image)
    args = ("--weights", tmp_path / "network", "-o", path, "--pixels", pixels)
    assert exit_code(johnson.cli.main, "export", *args) == 1
    assert calls == [(0.5, stylize_whole, path, pixels)]
    assert "johnson export: the file differs from PyTorch by more than one gray level" in capsys.readouterr().err
