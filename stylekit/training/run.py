"""A training run on disk: its folder, progress, checkpoints, metrics and samples.

Each method owns its training loop (`cyclegan.train.train`, `johnson.train.train`) and calls the run, which never calls
back.
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
from typing import Any, Protocol, TypeVar, cast

import torch
from filelock import FileLock, Timeout
from huggingface_hub import PyTorchModelHubMixin
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from stylekit import devices, distributed
from stylekit.atomic import atomic_tree, atomic_write, link_or_copy
from stylekit.measures.table import Metric, format_value, to_plain
from stylekit.networks import weights
from stylekit.options import RunConfig
from stylekit.pictures import images
from stylekit.pictures.sheet import contact_sheet
from stylekit.training import checkpoint
from stylekit.training.data import EpochBatches, iterate
from stylekit.training.log import (
    Log,
    WandbOptions,
    format_duration,
    plot_figures,
    plot_losses,
    print0,
    read_metrics,
)
from stylekit.training.optim import learning_rate
from stylekit.training.signals import collect_signals

T = TypeVar("T")

DIAGNOSIS_STEPS = 200
"""Steps between two diagnoses, at least."""


class Stateful(Protocol):
    """Anything with PyTorch's state dict methods."""

    def load_state_dict(self, saved: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    folder: Path
    step: int
    signal: int | None
    """The signal that stopped it; None if it ran to its end."""


class Run:
    """A run: where it is on disk, how far it is, and what it writes. Use it as a context manager around the loop.

    Under torchrun every process has a Run; the main one writes.

    Args:
        config: Options of the run.
        fixed: Names of options that a resumed run cannot change.

    Raises:
        FileExistsError: The folder holds a run, and `config.resume` is not set.
        FileNotFoundError: There is no run to resume.
        ValueError: The checkpoint is damaged, or an option in `fixed` has changed; or the device does not exist.
        OSError: Entering: the folder cannot be created, or another process trains in it.
    """

    saved: dict[str, Any] | None
    """The checkpoint to resume; None for a new run."""
    step = 0
    """Steps done."""
    epoch = 0
    """Epochs done."""
    step_in_epoch = 0
    """Steps done in the current epoch."""
    seconds = 0.0
    """Training time, without what follows `end_step`: saving, sampling, evaluating."""
    checkpoint_due = False
    """Whether to `save` after the current step: at the end of an epoch and of the run, and as the options say.

    After `start`, whether to do so for the restored step, since the process that saved it was killed before it had
    written all that was due; likewise `samples_due`.
    """
    diagnosis_due = False
    """Whether to check for failures after the current step: in the main process, every `DIAGNOSIS_STEPS` or so."""
    samples_due = False
    """Whether to `show` samples after the current step: in the main process, at the end of an epoch and of the run."""

    def __init__(self, config: RunConfig, fixed: Sequence[str]) -> None:
        self.config = config
        self.folder = config.checkpoints_dir / config.name
        self.device = devices.choose_device(config.device)
        self.amp = devices.use_bfloat16(config.amp, self.device)
        self.saved = _read_checkpoint(self.folder, config, fixed)
        self._contexts = ExitStack()
        self._log: Log | None = None
        self._wandb_run_id: str | None = None
        self._signals: list[int] = []
        """Signals that this process has caught."""
        self._stop_signal: int | None = None
        """The signal on which all processes have agreed to stop after the current step."""
        self._since_diagnosis: list[dict[str, float]] = []
        """The lines logged since the last diagnosis."""
        self._best: dict[str, Any] | None = None
        """The evaluation of the networks in best/, as in figures.jsonl."""
        self._pending: list[dict[str, Tensor]] = []
        """Terms of the steps since the last logged line, on the device."""
        self._written = self.folder / ".written"
        """Names the last checkpoint for which all other files that were due have been written as well."""

    def __enter__(self) -> Run:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"cannot create the folder {self.folder} ({error.strerror}); choose another --checkpoints-dir"
            ) from error
        if distributed.is_main():
            self._contexts.enter_context(_lock(self.folder))
        self._contexts.enter_context(distributed.process_group(self.device))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._log is not None:
            self._log.close(exit_code=0 if error is None else 1)
        self._contexts.close()
        if error is not None and distributed.is_main():
            with contextlib.suppress(OSError):
                if [path.name for path in self.folder.iterdir()] == [".lock"]:  # Nothing was written.
                    (self.folder / ".lock").unlink()
                    self.folder.rmdir()

    @property
    def progress(self) -> float:
        """Fraction of the run that is done, in [0, 1], by steps or by time, whichever is further."""
        by_time = self.seconds / 60 / self.config.max_minutes if self.config.max_minutes else 0.0
        return min(1.0, max(self.step / self.total_steps, by_time))

    @property
    def ended(self) -> bool:
        """Whether the current step is the last one: the run is finished, or a signal asks to stop."""
        return self.progress >= 1 or self._stop_signal is not None

    @property
    def result(self) -> Result:
        """How the run ended."""
        return Result(self.folder, self.step, self._stop_signal if self.progress < 1 else None)

    @property
    def _place(self) -> bytes:
        """What tells one checkpoint from all others of a run."""
        return f"step {self.step} after {self.seconds} s\n".encode()

    def saved_entry(self, name: str, kind: type[T], depends_on: Sequence[str] = ()) -> T | None:
        """An entry of the checkpoint; None for a new run, or if an option that the entry depends on has changed.

        Raises:
            ValueError: The checkpoint has no such entry, or one of another type.
        """
        if self.saved is None or (depends_on and self.config.differences(self.saved["config"], *depends_on)):
            return None
        return _entry(self.saved, name, kind, self.folder / "last.pt")

    def restore(self, state: Stateful) -> None:
        """Put everything back to where the checkpoint was saved; does nothing for a new run.

        Raises:
            ValueError: The checkpoint does not match the state.
        """
        if self.saved is None:
            return
        try:
            state.load_state_dict(self.saved)
            for name in ("step", "epoch", "step_in_epoch"):
                setattr(self, name, _entry(self.saved, name, int, self.folder / "last.pt"))
            self.seconds = _entry(self.saved, "seconds", float, self.folder / "last.pt")
            torch.set_rng_state(self.saved["random"])
            if self.saved["random_cuda"] is not None and self.device.type == "cuda":
                torch.cuda.set_rng_state(self.saved["random_cuda"].cpu(), self.device)
            self._wandb_run_id = self.saved["wandb_run_id"]
            pending = self.saved.get("pending") or [[]]
            self._pending = [
                {name: torch.tensor(float(term), device=self.device) for name, term in terms.items()}
                for terms in pending[distributed.rank() % len(pending)]
            ]
        except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            path = self.folder / "last.pt"
            raise ValueError(f"{path}: not a checkpoint of this run ({str(error).splitlines()[0]})") from error

    def start(self, loader: DataLoader[Any]) -> None:
        """Write config.json, open the log, and say whether something is still due after the restored step.

        Args:
            loader: From `make_loader`.

        Raises:
            ValueError: The run is already finished; or Weights & Biases is not set up.
        """
        self.steps_per_epoch = len(cast(EpochBatches, loader.batch_sampler))
        epochs = self.config.n_epochs + self.config.n_epochs_decay
        self.total_steps = min(self.steps_per_epoch * epochs, self.config.max_steps or self.steps_per_epoch * epochs)
        written = self._written.is_file() and self._written.read_bytes() == self._place
        # Going back to an earlier epoch leaves what was due later.
        unwritten = self.saved is not None and self.config.from_epoch is None and not written
        self.checkpoint_due = bool(distributed.all_max(unwritten)[0])
        self.samples_due = self.checkpoint_due and self._samples_due()
        self._begin()
        self._best = None if self.saved is None else _read_best(self.folder)

    def batches(self, loader: DataLoader[T]) -> Iterator[T]:
        """Yield batches until the epochs, the time limit or a signal end the run; call `end_step` for each.

        Args:
            loader: As given to `start`.
        """
        batches = self._endless(loader, cast(EpochBatches, loader.batch_sampler))
        self._contexts.callback(batches.close)
        self._signals = self._contexts.enter_context(collect_signals())
        self._logged_step, self._logged_seconds = self.step, self.seconds
        self._mark_written()
        while not self.ended:
            self._clock = time.monotonic()
            yield next(batches)
            self._mark_written()
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
                    raise MemoryError(
                        "data loading processes are killed again and again; try --num-workers 0"
                    ) from error
                lost_at = self.step
                print0(f"a data loading process was killed at step {self.step}; it is started again")

    def end_step(self, terms: dict[str, Tensor], lr: float) -> None:
        """Count a step, decide what is due, and every `print_freq` steps log the mean of the loss terms.

        Args:
            terms: Detached scalars on the device, which is only waited for when a line is written.
            lr: Learning rate of the step.

        Raises:
            FloatingPointError: Training has diverged.
        """
        if self._pending and self._pending[0].keys() != terms.keys():
            self._write_metrics(lr)  # Another stage of training, with other terms.
        self.step += 1
        self.step_in_epoch += 1
        self._pending.append(terms)
        seconds = self.seconds + time.monotonic() - self._clock
        # Every process must see the same signal and the same clock, that of the main process, or ranks would diverge.
        signal, self.seconds = distributed.all_max(
            self._signals[0] if self._signals else 0, seconds if distributed.is_main() else 0.0
        )
        self._stop_signal = int(signal) or None
        self._bar.update()
        # A run that a signal stops keeps its pending terms, so that its lines are those of an uninterrupted run.
        if self.step % self.config.print_freq == 0 or self.progress >= 1:
            self._write_metrics(lr)
        epoch_ended = self.step_in_epoch == self.steps_per_epoch
        if epoch_ended:
            self.epoch, self.step_in_epoch = self.epoch + 1, 0
            self._logged_step, self._logged_seconds = self.step, self.seconds
        enough = len(self._since_diagnosis) * self.config.print_freq >= DIAGNOSIS_STEPS
        self.diagnosis_due = distributed.is_main() and enough and not self._pending
        self.samples_due = self._samples_due()
        frequency = self.config.save_latest_freq
        self.checkpoint_due = epoch_ended or self.ended or bool(frequency and self.step % frequency == 0)

    def _samples_due(self) -> bool:
        return distributed.is_main() and (self.step_in_epoch == 0 or self.progress >= 1)

    def _mark_written(self) -> None:
        """Note that all that was due after the current step has been written."""
        if self.checkpoint_due and distributed.is_main():
            self._written.write_bytes(self._place)
        self.checkpoint_due = False

    def save(self, state: Mapping[str, Any], networks: Mapping[str, PyTorchModelHubMixin]) -> None:
        """Write last.pt, and the networks to use into their folders.

        Args:
            state: Everything that a resumed run needs. Gather it in every process.
            networks: The networks to use (the EMA) by folder name.

        Raises:
            FloatingPointError: A value is no longer finite; nothing is written.
            OSError: A file cannot be written; the last checkpoint is untouched.
        """
        pending = distributed.gather([{name: float(term) for name, term in terms.items()} for terms in self._pending])
        state = {**state, "pending": pending}
        self._check_finite(state)
        if not distributed.is_main():
            return
        checkpoint.save(
            self.folder / "last.pt",
            **state,
            config=self.config.plain(),
            random=torch.get_rng_state(),
            random_cuda=torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            step=self.step,
            epoch=self.epoch,
            step_in_epoch=self.step_in_epoch,
            seconds=self.seconds,
            wandb_run_id=self._wandb_run_id,
        )
        frequency = self.config.save_epoch_freq
        keep_networks = bool(frequency) and self.step_in_epoch == 0 and self.epoch % frequency == 0
        for name, network in networks.items():
            weights.save(network, self.folder / name)
            if keep_networks:
                weights.save(network, _epoch_folder(self.folder, self.epoch) / name)
        if self.step_in_epoch == 0:
            self._keep_state()
        if keep_networks or self.progress >= 1:
            assert self._log is not None
            aliases = ["latest", f"epoch-{self.epoch}"]
            metadata = {"step": self.step, "epoch": self.epoch}
            self._log.artifact(self.config.name, [self.folder / name for name in networks], aliases, metadata)

    def mean_terms(self) -> dict[str, float]:
        """The mean of each present loss term since the last diagnosis; the next call starts anew."""
        lines, self._since_diagnosis = self._since_diagnosis, []
        lines = [line for line in lines if line.keys() == lines[-1].keys()]
        return {name: sum(line[name] for line in lines) / len(lines) for name in lines[0]}

    def warn(self, title: str, text: str) -> None:
        """Print a warning and send it as a W&B alert."""
        if self._log is not None:
            self._log.alert(title, text)

    def _keep_state(self) -> None:
        """Keep the checkpoint of this epoch, and remove older ones, as --keep-epochs says."""
        policy, _, number = self.config.keep_epochs.rpartition(" ")
        if number == "none" or (policy and self.epoch % int(number)):
            return
        link_or_copy(self.folder / "last.pt", _epoch_folder(self.folder, self.epoch) / "last.pt")
        if not policy and number != "all":
            for path in (self.folder / "epochs").glob("*/last.pt"):
                if path.parent.name.isdigit() and int(path.parent.name) <= self.epoch - int(number):
                    path.unlink()
                    with contextlib.suppress(OSError):
                        path.parent.rmdir()  # Unless networks are kept there.

    def show(self, columns: Mapping[str, Sequence[Image.Image]], plots: Mapping[str, Sequence[str]]) -> None:
        """Write the validation pictures as a contact sheet, and plot the losses.

        Args:
            columns: Pictures of each column by its title.
            plots: The panels of losses.png, and the terms in each.
        """
        assert self._log is not None
        if columns:
            epoch = f"epoch-{self.epoch:04d}"
            name = f"{epoch}-step-{self.step:07d}" if self.step_in_epoch else epoch
            rows = zip(*columns.values(), strict=False)
            images.save(contact_sheet(rows, list(columns)), self.folder / "samples" / f"{name}.png")
            self._log.pictures(self.step, columns)
        plot_losses(self.folder, plots)

    def evaluation_due(self, every: int) -> bool:
        """Whether to evaluate after the current step: in the main process, every so many epochs and at the end.

        Args:
            every: Epochs between two evaluations; 0 for none.
        """
        return self.samples_due and bool(every) and (self.progress >= 1 or self.epoch % every == 0)

    def record(
        self,
        figures: Mapping[str, Mapping[str, Metric]],
        score: float,
        networks: Mapping[str, PyTorchModelHubMixin],
    ) -> None:
        """Log and plot an evaluation, and keep the networks in best/ if they are the best so far.

        They are compared with the networks in best/, even if the run has gone back to an earlier epoch since, unless
        those were measured on other pictures.

        Args:
            figures: By group and name.
            score: Smaller is better.
            networks: Those that were measured, and those that belong to them, by folder name.

        Raises:
            OSError: A file cannot be written.
        """
        assert self._log is not None
        epoch = self.epoch + self.step_in_epoch / self.steps_per_epoch
        plain = {group: to_plain(found) for group, found in figures.items()}
        line = {"epoch": epoch, "score": score, **plain}
        values = {"score": score}
        values |= {f"{name}_{group}": f.output.value for group, found in figures.items() for name, f in found.items()}
        self._log.figures(self.step, line, {key: value for key, value in values.items() if math.isfinite(value)})
        plot_figures(self.folder)
        best = self._best is None or score < self._best["score"] or not _same_marks(self._best, line)
        if best:
            with atomic_tree(self.folder / "best") as partial:
                for name, network in networks.items():
                    weights.save(network, partial / name)
                with atomic_write(partial / "figures.json") as file:
                    file.write((json.dumps({"step": self.step, **line}, indent=2) + "\n").encode())
            self._best = line
        groups = [
            f"{group}: " + ", ".join(f"{name} {format_value(figure.output.value)}" for name, figure in found.items())
            for group, found in figures.items()
        ]
        compared = "the best so far" if best else f"best: {cast(dict[str, Any], self._best)['score']:.3f}"
        print0(f"evaluation after epoch {epoch:.4g}: score {score:.3f} ({compared}); {'; '.join(groups)}")

    def _begin(self) -> None:
        """Report what is about to happen, write config.json, open the log and the progress bar."""
        config = self.config
        if self.saved is not None:
            if self.progress >= 1 and not self.checkpoint_due:
                limits = [f"--n-epochs {config.n_epochs} --n-epochs-decay {config.n_epochs_decay}"]
                limits += [f"--max-steps {config.max_steps}"] if config.max_steps else []
                limits += [f"--max-minutes {config.max_minutes:g}"] if config.max_minutes else []
                raise ValueError(
                    f"the run {config.name} is finished: {self.step} steps, {self.epoch} epochs, with "
                    f"{' '.join(limits)}; to continue it, raise the limit that ended it, as in --resume "
                    f"--n-epochs {config.n_epochs + max(1, config.n_epochs_decay)}"
                )
            print0(f"resuming {self.folder} at epoch {self.epoch + 1}, step {self.step}")
            if self.checkpoint_due:
                print0("writing what the last process was stopped from writing after this step")
            if config.from_epoch is not None and distributed.is_main():
                _keep_last_state(self.folder)
            if differences := config.differences(self.saved["config"]):
                print0("options that differ from the saved ones: " + ", ".join(differences))
            rates = [line["lr"] for line in read_metrics(self.folder) if line["step"] <= self.step and "lr" in line]
            if rates and (lr := learning_rate(config, self.progress)) > 1.1 * rates[-1]:
                hint = "train in parts with --lr-policy constant to avoid this"
                print0(f"the extension raises the learning rate from {rates[-1]:.3g} to {lr:.3g}; {hint}")
        where = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)
        processes = f", {distributed.world_size()} processes" if distributed.world_size() > 1 else ""
        minutes = f", at most {config.max_minutes:g} minutes" if config.max_minutes else ""
        print0(f"training in {'bfloat16' if self.amp else 'float32'} on {where}{processes}")
        print0(f"{self.steps_per_epoch} steps per epoch, {self.total_steps} in total{minutes}; output in {self.folder}")
        wandb = WandbOptions(config.wandb_project, config.name, config.wandb_entity, config.wandb_mode)
        self._log = Log(self.folder, config.plain(), self.step, wandb if config.wandb else None, self._wandb_run_id)
        self._wandb_run_id = self._log.run_id
        if distributed.is_main():
            with atomic_write(self.folder / "config.json") as file:
                file.write((json.dumps(config.plain(), indent=2) + "\n").encode())
        hidden = None if distributed.is_main() else True
        bar = tqdm(total=self.total_steps, initial=self.step, unit="step", dynamic_ncols=True, disable=hidden)
        self._bar = self._contexts.enter_context(bar)

    def _write_metrics(self, lr: float) -> None:
        """Average the pending terms over steps and processes: the only place where steps wait for the device."""
        names = list(self._pending[0])
        mean = torch.stack([torch.stack([terms[name] for name in names]) for terms in self._pending]).mean(0)
        self._pending.clear()
        values = dict(zip(names, distributed.all_mean(mean), strict=True))
        self._check_finite(values)
        self._since_diagnosis.append(dict(values))
        del self._since_diagnosis[:-DIAGNOSIS_STEPS]  # A method that never diagnoses keeps no more.
        text = " ".join(f"{name}: {value:.3f}" for name, value in values.items())
        steps_per_second = (self.step - self._logged_step) / max(1e-9, self.seconds - self._logged_seconds)
        self._logged_step, self._logged_seconds = self.step, self.seconds
        values["epoch"] = self.epoch + self.step_in_epoch / self.steps_per_epoch
        values["lr"] = lr
        values["images_per_second"] = steps_per_second * self.config.batch_size * distributed.world_size()
        if self.device.type == "cuda":
            values["memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        assert self._log is not None
        self._log.metrics(self.step, {name: float(f"{value:.6g}") for name, value in values.items()})
        left = format_duration(self.seconds / self.progress * (1 - self.progress))
        speed = f"{values['images_per_second']:.2f} images/s, {left} left"
        self._bar.set_postfix_str(speed)
        print0(f"epoch {self.epoch + 1}, step {self.step}: {text} ({speed})")

    def _check_finite(self, values: Mapping[str, Any]) -> None:
        """Stop a diverged run before anything of it is saved."""
        try:
            checkpoint.check_finite(values)
        except FloatingPointError as error:
            path = self.folder / "last.pt"
            kept = f"{path} is still good" if path.exists() else "nothing was saved"
            raise FloatingPointError(
                f"training diverged by step {self.step}: {error}; {kept}; try a smaller --lr or --amp off"
            ) from error


def _read_checkpoint(folder: Path, config: RunConfig, fixed: Sequence[str]) -> dict[str, Any] | None:
    path = folder / "last.pt"
    if not config.resume:
        if path.exists():
            raise FileExistsError(f"{folder} already holds a run; continue it with --resume or choose another --name")
        return None
    if not path.exists():
        raise FileNotFoundError(f"no run to resume at {path}; remove --resume, or check --name and --checkpoints-dir")
    if config.from_epoch is not None:
        path = _epoch_folder(folder, config.from_epoch) / "last.pt"
        if not path.exists():
            kept = sorted(p.parent.name.lstrip("0") for p in folder.glob("epochs/[0-9]*/last.pt"))
            raise FileNotFoundError(
                f"--from-epoch {config.from_epoch}: no state kept at {path}; "
                + (f"kept epochs: {', '.join(kept)}" if kept else "none is kept; train with --keep-epochs")
            )
    saved = checkpoint.load(path)
    options = _entry(saved, "config", dict, path)
    try:
        json.dumps(options)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a training checkpoint: its config is not plain ({error})") from error
    if differences := config.differences(options, *fixed):
        raise ValueError(f"{folder}: a run cannot change {', '.join(differences)}; choose another --name")
    return saved


def _read_best(folder: Path) -> dict[str, Any] | None:
    """The evaluation of the best networks of a run; None if there are none, or the file has been damaged."""
    try:
        best = json.loads((folder / "best" / "figures.json").read_text())
        return best if isinstance(best["score"], float) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _same_marks(best: Mapping[str, Any], line: Mapping[str, Any]) -> bool:
    """Whether two evaluations were made with the same pictures: untranslated, they have the same figures."""

    def marks(evaluation: Mapping[str, Any]) -> dict[tuple[str, str], float]:
        return {
            (group, name): (figure["untranslated"] or {}).get("value") or 0.0
            for group, found in evaluation.items()
            if isinstance(found, dict)
            for name, figure in found.items()
        }

    before, now = marks(best), marks(line)
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


def _epoch_folder(folder: Path, epoch: int) -> Path:
    return folder / "epochs" / f"{epoch:04d}"


def _keep_last_state(folder: Path) -> None:
    """Before a run goes back to an earlier epoch, keep the state it leaves, unless it is kept already."""
    saved = checkpoint.load(folder / "last.pt")
    name = f"{saved['epoch']:04d}" + (f"-step-{saved['step']:07d}" if saved["step_in_epoch"] else "")
    if not (folder / "epochs" / name / "last.pt").exists():
        link_or_copy(folder / "last.pt", folder / "epochs" / name / "last.pt")
        print0(f"the state that the run leaves is kept in {folder / 'epochs' / name}")


def _entry(saved: Mapping[str, Any], name: str, kind: type[T], path: Path) -> T:
    if name not in saved:
        raise ValueError(f"{path}: not a training checkpoint: it has no {name}")
    if not isinstance(saved[name], kind):
        raise ValueError(f"{path}: not a training checkpoint: its {name} is a {type(saved[name]).__name__}")
    if isinstance(saved[name], int | float) and not 0 <= saved[name] < float("inf"):
        raise ValueError(f"{path}: not a training checkpoint: its {name} is {saved[name]}")
    return saved[name]
