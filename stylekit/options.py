"""The options that every training has: defaults, types, help, and what contradicts what. Nothing heavy is imported."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

Switch = Literal["auto", "on", "off"]


def also(*names: str) -> Any:
    """Names that users know from other projects, as further names of a flag."""
    return tyro.conf.arg(aliases=names)


def check_at_least(options: Any, least: float, *names: str) -> None:
    """Refuse options that are below `least`, infinite or no number; None is good.

    Raises:
        ValueError: The message names the flag and what it got.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and not least <= value < float("inf"):
            expected = "0 or more" if least == 0 else f"at least {least:g}"
            raise ValueError(f"--{name.replace('_', '-')} must be {expected}, got {value}")


def check_positive(options: Any, *names: str) -> None:
    """Refuse options that are not more than 0, infinite or no number; None is good.

    Raises:
        ValueError: The message names the flag and what it got.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"--{name.replace('_', '-')} must be more than 0, got {value}")


def check_shares(options: Any, name: str) -> None:
    """Refuse a list of weights with a negative or infinite one, or with nothing but zeros; an empty list is good.

    Raises:
        ValueError: The message names the flag and what it got.
    """
    weights = getattr(options, name)
    if weights and not (all(0 <= w < float("inf") for w in weights) and sum(weights) > 0):
        shown = " ".join(map(str, weights))
        raise ValueError(f"--{name.replace('_', '-')} must be 0 or more, and not all 0, got {shown}")


@dataclass(frozen=True)
class RunConfig:
    """What can be chosen in every training."""

    dataroot: str
    """Folder with the pictures."""

    name: str = "experiment_name"
    """Name of the run; in a sweep, its id there."""

    checkpoints_dir: Path = Path("checkpoints")
    """Folder of all runs."""

    resume: Annotated[bool, also("--continue-train")] = False
    """Go on from last.pt of this run; options that are not given again are those of the run."""

    # The data.
    load_size: int = 286
    """Shorter side that pictures are resized to before they are cropped, in pixels."""

    crop_size: Annotated[int, also("--image-size")] = 256
    """Side of the random square that is cut out for training, in pixels; a multiple of 4."""

    max_dataset_size: int | None = None
    """Use only so many pictures of each collection: the first of the sorted names."""

    cache: Switch = "auto"
    """Keep decoded pictures in memory; auto: if they take less than a quarter of what is free."""

    num_workers: Annotated[int, also("--num-threads")] = 4
    """Processes that prepare pictures, at most as many as there are cores; 0 prepares them in the training process."""

    batch_size: int = 1
    """Pictures per step and per process."""

    # The optimisation.
    n_epochs: int = 100
    """Epochs with the full learning rate."""

    n_epochs_decay: int = 100
    """Epochs over which the learning rate then goes linearly to zero."""

    max_steps: int | None = None
    """End after so many steps, if the epochs have not ended before; the learning rate is zero by then."""

    max_minutes: float | None = None
    """End after so many minutes of training, if the epochs have not ended before; the learning rate is zero by then."""

    lr: float = 2e-4
    """Learning rate of Adam."""

    ema_decay: float = 0.999
    """Share that the averaged networks, which are the ones to use, keep at each step; 0 turns averaging off."""

    seed: int = 0
    """Of everything random: weights, order, crops, pools. The same seed gives the same run on the same machine."""

    # The machine.
    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:N."""

    amp: Switch = "auto"
    """bfloat16 where it is safe; auto: where the hardware is made for it (CUDA from Ampere on, CPUs with AMX). On a CPU
    with AVX512-BF16 `on` is worth a try: some are faster with it, some slower."""

    compile: bool = False
    """torch.compile the networks: minutes to start, faster steps after that."""

    # What is written.
    print_freq: int = 50
    """Steps between two lines of the log."""

    save_latest_freq: int = 5000
    """Steps between checkpoints within an epoch; there is always one after each epoch; 0 for no others."""

    save_epoch_freq: int = 5
    """Epochs between copies of the networks that are kept (in epochs/0005 ...) and uploaded (with --wandb); 0 for
    none."""

    n_samples: int = 4
    """Validation pictures of each collection, shown after every epoch."""

    wandb: Annotated[bool, also("--use-wandb")] = False
    """Show the run in Weights & Biases as well."""

    wandb_project: Annotated[str, also("--wandb-project-name")] = "image-translation"
    """Its project there."""

    wandb_entity: str | None = None
    """Its user or team there."""

    wandb_mode: Literal["online", "offline"] = "online"
    """offline writes to CHECKPOINTS_DIR/NAME/wandb, for `wandb sync` later."""

    def __post_init__(self) -> None:
        if not self.name or self.name in (".", "..") or any(c in self.name for c in "/\\\0"):
            raise ValueError(f"--name {self.name!r}: expected the name of one folder")
        check_at_least(self, 1, "batch_size", "print_freq", "load_size", "crop_size")
        counts = ("num_workers", "n_epochs", "n_epochs_decay", "n_samples", "seed", "save_latest_freq")
        check_at_least(self, 0, *counts, "save_epoch_freq")
        check_positive(self, "max_steps", "max_minutes", "max_dataset_size", "lr")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"--ema-decay must lie in [0, 1), got {self.ema_decay}")
        if self.n_epochs + self.n_epochs_decay == 0:
            raise ValueError("--n-epochs and --n-epochs-decay are both 0: nothing to train")
        if self.load_size < self.crop_size:
            raise ValueError(
                f"--load-size {self.load_size} is below --crop-size {self.crop_size}: a crop cannot be larger than the "
                f"picture; try --load-size {round(self.crop_size * 286 / 256)}"
            )

    def check_crop_size(self, smallest: int, given: str) -> None:
        """Refuse crops that the networks cannot take.

        Args:
            smallest: The smallest possible side.
            given: The option that it follows from, for the message.

        Raises:
            ValueError: The side is smaller, or no multiple of 4.
        """
        if self.crop_size % 4 or self.crop_size < smallest:
            raise ValueError(
                f"--crop-size {self.crop_size}: expected a multiple of 4, at least {smallest} with {given}"
            )

    def plain(self) -> dict[str, Any]:
        """The options as plain values; whether this call resumes is no property of the run."""
        plain = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items()}
        del plain["resume"]
        # As they come back from JSON.
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

    def differences(self, saved: Mapping[str, Any], *names: str) -> list[str]:
        """What has changed since the options were saved: all of them, or only those named."""
        now = self.plain()
        return [
            f"--{key.replace('_', '-')} {_shown(now[key])} (was {_shown(saved.get(key))})"
            for key in names or now
            if saved.get(key) != now[key]
        ]


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
