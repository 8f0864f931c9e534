"""Options that commands share: defaults, types, help and validation. Imports nothing heavy, so `--help` is fast."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

Switch = Literal["auto", "on", "off"]
Format = Literal["jpg", "png", "webp", "tiff", "bmp", "avif"]


def also(*names: str) -> Any:
    """Aliases of a flag that users know from other projects."""
    return tyro.conf.arg(aliases=names)


def default_is(text: str, metavar: str | None = None, aliases: tuple[str, ...] = ()) -> Any:
    """What `--help` shows as the default of a flag whose value is None or empty unless it is given."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {text})", metavar=metavar, aliases=aliases)


STROKE_SIZES = (0.25, 8.0)
"""Smallest and largest --stroke-size."""

FORMATS = "{jpg,png,webp,tiff,bmp,avif}"
THREADS = default_is("OMP_NUM_THREADS, or one per core", "INT")


def check_at_least(options: Any, least: float, *names: str) -> None:
    """Refuse options below `least`, infinite or NaN; None is allowed.

    Raises:
        ValueError: The message names the flag and its value.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and not least <= value < float("inf"):
            expected = "0 or more" if least == 0 else f"at least {least:g}"
            raise ValueError(f"--{name.replace('_', '-')} must be {expected}, got {value}")


def check_positive(options: Any, *names: str) -> None:
    """Refuse options that are not positive, infinite or NaN; None is allowed.

    Raises:
        ValueError: The message names the flag and its value.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"--{name.replace('_', '-')} must be positive, got {value}")


def check_weights(options: Any, name: str) -> None:
    """Refuse a list with a negative or infinite weight, or with only zeros; an empty list is allowed.

    Raises:
        ValueError: The message names the flag and its value.
    """
    weights = getattr(options, name)
    if weights and not (all(0 <= w < float("inf") for w in weights) and sum(weights) > 0):
        shown = " ".join(map(str, weights))
        raise ValueError(f"--{name.replace('_', '-')} must not be negative or all 0, got {shown}")


@dataclass(frozen=True)
class PictureOptions:
    """Options of commands that run a trained network on pictures and videos."""

    inputs: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="INPUT [INPUT ...]", help_behavior_hint="(required)"),
    ]
    """Pictures, videos and folders. Folders are searched for pictures; their structure is kept."""

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("out")
    """Output folder, or output file for a single picture or video."""

    strength: float = 1.0
    """Opacity of the result over the photograph, from 0 to 1."""

    preserve_color: Annotated[bool, also("--preserve-colour")] = False
    """Keep the colors of the photograph: only its luminance changes."""

    stroke_size: float = 1.0
    """Size of the strokes. 2 paints at half the size, and enlarges with the photograph's detail; 0.5 is finer."""

    size: Annotated[int | None, default_is("full size", "INT")] = None
    """First shrink pictures whose longer side exceeds this many pixels; the results stay that small."""

    format: Annotated[Format | None, default_is("that of the input", FORMATS)] = None
    """Output format of pictures. HEIC (extra `heic`) becomes jpg, GIF becomes png."""

    smoothing: float = 0.98
    """Videos: decay of the normalization statistics over frames; high values reduce flicker, 0 disables smoothing."""

    tile: Annotated[int | None, default_is("as large as memory allows", "INT")] = None
    """Side of the tiles in which large pictures are processed, in pixels. Video frames are never tiled."""

    sheet: bool = False
    """Also write sheet.jpg (NAME-sheet.jpg for a single file) with each picture before and after."""

    overwrite: bool = False
    """Replace existing output. Inputs are never replaced."""

    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:N."""

    threads: Annotated[int | None, THREADS] = None
    """CPU threads."""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("no input: give a picture, a folder or a video, such as photo.jpg")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"--strength must be in [0, 1], got {self.strength}")
        least, largest = STROKE_SIZES
        if not least <= self.stroke_size <= largest:
            raise ValueError(f"--stroke-size must be in [{least:g}, {largest:g}], got {self.stroke_size}")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"--smoothing must be in [0, 1), got {self.smoothing}")
        check_at_least(self, 1, "size", "threads")
        check_at_least(self, 64, "tile")


@dataclass(frozen=True, kw_only=True)
class RunName:
    """Which run: all that must be known to find the options of a run to resume."""

    name: str = "experiment_name"
    """Name of the run. In a W&B sweep, the default is the id of the trial."""

    checkpoints_dir: Path = Path("checkpoints")
    """Folder that holds all runs."""

    resume: Annotated[bool, also("--continue-train")] = False
    """Resume the run from last.pt. Options that are not given keep their saved values."""

    from_epoch: Annotated[int | None, default_is("the last checkpoint", "INT")] = None
    """With --resume: go back to the state that --keep-epochs kept after this epoch."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "from_epoch")
        if self.from_epoch is not None and not self.resume:
            raise ValueError(f"--from-epoch {self.from_epoch} needs --resume")
        if not self.name or self.name in (".", "..") or any(c in self.name for c in "/\\\0"):
            raise ValueError(f"--name {self.name!r}: expected the name of a folder")


