import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from cyclegan.models import Generator
from cyclegan.options import GeneratorConfig
from cyclegan.translate import load_generator
from stylekit.networks import weights


@pytest.fixture
def network(tmp_path):
    torch.manual_seed(0)
    weights.save(Generator(GeneratorConfig(4, 1)), tmp_path / "network")
    return tmp_path / "network"


def test_a_training_run_provides_both_directions(tmp_path):
    torch.manual_seed(0)
    for name in ("G", "F"):
        weights.save(Generator(GeneratorConfig(4, 1)), tmp_path / "run" / name)
    forward, backward = (load_generator(tmp_path / "run", direction).state_dict() for direction in ("x2y", "y2x"))
    assert torch.equal(forward["model.1.weight"], load_generator(tmp_path / "run" / "G").state_dict()["model.1.weight"])
    assert not torch.equal(forward["model.1.weight"], backward["model.1.weight"])


def test_a_single_network_has_one_direction(network):
    with pytest.raises(ValueError, match="is a single network for one direction"):
        load_generator(network, "y2x")


def test_official_files_are_loaded(tmp_path):
    network = Generator(GeneratorConfig(4, 1, "transposed"))
    torch.save(network.state_dict(), tmp_path / "latest_net_G.pth")
    loaded = load_generator(tmp_path / "latest_net_G.pth")
    assert torch.equal(loaded.model[1].weight, network.model[1].weight) and not loaded.training


def break_config(folder):
    (folder / "config.json").write_text("{")


def break_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def change_shape(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.1.bias"] = torch.zeros(9)
    save_file(tensors, folder / "model.safetensors")


def drop_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.1.bias"]
    save_file(tensors, folder / "model.safetensors")


def remove_weights(folder):
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (break_config, "config.json does not describe a generator"),
        (break_weights, "truncated or damaged"),
        (change_shape, "does not match config.json (size mismatch for model.1.bias"),
        (drop_tensor, 'does not match config.json (Missing key(s) in state_dict: "model.1.bias"'),
        (remove_weights, "no model.safetensors in"),
    ],
)
def test_the_error_for_damaged_weights_names_the_file(network, damage, says):
    damage(network)
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(says)) as error:
        load_generator(network)
    assert str(network) in str(error.value) and "\n" not in str(error.value)
