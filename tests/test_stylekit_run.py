import itertools
import json
import multiprocessing
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from multiprocessing.synchronize import Event
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, TINY, command, exit_code, one_error, wait_for_lines
from filelock import FileLock
from huggingface_hub import PyTorchModelHubMixin
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import Dataset

import cyclegan.train
from cyclegan.cli import train_main
from stylekit import atomic
from stylekit.measures.features import Estimate
from stylekit.measures.table import Metric
from stylekit.options import RunConfig, flatten
from stylekit.training import checkpoint
from stylekit.training.data import make_loader
from stylekit.training.log import Log, read_evaluations, read_metrics
from stylekit.training.optim import build_ema, learning_rate, optimizer_step, set_learning_rate
from stylekit.training.run import Result, Run, _lock


@dataclass(frozen=True, kw_only=True)
class ToyConfig(RunConfig):
    """Options of the smallest method."""

    width: int = 4
    eval_every: int = 0


class Toy(nn.Module, PyTorchModelHubMixin):
    """Two layers, with dropout so that training draws random numbers."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, width), nn.Dropout(0.2), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Numbers(Dataset[Tensor]):
    """Three random numbers that follow from the index."""

    def __getitem__(self, index: int) -> Tensor:
        return torch.rand(3, generator=torch.Generator().manual_seed(index))


@dataclass
class State:
    network: Toy
    ema: AveragedModel
    optimizer: torch.optim.Optimizer

    def state_dict(self):
        return {name: getattr(self, name).state_dict() for name in ("network", "ema", "optimizer")}

    def load_state_dict(self, saved):
        for name in ("network", "ema", "optimizer"):
            getattr(self, name).load_state_dict(saved[name])


@dataclass
class Hooks:
    """What a test does in a step, by the number of the step: before or after it is logged."""

    before: dict[int, Callable[[], object]] = field(default_factory=dict)
    after: dict[int, Callable[[], object]] = field(default_factory=dict)


def train(config: ToyConfig, hooks: Hooks | None = None, scores: Mapping[int, float] | None = None) -> Result:
    """A loop as the methods have it; an epoch has six samples.

    Args:
        scores: What evaluations give, by epoch.
    """
    hooks = hooks or Hooks()
    with Run(config, fixed=("width",)) as run:
        torch.manual_seed(config.schedule.seed)
        network = Toy(config.width)
        state = State(network, build_ema(network, config.schedule.ema_decay), torch.optim.Adam(network.parameters()))
        run.restore(state)
        for batch in run.batches(make_loader(Numbers(), 6, config, run.device)):
            set_learning_rate(state.optimizer, lr := learning_rate(config.schedule, run.progress))
            hooks.before.get(run.step + 1, lambda: None)()
            loss = (state.network(batch) - 1).square().mean()
            optimizer_step(state.optimizer, {"loss": loss})
            state.ema.update_parameters(state.network)
            run.log({"loss": loss.detach()}, lr)
            hooks.after.get(run.step, lambda: None)()
            networks = {"model": state.ema.module}
            if run.samples_due:
                run.show({"sample": [Image.new("RGB", (40, 30), "red")]}, {"losses": ("loss",)})
            if run.evaluation_due(config.eval_every):
                score = (scores or {}).get(run.epoch, 1.0)
                metric = Metric(Estimate(score, 0.0, 9.0), None, Estimate(config.width, 0.0, 9.0))
                run.record({"x2y": {"kid": metric}}, score, networks)
            if run.checkpoint_due:
                run.save(state.state_dict(), networks)
    return run.result


@pytest.fixture
def config(tmp_path):
    """Builds options; two epochs of six steps unless the test says otherwise."""

    def build(**changes):
        usual = {"dataroot": "unused", "checkpoints_dir": tmp_path / "runs", "name": "run", "num_workers": 0}
        usual |= {"device": "cpu", "amp": "off", "print_freq": 1, "n_epochs": 2, "n_epochs_decay": 0, "lr": 0.01}
        return ToyConfig.from_preset("paper", **usual | changes)

    return build


@pytest.fixture
def stopped(config):
    """The folder of a run that stopped after two steps of twelve."""
    return train(config(), Hooks(before={2: stop})).folder


def stop(number: int = signal.SIGTERM) -> None:
    signal.raise_signal(number)


def flat(values, name=""):
    """All leaves of nested dicts and lists by path."""
    if isinstance(values, dict | list):
        items = values.items() if isinstance(values, dict) else enumerate(values)
        return {key: leaf for k, value in items for key, leaf in flat(value, f"{name}.{k}").items()}
    return {name: values}


def assert_same_run(one: Path, other: Path) -> None:
    """Both folders hold the same state, bit for bit, and the same losses."""
    first, second = (checkpoint.load(folder / "last.pt") for folder in (one, other))
    for saved in (first, second):
        # What a run is called, its limits, and its clock may differ.
        del saved["config"], saved["seconds"]
    first, second = flat(first), flat(second)
    assert first.keys() == second.keys()
    different = [
        key
        for key, value in first.items()
        if not (torch.equal(value, second[key]) if isinstance(value, Tensor) else value == second[key])
    ]
    assert not different
    assert losses(one) == losses(other)


def losses(folder: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without the clock."""
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in read_metrics(folder)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What a run leaves on disk.


