import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_image

from gatys.losses import gram_matrix
from gatys.options import STYLE_LAYERS
from gatys.styles import (
    DISCARDED,
    Preset,
    bundled_presets,
    check_preset,
    load_preset,
    make_preset,
    save_preset,
    style_network,
)
from stylekit.pictures import images


@pytest.fixture(scope="module")
def network():
    return style_network("compact", None, "max")


@pytest.fixture(scope="module")
def paintings():
    return [Image.fromarray(load_sample_image(name)).crop((200, 100, 460, 240)) for name in ("china.jpg", "flower.jpg")]


@pytest.fixture(scope="module")
def preset(network, paintings):
    return make_preset(paintings[:1], network)


def test_a_preset_holds_the_gram_matrices_of_its_painting_at_each_size_that_it_reaches(preset, network, paintings):
    assert sorted(preset.grams) == [128, 256]
    for size, grams in preset.grams.items():
        layers = network(images.to_tensor(images.resize(paintings[0], size)))
        assert tuple(grams) == STYLE_LAYERS
        for layer, gram in grams.items():
            torch.testing.assert_close(gram, gram_matrix(layers[layer]))


def test_a_painters_style_is_the_mean_of_the_paintings(network, paintings):
    both, *each = (make_preset(group, network) for group in (paintings, paintings[:1], paintings[1:]))
    for layer, gram in both.grams[128].items():
        torch.testing.assert_close(gram, sum(p.grams[128][layer] for p in each) / 2)


def test_presets_interpolate_between_sizes_and_use_the_nearest_beyond_them():
    preset = Preset({128: {"relu1_1": torch.zeros(1, 2, 2)}, 512: {"relu1_1": torch.ones(1, 2, 2)}}, "")
    for size, value in ((64, 0.0), (128, 0.0), (256, 0.5), (512, 1.0), (4000, 1.0)):
        torch.testing.assert_close(preset.at(size)["relu1_1"], torch.full((1, 2, 2), value))


def test_a_small_painting_is_used_for_the_smallest_size(network):
    preset = make_preset([Image.new("RGB", (30, 20), "red")], network)
    assert list(preset.grams) == [128]


def test_a_file_keeps_nearly_all_of_a_style(preset, tmp_path):
    save_preset(preset, tmp_path / "style.safetensors")
    loaded = load_preset(tmp_path / "style.safetensors")
    assert loaded.fingerprint == preset.fingerprint
    for size, grams in preset.grams.items():
        for layer, gram in grams.items():
            assert (loaded.grams[size][layer] - gram).square().sum() < 1.1 * DISCARDED * gram.square().sum()
    # The full matrices of two sizes would take 4.3 MB.
    assert (tmp_path / "style.safetensors").stat().st_size < 150_000


def test_the_bundled_styles_are_for_the_bundled_network(network):
    presets = bundled_presets()
    assert {"starry-night", "wheat-field-with-cypresses", "sunflowers", "olive-trees", "van-gogh"} <= presets.keys()
    for name, path in presets.items():
        assert load_preset(name).fingerprint == network.fingerprint, name
        assert path.stat().st_size < 500_000


def test_an_unknown_style_gets_the_list_of_bundled_ones():
    with pytest.raises(FileNotFoundError, match=r"no style starry; .*starry-night"):
        load_preset("starry")


def test_a_damaged_style_file_is_named(preset, tmp_path):
    path = tmp_path / "style.safetensors"
    save_preset(preset, path)
    whole = path.read_bytes()
    # Clone: tensors are mapped from the file, which is about to be truncated.
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"style\.safetensors: damaged"):
        load_preset(path)
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"style\.safetensors: damaged, or not written"):
        load_preset(path)
    save_file({"128.relu1_1": torch.zeros(4, 1), "256.relu2_1": torch.zeros(4)}, path, {"fingerprint": "x"})
    with pytest.raises(ValueError, match=r"style\.safetensors: damaged"):
        load_preset(path)


def test_a_style_needs_at_least_one_painting(network):
    with pytest.raises(ValueError, match="at least one painting"):
        make_preset([], network)


def test_a_factor_that_would_take_gigabytes_is_refused(tmp_path):
    save_file({"256.relu1_1": torch.zeros(40_000, 1).half()}, tmp_path / "big.safetensors", {"fingerprint": "x"})
    with pytest.raises(ValueError, match=r"big\.safetensors: damaged"):
        load_preset(tmp_path / "big.safetensors")


@pytest.mark.parametrize(("key", "value"), [("0.relu1_1", 1.0), ("-128.relu1_1", 1.0), ("128.relu1_1", float("inf"))])
def test_a_size_of_nothing_and_infinite_values_are_refused(tmp_path, key, value):
    save_file({key: torch.full((64, 2), value)}, tmp_path / "odd.safetensors", {"fingerprint": "x"})
    with pytest.raises(ValueError, match=r"odd\.safetensors: damaged"):
        load_preset(tmp_path / "odd.safetensors")


def test_matrices_of_another_size_than_the_layers_are_refused(preset, network):
    check_preset(preset, network, STYLE_LAYERS)
    grams = {size: layers | {"relu2_1": torch.zeros(1, 7, 7)} for size, layers in preset.grams.items()}
    with pytest.raises(ValueError, match="its relu2_1 does not fit the network"):
        check_preset(Preset(grams, preset.fingerprint), network, STYLE_LAYERS)
