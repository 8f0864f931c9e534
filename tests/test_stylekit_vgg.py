from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from stylekit.networks.vgg import VGGFeatures, layer_names
from stylekit.networks.weights import bundled_file, load_tensors

OXFORD = Path(__file__).resolve().parents[2] / "shared" / "weights" / "vgg19_features_oxford_fp16.pth"

SHALLOW = ("conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1", "conv2_1", "relu2_1")


@pytest.fixture(scope="module")
def shallow() -> nn.Sequential:
    return torchvision_features("vgg19", depth=len(SHALLOW))


@pytest.fixture
def shallow_file(shallow: nn.Sequential, tmp_path: Path) -> Path:
    return write(tmp_path / "shallow.pth", prefixed("features.", shallow))


def torchvision_features(network: str, depth: int) -> nn.Sequential:
    """The first layers of torchvision's model, with random weights that half precision holds exactly."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        features = getattr(torchvision.models, network)(weights=None).features[:depth]
    features.to_empty(device="cpu")
    for parameter in features.parameters():
        spread = (2 / parameter[0].numel()) ** 0.5 if parameter.ndim == 4 else 0.1
        values = torch.randn(parameter.shape, generator=generator) * spread
        parameter.data = values.half().float()
    return features.requires_grad_(False)


def activations(features: nn.Sequential, picture: Tensor) -> list[Tensor]:
    """The output of every layer of torchvision's model for a picture in [0, 1]."""
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    x = (picture - mean) / std
    outputs = []
    for module in features:
        x = module(x.clone())  # ReLU is in place in torchvision.
        outputs.append(x)
    return outputs


def prefixed(prefix: str, features: nn.Sequential) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in features.state_dict().items()}


def caffe_names(network: str, features: nn.Sequential) -> dict[str, Tensor]:
    renamed = {}
    for key, tensor in features.state_dict().items():
        index, kind = key.split(".")
        renamed[f"{layer_names(network)[int(index)]}.{kind}"] = tensor
    return renamed


def write(path: Path, tensors: dict[str, Tensor]) -> Path:
    torch.save(tensors, path)
    return path


def random_picture(height: int = 12, width: int = 14) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        assert expected[name].std() > 0.01, f"{name} is flat, which would make the comparison meaningless"
        # Winograd's algorithm rounds differently.
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-3 * float(expected[name].std()))


@pytest.mark.parametrize(
    ("network", "places"),
    [
        (
            "vgg19",
            {"relu1_1": 1, "relu2_1": 6, "relu3_1": 11, "relu4_1": 20, "relu4_2": 22, "relu5_1": 29, "pool5": 36},
        ),
        ("vgg16", {"relu1_1": 1, "relu2_2": 8, "relu3_3": 15, "relu4_3": 22, "relu5_3": 29, "pool5": 30}),
    ],
)
def test_indices_of_layer_names_are_those_of_torchvision(network, places):
    names = layer_names(network)
    assert {name: names.index(name) for name in places} == places
    assert len(names) == places["pool5"] + 1


@pytest.mark.parametrize("network", ["vgg16", "vgg19"])
def test_every_layer_up_to_pool5_equals_that_of_torchvision(network, tmp_path):
    names = layer_names(network)
    features = torchvision_features(network, depth=len(names))
    half = {key: tensor.half() for key, tensor in prefixed("features.", features).items()}
    vgg = VGGFeatures(names, network, weights=write(tmp_path / "half.pth", half))
    picture = random_picture(32, 32)
    assert {tensor.dtype for tensor in vgg.state_dict().values()} == {torch.float32}
    assert_same(vgg(picture), dict(zip(names, activations(features, picture), strict=True)))


