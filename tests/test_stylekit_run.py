import itertools
import json
import multiprocessing
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.synchronize import Event
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, TINY, command, exit_code, one_error, wait_for_lines
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
from stylekit.options import RunConfig
from stylekit.training import checkpoint
from stylekit.training.data import make_loader
from stylekit.training.log import read_figures, read_metrics
from stylekit.training.optim import build_ema, optimizer_step, set_learning_rate
from stylekit.training.run import Result, Run, _lock


@dataclass(frozen=True)
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
        torch.manual_seed(config.seed)
        network = Toy(config.width)
        state = State(network, build_ema(network, config.ema_decay), torch.optim.Adam(network.parameters()))
        loader = make_loader(Numbers(), 6, config, run.device)
        run.restore(state)
        run.start(loader)
        write_outputs(run, state, scores or {})
        for batch in run.batches(loader):
            lr = set_learning_rate([state.optimizer], config, run.progress)
            hooks.before.get(run.step + 1, lambda: None)()
            loss = (state.network(batch) - 1).square().mean()
            optimizer_step(state.optimizer, {"loss": loss})
            state.ema.update_parameters(state.network)
            run.end_step({"loss": loss.detach()}, lr)
            hooks.after.get(run.step, lambda: None)()
            write_outputs(run, state, scores or {})
    return run.result


def write_outputs(run: Run, state: State, scores: Mapping[int, float]) -> None:
    if run.checkpoint_due:
        run.save(state.state_dict(), {"model": state.ema.module})
    if run.samples_due:
        run.show({"sample": [Image.new("RGB", (40, 30), "red")]}, {"losses": ("loss",)})
    if run.evaluation_due(run.config.eval_every):
        score = scores.get(run.epoch, 1.0)
        figure = Metric(Estimate(score, 0.0, 9.0), None, Estimate(run.config.width, 0.0, 9.0))
        run.record({"x2y": {"kid": figure}}, score, {"model": state.ema.module})


@pytest.fixture
def config(tmp_path):
    """Builds options; two epochs of six steps unless the test says otherwise."""

    def build(**changes):
        usual = {"dataroot": "unused", "checkpoints_dir": tmp_path / "runs", "name": "run", "num_workers": 0}
        usual |= {"device": "cpu", "amp": "off", "print_freq": 1, "n_epochs": 2, "n_epochs_decay": 0, "lr": 0.01}
        return ToyConfig(**(usual | changes))

    return build


@pytest.fixture
def stopped(config):
    """The folder of a run that stopped after two steps of twelve."""
    folder = train(config(), Hooks(before={2: lambda: signal.raise_signal(signal.SIGTERM)})).folder
    assert checkpoint.load(folder / "last.pt")["step"] == 2
    return folder


def flat(values, name=""):
    """All leaves of nested dicts and lists by path."""
    if isinstance(values, dict | list):
        items = values.items() if isinstance(values, dict) else enumerate(values)
        return {key: leaf for k, value in items for key, leaf in flat(value, f"{name}.{k}").items()}
    return {name: values}


def assert_same_run(one: Path, other: Path) -> None:
    """Both folders hold the same state, bit for bit, and the same losses."""
    first, second = (checkpoint.load(folder / "last.pt") for folder in (one, other))
    frequency = first["config"]["print_freq"]
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
    lines = [
        [{key: value for key, value in line.items() if key != "images_per_second"} for line in read_metrics(folder)]
        for folder in (one, other)
    ]
    assert lines[0] == lines[1]
    assert [line["step"] for line in lines[0]] == list(range(frequency, first[".step"] + 1, frequency))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What a run leaves on disk.


