import json
import resource

import pytest
import torch
from conftest import ROOT
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image

from cyclegan.discriminators import FeatureDiscriminator, PatchDiscriminator, _constant_vgg
from cyclegan.models import Generator
from cyclegan.options import GeneratorConfig
from cyclegan.translate import load_generator, translate
from johnson.models import TransformerNet
from stylekit.networks import weights
from stylekit.pictures.images import to_tensor


@pytest.mark.parametrize(
    "name", ["landscape2vangogh", "landscape2vangogh-cycle", "vangogh2landscape", "vangogh2landscape-cycle"]
)
def test_a_bundled_generator_changes_a_picture_but_keeps_its_content(name, pictures):
    network = load_generator(name)
    assert isinstance(network, Generator)
    photograph = to_tensor(Image.fromarray(load_sample_image("china.jpg")).resize((160, 106)))
    translated = translate(photograph, network)
    assert translated.shape == photograph.shape
    # Content is preserved if the brightness of the two pictures correlates.
    assert (translated - photograph).abs().mean() > 0.03
    both = torch.stack([translated.mean(1).flatten(), photograph.mean(1).flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.5


def test_every_bundled_network_has_a_model_card_and_is_small():
    for name, folder in (weights.bundled() | weights.bundled("johnson")).items():
        card = (folder / "README.md").read_text()
        assert all(word in card.lower() for word in ("data", "command", "license")), name
        assert (folder / "model.safetensors").stat().st_size < 25e6


def test_bundled_styles_are_found_by_name_only_with_their_kind():
    names = weights.bundled("johnson")
    assert list(names) == ["mosaic", "starry-night", "sunflowers", "van-gogh", "wheat-field-with-cypresses"]
    assert weights.find("van-gogh", "johnson") == names["van-gogh"]
    assert all((folder / "model.safetensors").stat().st_size < 3.5e6 for folder in names.values())
    with pytest.raises(FileNotFoundError, match="did you mean landscape2vangogh"):
        weights.find("landscape2vangoh")
    with pytest.raises(FileNotFoundError, match="one of landscape2vangogh, landscape2vangogh-cycle, vangogh2landscape"):
        weights.find("starry-night")


def test_a_folder_with_a_network_has_precedence_over_a_bundled_name_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "landscape2vangogh").mkdir()  # Such as an earlier --output.
    assert weights.find("landscape2vangogh") == weights.bundled()["landscape2vangogh"]
    assert capsys.readouterr().err == ""
    (tmp_path / "landscape2vangogh" / "G").mkdir()
    assert str(weights.find("landscape2vangogh")) == "landscape2vangogh"
    note = "note: landscape2vangogh is the folder ./landscape2vangogh, not the bundled network\n"
    assert capsys.readouterr() == ("", note)


def test_a_painting_is_no_network(photo):
    with pytest.raises(ValueError, match=r"^photo.jpg is a picture, not a network; `gatys photo.jpg photo.jpg`"):
        weights.find(photo, "johnson")


def test_a_hub_id_is_told_from_a_misspelled_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for run in ("checkpoints/mine/G", "runs/a1/G"):
        (tmp_path / run).mkdir(parents=True)
    assert weights.find("somebody/cyclegan") == weights.find("hf:somebody/cyclegan") == "somebody/cyclegan"
    assert weights.find("hf:checkpoints/mien") == "checkpoints/mien"
    for name, meant in (
        ("checkpoints/mien", "checkpoints/mine"),
        ("chekpoints/mine", "checkpoints/mine"),
        ("mine", "checkpoints/mine"),
        ("runs/a2", "runs/a1"),
        ("landscape2vangoh", "landscape2vangogh"),
    ):
        with pytest.raises(FileNotFoundError, match=rf"^no network {name}; did you mean {meant}\?$"):
            weights.find(name)
    for name in ("hf:nobody", "hf:", "", "/nowhere/x"):
        with pytest.raises(
            FileNotFoundError, match=rf"^no network {name}; expected a training run, .* \(hf:owner/name\)"
        ):
            weights.find(name)


@pytest.mark.parametrize("name", ["winter2summer", "checkpoints/mien", "./runs/mine", "runs/latest.pth", "~/x"])
def test_the_error_for_any_other_name_lists_the_bundled_networks(name):
    with pytest.raises(FileNotFoundError, match="landscape2vangogh"):
        weights.find(name)


def test_bundled_weights_are_in_the_folder_that_setup_py_packages():
    assert {folder.parent for folder in weights.bundled().values()} == {ROOT / "weights"}


def test_a_state_dict_contains_only_tensors(tmp_path):
    torch.save({"w": torch.zeros(2), "epoch": 3}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match="epoch is a int; expected a state dict"):
        weights.load_tensors(tmp_path / "net.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="contains a list"):
        weights.load_tensors(tmp_path / "list.pth")


def test_safetensors_are_loaded_and_damage_is_reported(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file({"w": torch.ones(2)}, path)
    assert torch.equal(weights.load_tensors(path)["w"], torch.ones(2))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"net\.safetensors: truncated"):
        weights.load_tensors(path)


def test_every_difference_between_state_dicts_is_listed():
    expected = {"a": torch.Size([2]), "b": torch.Size([3])}
    weights.check_shapes({"a": torch.zeros(2), "b": torch.zeros(3)}, expected, "net.pth", "a network")
    with pytest.raises(
        ValueError, match=r"^net\.pth: does not match a network: missing b; unexpected c; a has shape \(1,\)"
    ):
        weights.check_shapes({"a": torch.zeros(1), "c": torch.zeros(3)}, expected, "net.pth", "a network")


def test_a_saved_network_is_the_one_that_is_loaded_and_nothing_else_is_written(tmp_path):
    network = Generator(GeneratorConfig(4, 1))
    weights.save(network, tmp_path / "G")
    assert {path.name for path in tmp_path.glob("**/*")} == {"G", "config.json", "model.safetensors"}
    assert len({path.stat().st_mode for path in (tmp_path / "G").iterdir()}) == 1
    loaded = weights.load(Generator, tmp_path / "G", "a generator", "a training run")
    assert loaded._hub_mixin_config == network._hub_mixin_config and not loaded.training
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("[]", "a JSON list, expected an object"),
        ("5", "a JSON int, expected an object"),
        ("null", "a JSON NoneType, expected an object"),
        ('{"ngf": 4, "n_blocks": 1000000}', "n_blocks is 1000000, but model.safetensors has only 16 tensors"),
        ('{"ngf": 4, "noise_size": 1000000}', "noise_size must be in"),
        (
            '{"ngf": 3000, "n_blocks": 1}',
            r"config.json: model.1.weight has shape \(4, .*, expected \(3000",
        ),
        ("[" * 100_000, "config.json does not describe a generator"),
        ('{"ngf": "many"}', "config.json does not describe a generator"),
        ('{"ngf": 4, "noise_size": 2.5}', "config.json does not describe a generator .*noise_size"),
        ('{"ngf": 4, "noise": NaN}', "config.json does not describe a generator .*noise"),
    ],
)
def test_a_hostile_config_is_one_line_before_memory_is_taken(tmp_path, config, says):
    weights.save(Generator(GeneratorConfig(4, 1)), tmp_path)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=says):
        weights.load(Generator, tmp_path, "a generator", "a run")


