"""A run: the loop around a method's training step. Data in; checkpoints, pictures and numbers out.

What is trained, and how one step goes, is the method's: `cyclegan.train` and `johnson.train` each have a `Method`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from stylekit import checkpoint, distributed, images
from stylekit.data import EpochBatches
from stylekit.log import Log, WandbOptions, plot_losses, say
from stylekit.options import RunConfig
from stylekit.training import (
    check_finite,
    clock,
    collect_signals,
    iterate,
    linear_decay,
    save_network,
    unwrap,
    use_bfloat16,
)

M = TypeVar("M", bound=nn.Module)


class Method(Protocol):
    """What a run trains."""

    plots: Mapping[str, Sequence[str]]
    """The panels of losses.png, and the terms in each."""
    loader: DataLoader[Any]
    batches: EpochBatches
    """The sampler of the loader."""
    optimizers: Sequence[torch.optim.Optimizer]
    networks: Sequence[nn.Module]
    """What is trained."""

    def describe(self) -> str:
        """What is trained, in a line."""

    def step(self, batch: Any, amp: bool) -> dict[str, Tensor]:
        """One step of training; the loss terms, detached.

        Args:
            batch: What the loader yields.
            amp: Run the networks in bfloat16.
        """

    def state_dict(self) -> dict[str, Any]:
        """All that changes, and what a resumed run must not choose anew. Called in every process."""

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Put it back."""

    def released(self) -> dict[str, nn.Module]:
        """The averaged networks, which are the ones to use, by the names of their folders."""

    def paint(self) -> dict[str, list[Image.Image]]:
        """The validation pictures, and what the averaged networks make of them: by title, a column each."""


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    folder: Path
    step: int
    signal: int | None
    """The signal that stopped it; None if it came to its end."""


def train(
    config: RunConfig,
    fixed: Sequence[str],
    entries: Mapping[str, type],
    prepare: Callable[[torch.device, dict[str, Any] | None], Method],
) -> Result:
    """Train, or go on with a run, until it ends or a signal (SIGINT, SIGTERM) asks to stop.

    Under torchrun, call it in every process.

    Args:
        fixed: Options that a run cannot change.
        entries: What a checkpoint of this method must have, besides that of all, and of which kind.
        prepare: Makes the method, its networks and data, given the device and, when resuming, what was saved.

    Raises:
        FileExistsError: The folder holds a run already, and `resume` is not set.
        FileNotFoundError: There is no data; or there is nothing to resume.
        ValueError: Too many pictures are bad; the checkpoint is damaged or of another network; the run is finished.
        OSError: Something cannot be written; the last checkpoint is still whole.
        FloatingPointError: A loss or a weight is no longer finite; the last checkpoint is from before that.
        torch.OutOfMemoryError: The device is too small for these options.
    """
    folder = config.checkpoints_dir / config.name
    device = distributed.choose_device(config.device)
    saved = _read(folder, config, fixed, {**entries, "config": dict, "step": int})
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot make the folder {folder} ({error.strerror}); choose another --checkpoints-dir"
        ) from error
    with distributed.process_group(device):
        run = _Run(config, folder, device, prepare(device, saved))
        run_id = run.load(saved) if saved else None
        run.announce(saved)
        wandb = WandbOptions(config.wandb_project, config.name, config.wandb_entity, config.wandb_mode)
        run.log = Log(folder, config.plain(), run.step, wandb if config.wandb else None, run_id)
        try:
            with collect_signals() as caught:
                run.go(caught)
        except BaseException:
            run.log.close(exit_code=1)
            raise
        run.log.close()
        return Result(folder, run.step, None if run.finished else caught[0])


def ready(network: M, device: torch.device) -> M:
    """A network on its device, with channels last in memory, as convolutions want them."""
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def to_device(pictures: Tensor, device: torch.device) -> Tensor:
    """A batch from the loader, where and as the networks want it."""
    return pictures.to(device, non_blocking=True, memory_format=torch.channels_last)