@pytest.mark.plots
def test_a_run_leaves_what_the_documentation_lists(config):
    options = config(n_epochs=1, n_epochs_decay=1, save_epoch_freq=1)
    result = train(options)
    folder = result.folder
    assert (result.step, result.signal) == (12, None)
    assert set(names(folder)) == {
        ".lock", ".written", "config.json", "last.pt", "metrics.jsonl", "losses.png", "samples", "model", "epochs",
    }  # fmt: skip
    assert names(folder / "samples") == ["epoch-0001.png", "epoch-0002.png"]
    assert names(folder / "epochs") == ["0001", "0002"]
    assert (
        names(folder / "model") == names(folder / "epochs" / "0001" / "model") == ["config.json", "model.safetensors"]
    )
    assert (
        json.loads((folder / "config.json").read_text())
        == config(n_epochs=1, n_epochs_decay=1, save_epoch_freq=1).plain()
    )


def test_metrics_have_the_loss_the_learning_rate_and_the_place_in_the_run(config):
    lines = read_metrics(train(config(n_epochs=1, n_epochs_decay=1)).folder)
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["epoch"] for line in lines[:6]] == pytest.approx([i / 6 for i in range(1, 7)], abs=1e-5)
    assert all(line.keys() == {"step", "loss", "epoch", "lr", "images_per_second"} for line in lines)
    assert [line["lr"] for line in lines[:7]] == [0.01] * 7
    assert lines[-1]["lr"] == pytest.approx(0.01 / 6, rel=1e-4)


def test_a_log_line_has_the_mean_of_the_steps_since_the_last_one(config):
    every = [line["loss"] for line in read_metrics(train(config(name="every")).folder)]
    third = [line["loss"] for line in read_metrics(train(config(name="third", print_freq=3)).folder)]
    assert third == pytest.approx([sum(every[i : i + 3]) / 3 for i in range(0, 12, 3)], rel=1e-4)


def test_the_network_to_use_is_the_moving_average_in_the_checkpoint(config):
    folder = train(config(ema_decay=0.9)).folder
    saved = checkpoint.load(folder / "last.pt")
    for name, value in Toy.from_pretrained(folder / "model").state_dict().items():
        assert torch.equal(value, saved["ema"][f"module.{name}"])
        assert not torch.equal(value, saved["network"][name])


@pytest.mark.parametrize(("frequency", "kept"), [(2, ["0002", "0004"]), (0, None)])
def test_copies_of_the_networks_are_kept_every_few_epochs(config, frequency, kept):
    folder = train(config(n_epochs=4, save_epoch_freq=frequency)).folder
    assert (names(folder / "epochs") if kept else (folder / "epochs").exists()) == (kept or False)


def test_checkpoints_within_an_epoch_follow_their_frequency(config):
    steps = []
    folder = config().checkpoints_dir / "run"
    look = {step: lambda: steps.append(checkpoint.load(folder / "last.pt")["step"]) for step in (5, 6, 7)}
    train(config(save_latest_freq=4), Hooks(before=look))
    assert steps == [4, 4, 6]


def test_a_run_that_ends_within_an_epoch_shows_samples_of_its_last_step(config):
    folder = train(config(max_steps=8)).folder
    assert names(folder / "samples") == ["epoch-0001-step-0000008.png", "epoch-0001.png"]


def test_the_same_seed_gives_the_same_run_and_another_seed_another_run(config):
    folders = [train(config(name=f"run{i}", seed=seed)).folder for i, seed in enumerate((5, 5, 6))]
    assert_same_run(folders[0], folders[1])
    assert read_metrics(folders[0])[0]["loss"] != read_metrics(folders[2])[0]["loss"]


# The end of a run.


def test_max_steps_ends_a_run_with_a_learning_rate_near_zero(config):
    result = train(config(n_epochs=1000, n_epochs_decay=1000, max_steps=40))
    assert (result.step, result.signal) == (40, None)
    assert read_metrics(result.folder)[-1]["lr"] == pytest.approx(0.01 / 20, rel=1e-4)


def test_max_minutes_end_a_run_with_a_learning_rate_near_zero(config, monkeypatch):
    ticks = iter(range(10**6))
    # Every look at the clock is a second later than the one before.
    monkeypatch.setattr("stylekit.training.run.time", SimpleNamespace(monotonic=lambda: next(ticks)))
    result = train(config(n_epochs=1000, n_epochs_decay=1000, max_minutes=1, eval_every=9))
    assert result.signal is None and 30 < result.step <= 60
    # A step looks at the clock twice; what is saved, shown and evaluated after it takes no time of the run.
    assert checkpoint.load(result.folder / "last.pt")["seconds"] == result.step
    rates = [line["lr"] for line in read_metrics(result.folder)]
    assert rates[0] == 0.01 and rates == sorted(rates, reverse=True) and rates[-1] <= 0.01 / 15
    assert checkpoint.load(result.folder / "last.pt")["step"] == result.step


