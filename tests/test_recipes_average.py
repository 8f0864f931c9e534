import torch
from conftest import run

from cyclegan.models import Generator
from stylekit.networks import weights


def test_generators_are_averaged(tmp_path):
    torch.manual_seed(0)
    networks = [Generator(4, 1, noise=0.2) for _ in range(3)]
    paths = [tmp_path / str(i) for i in range(3)]
    for network, path in zip(networks, paths, strict=True):
        weights.save(network, path)
    result = run("recipes/average.py", *paths, "-o", tmp_path / "mean", "--noise", "0.02")
    assert result.returncode == 0, result.stderr
    mean = Generator.from_pretrained(tmp_path / "mean")
    assert mean.noise == 0.02
    for name, tensor in mean.state_dict().items():
        torch.testing.assert_close(tensor, sum(network.state_dict()[name] for network in networks) / 3)
    weights.save(Generator(4, 2, noise=0.2), tmp_path / "other")
    result = run("recipes/average.py", paths[0], tmp_path / "other", "-o", tmp_path / "nothing")
    assert result.returncode == 2 and "different architectures" in result.stderr and not (tmp_path / "nothing").exists()