@dataclass(frozen=True)
class RunConfig(RunName):
    """Options of training commands."""

    dataroot: str
    """Folder with the pictures."""

    # Data.
    load_size: int = 286
    """Resize pictures so that the shorter side has this many pixels, before cropping."""

    crop_size: Annotated[int, also("--image-size")] = 256
    """Side of the square training crops in pixels, a multiple of 4."""

    max_dataset_size: Annotated[int | None, default_is("all", "INT")] = None
    """Use only the first N pictures of each collection, sorted by name."""

    cache: Switch = "auto"
    """Keep decoded pictures in memory. auto: if they take less than a quarter of the free memory."""

    num_workers: Annotated[int, also("--num-threads")] = 4
    """Data loading processes, at most one per core; 0 loads in the training process."""

    batch_size: int = 1
    """Pictures per step, in each process."""

    # Optimization.
    n_epochs: int = 100
    """Epochs at the full learning rate."""

    n_epochs_decay: int = 100
    """Further epochs over which the learning rate decays to zero."""

    lr_policy: Literal["linear", "cosine", "constant"] = "linear"
    """Learning rate schedule. constant suits training in parts: extending a run does not raise the rate again."""

    max_steps: Annotated[int | None, default_is("no limit", "INT")] = None
    """Stop after N steps if the epochs would take longer; the learning rate has decayed by then."""

    max_minutes: Annotated[float | None, default_is("no limit", "FLOAT")] = None
    """Stop after N minutes of training if the epochs would take longer; the learning rate has decayed by then."""

    lr: float = 2e-4
    """Learning rate."""

    ema_decay: float = 0.999
    """Decay of the exponential moving average of the weights. The averaged weights are saved; 0 disables averaging."""

    seed: int = 0
    """Seed of all random numbers in training. The same seed gives the same run on the same machine."""

    # Machine.
    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:N."""

    threads: Annotated[int | None, THREADS] = None
    """CPU threads."""

    amp: Switch = "auto"
    """Mixed precision (bfloat16). auto: on CUDA GPUs since Ampere and CPUs with AMX. Try on with AVX512-BF16."""

    compile: bool = False
    """Compile the networks (torch.compile): minutes to start; steps are slower on CPUs with AVX2. For GPUs."""

    # Output.
    print_freq: int = 50
    """Steps between log lines."""

    save_latest_freq: int = 5000
    """Steps between checkpoints within an epoch. The end of an epoch is always saved; 0 saves only then."""

    save_epoch_freq: int = 5
    """Keep a copy of the networks every N epochs (epochs/0005 ...), and upload it with --wandb; 0 keeps none."""

    keep_epochs: str = "none"
    """Keep full states to go back to: none, all, N (the last N epochs) or "every N"; see --from-epoch."""

    n_samples: int = 4
    """Validation pictures of each collection, processed after every epoch."""

    wandb: Annotated[bool, also("--use-wandb")] = False
    """Log to Weights & Biases."""

    wandb_project: Annotated[str, also("--wandb-project-name")] = "image-translation"
    """W&B project."""

    wandb_entity: Annotated[str | None, default_is("your default entity", "STR")] = None
    """W&B user or team."""

    wandb_mode: Literal["online", "offline"] = "online"
    """offline writes to CHECKPOINTS_DIR/NAME/wandb; upload it later with `wandb sync`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "batch_size", "print_freq", "load_size", "crop_size", "threads")
        counts = ("num_workers", "n_epochs", "n_epochs_decay", "n_samples", "seed", "save_latest_freq")
        check_at_least(self, 0, *counts, "save_epoch_freq")
        check_positive(self, "max_steps", "max_minutes", "max_dataset_size", "lr")
        if not re.fullmatch(r"none|all|(every )?[1-9]\d*", self.keep_epochs):
            raise ValueError(f'--keep-epochs {self.keep_epochs!r}: expected none, all, N or "every N"')
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"--ema-decay must be in [0, 1), got {self.ema_decay}")
        if self.n_epochs + self.n_epochs_decay == 0:
            raise ValueError("--n-epochs and --n-epochs-decay are both 0: nothing to train")
        if self.load_size < self.crop_size:
            raise ValueError(
                f"--load-size {self.load_size} is smaller than --crop-size {self.crop_size}; "
                f"try --load-size {round(self.crop_size * 286 / 256)}"
            )

    def check_crop_size(self, smallest: int, given: str) -> None:
        """Refuse crop sizes that the networks do not accept.

        Args:
            smallest: The smallest valid side.
            given: The option that determines it, for the message.

        Raises:
            ValueError: The side is smaller, or not a multiple of 4.
        """
        if self.crop_size % 4 or self.crop_size < smallest:
            raise ValueError(
                f"--crop-size {self.crop_size}: expected a multiple of 4, at least {smallest} with {given}"
            )

    def plain(self) -> dict[str, Any]:
        """The options as JSON values, without those of resuming, which are not properties of the run."""
        plain = {name: _jsonable(value) for name, value in dataclasses.asdict(self).items()}
        del plain["resume"], plain["from_epoch"]
        return plain

    def differences(self, saved: Mapping[str, Any], *names: str) -> list[str]:
        """Options that differ from saved ones, as text: of all, or of those named.

        Options that are newer than the saved ones had their defaults.
        """
        now = self.plain()
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        before = {key: saved.get(key, _jsonable(defaults[key])) for key in now}
        return [
            f"--{key.replace('_', '-')} {_shown(now[key])} (was {_shown(before[key])})"
            for key in names or now
            if before[key] != now[key]
        ]


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of commands that export a network."""

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("network.onnx")
    """File to write, replaced if it exists: .onnx, or .pt2 for a torch.export program."""

    pixels: Literal["uint8", "float32"] = "uint8"
    """Input and output: uint8 (batch, height, width, 3), or float32 (batch, 3, height, width) in [0, 1]. RGB."""

    threads: Annotated[int | None, THREADS] = None
    """CPU threads."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "threads")
        if self.output.suffix not in (".onnx", ".pt2"):
            raise ValueError(f"--output {self.output}: expected a .onnx or .pt2 file")


def _jsonable(value: Any) -> Any:
    """JSON has neither paths nor tuples."""
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