def test_a_run_leaves_what_the_documentation_lists(config):
    options = config(n_epochs=1, n_epochs_decay=1, save_epoch_freq=2)
    result = train(options)
    folder, kept = result.folder, result.folder / "epochs" / "0002"
    assert (result.step, result.signal) == (12, None)
    assert set(names(folder)) == {
        ".lock", "config.json", "last.pt", "metrics.jsonl", "losses.png", "samples", "model", "epochs",
    }  # fmt: skip
    assert names(folder / "samples") == ["epoch-0001.png", "epoch-0002.png"]
    assert names(folder / "epochs") == ["0002"] and names(kept) == ["config.json", "last.pt", "model"]
    assert names(folder / "model") == names(kept / "model") == ["config.json", "model.safetensors"]
    assert json.loads((folder / "config.json").read_text()) == options.plain()


def test_metrics_have_the_loss_the_learning_rate_and_the_place_in_the_run(config):
    lines = read_metrics(train(config(n_epochs=1, n_epochs_decay=1)).folder)
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["epoch"] for line in lines[:6]] == pytest.approx([i / 6 for i in range(1, 7)], abs=1e-5)
    assert all(line.keys() == {"step", "loss", "epoch", "lr", "images_per_second"} for line in lines)
    assert [line["lr"] for line in lines[:7]] == [0.01] * 7
    assert lines[-1]["lr"] == pytest.approx(0.01 / 6, rel=1e-4)


def test_a_log_line_has_the_mean_of_the_steps_since_the_last_one_and_epochs_end_with_one(config):
    every = [line["loss"] for line in read_metrics(train(config(name="every")).folder)]
    lines = read_metrics(train(config(name="fourth", print_freq=4)).folder)
    assert [line["step"] for line in lines] == [4, 6, 8, 12]
    means = [sum(every[a:b]) / (b - a) for a, b in itertools.pairwise((0, 4, 6, 8, 12))]
    assert [line["loss"] for line in lines] == pytest.approx(means, rel=1e-4)


def test_the_network_to_use_is_the_moving_average_in_the_checkpoint(config):
    folder = train(config(ema_decay=0.9)).folder
    saved = checkpoint.load(folder / "last.pt")
    for name, value in Toy.from_pretrained(folder / "model").state_dict().items():
        assert torch.equal(value, saved["ema"][f"module.{name}"])
        assert not torch.equal(value, saved["network"][name])


def test_within_an_epoch_a_run_is_saved_with_the_first_line_after_ten_minutes(config, monkeypatch):
    folder, steps = config().checkpoints_dir / "run", []
    look = {step: lambda: steps.append(checkpoint.load(folder / "last.pt")["step"]) for step in (4, 5, 9, 12)}
    monkeypatch.setattr("stylekit.training.run.SAVE_SECONDS", 0)
    train(config(print_freq=3), Hooks(before=look))
    assert steps == [3, 3, 6, 9]
    assert [line["step"] for line in read_metrics(folder)] == [3, 6, 9, 12]


def test_a_run_that_ends_within_an_epoch_shows_samples_of_its_last_step(config):
    folder = train(config(max_steps=8)).folder
    assert names(folder / "samples") == ["epoch-0001-step-0000008.png", "epoch-0001.png"]


def test_the_same_seed_gives_the_same_run_and_another_seed_another_run(config):
    folders = [train(config(name=f"run{i}", seed=seed)).folder for i, seed in enumerate((5, 5, 6))]
    assert_same_run(folders[0], folders[1])
    assert read_metrics(folders[0])[0]["loss"] != read_metrics(folders[2])[0]["loss"]