# Evaluation.


@pytest.mark.plots
def test_evaluations_are_logged_every_n_epochs_and_at_the_end_and_the_best_networks_are_kept(config, capsys):
    options = dict(n_epochs=4, max_steps=21, eval_every=2)
    folder = train(config(**options), scores={2: 0.5, 3: 0.7}).folder
    lines = read_figures(folder)
    assert [(line["step"], line["epoch"], line["score"]) for line in lines] == [(12, 2, 0.5), (21, 3.5, 0.7)]
    assert lines[0]["x2y"]["kid"]["output"] == {"value": 0.5, "low": 0.0, "high": 9.0}
    best = json.loads((folder / "best" / "figures.json").read_text())
    assert best == lines[0] and (folder / "figures.png").is_file()
    kept, last = (Toy.from_pretrained(path).state_dict() for path in (folder / "best/model", folder / "model"))
    assert not torch.equal(kept["layers.0.weight"], last["layers.0.weight"])
    assert "evaluation after epoch 2: score 0.500 (the best so far); x2y: kid 0.5" in capsys.readouterr().out

    # A killed process may have logged an evaluation of a step that the checkpoint does not have.
    with (folder / "figures.jsonl").open("a") as file:
        file.write(json.dumps(lines[1] | {"step": 24}) + '\n{"step": 2')
    train(config(n_epochs=6, eval_every=1, resume=True), scores={4: 0.6, 5: 0.4, 6: 0.9})
    assert [line["step"] for line in read_figures(folder)] == [12, 21, 24, 30, 36]
    assert json.loads((folder / "best" / "figures.json").read_text())["epoch"] == 5


def test_the_best_networks_are_replaced_if_they_were_measured_on_other_pictures(config, capsys):
    folder = train(config(n_epochs=1, eval_every=1), scores={1: 0.1}).folder
    best = folder / "best" / "figures.json"
    best.write_text(best.read_text().replace('"value": 4', '"value": 5'))
    train(config(eval_every=1, resume=True), scores={2: 0.3})
    assert json.loads(best.read_text())["score"] == 0.3
    best.write_text("damaged")
    train(config(n_epochs=3, eval_every=1, resume=True), scores={3: 0.4})
    assert json.loads(best.read_text())["score"] == 0.4


# Going on.


def test_four_epochs_equal_two_and_two_bit_for_bit(config):
    whole = train(config(name="whole", n_epochs=4)).folder
    train(config(name="parts", n_epochs=2))
    parts = train(config(name="parts", n_epochs=4, resume=True)).folder
    assert_same_run(whole, parts)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_run_stopped_at_any_step_goes_on_bit_for_bit(config, number, step):
    whole = train(config(name="whole")).folder
    result = train(config(name="parts"), Hooks(before={step: lambda: signal.raise_signal(number)}))
    assert (result.step, result.signal) == (step, number)
    result = train(config(name="parts", resume=True))
    assert (result.step, result.signal) == (12, None)
    assert_same_run(whole, result.folder)


def test_a_signal_between_two_steps_loses_no_step_and_no_term_of_a_line(config):
    whole = train(config(name="whole", print_freq=4)).folder
    parts = config(name="parts", print_freq=4)
    result = train(parts, Hooks(after={2: lambda: signal.raise_signal(signal.SIGTERM)}))
    assert result.step == checkpoint.load(result.folder / "last.pt")["step"] == 3
    assert_same_run(whole, train(replace(parts, resume=True)).folder)


