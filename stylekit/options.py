"""Options that commands share: defaults, types, help and validation. Imports nothing heavy, so `--help` is fast."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, get_type_hints

import tyro

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

Switch = Literal["auto", "on", "off"]
Keep = Literal["faces"]
Format = Literal["jpg", "png", "webp", "tiff", "bmp", "avif"]


def also(*names: str) -> Any:
    """Aliases of a flag that users know from other projects."""
    return tyro.conf.arg(aliases=names)


def default_is(text: str, metavar: str | None = None, aliases: tuple[str, ...] = ()) -> Any:
    """What `--help` shows as the default of a flag whose value is None or empty unless it, or a preset, is given."""

    def hint(default: str) -> str:
        return f"(default: {text if default in ('None', '') else default})"

    return tyro.conf.arg(help_behavior_hint=hint, metavar=metavar, aliases=aliases)


STROKE_SIZES = (0.05, 8.0)  # Smallest and largest --stroke-size.
THREADS = default_is("OMP_NUM_THREADS, or one per core", "INT")


def check_at_least(options: Any, least: float, *names: str) -> None:
    """Refuse options below `least`, infinite or NaN; None is allowed. The error names the flag and its value."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not least <= value < float("inf"):
            raise ValueError(f"{_flag(name)} must be {f'at least {least:g}' if least else '0 or more'}, got {value}")


def check_positive(options: Any, *names: str) -> None:
    """Refuse options that are not positive, infinite or NaN; None is allowed."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{_flag(name)} must be positive, got {value}")


def check_weights(name: str, weights: Collection[float]) -> None:
    """Refuse a negative or infinite weight, NaN, and only zeros; no weights are allowed."""
    if weights and not (all(0 <= w < float("inf") for w in weights) and sum(weights) > 0):
        raise ValueError(f"{name} must not be negative or all 0, got {_shown(list(weights))}")


def parse_weights(flag: str, given: Sequence[str]) -> dict[str, float]:
    """Names and their weights, from NAME (weight 1) or NAME=WEIGHT."""
    weights: dict[str, float] = {}
    for text in given:
        name, _, weight = text.rpartition("=") if not Path(text).exists() else ("", "", "")
        try:
            weights[name or text] = float(weight) if name else 1.0
        except ValueError as error:
            raise ValueError(f"{flag} {text}: expected NAME or NAME=WEIGHT, such as mosaic=0.4") from error
    check_weights(f"{flag}: weights", weights.values())
    return weights


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A question about the two most similar names, in parentheses; or nothing."""
    near = difflib.get_close_matches(name, list(names), 2, 0.8)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


