import json
import os
import struct
from pathlib import Path

from conftest import ROOT, TINY, run
from PIL import Image

from stylekit.log import Log, plot_losses, read_metrics


def test_metrics_are_one_line_a_step(tmp_path):
    log = Log(tmp_path, {})
    log.metrics(50, {"cycle_x": 1.5})
    log.metrics(100, {"cycle_x": 1.25, "lr": 2e-4})
    assert read_metrics(tmp_path) == [{"step": 50, "cycle_x": 1.5}, {"step": 100, "cycle_x": 1.25, "lr": 2e-4}]


def test_a_resumed_run_forgets_what_was_after_its_checkpoint(tmp_path):
    log = Log(tmp_path, {})
    for step in (10, 20, 30):
        log.metrics(step, {"cycle_x": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "cyc')  # Killed while writing.
    Log(tmp_path, {}, step=20).metrics(30, {"cycle_x": 2.0})
    assert [line["step"] for line in read_metrics(tmp_path)] == [10, 20, 30]
    assert read_metrics(tmp_path)[-1]["cycle_x"] == 2.0


def test_the_plot_shows_the_losses(tmp_path):
    log = Log(tmp_path, {})
    assert plot_losses(tmp_path, {"cycle": ["cycle_x"]}) is None
    for step in range(1, 60):
        log.metrics(step, {"cycle_x": 10 / step, "d_x": 0.25})
    path = plot_losses(tmp_path, {"adversarial": ["d_x"], "cycle": ["cycle_x", "of another run"]})
    image = Image.open(path).convert("RGB")
    assert path.name == "losses.png" and image.width > 800
    colours = {colour for _, colour in image.getcolors(100_000)}
    assert any(b > r + 80 for r, g, b in colours)  # A line in matplotlib's first colour, blue.


def test_other_processes_write_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    log = Log(tmp_path, {})
    log.metrics(1, {"cycle_x": 1.0})
    log.close()
    assert not list(tmp_path.iterdir()) and not capsys.readouterr().out


def test_without_wandb_it_is_not_even_imported(dataset, tmp_path):
    script = (
        "import sys; from cyclegan.cli import train; code = train(sys.argv[1:]); print(code, 'wandb' in sys.modules)"
    )
    flags = [*TINY, "--dataroot", dataset, "--checkpoints-dir", tmp_path / "runs", "--max-steps", 1]
    assert run("-c", script, *flags).stdout.endswith("0 False\n")


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


def test_an_offline_run_writes_what_we_say_it_does_and_resumes_as_the_same_run(dataset, tmp_path):
    flags = [*TINY, "--checkpoints-dir", tmp_path / "runs", "--name", "w", "--wandb", "--wandb-mode", "offline"]
    flags += ["--n-epochs-decay", 0, "--print-freq", 2, "--save-epoch-freq", 1, "--dataroot", dataset]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    first = run("train.py", *flags, "--n-epochs", 1, env=environment)
    assert first.returncode == 0, first.stderr
    second = run("train.py", *flags, "--n-epochs", 2, "--resume", env=environment)
    assert second.returncode == 0, second.stderr

    folders = sorted((tmp_path / "runs" / "w" / "wandb").glob("offline-run-*"), key=os.path.getmtime)
    assert len(folders) == 2
    assert len({folder.name.rsplit("-", 1)[1] for folder in folders}) == 1  # One run id.
    logged = [line for folder in folders for line in history(folder)]
    scalars = [line for line in logged if "train/cycle_x" in line]
    assert [line["train/step"] for line in scalars] == [2, 4, 6, 8, 10, 12]
    expected = {"adversarial_g", "d_y", "identity_x", "lr", "images_per_second", "epoch"}
    assert {f"train/{name}" for name in expected} <= scalars[0].keys()
    pictures = [line for line in logged if "val/G(x)" in line]
    assert [line["train/step"] for line in pictures] == [6, 12]
    assert {"val/real x", "val/F(G(x))", "val/real y", "val/F(y)", "val/G(F(y))"} <= pictures[0].keys()

    everything = [record for folder in folders for record in records(folder)]
    metrics = {r.metric.name or r.metric.glob_name: r.metric.step_metric for r in everything if r.HasField("metric")}
    assert metrics["train/*"] == "train/step" and metrics["val/*"] == "train/step"
    artifacts = [r.request.log_artifact.artifact for r in everything if r.request.HasField("log_artifact")]
    artifacts += [r.artifact for r in everything if r.HasField("artifact")]
    assert {alias for artifact in artifacts for alias in artifact.aliases} == {"latest", "epoch-1", "epoch-2"}
    config = {
        i.key or "/".join(i.nested_key): i.value_json
        for r in everything
        if r.HasField("run")
        for i in r.run.config.update
    }
    assert config["ngf"] == "4"


SWEEP = """
import sys, wandb
from cyclegan.cli import train
run = wandb.init(mode="offline", dir=sys.argv[1], project="mine")
code = train(sys.argv[2:])
print(code, wandb.run is run, wandb.run.id == run.id, dict(run.config)["ngf"])
run.finish()
"""


def test_a_run_that_is_there_already_is_used_and_left_open(dataset, tmp_path):
    flags = [*TINY, "--checkpoints-dir", tmp_path / "runs", "--wandb", "--max-steps", 1, "--dataroot", dataset]
    result = run("-c", SWEEP, tmp_path, *flags)
    assert "0 True True 4" in result.stdout, result.stderr
    assert not list((tmp_path / "runs").glob("*/wandb"))


def test_every_trial_of_a_sweep_has_its_own_folder(dataset, tmp_path, monkeypatch):
    from cyclegan.cli import train

    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    flags = [*TINY, "--checkpoints-dir", str(tmp_path / "runs"), "--max-steps", "1", "--dataroot", str(dataset)]
    for trial in ("t1", "t2"):
        monkeypatch.setenv("WANDB_RUN_ID", trial)
        assert train(flags) == 0
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"t1", "t2"}


def test_a_lost_network_does_not_stop_a_run(tmp_path, capsys):
    class Lost:
        id = "abc"

        def log(self, *_):
            raise ConnectionError("the network is down")

    log = Log(tmp_path, {})
    log._run = Lost()
    log.metrics(1, {"cycle_x": 1.0})
    log.metrics(2, {"cycle_x": 1.0})
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    assert capsys.readouterr().out.count("the network is down") == 1  # Said once, not at every step.


def test_online_without_an_account_says_what_to_do(dataset, tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    environment |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}
    flags = [*TINY, "--checkpoints-dir", tmp_path / "runs", "--wandb", "--max-steps", 1, "--dataroot", dataset]
    result = run("train.py", *flags, env=environment)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and "wandb login" in result.stderr and "--wandb-mode offline" in result.stderr


def test_the_sweep_file_names_flags_that_exist():
    import yaml

    from cyclegan.options import TrainConfig
    from stylekit import cli

    sweep = yaml.safe_load((ROOT / "sweep.yaml").read_text())
    assert sweep["program"] == "train.py" and sweep["metric"]["name"].startswith("train/")
    given = []
    for name, parameter in sweep["parameters"].items():
        value = parameter.get("value", parameter.get("values", [parameter.get("min")])[0])
        given.append(f"--{name}" if value is True else f"--{name}={value}")
    fixed = [word for word in sweep["command"] if word.startswith("--")]
    parsed = cli.parse(TrainConfig, [*given, *fixed], "sweep")
    assert parsed.wandb