# The end of a run.


def test_max_steps_ends_a_run_with_a_learning_rate_near_zero(config):
    # A signal in the last step does not change that it is finished.
    result = train(config(n_epochs=1000, n_epochs_decay=1000, max_steps=40), Hooks(before={40: stop}))
    assert (result.step, result.signal) == (40, None)
    assert read_metrics(result.folder)[-1]["lr"] == pytest.approx(0.01 / 20, rel=1e-4)


def test_max_minutes_end_a_run_with_a_learning_rate_near_zero(config, monkeypatch):
    ticks = iter(range(10**6))
    # Every look at the clock is a second later than the one before.
    monkeypatch.setattr("stylekit.training.run.time", SimpleNamespace(monotonic=lambda: next(ticks)))
    result = train(config(n_epochs=1000, n_epochs_decay=1000, max_minutes=1, eval_every=9))
    assert result.signal is None and 30 < result.step <= 60
    saved = checkpoint.load(result.folder / "last.pt")
    # A step looks at the clock twice; what is saved, shown and evaluated after it takes no time of the run.
    assert saved["seconds"] == saved["step"] == result.step
    rates = [line["lr"] for line in read_metrics(result.folder)]
    assert rates[0] == 0.01 and rates == sorted(rates, reverse=True) and rates[-1] <= 0.01 / 15


def lefts(capsys) -> list[str]:
    """The remaining time in each log line."""
    return re.findall(r"([\d:]+) left\)", capsys.readouterr().out)


def test_the_remaining_time_obeys_every_limit_from_the_first_line_on(config, monkeypatch, capsys):
    # A step takes a second; an epoch has six.
    monkeypatch.setattr("stylekit.training.run.time", SimpleNamespace(monotonic=itertools.count().__next__))
    for limits, more in (
        ({"n_epochs": 1}, "--n-epochs 2"),
        ({"max_minutes": 0.1}, "--max-minutes 0.2"),
        ({"max_steps": 6, "max_minutes": 60}, "--max-steps 12"),
    ):
        options = {"name": more, "n_epochs": 99} | limits
        train(config(**options))
        assert lefts(capsys) == [f"0:00:0{left}" for left in range(5, -1, -1)]
        with pytest.raises(ValueError, match=f"raise the limit that ended it, as in --resume {more}"):
            train(config(**options, resume=True))
    assert train(config(**options | {"max_steps": 9}, resume=True)).step == 9
    assert lefts(capsys) == ["0:00:02", "0:00:01", "0:00:00"]


def test_the_first_line_does_not_wait_for_print_freq_and_a_bar_shows_what_it_says(config, monkeypatch, capsys):
    monkeypatch.setattr("stylekit.training.run.time", SimpleNamespace(monotonic=itertools.count(step=2).__next__))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    folder = train(config(print_freq=50, n_epochs=1, batch_size=1, max_steps=6, max_minutes=0.15)).folder
    assert [line["step"] for line in read_metrics(folder)] == [3, 5]
    out, bar = capsys.readouterr()
    assert "6 steps per epoch; ends after 6 steps or 0:00:09; output in" in out
    assert "(0.50 images/s, 0:00:03 left)" in out
    # 6 of 9 seconds. tqdm's own estimate would have a "<".
    assert " 67%|" in bar and "epoch 1, step 3, 0.50 images/s, 0:00:03 left" in bar and "<" not in bar


# Evaluation.


def test_evaluations_are_logged_every_n_epochs_and_at_the_end_and_the_best_networks_are_kept(config, capsys):
    options = dict(n_epochs=4, max_steps=21, eval_every=2)
    folder = train(config(**options), scores={2: 0.5, 3: 0.7}).folder
    lines = read_evaluations(folder)
    assert [(line["step"], line["epoch"], line["score"]) for line in lines] == [(12, 2, 0.5), (21, 3.5, 0.7)]
    assert lines[0]["x2y"]["kid"]["output"] == {"value": 0.5, "low": 0.0, "high": 9.0}
    best = json.loads((folder / "best" / "evaluation.json").read_text())
    assert best == lines[0] and (folder / "evaluations.png").is_file()
    kept, last = (Toy.from_pretrained(path).state_dict() for path in (folder / "best/model", folder / "model"))
    assert not torch.equal(kept["layers.0.weight"], last["layers.0.weight"])
    assert "evaluation after epoch 2: score 0.500 (the best so far); x2y: kid 0.5" in capsys.readouterr().out

    # A killed process may have logged an evaluation of a step that the checkpoint does not have.
    with (folder / "evaluations.jsonl").open("a") as file:
        file.write(json.dumps(lines[1] | {"step": 24}) + '\n{"step": 2')
    train(config(n_epochs=6, eval_every=1, resume=True), scores={4: 0.6, 5: 0.4, 6: 0.9})
    assert [line["step"] for line in read_evaluations(folder)] == [12, 21, 24, 30, 36]
    assert json.loads((folder / "best" / "evaluation.json").read_text())["epoch"] == 5