LAYOUTS: dict[str, Callable[[nn.Sequential], dict[str, Tensor]]] = {
    "whole": lambda features: {**prefixed("features.", features), "classifier.0.weight": torch.zeros(4, 2)},
    "convolutions": lambda features: prefixed("features.", features),
    "bare": lambda features: prefixed("", features),
    "parallel": lambda features: prefixed("module.features.", features),
    "parallel convolutions": lambda features: prefixed("features.module.", features),
    "compiled": lambda features: prefixed("_orig_mod.module.features.", features),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_load_from_every_layout_of_torchvision(layout, shallow, tmp_path):
    vgg = VGGFeatures(SHALLOW, weights=write(tmp_path / "weights.pth", LAYOUTS[layout](shallow)))
    picture = random_picture()
    assert_same(vgg(picture), dict(zip(SHALLOW, activations(shallow, picture), strict=True)))


def test_caffe_weights_get_bgr_input_from_0_to_255_minus_the_mean(shallow, tmp_path):
    weights = caffe_names("vgg19", shallow)
    vgg = VGGFeatures(["relu1_1", "relu2_1"], weights=write(tmp_path / "vgg_conv.pth", weights))
    picture = random_picture()

    caffe = 255 * picture[:, [2, 1, 0]] - torch.tensor([103.939, 116.779, 123.68]).view(3, 1, 1)
    relu1_1 = functional.conv2d(caffe, weights["conv1_1.weight"], weights["conv1_1.bias"], padding=1).relu()
    relu1_2 = functional.conv2d(relu1_1, weights["conv1_2.weight"], weights["conv1_2.bias"], padding=1).relu()
    pool1 = functional.max_pool2d(relu1_2, 2)
    relu2_1 = functional.conv2d(pool1, weights["conv2_1.weight"], weights["conv2_1.bias"], padding=1).relu()

    assert relu2_1.max() > 100
    found = vgg(picture)
    torch.testing.assert_close(found["relu1_1"], relu1_1, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found["relu2_1"], relu2_1, rtol=1e-4, atol=1e-3)


def test_a_saved_state_dict_keeps_the_input_normalization(shallow, tmp_path):
    caffe = VGGFeatures(["relu2_1"], weights=write(tmp_path / "vgg_conv.pth", caffe_names("vgg19", shallow)))
    again = VGGFeatures(["relu2_1"], weights=write(tmp_path / "state.pth", caffe.state_dict()))
    assert_same(again(random_picture()), caffe(random_picture()))


def test_default_weights_are_those_of_torchvision(shallow, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    kept = tmp_path / "hub" / "checkpoints" / Path(torchvision.models.VGG19_Weights.IMAGENET1K_V1.url).name
    kept.parent.mkdir(parents=True)
    write(kept, prefixed("features.", shallow))
    picture = random_picture()
    assert_same(VGGFeatures(["relu2_1"])(picture), {"relu2_1": activations(shallow, picture)[-1]})


def test_a_failed_download_raises_one_line_with_advice(tmp_path, monkeypatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    with pytest.raises(OSError, match=r"vgg16-.*no route to host.*--vgg-weights FILE") as caught:
        VGGFeatures(["relu1_1"], network="vgg16")
    assert "\n" not in str(caught.value)


def test_layers_are_returned_in_the_requested_order_and_a_single_name_is_allowed(shallow_file):
    vgg = VGGFeatures(["relu2_1", "conv1_1"], weights=shallow_file)
    assert list(vgg(random_picture())) == ["relu2_1", "conv1_1"]
    assert list(VGGFeatures("relu1_2", weights=shallow_file)(random_picture())) == ["relu1_2"]


def test_a_subset_of_the_layers_runs_no_deeper_than_necessary(shallow_file):
    vgg = VGGFeatures(["relu2_1", "conv1_1"], weights=shallow_file)
    last = []
    vgg.features[-1].register_forward_hook(lambda *_: last.append(True))
    some = vgg(random_picture(), ["conv1_1"])
    assert not last and list(some) == ["conv1_1"]
    assert torch.equal(some["conv1_1"], vgg(random_picture())["conv1_1"]) and last


def test_a_requested_convolution_is_not_overwritten_by_its_relu(shallow_file):
    found = VGGFeatures(["conv1_1", "relu1_1", "conv1_2", "pool1"], weights=shallow_file)(random_picture())
    assert found["conv1_1"].min() < 0
    assert found["conv1_2"].min() < 0
    torch.testing.assert_close(found["relu1_1"], found["conv1_1"].relu())
    torch.testing.assert_close(found["pool1"], functional.max_pool2d(found["conv1_2"].relu(), 2))


def test_gradients_reach_the_picture_but_not_the_weights(shallow_file):
    vgg = VGGFeatures(["conv1_2", "relu2_1"], weights=shallow_file)
    picture = random_picture().requires_grad_()
    sum(features.square().mean() for features in vgg(picture).values()).backward()
    assert picture.grad is not None
    assert (picture.grad != 0).all()
    assert not vgg.training
    assert len(list(vgg.parameters())) == 6
    assert all(not weight.requires_grad and weight.grad is None for weight in vgg.parameters())


def test_average_pooling_averages(shallow_file):
    picture = random_picture()
    average = VGGFeatures(["relu1_2", "pool1"], weights=shallow_file, pooling="average")(picture)
    largest = VGGFeatures(["relu1_2", "pool1"], weights=shallow_file)(picture)
    corners = [average["relu1_2"][..., i::2, j::2] for i in range(2) for j in range(2)]
    torch.testing.assert_close(average["pool1"], sum(corners) / 4)
    torch.testing.assert_close(average["relu1_2"], largest["relu1_2"])
    assert (largest["pool1"] >= average["pool1"]).all()
    assert (largest["pool1"] > average["pool1"]).any()


def test_replicate_padding_affects_the_first_convolution_only(shallow_file):
    plain = torch.tensor([0.9, 0.5, 0.1]).view(1, 3, 1, 1).expand(1, 3, 8, 8)

    def spread(features: Tensor) -> float:
        return (features.amax((2, 3)) - features.amin((2, 3))).max().item()

    zeros = VGGFeatures(["conv1_1", "conv1_2"], weights=shallow_file)(plain)
    replicate = VGGFeatures(["conv1_1", "conv1_2"], weights=shallow_file, padding="replicate")(plain)
    assert spread(replicate["conv1_1"]) < 1e-4
    assert spread(zeros["conv1_1"]) > 0.1
    assert spread(replicate["conv1_2"]) > 0.1
    torch.testing.assert_close(replicate["conv1_1"][..., 1:-1, 1:-1], zeros["conv1_1"][..., 1:-1, 1:-1])


def test_pictures_too_small_for_the_poolings_are_rejected_with_the_minimum_size(tmp_path):
    features = torchvision_features("vgg19", depth=layer_names().index("relu3_1") + 1)
    vgg = VGGFeatures(["relu1_1", "relu3_1"], weights=write(tmp_path / "weights.pth", prefixed("", features)))
    assert vgg(random_picture(4, 4))["relu3_1"].shape == (2, 256, 1, 1)
    assert vgg(random_picture(7, 11))["relu3_1"].shape == (2, 256, 1, 2)
    with pytest.raises(ValueError, match=r"relu3_1 needs pictures of at least 4 x 4 pixels, got 3 x 64"):
        vgg(random_picture(3, 64))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 4, 8, 8)])
