"""What the command lines share: exit codes, flags, resumed runs, and reports on training and on files."""

import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, ClassVar

import numpy as np
import pytest
import torch
import tyro
from conftest import ROOT, command, exit_code, flag_error, one_error, run
from PIL import Image

from stylekit import __version__, cli
from stylekit.options import RunConfig, TrainingData, flatten
from stylekit.pictures.jobs import Job, Outcome
from stylekit.training.run import Result


@dataclasses.dataclass(frozen=True)
class Network:
    """Architecture."""

    layers: tuple[str, ...] = ("relu1_1",)
    """Layers."""

    flip: bool = True
    """Flip pictures."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training(RunConfig):
    """Train something."""

    network: Network = dataclasses.field(default_factory=Network)

    PRESETS: ClassVar = {"paper": {}, "paint": {"lr": 0.25, "layers": ("relu3_1",), "flip": False, "batch_size": 3}}


@dataclasses.dataclass(frozen=True)
class Listing:
    """List something."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """What to list."""


COMMANDS = {"train": (Training, vars), "list": (Listing, vars)}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The working directory, with a run in checkpoints/mine."""
    monkeypatch.chdir(tmp_path)
    save(training(name="mine", lr=0.5, layers=("relu2_1", "relu3_1"), flip=False), tmp_path)
    return tmp_path


def training(preset="paper", **given):
    return Training.from_preset(preset, dataroot="photographs", **given)


def save(config, root):
    folder = root / "checkpoints" / config.name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.plain()))


def parse(*args):
    with cli.exit_on_error("train.py"):
        return cli.parse(Training, "train.py", [str(arg) for arg in args])


def parse_command(args):
    with cli.exit_on_error("program"):
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


def test_a_defect_of_the_library_keeps_its_traceback_and_success_is_not_ended():
    for error in (KeyError("weights"), RuntimeError("shape mismatch")):
        with pytest.raises(type(error)):
            failing(error)([])
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


def test_torchrun_finds_the_line_where_it_looks_for_the_cause(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    assert exit_code(failing(ValueError("expected 3"))) == 2
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    failure = ProcessFailure(0, 1, 2, str(tmp_path / "error.json"))
    assert "traceback : program: error: expected 3\n=" in str(ChildFailedError("train.py", {0: failure}))


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
        assert config.data.batch_size == 2 and config.schedule.n_epochs in (3, 100)


def test_aliases_from_other_projects_are_accepted():
    config = parse("--dataroot", "photographs", "--image_size", 64, "--num_threads", 0, "--use_wandb")
    assert (config.data.crop_size, config.data.num_workers, config.output.wandb) == (64, 0, True)


@pytest.mark.parametrize(
    ("flags", "messages"),
    [
        (["--batchsize", "2"], ["unknown option --batchsize (did you mean --batch-size?)"]),
        (["--ngf", "2"], ["unknown option --ngf;"]),
        (["photographs"], ["unknown argument photographs;"]),
        (["--lr", "fast"], ["--lr fast: expected a number;"]),
        (["--max_steps", "1", "--max_steps=many"], ["--max_steps=many: expected an integer;"]),
        (["--batch-size"], ["--batch-size: expected an integer;"]),
        (["--preset", "best"], ["--preset best: expected one of paper, paint;"]),
        (["--amp", "maybe"], ["--amp maybe: expected one of auto, on, off;"]),
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
    assert flag_error(capsys) == (
        "train.py: error: --dataroot is missing (Folder with the pictures); see `train.py --help`\n"
    )


def test_a_command_is_chosen_by_name():
    _, config = cli.parse_command(COMMANDS, "program", "About.", ["train", "--dataroot", "photographs", "--no-flip"])
    assert config == training(flip=False)
    assert cli.parse_command(COMMANDS, "program", "About.", ["list", "a", "b"]) == (vars, Listing(names=("a", "b")))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "no command: expected train, list; see"),
        (["trian", "--dataroot", "photographs"], "no command trian (did you mean train?); see"),
        (["paint"], "no command paint: expected train, list; see"),
    ],
)
def test_an_unknown_or_missing_command_names_those_available(capsys, args, says):
    assert exit_code(parse_command, *args) == 2
    assert says in flag_error(capsys)


def test_help_describes_the_commands_and_their_flags(capsys):
    assert exit_code(parse_command, "--help") == 0
    text = capsys.readouterr().out
    lines = ("usage: program COMMAND [OPTIONS]", "About the program.", "train       Train something", "List something")
    assert all(line in text for line in lines)
    assert exit_code(parse_command, "train", "--help") == 0
    text = capsys.readouterr().out
    assert all(part in text for part in ("--layers", "Flip pictures.", "--continue-train", "Architecture."))
    # With a preset, its values are the defaults that are shown.
    assert exit_code(parse_command, "train", "--preset", "paint", "--help") == 0
    assert re.search(r"--lr FLOAT\s+.*default: 0\.25", capsys.readouterr().out)