@pytest.mark.parametrize("shape", [(2000, 0), (10**9, 0), (100_000,)])
@pytest.mark.parametrize("network", [Generator, TransformerNet, PatchDiscriminator, FeatureDiscriminator])
def test_a_tensor_without_its_bytes_asks_for_no_memory(tmp_path, network, shape):
    """Shapes of tensors without values cost nothing; a network of that size is built on the meta device only."""
    save_file({"model.1.weight": torch.zeros(shape, dtype=torch.int8)}, tmp_path / "model.safetensors")
    FeatureDiscriminator(4)  # Loads the constant features.
    with torch.device("meta"):
        FeatureDiscriminator(4)  # Imports 100 MB of PyTorch.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    config = dict.fromkeys(("ngf", "ndf", "width", "n_blocks", "n_layers"), shape[0])
    for few in ({}, {"n_blocks": 1, "n_layers": 1}):
        (tmp_path / "config.json").write_text(json.dumps(config | few))
        with pytest.raises(ValueError, match=r"config\.json"):
            weights.load(network, tmp_path, "a network", "a run")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_a_network_on_the_hub_is_read_like_a_folder(tmp_path, monkeypatch):
    network = PatchDiscriminator(4, 1)
    weights.save(network, tmp_path)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda name, file, **_: str(tmp_path / file))
    loaded = weights.load(PatchDiscriminator, "somebody/patches", "a discriminator", "a run")
    assert torch.equal(loaded.model[0].weight, network.model[0].weight) and not loaded.training


def test_a_hub_out_of_reach_is_asked_once_and_the_cache_is_used(tmp_path, monkeypatch):
    requests = []

    def refuse(url, **_):
        requests.append(url)
        raise ConnectionError("offline\nagain")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", refuse)
    says = r"^hf:somebody/patches: the Hugging Face Hub cannot be reached \(offline\)$"
    with pytest.raises(OSError, match=says):
        weights.load(PatchDiscriminator, "somebody/patches", "a discriminator", "a run")
    assert requests == ["https://huggingface.co/somebody/patches/resolve/main/config.json"]
    weights.save(PatchDiscriminator(4, 1), tmp_path)
    cached = {True: str(tmp_path / "config.json")}
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda name, file, local_files_only: cached[local_files_only]
    )
    assert weights.load(PatchDiscriminator, "somebody/patches", "a discriminator", "a run")


def test_a_feature_discriminator_can_be_loaded_first(tmp_path):
    """Its features are a constant that is cached: they must not stay on the meta device."""
    _constant_vgg.cache_clear()
    weights.save(FeatureDiscriminator(4), tmp_path)
    _constant_vgg.cache_clear()
    loaded = weights.load(FeatureDiscriminator, tmp_path, "a discriminator", "a run")
    assert loaded(torch.rand(1, 3, 32, 32)).isfinite().all()


def test_a_network_that_would_paint_black_is_refused(tmp_path):
    network = Generator(GeneratorConfig(4, 1))
    network.model[1].weight.data[0, 0, 0, 0] = float("nan")
    weights.save(network, tmp_path)
    with pytest.raises(ValueError, match=r"model\.1\.weight is infinite or NaN"):
        weights.load(Generator, tmp_path, "a generator", "a run")


def test_safetensors_that_cannot_be_read_are_one_line(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.safetensors: truncated or damaged"):
        weights.load_tensors(tmp_path / "a.safetensors")


def test_safetensors_of_very_many_names_are_refused_at_once(tmp_path):
    save_file({f"layer.{i}.weight": torch.zeros(1) for i in range(30_000)}, tmp_path / "many.safetensors")
    with pytest.raises(ValueError, match=r"many\.safetensors: damaged, or has too many tensors \(a header of 2,"):
        weights.load_tensors(tmp_path / "many.safetensors")