def wrapped(network: nn.Module, device: torch.device, config: RunConfig) -> nn.Module:
    """A network as it is trained: in DDP if there are several processes, compiled if that is asked for."""
    if distributed.world_size() > 1:
        network = DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)
    return cast(nn.Module, torch.compile(network)) if config.compile else network


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average of a network, a copy at first."""
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))
    average.requires_grad_(False)
    return average


def count(network: nn.Module) -> str:
    """How many parameters a network has."""
    return f"{sum(parameter.numel() for parameter in network.parameters()):,} parameters"


class _Run:
    """Where a run is, and its loop."""

    log: Log

    def __init__(self, config: RunConfig, folder: Path, device: torch.device, method: Method) -> None:
        self.config = config
        self.folder = folder
        self.device = device
        self.method = method
        self.step = 0
        """Steps done."""
        self.epoch = 0
        """Epochs done."""
        self.step_in_epoch = 0
        """Steps done of the epoch after these."""
        self.seconds = 0.0
        """Time spent training."""
        self.amp = use_bfloat16(config.amp, device)
        self.steps_per_epoch = len(method.batches)
        epochs = config.n_epochs + config.n_epochs_decay
        self.total_steps = min(self.steps_per_epoch * epochs, config.max_steps or self.steps_per_epoch * epochs)
        self.pending: list[dict[str, Tensor]] = []
        """Terms of steps that the log has not seen."""

    @property
    def progress(self) -> float:
        """How much of the run is done, in [0, 1], by steps or by time, whichever is further."""
        by_time = self.seconds / 60 / self.config.max_minutes if self.config.max_minutes else 0.0
        return min(1.0, max(self.step / self.total_steps, by_time))

    @property
    def finished(self) -> bool:
        return self.progress >= 1

    def load(self, saved: Mapping[str, Any]) -> str | None:
        """Put everything back as it was saved; return the run's id in Weights & Biases."""
        try:
            self.method.load_state_dict(saved)
            self.step, self.epoch = saved["step"], saved["epoch"]
            self.step_in_epoch, self.seconds = saved["step_in_epoch"], saved["seconds"]
            torch.set_rng_state(saved["random"])
            if saved["random_cuda"] is not None and self.device.type == "cuda":
                torch.cuda.set_rng_state(saved["random_cuda"].cpu(), self.device)
            return cast("str | None", saved["wandb_run_id"])
        except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            path = self.folder / "last.pt"
            raise ValueError(f"{path}: not a checkpoint of this run ({str(error).splitlines()[0]})") from error

    def announce(self, saved: dict[str, Any] | None) -> None:
        """Say what is about to happen, and keep the options beside the run.

        Raises:
            ValueError: There is nothing left to do.
        """
        config = self.config
        if saved:
            if self.finished:
                limits = [f"--n-epochs {config.n_epochs} --n-epochs-decay {config.n_epochs_decay}"]
                limits += [f"--max-steps {config.max_steps}"] if config.max_steps else []
                limits += [f"--max-minutes {config.max_minutes:g}"] if config.max_minutes else []
                raise ValueError(
                    f"the run {config.name} is finished: {self.step} steps, {self.epoch} epochs, with "
                    f"{' '.join(limits)}; raise what has ended it to go on, as in --resume "
                    f"--n-epochs {config.n_epochs + max(1, config.n_epochs_decay)}"
                )
            say(f"resuming {self.folder} at epoch {self.epoch + 1}, step {self.step}")
            if differences := config.differences(saved["config"]):
                say("options that differ from the saved ones: " + ", ".join(differences))
        where = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)
        processes = f" x {distributed.world_size()}" if distributed.world_size() > 1 else ""
        say(f"{self.method.describe()}, in {'bfloat16' if self.amp else 'float32'} on {where}{processes}")
        minutes = f", at most {config.max_minutes:g} minutes" if config.max_minutes else ""
        say(f"{self.steps_per_epoch} steps an epoch, {self.total_steps} in all{minutes}; all is kept in {self.folder}")
        if distributed.is_main():
            with checkpoint.atomic(self.folder / "config.json") as file:
                file.write((json.dumps(config.plain(), indent=2) + "\n").encode())

    def go(self, caught: list[int]) -> None:
        """Train to the end, or until a signal."""
        bar = tqdm(
            total=self.total_steps,
            initial=self.step,
            unit="step",
            dynamic_ncols=True,
            disable=None if distributed.is_main() else True,
        )
        self.method.batches.epoch, self.method.batches.start = self.epoch, self.step_in_epoch
        # One iterator for all epochs: workers start once, and prepare the next epoch while this one ends.
        with bar, iterate(self.method.loader) as batches:
            while not self.finished and not caught:
                self.run_epoch(batches, bar, caught)
                if self.step_in_epoch >= self.steps_per_epoch:
                    self.epoch, self.step_in_epoch = self.epoch + 1, 0
                self.save(show=self.finished or self.step_in_epoch == 0)
        if self.finished:
            names = list(self.method.released())
            say(
                f"finished after {self.step} steps, {clock(self.seconds)}: {' and '.join(names)} in {self.folder} "
                f"{'are' if len(names) > 1 else 'is'} ready for use"
            )

    def run_epoch(self, batches: Iterator[Any], bar: Any, caught: list[int]) -> None:
        """The rest of one epoch, or as much of it as there is time for."""
        config = self.config
        decay = config.n_epochs_decay / (config.n_epochs + config.n_epochs_decay)
        begun = time.monotonic() - self.seconds
        logged_step, logged_seconds = self.step, self.seconds
        while self.step_in_epoch < self.steps_per_epoch:
            lr = config.lr * linear_decay(self.progress, decay)
            for optimizer in self.method.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = lr
            self.pending.append(self.method.step(next(batches), self.amp))
            self.step += 1
            self.step_in_epoch += 1
            # All processes must see the same clock and the same signal, or they would part.
            stop, self.seconds = distributed.largest(caught[0] if caught else 0, time.monotonic() - begun)
            if stop and not caught:
                caught.append(int(stop))
            bar.update()
            over = self.finished or bool(caught)
            if self.step % config.print_freq == 0 or over:
                speed = (self.step - logged_step) / max(1e-9, self.seconds - logged_seconds)
                self.write_metrics(speed, lr, bar)
                logged_step, logged_seconds = self.step, self.seconds
            if over:
                return
            if config.save_latest_freq and self.step % config.save_latest_freq == 0:
                self.save(show=False)

    def write_metrics(self, steps_per_second: float, lr: float, bar: Any) -> None:
        """The mean of each term since the last call: the only place where steps wait for the device."""
        names = list(self.pending[0])
        mean = torch.stack([torch.stack([terms[name] for name in names]) for terms in self.pending]).mean(0)
        self.pending.clear()
        values = dict(zip(names, distributed.mean(mean), strict=True))
        self.check(values)
        text = " ".join(f"{name}: {value:.3f}" for name, value in values.items())
        values["epoch"] = self.epoch + self.step_in_epoch / self.steps_per_epoch
        values["lr"] = lr
        values["images_per_second"] = steps_per_second * self.config.batch_size * distributed.world_size()
        if self.device.type == "cuda":
            values["memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        self.log.metrics(self.step, {name: float(f"{value:.6g}") for name, value in values.items()})
        done = self.progress
        speed = f"{values['images_per_second']:.2f} images/s, {clock(self.seconds / done * (1 - done))} left"
        bar.set_postfix_str(speed)
        say(f"epoch {self.epoch + 1}, step {self.step}: {text} ({speed})")

    def check(self, terms: Mapping[str, float]) -> None:
        """Stop a run that has diverged, before anything of it is saved."""
        try:
            check_finite(terms, *map(unwrap, self.method.networks))
        except FloatingPointError as error:
            kept = (
                f"{self.folder / 'last.pt'} is from before that"
                if (self.folder / "last.pt").exists()
                else "nothing is saved"
            )
            raise FloatingPointError(
                f"training has diverged by step {self.step}: {error}; {kept}; try a smaller --lr, or --amp off"
            ) from error

    def save(self, show: bool) -> None:
        """Write last.pt and the averaged networks; with `show`, the validation pictures and the plot as well."""
        config = self.config
        self.check({})
        state = self.method.state_dict()
        if not distributed.is_main():
            return
        checkpoint.save(
            self.folder / "last.pt",
            **state,
            config=config.plain(),
            random=torch.get_rng_state(),
            random_cuda=torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            step=self.step,
            epoch=self.epoch,
            step_in_epoch=self.step_in_epoch,
            seconds=self.seconds,
            wandb_run_id=self.log.run_id,
        )
        released = self.method.released()
        for name, network in released.items():
            save_network(network, self.folder / name)
        if show:
            self.paint()
            plot_losses(self.folder, self.method.plots)
        keep = config.save_epoch_freq and self.step_in_epoch == 0 and self.epoch % config.save_epoch_freq == 0
        if keep:
            for name in released:
                copy = self.folder / "epochs" / f"{self.epoch:04d}" / name
                shutil.copytree(self.folder / name, copy, dirs_exist_ok=True)
        if keep or self.finished:
            aliases = ["latest", f"epoch-{self.epoch}"]
            metadata = {"step": self.step, "epoch": self.epoch}
            self.log.artifact(config.name, [self.folder / name for name in released], aliases, metadata)

    def paint(self) -> None:
        """The same validation pictures every time."""
        columns = self.method.paint()
        if not columns:
            return
        epoch = f"epoch-{self.epoch:04d}"
        name = f"{epoch}-step-{self.step:07d}" if self.step_in_epoch else epoch
        rows = zip(*columns.values(), strict=False)
        images.save(images.sheet(rows, list(columns)), self.folder / "samples" / f"{name}.png")
        self.log.pictures(self.step, columns)


def _read(folder: Path, config: RunConfig, fixed: Sequence[str], entries: Mapping[str, type]) -> dict[str, Any] | None:
    """The last state of the run to resume; None for a new run."""
    path = folder / "last.pt"
    if not config.resume:
        if path.exists():
            raise FileExistsError(f"{folder} holds a run already; go on with it by --resume, or choose another --name")
        return None
    if not path.exists():
        raise FileNotFoundError(
            f"nothing to resume: no {path}; leave out --resume, or check --name and --checkpoints-dir"
        )
    saved = checkpoint.load(path)
    if missing := entries.keys() - saved.keys():
        raise ValueError(f"{path}: not a training checkpoint, it has no {', '.join(sorted(missing))}")
    if wrong := [name for name, kind in entries.items() if not isinstance(saved[name], kind)]:
        raise ValueError(f"{path}: not a training checkpoint, its {wrong[0]} is a {type(saved[wrong[0]]).__name__}")
    if differences := config.differences(saved["config"], *fixed):
        raise ValueError(f"{folder}: a run cannot change {', '.join(differences)}; choose another --name")
    return saved