def test_input_that_is_not_a_batch_of_rgb_pictures_is_rejected(shape, shallow_file):
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\), got \(\d"):
        VGGFeatures(["relu1_1"], weights=shallow_file)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ["relu1_1", "relu9_1"]}, "no vgg19 layer 'relu9_1'; choose from conv1_1, relu1_1, .*, pool5"),
        ({"layers": ["relu3_4"], "network": "vgg16"}, "no vgg16 layer 'relu3_4'; choose from conv1_1, .*, pool5"),
        ({"layers": [21]}, "no vgg19 layer 21; choose from conv1_1"),
        ({"layers": []}, "no vgg19 layer given; choose from conv1_1"),
        ({"layers": ["relu1_1"], "network": "vgg11"}, "no network 'vgg11'; choose from compact, vgg16, vgg19"),
        ({"layers": ["relu1_1"], "pooling": "median"}, "no pooling 'median'; choose from max, average"),
        ({"layers": ["relu1_1"], "padding": "reflect"}, "no padding 'reflect'; choose from zeros, replicate"),
    ],
)
def test_the_error_for_an_unknown_name_lists_the_valid_ones(options, message, shallow_file):
    with pytest.raises(ValueError, match=message):
        VGGFeatures(**options, weights=shallow_file)


def test_the_error_for_a_wrong_shape_uses_the_caffe_name_for_caffe_files(shallow, tmp_path):
    tensors = {**caffe_names("vgg19", shallow), "conv1_1.weight": torch.zeros(64)}
    file = write(tmp_path / "odd.pth", tensors)
    with pytest.raises(ValueError, match=r"odd\.pth: .*: conv1_1\.weight has shape \(64,\), expected \(64, 3, 3, 3\)"):
        VGGFeatures(["relu1_1"], weights=file)


