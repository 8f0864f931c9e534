import pytest
import torch
from conftest import ROOT

from cyclegan.models import Generator
from cyclegan.translate import load_generator, translate
from stylekit import weights


def test_the_shipped_networks_are_found_by_name():
    names = weights.shipped()
    assert {"landscape2vangogh", "vangogh2landscape"} <= names.keys()
    assert weights.find("landscape2vangogh") == names["landscape2vangogh"]


@pytest.mark.parametrize("name", ["landscape2vangogh", "vangogh2landscape"])
def test_a_shipped_network_paints(name, pictures):
    from stylekit.images import to_tensor

    network = load_generator(name)
    assert isinstance(network, Generator)
    photograph = to_tensor(pictures[0])
    painted = translate(photograph, network)
    assert painted.shape == photograph.shape
    # It changes the picture, and keeps what is on it: the brightness goes the same way.
    assert (painted - photograph).abs().mean() > 0.03
    both = torch.stack([painted.mean(1).flatten(), photograph.mean(1).flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.5


def test_every_shipped_network_has_a_card_and_is_small():
    for name, folder in (weights.shipped() | weights.shipped("johnson")).items():
        card = (folder / "README.md").read_text()
        assert all(word in card.lower() for word in ("data", "command", "licence")), name
        assert (folder / "model.safetensors").stat().st_size < 25e6


def test_the_styles_of_johnson_are_found_by_name_among_their_kind_only():
    names = weights.shipped("johnson")
    assert list(names) == ["starry-night", "sunflowers", "van-gogh", "wheat-field-with-cypresses"]
    assert weights.find("van-gogh", "johnson") == names["van-gogh"]
    assert all((folder / "model.safetensors").stat().st_size < 3.5e6 for folder in names.values())
    with pytest.raises(FileNotFoundError, match="did you mean landscape2vangogh"):
        weights.find("landscape2vangoh")
    with pytest.raises(FileNotFoundError, match="one of landscape2vangogh, vangogh2landscape"):
        weights.find("starry-night")


def test_a_path_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "landscape2vangogh").mkdir()
    assert str(weights.find("landscape2vangogh")) == "landscape2vangogh"


def test_a_hub_id_is_left_to_the_hub():
    assert weights.find("somebody/cyclegan") == "somebody/cyclegan"


@pytest.mark.parametrize("name", ["landscape2monet", "./runs/mine", "runs/latest.pth", "a/b/c", "~/x"])
def test_anything_else_is_refused_with_the_names_that_exist(name):
    with pytest.raises(FileNotFoundError, match="landscape2vangogh"):
        weights.find(name)


def test_the_shipped_weights_lie_where_setup_py_takes_them_from():
    assert all(folder.parent == ROOT / "weights" for folder in weights.shipped().values())
