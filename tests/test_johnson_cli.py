"""The commands of Johnson et al.'s method: what their flags do, and what they report."""

import json
import shlex
import signal
from pathlib import Path

import pytest
from conftest import exit_code, flag_error, flags_and_boxes, one_error, read_lines

from johnson import cli
from johnson.options import TrainConfig
from stylekit.options import flatten
from stylekit.training.run import Result

DATA = ("--dataroot", "data", "--style", "painting.jpg")


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """The options of each training, which is not run; it ends at step 7."""
    configs = []

    def train(config):
        configs.append(config)
        return Result(config.checkpoints_dir / config.name, 7, None)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("johnson.train.train", train)
    return configs


def train(*args):
    return exit_code(cli.main, "train", *args)


def test_flags_become_options(trained):
    flags = ["--style", "a.jpg", "b.jpg", "--width", "16"]
    assert train("--dataroot", "data", *flags) == 0
    assert train("--dataroot", "data", "--preset", "paint", *flags) == 0
    options = {"dataroot": "data", "style": ("a.jpg", "b.jpg"), "width": 16}
    assert trained == [TrainConfig.from_preset(preset, **options) for preset in ("paper", "paint")]


def test_training_has_few_flags_in_titled_boxes(capsys):
    assert train("--help") == 0
    flags, boxes = flags_and_boxes(capsys)
    assert 30 < flags <= 40
    assert {"data", "schedule", "machine", "output", "network", "losses"} <= boxes


def test_names_from_other_projects_are_accepted(trained):
    flags = (
        "--train_path data --style_image painting.jpg --epochs 3 --learning_rate 0.01 --image_size 128 --test_dir val"
    )
    assert train(*flags.split(), "--init_weights", "van-gogh", "--use_wandb") == 0
    options = {"style": ("painting.jpg",), "n_epochs": 3, "lr": 0.01, "crop_size": 128, "val_dataroot": "val"}
    assert trained == [TrainConfig.from_preset("paper", dataroot="data", init="van-gogh", wandb=True, **options)]
    assert train("--dataset", "data", "--style", "painting.jpg") == 0
    assert trained[1].data.dataroot == "data"


@pytest.mark.parametrize("flag", ["--resume", "--continue_train"])
def test_a_resumed_run_has_its_saved_options_unless_they_are_given_again(trained, flag):
    options = {"style": ("a.jpg", "b.jpg"), "skip": False, "lr": 0.5}
    saved = TrainConfig.from_preset("paint", dataroot="data", name="mine", **options)
    Path("checkpoints/mine").mkdir(parents=True)
    Path("checkpoints/mine/config.json").write_text(json.dumps(saved.plain()))
    assert train("--name", "mine", flag) == 0
    assert train("--name", "mine", flag, "--lr", 0.1, "--style", "b.jpg") == 0
    assert all(config.resume for config in trained)
    first, second = (flatten(config.plain()) for config in trained)
    assert first == flatten(saved.plain())
    assert second == first | {"lr": 0.1, "style": ["b.jpg"]}


def test_a_run_is_resumed_from_the_command_line_without_its_painting(dataset, tmp_path, pictures, capsys):
    pictures[8].save(tmp_path / "painting.png")
    where = ["--name", "mine", "--checkpoints-dir", tmp_path]
    flags = ["--width", 4, "--n-blocks", 1, "--crop-size", 32, "--load-size", 36, "--batch-size", 2, "--num-workers", 0]
    flags += ["--device", "cpu", "--amp", "off", "--style-size", 48, "--print-freq", 1]
    flags += ["--dataroot", dataset / "trainA", "--style", tmp_path / "painting.png", *where]
    assert train(*flags, "--max-steps", 1) == 0
    (tmp_path / "painting.png").unlink()
    capsys.readouterr()
    assert train(*where, "--resume", "--max-steps", 2) == 0
    out = capsys.readouterr().out
    assert "at epoch 1, step 1" in out and "options that differ from the saved ones: --max-steps 2 (was 1)\n" in out
    assert train(*flags, "--resume", "--max-steps", 3, "--lr", 0.5) == 0
    assert "saved ones: --max-steps 3 (was 2), --lr 0.5 (was 0.001)\n" in capsys.readouterr().out
    assert [line["step"] for line in read_lines(tmp_path / "mine" / "metrics.jsonl")] == [1, 2, 3]


def test_a_stopped_run_shows_how_to_resume_it(trained, monkeypatch, capsys):
    monkeypatch.setattr("johnson.train.train", lambda config: Result(Path("x"), 7, signal.SIGTERM))
    assert train(*DATA, "--name", "mine", "--checkpoints-dir", "runs") == 143
    first, command = capsys.readouterr().out.splitlines()
    assert first == "stopped and saved at step 7; resume with"
    assert shlex.split(command) == shlex.split("johnson train --name mine --checkpoints-dir runs --resume")


def test_out_of_memory_names_smaller_options(monkeypatch, capsys):
    def exhausted(config):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("johnson.train.train", exhausted)
    assert train(*DATA) == 1
    error = one_error(capsys, "johnson")
    assert "out of memory with --batch-size 4 --crop-size 256; try --batch-size 2, --crop-size 128, --amp on," in error
    assert "--width 16" in error


@pytest.mark.parametrize(
    ("args", "messages"),
    [
        (["stylize"], ["no input: give a picture, a folder or a video, such as photo.jpg"]),
        (
            ["stylize", "photo.jpg", "--stile", "x"],
            ["unknown option --stile (did you mean --tile or --style?); see `johnson stylize --help`"],
        ),
        (["stylize", "photo.jpg", "--strength", "1.5"], ["--strength must be in [0, 1], got 1.5"]),
        (
            ["train", "--dataroot", "data"],
            ["--style is missing (Paintings (files or folders)", "see `johnson train --help`"],
        ),
        (["train", *DATA, "--style"], ["no style: add --style with a painting or a name listed by `gatys styles`"]),
        (["train", *DATA, "--batchsize", "2"], ["unknown option --batchsize (did you mean --batch-size?)"]),
        (["train", *DATA, "--optimizer", "sgd"], ["--optimizer sgd: expected one of muon, adam"]),
        (["styles", "--all"], ["--all"]),
        (["stylise", "photo.jpg"], ["no command stylise (did you mean stylize?); see `johnson --help`"]),
        ([], ["no command: expected stylize, train, evaluate, export, styles; see"]),
    ],
)
def test_wrong_flags_are_explained(trained, capsys, args, messages):
    assert exit_code(cli.main, *args) == 2
    error = flag_error(capsys)
    assert all(message in error for message in messages), error
    assert not trained


def test_styles_lists_the_bundled_styles_with_their_titles(capsys):
    assert exit_code(cli.main, "styles") == 0
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert list(lines) == ["mosaic", "starry-night", "sunflowers", "van-gogh", "wheat-field-with-cypresses"]
    assert all(len(title) > 3 for title in lines.values())
