from types import SimpleNamespace

import pytest
import torch
from conftest import exit_code, flag_error, load_recipe, one_error
from PIL import Image
from sklearn.datasets import load_sample_image
from torch.nn import functional

from stylekit.networks.vgg import LowRankConv2d, VGGFeatures, layer_names
from stylekit.pictures import images
from stylekit.training import checkpoint

recipe = load_recipe("vgg_compact")


def teacher_tensors():
    """VGG-19 up to relu5_1, with random weights."""
    generator = torch.Generator().manual_seed(0)
    tensors, channels = {}, 3
    for i, name in enumerate(layer_names("vgg19")):
        if name.startswith("conv"):
            width = (64, 128, 256, 512, 512)[int(name[4]) - 1]
            kernel = torch.randn(width, channels, 3, 3, generator=generator) * (2 / (9 * channels)) ** 0.5
            tensors[f"features.{i}.weight"] = kernel
            tensors[f"features.{i}.bias"] = 0.1 * torch.randn(width, generator=generator)
            channels = width
        if name == "conv5_1":
            return tensors
    raise AssertionError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """teacher.pth, and pictures/ with two photographs."""
    root = tmp_path_factory.mktemp("distill")
    torch.save({name: tensor.half() for name, tensor in teacher_tensors().items()}, root / "teacher.pth")
    (root / "pictures").mkdir()
    for name in ("china", "flower"):
        Image.fromarray(load_sample_image(f"{name}.jpg")[::4, ::4]).save(root / "pictures" / f"{name}.png")
    return root


@pytest.fixture(scope="module")
def crops(folder):
    return recipe.Pictures(recipe.DistillConfig((str(folder / "pictures"),), crop_size=64)).crops(8, perturb=False)


@pytest.fixture
def student():
    """The bundled network before its training has ended, so to speak."""
    return recipe.Student(VGGFeatures(recipe.LAYERS, "compact", padding="replicate").state_dict())


def test_redundant_channels_are_kept_once():
    a, b, c, noise, other_noise = torch.randn(5, 1000)
    # Channels 1 and 3 repeat 0 and 2, with noise.
    flat = torch.stack([a, 0.5 * a + 0.1 * noise, b, 0.3 * b + 0.1 * other_noise, 0.8 * c])
    assert recipe._pivots(flat @ flat.mT / 1000, 3) == [0, 2, 4]


def test_a_compressed_network_predicts_the_teacher(folder, crops, monkeypatch):
    # Of the late layers, which take seconds each, only one.
    monkeypatch.setattr(recipe, "LAYERS", ("relu1_1", "relu2_1", "relu3_1", "relu4_1"))
    teacher = VGGFeatures(recipe.LAYERS, "vgg19", folder / "teacher.pth", padding="replicate", normalize=True)
    student, maps = recipe.compress(teacher, crops)
    with torch.no_grad():
        wanted, features = teacher(crops), student(crops)
        errors = {
            name: float((maps(name, features[name]) - wanted[name]).square().mean() / wanted[name].var())
            for name in recipe.LAYERS
        }
    # Predicting the mean would have an error of 1. Random kernels have no low rank: real ones do far better.
    assert errors["relu1_1"] < 0.1 and errors["relu2_1"] < 0.1 and max(errors.values()) < 0.5, errors
    # Late layers are the teacher's own, channel by channel.
    assert set(maps.maps) == {"relu1_1", "relu2_1", "relu3_1"}
    assert features["relu4_1"].shape == wanted["relu4_1"].shape


def test_a_convolution_of_low_rank_is_reproduced(crops):
    true = LowRankConv2d(3, 12, 4).requires_grad_(False)
    kernel = torch.einsum("or,rihw->oihw", true.expand.weight[:, :, 0, 0], true.reduce.weight)
    small = recipe._low_rank(kernel, true.expand.bias, list(crops.split(4)), 4)
    torch.testing.assert_close(small(crops), true(crops), atol=1e-3, rtol=0)