def test_what_a_killed_process_was_about_to_write_is_written_by_the_next_one(config, monkeypatch):
    options = config(name="parts", keep_epochs="1", save_epoch_freq=1, eval_every=1, n_samples=1, num_workers=1)
    scores = {1: 0.5, 2: 0.4}
    whole = train(replace(options, name="whole"), scores=scores).folder
    folder, finds = options.checkpoints_dir / "parts", []
    # Before last.pt; epochs/; the sample; losses.png; the best networks of the first epoch; those of the second.
    for number in (3, 6, 9, 10, 14, 32):
        kill_before(number, replace(options, resume=(folder / "last.pt").exists()), scores, monkeypatch)
        finds.append(len(list(folder.glob("samples/*.png"))))
    assert finds == [0, 0, 0, 1, 1, 2]
    assert not (folder / "best").exists()  # It was between the old one and the new one.
    train(replace(options, resume=True), scores=scores)
    assert_same_run(whole, folder)
    files, others = (
        {path.relative_to(run): path for path in run.rglob("*") if path.is_file()} for run in (whole, folder)
    )
    assert files.keys() == others.keys()
    for path in files.keys() - {Path(name) for name in ("config.json", ".written", "last.pt", "metrics.jsonl")}:
        assert files[path].read_bytes() == others[path].read_bytes() or path.name == "last.pt", path
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


def test_a_signal_in_the_last_step_leaves_a_finished_run(config):
    result = train(config(), Hooks(before={12: lambda: signal.raise_signal(signal.SIGTERM)}))
    assert (result.step, result.signal) == (12, None)


def test_a_run_can_go_on_elsewhere(stopped, config, tmp_path):
    stopped.rename(tmp_path / "moved")
    assert train(config(checkpoints_dir=tmp_path, name="moved", resume=True)).step == 12
    whole = train(config(name="whole")).folder
    assert_same_run(whole, tmp_path / "moved")


def test_resuming_says_where_it_goes_on_and_which_options_changed(stopped, config, capsys):
    capsys.readouterr()
    train(config(resume=True, max_steps=4, lr=0.02))
    out = capsys.readouterr().out
    assert f"resuming {stopped} at epoch 1, step 2\n" in out
    assert "options that differ from the saved ones: --max-steps 4 (was None), --lr 0.02 (was 0.01)\n" in out


def test_a_resumed_run_is_logged_as_the_same_run_of_weights_and_biases(config):
    runs = []
    for epochs in (1, 2):
        folder = train(config(n_epochs=epochs, resume=epochs > 1, wandb=True)).folder
        runs.append(checkpoint.load(folder / "last.pt")["wandb_run_id"])
    assert runs[0] and runs[0] == runs[1]
    # offline-run-TIME-ID, with a number behind it if both began in the same second.
    assert {path.name.split("-")[3] for path in (folder / "wandb").glob("offline-run-*")} == {runs[0]}


# What is refused.


def test_a_run_is_never_overwritten(stopped, config):
    before = (stopped / "last.pt").read_bytes()
    with pytest.raises(FileExistsError, match=r"already holds a run; continue it with --resume or choose another"):
        train(config())
    assert (stopped / "last.pt").read_bytes() == before


def test_a_finished_run_says_how_to_go_on(config):
    before = (train(config()).folder / "last.pt").read_bytes()
    with pytest.raises(ValueError, match=r"is finished: 12 steps, 2 epochs, .*--resume --n-epochs 3") as caught:
        train(config(resume=True))
    assert "\n" not in str(caught.value)
    assert (config().checkpoints_dir / "run" / "last.pt").read_bytes() == before


def test_a_run_cannot_change_its_network(stopped, config):
    with pytest.raises(ValueError, match=r"a run cannot change --width 5 \(was 4\); choose another --name"):
        train(config(resume=True, width=5))


