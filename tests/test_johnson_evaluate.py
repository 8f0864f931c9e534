import json

import numpy as np
import pytest
import torch
from conftest import exit_code, flag_error, one_error
from PIL import Image
from sklearn.datasets import load_sample_image

from gatys.losses import gram_matrix
from johnson.cli import main
from johnson.evaluate import style_distances
from johnson.models import TransformerNet
from johnson.options import NetworkConfig
from stylekit.networks import weights


@pytest.fixture
def network(tmp_path):
    torch.manual_seed(0)
    weights.save(TransformerNet(NetworkConfig(4, 1)), tmp_path / "network")
    return tmp_path / "network"


@pytest.fixture
def photographs(tmp_path, pictures):
    (tmp_path / "photographs").mkdir()
    for i in range(3):
        pictures[i].save(tmp_path / "photographs" / f"{i}.png")
    return tmp_path / "photographs"


@pytest.fixture
def painting(tmp_path):
    """The same everywhere, so that its crops have its style."""
    piece = load_sample_image("flower.jpg")[160:192, 300:332]
    Image.fromarray(np.tile(piece, (4, 4, 1))).save(tmp_path / "painting.jpg")
    return tmp_path / "painting.jpg"


def run(*arguments):
    return exit_code(main, "evaluate", *arguments, "--device", "cpu")


def test_the_style_distance_is_0_for_the_style_and_1_for_a_picture_without_features():
    gram = gram_matrix(torch.rand(1, 8, 6, 6))
    assert style_distances({"relu1_1": gram}, {"relu1_1": gram}) == {"style_relu1_1": 0}
    assert style_distances({"relu1_1": 0 * gram}, {"relu1_1": gram}) == {"style_relu1_1": 1}
    assert style_distances({"relu1_1": 0.5 * gram}, {"relu1_1": gram})["style_relu1_1"] == pytest.approx(0.25)


def test_a_network_is_measured_beside_crops_of_the_painting_and_the_photographs(
    network, photographs, painting, tmp_path, capsys
):
    (photographs / "broken.jpg").write_text("no picture")
    out = tmp_path / "evaluation.json"
    assert run("--dataroot", photographs, "-w", network, "--style", painting, "-o", out) == 1
    result = json.loads(out.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    metrics = result["metrics"]
    layers = [f"style_relu{i}_1" for i in range(1, 6)]
    assert list(metrics) == [*layers, "content_kept", "weave", "halo"]
    for layer in layers[:4]:  # Of small crops, relu5_1 is mostly border.
        painted, untouched = (metrics[layer][part]["value"] for part in ("real", "untranslated"))
        assert 0 < painted < 0.5 * untouched, layer
    assert metrics["content_kept"]["untranslated"]["value"] == pytest.approx(1)
    assert metrics["content_kept"]["real"]["value"] < 0.7 and metrics["halo"]["real"] is None
    assert result["counts"]["photographs"] == 3 and "broken.jpg" in result["errors"][0]
    captured = capsys.readouterr()
    assert "broken.jpg" in captured.err and all(name in captured.out for name in (*metrics, "untouched photograph"))


def test_a_bundled_network_has_the_style_of_its_name(photographs, tmp_path, capsys):
    out = tmp_path / "evaluation.json"
    assert run("--dataroot", photographs, "-w", "starry-night", "-o", out, "--max-dataset-size", 2) == 0
    result = json.loads(out.read_text())
    assert result["style"] == ["starry-night"] and result["counts"]["photographs"] == 2
    metric = result["metrics"]["style_relu3_1"]
    assert metric["output"]["value"] < 0.7 * metric["untranslated"]["value"] and metric["real"] is None


def test_wrong_input_gets_one_line_and_exit_code_2(network, photographs, painting, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("--dataroot", photographs, "-w", network) == 2
    assert "add --style with the painting" in one_error(capsys, "johnson")
    assert run("--dataroot", tmp_path / "nowhere", "-w", network, "--style", painting) == 2
    assert "no folder" in one_error(capsys, "johnson")
    for path in photographs.iterdir():
        path.write_text("no picture")
    assert run("--dataroot", photographs, "-w", network, "--style", painting) == 2
    assert "no photograph in" in one_error(capsys, "johnson")
    assert run("--dataroot", photographs, "--vgg-weights", "vgg19.pth") == 2
    assert "add --loss-network vgg19" in flag_error(capsys)
    assert run("--dataroot", photographs, "-o", "evaluation.txt") == 2
    assert "expected a .json file" in flag_error(capsys)
    assert not (tmp_path / "evaluation.json").exists()