def test_a_fit_corrects_errors_of_earlier_layers(crops):
    """The inputs have half their true size, so the kernel has to double."""
    kernel, bias = torch.randn(5, 3, 3, 3), torch.randn(5)
    parts = list(crops.split(4))
    wanted = [functional.conv2d(part, kernel, bias, padding=1) for part in parts]
    fitted, _ = recipe._fit(kernel, bias, [part / 2 for part in parts], wanted)
    before = (functional.conv2d(crops / 2, kernel, bias, padding=1) - torch.cat(wanted)).square().mean()
    after = (functional.conv2d(crops / 2, fitted, bias, padding=1) - torch.cat(wanted)).square().mean()
    assert after < 0.1 * before


def test_the_exported_network_is_the_trained_one(crops, student, tmp_path):
    recipe.export(student, crops, tmp_path / "model.safetensors")
    read = VGGFeatures(recipe.LAYERS, "compact", tmp_path / "model.safetensors", padding="replicate")(crops)
    for name, features in student(crops).items():
        # Written in float16, and scaled to a mean of 1.
        expected = features / features.mean()
        assert (read[name] - expected).norm() < 0.01 * expected.norm()
        torch.testing.assert_close(read[name].mean(), torch.tensor(1.0), rtol=0.01, atol=0)


def test_a_student_is_the_network_that_vgg_features_builds(crops, student):
    network = VGGFeatures(recipe.LAYERS, "compact", padding="replicate")
    for name, features in student(crops).items():
        assert torch.equal(features, network(crops)[name])


def test_training_stops_in_time_resumes_and_writes_a_network(folder, crops, student, tmp_path, capsys, monkeypatch):
    # The initialization has its own test. A step takes a second of this clock.
    maps = {
        "relu1_1": torch.rand(64, 32) / 32,
        "relu2_1": torch.rand(128, 64) / 64,
        "relu3_1": torch.rand(256, 128) / 128,
    }
    monkeypatch.setattr(recipe, "compress", lambda *_: (student, recipe.Maps(maps)))
    ticks = iter(range(1000))
    monkeypatch.setattr(recipe, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    flags = [folder / "pictures", "--teacher", folder / "teacher.pth", "-o", tmp_path / "out", "--batch-size", 2]
    flags += ["--crop-size", 32, "--walkers", 2, "--walk", 2, "--device", "cpu", "--fit-crops", 1]
    before = [parameter.clone() for parameter in student.trained()]
    assert exit_code(recipe.main, *flags, "--max-minutes", 0.03) == 0
    assert checkpoint.load(tmp_path / "out" / "last.pt")["step"] == 2
    assert not any(torch.equal(a, b) for a, b in zip(before, student.trained(), strict=True))
    capsys.readouterr()
    assert exit_code(recipe.main, *flags) == 2
    assert "last.pt already exists; continue it with --resume" in one_error(capsys, "vgg_compact.py")
    assert exit_code(recipe.main, *flags, "--max-minutes", 0.05, "--resume") == 0
    assert checkpoint.load(tmp_path / "out" / "last.pt")["step"] == 3
    network = VGGFeatures("relu5_1", "compact", tmp_path / "out" / "model.safetensors")
    assert network(crops)["relu5_1"].isfinite().all()


def test_perturbed_pictures_stay_near_their_range(folder):
    crops = recipe.Pictures(recipe.DistillConfig((str(folder / "pictures"),), crop_size=32)).crops(40)
    assert crops.shape == (40, 3, 32, 32)
    assert crops.min() >= -0.25 and crops.max() <= 1.25


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pictures": ()}, "no pictures: give at least one folder"),
        ({"batch_size": 3}, "must be even"),
        ({"crop_size": 100}, "multiple of 16"),
        ({"max_minutes": 0}, "--max-minutes must be positive, got 0"),
    ],
)
def test_wrong_options_are_explained(options, says):
    with pytest.raises(ValueError, match=says):
        recipe.DistillConfig(**({"pictures": ("p",)} | options))


def test_wrong_flags_exit_with_2(capsys):
    assert exit_code(recipe.main, "pictures", "--batch-size", 3) == 2
    assert "--batch-size 3 must be even" in flag_error(capsys)
    assert exit_code(recipe.main, "nowhere") == 2
    assert "nowhere" in one_error(capsys, "vgg_compact.py")


def test_the_bundled_network_is_normalized():
    network = VGGFeatures(recipe.LAYERS, "compact", padding="replicate")
    photograph = images.to_tensor(Image.fromarray(load_sample_image("china.jpg")))
    for name, features in network(photograph).items():
        assert 0.4 < float(features.mean()) < 2.5, name