def test_there_must_be_a_run_to_resume(config):
    with pytest.raises(FileNotFoundError, match=r"no run to resume at .*last\.pt; remove --resume, or check --name"):
        train(config(resume=True))
    assert not config().checkpoints_dir.exists()


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"config": [1]}, "its config is a list"),
        ({"config": {"width": torch.zeros(2)}}, "its config is not plain"),
        ({"random": {"cpu": 1}}, "not a checkpoint of this run"),
        ({"network": "none"}, "not a checkpoint of this run"),
        ({"optimizer": {}}, "not a checkpoint of this run"),
        ({"step": "two"}, "not a"),
        ({"step_in_epoch": None}, "not a"),
        ({"seconds": "long"}, "not a"),
    ],
)
def test_a_checkpoint_of_another_layout_is_named_and_untouched(stopped, config, entries, says):
    checkpoint.save(stopped / "last.pt", **(checkpoint.load(stopped / "last.pt") | entries))
    before = (stopped / "last.pt").read_bytes()
    with pytest.raises(ValueError, match=rf"last\.pt: .*{says}") as caught:
        train(config(resume=True))
    assert "\n" not in str(caught.value)
    assert (stopped / "last.pt").read_bytes() == before


@pytest.mark.parametrize("entry", ["config", "network", "random", "epoch", "wandb_run_id"])
def test_a_checkpoint_that_lacks_an_entry_is_named(stopped, config, entry):
    saved = checkpoint.load(stopped / "last.pt")
    del saved[entry]
    checkpoint.save(stopped / "last.pt", **saved)
    with pytest.raises(ValueError, match=rf"last\.pt: not a .*{entry}"):
        train(config(resume=True))


def test_half_a_checkpoint_is_named_and_untouched(stopped, config):
    half = (stopped / "last.pt").read_bytes()[: (stopped / "last.pt").stat().st_size // 2]
    (stopped / "last.pt").write_bytes(half)
    with pytest.raises(ValueError, match=r"last\.pt: truncated or damaged"):
        train(config(resume=True))
    assert (stopped / "last.pt").read_bytes() == half


def test_a_failed_start_leaves_no_folder_behind(config):
    with pytest.raises(ValueError, match="6 pictures do not fill one batch of --batch-size 100; try --batch-size 6"):
        train(config(batch_size=100))
    assert not (config().checkpoints_dir / "run").exists()


def test_a_failed_resume_leaves_the_run_as_it_was(stopped, config):
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="do not fill one batch"):
        train(config(resume=True, batch_size=100))
    assert {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()} == before


def test_a_folder_that_cannot_be_created_is_named(config, tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"cannot create the folder .*runs/run .*; choose another --checkpoints-dir"):
        train(config())


def test_a_diverged_run_stops_before_it_saves(stopped, config):
    before = (stopped / "last.pt").read_bytes()
    with pytest.raises(FloatingPointError, match=r"diverged by step 4: loss is inf; .*last\.pt is still good; try"):
        train(config(resume=True, lr=1e30))
    assert (stopped / "last.pt").read_bytes() == before
    assert [line["step"] for line in read_metrics(stopped)] == [1, 2, 3]


def test_weights_that_are_not_finite_are_not_saved(stopped, config):
    # Nothing is logged until the epoch ends: the check of the state has to find it.
    before = (stopped / "last.pt").read_bytes()
    with pytest.raises(FloatingPointError, match=r"diverged by step 6: network\..* is not finite; .* is still good"):
        train(config(resume=True, lr=1e30, print_freq=100))
    assert (stopped / "last.pt").read_bytes() == before


# The same through a real command.


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


@pytest.fixture
def flags(dataset, tmp_path):
    """Flags of CycleGAN trainings that log every step and end only after 1000 epochs."""
    flags = [*TINY, "--dataroot", dataset, "--checkpoints-dir", tmp_path / "runs", "--print-freq", 1]
    return [*flags, "--pool-size", 3, "--n-epochs", 1000, "--n-epochs-decay", 0, "--n-samples", 0]


