"""The options of every command: defaults, types, help, and what contradicts what. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

Switch = Literal["auto", "on", "off"]


def _also(*names: str) -> object:
    """Names that users know from the authors' code, as further names of a flag."""
    return tyro.conf.arg(aliases=names)


@dataclass(frozen=True)
class TrainConfig:
    """Train two generators, G: X -> Y and F: Y -> X, on two folders of unpaired pictures.

    X is DATAROOT/trainA, Y is DATAROOT/trainB. The run is kept in CHECKPOINTS_DIR/NAME: the last state (last.pt), the
    generators (G/, F/), the same validation pictures after every epoch (samples/) and the losses (metrics.jsonl,
    losses.png). Ctrl-C saves and stops; --resume goes on, exactly.
    """

    dataroot: str
    """Folder with trainA and trainB (or train_A and train_B, or A/train and B/train), and perhaps testA and testB."""

    name: str = "experiment_name"
    """Name of the run; in a sweep, its id there."""

    checkpoints_dir: Path = Path("checkpoints")
    """Folder of all runs."""

    resume: Annotated[bool, _also("--continue-train")] = False
    """Go on from last.pt of this run; options that are not given again are those of the run."""

    # The networks.
    ngf: int = 64
    """Channels of the generators' first convolution."""

    ndf: int = 64
    """Channels of the discriminators' first convolution."""

    n_blocks: int = 9
    """Residual blocks of the generators; the paper has 6 for 128 px pictures, 9 for larger ones."""

    n_layers_d: Annotated[int, _also("--n-layers-D")] = 3
    """Convolutions with stride 2 of the discriminators; 3 judges patches of 70 x 70 px."""

    upsample: Literal["resize", "transposed"] = "resize"
    """How generators enlarge: `resize` leaves no checkerboard, `transposed` is the published layer."""

    dropout: bool = False
    """Dropout(0.5) in the residual blocks."""

    # The objective.
    gan_loss: Annotated[Literal["lsgan", "vanilla"], _also("--gan-mode")] = "lsgan"
    """Adversarial loss: least squares (the paper's choice) or the original log-likelihood."""

    lambda_x: Annotated[float, _also("--lambda-A")] = 10.0
    """Weight of the cycle loss X -> Y -> X, for pictures in [-1, 1]."""

    lambda_y: Annotated[float, _also("--lambda-B")] = 10.0
    """Weight of the cycle loss Y -> X -> Y."""

    lambda_identity: float = 0.5
    """Weight of the identity loss, relative to the cycle loss; 0 leaves it out. It keeps the colours of photographs."""

    pool_size: int = 50
    """Past fakes that each discriminator is shown again; 0 for none."""

    # The data.
    load_size: int = 286
    """Shorter side that pictures are resized to before they are cropped, in pixels."""

    crop_size: int = 256
    """Side of the random square that is cut out for training, in pixels; a multiple of 4."""

    augment: str = "paper"
    """none (resize, centre crop), paper (resize, random crop, flip), strong (colour and geometry for X, geometry alone
    for Y), or a FILE (.json, .yaml): an albumentations pipeline saved by `albumentations.save`."""

    serial_batches: bool = False
    """Take both collections in order, instead of shuffled X and random Y."""

    max_dataset_size: int | None = None
    """Use only so many pictures of each collection: the first of the sorted names."""

    cache: Switch = "auto"
    """Keep decoded pictures in memory; auto: if they take less than a quarter of what is free."""

    num_workers: Annotated[int, _also("--num-threads")] = 4
    """Processes that prepare pictures, at most as many as there are cores; 0 prepares them in the training process."""

    batch_size: int = 1
    """Pictures of each collection per step and per process."""

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

    beta1: float = 0.5
    """First beta of Adam; the second is 0.999."""

    ema_decay: float = 0.999
    """Share that the averaged generators, which are the ones to use, keep at each step; 0 turns averaging off."""

    seed: int = 0
    """Of everything random: weights, order, crops, pools. The same seed gives the same run on the same machine."""

    # The machine.
    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:N."""

    amp: Switch = "auto"
    """bfloat16 where it is safe; auto: where the hardware is made for it (CUDA from Ampere on, CPUs with AMX)."""

    compile: bool = False
    """torch.compile the networks: minutes to start, faster steps after that."""

    # What is written.
    print_freq: int = 50
    """Steps between two lines of the log."""

    save_latest_freq: int = 5000
    """Steps between checkpoints within an epoch; there is always one after each epoch; 0 for no others."""

    save_epoch_freq: int = 5
    """Epochs between copies of G and F that are kept (in epochs/0005 ...) and uploaded (with --wandb); 0 for none."""

    n_samples: int = 4
    """Validation pictures of each collection, translated after every epoch: from testA and testB if there are any."""

    wandb: Annotated[bool, _also("--use-wandb")] = False
    """Show the run in Weights & Biases as well."""

    wandb_project: Annotated[str, _also("--wandb-project-name")] = "cyclegan"
    """Its project there."""

    wandb_entity: str | None = None
    """Its user or team there."""

    wandb_mode: Literal["online", "offline"] = "online"
    """offline writes to CHECKPOINTS_DIR/NAME/wandb, for `wandb sync` later."""

    def __post_init__(self) -> None:
        def check(condition: bool, message: str) -> None:
            if not condition:
                raise ValueError(message)

        if not self.name or self.name in (".", "..") or any(c in self.name for c in "/\\\0"):
            raise ValueError(f"--name {self.name!r}: expected the name of one folder")
        for flag in ("ngf", "ndf", "n_layers_d", "batch_size", "print_freq", "load_size", "crop_size"):
            value = getattr(self, flag)
            check(value >= 1, f"--{flag.replace('_', '-')} must be at least 1, got {value}")
        for flag in (
            "n_blocks",
            "pool_size",
            "num_workers",
            "n_epochs",
            "n_epochs_decay",
            "n_samples",
            "seed",
            "save_latest_freq",
            "save_epoch_freq",
        ):
            value = getattr(self, flag)
            check(value >= 0, f"--{flag.replace('_', '-')} must not be negative, got {value}")
        for flag in ("lambda_x", "lambda_y", "lambda_identity"):
            value = getattr(self, flag)
            check(0 <= value < float("inf"), f"--{flag.replace('_', '-')} must be 0 or more, got {value}")
        for flag in ("max_steps", "max_minutes", "max_dataset_size"):
            value = getattr(self, flag)
            check(value is None or value > 0, f"--{flag.replace('_', '-')} must be more than 0, got {value}")
        check(self.lr > 0, f"--lr must be more than 0, got {self.lr}")
        check(0 <= self.beta1 < 1, f"--beta1 must lie in [0, 1), got {self.beta1}")
        check(0 <= self.ema_decay < 1, f"--ema-decay must lie in [0, 1), got {self.ema_decay}")
        check(self.n_epochs + self.n_epochs_decay > 0, "--n-epochs and --n-epochs-decay are both 0: nothing to train")
        check(
            self.load_size >= self.crop_size,
            f"--load-size {self.load_size} is below --crop-size {self.crop_size}: a crop cannot be larger than the "
            f"picture; try --load-size {round(self.crop_size * 286 / 256)}",
        )
        smallest = max(16, 2 ** (self.n_layers_d + 2))
        check(
            self.crop_size % 4 == 0 and self.crop_size >= smallest,
            f"--crop-size {self.crop_size}: expected a multiple of 4, at least {smallest} "
            f"with --n-layers-d {self.n_layers_d}",
        )


@dataclass(frozen=True)
class TranslateConfig:
    """Translate photographs, or whole folders of them, with a trained generator. Sizes stay as they are."""

    inputs: tyro.conf.Positional[tuple[str, ...]]
    """Pictures and folders; folders are searched for pictures, and their structure is kept."""

    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("out")
    """A folder; or, for a single picture, a file."""

    weights: Annotated[str | None, tyro.conf.arg(aliases=("-w",))] = None
    """A shipped network (see `cyclegan weights`), a folder with config.json and model.safetensors, a training run, an
    official .pth file, or a Hugging Face Hub id. Default: landscape2vangogh; with --direction y2x vangogh2landscape."""

    direction: Literal["x2y", "y2x", "AtoB", "BtoA"] = "x2y"
    """Of a training run: x2y takes G, y2x takes F."""

    size: int | None = None
    """Shrink pictures to this longer side first, in pixels. Brush strokes have a fixed size in pixels, so a smaller
    picture is painted in broader strokes."""

    format: Literal["jpg", "png", "webp", "tiff", "bmp", "avif"] | None = None
    """Format of the output; default: that of the input."""

    sheet: bool = False
    """Also write sheet.jpg (NAME-sheet.jpg for a single file): each picture beside its translation."""

    overwrite: bool = False
    """Replace output that is there already. Input is never replaced."""

    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:N."""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("nothing to translate: give a picture or a folder, as in `cyclegan translate photo.jpg`")
        if self.size is not None and self.size < 1:
            raise ValueError(f"--size must be at least 1, got {self.size}")
