"""What the command lines share: exit codes, flags, resumed runs, and reports on training and on files."""

import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import numpy as np
import pytest
import torch
import tyro
from conftest import ROOT, command, exit_code, flag_error, one_error, run
from PIL import Image

from stylekit import __version__, cli
from stylekit.options import RunConfig
from stylekit.pictures.jobs import Job, Outcome
from stylekit.training.run import Result


@dataclasses.dataclass(frozen=True)
class Training(RunConfig):
    """Train something."""

    layers: tuple[str, ...] = ("relu1_1",)
    """Layers."""

    flip: bool = True
    """Flip pictures."""


@dataclasses.dataclass(frozen=True)
class Listing:
    """List something."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """What to list."""


COMMANDS = {"train": Training, "list": Listing}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The working directory, with a run in checkpoints/mine."""
    monkeypatch.chdir(tmp_path)
    save(Training(dataroot="photographs", name="mine", lr=0.5, layers=("relu2_1", "relu3_1"), flip=False), tmp_path)
    return tmp_path


def save(config, root):
    folder = root / "checkpoints" / config.name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.plain()))


def parse(*args):
    return cli.parse(Training, "train.py", [str(arg) for arg in args])


def parse_command(args):
    cli.parse_command(COMMANDS, "program", "About the program.", args)
    return 0


def failing(error):
    """A command that raises an error."""

    def main(args):
        with cli.exit_on_error("program"):
            raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("expected 3\n  and got 4"), 2, "expected 3 and got 4"),
        (FileNotFoundError("no folder x"), 2, "no folder x"),
        (FileNotFoundError(2, "No such file or directory", "a.txt"), 2, "No such file or directory: a.txt"),
        (FloatingPointError("training diverged"), 1, "training diverged"),
        (MemoryError(), 1, "out of memory"),
        (ValueError("name " * 1000), 2, "name " * 200 + "..."),
        (MemoryError("out of memory"), 1, "out of memory"),
    ],
)
def test_an_error_becomes_one_line_and_an_exit_code(capsys, error, code, message):
    assert exit_code(failing(error)) == code
    assert one_error(capsys, "program") == f"program: error: {message}\n"