def test_the_best_networks_are_replaced_if_they_were_measured_on_other_pictures(config):
    folder = train(config(n_epochs=1, eval_every=1), scores={1: 0.1}).folder
    best = folder / "best" / "evaluation.json"
    best.write_text(best.read_text().replace('"value": 4', '"value": 5'))
    train(config(eval_every=1, resume=True), scores={2: 0.3})
    assert json.loads(best.read_text())["score"] == 0.3
    best.write_text("damaged")
    train(config(n_epochs=3, eval_every=1, resume=True), scores={3: 0.4})
    assert json.loads(best.read_text())["score"] == 0.4


def test_a_warning_is_printed_and_sent_as_an_alert(config, capsys, monkeypatch):
    alerts = []
    wandb = SimpleNamespace(alert=lambda title, text: alerts.append((title, text)))
    with Run(config(), fixed=()) as run:
        for _ in run.batches(make_loader(Numbers(), 6, run.config, run.device)):
            monkeypatch.setattr(run._log, "_run", wandb)
            run.warn("fever", "it is hot; use --fan")
            break
    assert alerts == [("fever", "it is hot; use --fan")]
    assert "warning: it is hot; use --fan\n" in capsys.readouterr().out


# Resuming.


def test_four_epochs_equal_two_and_two_bit_for_bit(config):
    whole = train(config(name="whole", n_epochs=4)).folder
    train(config(name="parts", n_epochs=2))
    assert_same_run(whole, train(config(name="parts", n_epochs=4, resume=True)).folder)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("step", "number"), [(1, signal.SIGTERM), (4, signal.SIGINT), (6, signal.SIGTERM)])
def test_a_run_stopped_at_any_step_resumes_bit_for_bit(config, step, number, when):
    whole = train(config(name="whole")).folder
    result = train(config(name="parts"), Hooks(**{when: {step: lambda: stop(number)}}))
    # A signal that comes after a step has been counted stops the next one.
    assert (result.step, result.signal) == (step + (when == "after"), number)
    assert checkpoint.load(result.folder / "last.pt")["step"] == result.step
    result = train(config(name="parts", resume=True))
    assert (result.step, result.signal) == (12, None)
    assert_same_run(whole, result.folder)


def test_a_killed_run_resumes_from_the_checkpoint_before_and_ends_bit_for_bit(config, monkeypatch):
    options = config(name="parts", save_epoch_freq=1, eval_every=1, num_workers=1)
    scores = {1: 0.5, 2: 0.4}
    whole = train(replace(options, name="whole"), scores=scores).folder
    folder, found = options.checkpoints_dir / "parts", []
    # Before losses.png; the kept epoch; its last.pt; last.pt; new best networks; last.pt of the next epoch.
    for number in (3, 10, 12, 13, 21, 19):
        kill_before(number, replace(options, resume=(folder / "last.pt").exists()), scores, monkeypatch)
        kinds = ("samples/*.png", "best/*.json", "model/*.safetensors", "epochs/*/last.pt", "last.pt")
        found.append([len(list(folder.glob(kind))) for kind in kinds])
    # Between the old best networks and the new ones there are none.
    assert found == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [2, 0, 1, 1, 1],
        [2, 1, 1, 2, 1],
    ]
    train(replace(options, resume=True), scores=scores)
    assert_same_run(whole, folder)
    files, others = (
        {path.relative_to(run): path for path in run.rglob("*") if path.is_file()} for run in (whole, folder)
    )
    assert files.keys() == others.keys()
    for path in files.keys() - {Path("metrics.jsonl")}:
        assert path.name in ("config.json", "last.pt") or files[path].read_bytes() == others[path].read_bytes(), path
    with pytest.raises(ValueError, match="is finished: 12 steps"):
        train(replace(options, resume=True))


