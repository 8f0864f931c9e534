"""The commands of CycleGAN: what their flags do, and what they report."""

import json
import shlex
import signal
from pathlib import Path

import pytest
import torch
from conftest import TINY, exit_code, flag_error, flags_and_boxes, one_error, read_lines

from cyclegan import cli
from cyclegan.options import PretrainConfig, TrainConfig
from stylekit.options import flatten
from stylekit.training.run import Result


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """The options of each training, which is not run; it ends at step 7."""
    configs = []

    def train(config):
        configs.append(config)
        return Result(config.checkpoints_dir / config.name, 7, None)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cyclegan.train.train", train)
    monkeypatch.setattr("cyclegan.pretrain.pretrain", train)
    return configs


def train(*args):
    return exit_code(cli.main, "train", *args)


def paper(**options):
    return TrainConfig.from_preset("paper", dataroot="data", **options)


def test_train_py_and_cyclegan_train_are_the_same_command(trained):
    flags = ["--dataroot", "data", "--ngf", "32", "--upsample", "transposed", "--no-antialias"]
    assert train(*flags) == 0
    assert exit_code(cli.train_main, *flags) == 0
    assert trained == [paper(ngf=32, upsample="transposed")] * 2


def test_a_preset_sets_defaults_and_a_flag_wins(trained):
    assert train("--dataroot", "data", "--preset", "paint", "--ngf", 16) == 0
    assert exit_code(cli.main, "pretrain", "--dataroot", "data", "--palette", 0, "--direction", "BtoA") == 0
    assert trained == [
        TrainConfig.from_preset("paint", dataroot="data", ngf=16),
        PretrainConfig.from_preset("paint", dataroot="data", palette=0, direction="BtoA"),
    ]
    assert (trained[0].preset, trained[0].generator.keep_colors, trained[0].generator.ngf) == ("paint", 0.6, 16)


@pytest.mark.parametrize(("command", "most"), [("train", 45), ("pretrain", 40)])
def test_training_has_few_flags_in_titled_boxes(capsys, command, most):
    assert exit_code(cli.main, command, "--help") == 0
    flags, boxes = flags_and_boxes(capsys)
    assert 30 < flags <= most
    assert {"data", "schedule", "machine", "output", "generator", "losses"} <= boxes


def test_the_flags_of_the_authors_code_are_accepted(trained):
    flags = "--dataroot data --lambda_A 5 --lambda_B 6 --lambda_identity 1 --gan_mode vanilla --n_layers_D 2 --ngf 8"
    flags += " --n_epochs 3 --n_epochs_decay 4 --num_threads 1 --load_size 300 --crop_size 128 --use_wandb"
    assert train(*flags.split()) == 0
    options = {"lambda_x": 5, "lambda_y": 6, "lambda_identity": 1, "gan_mode": "vanilla", "n_layers_d": 2}
    options |= {"n_epochs": 3, "n_epochs_decay": 4, "num_workers": 1, "load_size": 300, "crop_size": 128, "ngf": 8}
    assert trained == [paper(wandb=True, **options)]


@pytest.mark.parametrize("flag", ["--resume", "--continue_train", "--continue-train"])
def test_a_resumed_run_has_its_saved_options_unless_they_are_given_again(trained, flag):
    saved = paper(name="mine", ngf=32, lambda_x=5.0, augment="strong", max_minutes=10.0)
    Path("checkpoints/mine").mkdir(parents=True)
    Path("checkpoints/mine/config.json").write_text(json.dumps(saved.plain()))
    assert train("--name", "mine", flag) == 0
    assert train("--name", "mine", flag, "--lambda_A", 7, "--dataroot", "moved", "--max-minutes", "None") == 0
    assert all(config.resume for config in trained)
    first, second = (flatten(config.plain()) for config in trained)
    assert first == flatten(saved.plain())
    assert second == first | {"lambda_x": 7, "dataroot": "moved", "max_minutes": None}


def test_a_run_is_resumed_from_the_command_line_with_and_without_its_options(dataset, tmp_path, capsys):
    where = ["--name", "mine", "--checkpoints-dir", tmp_path]
    flags = [*TINY, "--dataroot", dataset, *where, "--print-freq", 1]
    assert train(*flags, "--max-steps", 1) == 0
    capsys.readouterr()
    assert train(*where, "--resume", "--max-steps", 2) == 0
    out = capsys.readouterr().out
    assert "at epoch 1, step 1" in out and "options that differ from the saved ones: --max-steps 2 (was 1)\n" in out
    assert exit_code(cli.train_main, *flags, "--resume", "--max-steps", 3, "--lambda_A", 5) == 0
    assert "options that differ from the saved ones: --max-steps 3 (was 2), --lambda-x 5.0 (was 10.0)\n" in (
        capsys.readouterr().out
    )
    assert [line["step"] for line in read_lines(tmp_path / "mine" / "metrics.jsonl")] == [1, 2, 3]
    assert json.loads((tmp_path / "mine" / "config.json").read_text())["losses"]["lambda_x"] == 5


