import pytest
import torch
from conftest import run
from PIL import Image
from sklearn.datasets import load_sample_image
from torch.nn import functional

from stylekit import checkpoint, distill, images
from stylekit.distill import LAYERS, DistillConfig, Pictures, Student, compress, export
from stylekit.vgg import LowRankConv2d, VGGFeatures, layer_names


def teacher_tensors():
    """VGG-19 down to relu5_1, with random weights."""
    torch.manual_seed(0)
    tensors, before = {}, 3
    for i, name in enumerate(layer_names("vgg19")):
        if name.startswith("conv"):
            width = (64, 128, 256, 512, 512)[int(name[4]) - 1]
            tensors[f"features.{i}.weight"] = torch.randn(width, before, 3, 3) * (2 / (9 * before)) ** 0.5
            tensors[f"features.{i}.bias"] = 0.1 * torch.randn(width)
            before = width
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
def teacher(folder):
    return VGGFeatures(LAYERS, "vgg19", folder / "teacher.pth", padding="replicate", normalize=True)


@pytest.fixture(scope="module")
def crops(folder):
    return Pictures(DistillConfig((str(folder / "pictures"),), crop_size=96)).crops(8, perturb=False)


def test_channels_that_say_the_same_are_kept_once():
    a, b, c, noise, other_noise = torch.randn(5, 1000)
    # Channels 1 and 3 say what 0 and 2 say, less clearly.
    flat = torch.stack([a, 0.5 * a + 0.1 * noise, b, 0.3 * b + 0.1 * other_noise, 0.8 * c])
    assert distill._pivots(flat @ flat.mT / 1000, 3) == [0, 2, 4]


@pytest.fixture(scope="module")
def compressed(teacher, crops):
    return compress(teacher, crops)


def test_a_compressed_network_predicts_the_teacher(teacher, crops, compressed):
    student, maps = compressed
    with torch.no_grad():
        wanted, seen = teacher(crops), student(crops)
        errors = {n: float((maps(n, seen[n]) - wanted[n]).square().mean() / wanted[n].var()) for n in LAYERS}
    # To predict the mean would be an error of 1. Random kernels have no low rank: real ones do far better.
    assert errors["relu1_1"] < 0.1 and errors["relu2_1"] < 0.1 and max(errors.values()) < 0.5, errors
    # The late layers are the teacher's own, channel by channel.
    assert set(maps.maps) == {"relu1_1", "relu2_1", "relu3_1"}
    assert seen["relu5_1"].shape == wanted["relu5_1"].shape


def test_a_convolution_of_low_rank_is_kept_as_it_is(crops):
    true = LowRankConv2d(3, 12, 4).requires_grad_(False)
    kernel = torch.einsum("or,rihw->oihw", true.expand.weight[:, :, 0, 0], true.reduce.weight)
    small = distill._low_rank(kernel, true.expand.bias, list(crops.split(4)), 4)
    torch.testing.assert_close(small(crops), true(crops), atol=1e-3, rtol=0)


def test_a_fit_makes_up_for_the_errors_of_the_layers_before(crops):
    """The inputs are only half as large as they should be: the kernel has to be twice as large."""
    kernel, bias = torch.randn(5, 3, 3, 3), torch.randn(5)
    parts = list(crops.split(4))
    wanted = [functional.conv2d(part, kernel, bias, padding=1) for part in parts]
    fitted, _ = distill._fit(kernel, bias, [part / 2 for part in parts], wanted)
    before = (functional.conv2d(crops / 2, kernel, bias, padding=1) - torch.cat(wanted)).square().mean()
    after = (functional.conv2d(crops / 2, fitted, bias, padding=1) - torch.cat(wanted)).square().mean()
    assert after < 0.1 * before


def test_what_is_written_is_what_was_trained(crops, compressed, tmp_path):
    student, _ = compressed
    export(student, crops, tmp_path / "model.safetensors")
    read = VGGFeatures(LAYERS, "compact", tmp_path / "model.safetensors", padding="replicate")(crops)
    for name, seen in student(crops).items():
        # Written in float16, and scaled to a mean of 1.
        expected = seen / seen.mean()
        assert (read[name] - expected).norm() < 0.01 * expected.norm()
        torch.testing.assert_close(read[name].mean(), torch.tensor(1.0), rtol=0.01, atol=0)


def test_a_student_is_the_network_that_vgg_features_builds(crops):
    network = VGGFeatures(LAYERS, "compact", padding="replicate")
    student = Student(network.state_dict())
    for name, seen in student(crops).items():
        assert torch.equal(seen, network(crops)[name])


def test_training_goes_on_and_writes_a_network(folder, crops):
    out = folder / "out"
    args = ("-m", "stylekit.distill", folder / "pictures", "--teacher", folder / "teacher.pth", "-o", out)
    args += ("--batch-size", 2, "--crop-size", 32, "--walkers", 2, "--walk", 3, "--device", "cpu", "--fit-crops", 20)
    assert (first := run(*args, "--max-minutes", 0.05)).returncode == 0, first.stderr
    steps = checkpoint.load(out / "last.pt")["step"]
    assert steps > 3
    refused = run(*args)
    assert refused.returncode == 2 and "--resume" in refused.stderr
    assert (second := run(*args, "--max-minutes", 0.1, "--resume")).returncode == 0, second.stderr
    assert checkpoint.load(out / "last.pt")["step"] > steps
    network = VGGFeatures("relu5_1", "compact", out / "model.safetensors")
    assert network(crops)["relu5_1"].isfinite().all()


def test_disturbed_pictures_stay_near_their_range(folder):
    pictures = Pictures(DistillConfig((str(folder / "pictures"),), crop_size=32))
    crops = pictures.crops(40)
    assert crops.shape == (40, 3, 32, 32)
    assert crops.min() >= -0.25 and crops.max() <= 1.25


@pytest.mark.parametrize(
    "options, says",
    [
        ({"pictures": ()}, "give folders with pictures"),
        ({"batch_size": 3}, "must be even"),
        ({"crop_size": 100}, "multiple of 16"),
        ({"max_minutes": 0}, "--max-minutes must be more than 0"),
    ],
)
def test_options_that_make_no_sense_are_named(options, says):
    with pytest.raises(ValueError, match=says):
        DistillConfig(**({"pictures": ("p",)} | options))


def test_the_shipped_network_is_normalised():
    network = VGGFeatures(LAYERS, "compact", padding="replicate")
    photograph = images.to_tensor(Image.fromarray(load_sample_image("china.jpg")))
    for name, seen in network(photograph).items():
        assert 0.4 < float(seen.mean()) < 2.5, name