def kill_before(number: int, config: ToyConfig, scores: Mapping[int, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until just before so many files and folders have got their names, and leave the disk as it is then.

    This process takes the place of one that is killed and of the next: it undoes what it cleans up on its way out. To
    kill a fork takes as few lines, but PyTorch does not train in a fork of a process that has used a GPU, or even only
    exported a network.
    """
    folder, left = config.checkpoints_dir / config.name, config.checkpoints_dir / "left"
    numbers, rename = itertools.count(1), Path.replace

    def rename_or_die(path: Path, target: Path) -> Path:
        if next(numbers) == number:
            shutil.copytree(folder, left)
            raise Killed
        return rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "replace", rename_or_die)
        train(config, scores=scores)
    shutil.rmtree(folder, ignore_errors=True)
    left.rename(folder)
    # What tells processes of the same number apart.
    monkeypatch.setattr(atomic, "_START", f"{number:08x}")
    atomic._remove_leftovers.cache_clear()


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


def test_a_moved_run_and_one_of_an_older_version_resume(stopped, config, tmp_path):
    whole = train(config(name="whole")).folder
    stopped.rename(tmp_path / "moved")
    saved = checkpoint.load(tmp_path / "moved" / "last.pt")
    # Options without groups, some of which are gone, the states of the generators, and the terms since the last line.
    gone = {"cache": "auto", "n_samples": 8, "keep_epochs": "2", "beta1": 0.5, "wandb_project": "mine"}
    old = {"random": torch.get_rng_state(), "random_cuda": None, "pending": [[{"loss": 1.0}]]}
    checkpoint.save(tmp_path / "moved" / "last.pt", **saved | old | {"config": flatten(saved["config"]) | gone})
    (tmp_path / "moved" / ".written").write_text("step 2 after 0.1 s\n")
    assert train(config(checkpoints_dir=tmp_path, name="moved", resume=True)).step == 12
    assert_same_run(whole, tmp_path / "moved")


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_kept_epoch_resumes_as_a_run_of_its_own(config, epoch):
    whole = train(config(name="whole", n_epochs=3)).folder
    folder = train(config(save_epoch_freq=1)).folder
    before = (folder / "last.pt").read_bytes()
    epochs = config(checkpoints_dir=folder / "epochs", name=f"000{epoch}", n_epochs=3, resume=True)
    kept = train(epochs).folder
    assert kept == folder / "epochs" / f"000{epoch}"
    # The last epoch and the run share the file of the checkpoint.
    assert (folder / "last.pt").read_bytes() == before
    ends = [checkpoint.load(end / "last.pt") for end in (whole, kept)]
    assert ends[1]["step"] == 18
    for name, value in ends[0]["network"].items():
        assert torch.equal(value, ends[1]["network"][name])
    assert losses(kept) == losses(whole)[6 * epoch :]


def test_resuming_says_where_it_continues_and_which_options_changed(stopped, config, capsys):
    capsys.readouterr()
    train(config(resume=True, max_steps=4, lr=0.02))
    out = capsys.readouterr().out
    assert f"resuming {stopped} at epoch 1, step 2\n" in out
    assert "options that differ from the saved ones: --max-steps 4 (was None), --lr 0.02 (was 0.01)\n" in out


def test_a_resumed_run_is_logged_as_the_same_run_of_weights_and_biases(config, monkeypatch):
    given = []

    def start(log, *_):
        given.append(log.run_id)
        log._run, log.run_id = SimpleNamespace(), "abc"

    monkeypatch.setattr(Log, "_start_wandb", start)
    monkeypatch.setattr(Log, "_to_wandb", lambda *_: None)
    train(config(n_epochs=1, wandb=True))
    train(config(resume=True, wandb=True))
    assert given == [None, "abc"]


def test_an_extension_that_raises_the_learning_rate_says_so(config, capsys):
    decaying = {"n_epochs": 1, "n_epochs_decay": 1}
    train(config(**decaying))
    train(config(name="constant", lr_policy="constant", **decaying))
    capsys.readouterr()
    train(config(**decaying | {"n_epochs": 3}, resume=True))
    assert "the extension raises the learning rate from 0.00167 to 0.01; train in parts with" in capsys.readouterr().out
    train(config(name="constant", lr_policy="constant", **decaying | {"n_epochs": 3}, resume=True))
    assert "learning rate" not in capsys.readouterr().out
    assert {line["lr"] for line in read_metrics(config().checkpoints_dir / "constant")} == {0.01}


# What is refused.


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"width": 5}, r"--width 5 \(was 4\)"), ({"preset": "paint"}, r"--preset paint \(was paper\)")],
)
def test_a_run_cannot_change_its_network_or_preset(stopped, config, changes, says):
    with pytest.raises(ValueError, match=rf"a run cannot change {says}; choose another --name"):
        train(replace(config(resume=True), **changes))


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"config": [1]}, "its config is a list"),
        ({"config": {"width": torch.zeros(2)}}, "its config is not plain"),
        ({"network": "none"}, "not a checkpoint of this run"),
        ({"optimizer": {}}, "not a checkpoint of this run"),
        ({"step": "two"}, "not a"),
        ({"step_in_epoch": None}, "not a"),
        ({"seconds": "long"}, "not a"),
        ({"config": ...}, "not a .*config"),
        ({"network": ...}, "not a .*network"),
        ({"epoch": ...}, "not a .*epoch"),
        ({"wandb_run_id": ...}, "not a .*wandb_run_id"),
    ],
)
def test_a_checkpoint_of_another_layout_is_named_and_untouched(stopped, config, entries, says):
    saved = checkpoint.load(stopped / "last.pt") | entries
    checkpoint.save(stopped / "last.pt", **{name: entry for name, entry in saved.items() if entry is not ...})
    before = (stopped / "last.pt").read_bytes()
    with pytest.raises(ValueError, match=rf"last\.pt: .*{says}") as caught:
        train(config(resume=True))
    assert "\n" not in str(caught.value)
    assert (stopped / "last.pt").read_bytes() == before


def test_a_failed_start_leaves_no_folder_behind_and_a_failed_resume_the_run_as_it_was(config):
    with pytest.raises(ValueError, match="6 pictures do not fill one batch of --batch-size 100; try --batch-size 6"):
        train(config(batch_size=100))
    assert not (config().checkpoints_dir / "run").exists()
    folder = train(config(max_steps=1)).folder
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="do not fill one batch"):
        train(config(resume=True, batch_size=100))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_folder_that_cannot_be_created_is_named(config, tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"cannot create the folder .*runs/run .*; choose another --checkpoints-dir"):
        train(config())


def test_a_diverged_run_stops_before_it_saves(stopped, config):
    before = (stopped / "last.pt").read_bytes()
    with pytest.raises(FloatingPointError, match=r"diverged by step 4: loss is .*last\.pt is still good; try"):
        train(config(resume=True, lr=1e30))
    assert (stopped / "last.pt").read_bytes() == before


def test_weights_that_are_not_finite_are_not_saved(config, monkeypatch):
    lost = {"network": {"weight": torch.tensor(float("nan"))}}
    monkeypatch.setattr(State, "state_dict", lambda self: lost)
    with pytest.raises(
        FloatingPointError, match=r"diverged by step 6: network\.weight is not finite; nothing was saved"
    ):
        train(config())
    assert not (config().checkpoints_dir / "run" / "last.pt").exists()


# The lock.


def test_a_second_process_is_kept_out_and_the_lock_of_a_dead_one_is_not_in_the_way(config):
    folder, context = config().checkpoints_dir / "run", multiprocessing.get_context("fork")
    folder.mkdir(parents=True)
    locked = context.Event()
    holder = context.Process(target=hold_lock, args=(folder, locked))
    holder.start()
    assert locked.wait(60)
    with pytest.raises(BlockingIOError, match=rf"is in use by process {holder.pid} on .+; choose another --name"):
        train(config())
    assert not (folder / "last.pt").exists()
    holder.kill()
    holder.join()
    assert train(config()).step > 0


def hold_lock(folder: Path, locked: Event) -> None:
    with _lock(folder):
        locked.set()
        time.sleep(600)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_checkpoint_is_read_when_the_main_process_has_the_lock(stopped, config, monkeypatch, rank):
    """The process that had it may have replaced the checkpoint before it ended."""
    newer = train(config(name="newer"), Hooks(before={5: stop})).folder
    acquire = FileLock.acquire

    def replace_and_acquire(lock, **options):
        shutil.copy(newer / "last.pt", stopped / "last.pt")
        return acquire(lock, **options)

    @contextmanager
    def join_group(device):
        """Another process comes here once the main one has the lock."""
        shutil.copy(newer / "last.pt", stopped / "last.pt")
        yield

    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setattr(FileLock, "acquire", replace_and_acquire)
    monkeypatch.setattr("stylekit.distributed.process_group", join_group if rank else lambda _: nullcontext())
    with Run(config(resume=True), fixed=("width",)) as run:
        assert run.saved["step"] == 5


def test_an_error_is_not_hidden_by_one_of_unlocking(tmp_path):
    with pytest.raises(OSError, match=r"could not write last\.pt"), _lock(tmp_path):
        (tmp_path / ".owner").unlink()  # As in a folder that has become read-only, it cannot be removed at the end.
        (tmp_path / ".owner").mkdir()
        raise OSError("could not write last.pt (Read-only file system)")


def test_a_killed_data_loading_process_is_started_again_and_loses_no_step(config, capsys):
    def kill():
        for worker in multiprocessing.active_children():
            worker.kill()
            worker.join()

    whole = train(config(name="whole")).folder
    parts = train(config(name="parts", num_workers=1), Hooks(after={3: kill})).folder
    assert "a data loading process was killed at step" in capsys.readouterr().out
    assert_same_run(whole, parts)


# The same through a real command.


@pytest.fixture
def flags(dataset, tmp_path):
    """Flags of CycleGAN trainings that log every step and end only after 1000 epochs of six."""
    flags = [*TINY, "--dataroot", dataset, "--checkpoints-dir", tmp_path / "runs", "--print-freq", 1]
    return [*flags, "--pool-size", 3, "--noise", 0.2, "--n-epochs", 1000, "--n-epochs-decay", 0]


def test_a_command_that_is_killed_and_then_stopped_resumes_bit_for_bit(flags, tmp_path, capsys, monkeypatch):
    folder, where = tmp_path / "runs" / "parts", ["--name", "parts", "--checkpoints-dir", tmp_path / "runs"]
    process = subprocess.Popen(command(["train.py", *flags, "--name", "parts", "--num-workers", 1]), cwd=ROOT)
    wait_for_lines(folder / "metrics.jsonl", 7, process)
    process.kill()
    process.wait()
    step = checkpoint.load(folder / "last.pt")["step"]
    assert step >= 6 and step % 6 == 0

    # --resume alone continues.
    train_step = cyclegan.train.train_step
    monkeypatch.setattr("cyclegan.train.train_step", lambda *args: stop(signal.SIGINT) or train_step(*args))
    assert exit_code(train_main, *where, "--resume") == 128 + signal.SIGINT
    hint = f"--name parts --checkpoints-dir {tmp_path / 'runs'} --resume"
    out, err = capsys.readouterr()
    assert (
        f"stopped and saved at step {step + 1}; resume with\n    python train.py {hint}\n" in out and "rror" not in err
    )
    monkeypatch.undo()
    assert exit_code(train_main, *where, "--resume", "--max-steps", step + 2) == 0
    assert f"options that differ from the saved ones: --max-steps {step + 2} (was None)\n" in capsys.readouterr().out
    assert exit_code(train_main, *flags, "--name", "whole", "--max-steps", step + 2) == 0
    assert_same_run(tmp_path / "runs" / "whole", folder)


def test_errors_of_a_run_are_one_line_and_an_exit_code(flags, tmp_path, capsys):
    flags += ["--max-steps", 1]
    last = tmp_path / "runs" / "experiment_name" / "last.pt"
    assert exit_code(train_main, *flags) == 0
    capsys.readouterr()
    whole = last.read_bytes()
    for content, code, extra, says in (
        (whole, 2, [], "already holds a run; continue it with --resume"),
        (whole, 2, ["--resume"], "raise the limit that ended it, as in --resume --max-steps 2"),
        (whole, 2, ["--resume", "--max-steps", 9, "--ngf", 5], "a run cannot change --ngf 5 (was 4)"),
        (whole, 2, ["--resume", "--name", "other"], "no run to resume at"),
        (whole, 1, ["--resume", "--max-steps", 9, "--lr", "1e30"], "training diverged by step"),
        (whole[: len(whole) // 2], 2, ["--resume"], "last.pt: truncated or damaged"),
        (b"", 2, ["--resume"], "last.pt: truncated or damaged"),
    ):
        last.write_bytes(content)
        assert exit_code(train_main, *flags, *extra) == code
        assert says in one_error(capsys, "train.py")
        assert last.read_bytes() == content
    assert names(tmp_path / "runs") == ["experiment_name"]