def test_the_version_is_printed_without_a_command(capsys):
    assert exit_code(parse_command, "--version") == 0
    with pytest.raises(SystemExit) as stop:
        parse("--version")
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"program {__version__}\ntrain.py {__version__}\n"


def test_a_flag_wins_over_the_preset_and_the_preset_over_defaults(tmp_path):
    config = parse("--preset", "paint", "--dataroot", "photographs", "--lr", 0.1, "--flip")
    assert config == training("paint", lr=0.1, flip=True)
    assert (config.network.layers, config.data.batch_size, config.preset) == (("relu3_1",), 3, "paint")
    assert parse("--dataroot", "photographs") == training() == Training(data=TrainingData("photographs"))
    # Resumed, both are kept.
    save(config, tmp_path)
    where = ("--checkpoints-dir", tmp_path / "checkpoints")
    place = {"checkpoints_dir": tmp_path / "checkpoints", "resume": True}
    assert (
        parse(*where, "--resume")
        == parse(*where, "--resume", "--preset", "paint")
        == dataclasses.replace(config, **place)
    )


def test_a_new_run_reads_no_saved_options(runs):
    assert parse("--dataroot", "photographs", "--name", "mine") == training(name="mine")


@pytest.mark.parametrize("resume", ["--resume", "--continue-train", "--continue_train"])
@pytest.mark.parametrize("groups", [True, False], ids=["in groups", "of an earlier version"])
def test_a_resumed_run_keeps_its_options(runs, resume, groups):
    path = runs / "checkpoints" / "mine" / "config.json"
    saved = json.loads(path.read_text())
    if not groups:
        path.write_text(json.dumps(flatten(saved) | {"an_option_that_is_gone": 1}))
    config = parse("--name", "mine", resume)
    assert config == training(name="mine", lr=0.5, layers=("relu2_1", "relu3_1"), flip=False, resume=True)


def test_options_given_to_a_resumed_run_take_precedence(runs):
    config = parse("--name=mine", "--resume", "--lr", 0.1, "--layers", "relu4_1", "--flip", "--max-steps", 9)
    assert config == training(name="mine", lr=0.1, layers=("relu4_1",), flip=True, max_steps=9, resume=True)


def test_the_command_in_use_reads_the_saved_options(runs):
    _, config = cli.parse_command(COMMANDS, "program", "About.", ["train", "--name", "mine", "--resume"])
    assert config.schedule.lr == 0.5 and config.resume
    # The other commands do not have --resume.
    with pytest.raises(ValueError, match="unknown option --resume; see `program list --help`"):
        cli.parse_command(COMMANDS, "program", "About.", ["list", "--resume"])


def test_a_run_can_be_renamed_and_moved(runs):
    (runs / "elsewhere").mkdir()
    (runs / "checkpoints" / "mine").rename(runs / "elsewhere" / "other")
    config = parse("--checkpoints-dir", "elsewhere", "--name", "other", "--resume")
    assert (config.name, config.checkpoints_dir, config.schedule.lr) == ("other", Path("elsewhere"), 0.5)


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


@pytest.mark.parametrize("content", ["", "{", "[1]", "5", '{"lr": 1}', '{"dataroot": "x", "lr": "fast"}',
                                     '{"dataroot": "x", "lr": -1}', '{"dataroot": "x", "preset": "best"}',
                                     '{"data": {"dataroot": "x"}, "network": {"layers": 1}}'])  # fmt: skip
def test_damaged_options_of_a_run_are_refused(runs, capsys, content):
    (runs / "checkpoints" / "mine" / "config.json").write_text(content)
    with pytest.raises(SystemExit), cli.exit_on_error("train.py"):
        parse("--name", "mine", "--resume")
    assert re.search(r"checkpoints/mine/config\.json: damaged \(.+\); restore it", one_error(capsys, "train.py"))


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")])
@pytest.mark.parametrize(("batch_size", "smaller_batch"), [(1, ""), (8, "--batch-size 4, ")])
def test_out_of_memory_names_options_that_need_less(error, batch_size, smaller_batch):
    config = training(batch_size=batch_size, crop_size=100)
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
    config = training(compile=True)
    with pytest.raises(ValueError, match="--compile: ") as raised, cli.training_hint(config, "--width 8"):
        raise error
    assert str(raised.value) == (
        "--compile: PyTorch cannot compile the networks (InvalidCxxCompiler: No working C++ compiler found); "
        "it needs a C++ compiler such as g++; install one, or train without --compile"
    )


def test_other_errors_of_training_are_not_changed():
    with pytest.raises(RuntimeError, match="shape mismatch"), cli.training_hint(training(), "--width 8"):
        raise RuntimeError("shape mismatch")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", [{}, {"checkpoints_dir": Path("my runs")}])