def test_ctrl_c_ends_a_command_without_a_message(capsys):
    assert exit_code(failing(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "")


def test_a_defect_of_the_library_keeps_its_traceback():
    with pytest.raises(KeyError):
        failing(KeyError("weights"))([])
    with pytest.raises(RuntimeError):
        failing(RuntimeError("shape mismatch"))([])


def test_a_command_that_succeeds_is_not_ended():
    with cli.exit_on_error("program"):
        result = 1 + 1
    assert result == 2


@pytest.mark.parametrize("buffered", [False, True])
def test_a_closed_pipe_ends_a_command_silently(buffered):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment |= {} if buffered else {"PYTHONUNBUFFERED": "1"}
    reader, writer = os.pipe()
    os.close(reader)
    code = "from stylekit import cli\nwith cli.exit_on_error('program'):\n    print('text')"
    result = subprocess.run(command(["-c", code]), cwd=ROOT, env=environment, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, b"")


def test_only_the_main_process_of_several_reports_an_error(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert exit_code(failing(ValueError("expected 3"))) == 2
    assert exit_code(parse_command, "train") == 2
    assert capsys.readouterr() == ("", "")


def test_the_developer_mode_of_python_shows_the_traceback_too(capsys, monkeypatch):
    developer = SimpleNamespace(flags=SimpleNamespace(dev_mode=True), stderr=sys.stderr, exit=sys.exit)
    monkeypatch.setattr(cli, "sys", developer)
    assert exit_code(failing(ValueError("expected 3"))) == 2
    error = capsys.readouterr().err
    assert error.startswith("Traceback") and error.endswith("program: error: expected 3\n")


def test_flags_may_have_hyphens_or_underscores():
    for flags in (["--batch-size", 2, "--n-epochs", 3], ["--batch_size", 2, "--n_epochs", 3], ["--batch-size=2"]):
        config = parse("--dataroot", "photographs", *flags)
        assert config.batch_size == 2 and config.n_epochs in (3, 100)


def test_aliases_from_other_projects_are_accepted():
    flags = ("--image_size", 64, "--num_threads", 0, "--use_wandb", "--wandb_project_name", "mine")
    config = parse("--dataroot", "photographs", *flags)
    assert (config.crop_size, config.num_workers, config.wandb, config.wandb_project) == (64, 0, True, "mine")


@pytest.mark.parametrize(
    ("flags", "messages"),
    [
        (["--batchsize", "2"], ["--batchsize", "Perhaps you meant", "--batch-size"]),
        (["--ngf", "2"], ["--ngf"]),
        (["--lr", "fast"], ["--lr", "fast"]),
        (["--amp", "maybe"], ["invalid choice 'maybe'", "'auto', 'on', 'off'"]),
        (["--max-steps", "0"], ["--max-steps must be positive, got 0"]),
        (["--load-size", "20"], ["--load-size 20 is smaller than --crop-size 256; try --load-size 286"]),
        (["--threads", "0"], ["--threads must be at least 1, got 0"]),
    ],
)
def test_wrong_flags_are_explained(capsys, flags, messages):
    with pytest.raises(SystemExit) as stop:
        parse("--dataroot", "photographs", *flags)
    error = flag_error(capsys)
    assert stop.value.code == 2 and all(message in error for message in messages)


def test_a_missing_flag_is_named_with_its_help(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--name", "mine")
    assert stop.value.code == 2
    assert "--dataroot STR Folder with the pictures." in flag_error(capsys)


def test_a_command_is_chosen_by_name():
    config = cli.parse_command(COMMANDS, "program", "About.", ["train", "--dataroot", "photographs", "--no-flip"])
    assert config == Training(dataroot="photographs", flip=False)
    assert cli.parse_command(COMMANDS, "program", "About.", ["list", "a", "b"]) == Listing(names=("a", "b"))


@pytest.mark.parametrize("args", [["trian"], ["trian", "--dataroot", "photographs"]])
def test_an_unknown_command_names_those_available(capsys, args):
    assert exit_code(parse_command, *args) == 2
    error = flag_error(capsys)
    assert "trian" in error and "Available subcommands: train, list" in error


def test_a_missing_command_names_those_available(capsys):
    assert exit_code(parse_command) == 2
    assert "Expected one of {train, list}" in flag_error(capsys)


def test_help_describes_the_commands_and_their_flags(capsys):
    assert exit_code(parse_command, "--help") == 0
    text = capsys.readouterr().out
    assert all(part in text for part in ("usage: program", "About the program.", "Train something.", "List something."))
    assert exit_code(parse_command, "train", "--help") == 0
    text = capsys.readouterr().out
    assert "--layers" in text and "Flip pictures." in text and "--continue-train" in text


def test_the_version_is_printed_without_a_command(capsys):
    assert exit_code(parse_command, "--version") == 0
    with pytest.raises(SystemExit) as stop:
        parse("--version")
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"program {__version__}\ntrain.py {__version__}\n"


def test_a_new_run_reads_no_saved_options(runs):
    assert parse("--dataroot", "photographs", "--name", "mine").lr == RunConfig.lr
    assert cli.resumed_options(Training, "train.py", ["--name", "mine"]) is None


@pytest.mark.parametrize("resume", ["--resume", "--continue-train", "--continue_train"])
def test_a_resumed_run_keeps_its_options(runs, resume):
    config = parse("--name", "mine", resume)
    assert config.resume and config.dataroot == "photographs" and config.lr == 0.5
    assert config.layers == ("relu2_1", "relu3_1") and config.flip is False


def test_options_given_to_a_resumed_run_take_precedence(runs):
    config = parse("--name=mine", "--resume", "--lr", 0.1, "--layers", "relu4_1", "--flip", "--max-steps", 9)
    assert (config.lr, config.layers, config.flip, config.max_steps) == (0.1, ("relu4_1",), True, 9)
    assert config.dataroot == "photographs"


def test_the_command_in_use_reads_the_saved_options(runs):
    config = cli.parse_command(COMMANDS, "program", "About.", ["train", "--name", "mine", "--resume"])
    assert config.lr == 0.5 and config.resume
    # The other commands do not have --resume.
    with pytest.raises(SystemExit):
        cli.parse_command(COMMANDS, "program", "About.", ["list", "--resume"])


def test_a_run_can_be_renamed_and_moved(runs):
    (runs / "elsewhere").mkdir()
    (runs / "checkpoints" / "mine").rename(runs / "elsewhere" / "other")
    config = parse("--checkpoints-dir", "elsewhere", "--name", "other", "--resume")
    assert (config.name, config.checkpoints_dir, config.lr) == ("other", Path("elsewhere"), 0.5)


def test_saved_options_that_no_longer_exist_are_ignored(runs):
    path = runs / "checkpoints" / "mine" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"option_of_an_old_version": 1}))
    assert parse("--name", "mine", "--resume").lr == 0.5