@dataclass(frozen=True)
class PictureOptions:
    """Options of commands that run a trained network on pictures and videos."""

    inputs: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="INPUT [INPUT ...]", help_behavior_hint="(required)"),
    ]
    """Pictures, videos, folders (searched for pictures, their structure is kept), or - for standard input."""

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("out")
    """Output folder, or file for a single picture or video, or - for standard output, which gets a PNG or --format."""

    strength: float = 1.0
    """Opacity of the result over the photograph, from 0 to 1."""

    preserve_color: bool = False
    """Keep the colors of the photograph: only its luminance changes."""

    draft: Switch = "auto"
    """Paint pictures with brush strokes before the network sees them; videos never. auto: as its config.json says."""

    stroke_size: float = 1.0
    """Relative stroke width: 2 is broader, 0.5 finer. Strokes follow the size of pictures larger than 640 px."""

    mask: Annotated[str | None, default_is("paint everything", "FILE")] = None
    """White areas are painted, black ones keep the photograph, gray is between; for all pictures and frames."""

    keep: Annotated[Keep | None, default_is("nothing", "{faces}")] = None
    """Keep the photograph where faces are found (extra `faces`); not in videos."""

    size: Annotated[int | None, default_is("full size", "INT")] = None
    """First shrink pictures whose longer side exceeds this many pixels; the results keep the reduced size."""

    format: Annotated[Format | None, default_is("that of the input", "{jpg,png,webp,tiff,bmp,avif}")] = None
    """Output format of pictures. HEIC (extra `heic`) becomes jpg, GIF becomes png."""

    smoothing: float = 0.98
    """Videos: decay of the normalization statistics over frames; high values reduce flicker, 0 disables smoothing."""

    tile: Annotated[int | None, default_is("256, or none for small pictures", "INT")] = None
    """Side of the tiles in which large pictures are processed, in pixels. Video frames are never tiled."""

    sheet: bool = False
    """Also write sheet.jpg (NAME-sheet.jpg for a single file) with each picture before and after."""

    overwrite: bool = False
    """Replace existing output. Inputs are never replaced."""

    json: bool = False
    """Print a line of JSON for each picture: input, output, seconds, width and height; or input and error."""

    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:N."""

    threads: Annotated[int | None, THREADS] = None
    """CPU threads."""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("no input: give a picture, a folder or a video, such as photo.jpg, before the options")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"--strength must be in [0, 1], got {self.strength}")
        least, largest = STROKE_SIZES
        if not least <= self.stroke_size <= largest:
            raise ValueError(f"--stroke-size must be in [{least:g}, {largest:g}], got {self.stroke_size}")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"--smoothing must be in [0, 1), got {self.smoothing}")
        check_at_least(self, 1, "size", "threads")
        check_at_least(self, 64, "tile")


Hidden: Any = tyro.conf.Suppress
"""Marks a field without a flag, for presets and Python."""


def hidden(options: type) -> set[str]:
    """Names of the options that have no flag."""
    hints = get_type_hints(options, include_extras=True)
    return {name for name, hint in hints.items() if Hidden in getattr(hint, "__metadata__", ())}


@dataclass(frozen=True)
class TrainingData:
    """Pictures and how they are cropped."""

    dataroot: str
    """Folder with the pictures."""

    load_size: int = 286
    """Resize pictures so that the shorter side has this many pixels, before cropping."""

    crop_size: Annotated[int, also("--image-size")] = 256
    """Side of the square training crops in pixels, a multiple of 4."""

    batch_size: int = 1
    """Pictures per step, in each process."""

    num_workers: Annotated[int, also("--num-threads")] = 4
    """Data loading processes, at most one per core; 0 loads in the training process."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "batch_size", "load_size", "crop_size")
        check_at_least(self, 0, "num_workers")
        if self.load_size < self.crop_size:
            raise ValueError(
                f"--load-size {self.load_size} is smaller than --crop-size {self.crop_size}; "
                f"try --load-size {round(self.crop_size * 286 / 256)}"
            )

    def check_crop_size(self, smallest: int, given: str) -> None:
        """Refuse sides that are no multiple of 4 or less than `smallest`; the message says what is `given`."""
        if self.crop_size % 4 or self.crop_size < smallest:
            raise ValueError(
                f"--crop-size {self.crop_size}: expected a multiple of 4, at least {smallest} with {given}"
            )


@dataclass(frozen=True)
class Schedule:
    """Length of the run and learning rate."""

    n_epochs: int = 100
    """Epochs at the full learning rate."""

    n_epochs_decay: int = 100
    """Further epochs over which the learning rate decays to zero."""

    max_steps: Annotated[int | None, default_is("no limit", "INT")] = None
    """Stop after N steps even if epochs remain; the learning rate decays to zero by then."""

    max_minutes: Annotated[float | None, default_is("no limit", "FLOAT")] = None
    """Stop after N minutes even if epochs remain; the learning rate decays to zero by then."""

    lr: float = 2e-4
    """Learning rate."""

    lr_policy: Literal["linear", "cosine", "constant"] = "linear"
    """Learning rate schedule. With constant, extending a run does not raise the rate again."""

    ema_decay: float = 0.999
    """Decay of the exponential moving average of the weights. The averaged weights are saved; 0 disables averaging."""

    seed: int = 0
    """Seed of all random numbers in training. The same seed gives the same run on the same machine."""

    def __post_init__(self) -> None:
        check_at_least(self, 0, "n_epochs", "n_epochs_decay", "seed")
        check_positive(self, "max_steps", "max_minutes", "lr")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"--ema-decay must be in [0, 1), got {self.ema_decay}")
        if self.n_epochs + self.n_epochs_decay == 0:
            raise ValueError("--n-epochs and --n-epochs-decay are both 0: nothing to train")


@dataclass(frozen=True)
class Machine:
    """Device, threads and precision."""

    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:N."""

    threads: Annotated[int | None, THREADS] = None
    """CPU threads."""

    amp: Switch = "auto"
    """Mixed precision (bfloat16). auto enables it on Ampere or newer GPUs and on CPUs with AMX."""

    compile: bool = False
    """Compile the networks with torch.compile, for GPUs: startup takes minutes, and CPUs with AVX2 get slower."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "threads")


