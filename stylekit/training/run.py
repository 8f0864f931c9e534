"""A training run on disk: its folder, progress, checkpoints, metrics and samples.

Each method owns its training loop and calls the run, which never calls back. Everything that is due after a step is
written before the checkpoint of that step: a process that is killed in between resumes from the checkpoint before and
writes the same again.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import numpy as np
import torch
from filelock import FileLock, Timeout
from huggingface_hub import PyTorchModelHubMixin
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from stylekit import devices, distributed
from stylekit.atomic import atomic_tree, write_json
from stylekit.measures.table import Metric, format_value, to_plain
from stylekit.networks import weights
from stylekit.options import RunConfig
from stylekit.pictures import images
from stylekit.pictures.sheet import contact_sheet
from stylekit.training import checkpoint
from stylekit.training.data import EpochBatches, iterate
from stylekit.training.log import Log, format_duration, plot_evaluations, plot_losses, print0, read_metrics
from stylekit.training.optim import learning_rate
from stylekit.training.signals import collect_signals

T = TypeVar("T")

SAVE_SECONDS = 600.0  # Within an epoch, the run is saved with the first log line after so much training time.
FIRST_LINE_SECONDS = 5.0  # The first log line does not wait for `print_freq` steps if they take longer than this.


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    folder: Path
    step: int
    signal: int | None
    """The signal that stopped it; None if it ran to its end."""


class Run:
    """A run: where it is on disk, how far it is, and what it writes. Use it as a context manager around the loop.

    Under torchrun every process has a Run; the main one writes. A resumed run cannot change the options in `fixed`.

    Entering raises an OSError if the folder cannot be created, holds a run that is not to be resumed, holds none to
    resume, or is in use by another process; a ValueError if the checkpoint is damaged or a fixed option has changed.
    """

    saved: dict[str, Any] | None = None
    """The checkpoint to resume; None for a new run."""
    step = 0
    """Steps done."""
    epoch = 0
    """Epochs done."""
    step_in_epoch = 0
    """Steps done in the current epoch."""
    seconds = 0.0
    """Training time, without what follows `log`: saving, sampling, evaluating."""
    checkpoint_due = False
    """Whether to `save` after the current step: at the end of an epoch and of the run, and every `SAVE_SECONDS`."""
    samples_due = False
    """Whether to `show` samples after the current step: in the main process, at the end of an epoch and of the run."""
    _log: Log

    def __init__(self, config: RunConfig, fixed: Sequence[str]) -> None:
        self.config = config
        self.fixed = fixed
        self.folder = config.checkpoints_dir / config.name
        self.device = devices.choose_device(config.machine.device)
        self.amp = devices.use_bfloat16(config.machine.amp, self.device)
        self._contexts = ExitStack()
        self._wandb_run_id: str | None = None
        self._signals: list[int] = []  # That this process has caught.
        self._stop_signal: int | None = None  # On which all processes have agreed to stop after the current step.
        self._saved_seconds = 0.0
        self._pending: list[dict[str, Tensor]] = []  # Terms of the steps since the last logged line, on the device.

    def __enter__(self) -> Run:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"cannot create the folder {self.folder} ({error.strerror}); choose another --checkpoints-dir"
            ) from error
        try:
            if distributed.is_main():
                self._contexts.enter_context(_lock(self.folder))
            self._contexts.enter_context(distributed.process_group(self.device))
            # Behind the lock, for which the group waits: a process that held it may just have replaced the checkpoint.
            self.saved = checkpoint.read_run(self.folder, self.config, self.fixed)
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if hasattr(self, "_log"):
            self._log.close(exit_code=0 if error is None else 1)
        self._leave()

    def _leave(self) -> None:
        self._contexts.close()
        if distributed.is_main():
            with contextlib.suppress(OSError):
                if [path.name for path in self.folder.iterdir()] == [".lock"]:  # Nothing was written.
                    (self.folder / ".lock").unlink()
                    self.folder.rmdir()

    @property
    def progress(self) -> float:
        """Fraction of the run that is done, in [0, 1], by steps or by time, whichever is further."""
        minutes = self.config.schedule.max_minutes
        by_time = self.seconds / 60 / minutes if minutes else 0.0
        return min(1.0, max(self.step / self.total_steps, by_time))

    @property
    def result(self) -> Result:
        """How the run ended."""
        return Result(self.folder, self.step, self._stop_signal if self.progress < 1 else None)

    def saved_entry(self, name: str, kind: type[T], depends_on: Sequence[str] = ()) -> T | None:
        """An entry of the checkpoint; None for a new run, or if an option that the entry depends on has changed."""
        if self.saved is None or (depends_on and self.config.differences(self.saved["config"], *depends_on)):
            return None
        return checkpoint.entry(self.saved, name, kind, self.folder / "last.pt")

    def restore(self, state: Any) -> None:
        """Load the checkpoint into the state, by its `load_state_dict`; a new run has none."""
        if self.saved is None:
            return
        path = self.folder / "last.pt"
        try:
            state.load_state_dict(self.saved)
            for name in ("step", "epoch", "step_in_epoch"):
                setattr(self, name, checkpoint.entry(self.saved, name, int, path))
            self.seconds = self._saved_seconds = checkpoint.entry(self.saved, "seconds", float, path)
            self._wandb_run_id = self.saved["wandb_run_id"]
        except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path}: not a checkpoint of this run ({str(error).splitlines()[0]})") from error

    def batches(self, loader: DataLoader[T]) -> Iterator[T]:
        """Yield batches until the epochs, the time limit or a signal end the run; call `log` for each.

        What is drawn in a step follows from the seed, the rank and the step, so ranks differ, and a resumed run draws
        what it would have drawn. A ValueError says that the run is already finished.
        """
        self._begin(cast(EpochBatches, loader.batch_sampler))
        batches = self._endless(loader, cast(EpochBatches, loader.batch_sampler))
        self._contexts.callback(batches.close)
        self._signals = self._contexts.enter_context(collect_signals())
        self._logged_step, self._logged_seconds, self._images_per_second = self.step, self.seconds, 0.0
        while self.progress < 1 and self._stop_signal is None:
            self._started = time.monotonic()
            batch = next(batches)
            sequence = np.random.SeedSequence((self.config.schedule.seed, distributed.rank(), self.step))
            torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))
            yield batch
        if self.progress >= 1:
            print0(f"finished after {self.step} steps, {format_duration(self.seconds)}; results in {self.folder}")

    def _endless(self, loader: DataLoader[T], sampler: EpochBatches) -> Generator[T, None, None]:
        """The batches of all epochs from the current step on; a loader that lost a process is started anew.

        One iterator serves all epochs: workers start once and prepare the next epoch while this one ends.
        """
        lost_at = -1
        while True:
            sampler.epoch, sampler.start = self.epoch, self.step_in_epoch
            try:
                with iterate(loader) as batches:
                    yield from batches
            except ChildProcessError as error:
                if self.step == lost_at:
                    advice = "try --num-workers 0"
                    raise MemoryError(f"data loading processes are killed again and again; {advice}") from error
                lost_at = self.step
                print0(f"a data loading process was killed at step {self.step}; it is started again")

    def log(self, terms: dict[str, Tensor], lr: float) -> dict[str, float] | None:
        """Count a step and decide what is due; log and return the mean of the loss terms if it is time for a line.

        There is a line every `print_freq` steps, after the first seconds, and for every step after which the run is
        saved. The terms are detached scalars on the device, which is only waited for then. A FloatingPointError says
        that training has diverged.
        """
        self.step += 1
        self.step_in_epoch += 1
        self._pending.append(terms)
        seconds = self.seconds + time.monotonic() - self._started
        # Every process must see the same signal and the same clock, that of the main process, or ranks would diverge.
        signal, self.seconds = distributed.all_max(
            self._signals[0] if self._signals else 0, seconds if distributed.is_main() else 0.0
        )
        self._stop_signal = int(signal) or None
        epoch_ended = self.step_in_epoch == self.steps_per_epoch
        ended = self.progress >= 1 or self._stop_signal is not None
        early = not self._images_per_second and self.seconds - self._logged_seconds >= FIRST_LINE_SECONDS
        line_due = self.step % self.config.output.print_freq == 0 or epoch_ended or ended or early
        if line_due:
            self._images_per_second = self._speed()
            self._logged_step, self._logged_seconds = self.step, self.seconds
        self._bar.set_description_str(f"epoch {self.epoch + 1}, step {self.step}, {self._pace()}", refresh=False)
        self._bar.update(self.progress - self._bar.n)
        means = self._write_metrics(lr) if line_due else None
        if epoch_ended:
            self.epoch, self.step_in_epoch = self.epoch + 1, 0
        self.samples_due = distributed.is_main() and (epoch_ended or self.progress >= 1)
        late = line_due and self.seconds - self._saved_seconds >= SAVE_SECONDS
        self.checkpoint_due = epoch_ended or ended or late
        return means

    def save(self, state: Mapping[str, Any], networks: Mapping[str, PyTorchModelHubMixin]) -> None:
        """Write last.pt and the networks to use (the EMA), by folder name; every `save_epoch_freq` epochs, keep a copy.

        The state is all that a resumed run needs, gathered in every process. If a value in it is not finite, this
        raises a FloatingPointError and writes nothing.
        """
        self._check_finite(state)
        self._saved_seconds = self.seconds
        if not distributed.is_main():
            return
        frequency = self.config.output.save_epoch_freq
        places = [self.folder]
        if frequency and self.step_in_epoch == 0 and self.epoch % frequency == 0:
            places.insert(0, self.folder / "epochs" / f"{self.epoch:04d}")
            write_json(places[0] / "config.json", self.config.plain())
        for place in places:
            for name, network in networks.items():
                weights.save(network, place / name)
        if len(places) > 1 or self.progress >= 1:
            folders, aliases = [self.folder / name for name in networks], ["latest", f"epoch-{self.epoch}"]
            self._log.artifact(self.config.name, folders, aliases, {"step": self.step, "epoch": self.epoch})
        progress = {name: getattr(self, name) for name in ("step", "epoch", "step_in_epoch", "seconds")}
        entries = {**state, **progress, "config": self.config.plain(), "wandb_run_id": self._wandb_run_id}
        for place in places:
            checkpoint.save(place / "last.pt", **entries)

    def warn(self, title: str, text: str) -> None:
        """Print a warning, and send it as an alert to Weights & Biases."""
        self._log.alert(title, text)

    def show(self, columns: Mapping[str, Sequence[Image.Image]], plots: Mapping[str, Sequence[str]]) -> None:
        """Write validation pictures, by the title of their column, as a contact sheet; plot the losses by panel."""
        if columns:
            epoch = f"epoch-{self.epoch:04d}"
            name = f"{epoch}-step-{self.step:07d}" if self.step_in_epoch else epoch
            rows = zip(*columns.values(), strict=False)
            images.save(contact_sheet(rows, list(columns)), self.folder / "samples" / f"{name}.png")
            self._log.pictures(self.step, columns)
        plot_losses(self.folder, plots)

    def evaluation_due(self, every: int) -> bool:
        """Whether the main process evaluates after this step: at the end and every so many epochs; 0: never."""
        return self.samples_due and bool(every) and (self.progress >= 1 or self.epoch % every == 0)

    def record(
        self, metrics: Mapping[str, Mapping[str, Metric]], score: float, networks: Mapping[str, PyTorchModelHubMixin]
    ) -> None:
        """Log and plot metrics, by group and name; keep the networks in best/ if their score is the smallest so far.

        They are compared with the networks in best/, unless those were measured on other pictures.
        """
        epoch = self.epoch + self.step_in_epoch / self.steps_per_epoch
        plain = {group: to_plain(found) for group, found in metrics.items()}
        line = {"epoch": epoch, "score": score, **plain}
        values = {f"{name}_{group}": m.output.value for group, found in metrics.items() for name, m in found.items()}
        values = {key: value for key, value in ({"score": score} | values).items() if math.isfinite(value)}
        self._log.evaluation(self.step, line, values)
        plot_evaluations(self.folder)
        best = _read_best(self.folder)
        if best is None or score < best["score"] or not _same_baselines(best, line):
            with atomic_tree(self.folder / "best") as partial:
                for name, network in networks.items():
                    weights.save(network, partial / name)
                write_json(partial / "evaluation.json", {"step": self.step, **line})
            compared = "the best so far"
        else:
            compared = f"best: {best['score']:.3f}"
        groups = [
            f"{group}: " + ", ".join(f"{name} {format_value(metric.output.value)}" for name, metric in found.items())
            for group, found in metrics.items()
        ]
        print0(f"evaluation after epoch {epoch:.4g}: score {score:.3f} ({compared}); {'; '.join(groups)}")

    def _begin(self, sampler: EpochBatches) -> None:
        """Report what is about to happen, write config.json, open the log and the progress bar."""
        config, schedule = self.config, self.config.schedule
        self.steps_per_epoch = len(sampler)
        self._batch_size = config.data.batch_size * distributed.world_size()
        steps = self.steps_per_epoch * (schedule.n_epochs + schedule.n_epochs_decay)
        self.total_steps = min(steps, schedule.max_steps or steps)
        if self.saved is not None:
            if self.progress >= 1:
                elapsed = format_duration(self.seconds)
                if self.step >= steps:
                    more = f"--n-epochs {schedule.n_epochs + max(1, schedule.n_epochs_decay)}"
                elif self.step >= self.total_steps:
                    more = f"--max-steps {2 * self.step}"
                else:
                    more = f"--max-minutes {2 * (schedule.max_minutes or 0):g}"
                raise ValueError(
                    f"the run {config.name} is finished: {self.step} steps, {self.epoch} epochs, {elapsed}; "
                    f"to continue it, raise the limit that ended it, as in --resume {more}"
                )
            print0(f"resuming {self.folder} at epoch {self.epoch + 1}, step {self.step}")
            if differences := config.differences(self.saved["config"]):
                print0("options that differ from the saved ones: " + ", ".join(differences))
            rates = [line["lr"] for line in read_metrics(self.folder) if line["step"] <= self.step and "lr" in line]
            if rates and (lr := learning_rate(schedule, self.progress)) > 1.1 * rates[-1]:
                hint = "train in parts with --lr-policy constant to avoid this"
                print0(f"the extension raises the learning rate from {rates[-1]:.3g} to {lr:.3g}; {hint}")
        where = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)
        where += f", {distributed.world_size()} processes" if distributed.world_size() > 1 else ""
        time_limit = f" or {format_duration(60 * schedule.max_minutes)}" if schedule.max_minutes else ""
        print0(f"training in {'bfloat16' if self.amp else 'float32'} on {where}")
        limits = f"ends after {self.total_steps:,} steps{time_limit}"
        print0(f"{self.steps_per_epoch} steps per epoch; {limits}; output in {self.folder}")
        project = config.PROJECT if config.output.wandb else None
        self._log = Log(self.folder, config.name, config.plain(), self.step, project, self._wandb_run_id)
        self._wandb_run_id = self._log.run_id
        if distributed.is_main():
            write_json(self.folder / "config.json", config.plain())
        hidden = None if distributed.is_main() else True
        # tqdm would estimate the remaining time from the steps alone.
        look = "{percentage:3.0f}%|{bar}| {desc}"
        bar = tqdm(None, "starting", 1.0, initial=self.progress, bar_format=look, dynamic_ncols=True, disable=hidden)
        self._bar = self._contexts.enter_context(bar)

    def _pace(self) -> str:
        """The speed, as of the last log line, and the training time until the first limit at this speed."""
        speed = self._images_per_second or self._speed()
        left, minutes = (self.total_steps - self.step) * self._batch_size / speed, self.config.schedule.max_minutes
        left = min(left, 60 * minutes - self.seconds) if minutes else left
        return f"{speed:.2f} images/s, {format_duration(max(0.0, left))} left"

    def _speed(self) -> float:
        """Images per second, in all processes, since the last log line."""
        images_since = (self.step - self._logged_step) * self._batch_size
        return images_since / max(1e-9, self.seconds - self._logged_seconds)

    def _write_metrics(self, lr: float) -> dict[str, float]:
        """Average the pending terms over steps and processes, which waits for the device."""
        names = list(self._pending[0])
        mean = torch.stack([torch.stack([terms[name] for name in names]) for terms in self._pending]).mean(0)
        self._pending.clear()
        means = dict(zip(names, distributed.all_mean(mean), strict=True))
        self._check_finite(means)
        text = " ".join(f"{name}: {value:.3f}" for name, value in means.items())
        values = means | {
            "epoch": self.epoch + self.step_in_epoch / self.steps_per_epoch,
            "lr": lr,
            "images_per_second": self._images_per_second,
        }
        if self.device.type == "cuda":
            values["memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        self._log.metrics(self.step, {name: float(f"{value:.6g}") for name, value in values.items()})
        print0(f"epoch {self.epoch + 1}, step {self.step}: {text} ({self._pace()})")
        return means

    def _check_finite(self, values: Mapping[str, Any]) -> None:
        """Stop a diverged run before it replaces a good checkpoint."""
        try:
            checkpoint.check_finite(values)
        except FloatingPointError as error:
            path = self.folder / "last.pt"
            kept = f"{path} is still good" if path.exists() else "nothing was saved"
            raise FloatingPointError(
                f"training diverged by step {self.step}: {error}; {kept}; try a smaller --lr or --amp off"
            ) from error


def _read_best(folder: Path) -> dict[str, Any] | None:
    """The evaluation of the best networks of a run; None if there are none, or the file has been damaged."""
    try:
        best = json.loads((folder / "best" / "evaluation.json").read_text())
        return best if isinstance(best["score"], float) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _same_baselines(best: Mapping[str, Any], line: Mapping[str, Any]) -> bool:
    """Whether two evaluations were made with the same pictures: untranslated, they have the same metrics."""
    before, now = (
        {
            (group, name): (metric["untranslated"] or {}).get("value") or 0.0
            for group, found in evaluation.items()
            if isinstance(found, dict)
            for name, metric in found.items()
        }
        for evaluation in (best, line)
    )
    return before.keys() == now.keys() and all(math.isclose(before[k], now[k], rel_tol=0.01) for k in now)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Keep a second process out of the folder. The system releases the lock of a process that ends, however it ends."""
    lock, owner = FileLock(folder / ".lock"), folder / ".owner"
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        who = owner.read_text() if owner.is_file() else "another process"
        raise BlockingIOError(f"{folder} is in use by {who}; choose another --name, or stop it first") from error
    try:
        owner.write_text(f"process {os.getpid()} on {platform.node()}")
        yield
    finally:
        with contextlib.suppress(OSError):  # In a folder that has become read-only, whose error is already on its way.
            owner.unlink()
        lock.release()