def test_help_can_be_asked_for_while_resuming(runs, capsys):
    for name in ("mine", "missing"):
        with pytest.raises(SystemExit) as stop:
            parse("--name", name, "--resume", "--help")
        assert stop.value.code == 0
    assert capsys.readouterr().out.count("usage: train.py") == 2


def test_a_wrong_flag_of_a_resumed_run_is_explained(runs, capsys):
    for flags in (["--batchsize", 2], ["--name", "a/b"], ["--lr", 0]):
        with pytest.raises(SystemExit) as stop:
            parse("--name", "mine", "--resume", *flags)
        assert stop.value.code == 2
        assert str(flags[0]) in flag_error(capsys)


def test_a_run_that_does_not_exist_cannot_be_resumed(runs):
    with pytest.raises(FileNotFoundError, match=r"no run to resume at checkpoints/other/config.json; remove --resume"):
        parse("--name", "other", "--resume")


@pytest.mark.parametrize("content", ["", "{", "[1]", "5", '{"lr": 1}', '{"dataroot": "x", "lr": "fast"}',
                                     '{"dataroot": "x", "lr": -1}'])  # fmt: skip
def test_damaged_options_of_a_run_are_refused(runs, content):
    (runs / "checkpoints" / "mine" / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"checkpoints/mine/config\.json: damaged \(.+\); restore it"):
        parse("--name", "mine", "--resume")


def test_every_trial_of_a_sweep_gets_its_own_folder(monkeypatch):
    default, named = Training(dataroot="photographs"), Training(dataroot="photographs", name="mine")
    assert cli.sweep_name(default) is default
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "trial7")
    assert cli.sweep_name(default) == dataclasses.replace(default, name="trial7")
    assert cli.sweep_name(named) is named


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")])
@pytest.mark.parametrize(("batch_size", "smaller_batch"), [(1, ""), (8, "--batch-size 4, ")])
def test_out_of_memory_names_options_that_need_less(error, batch_size, smaller_batch):
    config = Training(dataroot="photographs", batch_size=batch_size, crop_size=100)
    with pytest.raises(MemoryError) as raised, cli.training_hint(config, "--width 8"):
        raise error
    assert str(raised.value) == (
        f"out of memory with --batch-size {batch_size} --crop-size 100; "
        f"try {smaller_batch}--crop-size 48, --amp on, --width 8"
    )
    assert raised.value.__cause__ is error


def test_networks_that_cannot_be_compiled_give_one_line_that_names_the_flag():
    # Importing PyTorch's compiler takes seconds, so its error is built here.
    failed = type("InductorError", (RuntimeError,), {"__module__": "torch._inductor.exc"})
    error = failed("InvalidCxxCompiler: No working C++ compiler found\n\nSet TORCHDYNAMO_VERBOSE=1 ...")
    config = Training(dataroot="x", compile=True)
    with pytest.raises(ValueError, match="--compile: ") as raised, cli.training_hint(config, "--width 8"):
        raise error
    assert str(raised.value) == (
        "--compile: PyTorch cannot compile the networks (InvalidCxxCompiler: No working C++ compiler found); "
        "it needs a C++ compiler such as g++; install one, or train without --compile"
    )


def test_other_errors_of_training_are_not_changed():
    with pytest.raises(RuntimeError, match="shape mismatch"), cli.training_hint(Training(dataroot="x"), "--width 8"):
        raise RuntimeError("shape mismatch")