@dataclass(frozen=True)
class Output:
    """Logs and copies. The run is saved after every epoch and every ten minutes."""

    print_freq: int = 50
    """Steps between log lines."""

    save_epoch_freq: int = 20
    """Save a copy of the run to epochs/ every N epochs, for comparison or rollback; 0 disables it."""

    wandb: Annotated[bool, also("--use-wandb")] = False
    """Log to Weights & Biases, which reads WANDB_PROJECT, WANDB_ENTITY and WANDB_MODE from the environment."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "print_freq")
        check_at_least(self, 0, "save_epoch_freq")


@dataclass(frozen=True, kw_only=True)
class RunName:
    """Which run: all that must be known to find the defaults of all other options."""

    preset: Literal["paper", "paint"] = "paper"
    """Defaults of all other options. paper: as published; paint: what paints best within hours on a CPU."""

    name: str = "experiment_name"
    """Name of the run. In a W&B sweep, the default is the id of the trial."""

    checkpoints_dir: Path = Path("checkpoints")
    """Folder that holds all runs."""

    resume: Annotated[bool, also("--continue-train")] = False
    """Resume the run from last.pt. Omitted options keep their saved values."""

    def __post_init__(self) -> None:
        if not self.name or self.name in (".", "..") or any(c in self.name for c in "/\\\0"):
            raise ValueError(f"--name {self.name!r}: expected the name of a folder")


@dataclass(frozen=True, kw_only=True)
class RunConfig(RunName):
    """Options of training commands, in groups."""

    data: TrainingData
    schedule: Schedule = field(default_factory=Schedule)
    machine: Machine = field(default_factory=Machine)
    output: Output = field(default_factory=Output)

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}, "paint": {}}
    """What each preset changes, by the names of the options without their groups."""

    RENAMED: ClassVar[Mapping[str, str]] = {}
    """Names of options in earlier versions, and those of today."""

    PROJECT: ClassVar[str] = "image-translation"
    """Default project in Weights & Biases."""

    @classmethod
    def from_preset(cls, preset: str, **given: Any) -> Self:
        """The options of a preset, except for those given, by the names of the options without their groups."""
        if preset not in cls.PRESETS:
            raise ValueError(f"--preset {preset}: expected {' or '.join(cls.PRESETS)}")
        options = _build(cls, {"preset": preset, **cls.PRESETS[preset], **given})
        if unknown := sorted(given.keys() - flatten(options.plain()).keys() - {"resume"}):
            raise TypeError(f"{cls.__name__} has no option {', '.join(unknown)}")
        return options

    @classmethod
    def read_saved(cls, saved: Mapping[str, Any]) -> dict[str, Any]:
        """Saved options without their groups, under the names of this version."""
        values = flatten(saved)
        return values | {new: values[old] for old, new in cls.RENAMED.items() if old in values}

    def plain(self) -> dict[str, Any]:
        """The options as JSON values in their groups, without `resume`, which is no property of the run."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        del plain["resume"]
        return plain

    def differences(self, saved: Mapping[str, Any], *names: str) -> list[str]:
        """Options that differ from saved ones, as text: of all, or of those named."""
        now = flatten(self.plain())
        # Options that are newer than the saved ones had their defaults.
        before = flatten(_build(type(self), {}).plain()) | self.read_saved(saved)
        return [
            f"{_flag(key)} {_shown(now[key])} (was {_shown(before[key])})"
            for key in names or now
            if before[key] != now[key]
        ]


def flatten(options: Mapping[str, Any]) -> dict[str, Any]:
    """Saved options without their groups. Earlier versions saved them without groups."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= flatten(value) if isinstance(value, dict) else {name: value}
    return flat


def nest(options: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Options in the groups of a dataclass; unknown names are left out."""
    types, nested = get_type_hints(options), dict[str, Any]()
    for f in dataclasses.fields(options):
        if dataclasses.is_dataclass(types[f.name]):
            nested[f.name] = nest(types[f.name], values)
        elif f.name in values:
            nested[f.name] = values[f.name]
    return nested


def _build(options: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass with groups from values without groups; the command line asks for what is MISSING."""
    types, given = get_type_hints(options), dict[str, Any]()
    for f in dataclasses.fields(options):  # type: ignore[arg-type]
        if dataclasses.is_dataclass(types[f.name]):
            given[f.name] = _build(types[f.name], values)
        elif f.name in values:
            given[f.name] = values[f.name]
        elif f.default is dataclasses.MISSING:
            given[f.name] = tyro.MISSING
    return options(**given)


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


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of commands that measure a network."""

    dataroot: str
    """Folder with the pictures."""

    output: Annotated[Path, also("-o")] = Path("evaluation.json")
    """JSON file with all metrics; replaced if it exists."""

    size: Annotated[int | None, default_is("full size", "INT")] = None
    """First shrink pictures whose longer side exceeds this many pixels, real ones too."""

    max_dataset_size: Annotated[int | None, default_is("all", "INT")] = None
    """Use only the first N pictures of each collection, sorted by name."""

    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:N."""

    threads: Annotated[int | None, THREADS] = None
    """CPU threads."""

    def __post_init__(self) -> None:
        check_at_least(self, 16, "size")
        check_at_least(self, 1, "max_dataset_size", "threads")
        if self.output.suffix != ".json":
            raise ValueError(f"--output {self.output}: expected a .json file")
