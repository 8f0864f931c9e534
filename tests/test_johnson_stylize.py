import pytest
import torch
from conftest import official_johnson

from johnson.models import TransformerNet
from johnson.options import NetworkConfig
from johnson.stylize import load_network, stylize
from stylekit.networks import weights
from stylekit.pictures import images


def test_noise_is_the_same_in_every_call_and_for_every_picture_of_a_batch():
    image = torch.full((2, 3, 64, 64), 0.5)
    torch.manual_seed(0)
    plain, noisy = (TransformerNet(NetworkConfig(4, 1, noise=noise)) for noise in (0.0, 1.0))
    assert stylize(image, plain).std((2, 3)).max() < 1e-3
    painted = stylize(image, noisy)
    assert painted.std((2, 3)).min() > 1e-2
    assert torch.equal(painted, stylize(image, noisy))
    torch.testing.assert_close(painted[0], painted[1])


def test_a_training_run_and_an_official_file_are_loaded(tmp_path):
    network = TransformerNet(NetworkConfig(4, 1))
    weights.save(network, tmp_path / "run" / "model")
    assert torch.equal(load_network(tmp_path / "run").model[1].weight, network.model[1].weight)
    torch.save(official_johnson(4), tmp_path / "mosaic.pth")
    assert load_network(tmp_path / "mosaic.pth").model[1].weight.shape == (4, 3, 9, 9)


@pytest.mark.parametrize("name", ["mosaic", "starry-night", "sunflowers", "van-gogh", "wheat-field-with-cypresses"])
def test_a_bundled_style_changes_a_photograph(name, pictures):
    photograph = images.to_tensor(pictures[0].resize((128, 128)))
    network = load_network(name)
    assert sum(p.numel() for p in network.parameters()) == 1_681_833
    stylized = stylize(photograph, network)
    assert (stylized - photograph).abs().mean() > 0.05 and stylized.std() > 0.05