def test_a_finished_training_succeeds_silently(capsys):
    assert cli.report_training(Result(Path("x"), 10, None), Training(dataroot="x"), "train.py") == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", [{}, {"checkpoints_dir": Path("my runs")}])
def test_a_stopped_training_shows_the_command_that_resumes_it(capsys, monkeypatch, tmp_path, number, where):
    monkeypatch.chdir(tmp_path)
    config = Training(dataroot="photographs", name="first try", **where)
    save(config, tmp_path)
    if where:
        (tmp_path / "checkpoints").rename(tmp_path / "my runs")
    assert cli.report_training(Result(Path("x"), 10, number), config, "python train.py") == 128 + number
    first, shown = capsys.readouterr().out.splitlines()
    assert first == "stopped and saved at step 10; resume with"
    program, script, *flags = shlex.split(shown)
    assert (program, script) == ("python", "train.py")
    assert parse(*flags) == dataclasses.replace(config, resume=True)


def test_only_the_main_process_shows_how_to_resume(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert cli.report_training(Result(Path("x"), 10, 15), Training(dataroot="x"), "train.py") == 143
    assert capsys.readouterr().out == ""


@pytest.fixture
def jobs(tmp_path, monkeypatch, pictures):
    """Two jobs in the working directory: a.png and b.png to out/."""
    monkeypatch.chdir(tmp_path)
    for picture, name in zip(pictures, ("a.png", "b.png"), strict=False):
        picture.save(name)
    return [Job(Path(name), Path("out") / name) for name in ("a.png", "b.png")]


def existing(path):
    path.parent.mkdir(exist_ok=True)
    path.touch()


def test_existing_results_are_skipped_or_replaced(jobs, capsys):
    assert cli.select_jobs(jobs, Path("out"), False, False) == (jobs, None)
    assert cli.select_jobs(jobs, Path("out"), True, False) == (jobs, Path("out/sheet.jpg"))
    existing(jobs[0].target)
    assert cli.select_jobs(jobs, Path("out"), False, False) == (jobs[1:], None)
    assert "skipped results that already exist: 1" in capsys.readouterr().out
    existing(jobs[1].target)
    existing(Path("out/sheet.jpg"))
    assert cli.select_jobs(jobs, Path("out"), True, True) == (jobs, Path("out/sheet.jpg"))
    assert capsys.readouterr().out == ""


def test_it_is_an_error_if_all_results_exist(jobs):
    existing(jobs[0].target)
    with pytest.raises(FileExistsError, match=r"^out/a\.png already exist.*; add --overwrite or choose"):
        cli.select_jobs(jobs[:1], Path("out"), False, False)
    existing(jobs[1].target)
    with pytest.raises(FileExistsError, match=r"^out/a\.png and 1 more already exist"):
        cli.select_jobs(jobs, Path("out"), False, False)


def test_the_sheet_of_a_single_file_is_next_to_it(jobs):
    single = [Job(Path("a.png"), Path("new.png"))]
    assert cli.select_jobs(single, Path("new.png"), True, False) == (single, Path("new-sheet.jpg"))


def test_an_existing_sheet_is_not_replaced(jobs):
    existing(Path("out/sheet.jpg"))
    with pytest.raises(FileExistsError, match=r"out/sheet\.jpg already exists; add --overwrite"):
        cli.select_jobs(jobs, Path("out"), True, False)


def test_a_sheet_never_replaces_a_picture(jobs):
    with pytest.raises(ValueError, match=r"--sheet: out/sheet\.jpg is an input or a result"):
        cli.select_jobs([Job(Path("sheet.jpg"), Path("out/sheet.jpg"))], Path("out"), True, True)
    with pytest.raises(ValueError, match=r"--sheet: sheet\.jpg is an input or a result"):
        cli.select_jobs([Job(Path("sheet.jpg"), Path("sheet.png"))], Path(), True, True)


def outcomes(jobs):
    return [Outcome(job, Image.open(job.source), Image.open(job.source)) for job in jobs]


def report(results, jobs, sheet=None):
    return cli.report_outcomes(results, jobs, Path("out"), sheet, "program translate", "translated")


def test_the_report_counts_the_results_and_the_failures(jobs, capsys):
    assert report(outcomes(jobs), jobs) == 0
    assert report(outcomes(jobs[:1]), jobs[:1]) == 0
    videos = [*jobs, Job(Path("clip.mp4"), Path("out/clip.mp4"))]
    assert report([*outcomes(jobs), Outcome(videos[2])], videos) == 0
    assert report([Outcome(jobs[0], error="a.png: damaged"), *outcomes(jobs[1:])], jobs) == 1
    out, error = capsys.readouterr()
    assert out.splitlines() == [
        "translated 2 pictures: out",
        "translated 1 picture: out/a.png",
        "translated 3 files: out",
        "translated 1 picture: out",
    ]
    assert error == "program translate: a.png: damaged\n"


def test_nothing_is_counted_if_everything_failed(jobs, capsys):
    assert report([Outcome(job, error=f"{job.source}: damaged") for job in jobs], jobs, Path("out/sheet.jpg")) == 1
    out, error = capsys.readouterr()
    assert out == "" and error.count("damaged") == 2 and not Path("out/sheet.jpg").exists()


def test_the_contact_sheet_has_the_pictures_that_succeeded(jobs, capsys):
    results = [Outcome(jobs[0], error="a.png: damaged"), *outcomes(jobs[1:])]
    assert report(results, jobs, Path("out/sheet.jpg")) == 1
    page = np.asarray(Image.open("out/sheet.jpg"))
    # One row of two pictures of 256 x 256 px, before and after.
    assert 256 < page.shape[0] < 2 * 256 and 2 * 256 < page.shape[1] < 3 * 256
    assert capsys.readouterr().out == "translated 1 picture: out\nbefore and after: out/sheet.jpg\n"


def test_the_contact_sheet_of_many_pictures_has_three_pairs_in_a_row(jobs):
    assert report(outcomes(jobs) * 4, jobs * 4, Path("out/sheet.jpg")) == 0
    page = Image.open("out/sheet.jpg")
    assert 6 * 256 < page.width < 7 * 256 and 3 * 256 < page.height < 4 * 256


def test_the_contact_sheet_has_a_limit(jobs, capsys, monkeypatch):
    monkeypatch.setattr(cli, "SHEET_LIMIT", 2)
    assert report(outcomes(jobs) * 2, jobs * 2, Path("out/sheet.jpg")) == 0
    assert "before and after (the first 2): out/sheet.jpg" in capsys.readouterr().out
    assert Image.open("out/sheet.jpg").height < 3 * 256


def test_networks_are_listed_with_the_titles_of_their_model_cards(tmp_path, monkeypatch, capsys):
    (tmp_path / "with").mkdir()
    (tmp_path / "with" / "README.md").write_text("---\nlicense: mit\n---\n\n# Photographs to paintings\n\n## Data\n")
    asked = []

    def bundled(kind):
        asked.append(kind)
        return {"with-card": tmp_path / "with", "without-card": tmp_path / "without"}

    monkeypatch.setattr("stylekit.networks.weights.bundled", bundled)
    assert cli.list_networks("johnson") == 0
    lines = capsys.readouterr().out.splitlines()
    assert asked == ["johnson"]
    assert lines[0].split(maxsplit=1) == ["with-card", "Photographs to paintings"]
    assert lines[1].split() == ["without-card"]


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_idle_threads_sleep_unless_the_user_wants_otherwise(given, expected):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if given is None else {"OMP_WAIT_POLICY": given}
    # OpenMP reads the variable when PyTorch is imported.
    code = "import os, sys, cyclegan.cli, johnson.cli\nprint(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    assert run("-c", code, env=environment).stdout == f"{expected} False\n"


def test_a_single_picture_that_fails_is_invalid_input(jobs, capsys):
    assert report([Outcome(jobs[0], error="a.png: damaged")], jobs[:1]) == 2


def test_names_with_control_characters_are_shown_and_not_obeyed(capsys):
    with pytest.raises(SystemExit), cli.exit_on_error("program"):
        raise ValueError("no picture a\x1b[2Jb\nc.jpg")
    assert capsys.readouterr().err == "program: error: no picture a\\x1b[2Jb c.jpg\n"
