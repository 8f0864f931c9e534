import json
import os
import struct
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TINY, exit_code, one_error
from PIL import Image

from cyclegan.cli import train_main
from cyclegan.options import TrainConfig
from stylekit import cli
from stylekit.training.log import (
    Log,
    format_duration,
    plot_evaluations,
    plot_losses,
    print0,
    read_evaluations,
    read_metrics,
)


def test_metrics_are_one_line_a_step(tmp_path):
    log = Log(tmp_path, "a run", {})
    log.metrics(50, {"cycle_x": 1.5})
    log.metrics(100, {"cycle_x": 1.25, "lr": 2e-4})
    assert read_metrics(tmp_path) == [{"step": 50, "cycle_x": 1.5}, {"step": 100, "cycle_x": 1.25, "lr": 2e-4}]


def test_a_resumed_run_drops_the_lines_after_its_checkpoint(tmp_path):
    log = Log(tmp_path, "a run", {})
    for step in (10, 20, 30):
        log.metrics(step, {"cycle_x": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "cyc')  # Killed while writing.
    Log(tmp_path, "a run", {}, step=20).metrics(30, {"cycle_x": 2.0})
    assert [line["step"] for line in read_metrics(tmp_path)] == [10, 20, 30]
    assert read_metrics(tmp_path)[-1]["cycle_x"] == 2.0


def test_files_with_the_names_of_earlier_versions_are_continued(tmp_path):
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "figures.json").write_text('{"score": 0.5}')
    (tmp_path / "figures.jsonl").write_text('{"step": 6, "epoch": 1}\n{"step": 12, "epoch": 2}\n')
    Log(tmp_path, "a run", {}, step=6).evaluation(18, {"epoch": 3}, {})
    assert [line["step"] for line in read_evaluations(tmp_path)] == [6, 18]
    assert json.loads((tmp_path / "best" / "evaluation.json").read_text()) == {"score": 0.5}


@pytest.mark.plots
def test_the_plot_of_evaluations_has_a_panel_for_every_metric(tmp_path):
    log = Log(tmp_path, "a run", {})
    assert plot_evaluations(tmp_path) is None
    for epoch in (1, 2):
        kid = {"output": {"value": 1 / epoch, "low": 0.0, "high": 1.0}, "real": {"value": 0.1}, "untranslated": None}
        log.evaluation(6 * epoch, {"epoch": epoch, "x2y": {"kid": kid, "halo": kid}, "y2x": {"kid": kid}}, {})
    picture = Image.open(plot_evaluations(tmp_path)).convert("RGB")
    colors = {color for _, color in picture.getcolors(100_000)}
    # Lines in matplotlib's first two colors, blue and orange.
    assert any(b > r + 80 for r, g, b in colors) and any(r > b + 80 for r, g, b in colors)


@pytest.mark.plots
def test_the_plot_shows_the_losses(tmp_path):
    log = Log(tmp_path, "a run", {})
    assert plot_losses(tmp_path, {"cycle": ["cycle_x"]}) is None
    for step in range(1, 60):
        log.metrics(step, {"cycle_x": 10 / step, "d_x": 0.25})
    path = plot_losses(tmp_path, {"adversarial": ["d_x"], "cycle": ["cycle_x", "of another run"]})
    image = Image.open(path).convert("RGB")
    assert path.name == "losses.png" and image.width > 800
    colors = {color for _, color in image.getcolors(100_000)}
    assert any(b > r + 80 for r, g, b in colors)  # A line in matplotlib's first color, blue.


def test_other_processes_write_and_print_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    log = Log(tmp_path, "a run", {}, project="mine")
    log.metrics(1, {"cycle_x": 1.0})
    log.close()
    print0("nothing")
    assert not list(tmp_path.iterdir()) and not capsys.readouterr().out


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00:00"), (61.9, "0:01:01"), (360_000, "100:00:00")])
def test_durations_are_hours_minutes_and_seconds(seconds, text):
    assert format_duration(seconds) == text


# Weights & Biases.


def test_without_the_option_wandb_is_not_imported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # Any import fails.
    Log(tmp_path, "a run", {}).close()
    with pytest.raises(ValueError, match="--wandb: Weights & Biases is not installed; try pip install wandb"):
        Log(tmp_path, "a run", {}, project="mine")


def records(folder: Path):
    """What an offline run wrote: records in the blocks of a LevelDB log, after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("run-*.wandb")
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    place, block, data = 7, 32768, b""
    while place + 7 <= len(content):
        if block - place % block < 7:  # Too little room for a record: the rest of the block is padding.
            place += block - place % block
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        data += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # A whole record, or the last part of one.
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            data = b""
            yield record


def history(folder: Path):
    """The logged steps as dicts, without wandb's own entries."""
    for record in records(folder):
        if record.WhichOneof("record_type") == "history":
            items = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in record.history.item}
            yield {key: value for key, value in items.items() if not key.startswith("_")}