@pytest.mark.parametrize("lost", ["2.bias", "5.weight"])
def test_the_error_for_a_missing_tensor_names_it(lost, shallow, tmp_path):
    tensors = prefixed("", shallow)
    del tensors[lost]
    file = write(tmp_path / "holes.pth", tensors)
    VGGFeatures(["relu1_1"], weights=file)
    with pytest.raises(ValueError, match=rf"holes\.pth: does not match vgg19: missing features\.{lost}"):
        VGGFeatures(["relu2_1"], weights=file)


@pytest.mark.parametrize("layer", ["relu1_1", "relu3_3", "relu4_1"])
@pytest.mark.parametrize("naming", ["indices", "caffe"])
@pytest.mark.parametrize(("held", "wanted"), [("vgg16", "vgg19"), ("vgg19", "vgg16")])
def test_weights_of_another_network_are_recognized(held, wanted, naming, layer, tmp_path):
    with torch.device("meta"):
        features = getattr(torchvision.models, held)(weights=None).features
    tensors = prefixed("", features) if naming == "indices" else caffe_names(held, features)
    # Only names and shapes matter; bytes keep the file small.
    zeros = {key: torch.zeros(tensor.shape, dtype=torch.int8) for key, tensor in tensors.items()}
    file = write(tmp_path / "other.pth", zeros)
    VGGFeatures([layer], network=held, weights=file)
    with pytest.raises(ValueError, match=rf"other\.pth: .*The file contains {held}: pass network='{held}'"):
        VGGFeatures([layer], network=wanted, weights=file)


@pytest.mark.skipif(not OXFORD.is_file(), reason=f"no file {OXFORD.name}")
def test_the_oxford_weights_give_the_known_mean_activations_for_a_photograph():
    datasets = pytest.importorskip("sklearn.datasets")
    photograph = torch.tensor(datasets.load_sample_image("china.jpg")).permute(2, 0, 1)[None, :, :224, :224] / 255
    known = {"relu1_1": 21, "relu2_1": 104, "relu3_1": 99, "relu4_1": 397, "relu4_2": 262, "relu5_1": 35}
    with torch.inference_mode():
        found = VGGFeatures(known, weights=OXFORD)(photograph)
    assert found.keys() == known.keys()
    for name, mean in known.items():
        assert mean / 2 < found[name].mean().item() < mean * 2, name


def test_weights_in_bfloat16_can_be_read(tmp_path):
    whole = VGGFeatures("relu1_1", "compact")
    tensors = {
        name: tensor.bfloat16() for name, tensor in load_tensors(bundled_file("vgg-compact/model.safetensors")).items()
    }
    found = VGGFeatures("relu1_1", "compact", write(tmp_path / "half.pth", tensors))
    x = random_picture()
    torch.testing.assert_close(found(x)["relu1_1"], whole(x)["relu1_1"], rtol=0.1, atol=0.1)