def test_a_command_stopped_by_a_signal_goes_on_bit_for_bit(flags, tmp_path, capsys):
    folder = tmp_path / "runs" / "stopped"
    process = subprocess.Popen(
        command(["train.py", *flags, "--name", "stopped", "--num-workers", 1, "--save-latest-freq", 4]),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for_lines(folder / "metrics.jsonl", 9, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    step = checkpoint.load(folder / "last.pt")["step"]
    assert process.returncode == 128 + signal.SIGINT and not err, err
    hint = f"--name stopped --checkpoints-dir {tmp_path / 'runs'} --resume"
    assert f"stopped and saved at step {step}; resume with\n    python train.py {hint}\n" in out

    # --resume alone goes on; here up to a step, so that the test ends.
    resume = ["--name", "stopped", "--checkpoints-dir", tmp_path / "runs", "--resume", "--max-steps", step + 7]
    capsys.readouterr()
    assert exit_code(train_main, *resume) == 0
    assert f"options that differ from the saved ones: --max-steps {step + 7} (was None)\n" in capsys.readouterr().out
    assert exit_code(train_main, *flags, "--name", "whole", "--max-steps", step + 7) == 0
    assert_same_run(tmp_path / "runs" / "whole", folder)


@pytest.mark.parametrize("step", [4, 6], ids=["within an epoch", "at the end of an epoch"])
def test_a_run_with_dropout_goes_on_bit_for_bit(flags, tmp_path, monkeypatch, step):
    # With samples, which must not draw random numbers either.
    flags += ["--dropout", "--num-workers", 1, "--n-samples", 1]
    assert exit_code(train_main, *flags, "--name", "whole", "--max-steps", 9) == 0

    train_step, steps = cyclegan.train.train_step, iter(range(1, 100))

    def stop_after(*args):
        if next(steps) == step:
            signal.raise_signal(signal.SIGTERM)
        return train_step(*args)

    monkeypatch.setattr("cyclegan.train.train_step", stop_after)
    assert exit_code(train_main, *flags, "--name", "parts") == 128 + signal.SIGTERM
    assert checkpoint.load(tmp_path / "runs" / "parts" / "last.pt")["step"] == step
    parts = ["--checkpoints-dir", tmp_path / "runs", "--name", "parts", "--resume", "--max-steps", 9]
    assert exit_code(train_main, *parts) == 0
    assert_same_run(tmp_path / "runs" / "whole", tmp_path / "runs" / "parts")


def test_errors_of_a_run_are_one_line_and_an_exit_code(flags, tmp_path, capsys):
    flags += ["--max-steps", 1]
    last = tmp_path / "runs" / "experiment_name" / "last.pt"
    assert exit_code(train_main, *flags) == 0
    before = last.read_bytes()
    capsys.readouterr()
    for code, extra, says in (
        (2, [], "already holds a run; continue it with --resume"),
        (2, ["--resume"], "is finished: 1 steps"),
        (2, ["--resume", "--max-steps", 9, "--ngf", 5], "a run cannot change --ngf 5 (was 4)"),
        (2, ["--resume", "--name", "other"], "no run to resume at"),
        (1, ["--resume", "--max-steps", 9, "--lr", "1e30"], "training diverged by step"),
    ):
        assert exit_code(train_main, *flags, *extra) == code
        assert says in one_error(capsys, "train.py")
        assert last.read_bytes() == before
    assert names(tmp_path / "runs") == ["experiment_name"]


def test_a_damaged_checkpoint_is_one_line_and_untouched(flags, tmp_path, capsys, monkeypatch):
    last = tmp_path / "runs" / "experiment_name" / "last.pt"
    assert exit_code(train_main, *flags, "--max-steps", 1) == 0
    whole = last.read_bytes()
    monkeypatch.chdir(tmp_path)
    torch.save({"step": Harmful()}, tmp_path / "harmful.pt")
    for content, says in (
        (whole[: len(whole) // 2], "last.pt: truncated or damaged"),
        (b"", "last.pt: truncated or damaged"),
        ((tmp_path / "harmful.pt").read_bytes(), "last.pt: contains a pickled object, which could run code"),
    ):
        last.write_bytes(content)
        capsys.readouterr()
        assert exit_code(train_main, *flags, "--resume") == 2
        assert says in one_error(capsys, "train.py")
        assert last.read_bytes() == content
    assert not (tmp_path / "harm was done").exists()


class Harmful:
    """Unpickling it creates a folder."""

    def __reduce__(self):
        return Path.mkdir, (Path("harm was done"),)


@pytest.mark.parametrize(
    ("policy", "kept"), [("none", []), ("all", [1, 2, 3, 4]), ("2", [3, 4]), ("every 2", [2, 4]), ("9", [1, 2, 3, 4])]
)
def test_states_of_epochs_are_kept_as_asked(config, policy, kept):
    folder = train(config(n_epochs=4, keep_epochs=policy, save_epoch_freq=0)).folder
    states = {int(path.parent.name): checkpoint.load(path) for path in folder.glob("epochs/*/last.pt")}
    assert sorted(states) == kept
    assert all(saved["epoch"] == epoch and saved["step"] == 6 * epoch for epoch, saved in states.items())
    assert len(list(folder.glob("epochs/*"))) == len(kept)


def test_going_back_to_an_epoch_repeats_the_rest_bit_for_bit_and_keeps_the_state_that_is_left(config, capsys):
    whole = train(config(name="whole", n_epochs=3)).folder
    folder = train(config(n_epochs=3, keep_epochs="every 1", seed=0)).folder
    left = (folder / "last.pt").read_bytes()
    (folder / "epochs" / "0003" / "last.pt").unlink()
    capsys.readouterr()
    train(config(n_epochs=3, resume=True, from_epoch=1))
    assert "at epoch 2, step 6" in capsys.readouterr().out
    assert_same_run(whole, folder)
    assert [line["step"] for line in read_metrics(folder)] == list(range(1, 19))
    assert checkpoint.load(folder / "epochs" / "0003" / "last.pt")["step"] == 18
    # In the middle of an epoch the state has no epoch's name yet.
    train(config(n_epochs=4, resume=True), Hooks(before={20: lambda: signal.raise_signal(signal.SIGTERM)}))
    stopped = (folder / "last.pt").read_bytes()
    train(config(n_epochs=4, resume=True, from_epoch=2))
    assert (folder / "epochs" / "0003-step-0000020" / "last.pt").read_bytes() == stopped != left


def test_an_epoch_that_was_not_kept_is_named_beside_those_that_were(config):
    train(config(keep_epochs="every 2"))
    with pytest.raises(FileNotFoundError, match=r"--from-epoch 1: no state kept at .*0001/last\.pt; kept epochs: 2$"):
        train(config(resume=True, from_epoch=1, n_epochs=4))
    train(config(name="other"))
    with pytest.raises(FileNotFoundError, match=r"none is kept; train with --keep-epochs$"):
        train(config(name="other", resume=True, from_epoch=1, n_epochs=4))


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


def test_a_warning_is_printed_and_sent_as_an_alert(config, capsys, monkeypatch):
    alerts = []
    monkeypatch.setattr("stylekit.training.log.Log._to_wandb", lambda self, send: send(SimpleNamespace(
        log=lambda *_: None, log_artifact=lambda *_, **__: None, alert=lambda title, text: alerts.append((title, text)),
        finish=lambda **_: None)))  # fmt: skip
    monkeypatch.setattr("stylekit.training.log.Log.pictures", lambda *_: None)
    monkeypatch.setattr("stylekit.training.log.Log.artifact", lambda *_: None)
    monkeypatch.setattr("stylekit.training.run.DIAGNOSIS_STEPS", 4)
    due = []
    with Run(config(), fixed=("width",)) as run:
        loader = make_loader(Numbers(), 6, run.config, run.device)
        run.start(loader)
        for _ in run.batches(loader):
            run.end_step({"loss": torch.tensor(float(run.step))}, 0.1)
            if run.diagnosis_due:
                due.append((run.step, run.mean_terms()["loss"]))
                run.warn("fever", f"fever at step {run.step}")
    # Four steps each: the means of 0 to 3, 4 to 7 and 8 to 11.
    assert due == [(4, 1.5), (8, 5.5), (12, 9.5)]
    assert alerts == [("fever", f"fever at step {step}") for step in (4, 8, 12)]
    assert capsys.readouterr().out.count("warning: fever at step 8") == 1
