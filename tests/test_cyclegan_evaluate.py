import json
import shutil
import sys

import pytest
import torch
from conftest import exit_code, flag_error, one_error
from PIL import Image
from sklearn.datasets import load_sample_image
from torch.nn import functional

from cyclegan.cli import main
from cyclegan.evaluate import MARKS, Reference, find_pictures, load_generators, score
from cyclegan.models import Generator
from cyclegan.options import GeneratorConfig
from stylekit.networks import weights
from stylekit.networks.figures import Figure, table
from stylekit.networks.metrics import CompactVGG, Estimate
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
def reference(collections):
    return Reference(*collections, {"vgg_compact": CompactVGG()})


def run(*arguments):
    return exit_code(main, "evaluate", *arguments, "--device", "cpu")


def blur(x, side=7):
    return functional.avg_pool2d(functional.pad(x, [side // 2] * 4, mode="reflect"), side, 1)


def cloth(x):
    """A woven texture, as up-sampling can leave it."""
    rows, columns = (torch.arange(size).float() for size in x.shape[2:])
    return x + 0.02 * (torch.sin(rows * 1.1)[:, None] + torch.sin(columns * 1.1))


def test_a_network_that_copies_gets_the_marks_of_the_untranslated_pictures(reference):
    copy = reference.measure(lambda x: x, back=lambda x: x)
    for name in ("kid_vgg_compact", "palette_distance", "weave", "content_kept", "halo"):
        assert copy[name].output == pytest.approx(copy[name].untranslated, abs=1e-5), name
    assert copy["cycle_error"].output == (0, 0, 0)


def test_planted_networks_rank_as_a_person_would_rank_them(collections, reference):
    real = iter(collections[1])
    found = {
        "copy": reference.measure(lambda x: x),
        "blur": reference.measure(blur),
        "cloth": reference.measure(cloth),
        "real": reference.measure(lambda x: next(real)),
    }

    def values(name):
        return {network: of[name].output.value for network, of in found.items()}

    content, weave, kid, palette = map(values, ("content_kept", "weave", "kid_vgg_compact", "palette_distance"))
    assert content["copy"] > content["blur"] > content["real"]
    assert weave["cloth"] > 1.5 > 3 * weave["copy"]
    assert kid["real"] < 0.2 * min(kid["copy"], kid["blur"], kid["cloth"])
    assert palette["real"] < 0.5 * palette["copy"] and palette["blur"] == pytest.approx(palette["copy"], rel=0.1)


def test_the_marks_of_the_distances_lie_around_the_output(collections, reference):
    figure = reference.measure(lambda x: 0.5 * x + 0.5 * collections[1][0])["palette_distance"]
    assert figure.real.value < figure.output.value < figure.untranslated.value


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
        assert result["figures"]["cycle_error"]["output"]["value"] > 0
        assert {"kid_vgg_compact", "kid_efficientnet_lite0"} < result["figures"].keys()
        printed = capsys.readouterr().out
        assert all(name in printed for name in result["figures"]) and str(out) in printed


def test_a_single_network_has_no_cycle_error_and_unreadable_pictures_are_reported(dataset, network, tmp_path, capsys):
    (dataset / "trainB" / "broken.jpg").write_text("no picture")
    shutil.rmtree(dataset / "testA")
    out = tmp_path / "evaluation.json"
    assert run("--dataroot", dataset, "-w", network, "-o", out, "--size", 40, "--max-dataset-size", 5) == 0
    assert run("--dataroot", dataset, "-w", network, "-o", out, "--size", 40) == 1
    result = json.loads(out.read_text())
    assert "cycle_error" not in result["figures"] and result["size"] == 40
    # trainA takes the place of testA.
    assert result["counts"] == {"x": 6, "y": 6, "y_held_out": 3, "weave": 0, "halo": 3}
    assert "broken.jpg" in result["errors"][0] and "broken.jpg" in capsys.readouterr().err


def test_pictures_of_the_test_folders_come_first(dataset):
    x, y = find_pictures(dataset, "x2y")
    assert [path.parent.name for path in (*x, *y)] == ["testA"] * 2 + ["testB"] * 2 + ["trainB"] * 4
    x, y = find_pictures(dataset, "y2x")
    assert ({path.parent.name for path in x}, len(y)) == ({"testB"}, 8)


def test_a_bundled_network_finds_the_one_that_translates_back():
    there, back = load_generators("vangogh2landscape-cycle", "y2x")
    other_back, other_there = load_generators("landscape2vangogh-cycle", "x2y")[::-1]
    for one, other in ((there, other_back), (back, other_there)):
        assert torch.equal(one.state_dict()["model.1.weight"], other.state_dict()["model.1.weight"])


def test_the_table_names_the_features_and_scales_kid():
    kid = Figure(Estimate(0.0213, 0.0157, 0.03), Estimate(-0.001, -0.002, 0.001), Estimate(0.2051, 0.1, 0.3))
    halo = Figure(Estimate(2.5, -1.0, 4.5), None, Estimate(float("nan"), float("nan"), float("nan")))
    shown = table({"kid_vgg_compact": kid, "halo": halo}, MARKS).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown]
    assert rows[0] == ["", "output", "95 % interval", "real Y", "untranslated X"]
    assert rows[2] == ["kid_vgg_compact x 1000", "21.3", "15.7 to 30", "-1", "205"]
    assert rows[3] == ["halo", "2.5", "-1 to 4.5", "", "none"]


def test_the_score_is_1_without_a_translation_and_names_no_feature_of_the_vgg():
    copy, near = Estimate(0.2, 0.1, 0.3), Estimate(0.1, 0.0, 0.2)
    figures = {name: Figure(near, None, copy) for name in ("kid_efficientnet_lite0", "palette_distance")}
    figures["kid_vgg_compact"] = Figure(Estimate(9.0, 9.0, 9.0), None, near)
    untranslated = {name: Figure(copy, None, copy) for name in figures}
    assert score({"x2y": untranslated, "y2x": untranslated}) == 1
    assert score({"x2y": figures, "y2x": untranslated}) == 0.75


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
    assert "cycle_error" not in result["figures"]
    assert result["figures"]["content_kept"]["output"]["value"] < 0.9

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
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    assert run("--dataroot", dataset, "-w", network) == 2
    assert "pip install torchmetrics" in one_error(capsys, "cyclegan")
    assert not (tmp_path / "evaluation.json").exists()
