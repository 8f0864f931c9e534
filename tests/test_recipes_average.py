import pytest
import torch
from conftest import load_recipe

from cyclegan.models import Generator
from cyclegan.options import GeneratorConfig
from stylekit.networks import weights

recipe = load_recipe("average")


def test_generators_are_averaged(tmp_path):
    torch.manual_seed(0)
    networks = [Generator(GeneratorConfig(4, 1, noise=0.2)) for _ in range(3)]
    paths = [str(tmp_path / str(i)) for i in range(3)]
    for network, path in zip(networks, paths, strict=True):
        weights.save(network, tmp_path / path)
    recipe.average(recipe.AverageConfig(tuple(paths), tmp_path / "mean", noise=0.02))
    mean = Generator.from_pretrained(tmp_path / "mean")
    assert mean.noise == 0.02
    for name, tensor in mean.state_dict().items():
        torch.testing.assert_close(tensor, sum(network.state_dict()[name] for network in networks) / 3)
    with pytest.raises(FileExistsError, match="already exists"):
        recipe.average(recipe.AverageConfig(tuple(paths), tmp_path / "mean"))


def test_different_architectures_are_refused(tmp_path):
    for blocks in (1, 2):
        weights.save(Generator(GeneratorConfig(4, blocks)), tmp_path / str(blocks))
    with pytest.raises(ValueError, match="different architectures"):
        recipe.average(recipe.AverageConfig((str(tmp_path / "1"), str(tmp_path / "2")), tmp_path / "mean"))
    assert not (tmp_path / "mean").exists()