def test_a_stopped_training_shows_the_command_that_resumes_it(capsys, monkeypatch, tmp_path, number, where):
    monkeypatch.chdir(tmp_path)
    config = training(name="first try", **where)
    save(config, tmp_path)
    if where:
        (tmp_path / "checkpoints").rename(tmp_path / "my runs")
    assert cli.report_training(Result(Path("x"), 10, number), config, "python train.py") == 128 + number
    first, shown = capsys.readouterr().out.splitlines()
    assert first == "stopped and saved at step 10; resume with"
    program, script, *flags = shlex.split(shown)
    assert (program, script) == ("python", "train.py")
    assert parse(*flags) == dataclasses.replace(config, resume=True)


def test_a_finished_training_and_other_processes_say_nothing(capsys, monkeypatch):
    assert cli.report_training(Result(Path("x"), 10, None), training(), "train.py") == 0
    monkeypatch.setenv("RANK", "1")
    assert cli.report_training(Result(Path("x"), 10, 15), training(), "train.py") == 143
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


def test_existing_results_are_skipped_or_replaced_on_request(jobs, capsys):
    assert cli.select_jobs(jobs, Path("out"), False, False) == (jobs, None)
    assert cli.select_jobs(jobs, Path("out"), True, False) == (jobs, Path("out/sheet.jpg"))
    existing(jobs[0].target)
    assert cli.select_jobs(jobs, Path("out"), False, False) == (jobs[1:], None)
    assert "skipped results that already exist: 1" in capsys.readouterr().out
    for path in (jobs[1].target, Path("out/sheet.jpg")):
        existing(path)
    assert cli.select_jobs(jobs, Path("out"), True, True) == (jobs, Path("out/sheet.jpg"))
    assert capsys.readouterr().out == ""


def test_it_is_an_error_if_all_results_exist(jobs):
    existing(jobs[0].target)
    with pytest.raises(FileExistsError, match=r"^out/a\.png already exist.*; add --overwrite or choose"):
        cli.select_jobs(jobs[:1], Path("out"), False, False)
    existing(jobs[1].target)
    with pytest.raises(FileExistsError, match=r"^out/a\.png and 1 more already exist"):
        cli.select_jobs(jobs, Path("out"), False, False)


def test_the_sheet_of_a_single_file_is_next_to_it_and_an_existing_one_is_not_replaced(jobs):
    single = [Job(Path("a.png"), Path("new.png"))]
    assert cli.select_jobs(single, Path("new.png"), True, False) == (single, Path("new-sheet.jpg"))
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


def test_the_report_counts_the_results_and_names_where_they_are(jobs, capsys):
    videos = [*jobs, Job(Path("clip.mp4"), Path("out/clip.mp4"))]
    for results, planned, line in (
        (outcomes(jobs), jobs, "translated 2 pictures: out\n"),
        (outcomes(jobs[:1]), jobs[:1], "translated 1 picture: out/a.png\n"),
        ([*outcomes(jobs), Outcome(videos[2])], videos, "translated 3 files: out\n"),
    ):
        assert report(results, planned) == 0
        assert capsys.readouterr() == (line, "")


def test_each_failure_is_reported_and_the_rest_counted(jobs, capsys):
    failed = [Outcome(job, error=f"{job.source}: damaged") for job in jobs]
    assert report([failed[0], *outcomes(jobs[1:])], jobs) == 1
    assert capsys.readouterr() == ("translated 1 picture: out\n", "program translate: a.png: damaged\n")
    assert report(failed, jobs, Path("out/sheet.jpg")) == 1
    out, error = capsys.readouterr()
    assert out == "" and error.count("damaged") == 2 and not Path("out/sheet.jpg").exists()
    # A single picture that fails is invalid input.
    assert report(failed[:1], jobs[:1]) == 2


def test_the_contact_sheet_has_the_pictures_that_succeeded(jobs, capsys):
    results = [Outcome(jobs[0], error="a.png: damaged"), *outcomes(jobs[1:])]
    assert report(results, jobs, Path("out/sheet.jpg")) == 1
    page = np.asarray(Image.open("out/sheet.jpg"))
    # One row of two pictures of 256 x 256 px, before and after.
    assert 256 < page.shape[0] < 2 * 256 and 2 * 256 < page.shape[1] < 3 * 256
    assert capsys.readouterr().out == "translated 1 picture: out\nbefore and after: out/sheet.jpg\n"


def test_the_contact_sheet_of_many_pictures_has_three_pairs_in_a_row_and_a_limit(jobs, capsys, monkeypatch):
    assert report(outcomes(jobs) * 4, jobs * 4, Path("out/sheet.jpg")) == 0
    page = Image.open("out/sheet.jpg")
    assert 6 * 256 < page.width < 7 * 256 and 3 * 256 < page.height < 4 * 256
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


def test_names_with_control_characters_are_shown_and_not_obeyed(capsys):
    with pytest.raises(SystemExit), cli.exit_on_error("program"):
        raise ValueError("no picture a\x1b[2Jb\nc.jpg")
    assert capsys.readouterr().err == "program: error: no picture a\\x1b[2Jb c.jpg\n"