def test_an_offline_run_has_metrics_pictures_networks_and_options_and_is_continued(tmp_path):
    import wandb

    (tmp_path / "G").mkdir()
    (tmp_path / "G" / "config.json").write_text("{}")
    run_id = None
    for epoch in (1, 2):
        log = Log(tmp_path, "a run", {"ngf": 4}, 6 * (epoch - 1), "mine", run_id)
        log.metrics(6 * epoch - 3, {"cycle_x": 1.0, "lr": 2e-4})
        log.metrics(6 * epoch, {"cycle_x": 0.5, "lr": 2e-4})
        log.pictures(6 * epoch, {"real x": [Image.new("RGB", (8, 8))], "G(x)": [Image.new("RGB", (8, 8))]})
        log.evaluation(6 * epoch, {"epoch": epoch, "x2y": {}}, {"kid_x2y": 0.1})
        log.artifact("run", [tmp_path / "G"], ["latest", f"epoch-{epoch}"], {"step": 6 * epoch})
        log.close()
        run_id = log.run_id
        wandb.teardown()  # As at the end of a process: only then is everything on disk.

    folders = sorted((tmp_path / "wandb").glob("offline-run-*"), key=os.path.getmtime)
    assert len(folders) == 2
    # offline-run-TIME-ID, with a number behind it if both began in the same second.
    assert {folder.name.split("-")[3] for folder in folders} == {run_id}
    logged = [line for folder in folders for line in history(folder)]
    scalars = [line for line in logged if "train/cycle_x" in line]
    assert [line["train/step"] for line in scalars] == [3, 6, 9, 12]
    assert scalars[0] == {"train/step": 3, "train/cycle_x": 1.0, "train/lr": 2e-4}
    pictures = [line for line in logged if "val/G(x)" in line]
    assert [line["train/step"] for line in pictures] == [6, 12] and "val/real x" in pictures[0]
    evaluations = [line for line in logged if "evaluation/kid_x2y" in line]
    assert evaluations == [{"train/step": step, "evaluation/kid_x2y": 0.1} for step in (6, 12)]
    assert [line["epoch"] for line in read_evaluations(tmp_path)] == [1, 2]

    everything = [record for folder in folders for record in records(folder)]
    metrics = {r.metric.name or r.metric.glob_name: r.metric.step_metric for r in everything if r.HasField("metric")}
    assert {metrics[f"{group}/*"] for group in ("train", "val", "evaluation")} == {"train/step"}
    artifacts = [r.request.log_artifact.artifact for r in everything if r.request.HasField("log_artifact")]
    artifacts += [r.artifact for r in everything if r.HasField("artifact")]
    assert {alias for artifact in artifacts for alias in artifact.aliases} == {"latest", "epoch-1", "epoch-2"}
    options = {
        i.key or "/".join(i.nested_key): i.value_json
        for r in everything
        if r.HasField("run")
        for i in r.run.config.update
    }
    assert options["ngf"] == "4"


def test_an_active_run_is_used_and_left_open(tmp_path):
    import wandb

    run = wandb.init(mode="offline", dir=str(tmp_path), project="mine")
    try:
        (tmp_path / "run").mkdir()
        log = Log(tmp_path / "run", "a run", {"ngf": 4}, project="mine")
        log.metrics(1, {"cycle_x": 1.0})
        log.close()
        assert wandb.run is run and log.run_id == run.id and dict(run.config)["ngf"] == 4
        assert not (tmp_path / "run" / "wandb").exists()
    finally:
        run.finish()


def test_a_trial_of_a_sweep_has_a_folder_of_its_own(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    monkeypatch.setenv("WANDB_RUN_ID", "t1")
    flags = [*TINY, "--checkpoints-dir", tmp_path / "runs", "--max-steps", 1, "--dataroot", dataset]
    assert exit_code(train_main, *flags) == 0
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["t1"]


def test_an_error_of_weights_and_biases_does_not_stop_a_run(tmp_path, capsys):
    class Lost:
        id = "abc"

        def log(self, *_):
            raise ConnectionError("the network is down")

    log = Log(tmp_path, "a run", {})
    log._run = Lost()
    log.metrics(1, {"cycle_x": 1.0})
    log.metrics(2, {"cycle_x": 1.0})
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    assert capsys.readouterr().out.count("the network is down") == 1  # Reported once, not at every step.


def test_online_without_an_account_says_what_to_do_and_leaves_nothing(dataset, tmp_path, monkeypatch, capsys):
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("wandb.login", lambda **_: False)
    flags = [*TINY, "--checkpoints-dir", tmp_path / "runs", "--wandb", "--max-steps", 1, "--dataroot", dataset]
    assert exit_code(train_main, *flags) == 2
    line = one_error(capsys, "train.py")
    assert "not logged in; run `wandb login` or set WANDB_MODE=offline" in line
    assert not list((tmp_path / "runs").iterdir())


def test_the_sweep_file_names_flags_that_exist():
    import yaml

    sweep = yaml.safe_load((ROOT / "sweep.yaml").read_text())
    assert sweep["program"] == "train.py" and sweep["metric"]["name"].startswith("train/")
    given = []
    for name, parameter in sweep["parameters"].items():
        value = parameter.get("value", parameter.get("values", [parameter.get("min")])[0])
        given.append(f"--{name}" if value is True else f"--{name}={value}")
    fixed = [word for word in sweep["command"] if word.startswith("--")]
    assert cli.parse(TrainConfig, "train.py", [*given, *fixed]).output.wandb


def test_lines_that_are_no_metrics_are_skipped(tmp_path):
    lines = ['{"step": 1, "loss": 2.0}', "5", "{}", "[]", '{"step": "x"}', "[" * 100_000, '{"step": 2, "lo']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}]


def test_a_reader_that_has_gone_stops_nothing(monkeypatch):
    class Gone:
        def write(self, text):
            raise BrokenPipeError

        flush = write

    monkeypatch.setattr("sys.stdout", Gone())
    print0("nobody reads this")