def test_a_run_that_does_not_exist_cannot_be_resumed(trained, capsys):
    assert train("--name", "missing", "--resume") == 2
    assert "no run to resume at checkpoints/missing/config.json" in one_error(capsys, "cyclegan")
    assert exit_code(cli.train_main, "--resume") == 2
    assert "no run to resume at checkpoints/experiment_name/config.json" in one_error(capsys, "train.py")
    assert not trained


@pytest.mark.parametrize(
    ("main", "args", "expected"),
    [
        (cli.main, ["train"], "cyclegan train --name mine"),
        (cli.main, ["pretrain"], "cyclegan pretrain --name mine"),
        (cli.train_main, [], "python train.py --name mine"),
    ],
)
def test_a_stopped_run_shows_how_to_resume_it(trained, monkeypatch, capsys, main, args, expected):
    for function in ("train.train", "pretrain.pretrain"):
        monkeypatch.setattr(f"cyclegan.{function}", lambda config: Result(Path("x"), 7, signal.SIGINT))
    assert exit_code(main, *args, "--dataroot", "data", "--name", "mine") == 130
    assert capsys.readouterr().out == f"stopped and saved at step 7; resume with\n    {expected} --resume\n"
    assert exit_code(main, *args, "--dataroot", "data", "--name", "mine", "--checkpoints-dir", "runs") == 130
    assert shlex.split(capsys.readouterr().out)[-3:] == ["--checkpoints-dir", "runs", "--resume"]


def test_the_runs_of_a_sweep_are_named_after_their_trials(trained, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "trial7")
    assert train("--dataroot", "data") == train("--dataroot", "data", "--name", "mine") == 0
    assert [config.name for config in trained] == ["trial7", "mine"]


def test_out_of_memory_names_smaller_options(monkeypatch, capsys):
    def exhausted(config):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr("cyclegan.train.train", exhausted)
    assert train("--dataroot", "data", "--batch-size", 4) == 1
    error = one_error(capsys, "cyclegan")
    assert "out of memory with --batch-size 4 --crop-size 256; try --batch-size 2, --crop-size 128, --amp on," in error
    assert "--n-blocks 6 or --ngf 32" in error


def test_the_threads_of_a_training_can_be_set(monkeypatch, threads):
    used = []

    def train_and_look(config):
        used.append(torch.get_num_threads())
        return Result(Path("x"), 1, None)

    monkeypatch.setattr("cyclegan.train.train", train_and_look)
    assert train("--dataroot", "data") == train("--dataroot", "data", "--threads", threads + 1) == 0
    assert used == [threads, threads + 1]


@pytest.mark.parametrize(
    ("args", "messages"),
    [
        (["translate"], ["no input: give a picture, a folder or a video, such as photo.jpg"]),
        (
            ["translate", "photo.jpg", "--wieghts", "x"],
            ["unknown option --wieghts (did you mean --weights?); see `cyclegan translate --help`"],
        ),
        (["translate", "photo.jpg", "--size", "big", "-o", "x.jpg"], ["--size big: expected an integer"]),
        (["translate", "photo.jpg", "--tile", "2"], ["--tile must be at least 64, got 2"]),
        (["translate", "photo.jpg", "--direction", "back"], ["--direction back: expected one of x2y, y2x, AtoB, BtoA"]),
        (["train"], ["--dataroot is missing (Folder with trainA"]),
        (
            ["train", "--dataroot", "data", "--batchsize", "2"],
            ["unknown option --batchsize (did you mean --batch-size?)"],
        ),
        (["train", "--dataroot", "data", "--gan_mode", "wgan"], ["--gan_mode wgan: expected one of lsgan, vanilla"]),
        (["train", "--dataroot", "data", "--threads", "0"], ["--threads must be at least 1, got 0"]),
        (["pretrain", "--dataroot", "data", "--palette", "2"], ["--palette 2: expected a value from 0 to 1"]),
        (["train", "--dataroot", "data", "--limit", "4"], ["--limit"]),  # For presets and Python only.
        (["train", "--dataroot", "data", "--crop-size", "30"], ["--crop-size 30: expected a multiple of 4"]),
        (["weights", "--all"], ["--all"]),
        (["translte", "photo.jpg"], ["no command translte (did you mean translate?); see `cyclegan --help`"]),
        ([], ["no command: expected train, pretrain, translate, evaluate, export, weights, fetch, check; see"]),
    ],
)
def test_wrong_flags_are_explained(trained, capsys, args, messages):
    assert exit_code(cli.main, *args) == 2
    error = flag_error(capsys)
    assert all(message in error for message in messages), error
    assert not trained


def test_weights_lists_the_bundled_networks_with_their_titles(capsys):
    assert exit_code(cli.main, "weights") == 0
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert lines.keys() == {
        "landscape2vangogh",
        "landscape2vangogh-cycle",
        "vangogh2landscape",
        "vangogh2landscape-cycle",
    }
    assert all(len(title) > 3 for title in lines.values())
